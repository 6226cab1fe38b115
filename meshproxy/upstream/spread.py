"""
How traffic is spread over priorities and zones: the arithmetic, without objects.

The laws it keeps, Envoy's (docs, "Priority levels", "Panic threshold", "Zone aware routing"):

- The health of a priority is the share of its endpoints that are well, times the
  overprovisioning factor, at most 1. Priorities are loaded in order, each as far as its health
  goes; when all together have less than 1, in proportion to their health.
- Only while all together have less than 1, a priority of whose endpoints less than the panic
  threshold are well panics: its endpoints are used whether they are well or not. When every
  priority panics, they are loaded by how many endpoints they have.

It differs from Envoy on purpose in one thing: an endpoint under an open breaker is not used in a
panic either, so a priority that has none to use gets no load, and the others share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Sums of shares that are 1 but for rounding.
_NEARLY = 1.0 - 1e-9


class Level(NamedTuple):
    """
    How many endpoints a priority has; ``well``: which may be used; ``closed``: in a panic.

    ``well`` ≤ ``closed`` ≤ ``total``.
    """

    total: int
    well: int
    closed: int


class Loads(NamedTuple):
    """
    For each priority its share of the traffic and whether it panics.

    The shares' sum is 1, or 0 when no endpoint may be used.
    """

    shares: list[float]
    panics: list[bool]


def health(well: int, total: int, overprovisioning: float) -> float:
    """How much of the whole traffic these endpoints can take: 0 to 1."""
    return min(1.0, overprovisioning * well / total) if total else 0.0


def priority_loads(
    levels: Sequence[Level], overprovisioning: float, panic_threshold: float
) -> Loads:
    """
    The load of each priority, first to last.

    ``overprovisioning`` is a factor (1.4), ``panic_threshold`` in percent; 0 for no panic.
    """
    healths = [health(level.well, level.total, overprovisioning) for level in levels]
    together = min(1.0, sum(healths))
    panics = [False] * len(levels)
    if together < _NEARLY:
        panics = [
            100.0 * level.well < panic_threshold * level.total or not level.total
            for level in levels
        ]
        if panic_threshold and all(panics):
            return Loads(_normalized([float(level.closed) for level in levels]), panics)
    left = 1.0
    shares = []
    for share in healths:
        load = min(left, share / together) if share else 0.0
        shares.append(load)
        left -= load
    return Loads(_normalized(shares), panics)


def _normalized(shares: list[float]) -> list[float]:
    total = sum(shares)
    return [share / total for share in shares] if total else shares


def local_share(local: Level, others_well: int, overprovisioning: float) -> float:
    """
    Which part of a priority's traffic stays in the proxy's own zone: 0 to 1.

    All of it while enough of the zone's endpoints are well; what their health lacks goes to the
    others, as long as there are any.
    """
    if not local.well:
        return 0.0
    if not others_well:
        return 1.0
    return health(local.well, local.total, overprovisioning)


def ramp(elapsed: float, window: float, aggression: float, least: float) -> float:
    """
    The part of its weight that an endpoint has in slow start, ``elapsed`` seconds after it came.

    Envoy's formula: (elapsed / window) ^ (1 / aggression), at least ``least`` (a share), at most 1.
    """
    if elapsed >= window:
        return 1.0
    part: float = (max(elapsed, 0.0) / window) ** (1.0 / aggression)
    return max(least, part)

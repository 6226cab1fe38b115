"""
The endpoints that a route chooses from: all of a cluster, or those with certain labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meshproxy.upstream.balancer import BALANCERS
from meshproxy.upstream.endpoint import CLOSED, Endpoint

if TYPE_CHECKING:
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.limits import Limits


def _nobody() -> None:
    return None


class Group:
    """
    A choice among endpoints, with the limits that count for who chooses.

    ``pick()`` returns an endpoint or None; it is an attribute, replaced whenever the endpoints
    change, so ask the group for it each time. ``pick_by(number)`` is the same for a hash.
    """

    __slots__ = ("by_hash", "cluster", "labels", "limits", "pick", "pick_by")

    def __init__(self, cluster: Cluster, labels: dict[str, str], limits: Limits) -> None:
        self.cluster = cluster
        self.labels = labels
        #: Whether the cluster balances by hash, so that ``pick_by`` differs from ``pick``.
        self.by_hash: bool = cluster.config.balance in ("ring_hash", "maglev")
        self.limits = limits
        self.pick: Callable[[], Endpoint | None] = _nobody
        self.pick_by: Callable[[int], Endpoint | None] = lambda number: self.pick()
        self.refresh()

    def refresh(self) -> None:
        """The endpoints, or what is known of them, changed."""
        well = [e for e in self.cluster.endpoints if e.healthy and e.breaker == CLOSED]
        self.pick = BALANCERS["round_robin"](well).pick if well else _nobody

    def pick_other(self, tried: Sequence[Endpoint], number: int | None = None) -> Endpoint | None:
        """As ``pick``, or ``pick_by`` with a number; none of ``tried`` while there are others."""
        for _ in range(5):
            endpoint = self.pick()
            if endpoint not in tried:
                return endpoint
        return endpoint

    def full(self) -> bool:
        """Whether, when ``pick`` gave None, an endpoint was well but had enough."""
        return False

    def holds(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has the labels that are asked for (sticky cookies ask)."""
        held = endpoint.spec.labels
        return all(held.get(key) == value for key, value in self.labels.items())

"""
Counters, gauges and histograms as slots of one list.

The laws it keeps:

- A hot path does ``values[slot] += 1`` on :attr:`Registry.values` and nothing else. The list only
  grows and is never replaced, so that it and a slot may be kept for ever.
- One name has one kind and one set of label names, and the help text it was first asked for with;
  one name with the same label values is one slot, however often it is asked for (a reload asks
  again).
- The slots asked for in one call are contiguous: a group costs its user one number, the base.
- A histogram's slots are its buckets, each counting what is *at most* its bound and more than the
  bound before, then the overflow, then the sum. Its count is the sum of its buckets: it cannot
  disagree with them.
- A snapshot is a fixed head and one IEEE double a slot. Two processes that asked for the same
  things in the same order have the same layout, and their snapshots can be summed; snapshots of
  different layouts are refused, and one that is being written is told from a whole one.

Names are those of Prometheus (https://prometheus.io/docs/concepts/data_model/), refused where its
exposition formats would be ambiguous.
"""

from __future__ import annotations

import itertools
import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

#: Seconds. Envoy's are decades from 0.5 ms to an hour; these are fewer, and denser below a second.
DURATION_BOUNDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*").fullmatch
_RESERVED = ("_bucket", "_sum", "_count", "_created", "_info")

# sequence (odd while being written), fingerprint of the layout, number of slots
_HEAD = struct.Struct("=QQQ")
_SEQUENCE = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    Where a histogram lives.

    ``values[base + bisect_left(bounds, x)] += 1; values[sum_slot] += x`` counts ``x``.
    """

    base: int
    bounds: tuple[float, ...]
    sum_slot: int

    def observe(self, values: list[float], x: float) -> None:
        """Count ``x``: what a hot path writes out for itself."""
        values[self.base + bisect_left(self.bounds, x)] += 1
        values[self.sum_slot] += x


@dataclass(slots=True)
class Family:
    """
    All series of one name.

    ``series`` maps label values, in the order of ``label_names``, to the first slot.
    """

    name: str
    kind: Kind
    help: str
    label_names: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    series: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """How many slots a series has."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


class Registry:
    """Every number that the proxy keeps. The module's docstring says what holds."""

    __slots__ = ("_families", "_fingerprint", "_readers", "values")

    def __init__(self) -> None:
        #: The slots. Increment its items; never add, remove or replace any of them.
        self.values: list[float] = []
        self._families: dict[str, Family] = {}
        self._readers: dict[int, Callable[[], float]] = {}
        self._fingerprint: int | None = None

    # Asking for slots.

    def counter(self, name: str, help: str, labels: Mapping[str, str]) -> int:  # noqa: A002
        """
        The slot of a number that only grows; ``name`` ends in ``_total``.

        Raises ``ValueError`` for a bad name and for a name known with another kind or other labels.
        """
        return self.block("counter", [(name, help)], labels)

    def gauge(self, name: str, help: str, labels: Mapping[str, str]) -> int:  # noqa: A002
        """The slot of a number that goes up and down. Raises as :meth:`counter`."""
        return self.block("gauge", [(name, help)], labels)

    def sample(
        self,
        name: str,
        help: str,  # noqa: A002
        labels: Mapping[str, str],
        read: Callable[[], float],
    ) -> int:
        """
        The slot of a gauge that ``read`` fills whenever the numbers are looked at.

        For what somebody counts anyway, such as an endpoint's requests in flight: it costs the hot
        path nothing. Asked again, the new ``read`` takes the old one's place. Raises as
        :meth:`counter`; what ``read`` raises reaches whoever looks.
        """
        slot = self.gauge(name, help, labels)
        self._readers[slot] = read
        return slot

    def block(
        self,
        kind: Literal["counter", "gauge"],
        names: Sequence[tuple[str, str]],
        labels: Mapping[str, str],
    ) -> int:
        """
        Contiguous slots for (name, help) pairs of one kind under the same labels: the first one.

        Raises ``ValueError`` as :meth:`counter`, and when some of the names exist under these
        labels but not all of them at contiguous slots in this order.
        """
        key = tuple(labels.values())
        families = [self._family(name, kind, help_, tuple(labels), ()) for name, help_ in names]
        return self._place([(family, key) for family in families])

    def vector(
        self,
        kind: Literal["counter", "gauge"],
        name: str,
        help: str,  # noqa: A002
        labels: Mapping[str, str],
        label: str,
        values: Sequence[str],
    ) -> int:
        """
        Contiguous slots for one name over several values of one more label: the first one.

        ``vector("counter", …, "class", ["1xx", "2xx", "3xx", "4xx", "5xx"])`` is counted by
        ``values[base + status // 100 - 1] += 1``. Raises as :meth:`block`.
        """
        family = self._family(name, kind, help, (*labels, label), ())
        key = tuple(labels.values())
        return self._place([(family, (*key, value)) for value in values])

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        bounds: Sequence[float],
        labels: Mapping[str, str],
    ) -> Histogram:
        """
        The slots of a histogram with these upper bounds, the infinite one left out.

        Raises ``ValueError`` as :meth:`counter`, and for bounds that are not finite and growing.
        """
        bounds = tuple(map(float, bounds))
        if not bounds or any(not low < high for low, high in itertools.pairwise(bounds)):
            raise ValueError(f"{name}: the bounds of a histogram must grow")
        if not float("-inf") < bounds[0] <= bounds[-1] < float("inf"):
            raise ValueError(f"{name}: the bounds of a histogram must be finite")
        family = self._family(name, "histogram", help, tuple(labels), bounds)
        base = self._place([(family, tuple(labels.values()))])
        return Histogram(base, bounds, base + len(bounds) + 1)

    def _family(
        self,
        name: str,
        kind: Kind,
        help_: str,
        label_names: tuple[str, ...],
        bounds: tuple[float, ...],
    ) -> Family:
        """The family of that name, which is new or was asked for in the same words before."""
        known = self._families.get(name)
        if known is not None:
            asked = Family(name, kind, known.help, label_names, bounds, known.series)
            if asked != known:
                raise ValueError(f"{name} is known already as {_words(known)}, not {_words(asked)}")
            return known
        if _NAME(name) is None:
            raise ValueError(f"{name!r} is not a name that Prometheus takes")
        if name.endswith(_RESERVED):
            raise ValueError(f"{name}: this ending belongs to what a histogram is made of")
        if name.endswith("_total") != (kind == "counter"):
            raise ValueError(f"{name}: counters end in _total, nothing else does")
        stem = name.removesuffix("_total")
        for other in self._families:
            if other.removesuffix("_total") == stem:
                raise ValueError(f"{name} cannot be told from {other}")
        for label in label_names:
            if _NAME(label) is None or label.startswith("__") or label in ("le", "quantile"):
                raise ValueError(f"{name}: {label!r} cannot be the name of a label")
        if len(set(label_names)) != len(label_names):
            raise ValueError(f"{name}: the same label twice")
        return Family(name, kind, help_, label_names, bounds)

    def _place(self, asked: list[tuple[Family, tuple[str, ...]]]) -> int:
        """The first slot of these series, made or found together. Adds new families."""
        if not asked:
            raise ValueError("no slots were asked for")
        if len({(family.name, key) for family, key in asked}) != len(asked):
            raise ValueError(f"{asked[0][0].name}: the same series twice")
        known = [family.series.get(key) for family, key in asked]
        base = len(self.values) if known[0] is None else known[0]
        expected: list[int] = []
        total = 0
        for family, _ in asked:
            expected.append(base + total)
            total += family.width
        if known == expected:
            return base
        if any(slot is not None for slot in known):
            raise ValueError(
                f"{asked[0][0].name}: some of these series exist, but not as this block"
            )
        for (family, key), slot in zip(asked, expected, strict=True):
            self._families.setdefault(family.name, family).series[key] = slot
            # Counts start as int: adding to one is cheaper than to a float.
            self.values += [0] * family.width
            if family.kind == "histogram":
                self.values[-1] = 0.0
        self._fingerprint = None
        return base

    # Looking.

    @property
    def families(self) -> Iterator[Family]:
        """Every family, in the order in which they were first asked for."""
        return iter(self._families.values())

    def refresh(self) -> None:
        """Fill the slots of :meth:`sample`; whoever reads ``values`` calls this first."""
        values = self.values
        for slot, read in self._readers.items():
            values[slot] = read()

    # Sharing.

    @property
    def fingerprint(self) -> int:
        """64 bits that two registries share only when their slots mean the same."""
        if self._fingerprint is None:
            digest = blake2b(digest_size=8)
            for family in self._families.values():
                words = (family.name, family.kind, family.label_names, family.bounds)
                digest.update(repr((words, list(family.series.items()))).encode())
            self._fingerprint = int.from_bytes(digest.digest(), "big")
        return self._fingerprint

    @property
    def size(self) -> int:
        """Bytes that :meth:`snapshot` writes."""
        return _HEAD.size + 8 * len(self.values)

    def snapshot(self, buffer: memoryview) -> None:
        """
        Copy all slots into ``buffer``, of bytes, such as a shared memory map.

        Raises ``ValueError`` when it is smaller than :attr:`size`. One writer a buffer.
        """
        size = self.size
        if len(buffer) < size:
            raise ValueError(f"a snapshot takes {size} bytes, not {len(buffer)}")
        self.refresh()
        values = self.values
        count = len(values)
        body = struct.pack(f"={count}d", *values)
        sequence = _SEQUENCE.unpack_from(buffer)[0] | 1
        _SEQUENCE.pack_into(buffer, 0, sequence)
        buffer[_HEAD.size : size] = body
        _HEAD.pack_into(buffer, 0, sequence, self.fingerprint, count)
        _SEQUENCE.pack_into(buffer, 0, (sequence + 1) % 2**64)

    def sum_into(self, totals: list[float], buffer: memoryview) -> bool:
        """
        Add the snapshot in ``buffer`` to ``totals``, which has a number for each slot.

        False, and nothing added, when the snapshot was being written: try again. Raises
        ``ValueError`` when it has another layout than this registry, or was never written.
        """
        count = len(self.values)
        if len(totals) != count:
            raise ValueError(f"{count} totals are needed, not {len(totals)}")
        if len(buffer) < _HEAD.size:
            raise ValueError("too short for a snapshot")
        sequence, fingerprint, written = _HEAD.unpack_from(buffer)
        if sequence % 2:
            return False
        if (fingerprint, written) != (self.fingerprint, count) or len(buffer) < self.size:
            raise ValueError("the snapshot has another layout")
        values = struct.unpack_from(f"={count}d", buffer, _HEAD.size)
        if _SEQUENCE.unpack_from(buffer)[0] != sequence:
            return False
        totals[:] = map(float.__add__, map(float, totals), values)
        return True


def _words(family: Family) -> str:
    labels = ",".join(family.label_names)
    return f"{family.kind} {{{labels}}} {family.bounds or ''}".rstrip()

"""
How often something may happen: the generic cell rate algorithm (GCRA), by arithmetic alone.

The law it keeps: in any stretch of ``t`` seconds a key is allowed at most ``burst + rate * t``
(to a millionth of one), whatever else happens. A table that is full forgets only buckets that are
full again, so that nobody is given a new bucket by crowding others, or himself, out.

A bucket is one number, the time at which it would be full again (GCRA's theoretical arrival time,
TAT): no timers, nothing to refill, nothing to do for a key that does not come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from zope.interface import implementer

from meshproxy.interfaces import IRateStore

__all__ = ["KEYS", "GcraTable", "Rate", "Taken"]

KEYS = 100_000
"""How many keys a table holds unless told otherwise."""

FASTEST = 1_000_000.0
"""The highest rate, a second: above, a clock that counts from 1970 is too coarse for a double."""

Taken = tuple[bool, float, float, float]
"""Allowed; what remains; seconds until the bucket is full; seconds until it would be allowed."""

# What is forgiven in comparisons, in units of one: 3 * 0.1 is more than 0.3.
_SLACK = 1e-6

# Slots that a new key looks at when the table is full. A whole turn takes KEYS / 8 new keys.
_LOOKS = 8


class Rate:
    """
    ``limit`` in ``period`` seconds on the long run, and ``burst`` at once.

    ``interval`` is the seconds that one takes to come back, ``tolerance`` those that an empty
    bucket takes to be full. Raises ``ValueError`` for numbers that are not positive, a burst below
    1, and more than a million a second.
    """

    __slots__ = ("_line", "burst", "interval", "limit", "period", "tolerance")

    def __init__(self, limit: float, period: float, burst: float | None = None) -> None:
        if not (0 < limit < math.inf and 0 < period < math.inf):
            raise ValueError(f"a rate is positive, unlike {limit} in {period} seconds")
        if limit / period > FASTEST:
            raise ValueError(f"a rate is at most {FASTEST:.0f} a second")
        burst = limit if burst is None else burst
        if not 1 <= burst < math.inf:
            raise ValueError(f"a burst is 1 at least, not {burst}")
        self.limit = limit
        self.period = period
        self.burst = burst
        self.interval = period / limit
        self.tolerance = burst * self.interval
        # How far ahead of now a TAT may come.
        self._line = self.tolerance + _SLACK * self.interval

    def __repr__(self) -> str:
        return f"Rate({self.limit!r}, {self.period!r}, {self.burst!r})"

    def take(self, tat: float, cost: float, now: float) -> tuple[float, Taken]:
        """
        Take ``cost`` at ``now`` from a bucket that would be full at ``tat``.

        Returns the new TAT and the answer. A cost over the burst is never allowed, and its wait
        is infinite; a negative one gives back. A clock that was set back empties a bucket at
        most: it does not lock it for longer than that takes to fill.
        """
        interval = self.interval
        ahead = tat - now
        if ahead < 0.0:
            ahead = 0.0
        ahead += cost * interval
        if ahead > self._line:
            return self._refuse(tat, cost, now)
        if ahead < 0.0:
            ahead = 0.0
        return now + ahead, (True, (self.tolerance - ahead) / interval, ahead, 0.0)

    def _refuse(self, tat: float, cost: float, now: float) -> tuple[float, Taken]:
        ahead = min(max(tat - now, 0.0), self._line)
        wait = ahead + cost * self.interval - self.tolerance if cost <= self.burst else math.inf
        return now + ahead, (False, (self.tolerance - ahead) / self.interval, ahead, wait)


@implementer(IRateStore)
class GcraTable:
    """
    Buckets by key, in this process, ``keys`` of them at most; O(1) for every call.

    ``now`` may be of any one clock. A key belongs to one rate: who limits the same client twice
    puts the limit into the key, or has two tables.

    Memory: up to 110 bytes a key (a double, its place in a dictionary and in a list) beside the
    key's own, so 18 MB for 100,000 keys of 40 bytes. Places are used again and not given back.

    When all places are taken, a new key gets that of a bucket that is full again, which a hand
    going round looks for, ``8`` places a time. Where it finds none, ``full`` decides: ``"share"``
    lets the new keys of a rate share one bucket, ``"refuse"`` refuses them for now. A key that
    gets a place later has no more there than the shared bucket has left, since it may have taken
    that itself. ``crowded`` counts the calls that found no place, and each calls ``on_crowded``.
    """

    __slots__ = (
        "_hand",
        "_keys",
        "_places",
        "_shared",
        "_sharing",
        "_tats",
        "crowded",
        "on_crowded",
    )

    def __init__(self, keys: int = KEYS, full: Literal["share", "refuse"] = "share") -> None:
        if keys < 1:
            raise ValueError(f"a table holds one key at least, not {keys}")
        self._keys = keys
        self._sharing = full == "share"
        self._tats: dict[bytes, float] = {}
        # The same keys, for the hand.
        self._places: list[bytes] = []
        self._hand = 0
        self._shared: dict[Rate, float] = {}
        self.crowded = 0
        self.on_crowded: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self._tats)

    def __contains__(self, key: object) -> bool:
        return key in self._tats

    def __repr__(self) -> str:
        return f"<GcraTable {len(self._tats)} of {self._keys}>"

    def take(self, key: bytes, cost: float, rate: Rate, now: float) -> Taken:
        """
        See :class:`meshproxy.interfaces.IRateStore`.

        A negative ``cost`` gives back what the call before took, for whoever asks several limits
        of which a later one refuses.
        """
        tat = self._tats.get(key)
        if tat is not None:
            self._tats[key], taken = rate.take(tat, cost, now)
            return taken
        shared = self._shared.get(rate, now)
        if self._make_place(key, now):
            # Not `now`: this key may be what emptied the shared bucket.
            self._tats[key], taken = rate.take(shared, cost, now)
            return taken
        self.crowded += 1
        if self.on_crowded is not None:
            self.on_crowded()
        if self._sharing:
            self._shared[rate], taken = rate.take(shared, cost, now)
            return taken
        return False, 0.0, rate.tolerance, rate.interval

    def _make_place(self, key: bytes, now: float) -> bool:
        """Give ``key`` a place, that of a bucket that is full again if there is no new one."""
        places = self._places
        if len(places) < self._keys:
            places.append(key)
            return True
        tats = self._tats
        hand = self._hand
        for _ in range(min(_LOOKS, self._keys)):
            hand = hand + 1 if hand + 1 < self._keys else 0
            held = places[hand]
            if tats[held] <= now:
                del tats[held]
                places[hand] = key
                self._hand = hand
                return True
        self._hand = hand
        return False

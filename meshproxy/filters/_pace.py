"""
Bytes at a pace: who may send how much, and when.

The law it keeps: in any stretch of ``t`` seconds what one bucket lets go is at most ``burst +
rate * t`` bytes and the piece at its beginning; who asks first goes first. Nothing is kept but one
number a bucket, and no bucket is forgotten before it is full again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Any

__all__ = ["Bucket", "Buckets", "steadily"]

_LOOKS = 8


class Bucket:
    """``rate`` bytes a second, and ``burst`` bytes at once where nothing went for long enough."""

    __slots__ = ("_full", "_grace", "_rate", "step")

    def __init__(self, rate: int, burst: int) -> None:
        self._rate = rate
        self._grace = burst / rate
        #: Bytes that go at a time where they have to wait: those of a twentieth of a second.
        self.step = max(1, rate // 20)
        # When it would be full again.
        self._full = 0.0

    def reserve(self, size: int, now: float) -> float:
        """Take ``size`` bytes; the seconds to wait until they may go, 0.0 for none."""
        full = self._full
        self._full = full = (max(now, full)) + size / self._rate
        wait = full - now - self._grace
        return max(0.0, wait)

    def give_back(self, size: int) -> None:
        """Those ``size`` bytes are not sent after all."""
        self._full -= size / self._rate

    def full(self, now: float) -> bool:
        """Whether it is as good as new."""
        return self._full <= now


class Buckets:
    """
    Buckets by key, at most ``most`` of them. When all are in use, those that come on top share
    one.
    """

    __slots__ = ("_buckets", "_burst", "_most", "_rate", "_shared")

    def __init__(self, rate: int, burst: int, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: dict[bytes, Bucket] = {}
        self._shared = Bucket(rate, burst)

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: bytes, now: float) -> Bucket:
        """The bucket of ``key``."""
        buckets = self._buckets
        bucket = buckets.pop(key, None)
        if bucket is None:
            if len(buckets) >= self._most and not self._make_place(now):
                return self._shared
            bucket = Bucket(self._rate, self._burst)
        buckets[key] = bucket  # behind all others
        return bucket

    def _make_place(self, now: float) -> bool:
        """Forget a bucket that is full again, of those that were asked for longest ago."""
        for key in list(islice(self._buckets, _LOOKS)):
            if self._buckets[key].full(now):
                del self._buckets[key]
                return True
        return False


async def steadily(
    bucket: Bucket, data: bytes, now: Callable[[], float], sleep: Callable[[float], Any]
) -> AsyncIterator[bytes]:
    """``data`` in pieces, each when the bucket allows it."""
    for start in range(0, len(data), bucket.step):
        piece = data[start : start + bucket.step]
        wait = bucket.reserve(len(piece), now())
        if wait:
            try:
                await sleep(wait)
            except BaseException:  # whoever wanted it went away
                bucket.give_back(len(piece))
                raise
        yield piece

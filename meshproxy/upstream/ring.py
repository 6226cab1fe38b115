"""
A ring of hashes: ``ring_hash``.

The laws it keeps:

- An endpoint's points depend on its key alone, and their number on its weight over the greatest
  weight: one that leaves moves its own keys only, to whoever comes next on the ring. (Only when
  the greatest weight itself changes, or the number of endpoints passes 64 or 1024, do the others'
  points become more or fewer.)
- An endpoint that is not usable is passed over, and nothing else moves.

After Karger et al. (1997) and libketama.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from zope.interface import implementer

from meshproxy.interfaces import IHashBalancer
from meshproxy.upstream.endpoint import Endpoint

_EIGHT = struct.Struct(">8Q")
#: The low bits of a point say whose it is.
_OWNER_BITS = 16
_OWNER = (1 << _OWNER_BITS) - 1
#: How far a pick walks over points of unusable endpoints before it looks at them one by one.
_FAR = 256


def points_of_heaviest(count: int) -> int:
    """How many points the heaviest of so many endpoints gets: 1024 in all at least."""
    if count == 1:
        return 1024
    return 512 if count <= 64 else 64 if count <= 1024 else 8


@implementer(IHashBalancer)
class Ring:
    """
    Points on a circle of 64 bits; a number belongs to the endpoint of the point after it.

    ``building`` does the building, in slices of a few milliseconds: the ring can be used when it
    is exhausted. ``at_once`` exhausts it here. ``most`` bounds the points of an endpoint.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], at_once: bool = True, most: int = 1024
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._points: list[int] = []
        # One more than the points: behind the last comes the first again.
        self._owners: list[Endpoint] = []
        self.building = self._build(most)
        if at_once:
            for _ in self.building:
                pass

    def _build(self, most: int) -> Iterator[None]:
        endpoints = self._endpoints
        heaviest = max(endpoint.weight for endpoint in endpoints)
        most = min(most, points_of_heaviest(len(endpoints)))
        # Buckets by the first byte: each is sorted on its own, so that no slice sorts everything.
        buckets: list[list[int]] = [[] for _ in range(256)]
        done = 0
        for owner, endpoint in enumerate(endpoints):
            key = endpoint.spec.key.encode()
            left = max(1, round(most * endpoint.weight / heaviest))
            number = 0
            while left > 0:
                digest = blake2b(b"%s_%d" % (key, number), digest_size=64).digest()
                for point in _EIGHT.unpack(digest)[:left]:
                    buckets[point >> 56].append(point & ~_OWNER | owner)
                left -= 8
                number += 1
                done += 1
                if done % 512 == 0:
                    yield
        points, owners = self._points, self._owners
        for number, bucket in enumerate(buckets):
            bucket.sort()
            points += bucket
            owners += [endpoints[point & _OWNER] for point in bucket]
            if number % 8 == 7:
                yield
        owners.append(owners[0])

    def pick_by(self, number: int) -> Endpoint | None:
        """The endpoint for ``number``, or the next usable one on the ring."""
        at = bisect_right(self._points, number)
        endpoint = self._owners[at]
        if endpoint.usable:
            return endpoint
        return self._next(at, number)

    def _next(self, at: int, number: int) -> Endpoint | None:
        owners = self._owners
        count = len(owners)
        for _ in range(min(_FAR, count)):
            at += 1
            if at >= count:
                at = 0
            endpoint = owners[at]
            if endpoint.usable:
                return endpoint
        return first_usable(self._endpoints, number)


def first_usable(endpoints: Sequence[Endpoint], number: int) -> Endpoint | None:
    """The first usable endpoint from a place that depends on ``number``, or None."""
    start = number % len(endpoints)
    for part in (endpoints[start:], endpoints[:start]):
        for endpoint in part:
            if endpoint.usable:
                return endpoint
    return None

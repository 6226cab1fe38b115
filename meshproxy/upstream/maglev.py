"""
Maglev's table: ``maglev``.

The laws it keeps:

- The table has 65537 places, a prime, as Envoy's; each endpoint's part of it is its weight's,
  within a place or two. An endpoint that leaves moves its own keys, and a few per cent of the
  others'.
- An endpoint that is not usable is passed over by hashing again, and nothing else moves.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from zope.interface import implementer

from meshproxy.interfaces import IHashBalancer
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.hashing import rehash
from meshproxy.upstream.ring import first_usable

SIZE = 65537
#: How often an unusable endpoint is answered by hashing again, before they are looked at in turn.
_ATTEMPTS = 8
#: So many places are tried in one slice of building, a few milliseconds.
_SLICE = 8192


@implementer(IHashBalancer)
class Maglev:
    """
    A table of endpoints, indexed by the number modulo its size.

    ``building`` does the building, in slices of a few milliseconds: the table can be used when it
    is exhausted. ``at_once`` exhausts it here.
    """

    def __init__(self, endpoints: Sequence[Endpoint], at_once: bool = True) -> None:
        self._endpoints = tuple(endpoints)
        self._table: list[Endpoint] = []
        self.building = self._build()
        if at_once:
            for _ in self.building:
                pass

    def _build(self) -> Iterator[None]:
        endpoints = self._endpoints
        heaviest = max(endpoint.weight for endpoint in endpoints)
        # Of each: where its permutation stands, its step, its part of a turn, what it has saved up.
        places, steps, parts, saved = [], [], [], [0.0] * len(endpoints)
        for number, endpoint in enumerate(endpoints):
            digest = blake2b(endpoint.spec.key.encode(), digest_size=16).digest()
            places.append(int.from_bytes(digest[:8], "big") % SIZE)
            steps.append(int.from_bytes(digest[8:], "big") % (SIZE - 1) + 1)
            parts.append(endpoint.weight / heaviest)
            if number % 1024 == 1023:
                yield
        taken = bytearray(SIZE)
        table = [endpoints[0]] * SIZE
        left, work = SIZE, 0
        turn = range(len(endpoints))
        while left:
            for number in turn:
                saving = saved[number] + parts[number]
                work += 1
                if saving < 1.0:
                    saved[number] = saving
                    continue
                saved[number] = saving - 1.0
                place, step = places[number], steps[number]
                while taken[place]:
                    work += 1
                    place += step
                    if place >= SIZE:
                        place -= SIZE
                taken[place] = 1
                table[place] = endpoints[number]
                places[number] = place
                left -= 1
                if not left:
                    break
                if work >= _SLICE:
                    work = 0
                    yield
        self._table = table

    def pick_by(self, number: int) -> Endpoint | None:
        """The endpoint for ``number``, or another usable one."""
        endpoint = self._table[number % SIZE]
        if endpoint.usable:
            return endpoint
        for attempt in range(1, _ATTEMPTS + 1):
            endpoint = self._table[rehash(number, attempt) % SIZE]
            if endpoint.usable:
                return endpoint
        return first_usable(self._endpoints, rehash(number, 0))

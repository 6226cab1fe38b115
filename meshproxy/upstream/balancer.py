"""
The choice of an endpoint.

The law they keep: ``pick()`` costs O(1), or O(log n) where weights differ; over many picks each
endpoint gets its share, weight / sum of weights; no table grows with the weights.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from itertools import accumulate
from random import random

from zope.interface import implementer

from meshproxy.interfaces import IBalancer
from meshproxy.upstream.endpoint import Endpoint


def _equal(endpoints: Sequence[Endpoint]) -> bool:
    return len({endpoint.share for endpoint in endpoints}) == 1


@implementer(IBalancer)
class RoundRobin:
    """
    Each in turn; with weights, the endpoint whose next turn is due first.

    The weighted schedule is earliest-deadline-first (Envoy's too): an endpoint is due every
    1 / weight, so that heavy endpoints are interleaved with light ones and never come in runs.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._next = 0
        self._heap = [(1.0 / e.share, number, e) for number, e in enumerate(self._endpoints)]
        heapify(self._heap)
        self.pick: Callable[[], Endpoint] = (
            self._in_turn if _equal(self._endpoints) else self._weighted
        )

    def _in_turn(self) -> Endpoint:
        endpoints = self._endpoints
        number = self._next
        if number >= len(endpoints):
            number = 0
        self._next = number + 1
        return endpoints[number]

    def _weighted(self) -> Endpoint:
        heap = self._heap
        due, number, endpoint = heap[0]
        heapreplace(heap, (due + 1.0 / endpoint.share, number, endpoint))
        if due > 1e9:
            # Far from zero a float would lose the fraction that tells turns apart.
            self._heap = [(d - due, n, e) for d, n, e in heap]
            heapify(self._heap)
        return endpoint


@implementer(IBalancer)
class Random:
    """A random endpoint, by weight."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._bounds = list(accumulate(e.share for e in self._endpoints))
        self._total = self._bounds[-1]
        self.pick: Callable[[], Endpoint] = self._any if _equal(self._endpoints) else self._weighted

    def _any(self) -> Endpoint:
        endpoints = self._endpoints
        return endpoints[int(random() * len(endpoints))]

    def _weighted(self) -> Endpoint:
        return self._endpoints[bisect_right(self._bounds, random() * self._total)]


@implementer(IBalancer)
class LeastRequest:
    """
    The less busy of two random endpoints ("power of two choices").

    Both are drawn by weight and compared by what they have in flight for their weight, so that
    an idle cluster follows the weights and a busy one avoids its slow endpoints.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._draw = Random(endpoints).pick

    def pick(self) -> Endpoint:
        """An endpoint."""
        draw = self._draw
        one = draw()
        other = draw()
        if other.active * one.share < one.active * other.share:
            return other
        return one


BALANCERS: dict[str, Callable[[Sequence[Endpoint]], IBalancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_request": LeastRequest,
}

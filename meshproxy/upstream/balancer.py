"""
The choice of an endpoint among those that are well, by chance or in turn.

The law they keep: ``pick()`` costs O(1), or O(log n) where shares differ; over many picks each
endpoint gets its part, share / sum of shares; no table grows with the shares.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from itertools import accumulate, cycle
from random import random
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from meshproxy.interfaces import IBalancer
from meshproxy.upstream.endpoint import Endpoint

if TYPE_CHECKING:
    from meshproxy.observe.fitted import Fitted

#: Makes a balancer for endpoints; the second argument is the one whose place it takes.
Balancing = Callable[[Sequence[Endpoint], object], IBalancer]

GOLDEN = (5**0.5 - 1) / 2


def _equal(endpoints: Sequence[Endpoint]) -> bool:
    return len({endpoint.share for endpoint in endpoints}) == 1


@implementer(IBalancer)
class RoundRobin:
    """
    Each in turn; with weights, the endpoint whose next turn is due first.

    The weighted schedule is earliest-deadline-first (Envoy's too): an endpoint is due every
    1 / share, so that heavy endpoints are interleaved with light ones and never come in runs.
    Endpoints of one share begin at even distances.

    ``before`` is the round robin that this one takes the place of: whoever was due next in it is
    due next here, so that frequent changes favour nobody, such as the first.
    """

    def __init__(self, endpoints: Sequence[Endpoint], before: object = None) -> None:
        self._endpoints = tuple(endpoints)
        self._heap: list[tuple[float, int, float, Endpoint]] = []
        phases: dict[Endpoint, float] = {}
        if isinstance(before, RoundRobin):
            phases = before.phases()
        if _equal(self._endpoints):
            order = self._endpoints
            first = min(range(len(order)), key=lambda number: phases.get(order[number], 2.0))
            # A bound method of C: a third of the cost of one written here.
            self.pick: Callable[[], Endpoint] = cycle(order[first:] + order[:first]).__next__
        else:
            self._heap = self._schedule(phases)
            self.pick = self._weighted

    def _schedule(self, phases: dict[Endpoint, float]) -> list[tuple[float, int, float, Endpoint]]:
        alike = Counter(endpoint.share for endpoint in self._endpoints)
        # By the golden ratio, so that turns of different shares seldom fall together.
        begins = {share: number * GOLDEN % 1.0 for number, share in enumerate(alike, 1)}
        seen: Counter[float] = Counter()
        heap = []
        for number, endpoint in enumerate(self._endpoints):
            share = endpoint.share
            phase = phases.get(endpoint)
            if phase is None:
                phase = random() if phases else (seen[share] + begins[share]) / alike[share]
            seen[share] += 1
            period = 1.0 / share
            heap.append((phase * period, number, period, endpoint))
        heapify(heap)
        return heap

    def phases(self) -> dict[Endpoint, float]:
        """
        For each endpoint how much of its period passes until its next turn: 0 to 1.

        For who takes its place: asking may use up a turn.
        """
        if self._heap:
            now = self._heap[0][0]
            return {endpoint: (due - now) / period for due, _, period, endpoint in self._heap}
        count = len(self._endpoints)
        following = self._endpoints.index(self.pick())
        return {
            endpoint: (number - following) % count / count
            for number, endpoint in enumerate(self._endpoints)
        }

    def _weighted(self) -> Endpoint:
        heap = self._heap
        due, number, period, endpoint = heap[0]
        heapreplace(heap, (due + period, number, period, endpoint))
        if due > 1e9:
            # Far from zero a float would lose the fraction that tells turns apart.
            self._heap = [(d - due, n, p, e) for d, n, p, e in heap]
            heapify(self._heap)
        return endpoint


@implementer(IBalancer)
class Random:
    """A random endpoint, by share."""

    def __init__(self, endpoints: Sequence[Endpoint], before: object = None) -> None:
        self._endpoints = tuple(endpoints)
        self._bounds = list(accumulate(e.share for e in self._endpoints))
        self._total = self._bounds[-1]
        # Rounding must not put a draw behind the last of them.
        self._bounds.pop()
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

    Both are drawn by share and compared by what they have in flight for their share, so that
    an idle cluster follows the weights and a busy one avoids its slow endpoints. Where the shares
    are equal the two are never the same endpoint.
    """

    def __init__(self, endpoints: Sequence[Endpoint], before: object = None) -> None:
        self._endpoints = tuple(endpoints)
        draw = Random(self._endpoints)
        self._draw = draw.pick
        self.pick: Callable[[], Endpoint] = self._weighted
        if len(self._endpoints) == 1:
            self.pick = self._draw
        elif _equal(self._endpoints):
            self.pick = self._any

    def _any(self) -> Endpoint:
        endpoints = self._endpoints
        count = len(endpoints)
        first = int(random() * count)
        second = int(random() * (count - 1))
        if second >= first:
            second += 1
        one = endpoints[first]
        other = endpoints[second]
        return other if other.active < one.active else one

    def _weighted(self) -> Endpoint:
        draw = self._draw
        one = draw()
        other = draw()
        if other.active * one.share < one.active * other.share:
            return other
        return one


class Foreign:
    """
    The balancers that a plugin (``fitted``, an IBalancing) makes.

    Where it makes none that can be used, it is told so and the endpoints take turns.
    """

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted

    def __call__(self, endpoints: Sequence[Endpoint], before: object = None) -> IBalancer:
        """A balancer for these endpoints, of which there is one at least."""
        try:
            made: Any = self._fitted.filter.balance(tuple(endpoints))
            if not callable(made.pick):
                raise TypeError(f"its pick is {made.pick!r}, and no method")
        except Exception:
            self._fitted.failed()
            return RoundRobin(endpoints, before)
        return made  # type: ignore[no-any-return]


BALANCERS: dict[str, Balancing] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_request": LeastRequest,
}
"""By the name that a configuration uses."""

"""A cluster under a breaker, for the tests of what opens and closes it."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from meshproxy.upstream.cluster import Cluster
from meshproxy.upstream.endpoint import HALF_OPEN, Endpoint
from tests.upstream.made import cluster as make_cluster
from tests.upstream.made import spec


class World:
    """A cluster of ``count`` endpoints under a breaker, at the mercy of a clock."""

    def __init__(self, count: int = 10, **config: Any) -> None:
        self.clock = Clock()
        self.offers: list[Endpoint] = []
        self.changes = 0
        extra: dict[str, Any] = {"slow_start": "10s"} if "half_open" in config else {}
        self.cluster: Cluster = make_cluster(
            [spec(number) for number in range(1, count + 1)],
            clock=self.clock,
            circuit_breaker=config,
            **extra,
        )
        self.cluster.offer = self.offer
        self.cluster.changed = self.changed
        self.breaker: Any = self.cluster.breaker
        self.all = self.cluster.endpoints
        self.one = self.all[0]

    def changed(self) -> None:
        """In place of the cluster's."""
        self.changes += 1

    def offer(self, endpoint: Endpoint) -> None:
        """In place of the cluster's."""
        assert endpoint.breaker == HALF_OPEN
        self.offers.append(endpoint)

    def times(self, endpoint: Endpoint) -> int:
        """The factor of its next ejection's time, less one."""
        return 0 if endpoint.memory is None else int(endpoint.memory.times)

    def fail(self, endpoint: Endpoint, times: int = 1, local: bool = False) -> None:
        """As whoever got a failure does."""
        for _ in range(times):
            endpoint.failed += 1
            self.breaker.failed(endpoint, local)

    def answer(self, endpoint: Endpoint, times: int = 1) -> None:
        """As whoever got a good response does."""
        for _ in range(times):
            endpoint.answered += 1
            if endpoint.failures:
                self.breaker.succeeded(endpoint)

    def connect(self, endpoint: Endpoint) -> None:
        """As whoever opened a connection does."""
        if endpoint.local_failures:
            self.breaker.connected(endpoint)

    def probe(self, endpoint: Endpoint) -> None:
        """Take the offer, and begin the request."""
        self.breaker.taken(endpoint)
        endpoint.active += 1

    def later(self, seconds: float) -> None:
        """Let the time pass, in steps of the wheel, and a little more."""
        end = self.clock.seconds() + seconds + self.cluster.wheel.resolution * 1.5
        while self.clock.seconds() < end:
            self.clock.advance(min(0.05, end - self.clock.seconds()))

    def value(self, slot: int) -> float:
        """A number of the statistics."""
        return self.cluster.stats.values[slot]

    def ejections(self, reason: str) -> float:
        """How often a breaker opened for this reason."""
        return self.value(self.cluster.stats.ejections[reason])

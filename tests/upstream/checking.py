"""A cluster whose health a fake check tells, for the tests of who is asked when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from meshproxy.config.health import HealthCheck
from meshproxy.errors import CheckFailed
from meshproxy.interfaces import IHealthCheck
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.health import HealthChecker
from tests.upstream.made import cluster as make_cluster
from tests.upstream.made import spec


@implementer(IHealthCheck)
class FakeCheck:
    """Answers by ``answer``; None leaves the Deferred open, to be fired by the test."""

    name = "fake"

    def __init__(self) -> None:
        self.answer: Callable[[Endpoint], Any] = lambda endpoint: succeed(None)
        self.asked: list[Endpoint] = []
        self.open: list[tuple[Endpoint, Deferred[None]]] = []
        self.cancelled = 0

    def check(self, endpoint: Endpoint) -> Any:
        """Ask."""
        self.asked.append(endpoint)
        answer = self.answer(endpoint)
        if answer is not None:
            return answer
        deferred: Deferred[None] = Deferred(self._cancelled)
        self.open.append((endpoint, deferred))
        return deferred

    def _cancelled(self, deferred: Deferred[None]) -> None:
        self.cancelled += 1
        self.open = [each for each in self.open if each[1] is not deferred]

    def bad(self, reason: str = "status 500") -> None:
        """Every check fails from now on."""
        self.answer = lambda endpoint: fail(CheckFailed(reason))

    def good(self) -> None:
        """Every check passes from now on."""
        self.answer = lambda endpoint: succeed(None)

    def hang(self) -> None:
        """No check ends by itself from now on."""
        self.answer = lambda endpoint: None


class World:
    """A cluster of ``count`` endpoints whose health a fake check tells."""

    def __init__(
        self, count: int = 1, breaker: dict[str, Any] | None = None, **config: Any
    ) -> None:
        config.setdefault("interval", "5s")
        config.setdefault("jitter", 0)
        self.clock = Clock()
        more: dict[str, Any] = {} if breaker is None else {"circuit_breaker": breaker}
        self.cluster = make_cluster(
            [spec(number) for number in range(1, count + 1)], clock=self.clock, **more
        )
        self.breaker: Any = self.cluster.breaker
        self.changes = 0
        self.cluster.changed = self.changed
        self.check = FakeCheck()
        self.checker = HealthChecker(
            self.cluster,
            HealthCheck.model_validate({"tcp": True, **config}),
            self.check,
            self.clock,
        )
        self.one = self.cluster.endpoints[0]

    def changed(self) -> None:
        """In place of the cluster's."""
        self.changes += 1

    def later(self, seconds: float) -> None:
        """Let the time pass, stopping at every call that is due."""
        end = self.clock.seconds() + seconds
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self.clock.advance(max(0.0, self.clock.calls[0].getTime() - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def value(self, name: str) -> float:
        """A number of the statistics."""
        stats = self.cluster.stats
        slot: int = getattr(stats, name)
        return stats.values[slot]

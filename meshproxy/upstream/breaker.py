"""
The circuit breakers of a cluster's endpoints (Envoy calls this outlier detection).

The law it keeps:

- ``endpoint.breaker`` changes here only. While it is not CLOSED, ``endpoint.failures`` is at least
  1, so that who gets a good response asks here without looking at the breaker itself.
- Every breaker that opens ends: by time, by a passing health check, or with its endpoint.
- Never more endpoints are given up than ``max_ejection_percent`` allows, but one always can be.
- A result of a request sent before the breaker opened neither closes nor opens it again.
- Timers exist only while a breaker is not closed, while it remembers how often it opened, or while
  failures are there to be judged by their rate. A failure costs a call, a success none.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.python import log

from meshproxy.upstream.endpoint import BREAKERS, CLOSED, HALF_OPEN, OPEN
from meshproxy.upstream.outliers import below_the_others, over_the_threshold

if TYPE_CHECKING:
    from meshproxy.config.breaker import CircuitBreaker
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.outliers import Rate

#: Seconds between two looks at a probe that no verdict came of.
LOOK = 1.0


class _Memory:
    """What is remembered of an endpoint: ``endpoint.memory``. An entry of the wheel."""

    __slots__ = (
        "active",
        "answered",
        "breaker",
        "deadline",
        "endpoint",
        "failed",
        "reason",
        "since",
        "slot",
        "taken",
        "times",
        "until",
    )

    def __init__(self, breaker: Breaker, endpoint: Endpoint) -> None:
        self.deadline = 0.0
        self.slot = 0
        self.breaker = breaker
        self.endpoint = endpoint
        #: How often it opened, less the quiet intervals since; the ejection time's factor.
        self.times = 0
        self.until = 0.0
        self.reason = ""
        #: Whether the offered probe was taken; when, and what was in flight besides it.
        self.taken = False
        self.since = 0.0
        self.active = 0
        #: The endpoint's counts when the interval began.
        self.answered = 0
        self.failed = 0

    def expired(self, now: float) -> float:
        """Whatever its state waited for is due."""
        return self.breaker._due(self, now)


class Breaker:
    """
    The breakers of one cluster. An entry of the cluster's wheel, for the rates.

    ``failed(endpoint, local)`` is told of every failure, after ``endpoint.failed`` was counted;
    ``local`` says that no response came (refused, timed out, broken). With
    ``local_failure_threshold`` those are counted apart: ``failures`` counts both then, and
    ``local_failures`` the local ones; a response, even a failure, ends a row of local ones.
    """

    __slots__ = (
        "_base",
        "_cluster",
        "_endpoints",
        "_interval",
        "_local",
        "_longest",
        "_memories",
        "_out",
        "_percent",
        "_percentage",
        "_probe",
        "_rates",
        "_stopped",
        "_success",
        "_threshold",
        "_wheel",
        "deadline",
        "failed",
        "slot",
    )

    def __init__(self, cluster: Cluster, config: CircuitBreaker) -> None:
        self.deadline = 0.0
        self.slot = 0
        self._cluster = cluster
        self._wheel = cluster.wheel
        self._threshold: float = config.failure_threshold or inf
        self._local: float = config.local_failure_threshold or inf
        self._base: float = config.base_ejection_time
        self._longest: float = config.max_ejection_time
        self._percent: float = config.max_ejection_percent
        self._interval: float = config.interval
        self._success = config.success_rate
        self._percentage = config.failure_percentage
        self._rates = self._success is not None or self._percentage is not None
        self._probe = config.half_open == "probe"
        #: Those whose timer runs; those whose breaker is not closed, as of ``_endpoints``.
        self._memories: set[_Memory] = set()
        self._out: set[_Memory] = set()
        self._endpoints: tuple[Endpoint, ...] = ()
        self._stopped = False
        self.failed: Callable[[Endpoint, bool], None] = (
            self._failed if config.local_failure_threshold is None else self._failed_apart
        )

    # What is told by those who send.

    def _failed(self, endpoint: Endpoint, local: bool) -> None:
        if endpoint.breaker != CLOSED:
            self._failed_since(endpoint)
            return
        endpoint.failures += 1
        if self._rates and not self.slot:
            self._begin(endpoint)
        if endpoint.failures >= self._threshold:
            self._trip(endpoint, "consecutive", f"failures={endpoint.failures} ")

    def _failed_apart(self, endpoint: Endpoint, local: bool) -> None:
        if endpoint.breaker != CLOSED:
            self._failed_since(endpoint)
            return
        if local:
            endpoint.local_failures += 1
        else:
            endpoint.failures -= endpoint.local_failures
            endpoint.local_failures = 0
        endpoint.failures += 1
        if self._rates and not self.slot:
            self._begin(endpoint)
        if endpoint.local_failures >= self._local:
            self._trip(endpoint, "local", f"failures={endpoint.local_failures} ")
            return
        others = endpoint.failures - endpoint.local_failures
        if others >= self._threshold and not local:
            self._trip(endpoint, "consecutive", f"failures={others} ")

    def succeeded(self, endpoint: Endpoint) -> None:
        """A response that was no failure; to be called only while ``endpoint.failures``."""
        if endpoint.breaker == CLOSED:
            endpoint.failures = 0
            endpoint.local_failures = 0
        elif endpoint.breaker == HALF_OPEN and endpoint.memory.taken:
            self.close(endpoint, "probe")

    def connected(self, endpoint: Endpoint) -> None:
        """
        A connection came up; to be called only while ``endpoint.local_failures``.

        It ends a row of local failures when nobody waits for it. Otherwise what becomes of the
        request decides: an endpoint that accepts connections and resets each is not well.
        (Envoy begins to count anew with every connection, and never ejects such a one.)
        """
        if endpoint.breaker == CLOSED and endpoint.active == 0:
            endpoint.failures -= endpoint.local_failures
            endpoint.local_failures = 0

    def taken(self, endpoint: Endpoint) -> None:
        """
        The offered endpoint was picked; to be called before its ``active`` is counted up.

        From now on a verdict is the probe's.
        """
        memory = endpoint.memory
        if endpoint.breaker == HALF_OPEN and not memory.taken:
            memory.taken = True
            memory.since = self._wheel.now()
            memory.active = endpoint.active
            self._arm(memory, memory.since + LOOK)

    # What is told by others.

    def close(self, endpoint: Endpoint, why: str) -> None:
        """End the ejection, if there is one; ``why`` (a word) is logged."""
        if endpoint.breaker == CLOSED:
            return
        memory = endpoint.memory
        now = self._wheel.now()
        self._out.discard(memory)
        endpoint.breaker = CLOSED
        endpoint.failures = 0
        endpoint.since = now
        # What comes late from before is not held against it.
        memory.answered = endpoint.answered
        memory.failed = endpoint.failed
        self._arm(memory, now + self._interval)
        self._say(endpoint, f"closed reason={why}")
        self._cluster.changed()

    def stop(self) -> None:
        """Let go of the wheel, for good; breakers stay as they are, and none opens any more."""
        self._stopped = True
        self._wheel.disarm(self)
        for memory in self._memories:
            self._wheel.disarm(memory)
        self._memories.clear()
        self._out.clear()

    @property
    def ejected(self) -> int:
        """How many endpoints of the cluster are given up at this moment, half-open ones too."""
        if self._endpoints is not self._cluster.endpoints:
            self._endpoints = self._cluster.endpoints
            for memory in [memory for memory in self._out if memory.endpoint.removed]:
                self._forget(memory)
        return len(self._out)

    def describe(self, endpoint: Endpoint) -> dict[str, object]:
        """What the admin shows: the state; why, and for how many seconds more, it is open."""
        said: dict[str, object] = {
            "state": BREAKERS[endpoint.breaker],
            "failures": endpoint.failures,
            "local_failures": endpoint.local_failures,
        }
        memory = endpoint.memory
        if memory is not None:
            said["times"] = memory.times
        if endpoint.breaker != CLOSED:
            said["reason"] = memory.reason
        if endpoint.breaker == OPEN:
            said["seconds"] = round(max(0.0, memory.until - self._wheel.now()), 3)
        return said

    # Opening and half-opening.

    def _trip(self, endpoint: Endpoint, reason: str, details: str) -> None:
        """Open it, if so many may be open. ``details``: words for the log and a space."""
        if endpoint.removed or self._stopped:
            return
        out = self.ejected
        if out and (out + 1) * 100 > self._percent * len(self._endpoints):
            stats = self._cluster.stats
            stats.values[stats.ejections_refused] += 1
            return
        self._open(endpoint, reason, details)

    def _open(self, endpoint: Endpoint, reason: str, details: str) -> None:
        memory = self._memory(endpoint)
        if self._base * memory.times < self._longest:
            memory.times += 1
        seconds = min(self._base * memory.times, self._longest)
        memory.until = self._wheel.now() + seconds
        memory.reason = reason
        memory.taken = False
        endpoint.breaker = OPEN
        endpoint.failures = max(1, endpoint.failures)
        endpoint.local_failures = 0
        self._out.add(memory)
        self._arm(memory, memory.until)
        stats = self._cluster.stats
        stats.values[stats.ejections[reason]] += 1
        self._say(endpoint, f"open reason={reason} {details}for={seconds:g}s")
        self._cluster.changed()

    def _failed_since(self, endpoint: Endpoint) -> None:
        """A failure while it is not closed: the probe's, or one of a request sent before."""
        if endpoint.breaker == HALF_OPEN and endpoint.memory.taken and not self._stopped:
            self._open(endpoint, "probe", "")

    def _due(self, memory: _Memory, now: float) -> float:
        endpoint = memory.endpoint
        if endpoint.removed:
            self._forget(memory)
            return 0.0
        if endpoint.breaker == OPEN:
            if self._probe:
                endpoint.breaker = HALF_OPEN
                self._memories.discard(memory)
                self._say(endpoint, "half_open")
                try:
                    self._cluster.changed()
                finally:
                    # Without it nothing would ever close it.
                    self._cluster.offer(endpoint)
            else:
                self.close(endpoint, "slow_start")
            # The wheel sees what was armed meanwhile.
            return 0.0
        if endpoint.breaker == HALF_OPEN:
            return self._look(memory, now)
        # Closed, and an interval has passed.
        memory.times -= 1
        if memory.times > 0:
            return now + self._interval
        self._memories.discard(memory)
        return 0.0

    def _look(self, memory: _Memory, now: float) -> float:
        """
        See whether the probe ended without a verdict (its client left): offer again.

        Where requests from before are still in flight, nobody can tell: those get as long as an
        ejection lasts.
        """
        active = memory.endpoint.active
        lost = active <= memory.active and now - memory.since >= self._base
        if active and not lost:
            return now + LOOK
        memory.taken = False
        self._memories.discard(memory)
        self._cluster.offer(memory.endpoint)
        return 0.0

    # Rates.

    def _begin(self, endpoint: Endpoint) -> None:
        """The interval's first failure, which ``endpoint`` has counted: judge from now on."""
        if self._stopped:
            return
        for each in self._cluster.endpoints:
            memory = self._memory(each)
            memory.answered = each.answered
            memory.failed = each.failed
        self._memory(endpoint).failed -= 1
        self._wheel.arm(self, self._wheel.now() + self._interval)

    def expired(self, now: float) -> float:
        """An interval has passed: judge. Without a failure in it there is nothing to wait for."""
        rates: list[Rate] = []
        any_failed = False
        for endpoint in self._cluster.endpoints:
            memory = self._memory(endpoint)
            answered = endpoint.answered - memory.answered
            failed = endpoint.failed - memory.failed
            memory.answered = endpoint.answered
            memory.failed = endpoint.failed
            any_failed = any_failed or failed > 0
            total = answered + failed
            if endpoint.breaker == CLOSED and total > 0:
                rates.append((endpoint, total, 100.0 * answered / total))
        if not any_failed:
            return 0.0
        if self._success is not None:
            for endpoint, details in below_the_others(rates, self._success):
                self._trip(endpoint, "success_rate", f"{details} ")
        if self._percentage is not None:
            for endpoint, details in over_the_threshold(rates, self._percentage):
                if endpoint.breaker == CLOSED:
                    self._trip(endpoint, "failure_percentage", f"{details} ")
        return now + self._interval

    # The rest.

    def _memory(self, endpoint: Endpoint) -> Any:
        memory = endpoint.memory
        if memory is None:
            memory = endpoint.memory = _Memory(self, endpoint)
        return memory

    def _arm(self, memory: _Memory, deadline: float) -> None:
        if not self._stopped:
            self._memories.add(memory)
            self._wheel.arm(memory, deadline)

    def _forget(self, memory: _Memory) -> None:
        """Its endpoint is gone."""
        self._wheel.disarm(memory)
        self._memories.discard(memory)
        self._out.discard(memory)

    def _say(self, endpoint: Endpoint, state: str) -> None:
        log.msg(f"breaker cluster={self._cluster.name} endpoint={endpoint.spec.text} state={state}")

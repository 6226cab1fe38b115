"""
Active health checks: every endpoint is asked, again and again, whether it is well.

The law it keeps:

- ``endpoint.healthy`` changes here only. An endpoint counts as healthy until its first result,
  which decides at once either way; afterwards it takes as many in a row as the thresholds say.
- One check of an endpoint at a time, and at most :data:`AT_ONCE` of a cluster; the others wait in
  line. A check that takes longer than the timeout fails and is cancelled then.
- Whatever a check raises is a failure of that check, nothing more; what it was not meant to raise
  is logged, once for each change.
- After ``stop``, and for an endpoint that is gone, nothing runs and nothing is scheduled.
"""

from __future__ import annotations

from collections import deque
from random import random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python import log
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from meshproxy.errors import CheckFailed
from meshproxy.observe.escape import escape_text
from meshproxy.upstream.endpoint import CLOSED

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.interfaces import IHealthCheck
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint

#: Checks of one cluster that run at the same time.
AT_ONCE = 64

#: Seconds within which endpoints that are new are asked for the first time, each at its own moment.
SPREAD = 1.0

#: Characters of a reason that are kept.
_REASON = 200

#: Seconds for which the cluster's count of verdicts is believed: to count is O(endpoints).
_COUNTED = 0.5


class _Subject:
    """An endpoint that is asked."""

    __slots__ = (
        "began",
        "call",
        "counted",
        "defect",
        "ejected",
        "endpoint",
        "passed",
        "reason",
        "row",
        "running",
        "traffic",
        "waiting",
        "when",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        #: The pending call: of the next check, or of this one's timeout.
        self.call: Any = None
        #: The check that runs, or was cancelled and has not ended yet.
        self.running: Deferred[Any] | None = None
        #: Whether it is counted among those under way; or stands in line for a check.
        self.counted = False
        self.waiting = False
        self.began = 0.0
        #: Whether its breaker was not closed when the check began.
        self.ejected = False
        #: The last result (None before the first), when it came, why, and how many such in a row.
        self.passed: bool | None = None
        self.when = 0.0
        self.reason = ""
        self.row = 0
        #: The last result was an exception of this kind, which a check ought not to raise.
        self.defect: type | None = None
        #: The cluster's verdicts at the last check.
        self.traffic = -1


class HealthChecker:
    """
    Asks the endpoints of ``cluster`` by ``check``, as ``config`` says.

    ``clock`` provides ``IReactorTime``.
    """

    def __init__(
        self, cluster: Cluster, config: HealthCheck, check: IHealthCheck, clock: Any
    ) -> None:
        self._cluster = cluster
        self._check = check
        self._clock = clock
        self._interval: float = config.interval
        self._unhealthy_interval: float = config.unhealthy_interval or config.interval
        self._no_traffic_interval: float | None = config.no_traffic_interval
        self._jitter: float = config.jitter / 100
        self._timeout: float = config.timeout
        self._to_fall: int = config.unhealthy_threshold
        self._to_rise: int = config.healthy_threshold
        self._closes_breaker: bool = config.closes_breaker
        self._subjects: dict[Endpoint, _Subject] = {}
        self._line: deque[_Subject] = deque()
        self._under_way = 0
        self._started = False
        self._traffic = 0
        self._counted = float("-inf")

    def start(self) -> None:
        """Begin; the endpoints that come later are asked too."""
        if not self._started:
            self._started = True
            self._cluster.watchers.append(self._updated)
            self._updated()

    def stop(self) -> None:
        """Cancel everything; the endpoints stay what they are."""
        if self._started:
            self._started = False
            self._cluster.watchers.remove(self._updated)
            for endpoint in list(self._subjects):
                self._drop(endpoint)

    def describe(self, endpoint: Endpoint) -> dict[str, object]:
        """
        What the admin shows. ``result`` is ``passed``, ``failed``, or None when there is none yet;
        ``seconds_ago`` says when that was, ``consecutive`` how many such came in a row.
        """
        subject = self._subjects.get(endpoint)
        said: dict[str, object] = {
            "check": self._check.name,
            "healthy": endpoint.healthy,
            "checked": subject is not None,
        }
        if subject is not None:
            passed = subject.passed
            said["result"] = None if passed is None else "passed" if passed else "failed"
            if passed is not None:
                said["reason"] = subject.reason
                said["seconds_ago"] = round(self._clock.seconds() - subject.when, 3)
                said["consecutive"] = subject.row
        return said

    # Who is asked.

    def _updated(self) -> None:
        """The cluster's endpoints, or what their source says of them, changed."""
        present = set(self._cluster.endpoints)
        for endpoint in [each for each in self._subjects if each not in present]:
            self._drop(endpoint)
        changed = False
        for endpoint in self._cluster.endpoints:
            if endpoint.spec.checked:
                if endpoint not in self._subjects:
                    self._subjects[endpoint] = subject = _Subject(endpoint)
                    self._later(subject, random() * min(self._interval, SPREAD))
            elif endpoint in self._subjects:
                self._drop(endpoint)
                if not endpoint.healthy:
                    changed = True
                    self._change(endpoint, True, "not checked any more")
        if changed:
            self._cluster.changed()

    def _drop(self, endpoint: Endpoint) -> None:
        subject = self._subjects.pop(endpoint)
        if subject.waiting:
            subject.waiting = False
            self._line.remove(subject)
        self._end(subject)
        self._cancel(subject)

    # When.

    def _later(self, subject: _Subject, delay: float) -> None:
        subject.call = self._clock.callLater(delay, self._due, subject)

    def _next(self, subject: _Subject) -> None:
        """Schedule the next check, an interval after the last one began."""
        if self._subjects.get(subject.endpoint) is not subject:
            return  # what its result brought about has dropped it
        traffic = self._count()
        interval = self._interval
        # While it is unhealthy, that there is no traffic may be for this very reason.
        if not subject.endpoint.healthy:
            interval = self._unhealthy_interval
        elif self._no_traffic_interval is not None and traffic == subject.traffic:
            interval = self._no_traffic_interval
        subject.traffic = traffic
        interval *= 1.0 + random() * self._jitter
        self._later(subject, max(0.0, subject.began + interval - self._clock.seconds()))

    def _count(self) -> int:
        """The verdicts that the cluster's endpoints ever got; other than before: traffic."""
        if self._no_traffic_interval is not None:
            now = self._clock.seconds()
            if now - self._counted >= _COUNTED:
                self._counted = now
                self._traffic = sum(e.answered + e.failed for e in self._cluster.endpoints)
        return self._traffic

    def _due(self, subject: _Subject) -> None:
        subject.call = None
        if subject.running is not None:
            # It was cancelled and does not end: no second one beside it.
            subject.began = self._clock.seconds()
            self._judge(subject, "the check before does not end")
        elif self._under_way < AT_ONCE:
            self._under_way += 1
            self._ask(subject)
        else:
            subject.waiting = True
            self._line.append(subject)

    # Asking.

    def _ask(self, subject: _Subject) -> None:
        """Begin a check; it has been counted as under way."""
        endpoint = subject.endpoint
        subject.counted = True
        subject.began = self._clock.seconds()
        subject.ejected = endpoint.breaker != CLOSED
        subject.call = self._clock.callLater(self._timeout, self._expired, subject)
        subject.running = running = maybeDeferred(self._check.check, endpoint)
        running.addBoth(self._ended, subject)

    def _ended(self, result: Any, subject: _Subject) -> None:
        """The check has a result, or has been cancelled."""
        subject.running = None
        if not subject.counted:
            return  # given up before
        self._end(subject)
        if not isinstance(result, Failure):
            self._judge(subject, None)
            return
        error = result.value
        if isinstance(error, CheckFailed):
            subject.defect = None
            self._judge(subject, str(error) or "failed")
            return
        if subject.defect is not type(error):
            subject.defect = error.__class__
            where = f"cluster={self._cluster.name} endpoint={subject.endpoint.spec.text}"
            log.err(result, f"health {where} check={self._check.name} raised")
        self._judge(subject, f"{type(error).__name__}: {safe_str(error)}")

    def _expired(self, subject: _Subject) -> None:
        subject.call = None
        subject.defect = None
        self._end(subject)
        self._cancel(subject)
        self._judge(subject, "timeout")

    def _cancel(self, subject: _Subject) -> None:
        if subject.running is not None:
            try:
                subject.running.cancel()
            except Exception:
                log.err(None, f"health check={self._check.name} cannot be cancelled")

    def _end(self, subject: _Subject) -> None:
        """Nothing is pending for it any more; the next in line may begin in its place."""
        if subject.call is not None:
            subject.call.cancel()
            subject.call = None
        if subject.counted:
            subject.counted = False
            if self._line and self._started:
                following = self._line.popleft()
                following.waiting = False
                following.counted = True
                # In a turn of its own: a check may fail at once, and so may all the others.
                following.call = self._clock.callLater(0.0, self._ask, following)
            else:
                self._under_way -= 1

    # Judging.

    def _judge(self, subject: _Subject, reason: str | None) -> None:
        """A result: None passes, a text says why it failed. Ends with scheduling the next."""
        try:
            self._note(subject, reason)
        finally:
            self._next(subject)

    def _note(self, subject: _Subject, reason: str | None) -> None:
        endpoint = subject.endpoint
        stats = self._cluster.stats
        passed = reason is None
        subject.reason = "" if reason is None else reason[:_REASON]
        subject.when = self._clock.seconds()
        if passed:
            subject.defect = None
            stats.values[stats.checks_passed] += 1
        else:
            stats.values[stats.checks_failed] += 1
        first = subject.passed is None
        subject.row = subject.row + 1 if subject.passed is passed else 1
        subject.passed = passed
        if endpoint.healthy != passed:
            enough = self._to_rise if passed else self._to_fall
            if first or subject.row >= enough:
                self._change(endpoint, passed, subject.reason)
                self._cluster.changed()
        if passed and endpoint.healthy and subject.ejected and self._closes_breaker:
            breaker = self._cluster.breaker
            if breaker is not None:
                breaker.close(endpoint, "health_check")

    def _change(self, endpoint: Endpoint, healthy: bool, reason: str) -> None:
        endpoint.healthy = healthy
        stats = self._cluster.stats
        if healthy:
            endpoint.since = self._cluster.wheel.now()
            stats.values[stats.became_healthy] += 1
        else:
            stats.values[stats.became_unhealthy] += 1
        state = "healthy" if healthy else "unhealthy"
        because = f' reason="{_spelled(reason)}"' if reason else ""
        log.msg(
            f"health cluster={self._cluster.name} endpoint={endpoint.spec.text} state={state} "
            f"check={self._check.name}{because}"
        )


def _spelled(reason: str) -> str:
    """``reason`` as it may stand in a log line between quotes."""
    return escape_text(reason.encode("utf-8", "backslashreplace")).decode("ascii")

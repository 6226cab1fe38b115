"""Sources, checks and breakers of the clusters: started, told of, and ended."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase

import meshproxy.upstreams as upstreams_module
from meshproxy.config import load
from meshproxy.errors import ConfigError
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.upstream.checks import icmp
from meshproxy.upstream.cluster import Cluster
from meshproxy.upstream.endpoint import EndpointSpec
from meshproxy.upstreams import WARM, Upstreams

SPECS = [EndpointSpec(f"127.0.0.1:{n}", 2, ("127.0.0.1", n), f"127.0.0.1:{n}") for n in (1, 2, 3)]

_MESH = """
listeners: { web: { listen: '127.0.0.1:0', http: { routes: [{ to: { a: 1, b: 1, c: 1 } }] } } }
clusters:
  a: { discovery: { file: a.yaml } }
  b: { discovery: { file: b.yaml } }
  c:
    endpoints: ['127.0.0.1:9']
    circuit_breaker: {}
    health_check: { icmp: true, timeout: 1000s }
"""


class Source:
    """A source that says what it is told to; ``answer`` at once when it starts."""

    def __init__(self, answer: Callable[[Source], None] | None = None) -> None:
        self.running = False
        self._answer = answer

    def start(self, update: Callable[[Sequence[EndpointSpec]], None], failed: Any) -> None:
        """Keep both."""
        self.running = True
        self.update = update
        self.failed: Callable[[str], None] = failed
        if self._answer is not None:
            self._answer(self)

    def stop(self) -> None:
        """No more."""
        self.running = False

    def describe(self) -> dict[str, object]:
        """Something."""
        return {"kind": "told"}


class Check:
    """A check that never ends; ``asked`` counts up, and to -1 when it is cancelled."""

    name = "never"

    def __init__(self) -> None:
        self.asked = 0

    def check(self, endpoint: Any) -> Deferred[None]:
        """Wait."""
        self.asked += 1
        return Deferred(self._cancelled)

    def _cancelled(self, deferred: Deferred[None]) -> None:
        self.asked = -1


class UpstreamsTests(SynchronousTestCase):
    """With sources that are told what to say."""

    def setUp(self) -> None:
        """The lines of the log."""
        self.lines: list[str] = []
        log.addObserver(self._observe)
        self.addCleanup(log.removeObserver, self._observe)
        self.clock = Clock()

    def _observe(self, event: Any) -> None:
        if not event["isError"]:
            self.lines.append(" ".join(event["message"]))

    def make(self, text: str = _MESH, **sources: Any) -> Upstreams:
        """Upstreams whose clusters have these sources in place of their own."""
        loaded = load(text, "mesh.yaml")
        wheel, self.registry = TimerWheel(self.clock), Registry()
        self.clusters = {
            name: Cluster(name, model, self.registry, wheel)
            for name, model in loaded.configuration.clusters.items()
        }

        self.check: Any = None
        self.forbidden: str | None = None
        test = self

        class Told(Upstreams):
            def _source(self, cluster: Cluster) -> Any:
                return sources.get(cluster.name)

            def _check(self, cluster: Cluster) -> Any:
                return test.check

            def _forbidden(self, cluster: Cluster) -> str | None:
                return test.forbidden if cluster.config.health_check is not None else None

        self.warm: list[float] = []
        return Told(loaded, self.clusters, self.clock)

    def start(self, upstreams: Upstreams) -> None:
        """Start; ``warm`` remembers when it was warm."""
        upstreams.start(lambda: self.warm.append(self.clock.seconds()))

    def value(self, cluster: str, slot: str) -> float:
        """A number of a cluster."""
        stats = self.clusters[cluster].stats
        value: float = stats.values[getattr(stats, slot)]
        return value

    def test_warm_at_once(self) -> None:
        """Without a source nobody is waited for, and no timer is left."""
        self.start(self.make())
        assert self.warm == [0.0]
        assert self.clock.getDelayedCalls() == []

    def test_warm_when_all_have_spoken(self) -> None:
        """A failure counts as much as an answer; warm comes once."""
        a, b = Source(), Source()
        self.start(self.make(a=a, b=b))
        self.clock.advance(1)
        a.update(SPECS)
        a.update(SPECS[:2])
        assert self.warm == []
        b.failed("no such file")
        assert self.warm == [1.0]
        b.update(SPECS)
        self.clock.advance(2 * WARM)
        assert self.warm == [1.0]
        assert self.clock.getDelayedCalls() == []

    def test_sources_that_answer_at_once(self) -> None:
        """Warm comes when all have been started, and not before."""
        a, b = Source(lambda one: one.update(SPECS)), Source(lambda one: one.failed("x"))
        upstreams = self.make(a=a, b=b)
        upstreams.start(lambda: self.warm.append(a.running and b.running))
        assert self.warm == [True]

    def test_a_silent_source_is_not_waited_for_long(self) -> None:
        """The log says who was silent; what it says later counts."""
        a, b = Source(), Source()
        self.start(self.make(a=a, b=b))
        a.update(SPECS)
        self.clock.advance(WARM)
        assert self.warm == [WARM]
        assert f"discovery clusters=b silent_for={WARM:g}s: serving without them" in self.lines
        b.update(SPECS)
        assert len(self.clusters["b"].endpoints) == 3
        assert self.warm == [WARM]

    def test_stopped_before_it_was_warm(self) -> None:
        """Everything is stopped, no timer is left, and warm does not come."""
        a, b = Source(), Source()
        upstreams = self.make(a=a, b=b)
        self.start(upstreams)
        upstreams.stop()
        assert not a.running
        assert not b.running
        a.update(SPECS)
        b.update(SPECS)
        assert self.warm == []
        assert self.clock.getDelayedCalls() == []

    def test_updates_are_counted_and_changes_logged(self) -> None:
        """Every word is counted; a line comes when the endpoints, or the error, changed."""
        a = Source()
        self.start(self.make(a=a))
        for _ in range(3):
            a.update(SPECS)
        a.update(SPECS[:1])
        for _ in range(2):
            a.failed('cannot be "read"\nat all')
        a.failed("timed out")
        a.update(SPECS[:1])
        assert [line for line in self.lines if line.startswith("discovery")] == [
            "discovery cluster=a endpoints=3",
            "discovery cluster=a endpoints=1",
            "discovery cluster=a error=\"cannot be 'read' at all\"",
            'discovery cluster=a error="timed out"',
            "discovery cluster=a endpoints=1",
        ]
        assert self.value("a", "updates") == 5
        assert self.value("a", "update_failures") == 3
        assert self.value("b", "updates") == self.value("b", "update_failures") == 0

    def test_a_failure_keeps_the_last_good_set(self) -> None:
        """What was known stays in use."""
        a = Source()
        self.start(self.make(a=a))
        a.update(SPECS)
        a.failed("gone")
        assert [endpoint.spec for endpoint in self.clusters["a"].endpoints] == SPECS

    def test_a_source_with_a_defect(self) -> None:
        """One that raises when it starts, stops, or says nonsense is logged and harms nobody."""

        class Broken(Source):
            def start(self, update: Any, failed: Any) -> None:
                raise ZeroDivisionError("oh")

            def stop(self) -> None:
                raise ZeroDivisionError("oh")

        b = Source()
        upstreams = self.make(a=Broken(), b=b)
        self.start(upstreams)
        nonsense: Any = [None]
        b.update(nonsense)
        assert self.warm == [0.0]
        assert self.value("a", "update_failures") == self.value("b", "update_failures") == 1
        assert self.value("b", "updates") == 0
        upstreams.stop()
        assert not b.running
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 2
        assert len(self.flushLoggedErrors(AttributeError)) == 1

    def test_pools_are_warmed_up(self) -> None:
        """Of the clusters that are to be kept warm, when they start."""
        warmed: list[Cluster] = []
        self.patch(upstreams_module, "warm_up", warmed.append)
        text = _MESH.replace("{ file: a.yaml }", "{ file: a.yaml }, pool: { warm: 2 }")
        upstreams = self.make(text)
        assert warmed == []
        self.start(upstreams)
        assert warmed == [self.clusters["a"]]

    def test_the_admin_sees_all(self) -> None:
        """Each cluster describes itself, its source, and what is known of each endpoint."""
        upstreams = self.make(a=Source())
        self.check = Check()
        upstreams.prepare()
        self.start(upstreams)
        shown = {cluster["name"]: cluster for cluster in upstreams.describe()}
        assert shown["a"]["source"] == {"kind": "told"}
        assert "source" not in shown["c"]
        (entry,) = shown["c"]["endpoints"]
        assert entry["address"] == "127.0.0.1:9"
        assert entry["health"]["healthy"]
        json.dumps(shown)
        upstreams.stop()
        assert self.clock.getDelayedCalls() == []

    def test_checks_live_as_long_as_it_runs(self) -> None:
        """Nothing is asked before it starts or after it stopped, nor is anything left waiting."""
        upstreams = self.make()
        check = self.check = Check()
        upstreams.prepare()
        self.clock.advance(60)
        assert check.asked == 0
        self.start(upstreams)
        self.clock.advance(60)
        assert check.asked == 1
        upstreams.stop()
        assert check.asked == -1
        self.clock.advance(60)
        assert check.asked == -1

    def test_a_check_that_the_system_forbids(self) -> None:
        """It is told at its place, before anything is started."""
        upstreams = self.make()
        self.forbidden = "the kernel forbids it"
        with self.assertRaises(ConfigError) as caught:
            upstreams.prepare()
        (problem,) = caught.exception.problems
        assert str(problem) == (
            "mesh.yaml:9:27: clusters.c.health_check.icmp: the kernel forbids it"
        )

    def test_pings_that_the_kernel_forbids(self) -> None:
        """What is asked of the system is what the endpoints' addresses need."""
        asked: list[int] = []

        def forbidden(family: int) -> str | None:
            asked.append(family)
            return "not IPv6" if family == socket.AF_INET6 else None

        self.patch(icmp, "forbidden", forbidden)
        for endpoints, problem in (
            ("['127.0.0.1:9', '127.0.0.2:9']", None),
            ("['127.0.0.1:9', '[::1]:9']", "not IPv6"),
            ("['api.example:9'], resolve: strict", None),
        ):
            loaded = load(
                "listeners: { web: { listen: '127.0.0.1:0', http: { routes: [{ to: c }] } } }\n"
                f"clusters: {{ c: {{ health_check: {{ icmp: true }}, endpoints: {endpoints} }} }}",
                "mesh.yaml",
            )
            wheel = TimerWheel(self.clock)
            cluster = Cluster("c", loaded.configuration.clusters["c"], Registry(), wheel)
            upstreams = Upstreams(loaded, {"c": cluster}, self.clock)
            if problem is None:
                upstreams.prepare()
            else:
                self.assertRaisesRegex(ConfigError, problem, upstreams.prepare)
        assert asked == [socket.AF_INET, socket.AF_INET, socket.AF_INET6, socket.AF_INET]

"""The filters of a configuration: made once, verified, started in order, stopped in reverse."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshproxy.chains import Chains
from meshproxy.config import FilterItem, Loaded, load
from meshproxy.errors import ConfigError, MeshproxyError
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from tests.config.texts import DROPINS

MESH = (
    f"plugins: [{DROPINS}]\n"
    """\
listeners:
  web:
    listen: ":80"
    listener_filters: [t_judge]
    http:
      filters: [t_limit: { requests: 1 }, t_serviced: { word: a }]
      hosts:
        a: { filters: [t_serviced: false, t_short], routes: [] }
      routes:
        - respond: {}
          filters: [t_limit: { size: 5 }]
  raw:
    listen: ":81"
    tcp: { filters: [t_judge, t_serve] }
  more:
    listen: ":82"
    http:
      filters: [t_serviced: { word: LAST }]
"""
)


def dropins() -> Any:
    """The module of the tests' filters, as the plugins' search imported it."""
    return sys.modules["twisted.plugins.tested_filters"]


class Made:
    """A factory of what a test gives it."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def create(self, options: Any) -> Any:
        """It, or an error."""
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class ChainsTests(TestCase):
    """Every filter of a configuration."""

    def setUp(self) -> None:
        """A clock and counters; nothing has happened."""
        self.clock = Clock()
        self.registry = Registry()

    def chains(self, text: str = MESH) -> Chains:
        """The chains of a text."""
        self.loaded: Loaded = load(text, "mesh.yaml")
        dropins().EVENTS.clear()
        return Chains(self.loaded, self.registry, TimerWheel(self.clock), self.clock)

    def refused(self, chains: Chains, *items: FilterItem) -> list[str]:
        """What is said of items at the place of the listener's own."""
        with self.assertRaises(ConfigError) as caught:
            chains.fit("http", "web", items, ("listeners", "web", "http", "filters"))
        return [str(problem) for problem in caught.exception.problems]

    def events(self) -> Sequence[str]:
        """What was started and stopped."""
        return list(dropins().EVENTS)

    def test_a_filter_for_each_place(self) -> None:
        """Each item is made once, whoever asks; what is switched off is not there."""
        chains = self.chains()
        chains.prepare()
        http = self.loaded.configuration.listeners["web"].http
        assert http is not None
        path = ("listeners", "web", "http", "filters")
        fitted = chains.fit("http", "web", http.filters, path)
        again = chains.fitting("http", "web")(http.filters, path)
        assert [id(one) for one in fitted] == [id(one) for one in again]
        assert [(one.label, one.listener) for one in fitted] == [
            ("t_limit", "web"),
            ("t_serviced", "web"),
        ]
        assert fitted[0].filter.options.requests == 1
        (host,) = chains.fit("http", "web", http.hosts["a"].filters, path)
        assert host.label == "t_short"
        (route,) = chains.fit("http", "web", http.routes[0].filters, path)
        assert route.filter.options.size == 5
        assert route.filter is not fitted[0].filter
        assert self.events() == []
        assert self.clock.getDelayedCalls() == []

    def test_what_a_filter_refuses_is_told_at_its_place(self) -> None:
        """All of it at once, in the order of the text, whether create or attach refuses it."""
        text = MESH.replace("requests: 1 }", "requests: 13 }").replace(
            "filters: [t_limit: { size: 5 }]", "filters: [t_loose: { count: 13 }]"
        )
        with self.assertRaises(ConfigError) as caught:
            self.chains(text).prepare()
        assert [str(problem) for problem in caught.exception.problems] == [
            "mesh.yaml:7:26: listeners.web.http.filters[0].t_limit: 13 brings bad luck",
            "mesh.yaml:12:30: listeners.web.http.routes[0].filters[0].t_loose: 13 brings bad luck",
        ]

    def test_a_filter_that_breaks_its_promise(self) -> None:
        """One that lacks what it says it provides, or has a defect, is refused by name."""
        with self.assertRaises(ConfigError) as caught:
            self.chains(MESH.replace("t_short]", "t_broken]")).prepare()
        (problem,) = caught.exception.problems
        assert str(problem).startswith(
            "mesh.yaml:9:43: listeners.web.http.hosts.a.filters[1].t_broken: the filter 't_broken' "
            "cannot be used: it provides IRequestFilter badly: "
        )
        chains = self.chains()
        at = "mesh.yaml:7:17: listeners.web.http.filters[0].x: "
        for made, message in (
            (ZeroDivisionError("oh"), "the filter 'x' cannot be made: ZeroDivisionError: oh"),
            (ValueError("no"), "no"),
            (ValueError(), "ValueError"),
            (object(), "the filter 'x' cannot be used: it provides none of IRequestFilter, "),
        ):
            (said,) = self.refused(chains, FilterItem("x", "x", "http", Made(made)))
            assert said.startswith(at + message), said
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_started_in_order_and_stopped_in_reverse(self) -> None:
        """Once each; stopping before starting, or again, does nothing."""
        chains = self.chains()
        chains.prepare()
        self.successResultOf(chains.stop())
        assert self.events() == []
        chains.start()
        assert self.events() == ["start a", "start LAST"]
        self.successResultOf(chains.stop())
        self.successResultOf(chains.stop())
        assert self.events() == ["start a", "start LAST", "stop LAST", "stop a"]

    def test_one_that_does_not_start(self) -> None:
        """It is named, and those before it are stopped again; a defect is logged besides."""
        chains = self.chains(MESH.replace("LAST", "bad"))
        chains.prepare()
        with self.assertRaises(MeshproxyError) as caught:
            chains.start()
        assert str(caught.exception) == (
            "filter 't_serviced' of listener 'more' (listeners.more.http.filters[0]) does not "
            "start: no such luck"
        )
        assert self.events() == ["start a", "stop a"]

        def fail() -> None:
            raise ZeroDivisionError("oh")

        chains = self.chains()
        chains.prepare()
        http = self.loaded.configuration.listeners["more"].http
        assert http is not None
        chains.fit("http", "more", http.filters, ())[0].filter.start = fail
        with self.assertRaisesRegex(MeshproxyError, "does not start: ZeroDivisionError: oh"):
            chains.start()
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

        async def later() -> None:
            """Never runs: nobody waits for it."""

        chains = self.chains()
        chains.prepare()
        http = self.loaded.configuration.listeners["more"].http
        assert http is not None
        chains.fit("http", "more", http.filters, ())[0].filter.start = later
        with self.assertRaisesRegex(MeshproxyError, r"does not start: start\(\) cannot wait"):
            chains.start()

    def test_one_that_fails_to_stop(self) -> None:
        """It is logged, and keeps nobody else from stopping; one that waits is waited for."""
        chains = self.chains()
        chains.prepare()
        configuration = self.loaded.configuration
        first, last = (configuration.listeners[name].http for name in ("web", "more"))
        assert first is not None
        assert last is not None
        waiting: Deferred[None] = Deferred()

        def fail() -> None:
            raise ZeroDivisionError("oh")

        chains.fit("http", "more", last.filters, ())[0].filter.stop = fail
        chains.fit("http", "web", first.filters, ())[1].filter.stop = lambda: waiting
        chains.start()
        stopped = chains.stop()
        self.assertNoResult(stopped)
        waiting.callback(None)
        self.successResultOf(stopped)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_what_filters_are_given(self) -> None:
        """The context is all that the interface says, of this listener and this label."""
        given: list[Any] = []

        @implementer(IRequestFilter, IContextFilter)
        class Asking:
            def attach(self, context: Any) -> None:
                given.append(context)

            def request(self, exchange: Any) -> None:
                pass

        chains = self.chains()
        chains.fit("http", "web", [FilterItem("my-plugin", "mine", "http", Made(Asking()))], ())
        (context,) = given
        verifyObject(IFilterContext, context)
        assert (context.name, context.listener, context.reactor) == ("mine", "web", self.clock)
        assert context.path("a/b") == str(Path.cwd() / "a" / "b")
        assert context.path("/a") == "/a"
        counter = context.counter("seen", "Seen", place="x")
        counter.inc()
        counter.inc(2)
        (family,) = [one for one in self.registry.families if "my_plugin" in one.name]
        assert family.name == "meshproxy_filter_my_plugin_seen_total"
        assert family.label_names == ("listener", "filter", "place")
        assert list(family.series) == [("web", "mine", "x")]
        assert context.counter("seen", "Seen", place="x").value == 3
        slept: list[object] = []
        context.sleep(5).addCallback(slept.append)
        self.clock.advance(4.9)
        assert (slept, context.now()) == ([], 4.9)
        self.clock.advance(0.2)
        assert slept == [None]

    def test_the_http_client_is_its_own_and_forgets(self) -> None:
        """Made when it is asked for, one a filter; it keeps no cookies, and is closed with all."""
        chains = self.chains()
        client = chains._client()
        client._cookiejar.set_cookie(object())
        assert list(client._cookiejar) == []
        assert chains._client() is not client
        assert len(chains._pools) == 2
        closed: list[Any] = []

        def close() -> Deferred[None]:
            closed.append(1)
            return succeed(None)

        for pool in chains._pools:
            self.patch(pool, "closeCachedConnections", close)
        self.successResultOf(chains.stop())
        assert (len(closed), chains._pools) == (2, [])

    def test_what_the_admin_sees(self) -> None:
        """Every filter with its place, and what those show that show anything."""
        chains = self.chains()
        chains.prepare()
        told = [
            (one["listener"], one["name"], one["kind"], one["at"], one["shows"])
            for one in chains.describe()
        ]
        assert told == [
            ("web", "t_judge", "listener", "listeners.web.listener_filters[0]", False),
            ("web", "t_limit", "http", "listeners.web.http.filters[0]", True),
            ("web", "t_serviced", "http", "listeners.web.http.filters[1]", False),
            ("web", "t_short", "http", "listeners.web.http.hosts.a.filters[1]", False),
            ("web", "t_limit", "http", "listeners.web.http.routes[0].filters[0]", True),
            ("raw", "t_judge", "tcp", "listeners.raw.tcp.filters[0]", False),
            ("raw", "t_serve", "tcp", "listeners.raw.tcp.filters[1]", False),
            ("more", "t_serviced", "http", "listeners.more.http.filters[0]", False),
        ]
        json.dumps(chains.describe())
        show = chains.shown("web", "t_limit")
        assert show is not None
        assert show() == {
            "listeners.web.http.filters[0]": {"seen": 0},
            "listeners.web.http.routes[0].filters[0]": {"seen": 0},
        }
        for listener, label in (("web", "t_serviced"), ("raw", "t_limit"), ("", "")):
            assert chains.shown(listener, label) is None
        alone = self.chains(MESH.replace("[t_limit: { size: 5 }]", "[]"))
        alone.prepare()
        show = alone.shown("web", "t_limit")
        assert show is not None
        assert show() == {"seen": 0}

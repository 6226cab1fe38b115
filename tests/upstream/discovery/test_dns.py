"""Endpoints from names: when they are asked for again, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python import log
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IDiscovery
from meshproxy.upstream.discovery import dns as module
from meshproxy.upstream.discovery.dns import DnsDiscovery
from meshproxy.upstream.discovery.resolver import LookupFailed
from meshproxy.upstream.endpoint import EndpointSpec
from tests.dnsserver import DnsServer
from tests.net.logged import errors
from tests.upstream.discovery.made import FakeResolver, both, dns, endpoint
from tests.upstream.discovery.waiting import Told, clean_reactor


class Bench:
    """A source of endpoints with a fake resolver and clock, and what it told."""

    def __init__(self, *endpoints: str | dict[str, Any], resolve: Any = "strict", **settings: Any):
        self.clock = Clock()
        self.resolver = FakeResolver()
        self.told = Told()
        self.source = DnsDiscovery(
            self.clock,
            [endpoint(value) for value in endpoints],
            resolve,
            dns(**{"jitter": 0.0, **settings}),
            self.resolver,
        )

    def start(self) -> None:
        """Start the source."""
        self.source.start(self.told.update, self.told.failed)

    @property
    def wait(self) -> float:
        """Seconds until the next look-up; there is one."""
        (call,) = self.clock.getDelayedCalls()
        return float(call.getTime() - self.clock.seconds())

    def advance(self) -> None:
        """Until the next look-up."""
        self.clock.advance(self.wait)


def test_it_is_a_source() -> None:
    """It provides what it says."""
    assert verifyObject(IDiscovery, Bench("api.test:80").source)


def test_what_is_written_down_is_there_at_once() -> None:
    """Names add theirs as they are answered, in the configuration's order."""
    bench = Bench("b.test:80", "10.0.0.9:80", "a.test:80")
    bench.start()
    assert bench.told.keys == ["10.0.0.9:80"]
    bench.resolver.tell("a.test", both("10.0.0.1"))
    assert bench.told.keys == ["10.0.0.9:80", "10.0.0.1:80"]
    bench.resolver.tell("b.test", both("10.0.0.2"))
    assert bench.told.keys == ["10.0.0.2:80", "10.0.0.9:80", "10.0.0.1:80"]
    assert bench.told.failures == []


def test_nothing_is_told_before_there_is_something() -> None:
    """Names alone: the first answer is the first update."""
    bench = Bench("a.test:80")
    bench.start()
    assert bench.told.updates == []
    bench.resolver.tell("a.test", both("10.0.0.1"))
    assert bench.told.keys == ["10.0.0.1:80"]


def test_the_same_answer_is_told_once() -> None:
    """In another order, too; a changed one is told again, without what left."""
    bench = Bench("a.test:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1 10.0.0.2")
    bench.start()
    bench.resolver.hosts["a.test"] = both("10.0.0.2 10.0.0.1")
    bench.advance()
    assert len(bench.told.updates) == 1
    bench.resolver.hosts["a.test"] = both("10.0.0.2")
    bench.advance()
    assert bench.told.keys == ["10.0.0.2:80"]


def test_two_names_of_one_address() -> None:
    """One endpoint, with what the first says; it stays while either names it."""
    bench = Bench({"address": "a.test:80", "weight": 5}, "b.test:80", "10.0.0.3:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.resolver.hosts["b.test"] = both("10.0.0.1 10.0.0.3")
    bench.start()
    assert [(s.key, s.weight) for s in bench.told.updates[-1]] == [
        ("10.0.0.1:80", 5),
        ("10.0.0.3:80", 1),
    ]


def test_logical_keeps_its_identity() -> None:
    """Another address of the same name is the same key."""
    bench = Bench("a.test:80", resolve="logical")
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.start()
    bench.resolver.hosts["a.test"] = both("10.0.0.2")
    bench.advance()
    assert [[(s.key, s.text) for s in specs] for specs in bench.told.updates] == [
        [("a.test:80", "10.0.0.1:80")],
        [("a.test:80", "10.0.0.2:80")],
    ]


@pytest.mark.parametrize(
    ("ttl", "wait"), [(60, 60.0), (0, 2.0), (1, 2.0), (100_000, 90.0), (None, 7.0)]
)
def test_asked_again_when_the_answer_expires(ttl: int | None, wait: float) -> None:
    """Within the bounds; without a TTL after the one for what has none."""
    bench = Bench("a.test:80", min_ttl="2s", max_ttl="90s", negative_ttl="7s")
    bench.resolver.hosts["a.test"] = both("10.0.0.1", ttl=ttl)
    bench.start()
    assert bench.wait == wait


@pytest.mark.parametrize(("ttl", "wait"), [(30, 30.0), (None, 7.0), (1, 2.0), (1000, 90.0)])
def test_asked_again_after_a_failure(ttl: int | None, wait: float) -> None:
    """When a server says how long there is no such name, then; soon otherwise."""
    bench = Bench("a.test:80", min_ttl="2s", max_ttl="90s", negative_ttl="7s")
    bench.resolver.hosts["a.test"] = LookupFailed("there is no such name", ttl)
    bench.start()
    assert bench.wait == wait


def test_asked_again_when_something_is_missing() -> None:
    """What is missing does not wait for what is not."""
    bench = Bench("a.test:80", negative_ttl="7s")
    bench.resolver.hosts["a.test"] = both("10.0.0.1", "?", 60, "AAAA: SERVFAIL")
    bench.start()
    assert bench.wait == 7.0
    bench.resolver.hosts["a.test"] = both("10.0.0.1", "?", 5, "AAAA: SERVFAIL")
    bench.advance()
    assert bench.wait == 5.0
    assert bench.told.failures == []


@pytest.mark.parametrize(("drawn", "wait"), [(0.0, 60.0), (0.5, 57.0), (1.0, 54.0)])
def test_jitter(monkeypatch: pytest.MonkeyPatch, drawn: float, wait: float) -> None:
    """Earlier by up to so many percent."""
    monkeypatch.setattr(module, "random", lambda: drawn)
    bench = Bench("a.test:80", jitter=10.0)
    bench.resolver.hosts["a.test"] = both("10.0.0.1", ttl=60)
    bench.start()
    assert bench.wait == pytest.approx(wait)


def test_jitter_keeps_to_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draw makes it ask without pause."""
    monkeypatch.setattr(module, "random", lambda: 1.0)
    bench = Bench("a.test:80", jitter=100.0, min_ttl="2s")
    bench.resolver.hosts["a.test"] = both("10.0.0.1", ttl=60)
    bench.start()
    assert bench.wait == 2.0


@pytest.mark.parametrize("reason", ["SERVFAIL", "there is no such name"])
def test_a_failure_takes_nothing_away(reason: str) -> None:
    """What was known last stays; the failure is told each time, and recovery too."""
    bench = Bench("a.test:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.start()
    bench.resolver.hosts["a.test"] = LookupFailed(reason)
    bench.advance()
    bench.advance()
    assert bench.told.failures == [f"a.test:80: {reason}"] * 2
    assert len(bench.told.updates) == 1
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.advance()
    assert [[spec.key for spec in specs] for specs in bench.told.updates] == [["10.0.0.1:80"]] * 2
    bench.advance()
    assert len(bench.told.updates) == 2


def test_one_name_fails_beside_others() -> None:
    """The others go on; what is told names all that fail, so that it stays the same."""
    bench = Bench("a.test:80", "b.test:80", "c.test:80")
    bench.resolver.hosts["a.test"] = LookupFailed("SERVFAIL")
    bench.resolver.hosts["b.test"] = both("10.0.0.2")
    bench.resolver.hosts["c.test"] = LookupFailed("REFUSED")
    bench.start()
    assert bench.told.keys == ["10.0.0.2:80"]
    assert bench.told.failures == [
        "a.test:80: SERVFAIL",
        "a.test:80: SERVFAIL; c.test:80: REFUSED",
    ]


def test_what_raises_in_a_look_up_is_a_failure() -> None:
    """A defect is logged, and the next look-up comes."""
    bench = Bench("a.test:80")
    bench.resolver.hosts["a.test"] = RuntimeError("a defect")
    with errors() as logged:
        bench.start()
    assert [failure.type for failure in logged] == [RuntimeError]
    assert bench.told.failures == ["a.test:80: a defect"]
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.advance()
    assert bench.told.keys == ["10.0.0.1:80"]


def test_what_raises_in_update_ends_nothing() -> None:
    """Logged, and the next look-up comes."""
    bench = Bench("a.test:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1")

    def broken(_: Sequence[EndpointSpec]) -> None:
        raise RuntimeError("a defect")

    with errors() as logged:
        bench.source.start(broken, bench.told.failed)
    assert [failure.type for failure in logged] == [RuntimeError]
    assert bench.wait > 0


def test_stop_while_waiting_and_while_asking() -> None:
    """No timer and no question is left, and nothing is told any more."""
    bench = Bench("a.test:80", "b.test:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.start()
    told = len(bench.told.updates)
    bench.source.stop()
    assert bench.clock.getDelayedCalls() == []
    assert bench.resolver.cancelled == ["b.test"]
    assert (len(bench.told.updates), bench.told.failures) == (told, [])
    bench.source.stop()


def test_stop_before_start() -> None:
    """Nothing was begun, and nothing ends."""
    bench = Bench("a.test:80")
    bench.source.stop()
    assert bench.resolver.asked == []


def test_stop_from_within_update() -> None:
    """Whoever is told may end it."""
    bench = Bench("a.test:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1")
    bench.source.start(lambda specs: bench.source.stop(), bench.told.failed)
    assert bench.clock.getDelayedCalls() == []


def test_describe() -> None:
    """Where it looks, what it knows by name, when it looks again, and what went wrong last."""
    bench = Bench("a.test:80", "b.test:80", {"srv": "_x._tcp.test"}, negative_ttl="9s")
    bench.resolver.hosts["a.test"] = both("10.0.0.1", ttl=60)
    bench.resolver.srv["_x._tcp.test"] = LookupFailed("SERVFAIL")
    bench.start()
    bench.clock.advance(1)
    said = bench.source.describe()
    assert (said["kind"], said["where"]) == ("dns", ["192.0.2.53 port 53"])
    assert said["last_error"] == "_x._tcp.test: SERVFAIL"
    assert said["last_success"] == said["names"][0]["last_success"] > 1e9
    a, b, x = said["names"]
    assert (a["name"], a["addresses"], a["next"]) == ("a.test:80", ["10.0.0.1:80"], 59.0)
    assert (b["addresses"], b["next"], b["last_success"]) == ([], None, None)
    assert (x["name"], x["next"], x["last_error"]) == ("_x._tcp.test", 8.0, "SERVFAIL")


def logged_lines(act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The event lines of an act."""
    lines: list[str] = []
    monkeypatch.setattr(log, "msg", lines.append)
    act()
    return lines


def test_event_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each change of a name's addresses, and for each new lack; none for what stays."""
    bench = Bench("a.test:80")
    bench.resolver.hosts["a.test"] = both("10.0.0.1 10.0.0.2", ttl=9)
    assert logged_lines(bench.start, monkeypatch) == [
        'discovery dns=a.test:80 ttl=9 addresses="10.0.0.1:80,10.0.0.2:80"'
    ]
    assert logged_lines(bench.advance, monkeypatch) == []
    bench.resolver.hosts["a.test"] = both("10.0.0.1 10.0.0.2", "?", 9, 'AAAA: "no"')
    partial = ["discovery dns=a.test:80 state=partial reason=\"AAAA: 'no'\""]
    assert logged_lines(bench.advance, monkeypatch) == partial
    assert logged_lines(bench.advance, monkeypatch) == []


def test_a_real_server_with_records_that_come_and_go() -> None:
    """From datagrams to endpoints: new, changed, broken, back; and nothing is left after stop."""
    with clean_reactor() as reactor, DnsServer() as names:
        names.put("_x._tcp.test", "SRV", ["0 0 9001 a.test.", "1 0 9002 b.test."], ttl=0)
        names.put("a.test", "A", ["10.0.0.1"], ttl=0)
        names.put("b.test", "A", ["10.0.0.2"], ttl=0)
        told = Told()
        source = DnsDiscovery(
            reactor,
            [endpoint("a.test:80"), endpoint({"srv": "_x._tcp.test"})],
            "strict",
            dns(servers=[names.address], min_ttl="20ms", negative_ttl="20ms", max_ttl="20ms"),
        )
        source.start(told.update, told.failed)
        told.wait(reactor, lambda: len(told.keys) == 3)
        assert told.keys == ["10.0.0.1:80", "10.0.0.1:9001", "10.0.0.2:9002"]
        names.put("a.test", "A", ["10.0.0.1", "10.0.0.3"], ttl=0)
        told.wait(reactor, lambda: len(told.keys) == 5)
        names.manner = "nxdomain"
        told.wait(reactor, lambda: told.failures)
        assert len(told.keys) == 5
        names.manner = "answer"
        names.put("_x._tcp.test", "SRV", ["0 0 0 ."], ttl=0)
        told.wait(reactor, lambda: told.keys == ["10.0.0.1:80", "10.0.0.3:80"])
        names.manner = "stall"
        asked = names.count()
        told.wait(reactor, lambda: names.count() >= asked + 3)
        source.stop()

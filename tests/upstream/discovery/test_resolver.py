"""From names to addresses: hosts, servers, families, and the search list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.discovery import resolver as module
from meshproxy.upstream.discovery.resolver import (
    Addresses,
    Family,
    LookupFailed,
    Resolver,
    Service,
    _candidates,
)
from meshproxy.upstream.discovery.system import Hosts, ResolvConf, Settings
from tests.dnsserver import HOST, DnsServer
from tests.net import live
from tests.upstream.discovery.waiting import clean_reactor, result


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor that the test must leave clean."""
    with clean_reactor() as made:
        yield made


@pytest.fixture
def names() -> Iterator[DnsServer]:
    """A server that knows a few hosts."""
    with DnsServer() as server:
        server.put("both.test", "A", ["10.0.0.2", "10.0.0.1"], ttl=30)
        server.put("both.test", "AAAA", ["fd00::1"], ttl=20)
        server.put("four.test", "A", ["10.0.0.4"], ttl=30)
        yield server


class Machine:
    """A resolver with hosts and search settings of its own."""

    def __init__(self, reactor: Any, server: DnsServer, directory: Path) -> None:
        self.reactor = reactor
        self.server = server
        self.hosts = directory / "hosts"
        self.hosts.write_text("10.9.9.9 local.test\nfd09::9 six.local.test\n")
        self.conf = directory / "resolv.conf"

    def made(self, family: Family = "any", timeout: float = 20.0) -> Resolver:
        """The resolver, with this server configured."""
        return Resolver(
            self.reactor,
            [(HOST, self.server.port)],
            family,
            timeout,
            Hosts(str(self.hosts)),
            ResolvConf(str(self.conf)),
        )

    def addresses(self, name: str, family: Family = "any", timeout: float = 20.0) -> Addresses:
        """Look it up."""
        made = self.made(family, timeout)
        return result(self.reactor, Deferred.fromCoroutine(made.addresses(name)))


@pytest.fixture
def machine(reactor: MeshReactor, names: DnsServer, tmp_path: Path) -> Machine:
    """A machine whose only name server is ``names``."""
    return Machine(reactor, names, tmp_path)


def test_both_families(machine: Machine) -> None:
    """Each in the order of its answer; the TTL is the smaller one."""
    found = machine.addresses("both.test")
    assert found == Addresses({AF_INET: ("10.0.0.2", "10.0.0.1"), AF_INET6: ("fd00::1",)}, 20)


@pytest.mark.parametrize(("family", "kind"), [("ipv4", "A"), ("ipv6", "AAAA")])
def test_one_family(machine: Machine, family: Family, kind: str) -> None:
    """What is not wanted is not asked for."""
    found = machine.addresses("both.test", family)
    assert len(found.by_family) == 1
    assert [query.type for query in machine.server.queries] == [kind]


def test_a_family_that_is_not_there(machine: Machine) -> None:
    """Its absence is an answer, and its negative TTL does not count beside real addresses."""
    machine.server.negative_ttl = 1
    assert machine.addresses("four.test") == Addresses({AF_INET: ("10.0.0.4",), AF_INET6: ()}, 30)


def test_a_family_that_nobody_could_tell(machine: Machine) -> None:
    """The other's addresses count, and it is said what is missing."""
    machine.server.manners["both.test", "AAAA"] = "servfail"
    found = machine.addresses("both.test")
    assert found.by_family == {AF_INET: ("10.0.0.2", "10.0.0.1"), AF_INET6: None}
    assert found.problem.startswith("AAAA: ")
    assert "SERVFAIL" in found.problem


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none.test", "there is no such name"), ("text.test", "it has no A/AAAA records")],
)
def test_no_such_name_and_no_address(machine: Machine, name: str, reason: str) -> None:
    """Told apart in words; both come with the negative TTL."""
    machine.server.put("text.test", "TXT", ["hello"])
    machine.server.negative_ttl = 17
    with pytest.raises(LookupFailed, match=reason) as caught:
        machine.addresses(name)
    assert caught.value.ttl == 17


def test_a_failure_has_no_ttl(machine: Machine) -> None:
    """Nobody said how long it lasts."""
    machine.server.manner = "servfail"
    with pytest.raises(LookupFailed, match="SERVFAIL") as caught:
        machine.addresses("both.test")
    assert caught.value.ttl is None


def test_addresses_that_are_none(machine: Machine) -> None:
    """0.0.0.0 (what some filters answer) would be this machine; multicast would be nobody."""
    machine.server.put("four.test", "A", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.4"])
    assert machine.addresses("four.test").by_family[AF_INET] == ("10.0.0.4",)
    machine.server.put("four.test", "A", ["0.0.0.0"])
    with pytest.raises(LookupFailed, match="none to connect to"):
        machine.addresses("four.test")


@pytest.mark.parametrize("name", ["local.test", "Local.Test", "local.test."])
def test_hosts_come_first(machine: Machine, name: str) -> None:
    """Without a question to any server, and without a TTL."""
    found = machine.addresses(name)
    assert found == Addresses({AF_INET: ("10.9.9.9",), AF_INET6: ()}, None)
    assert machine.server.count() == 0


def test_hosts_without_the_family_that_is_wanted(machine: Machine) -> None:
    """The servers are asked then."""
    machine.server.put("six.local.test", "A", ["10.0.0.6"])
    assert machine.addresses("six.local.test", "ipv4").by_family == {AF_INET: ("10.0.0.6",)}
    assert machine.addresses("six.local.test", "ipv6").by_family == {AF_INET6: ("fd09::9",)}


@pytest.mark.parametrize(
    ("name", "ndots", "asked"),
    [
        ("web", 1, ["web.a.test.", "web.b.test.", "web."]),
        ("web.", 1, ["web."]),
        ("web.one", 1, ["web.one.", "web.one.a.test.", "web.one.b.test."]),
        ("web.one", 2, ["web.one.a.test.", "web.one.b.test.", "web.one."]),
    ],
)
def test_the_search_list(name: str, ndots: int, asked: list[str]) -> None:
    """Which names are asked for, in which order."""
    settings = Settings(search=("a.test", "b.test"), ndots=ndots)
    assert [candidate.to_text() for candidate in _candidates(name, settings)] == asked


def test_names_that_cannot_be_asked_for() -> None:
    """Too long in whole or in part; with a suffix that is too long, the others are asked."""
    for name in ("a" * 64 + ".test", "a." * 130, ".."):
        with pytest.raises(LookupFailed, match="no name that can be asked for"):
            _candidates(name, Settings(search=("a.test",)))
    settings = Settings(search=(".".join(["a" * 60] * 4), "b.test"))
    names = _candidates("a" * 60, settings)
    assert [name.to_text()[60:] for name in names] == [".b.test.", "."]


def searching(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """A resolver that goes by resolv.conf, whose server is the test's."""
    settings = Settings(((HOST, machine.server.port),), ("a.test", "b.test"), 1)
    monkeypatch.setattr(ResolvConf, "settings", lambda self: settings)
    return Resolver(machine.reactor, [], "ipv4", 20.0, Hosts(str(machine.hosts)))


def test_the_first_name_that_is_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search list is gone along while names are not there or have no address."""
    machine.server.put("web.a.test", "TXT", ["nothing of use"])
    machine.server.put("web.b.test", "A", ["10.0.0.7"])
    made = searching(machine, monkeypatch)
    found = result(machine.reactor, Deferred.fromCoroutine(made.addresses("web")))
    assert found.by_family[AF_INET] == ("10.0.0.7",)


def test_a_failure_ends_the_search(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the right name cannot be asked for, another of the list must not take its place."""
    machine.server.manners["web.a.test", "A"] = "servfail"
    machine.server.put("web.b.test", "A", ["10.0.0.7"])
    made = searching(machine, monkeypatch)
    with pytest.raises(LookupFailed, match="SERVFAIL"):
        result(machine.reactor, Deferred.fromCoroutine(made.addresses("web")))
    assert machine.server.count("web.b.test") == 0


def test_services(machine: Machine) -> None:
    """Records of SRV, with all that they say."""
    machine.server.put("_x._tcp.test", "SRV", ["10 5 80 b.test.", "0 0 443 A.test."], ttl=9)
    made = machine.made()
    services, ttl = result(machine.reactor, Deferred.fromCoroutine(made.services("_x._tcp.test")))
    assert sorted(services, key=lambda one: one.priority) == [
        Service(0, 0, 443, "A.test."),
        Service(10, 5, 80, "b.test."),
    ]
    assert ttl == 9


def test_no_service(machine: Machine) -> None:
    """A failure, as for addresses."""
    with pytest.raises(LookupFailed, match="no such name"):
        result(machine.reactor, Deferred.fromCoroutine(machine.made().services("_x._tcp.test")))


def test_bounded_questions_at_a_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """More look-ups than that wait for their turn, and cancelling ends those that wait too."""
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    machine.server.manner = "stall"
    made = machine.made("ipv4", 1000.0)
    looking = [Deferred.fromCoroutine(made.addresses(f"n{n}.test")) for n in range(5)]
    live.turn_until(machine.reactor, lambda: machine.server.count() == 2)
    live.turn(machine.reactor, 5)
    assert machine.server.count() == 2
    ends: list[Any] = []
    for deferred in looking:
        deferred.addErrback(lambda failure: ends.append(failure.value))
    for deferred in looking:
        deferred.cancel()
    live.turn(machine.reactor)
    assert len(ends) == 5
    assert made._room.tokens == 2


def test_cancelling_a_look_up(machine: Machine) -> None:
    """Both families' questions end (the fixture looks for what is left)."""
    machine.server.manner = "stall"
    looking = Deferred.fromCoroutine(machine.made("any", 1000.0).addresses("both.test"))
    live.turn_until(machine.reactor, lambda: machine.server.count() == 2)
    ends: list[Any] = []
    looking.addErrback(ends.append)
    looking.cancel()
    assert ends
    assert not isinstance(ends[0].value, LookupFailed)

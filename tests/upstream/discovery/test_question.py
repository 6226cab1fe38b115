"""A question to name servers, whatever these do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import dns.message
import dns.name
import dns.rrset
import pytest
from dns.rdatatype import AAAA, A, RdataType
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.discovery import question
from meshproxy.upstream.discovery.question import NoAnswer, Question, Reply, Server, read_reply
from tests.dnsserver import HOST, DnsServer, Manner
from tests.net import live
from tests.upstream.discovery.waiting import clean_reactor, result

NAME = dns.name.from_text("a.test.")
QUERY = dns.message.make_query(NAME, A, id=4660)


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor that the test must leave clean."""
    with clean_reactor() as made:
        yield made


@pytest.fixture
def names() -> Iterator[DnsServer]:
    """A server that knows ``a.test``."""
    with DnsServer() as server:
        server.put("a.test", "A", ["10.0.0.1", "10.0.0.2"], ttl=30)
        yield server


@pytest.fixture
def others() -> Iterator[DnsServer]:
    """Another, which says something else."""
    with DnsServer() as server:
        server.put("a.test", "A", ["10.0.0.9"], ttl=30)
        yield server


def at(server: DnsServer) -> Server:
    """Where a server is."""
    return HOST, server.port


def ask(
    reactor: MeshReactor, *servers: Server, kind: RdataType = A, timeout: float = 20.0
) -> Deferred[Reply]:
    """Ask for the name."""
    return Question(reactor, servers, NAME, kind, timeout).ask()


def addresses(reply: Reply) -> list[str]:
    """The records as text."""
    return [record.to_text() for record in reply.records]


def test_an_answer(reactor: MeshReactor, names: DnsServer) -> None:
    """Records in the order of the answer, and their TTL."""
    reply = result(reactor, ask(reactor, at(names)))
    assert (addresses(reply), reply.ttl, reply.exists) == (["10.0.0.1", "10.0.0.2"], 30, True)


def test_an_alias_has_the_smallest_ttl(reactor: MeshReactor, names: DnsServer) -> None:
    """CNAMEs are followed inside the answer; whichever expires first counts."""
    names.remove("a.test")
    names.put("a.test", "CNAME", ["b.test."], ttl=5)
    names.put("b.test", "CNAME", ["c.test."], ttl=50)
    names.put("c.test", "A", ["10.0.0.3"], ttl=60)
    reply = result(reactor, ask(reactor, at(names)))
    assert (addresses(reply), reply.ttl) == (["10.0.0.3"], 5)


def test_aliases_in_a_circle(reactor: MeshReactor, names: DnsServer) -> None:
    """An endless chain is no answer, and no endless loop."""
    names.remove("a.test")
    names.put("a.test", "CNAME", ["b.test."])
    names.put("b.test", "CNAME", ["a.test."])
    with pytest.raises(NoAnswer, match="makes no sense"):
        result(reactor, ask(reactor, at(names)))


@pytest.mark.parametrize(("kind", "exists"), [(AAAA, True), (A, False)])
def test_nothing_there(
    reactor: MeshReactor, names: DnsServer, kind: RdataType, exists: bool
) -> None:
    """NODATA and NXDOMAIN are answers; they hold for the SOA's minimum, not for its TTL."""
    if not exists:
        names.remove("a.test")
    reply = result(reactor, ask(reactor, at(names), kind=kind))
    assert reply == Reply((), 60, exists)


def test_nothing_there_and_no_word_for_how_long(reactor: MeshReactor, names: DnsServer) -> None:
    """Without an SOA there is no TTL to invent."""
    names.manner = "empty"
    assert result(reactor, ask(reactor, at(names))) == Reply((), None, True)


@pytest.mark.parametrize("manner", ["servfail", "refused", "garbage", "torn"])
def test_the_next_server_is_asked_at_once(
    reactor: MeshReactor, names: DnsServer, others: DnsServer, manner: Manner
) -> None:
    """A server that says it cannot is not waited for; each is asked once."""
    names.manner = manner
    reply = result(reactor, ask(reactor, at(names), at(others)))
    assert addresses(reply) == ["10.0.0.9"]
    assert names.count() == (2 if manner == "torn" else 1)


@pytest.mark.parametrize("manner", ["stall", "wrong_id", "wrong_question"])
def test_the_next_server_is_asked_in_time(
    reactor: MeshReactor, names: DnsServer, others: DnsServer, manner: Manner
) -> None:
    """Silence, and what is no answer to this question, is waited out; the next may know."""
    names.manner = manner
    reply = result(reactor, ask(reactor, at(names), at(others), timeout=2.0))
    assert addresses(reply) == ["10.0.0.9"]


def test_the_next_server_is_asked_where_nobody_listens(
    reactor: MeshReactor, names: DnsServer
) -> None:
    """A closed port, and an address without a route, cost no patience."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
    reply = result(reactor, ask(reactor, (HOST, port), ("255.255.255.255", 53), at(names)))
    assert len(reply.records) == 2


def test_every_server_fails(reactor: MeshReactor, names: DnsServer, others: DnsServer) -> None:
    """The failure says what each did, and comes at once when none is left to wait for."""
    names.manner = "servfail"
    others.manner = "refused"
    with pytest.raises(NoAnswer, match=r"SERVFAIL; 127.0.0.1 port \d+: REFUSED$"):
        result(reactor, ask(reactor, at(names), at(others), timeout=1e6))


def test_no_server_answers(reactor: MeshReactor, names: DnsServer) -> None:
    """It is asked twice, and then it is enough."""
    names.manner = "stall"
    with pytest.raises(NoAnswer, match="no answer in time"):
        result(reactor, ask(reactor, at(names), timeout=0.4))
    assert names.count() == 2


def test_a_second_round() -> None:
    """A server that was silent is asked once more after all others were."""
    with clean_reactor() as reactor, DnsServer() as slow, DnsServer() as silent:
        slow.put("a.test", "A", ["10.0.0.1"])
        slow.manner = silent.manner = "stall"
        asked = Question(reactor, [at(slow), at(silent)], NAME, A, 4.0)
        deferred = asked.ask()
        live.turn_until(reactor, silent.count)
        slow.manner = "answer"
        assert addresses(result(reactor, deferred)) == ["10.0.0.1"]


def test_a_truncated_answer_comes_by_tcp(reactor: MeshReactor, names: DnsServer) -> None:
    """The same server is asked again, and the connection is closed (the fixture looks)."""
    many = [f"10.1.{number // 250}.{number % 250}" for number in range(2000)]
    names.put("a.test", "A", many)
    reply = result(reactor, ask(reactor, at(names)))
    assert sorted(addresses(reply)) == sorted(many)
    assert [query.transport for query in names.queries] == ["udp", "tcp"]


def test_a_forgery_is_passed_over(reactor: MeshReactor, names: DnsServer) -> None:
    """What has another ID is not the answer, though it comes first."""
    names.manner = "forge"
    assert addresses(result(reactor, ask(reactor, at(names)))) == ["10.0.0.1", "10.0.0.2"]


def test_a_stranger_is_not_heard(reactor: MeshReactor, names: DnsServer) -> None:
    """The right ID from another address is nobody's answer."""
    names.manner = "stall"
    asked = Question(reactor, [at(names)], NAME, A, 20.0)
    deferred = asked.ask()
    (attempt,) = asked._open
    assert isinstance(attempt, question._Datagram)
    forged = dns.message.make_response(asked.query)
    forged.answer.append(dns.rrset.from_text(NAME, 60, "IN", "A", "192.0.2.66"))
    heard: list[bytes] = []
    asked.received = lambda attempt, wire: heard.append(wire)
    assert attempt._sock is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(forged.to_wire(), attempt._sock.getsockname())
    live.turn(reactor, 10)
    assert heard == []
    deferred.cancel()
    with pytest.raises(CancelledError):
        result(reactor, deferred)


@pytest.mark.parametrize("manner", ["stall", "truncate"])
def test_cancelling_closes_everything(
    reactor: MeshReactor, names: DnsServer, manner: Manner
) -> None:
    """During UDP, and during TCP (the fixture looks for what is left)."""
    names.manner = manner
    deferred = ask(reactor, at(names))
    live.turn_until(reactor, names.count)
    deferred.cancel()
    with pytest.raises(CancelledError):
        result(reactor, deferred)


def test_no_sockets_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be opened the question fails with the system's words."""

    def poor(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    clock = Clock()
    failures: list[Any] = []
    asked = Question(clock, [("192.0.2.1", 53), ("2001:db8::1", 53)], NAME, A, 5.0)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", poor)
        asked.ask().addBoth(failures.append)
    assert "Too many open files" in failures[0].getErrorMessage()
    assert clock.getDelayedCalls() == []


def test_ids_are_not_to_be_guessed() -> None:
    """They are drawn from all of the 16 bits, and do not follow from one another."""
    drawn = {Question(Clock(), [(HOST, 53)], NAME, A, 5.0).query.id for _ in range(200)}
    assert len(drawn) > 190
    assert max(drawn) - min(drawn) > 1 << 14


@given(st.binary(max_size=600))
def test_any_bytes_are_judged(wire: bytes) -> None:
    """Whatever comes is a reply or one of three refusals."""
    judged(wire)


@given(st.binary(max_size=80), st.integers(0, 255), st.integers(0, 255))
def test_any_bytes_with_the_right_id_are_judged(rest: bytes, high: int, low: int) -> None:
    """The same behind a header that begins as it should and a question that is right."""
    judged(QUERY.to_wire()[:2] + bytes([high | 0x80, low]) + rest)
    judged(QUERY.to_wire()[:2] + bytes([high | 0x80, low]) + QUERY.to_wire()[4:] + rest)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8))
def test_a_mangled_answer_is_judged(changes: list[tuple[int, int]]) -> None:
    """A real answer of which some bytes were changed."""
    reply = dns.message.make_response(QUERY)
    reply.answer.append(dns.rrset.from_text("a.test.", 5, "IN", "CNAME", "b.test."))
    reply.answer.append(dns.rrset.from_text("b.test.", 5, "IN", "A", "10.0.0.1", "10.0.0.2"))
    reply.authority.append(dns.rrset.from_text("test.", 5, "IN", "SOA", "a. b. 1 2 3 4 5"))
    wire = bytearray(reply.to_wire())
    for at_, value in changes:
        wire[at_ % len(wire)] = value
    judged(bytes(wire))


def judged(wire: bytes) -> None:
    """Read it; only what the docstring names may be raised."""
    try:
        reply = read_reply(wire, QUERY)
    except (question._Alien, question._Truncated, question._Useless):
        return
    assert all(record.rdtype == A for record in reply.records)

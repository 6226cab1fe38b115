"""The DNS check: the answer to its very query, and what that says."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IHealthCheck
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks.dns import DnsCheck
from tests.net.live import turn
from tests.upstream.checks.asking import (
    CANCELLED,
    PASSED,
    Verdict,
    config,
    endpoint,
    unix_endpoint,
)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A name server's socket; the tests are its brain."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


def begin(reactor: MeshReactor, server: socket.socket, asked: Any = ".", **more: Any) -> Verdict:
    """A check of whoever has the socket."""
    check = DnsCheck(config(dns=asked, **more), reactor)
    verifyObject(IHealthCheck, check)
    return Verdict(check.check(endpoint(server.getsockname()[1])))


def receive(server: socket.socket) -> tuple[dns.message.Message, Any]:
    """The query, and who asks."""
    data, back = server.recvfrom(65535)
    return dns.message.from_wire(data), back


def test_what_is_asked(reactor: MeshReactor, server: socket.socket) -> None:
    """The name and type of the configuration; each time another ID from another port."""
    seen = []
    for asked in ({"name": "x.example", "type": "A"}, "x.example", "."):
        verdict = begin(reactor, server, asked)
        query, back = receive(server)
        question = query.question[0]
        seen.append((question.to_text(), query.id, back[1]))
        server.sendto(dns.message.make_response(query).to_wire(), back)
        assert verdict.wait(reactor) is PASSED
    assert [text for text, _, _ in seen] == ["x.example. IN A", "x.example. IN NS", ". IN NS"]
    ids = set()
    for _ in range(5):
        verdict = begin(reactor, server)
        ids.add(receive(server)[0].id)
        verdict.cancel()
    assert len(ids) > 1


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", "NOTIMP"])
@pytest.mark.parametrize("passing", [["NOERROR", "NXDOMAIN"], ["REFUSED"]])
def test_response_codes(
    reactor: MeshReactor, server: socket.socket, rcode: str, passing: list[str]
) -> None:
    """Those that are listed pass; the reason names the one that came."""
    verdict = begin(reactor, server, {"name": "x.example", "rcodes": passing})
    query, back = receive(server)
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.from_text(rcode))
    server.sendto(reply.to_wire(), back)
    assert verdict.wait(reactor) == (PASSED if rcode in passing else rcode)


def test_an_error_may_come_without_the_question(
    reactor: MeshReactor, server: socket.socket
) -> None:
    """Servers that refuse send the header alone."""
    verdict = begin(reactor, server)
    query, back = receive(server)
    server.sendto(query.id.to_bytes(2, "big") + b"\x80\x05" + bytes(8), back)
    assert verdict.wait(reactor) == "REFUSED"


def test_a_truncated_answer_is_an_answer(reactor: MeshReactor, server: socket.socket) -> None:
    """TC says that more is to be had by TCP, which nobody wants here."""
    verdict = begin(reactor, server)
    query, back = receive(server)
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.TC
    server.sendto(reply.to_wire() + b"\0\1", back)
    assert verdict.wait(reactor) is PASSED


def test_what_guesses_is_passed_over(reactor: MeshReactor, server: socket.socket) -> None:
    """Another ID, or too short to have one: the right answer still counts afterwards."""
    verdict = begin(reactor, server)
    query, back = receive(server)
    reply = dns.message.make_response(query)
    reply.id ^= 1
    server.sendto(reply.to_wire(), back)
    server.sendto(b"", back)
    server.sendto(query.id.to_bytes(2, "big"), back)
    turn(reactor, 10)
    assert verdict.results == []
    reply.id ^= 1
    server.sendto(reply.to_wire(), back)
    assert verdict.wait(reactor) is PASSED


def test_an_answer_to_something_else(reactor: MeshReactor, server: socket.socket) -> None:
    """Another question, or no response at all (an echo of the query)."""
    change: list[Callable[[dns.message.Message], bytes]] = [
        lambda query: dns.message.make_response(
            dns.message.make_query("other.example", "NS", id=query.id)
        ).to_wire(),
        lambda query: query.to_wire(),
    ]
    for make in change:
        verdict = begin(reactor, server)
        query, back = receive(server)
        server.sendto(make(query), back)
        assert verdict.wait(reactor) == "an answer to another question"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(min_size=10, max_size=64))
def test_garbage(reactor: MeshReactor, server: socket.socket, garbage: bytes) -> None:
    """Whatever follows the right ID is a verdict, never a defect."""
    verdict = begin(reactor, server, {"name": "x.example", "rcodes": ["REFUSED"]})
    query, back = receive(server)
    server.sendto(query.id.to_bytes(2, "big") + garbage, back)
    said = verdict.wait(reactor)
    assert said is PASSED or isinstance(said, str)


def test_a_malformed_answer(reactor: MeshReactor, server: socket.socket) -> None:
    """A question that is announced and not there."""
    verdict = begin(reactor, server)
    query, back = receive(server)
    server.sendto(query.id.to_bytes(2, "big") + b"\x80\x00\0\1" + bytes(6), back)
    assert verdict.wait(reactor) == "a malformed answer"


def test_nobody_answers(reactor: MeshReactor, server: socket.socket) -> None:
    """Silence lasts until the asker cancels; a closed port is known at once."""
    verdict = begin(reactor, server)
    receive(server)
    turn(reactor)
    verdict.cancel()
    assert verdict.results == [CANCELLED]
    check = DnsCheck(config(dns="."), reactor)
    where = endpoint(server.getsockname()[1])
    server.close()
    assert Verdict(check.check(where)).wait(reactor) == "refused"


def test_another_port(reactor: MeshReactor, server: socket.socket) -> None:
    """The check port goes before the endpoint's own."""
    check = DnsCheck(config(dns=".", port=server.getsockname()[1]), reactor)
    verdict = Verdict(check.check(endpoint(9)))
    query, back = receive(server)
    server.sendto(dns.message.make_response(query).to_wire(), back)
    assert verdict.wait(reactor) is PASSED


def test_a_unix_socket_is_no_name_server(reactor: MeshReactor) -> None:
    """It says so."""
    check = DnsCheck(config(dns="."), reactor)
    said = Verdict(check.check(unix_endpoint("/run/x.sock"))).results
    assert said == ["DNS is not asked on a UNIX socket"]


def test_what_cannot_be_asked_is_found_when_it_is_made(reactor: MeshReactor) -> None:
    """Not with the first check."""
    good = config(dns=".")
    assert good.dns is not None
    bad = good.model_copy(update={"dns": good.dns.model_copy(update={"name": "x" * 64})})
    with pytest.raises(dns.exception.DNSException):
        DnsCheck(bad, reactor)

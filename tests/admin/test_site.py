"""The admin's server within its bounds, without a socket."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from meshproxy.admin.site import LONGEST_BODY, make_site
from tests.admin.fakes import State

REQUEST = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
PEER = IPv4Address("TCP", "127.0.0.1", 5)


class Aborting(StringTransport):
    """A transport that notes an abort."""

    aborted = False

    def abortConnection(self) -> None:
        """Note it."""
        self.aborted = True
        self.loseConnection()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """twisted.web asks for it."""


def connect(site: Any) -> tuple[Any, Any]:
    """A client's channel and transport."""
    transport: Any = Aborting(IPv4Address("TCP", "127.0.0.1", 9901), PEER)
    channel = site.buildProtocol(PEER)
    channel.makeConnection(transport)
    return channel, transport


def test_a_request_is_answered() -> None:
    """The channel made here speaks HTTP/1.1."""
    channel, transport = connect(make_site(State(), reactor=Clock()))
    channel.dataReceived(REQUEST)
    assert transport.value().startswith(b"HTTP/1.1 200 OK\r\n")
    assert transport.value().endswith(b"LIVE\n")


def test_silence_ends_a_connection() -> None:
    """A connection that sends nothing, or half a head, is closed after the timeout."""
    clock = Clock()
    site = make_site(State(), reactor=clock, timeout=30)
    _, silent = connect(site)
    slow, half = connect(site)
    slow.dataReceived(REQUEST[:20])
    clock.advance(29)
    assert not silent.disconnecting
    clock.advance(2)
    assert silent.disconnecting
    assert half.disconnecting


def test_connections_are_capped() -> None:
    """One too many gets no protocol; one that ends makes room, and is counted once."""
    site: Any = make_site(State(), reactor=Clock(), max_connections=2)
    first, _ = connect(site)
    connect(site)
    assert site.buildProtocol(PEER) is None
    for _ in range(2):
        first.connectionLost()
    assert site.connections == 1
    assert site.buildProtocol(PEER) is not None


def test_long_bodies_are_cut_off() -> None:
    """No page reads a body: one that goes on ends the connection, chunked or not."""
    for framing, data in (
        (b"Content-Length: 9999999", b"x" * (LONGEST_BODY + 1)),
        (b"Transfer-Encoding: chunked", b"%x\r\n" % (1 << 20) + b"x" * (LONGEST_BODY + 1)),
    ):
        state = State()
        channel, transport = connect(make_site(state, reactor=Clock()))
        channel.dataReceived(
            b"POST /logs/reopen HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n"
        )
        assert not transport.aborted
        channel.dataReceived(data)
        assert transport.aborted
        assert state.reopened == 0


def test_a_short_body_is_ignored() -> None:
    """A form's empty or small body does no harm."""
    state = State()
    channel, transport = connect(make_site(state, reactor=Clock()))
    channel.dataReceived(
        b"POST /logs/reopen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na=b"
    )
    assert transport.value().startswith(b"HTTP/1.1 200 OK\r\n")
    assert state.reopened == 1


def test_only_http_1() -> None:
    """A preface of HTTP/2 is no request."""
    channel, transport = connect(make_site(State(), reactor=Clock()))
    channel.dataReceived(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert not transport.value().startswith(b"HTTP/1.1 200")

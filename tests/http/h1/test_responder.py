"""What is written to a client: framing, what is said about the connection, and its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from meshproxy.http.h1.responder import CLOSED, FLUSH, LINGER, LINGERING, TUNNELLING, Responder
from meshproxy.http.headers import Headers
from meshproxy.net.wheel import TimerWheel


class Transport:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.sent = b""
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        """Send."""
        self.sent += data

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


def made(**state: Any) -> tuple[Any, Transport, Clock]:
    """A responder with an exchange whose request is complete, its transport and its clock."""
    clock = Clock()
    clock.advance(100.0)
    wheel = TimerWheel(clock)
    listener: Any = SimpleNamespace(
        proxy_protocol=False, draining=False, now=wheel.now, wheel=wheel, stream_idle_timeout=0.0
    )
    responder: Any = Responder(listener)
    responder.transport = transport = Transport()
    responder.exchange = SimpleNamespace(request_complete=True, upgrade=b"websocket")
    for name, value in state.items():
        setattr(responder, name, value)
    return responder, transport, clock


ONE = Headers.of([(b"x-one", b"1")])


def test_a_known_length_is_sent_as_it_is() -> None:
    """The head says the length already; nothing is added to the body."""
    responder, transport, _ = made()
    headers = Headers.of([(b"content-length", b"4")])
    responder.respond(200, headers, 4, b"ab", False)
    responder.send(b"cd")
    responder.finish(b"", None)
    assert transport.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd"


def test_an_unknown_length_is_chunked() -> None:
    """Each piece is a chunk, and trailers come behind the last."""
    responder, transport, _ = made()
    responder.respond(200, Headers(), -1, b"a" * 10, False)
    responder.send(b"bc")
    responder.finish(b"d", ONE)
    assert transport.sent == (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        b"a\r\naaaaaaaaaa\r\n2\r\nbc\r\n1\r\nd\r\n0\r\nx-one: 1\r\n\r\n"
    )


@pytest.mark.parametrize("data", [b"", b"all"])
def test_an_unknown_length_in_one_piece(data: bytes) -> None:
    """Head, body and end are one write; an empty body has no empty chunk before the last."""
    responder, transport, _ = made()
    responder.respond(200, Headers(), -1, data, True)
    body = transport.sent.partition(b"\r\n\r\n")[2]
    assert body == (b"3\r\nall\r\n0\r\n\r\n" if data else b"0\r\n\r\n")


def test_an_old_client_gets_its_body_until_the_end() -> None:
    """HTTP/1.0 knows no chunks: the body is plain and the connection says that it closes."""
    responder, transport, _ = made(_old=True)
    responder.respond(200, ONE, -1, b"body", False)
    assert transport.sent == b"HTTP/1.1 200 OK\r\nx-one: 1\r\nconnection: close\r\n\r\nbody"
    responder.abort(False)
    assert transport.calls == ["abortConnection"]  # an orderly end would look complete


def test_an_old_client_is_told_that_the_connection_stays() -> None:
    """HTTP/1.0 closes unless it is told otherwise."""
    responder, transport, _ = made(_old=True)
    responder.respond(200, Headers(), 0, b"", True)
    assert b"connection: keep-alive\r\n" in transport.sent


@pytest.mark.parametrize("why", ["client", "draining", "request"])
def test_closing_is_said_beforehand(why: str) -> None:
    """The client asked for it, the listener stops, or the request will not be read to its end."""
    responder, transport, _ = made(_keep_alive=why != "client")
    responder._listener.draining = why == "draining"
    responder.exchange.request_complete = why != "request"
    responder.respond(200, Headers(), 0, b"", True)
    assert transport.sent.endswith(b"connection: close\r\n\r\n")
    assert not responder._keep_alive


def test_an_answer_to_head_has_no_body_and_no_framing() -> None:
    """Even when the length is not known."""
    responder, transport, _ = made(_head_only=True)
    responder.respond(200, ONE, -1, b"", True)
    assert transport.sent == b"HTTP/1.1 200 OK\r\nx-one: 1\r\n\r\n"


def test_interim_responses_are_for_those_who_know_them() -> None:
    """A 103 goes to HTTP/1.1 clients alone."""
    responder, transport, _ = made()
    responder.inform(103, ONE)
    assert transport.sent == b"HTTP/1.1 103 Early Hints\r\nx-one: 1\r\n\r\n"
    responder, transport, _ = made(_old=True)
    responder.inform(103, ONE)
    assert transport.sent == b""


def test_an_upgrade_is_agreed_to() -> None:
    """The 101 names the protocol, and what is sent afterwards passes as it is."""
    responder, transport, _ = made()
    responder.respond(101, ONE, -1, b"", False)
    responder.tunnel(b"frames")
    assert transport.sent == (
        b"HTTP/1.1 101 Switching Protocols\r\nx-one: 1\r\n"
        b"connection: upgrade\r\nupgrade: websocket\r\n\r\nframes"
    )
    assert responder._state == TUNNELLING


def test_lingering_ends() -> None:
    """Our direction is closed at once, the rest is waited for, and then the client is reset."""
    responder, transport, clock = made(_paused=True)
    responder._linger()
    assert responder._state == LINGERING
    assert transport.calls == ["unregisterProducer", "resumeProducing", "loseWriteConnection"]
    clock.pump([0.05] * int(LINGER / 0.05 + 2))
    assert transport.calls[-1] == "abortConnection"


def test_a_client_that_takes_nothing_is_reset_in_the_end() -> None:
    """Closing waits for what was written to go out, but not for ever."""
    responder, transport, clock = made()
    responder._close()
    assert responder._state == CLOSED
    assert transport.calls == ["unregisterProducer", "loseConnection"]
    clock.pump([1.0] * int(FLUSH + 2))
    assert transport.calls[-1] == "abortConnection"

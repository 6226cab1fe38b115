"""One handshake on a socket: exactly one outcome, and nothing registered afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.interfaces import IReadWriteDescriptor
from zope.interface.verify import verifyObject

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls.handshake import Handshake
from tests.net import live
from tests.net.logged import errors
from tests.tls.wire import Client, pair, server_context


class Scene:
    """A handshake of ours, and the client."""

    def __init__(self, context: SSL.Context | None = None, family: str = "tcp") -> None:
        self.reactor = MeshReactor()
        self.idle = set(self.reactor.getReaders())
        self.sock, theirs = pair(family)
        connection = SSL.Connection(server_context() if context is None else context, self.sock)
        connection.set_accept_state()
        self.outcome: list[str] = []
        self.handshake = Handshake(
            self.reactor,
            self.sock,
            connection,
            lambda: self.outcome.append("done"),
            self.outcome.append,
        )
        self.client = Client(self.reactor, theirs)

    def registered(self) -> bool:
        """Whether the reactor watches something."""
        return bool(set(self.reactor.getReaders()) - self.idle or self.reactor.getWriters())


@pytest.fixture
def scene() -> Iterator[Any]:
    """Makes scenes."""
    made: list[Scene] = []

    def make(*arguments: Any) -> Scene:
        made.append(Scene(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.sock.close()
        live.close(one.reactor)


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_it_succeeds(scene: Any, family: str) -> None:
    """``done``, once, and the socket is the caller's."""
    made = scene(None, family)
    assert verifyObject(IReadWriteDescriptor, made.handshake)
    made.handshake.begin()
    assert made.registered()
    made.client.until(lambda: made.outcome)
    assert made.outcome == ["done"]
    assert not made.registered()
    made.handshake.doRead()
    made.handshake.connectionLost(None)
    made.handshake.cancel()
    assert made.outcome == ["done"]


def test_it_fails(scene: Any) -> None:
    """``failed`` with OpenSSL's words, once."""
    context = server_context(verify=SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    made = scene(context)
    made.handshake.begin()
    made.client.until(lambda: made.outcome)
    assert made.outcome == ["peer did not return a certificate"]
    assert not made.registered()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [(b"", "connection closed"), (b"GET / HTTP/1.1\r\n\r\n", "not TLS"), (b"\x16\x03", None)],
)
def test_the_peer_ends_it(scene: Any, sent: bytes, reason: str | None) -> None:
    """Without a word, with another protocol's, in the middle of one."""
    made = scene()
    made.client.sock.send(sent)
    made.client.sock.shutdown(socket.SHUT_WR)
    made.handshake.begin()
    live.turn_until(made.reactor, lambda: made.outcome)
    assert len(made.outcome) == 1
    assert reason is None or made.outcome == [reason]
    assert not made.registered()


def test_a_reset_says_nothing_of_others(scene: Any) -> None:
    """pyOpenSSL leaves the error of the system call behind; another connection would find it."""
    made = scene()
    made.client.pump()
    made.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    made.client.sock.close()
    made.handshake.begin()
    live.turn_until(made.reactor, lambda: made.outcome)
    assert made.outcome == ["connection reset"]
    assert SSL._lib.ERR_peek_error() == 0  # type: ignore[attr-defined]


def test_the_reactor_sees_it_vanish(scene: Any) -> None:
    """A loss that the reactor tells of is a failure."""
    made = scene()
    made.handshake.begin()
    made.handshake.connectionLost(None)
    assert made.outcome == ["connection reset"]
    assert not made.registered()


def test_cancelled(scene: Any) -> None:
    """Nothing is called, nothing registered."""
    made = scene()
    made.handshake.begin()
    made.handshake.cancel()
    assert not made.registered()
    made.client.pump()
    live.turn(made.reactor)
    assert made.outcome == []


def test_it_waits_for_room(scene: Any) -> None:
    """While our records do not go out, nothing is read; they go when there is room."""

    class Full:
        """A connection whose socket takes nothing for a while."""

        def __init__(self) -> None:
            self.steps = [SSL.WantReadError(), SSL.WantWriteError(), SSL.WantReadError(), None]

        def do_handshake(self) -> None:
            step = self.steps.pop(0)
            if step is not None:
                raise step

    made = scene()
    outcome: list[str] = []
    full: Any = Full()
    handshake = Handshake(
        made.reactor, made.sock, full, lambda: outcome.append("done"), outcome.append
    )
    handshake.begin()
    assert handshake in made.reactor.getReaders()
    handshake.doRead()
    assert handshake in made.reactor.getWriters()
    assert handshake not in made.reactor.getReaders()
    handshake.doWrite()
    assert handshake in made.reactor.getReaders()
    assert handshake not in made.reactor.getWriters()
    handshake.doRead()
    assert outcome == ["done"]
    assert not made.registered()


def test_a_callback_that_raises(scene: Any) -> None:
    """It is logged, and costs this connection alone."""
    context = server_context()

    def broken(connection: Any, offered: Any) -> bytes:
        raise ZeroDivisionError

    context.set_alpn_select_callback(broken)
    made = scene(context)
    with errors() as logged:
        made.handshake.begin()
        made.client.until(lambda: made.outcome)
    assert [failure.type for failure in logged] == [ZeroDivisionError]
    assert made.outcome == ["internal error"]

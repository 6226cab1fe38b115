"""One handshake on a socket: exactly one outcome, and nothing registered afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.interfaces import IReadWriteDescriptor
from zope.interface.verify import verifyObject

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls.handshake import ClientHandshake, Handshake
from tests.integration.tls_raw import RawServer
from tests.net import live
from tests.net.logged import errors
from tests.tls.wire import Client, issued, pair, server_context


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


@pytest.mark.parametrize("size", [1, 700, 100_000])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_takes_no_more_than_its_handshake(tmp_path: Path, version: str, size: int) -> None:
    """Whatever the pieces in which it comes; what the server says behind it is there afterwards."""
    issued().write(tmp_path, "server")
    reactor = MeshReactor()
    ours, theirs = pair()
    theirs.setblocking(True)
    ends: list[str] = []
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    connection = SSL.Connection(context, ours)
    connection.set_connect_state()
    made = ClientHandshake(reactor, ours, connection, lambda: ends.append("done"), ends.append)
    made.begin()

    def send(data: bytes) -> None:
        for at in range(0, len(data), size):
            theirs.sendall(data[at : at + size])
            live.turn(reactor, 1)

    with RawServer(theirs, tmp_path, version) as server:
        send(server.first())
        live.turn(reactor)
        server.hear()
        last = server.say()
        assert server.done
        send(last + server.sealed(b"welcome"))
        live.turn_until(reactor, lambda: ends)
        assert ends == ["done"]
        got: list[bytes] = []
        live.turn_until(reactor, lambda: _read(connection, got))
        assert got == [b"welcome"]
        assert made not in reactor.getReaders() + reactor.getWriters()
    theirs.close()
    ours.close()
    live.close(reactor)


def _read(connection: SSL.Connection, got: list[bytes]) -> bool:
    try:
        got.append(connection.recv(100))
    except SSL.WantReadError:
        return False
    return True


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220",
        b"220 a.example ready\r\n",
        b"\x16\x03\xff\xff\xff\0",
    ],
)
def test_a_client_hears_at_once_what_is_no_tls(said: bytes) -> None:
    """A record is waited for only where one has begun; the end, or a reset, ends it."""
    reactor = MeshReactor()
    ours, theirs = pair()
    ends: list[str] = []
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), ours)
    connection.set_connect_state()
    made = ClientHandshake(reactor, ours, connection, lambda: ends.append("done"), ends.append)
    made.begin()
    theirs.sendall(said)
    if len(said) < 5:
        live.turn(reactor)
        assert not ends
        theirs.close()
    live.turn_until(reactor, lambda: ends)
    (reason,) = ends
    assert reason in ("not TLS", "connection closed", "connection reset", "record layer failure")
    assert made not in reactor.getReaders() + reactor.getWriters()
    theirs.close()
    ours.close()
    live.close(reactor)

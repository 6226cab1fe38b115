"""A last word: it arrives whole, whatever the client still sends, and is no way to stay."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from meshproxy.net.farewell import part
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.transport import StreamTransport
from tests.net import live

WORD = b"no, thank you\n" * 1000


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own."""
    made = MeshReactor()
    yield made
    live.close(made)


def said(
    reactor: MeshReactor, word: bytes, sent: bytes = b""
) -> tuple[StreamTransport, socket.socket, list[socket.socket]]:
    """The transport, the client's end, and the sockets that were closed."""
    client = socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client.connect(server.getsockname())
        sock, peer = server.accept()
    sock.setblocking(False)
    client.sendall(sent)
    client.setblocking(False)
    closed: list[socket.socket] = []
    return part(reactor, sock, peer, word, closed.append), client, closed


def heard(reactor: MeshReactor, client: socket.socket) -> bytes:
    """All that the client gets, to the end. Raises ConnectionResetError."""
    got = bytearray()

    def more() -> bool:
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return False
        got.extend(data)
        return not data

    live.turn_until(reactor, more)
    return bytes(got)


@pytest.mark.parametrize("word", [WORD, b""])
def test_it_is_heard(reactor: MeshReactor, word: bytes) -> None:
    """With bytes of the client unread, and more to come: no reset overtakes it."""
    _, client, closed = said(reactor, word, b"x" * 50_000)
    assert heard(reactor, client) == word
    client.send(b"and another thing")
    live.turn(reactor)
    assert closed == []
    client.close()
    live.turn_until(reactor, lambda: closed)
    assert len(closed) == 1


def test_patience_ends(reactor: MeshReactor) -> None:
    """The caller aborts it, and is told of the end all the same."""
    transport, client, closed = said(reactor, WORD)
    transport.abortConnection()
    live.turn_until(reactor, lambda: closed)
    client.close()


def test_a_client_that_is_gone(reactor: MeshReactor) -> None:
    """Nothing is raised, and the socket closed."""
    transport, client, closed = said(reactor, b"")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    live.turn_until(reactor, lambda: closed)
    assert transport.connected == 0

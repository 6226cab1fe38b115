"""What only bare sockets show: upstreams that fail before they are asked."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.tcp import spliced
from tests.tcp.mesh import Mesh, rst

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def watching() -> Iterator[Mesh]:
    """A mesh on the watching reactor."""
    mesh = Mesh("watching")
    yield mesh
    mesh.close()


def test_no_descriptor(watching: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without descriptors resets the client and counts a failed attempt."""
    where, _ = watching.proxy()

    def none(*arguments: object) -> Any:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(spliced, "Socket", none)
    assert watching.was_reset(watching.connect(where))
    assert watching.records[0]["flags"] == b"UF"


def test_missing_unix_socket(watching: Mesh, tmp_path: Path) -> None:
    """A UNIX upstream that is not there is told at once by connect itself."""
    watching.cluster("up", str(tmp_path / "nobody"))
    assert watching.was_reset(watching.connect(watching.bind(watching.listener())))
    assert watching.records[0]["details"] == b"No_such_file_or_directory"


def test_client_reset_while_connecting(watching: Mesh) -> None:
    """A client that resets while its upstream is silent ends the attempt at once."""
    server = watching.server()
    server.listen(0)
    watching.connect(server.getsockname())
    watching.cluster("up", server.getsockname())
    client = watching.connect(watching.bind(watching.listener()))
    watching.turn(lambda: watching.clusters["up"].endpoints[0].active)
    rst(client)
    watching.turn(lambda: watching.records)
    assert watching.records[0]["flags"] == b"DC"
    assert watching.value("cluster_connect_failures_total", cluster="up") == 0


def test_socket_options(watching: Mesh) -> None:
    """Keep-alive is on from the start; Nagle's algorithm goes off before a second write."""
    server = watching.server()
    watching.cluster("up", server.getsockname(), keepalive=7.0)
    client, upstream = watching.pair(watching.bind(watching.listener()), server)
    watching.settle()
    (connection,) = watching.listeners[0]._open
    relay: Any = connection.relay
    sock = relay.sockets[1]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
    for data, nodelay in ((b"first", 0), (b"second", 1)):
        client.send(data)
        assert watching.read(upstream, len(data)) == data
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == nodelay


def test_an_accept_that_fails(watching: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error costs its connection, resets it, and leaves the counts right."""
    where, server = watching.proxy()
    with monkeypatch.context() as patch:
        patch.setattr(spliced, "prepare", lambda sock: 1 / 0)
        assert watching.was_reset(watching.connect(where))
    watching.pair(where, server)
    assert watching.listeners[0].active == 1

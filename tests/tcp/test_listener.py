"""The listener: what it takes, what it refuses, where it leads, and how it stops."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.endpoints import serverFromString

from meshproxy import config
from meshproxy.tcp.listener import TcpListener
from tests.tcp.mesh import rst

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tcp.mesh import Mesh


def test_exchange_and_half_close(mesh: Mesh) -> None:
    """Bytes cross both ways; the client's end reaches the upstream, which still answers."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    client.send(b"question")
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(upstream) == b"question"
    upstream.send(b"answer")
    assert mesh.read(client, 6) == b"answer"
    upstream.close()
    assert mesh.end(client) == b""
    mesh.turn(lambda: mesh.records)


def test_upstream_speaks_first_and_ends_first(mesh: Mesh) -> None:
    """An upstream that greets and half-closes is heard, and still hears the client."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    upstream.send(b"hello")
    upstream.shutdown(socket.SHUT_WR)
    assert mesh.end(client) == b"hello"
    client.send(b"late")
    client.close()
    assert mesh.end(upstream) == b"late"
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"closed"


def test_nothing_is_read_before_the_upstream_is_up(mesh: Mesh) -> None:
    """What the client sends at once waits in its socket, and arrives whole and in order."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    where = mesh.bind(mesh.listener())
    client = mesh.connect(where)
    data = bytes(range(256)) * 200
    assert client.send(data) == len(data)
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(mesh.accept(server)) == data


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_reset_passes(mesh: Mesh, side: str) -> None:
    """A reset of either side resets the other, and the record says which it was."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    mesh.read(upstream, 1)
    one, two = (client, upstream) if side == "client" else (upstream, client)
    rst(one)
    assert mesh.was_reset(two)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == (b"DC" if side == "client" else b"UC")


def test_families(mesh: Mesh, tmp_path: Path) -> None:
    """IPv6 and UNIX work on both sides."""
    unix = mesh.server(str(tmp_path / "up"))
    mesh.cluster("up", unix.getsockname())
    client, upstream = mesh.pair(mesh.bind(mesh.listener(), ("::1", 0)), unix)
    client.send(b"x")
    assert mesh.read(upstream, 1) == b"x"
    six = mesh.server(("::1", 0))
    mesh.cluster("six", six.getsockname())
    path = str(tmp_path / "in")
    other, upstream_six = mesh.pair(mesh.bind(mesh.listener({"six": 1}), path), six)
    upstream_six.send(b"y")
    assert mesh.read(other, 1) == b"y"
    for sock in (client, upstream, other, upstream_six):
        sock.close()
    mesh.turn(lambda: len(mesh.records) == 2)
    first, second = sorted(mesh.records, key=lambda record: bytes(record["cluster_name"]))
    assert second["client"].startswith(b"[::1]:")
    assert (second["client_ip"], second["local"][:6]) == (b"::1", b"[::1]:")
    assert second["upstream"] == b"unix:" + str(tmp_path / "up").encode()
    assert first["client"] == b"unix:"
    assert first["upstream"].startswith(b"[::1]:")
    assert first["upstream_local"].startswith(b"[::1]:")


def test_cap(mesh: Mesh) -> None:
    """Over the cap a connection is closed at once, counted, and costs no upstream; then on."""
    where, server = mesh.proxy(max_connections=1)
    client, upstream = mesh.pair(where, server)
    assert mesh.end(mesh.connect(where)) == b""
    assert mesh.value("listener_connections_refused_total", listener="in") == 1
    assert mesh.listeners[0].active == 1
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    mesh.pair(where, server)
    assert mesh.value("listener_connections_total", listener="in") == 3
    mesh.turn(lambda: mesh.value("cluster_connections_total", cluster="up") == 2)


def test_weights(mesh: Mesh) -> None:
    """``to`` with weights reaches each cluster about as often as it says."""
    servers = {name: mesh.server() for name in ("a", "b")}
    for name, server in servers.items():
        mesh.cluster(name, server.getsockname())
    where = mesh.bind(mesh.listener({"a": 1, "b": 3}))
    for _ in range(40):
        mesh.connect(where)
    names = ("a", "b")

    def totals() -> list[float]:
        return [mesh.value("cluster_connections_total", cluster=name) for name in names]

    mesh.turn(lambda: sum(totals()) == 40)
    assert 0 < totals()[0] < totals()[1]


def test_endpoint_description(mesh: Mesh) -> None:
    """A listener that Twisted makes from a description proxies as well, with its cap."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    listener = mesh.listener(max_connections=1)
    ports: list[Any] = []
    endpoint = serverFromString(mesh.reactor, "tcp:0:interface=127.0.0.1")
    endpoint.listen(listener.factory()).addCallback(ports.append)
    mesh.ports += ports
    where = ports[0].socket.getsockname()
    client, upstream = mesh.pair(where, server)
    client.send(b"in")
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(upstream) == b"in"
    upstream.send(b"out")
    assert mesh.read(client, 3) == b"out"
    assert mesh.end(mesh.connect(where)) == b""
    upstream.close()
    assert mesh.end(client) == b""
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["client"] == b"%s:%d" % (b"127.0.0.1", client.getsockname()[1])


def test_stop(mesh: Mesh) -> None:
    """Stop closes what is there, in order, says when it is done, and takes nothing more."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    mesh.settle()
    stopped = mesh.listeners[0].stop()
    again = mesh.listeners[0].stop(10)
    assert mesh.end(client) == mesh.end(upstream) == b""
    mesh.turn(lambda: stopped.called and again.called)
    assert mesh.records[0]["details"] == b"stopped"
    assert mesh.end(mesh.connect(where)) == b""


def test_stop_with_grace(mesh: Mesh) -> None:
    """Within the grace connections go on; the last one to end ends the waiting."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    mesh.settle()
    stopped = mesh.listeners[0].stop(5)
    client.send(b"still")
    assert mesh.read(upstream, 5) == b"still"
    assert not stopped.called
    client.close()
    upstream.close()
    mesh.turn(lambda: stopped.called)
    assert mesh.records[0]["details"] == b"closed"


def test_stop_when_grace_is_over(mesh: Mesh) -> None:
    """What has not ended within the grace is closed."""
    where, server = mesh.proxy()
    client, _ = mesh.pair(where, server)
    mesh.settle()
    stopped = mesh.listeners[0].stop(5)
    mesh.pass_time(4)
    assert not stopped.called
    mesh.pass_time(2)
    assert mesh.end(client) == b""
    mesh.turn(lambda: stopped.called)


def test_a_listener_needs_tcp(mesh: Mesh) -> None:
    """A listener without a ``tcp`` is a mistake that is told at once."""
    model = config.Listener.model_validate(
        {"listen": ":0", "http": {"routes": [{"respond": {"status": 204}}]}}
    )
    with pytest.raises(ValueError, match="has no tcp"):
        TcpListener(mesh.reactor, mesh.wheel, mesh.registry, "in", model, mesh.clusters)

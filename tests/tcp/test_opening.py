"""The PROXY header that opens a connection: read, believed, bounded."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from meshproxy.net.proxy_protocol import encode_v1, encode_v2
from meshproxy.tcp.connection import HEADER_TIMEOUT
from tests.tcp.mesh import rst

if TYPE_CHECKING:
    from tests.tcp.mesh import Mesh

SOURCE, DESTINATION = ("192.0.2.7", 4711), ("198.51.100.1", 443)
V1 = encode_v1(SOURCE, DESTINATION)
V2 = encode_v2(SOURCE, DESTINATION, tlvs=((4, b"padding"),), checksum=True)


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("pieces", [1, 2, 0])
def test_header(mesh: Mesh, header: bytes, pieces: int) -> None:
    """However it is cut, the header names the client and the payload behind it is kept."""
    where, server = mesh.proxy(proxy_protocol=True)
    client = mesh.connect(where)
    data = header + b"payload"
    step = len(data) if pieces == 1 else len(data) // 2 + 1 if pieces == 2 else 1
    for begin in range(0, len(data), step):
        client.send(data[begin : begin + step])
        mesh.settle()
    upstream = mesh.accept(server)
    assert mesh.read(upstream, 7) == b"payload"
    client.send(b" more")
    assert mesh.read(upstream, 5) == b" more"
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["client"] == b"192.0.2.7:4711"
    assert mesh.records[0]["client_ip"] == b"192.0.2.7"


def test_header_alone_then_end(mesh: Mesh) -> None:
    """A client that sends a header, a word and its end in one segment gets it all delivered."""
    where, server = mesh.proxy(proxy_protocol=True)
    client = mesh.connect(where)
    client.send(V1 + b"bye")
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(mesh.accept(server)) == b"bye"


def test_header_is_passed_on(mesh: Mesh) -> None:
    """What a header said is what the next hop is told."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname(), proxy_protocol="v2")
    client = mesh.connect(mesh.bind(mesh.listener(proxy_protocol=True)))
    client.send(V1 + b"!")
    expected = encode_v2(SOURCE, DESTINATION)
    assert mesh.read(mesh.accept(server), len(expected) + 1) == expected + b"!"


def test_header_without_names(mesh: Mesh) -> None:
    """UNKNOWN leaves the client who the socket says."""
    where, server = mesh.proxy(proxy_protocol=True)
    client = mesh.connect(where)
    client.send(b"PROXY UNKNOWN\r\n")
    upstream = mesh.accept(server)
    name = client.getsockname()
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["client"] == b"127.0.0.1:%d" % name[1]


def test_bad_header(mesh: Mesh) -> None:
    """Anything else is reset, and no upstream hears of it."""
    where, _ = mesh.proxy(proxy_protocol=True)
    client = mesh.connect(where)
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"bad_PROXY_header"
    assert mesh.records[0]["attempts"] == 0
    assert mesh.value("listener_connections_failed_total", listener="in") == 1


def test_header_that_never_ends(mesh: Mesh) -> None:
    """A header that does not come in time is given up."""
    where, _ = mesh.proxy(proxy_protocol=True)
    client = mesh.connect(where)
    client.send(V2[:20])
    mesh.turn(lambda: mesh.listeners[0].active)
    mesh.pass_time(HEADER_TIMEOUT - 1)
    assert not mesh.records
    mesh.pass_time(2)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"PROXY_header_timeout"


@pytest.mark.parametrize("how", ["end", "reset", "stop"])
def test_gone_before_the_header(mesh: Mesh, how: str) -> None:
    """A client that leaves, or a listener that stops, before the header is whole ends it."""
    where, _ = mesh.proxy(proxy_protocol=True)
    client = mesh.connect(where)
    client.send(V1[:10])
    mesh.turn(lambda: mesh.listeners[0].active)
    mesh.settle()
    if how == "stop":
        mesh.listeners[0].stop()
    elif how == "end":
        client.shutdown(socket.SHUT_WR)
    else:
        rst(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["upstream"] == b""

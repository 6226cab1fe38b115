"""Large and slow streams, over transports and over the kernel alike."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.tcp.mesh import Mesh


def test_bulk(mesh: Mesh) -> None:
    """16 MiB each way, one after the other, arrive whole."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    block = os.urandom(1 << 20)
    for source, sink in ((client, upstream), (upstream, client)):
        sent, received = hashlib.sha256(), hashlib.sha256()
        left = got = 16 << 20

        def step(
            source: socket.socket = source,
            sink: socket.socket = sink,
            sent: hashlib._Hash = sent,
            received: hashlib._Hash = received,
        ) -> bool:
            nonlocal left, got
            with suppress(BlockingIOError):
                if left:
                    part = block[: source.send(block[:left])]
                    sent.update(part)
                    left -= len(part)
            with suppress(BlockingIOError):
                data = sink.recv(1 << 20)
                received.update(data)
                got -= len(data)
            return not got

        mesh.turn(step)
        assert sent.digest() == received.digest()
        source.shutdown(socket.SHUT_WR)
        assert mesh.end(sink) == b""
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["bytes_received"] == mesh.records[0]["bytes_sent"] == 16 << 20


def test_slow_reader(mesh: Mesh) -> None:
    """A client that does not read stops its upstream: what is held stays small."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    mesh.settle()
    (connection,) = mesh.listeners[0]._open
    relay = connection.relay
    assert relay is not None
    sent = idle = 0

    def stuck() -> bool:
        nonlocal sent, idle
        try:
            sent += upstream.send(bytes(1 << 20))
            idle = 0
        except BlockingIOError:
            idle += 1
        return idle > 10

    mesh.turn(stuck)
    assert 0 < relay.buffered <= 1 << 20
    upstream.shutdown(socket.SHUT_WR)
    assert len(mesh.end(client)) == sent
    assert relay.buffered == 0


def test_idle_slow_reader_is_dropped(mesh: Mesh) -> None:
    """A reader that takes nothing any more does not outlive the idle timeout."""
    where, server = mesh.proxy(tcp={"idle_timeout": 3.0})
    _, upstream = mesh.pair(where, server)
    idle = 0

    def stuck() -> bool:
        nonlocal idle
        try:
            upstream.send(bytes(1 << 20))
            idle = 0
        except BlockingIOError:
            idle += 1
        return idle > 10

    mesh.turn(stuck)
    mesh.pass_time(10)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"SI"

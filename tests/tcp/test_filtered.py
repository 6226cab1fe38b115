"""Bytes through filters, between real sockets: whole, in order, bounded, both ends on their own."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import defer

from meshproxy.api import Refuse
from tests.tcp.filters import Judge, Keep, Rewrite, Serve, errors, filtered, flip
from tests.tcp.mesh import rst

if TYPE_CHECKING:
    from meshproxy.tcp.listener import TcpListener
    from tests.tcp.mesh import Mesh

MIB = 1 << 20


def world(mesh: Mesh, *filters: Any, **options: Any) -> tuple[Any, socket.socket, TcpListener]:
    """Where to connect, the upstream's socket and the listener."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    listener = filtered(mesh, *filters, **options)
    return mesh.bind(listener), server, listener


def pour(mesh: Mesh, routes: list[tuple[socket.socket, socket.socket]], amount: int) -> list[bytes]:
    """Send ``amount`` bytes along every route at the same time; digests, sent and received."""
    block = os.urandom(MIB)
    state = [[amount, amount, hashlib.sha256(), hashlib.sha256()] for _ in routes]

    def step() -> bool:
        for (source, sink), one in zip(routes, state, strict=True):
            left: Any = one
            with suppress(BlockingIOError):
                if left[0]:
                    part = block[: source.send(block[: left[0]])]
                    left[2].update(part)
                    left[0] -= len(part)
            with suppress(BlockingIOError):
                data = sink.recv(MIB)
                left[3].update(flip(data))
                left[1] -= len(data)
        return not any(one[1] for one in state)

    mesh.turn(step)
    digests: list[bytes] = []
    for _, _, sent, received in state:
        digests += [sent.digest(), received.digest()]  # type: ignore[attr-defined]
    return digests


@pytest.mark.parametrize("wait", [False, True])
def test_ten_mebibytes_both_ways(mesh: Mesh, wait: bool) -> None:
    """Both ways at the same time, every byte changed, by a filter that waits at times or never."""
    calls = 0

    def change(connection: Any, data: bytes, end: bool) -> Any:
        nonlocal calls
        calls += 1
        if not wait or calls % 3:
            return flip(data)
        later: defer.Deferred[bytes] = defer.Deferred()
        mesh.reactor.callLater(0, later.callback, flip(data))
        return later

    where, server, listener = world(mesh, Rewrite(change, change))
    client, upstream = mesh.pair(where, server)
    digests = pour(mesh, [(client, upstream), (upstream, client)], 10 * MIB)
    assert digests[0] == digests[1]
    assert digests[2] == digests[3]
    client.close()
    upstream.close()
    mesh.turn(lambda: not listener.active)
    record = mesh.records[0]
    assert record["bytes_received"] == record["bytes_sent"] == 10 * MIB
    assert record["flags"] == b"-"


def test_half_close_passes(mesh: Mesh) -> None:
    """The client's end goes through the filter, once, and the upstream's answer comes back."""
    rewrite = Rewrite(lambda connection, data, end: data + (b"." if end else b""))
    where, server, _ = world(mesh, rewrite)
    client, upstream = mesh.pair(where, server)
    client.send(b"question")
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(upstream) == b"question."
    upstream.send(b"answer" * 1000)
    upstream.close()
    assert mesh.end(client) == b"answer" * 1000
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"-"
    ends = [where for where, _, end in rewrite.seen if end]
    assert ends == ["received", "sent"]


def test_order_of_the_steps(mesh: Mesh) -> None:
    """From the client in the order of the chain, from the upstream in reverse."""
    first = Rewrite(lambda c, data, end: data + b"1", lambda c, data, end: data + b"1")
    second = Rewrite(lambda c, data, end: data + b"2", lambda c, data, end: data + b"2")
    where, server, _ = world(mesh, first, second)
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    assert mesh.read(upstream, 3) == b"x12"
    upstream.send(b"y")
    assert mesh.read(client, 3) == b"y21"


def test_one_filter_waits_before_the_upstream_is_asked_for(mesh: Mesh) -> None:
    """What the client says while a judge waits is bounded, and passes the filters afterwards."""
    keep = Keep()
    where, server, listener = world(mesh, keep, Rewrite(lambda c, data, end: flip(data)))
    client = mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    sent = stuck = 0

    def full() -> bool:
        nonlocal sent, stuck
        try:
            sent += client.send(bytes(MIB))
            stuck = 0
        except BlockingIOError:
            stuck += 1
        return stuck > 20

    mesh.turn(full)
    (connection,) = listener._open
    assert connection.relay is not None
    assert 0 < connection.relay.buffered <= 256 * 1024
    keep.waiting[0].callback(None)
    upstream = mesh.accept(server)
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(upstream) == flip(bytes(sent))


def test_a_step_that_waits_stops_its_sender(mesh: Mesh) -> None:
    """What is held while a filter waits is bounded; the other direction goes on."""
    gates: list[defer.Deferred[Any]] = []

    def wait(connection: Any, data: bytes, end: bool) -> Any:
        if gates:
            return None
        gates.append(defer.Deferred())
        return gates[0]

    where, server, listener = world(mesh, Rewrite(wait))
    client, upstream = mesh.pair(where, server)
    sent = stuck = 0

    def full() -> bool:
        nonlocal sent, stuck
        try:
            sent += client.send(bytes(MIB))
            stuck = 0
        except BlockingIOError:
            stuck += 1
        return stuck > 20

    mesh.turn(full)
    (connection,) = listener._open
    assert connection.relay is not None
    assert 0 < connection.relay.buffered <= 256 * 1024
    upstream.send(b"meanwhile")
    assert mesh.read(client, 9) == b"meanwhile"
    client.shutdown(socket.SHUT_WR)
    gates[0].callback(None)
    assert len(mesh.end(upstream)) == sent


def test_a_slow_client_stops_the_upstream(mesh: Mesh) -> None:
    """What a client does not take is not gathered."""
    where, server, listener = world(mesh, Rewrite())
    client, upstream = mesh.pair(where, server)
    sent = stuck = 0

    def full() -> bool:
        nonlocal sent, stuck
        try:
            sent += upstream.send(bytes(MIB))
            stuck = 0
        except BlockingIOError:
            stuck += 1
        return stuck > 20

    mesh.turn(full)
    (connection,) = listener._open
    assert connection.relay is not None
    assert 0 < connection.relay.buffered <= 256 * 1024
    upstream.shutdown(socket.SHUT_WR)
    assert len(mesh.end(client)) == sent


def test_a_reset_meanwhile_cancels(mesh: Mesh) -> None:
    """The client resets while a step waits: it is cancelled, and the upstream reset."""
    cancelled: list[int] = []

    def wait(connection: Any, data: bytes, end: bool) -> Any:
        return defer.Deferred(lambda _: cancelled.append(1))

    where, server, listener = world(mesh, Rewrite(wait))
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    mesh.settle()
    rst(client)
    mesh.turn(lambda: not listener.active)
    assert cancelled == [1]
    assert mesh.was_reset(upstream)
    assert mesh.records[0]["flags"] == b"DC"
    assert errors(mesh) == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", ["received", "sent"])
def test_a_step_that_fails(mesh: Mesh, way: str, late: bool) -> None:
    """An exception, now or later, resets both ends, names the filter and is counted."""

    def fail(connection: Any, data: bytes, end: bool) -> Any:
        if late:
            later: defer.Deferred[Any] = defer.Deferred()
            mesh.reactor.callLater(0, later.errback, ValueError("mine"))
            return later
        raise ValueError("mine")

    where, server, _ = world(mesh, Rewrite(**{way: fail}))
    client, upstream = mesh.pair(where, server)
    (client if way == "received" else upstream).send(b"x")
    assert mesh.was_reset(client)
    assert mesh.was_reset(upstream)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"filter_error[f0]"
    assert errors(mesh) == 1


def test_an_answer_that_is_none(mesh: Mesh) -> None:
    """Text is no answer to bytes."""
    where, server, _ = world(mesh, Rewrite(lambda c, data, end: "text"))
    client, _ = mesh.pair(where, server)
    client.send(b"x")
    assert mesh.was_reset(client)
    assert errors(mesh) == 1


def test_a_step_that_refuses(mesh: Mesh) -> None:
    """The client gets the word behind what it got already, the upstream gets no more."""

    def check(connection: Any, data: bytes, end: bool) -> Any:
        return Refuse(data=b"enough\n", details=b"dropped") if b"DROP" in data else None

    judge = Judge(lambda connection: None)
    where, server, _ = world(mesh, judge, Rewrite(check))
    client, upstream = mesh.pair(where, server)
    upstream.send(b"hello\n")
    assert mesh.read(client, 6) == b"hello\n"
    client.send(b"DROP TABLE")
    assert mesh.end(client) == b"enough\n"
    assert mesh.end(upstream) == b""
    client.shutdown(socket.SHUT_WR)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"dropped"
    assert judge.over == [b"dropped"]


def test_idle_while_a_step_waits(mesh: Mesh) -> None:
    """The idle timeout ends what a filter never answers, and names it."""
    where, server, _ = world(
        mesh, Rewrite(lambda c, data, end: defer.Deferred()), idle_timeout="3s"
    )
    client, _ = mesh.pair(where, server)
    client.send(b"x")
    mesh.settle()
    mesh.pass_time(8)
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["details"]) == (
        b"SI",
        b"filter_timeout[f0]",
    )
    assert errors(mesh) == 1


def test_writing_past_the_filters(mesh: Mesh) -> None:
    """A filter of bytes answers the client itself, and swallows what it answered."""

    def answer(connection: Any, data: bytes, end: bool) -> Any:
        if data == b"PING":
            connection.write(b"PONG")
            return b""
        return None

    where, server, _ = world(mesh, Rewrite(answer))
    client, upstream = mesh.pair(where, server)
    client.send(b"PING")
    assert mesh.read(client, 4) == b"PONG"
    client.send(b"data")
    assert mesh.read(upstream, 4) == b"data"


def test_the_upstreams_proxy_header_is_ours(mesh: Mesh) -> None:
    """A PROXY header for the upstream passes no filter."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname(), proxy_protocol="v1")
    rewrite = Rewrite(lambda c, data, end: data.upper())
    where = mesh.bind(filtered(mesh, rewrite))
    client, upstream = mesh.pair(where, server)
    client.send(b"hello")
    name = client.getsockname()
    header = b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n" % (name[1], where[1])
    assert mesh.read(upstream, len(header) + 5) == header + b"HELLO"


def test_an_upstream_that_refuses(mesh: Mesh) -> None:
    """Filters change nothing of what a failed attempt is."""
    mesh.cluster("up", mesh.refused())
    judge = Judge(lambda connection: None)
    where = mesh.bind(filtered(mesh, judge, Rewrite()))
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"UF"
    assert judge.over == [b"connection_refused"]


# Filters that serve.


def _echo(connection: Any, data: bytes, end: bool) -> None:
    connection.write(flip(data))
    if end:
        connection.close()


def test_a_server(mesh: Mesh) -> None:
    """It answers everything, needs no cluster, and its end comes after its last byte."""
    listener = filtered(mesh, Serve(_echo, lambda c: c.write(b"hello\n")), to=None)
    client = mesh.connect(mesh.bind(listener))
    assert mesh.read(client, 6) == b"hello\n"
    sent, received = pour(mesh, [(client, client)], 4 * MIB)
    assert sent == received
    client.shutdown(socket.SHUT_WR)
    assert mesh.end(client) == b""
    mesh.turn(lambda: mesh.records)
    record = mesh.records[0]
    assert (record["bytes_received"], record["bytes_sent"]) == (4 * MIB, 4 * MIB + 6)
    assert record["cluster_name"] == record["upstream"] == b""
    assert record["details"] == b"ended_by_a_filter"
    assert mesh.value("listener_connections_failed_total", listener="in") == 0


def test_a_server_is_not_flooded(mesh: Mesh) -> None:
    """A client that does not read the answers is not read from."""
    listener = filtered(mesh, Serve(_echo), to=None)
    client = mesh.connect(mesh.bind(listener))
    sent = stuck = 0

    def full() -> bool:
        nonlocal sent, stuck
        try:
            sent += client.send(bytes(MIB))
            stuck = 0
        except BlockingIOError:
            stuck += 1
        return stuck > 20

    mesh.turn(full)
    (connection,) = listener._open
    assert connection.relay is not None
    assert 0 < connection.relay.buffered <= 256 * 1024
    client.shutdown(socket.SHUT_WR)
    assert len(mesh.end(client)) == sent


def test_a_server_that_waits_and_one_that_fails(mesh: Mesh) -> None:
    """serve may wait; what the client said comes after it; an exception resets."""
    gate: defer.Deferred[None] = defer.Deferred()

    def serve(connection: Any, data: bytes, end: bool) -> None:
        if data == b"bad":
            raise ValueError("mine")
        connection.write(data)

    listener = filtered(mesh, Serve(serve, lambda c: gate), to=None)
    client = mesh.connect(mesh.bind(listener))
    client.send(b"early")
    mesh.settle()
    gate.callback(None)
    assert mesh.read(client, 5) == b"early"
    client.send(b"bad")
    assert mesh.was_reset(client)
    assert errors(mesh) == 1


def test_a_server_behind_filters(mesh: Mesh) -> None:
    """What the client sends passes the filters before the server gets it; a judge may refuse."""
    refuse: list[Any] = []
    listener = filtered(
        mesh,
        Judge(lambda connection: refuse[0] if refuse else None),
        Rewrite(lambda c, data, end: data.upper()),
        Serve(lambda c, data, end: c.write(data)),
        to=None,
    )
    where = mesh.bind(listener)
    client = mesh.connect(where)
    client.send(b"hello")
    assert mesh.read(client, 5) == b"HELLO"
    refuse.append(Refuse(reset=True))
    assert mesh.was_reset(mesh.connect(where))


def test_a_servers_idle_timeout(mesh: Mesh) -> None:
    """Silence ends the connection to a server as any other."""
    listener = filtered(mesh, Serve(_echo), to=None, idle_timeout="3s")
    client = mesh.connect(mesh.bind(listener))
    mesh.settle()
    mesh.pass_time(5)
    assert mesh.end(client) == b""
    assert mesh.records[0]["flags"] == b"SI"


def test_what_cannot_be_together(mesh: Mesh) -> None:
    """A server is the last filter, and excludes clusters; one of both is needed."""
    mesh.cluster("up", mesh.refused())
    with pytest.raises(ValueError, match="only the last"):
        filtered(mesh, Serve(_echo), Rewrite(), to=None)
    with pytest.raises(ValueError, match="'to' is not used"):
        filtered(mesh, Serve(_echo))
    with pytest.raises(ValueError, match="'to' is needed"):
        filtered(mesh, Rewrite(), to=None)

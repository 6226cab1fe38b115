"""A connection to an endpoint: where responses end, what is kept, and what the kernel knows."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from meshproxy.http import replies
from meshproxy.http.h1.client import (
    MAX_HEAD,
    ClientConnection,
    SecureConnection,
    bytes_acknowledged,
    bytes_written,
)
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.transport import StreamTransport
from meshproxy.tls.sessions import ClientTransport
from tests.http.world import World, body, get, ok, post, status
from tests.net import live
from tests.tls.origin import Asking, TlsServer, endpoint_at, server_context
from tests.tls.origin import settings as tls_settings

Make = Callable[..., World]


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"hello"),
        ok(b""),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"hello"),
    ],
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_split_of_a_response_is_the_same(world: Make, answer: bytes, cuts: list[int]) -> None:
    """The client's bytes differ in their chunks at most, and the connection is kept."""
    made = world()
    client = made.client(get())
    places = sorted({cut % (len(answer) + 1) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(answer)], strict=True):
        if end > start:
            made.upstream.receive(answer[start:end])
    got = client.take()
    assert status(got.split(b"\r\n\r\n", 1)[1] if b"103" in got[:20] else got) in (200, 204)
    joined = body(got).replace(b"\r\n1\r\n", b"").replace(b"\r\n2\r\n", b"")
    assert (b"hello" in answer) == (b"hello" in got)
    assert (b"a: b" in joined) == (b"A: b" in answer)
    client.receive(get())
    assert len(made.upstreams) == 1
    made.upstream.receive(ok(b"next"))
    assert body(client.take()) == b"next"
    made.settle()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get(), ok(b"x", b"Connection: close")),
        (get(), b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        (get(), ok(b"x") + b"more"),
        (get(), ok(b"") + ok(b"unasked")),
        (get(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore"),
        (get(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\nmore"),
        (get(method=b"HEAD"), ok(b"a body that HEAD must not have")),
        (get(), b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody"),
    ],
)
def test_what_is_not_kept(world: Make, request_: bytes, answer: bytes) -> None:
    """A connection that said so, or on which anything followed, serves nobody else."""
    made = world()
    client = made.client(request_)
    made.upstream.receive(answer)
    assert status(client.take()) in (200, 204)
    made.turn()
    assert made.upstream.gone
    assert [record.flags for record in made.records] == [b"-"]
    made.settle()


@pytest.mark.parametrize("pieces", [1, 2])
def test_bytes_after_a_streamed_body(world: Make, pieces: int) -> None:
    """The same when the body came in pieces."""
    for begin, last in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", b"defmore"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"0\r\n\r\nmore"),
    ):
        made = world()
        client = made.client(get())
        for piece in (begin, last) if pieces == 2 else (begin + last,):
            made.upstream.receive(piece)
        assert b"more" not in client.take()
        made.turn()
        assert made.upstream.gone
        made.settle()


def test_bytes_while_idle(world: Make) -> None:
    """What comes unasked, such as a server's 408 on an idle connection, ends it."""
    made = world()
    client = made.client(get())
    made.upstream.receive(ok())
    made.upstream.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    client.take()
    client.receive(get())
    assert len(made.upstreams) == 2
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"\n",
        b"x" * (MAX_HEAD + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_what_is_no_response(world: Make, answer: bytes) -> None:
    """502, and the connection is given up."""
    made = world()
    client = made.client(get())
    made.upstream.receive(answer)
    assert status(client.take()) == 502
    assert made.upstream.aborted
    made.settle()


def test_a_bad_chunk_later(world: Make) -> None:
    """The response under way is cut."""
    made = world()
    client = made.client(get())
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    made.upstream.receive(b"xyz\r\n")
    made.turn()
    assert client.gone
    assert made.records[0].flags == b"UPE"
    made.settle()


def test_the_request_line_and_host(world: Make) -> None:
    """HTTP/1.1 whatever the client spoke; without a Host, the endpoint's address."""
    made = world()
    made.client(b"GET /x HTTP/1.0\r\n\r\n")
    assert made.upstream.take().startswith(b"GET /x HTTP/1.1\r\nhost: 127.0.0.1:9001\r\n")
    made.settle()


def test_chunks_up(world: Make) -> None:
    """A body of unknown length is sent in chunks as it comes."""
    made = world()
    client = made.client(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    client.receive(b"3\r\nabc\r\n2\r\nde")
    client.receive(b"\r\n0\r\n\r\n")
    assert body(made.upstream.take()) == b"5\r\nabcde\r\n0\r\n\r\n"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_a_slow_response_is_no_longer_paused_when_it_ended(world: Make) -> None:
    """A connection paused for one client reads again for the next."""
    made = world()
    client = made.client(get())
    client.block()
    made.upstream.receive(ok(b"x" * 70000)[:-1])
    assert not made.upstream.reading
    made.upstream.protocol.dataReceived(b"x")  # in flight already
    assert made.upstream.reading
    other = made.client(get())
    made.upstream.receive(ok(b"y"))
    assert body(other.take()) == b"y"
    assert len(made.upstreams) == 1
    made.settle()


def test_what_the_protocol_is_to_twisted(world: Make) -> None:
    """It provides the interfaces; connectionMade and stopProducing have nothing to do."""
    made = world()
    made.client(post(b"x"))
    protocol: Any = made.upstream.protocol
    assert verifyObject(IProtocol, protocol)
    assert verifyObject(IPushProducer, protocol)
    protocol.connectionMade()
    protocol.stopProducing()
    made.settle()
    protocol.pause()
    protocol.resume()
    protocol.pauseProducing()
    protocol.resumeProducing()
    protocol.cancel()
    protocol.close()


# What the kernel knows, on real sockets


def connected() -> tuple[socket.socket, socket.socket]:
    """Our end and the peer's of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname(), timeout=20)
        peer, _ = server.accept()
        peer.settimeout(20)
    return ours, peer


def wait_for(condition: Callable[[], bool]) -> None:
    """The kernel's own timers: an acknowledgement may be delayed by 40 ms."""
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_the_syn_counts_as_one() -> None:
    """A connection that sent nothing has one byte acknowledged; data adds exactly its length."""
    ours, peer = connected()
    with ours, peer:
        wait_for(lambda: bytes_acknowledged(ours) == 1)
        ours.sendall(b"x" * 1000)
        peer.recv(2000)
        wait_for(lambda: bytes_acknowledged(ours) == 1001)


def test_systems_that_do_not_say() -> None:
    """None for a socket that is not TCP's, and where the structure is shorter."""
    one, two = socket.socketpair()
    with one, two:
        assert bytes_acknowledged(one) is None
    short: Any = SimpleNamespace(getsockopt=lambda *_: b"\0" * 104)
    assert bytes_acknowledged(short) is None


class Pool:
    """Takes what a connection says to its pool."""

    def __init__(self) -> None:
        self.endpoint = SimpleNamespace(text=b"127.0.0.1:1")
        self.released = 0

    def release(self, _: ClientConnection) -> None:
        """It is free."""
        self.released += 1

    def discard(self, _: ClientConnection) -> None:
        """It is not."""

    lost = discard

    def use_room(self) -> None:
        """There is room."""


class OneExchange:
    """A request as a connection sees it, which notes how it ended."""

    early = None
    whole = request_complete = True
    request_length = 0
    upgrade = b""
    trailers = None
    method = b"POST"
    upstream_path = b"/"
    upstream_authority = b"a"
    upstream_stream: Any = None
    listener = SimpleNamespace(max_headers=100)

    def __init__(self) -> None:
        self.request_headers = SimpleNamespace(fields=[])
        self.lost: list[bool] = []
        self.responses = 0

    def connected(self, upstream: Any) -> None:
        """A connection is there."""
        self.upstream_stream = upstream

    def response_head(self, *_: Any) -> None:
        """A complete response."""
        self.responses += 1

    def upstream_lost(self, _reply: Any, unacknowledged: bool) -> None:
        """It ended without one."""
        self.lost.append(unacknowledged)


@pytest.mark.parametrize("alive", [False, True], ids=["closed while idle", "read, then closed"])
def test_whether_a_request_was_taken(alive: bool) -> None:
    """
    The byte of the SYN is not one of the request's: a request sent to a peer that had closed is
    unacknowledged, one that a living peer read is not.
    """
    reactor = MeshReactor()
    ours, peer = connected()
    ours.setblocking(False)
    pool: Any = Pool()
    connection = ClientConnection(pool, b"")
    transport = StreamTransport(reactor, ours, ours.getpeername())
    transport.closing = connection.closing
    transport.start(connection)
    try:
        first: Any = OneExchange()
        connection.start(first)
        live.turn(reactor)
        assert peer.recv(1000)
        peer.sendall(ok())
        live.turn_until(reactor, lambda: first.responses)
        assert connection.reused
        second: Any = OneExchange()
        if alive:
            connection.start(second)
            live.turn(reactor)
            assert peer.recv(1000)
            peer.close()
        else:
            peer.close()
            # The FIN is here, and the reactor has not told of it yet.
            wait_for(lambda: ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
            connection.start(second)
        live.turn_until(reactor, lambda: second.lost)
        assert second.lost == [not alive]
    finally:
        live.close(reactor)


@pytest.mark.parametrize(("acknowledged", "unread"), [(1, True), (2, False)])
def test_acknowledgement_is_asked_of_fresh_connections_too(acknowledged: int, unread: bool) -> None:
    """An endpoint that closes a new connection at once has refused the request."""
    pool: Any = Pool()
    connection = ClientConnection(pool, b"")
    connection.makeConnection(
        SimpleNamespace(registerProducer=lambda *_: None, write=len, buffered=0)
    )
    exchange: Any = OneExchange()
    connection.start(exchange)
    info = struct.pack("=120xQ", acknowledged)
    connection.closing(SimpleNamespace(getsockopt=lambda *_: info))  # type: ignore[arg-type]
    connection.connectionLost(Failure(ConnectionDone()))
    assert exchange.lost == [unread]


@pytest.mark.parametrize(
    ("how", "unread"),
    [("closed while idle", True), ("cut while idle", False), ("read, then closed", False)],
)
def test_whether_a_request_was_taken_over_tls(tmp_path: Path, how: str, unread: bool) -> None:
    """
    What the kernel counts are records, so their number before the request counts too; and only an
    end that the peer meant (close_notify) says anything.
    """
    ended = threading.Event()

    def serve(sock: ssl.SSLSocket) -> None:
        sock.recv(1000)
        sock.sendall(ok())
        if how == "read, then closed":
            sock.recv(1000)
        elif how == "cut while idle":
            sock.shutdown(socket.SHUT_RDWR)  # without a word of TLS
        if how != "closed while idle":
            return
        sock.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            sock.unwrap()
        ended.set()

    reactor = MeshReactor()
    asking = Asking(reactor, tls_settings(verify=False))
    made: list[Any] = []
    pool: Any = Pool()
    try:
        with TlsServer(server_context(tmp_path), serve) as server:
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setblocking(False)
            where = sock.getpeername()
            at = endpoint_at(server.port)
            asking.tls.secure(reactor, sock, where, at, 20.0, made.append, made.append)
            live.turn_until(reactor, lambda: made)
            transport: ClientTransport = made[0]
            connection = SecureConnection(pool, b"")
            transport.closing = connection.closing
            transport.start(connection)
            first: Any = OneExchange()
            connection.start(first)
            live.turn_until(reactor, lambda: first.responses)
            second: Any = OneExchange()
            if how != "read, then closed":
                # The end is here, and the reactor has not told of it yet.
                if how == "closed while idle":
                    ended.wait(20)
                wait_for(lambda: bool(select.select([sock], [], [], 0)[0]))
            connection.start(second)
            live.turn_until(reactor, lambda: second.lost)
            assert second.lost == [unread]
    finally:
        live.close(reactor)


def test_what_was_written_where_the_system_does_not_say() -> None:
    """None, and so nothing is taken for unread; else what is on its way counts too."""
    one, two = socket.socketpair()
    with one, two:
        assert bytes_written(one) is None
    ours, peer = connected()
    with ours, peer:
        ours.sendall(b"x" * 1000)
        assert bytes_written(ours) == 1001
        wait_for(lambda: bytes_acknowledged(ours) == 1001)
        assert bytes_written(ours) == 1001
    info = struct.pack("=120xQ", 5)
    nobody: Any = SimpleNamespace(getsockopt=lambda *_: info, fileno=lambda: 0)
    with open(os.devnull) as file:
        nobody.fileno = file.fileno
        assert bytes_written(nobody) is None


@pytest.mark.parametrize(
    ("broken_by", "reused", "reply"),
    [
        ("tlsv13 alert certificate required", False, b"alert:_certificate_required"),
        ("tlsv13 alert certificate required", True, b""),
        ("unexpected eof while reading", False, b""),
        ("", False, b""),
    ],
)
def test_an_alert_in_place_of_the_first_response(
    broken_by: str, reused: bool, reply: bytes
) -> None:
    """It is the handshake's end, as TLS 1.3 has it: told as a connection that failed."""
    pool: Any = Pool()
    connection = SecureConnection(pool, b"")
    connection.reused = reused
    connection.makeConnection(
        SimpleNamespace(
            registerProducer=lambda *_: None,
            write=len,
            buffered=0,
            broken_by=broken_by,
            socket=SimpleNamespace(getsockopt=lambda *_: b""),
        )
    )
    told: list[Any] = []
    exchange: Any = OneExchange()
    exchange.upstream_lost = lambda *given: told.append(given)
    connection.start(exchange)
    connection.connectionLost(Failure(ConnectionLost()))
    expected = replies.TERMINATED
    if reply:
        expected = replies.insecure(replies.CONNECT_FAILED, "alert: certificate required")
        assert expected.details.endswith(b"|TLS_error:_" + reply)
    assert told == [(expected, False)]

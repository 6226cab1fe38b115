"""The relay: every byte once and in order, ends and resets passed on, memory bounded."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.net import reactor as reactor_module
from meshproxy.net import splice
from meshproxy.net.pipes import PipePool
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.splice import (
    ABORTED,
    CHUNK,
    CLIENT_RESET,
    CLOSED,
    CONNECT_FAILED,
    UPSTREAM_RESET,
    Relay,
)
from tests.net import live

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Pair = Callable[[], tuple[socket.socket, socket.socket]]

MEBIBYTE = 1 << 20


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a UNIX stream connection, both non-blocking."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


class Bench:
    """A relay between two far ends that the test holds, on a reactor that the test turns."""

    def __init__(self, reactor: MeshReactor) -> None:
        self.reactor = reactor
        self.reasons: list[str] = []
        self.held: list[socket.socket] = []
        self.peak = 0

    def join(self, pair: Pair = tcp_pair, **options: Any) -> tuple[socket.socket, socket.socket]:
        """Make two connections and relay between them; gives the far ends."""
        client, near_client = pair()
        near_upstream, upstream = pair()
        self.held += [client, upstream]
        self.relay = Relay(self.reactor, near_client, near_upstream, self.reasons.append, **options)
        self.relay.start()
        return client, upstream

    def turn(self, until: Callable[[], object]) -> None:
        """Turn the reactor until the condition holds; a test that hangs fails here."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if until():
                return
            self.reactor.iterate(0.005 if not self.reasons else 0)
            self.peak = max(self.peak, self.relay.buffered)
        raise AssertionError("the condition never came true")

    def read(self, sock: socket.socket, size: int) -> bytes:
        """Read exactly ``size`` bytes at ``sock`` while the reactor turns."""
        data = bytearray()

        def enough() -> bool:
            with suppress(BlockingIOError):
                data.extend(sock.recv(size - len(data)))
            return len(data) == size

        self.turn(enough)
        return bytes(data)

    def end(self, sock: socket.socket) -> bytes:
        """Read to the end of the stream at ``sock`` while the reactor turns."""
        data = bytearray()

        def ended() -> bool:
            try:
                more = sock.recv(65536)
            except BlockingIOError:
                return False
            data.extend(more)
            return not more

        self.turn(ended)
        return bytes(data)

    def was_reset(self, sock: socket.socket) -> bool:
        """Whether ``sock`` ends in RST; turns the reactor until it ends at all."""
        try:
            self.end(sock)
        except ConnectionResetError:
            return True
        return False


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench on a reactor of its own, closed afterwards."""
    reactor = MeshReactor()
    bench = Bench(reactor)
    yield bench
    if not bench.reasons:
        bench.relay.abort()
    assert len(bench.reasons) == 1
    for sock in (*bench.held, *bench.relay.sockets):
        sock.close()
    assert not reactor._watchers
    live.close(reactor)


def rst(sock: socket.socket) -> None:
    """Close ``sock`` with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_both_ways(bench: Bench, pair: Pair) -> None:
    """Small messages cross in both directions and are counted; both ends end it in order."""
    client, upstream = bench.join(pair)
    client.send(b"question")
    assert bench.read(upstream, 8) == b"question"
    upstream.send(b"answer")
    assert bench.read(client, 6) == b"answer"
    client.close()
    assert bench.end(upstream) == b""
    upstream.close()
    bench.turn(lambda: bench.reasons)
    assert bench.reasons == [CLOSED]
    assert (bench.relay.bytes_received, bench.relay.bytes_sent) == (8, 6)
    assert bench.relay.buffered == 0


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
@pytest.mark.parametrize("first", ["client", "upstream"])
def test_half_close(bench: Bench, pair: Pair, first: str) -> None:
    """A side that ends its sending still receives, and its peer learns of the end at once."""
    one, two = bench.join(pair)
    if first == "upstream":
        one, two = two, one
    one.send(b"last words")
    one.shutdown(socket.SHUT_WR)
    assert bench.end(two) == b"last words"
    for size in (1, 100, 100_000):
        data = os.urandom(size)
        two.send(data)
        assert bench.read(one, size) == data
    assert not bench.reasons
    two.shutdown(socket.SHUT_WR)
    assert bench.end(one) == b""
    bench.turn(lambda: bench.reasons)
    assert bench.reasons == [CLOSED]


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 200_000])
def test_data_and_end_in_one_edge(bench: Bench, size: int) -> None:
    """Data and FIN that are there before the first event are both handed on."""
    client, near_client = tcp_pair()
    near_upstream, upstream = tcp_pair()
    bench.held += [client, upstream]
    data = os.urandom(size)
    sent = 0
    while sent < size:
        sent += client.send(data[sent:])
    client.shutdown(socket.SHUT_WR)
    bench.relay = Relay(bench.reactor, near_client, near_upstream, bench.reasons.append)
    bench.relay.start()
    assert bench.end(upstream) == data


def test_urgent_data_hides_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read stops short of an urgent mark: what lies behind the mark is delivered all the same."""
    monkeypatch.setattr(reactor_module, "_EDGE", reactor_module._EDGE | select.EPOLLPRI)
    client, upstream = bench.join()
    client.send(b"before")
    client.send(b"!", socket.MSG_OOB)
    client.send(b"behind")
    assert bench.read(upstream, 12) == b"beforebehind"


def test_initial_bytes(bench: Bench) -> None:
    """Bytes read before the relay started go first, in each direction, uncounted."""
    client, upstream = bench.join(from_client=b"to upstream ", from_upstream=b"to client ")
    client.send(b"and on")
    upstream.send(b"and back")
    assert bench.read(upstream, 18) == b"to upstream and on"
    assert bench.read(client, 18) == b"to client and back"
    assert (bench.relay.bytes_received, bench.relay.bytes_sent) == (6, 8)


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
@pytest.mark.parametrize("pool", [PipePool(), PipePool(limit=0), PipePool(size=4096)])
@pytest.mark.parametrize("turn", [splice.TURN, 3000])
def test_bulk_both_ways(bench: Bench, pair: Pair, pool: PipePool, turn: int) -> None:
    """64 MiB each way at once arrive whole, by pipe, by copy and by tiny turns; no pipe leaks."""
    size = 64 * MEBIBYTE if turn == splice.TURN else 4 * MEBIBYTE
    client, upstream = bench.join(pair, pool=pool, turn=turn)
    sides = {
        sock.fileno(): (sock, hashlib.sha256(), hashlib.sha256()) for sock in (client, upstream)
    }
    block = os.urandom(MEBIBYTE)
    left = dict.fromkeys(sides, size)
    got = dict.fromkeys(sides, 0)
    poll = select.poll()
    for fd in sides:
        poll.register(fd, select.POLLIN | select.POLLOUT)

    def done() -> bool:
        for fd, event in poll.poll(0):
            sock, sent, received = sides[fd]
            if event & select.POLLOUT and left[fd]:
                begin = (size - left[fd]) % MEBIBYTE
                part = block[begin : begin + left[fd]]
                number = sock.send(part)
                sent.update(part[:number])
                left[fd] -= number
                if not left[fd]:
                    sock.shutdown(socket.SHUT_WR)
                    poll.modify(fd, select.POLLIN)
            if event & select.POLLIN:
                data = sock.recv(MEBIBYTE)
                received.update(data)
                got[fd] += len(data)
        return bool(bench.reasons) and all(number == size for number in got.values())

    bench.turn(done)
    assert sides[client.fileno()][1].digest() == sides[upstream.fileno()][2].digest()
    assert sides[upstream.fileno()][1].digest() == sides[client.fileno()][2].digest()
    assert bench.reasons == [CLOSED]
    assert (bench.relay.bytes_received, bench.relay.bytes_sent) == (size, size)
    assert pool.alive == len(pool._waiting) <= 2
    assert bool(pool.alive) == bool(pool.limit)
    pool.clear()
    assert pool.alive == 0


@pytest.mark.parametrize(("pool", "bound"), [(PipePool(limit=0), CHUNK), (PipePool(), MEBIBYTE)])
def test_slow_reader(bench: Bench, pool: PipePool, bound: int) -> None:
    """A reader that stops stops its sender: at most a chunk or a pipe is held meanwhile."""
    client, upstream = bench.join(pool=pool)
    block = bytes(range(256)) * 4096
    sent = 0
    idle = 0

    def stuck() -> bool:
        nonlocal sent, idle
        try:
            sent += upstream.send(block)
            idle = 0
        except BlockingIOError:
            idle += 1
        return idle > 10

    bench.turn(stuck)
    assert 0 < bench.relay.buffered <= bench.peak <= bound
    whole, rest = divmod(sent, len(block))
    upstream.shutdown(socket.SHUT_WR)
    received = bench.end(client)
    assert len(received) == sent
    # Each send began at the block's start, so only the amount and the byte values are compared.
    assert set(received) == set(range(256)), (whole, rest)
    assert bench.relay.buffered == 0
    pool.clear()


@pytest.mark.parametrize(
    ("name", "reason"), [("client", CLIENT_RESET), ("upstream", UPSTREAM_RESET)]
)
def test_reset_is_passed_on(bench: Bench, name: str, reason: str) -> None:
    """A reset of one side resets the other."""
    one, two = bench.join()
    bench.turn(lambda: bench.relay._client.other)
    if name == "upstream":
        one, two = two, one
    one.send(b"x")
    assert bench.read(two, 1) == b"x"
    rst(one)
    assert bench.was_reset(two)
    assert bench.reasons == [reason]


def test_reset_while_blocked(bench: Bench) -> None:
    """A reset is noticed even when its side is not being read because the other is slow."""
    client, upstream = bench.join()
    idle = 0

    def stuck() -> bool:
        nonlocal idle
        try:
            client.send(bytes(MEBIBYTE))
            idle = 0
        except BlockingIOError:
            idle += 1
        return idle > 10

    bench.turn(stuck)
    alive = splice.PIPES.alive - len(splice.PIPES._waiting)
    assert alive == 1
    rst(client)
    bench.turn(lambda: bench.reasons)
    assert bench.reasons == [CLIENT_RESET]
    assert splice.PIPES.alive == len(splice.PIPES._waiting)
    assert bench.was_reset(upstream)


def test_reset_after_half_close(bench: Bench) -> None:
    """A side that has ended its sending and is then lost takes the other one with it."""
    client, upstream = bench.join()
    client.shutdown(socket.SHUT_WR)
    assert bench.end(upstream) == b""
    rst(client)
    bench.turn(lambda: bench.reasons)
    assert bench.reasons == [CLIENT_RESET]
    # Behind an end that was read already, a reset shows at the next send.
    with pytest.raises(BrokenPipeError):
        upstream.send(b"x")


def test_abort_and_close(bench: Bench) -> None:
    """Abort resets both sides, once, with the reason given; anything after it does nothing."""
    client, upstream = bench.join()
    bench.relay.abort("for this test")
    bench.relay.abort()
    bench.relay.close()
    assert bench.reasons == ["for this test"]
    assert bench.was_reset(client)
    assert bench.was_reset(upstream)


def test_close_is_orderly(bench: Bench) -> None:
    """Close ends both sides with FIN."""
    client, upstream = bench.join()
    bench.relay.close("stopped")
    assert bench.reasons == ["stopped"]
    assert bench.end(client) == bench.end(upstream) == b""


def test_addresses_are_there_when_finished(bench: Bench) -> None:
    """``finished`` may still ask the sockets for their names; afterwards they are closed."""
    names: list[Any] = []

    def finished(reason: str) -> None:
        bench.reasons.append(reason)
        names.extend(sock.getsockname() for sock in bench.relay.sockets)

    client, near_client = tcp_pair()
    near_upstream, upstream = tcp_pair()
    bench.held += [client, upstream]
    bench.relay = Relay(bench.reactor, near_client, near_upstream, finished)
    bench.relay.start()
    bench.relay.abort()
    assert len(names) == 2
    assert [sock.fileno() for sock in bench.relay.sockets] == [-1, -1]


def test_exception_aborts(bench: Bench) -> None:
    """What the reactor catches from ``ready`` aborts the relay."""
    bench.join()
    bench.relay._client.abort()
    bench.relay._client.abort()
    assert bench.reasons == [ABORTED]


def test_stale_event(bench: Bench) -> None:
    """An event meant for a descriptor's former owner does no harm."""
    client, upstream = bench.join()
    half = bench.relay._client
    half.ready(splice._IN | splice._OUT | splice._ERR | splice._HUP | splice._RDHUP)
    client.send(b"still here")
    assert bench.read(upstream, 10) == b"still here"
    bench.relay.close()
    half.ready(splice._IN)
    half._resume()
    assert bench.reasons == [CLOSED]


def test_fairness(bench: Bench) -> None:
    """One turn moves no more than its share; the rest follows without another event."""
    client, upstream = bench.join(turn=CHUNK)
    client.send(bytes(10 * CHUNK))
    bench.turn(lambda: bench.relay.bytes_received)
    assert bench.relay.bytes_received <= CHUNK
    assert bench.read(upstream, 10 * CHUNK) == bytes(10 * CHUNK)


def test_activity(bench: Bench) -> None:
    """``last_activity`` follows the bytes and nothing else."""
    client, upstream = bench.join()
    bench.turn(lambda: bench.relay.last_activity)
    bench.reactor.iterate(0)
    before = bench.relay.last_activity
    bench.reactor.iterate(0)
    assert bench.relay.last_activity == before
    client.send(b"x")
    bench.read(upstream, 1)
    assert bench.relay.last_activity > before


def test_kernel_that_cannot_splice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where splice is not to be had for a socket, the same bytes are copied."""

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "splice", refuse)
    client, upstream = bench.join()
    data = os.urandom(100_000)
    client.send(data)
    assert bench.read(upstream, len(data)) == data


class Connect:
    """A relay whose upstream is still connecting, and what it was told."""

    def __init__(
        self, bench: Bench, address: tuple[str, int], *, prepared: bool = False, **options: Any
    ) -> None:
        self.bench = bench
        self.prepared = prepared
        self.errors: list[int] = []
        self.client, near = tcp_pair()
        bench.held.append(self.client)
        bench.relay = Relay(
            bench.reactor,
            near,
            self.open(address),
            bench.reasons.append,
            connected=self.connected,
            **options,
        )
        self.again: tuple[str, int] | None = None

    def open(self, address: tuple[str, int]) -> socket.socket:
        upstream = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self.prepared:
            splice.prepare(upstream)
        assert upstream.connect_ex(address) == errno.EINPROGRESS
        return upstream

    def connected(self, error: int) -> None:
        self.errors.append(error)
        if error and self.again is not None:
            again, self.again = self.again, None
            self.bench.relay.retry(self.open(again))


@pytest.fixture
def refused() -> tuple[str, int]:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: tuple[str, int] = server.getsockname()
    return address


def test_connecting(bench: Bench) -> None:
    """Nothing is read from the client before the upstream is up; then what waited is delivered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = Connect(bench, server.getsockname(), from_client=b"PROXY ")
        connect.client.send(b"early")
        connect.client.shutdown(socket.SHUT_WR)
        bench.relay._connecting(bench.relay._client, splice._IN | splice._RDHUP | splice._OUT)
        assert bench.relay.bytes_received == 0
        bench.relay.start()
        bench.turn(lambda: connect.errors)
        upstream, _ = server.accept()
        bench.held.append(upstream)
        upstream.setblocking(False)
        assert bench.end(upstream) == b"PROXY early"
        assert connect.errors == [0]


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_acknowledgements_are_put_off_for_one_packet_only(bench: Bench, first: str) -> None:
    """
    What the handshake was spared is not charged to an upstream that answers in small pieces: it
    would wait 40 ms for each acknowledgement.
    """
    option = (socket.IPPROTO_TCP, splice._QUICKACK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = Connect(bench, server.getsockname(), prepared=True)
        _, near = bench.relay.sockets
        if first == "client":
            connect.client.send(b"ask")
        bench.relay.start()
        bench.turn(lambda: connect.errors)
        upstream, _ = server.accept()
        bench.held.append(upstream)
        upstream.setblocking(False)
        if first == "client":
            assert bench.read(upstream, 3) == b"ask"
        upstream.send(b"answer")
        assert bench.read(connect.client, 6) == b"answer"
        assert near.getsockopt(*option) == 1


def test_connect_refused(bench: Bench, refused: tuple[str, int]) -> None:
    """A refused upstream resets the client, after ``connected`` got the error."""
    connect = Connect(bench, refused)
    connect.client.send(b"early")
    bench.relay.start()
    assert bench.was_reset(connect.client)
    assert connect.errors == [errno.ECONNREFUSED]
    assert bench.reasons == [CONNECT_FAILED]


def test_connect_retry(bench: Bench, refused: tuple[str, int]) -> None:
    """``retry`` goes on with another upstream and loses nothing of what the client sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = Connect(bench, refused, from_client=b"header ")
        connect.again = server.getsockname()
        connect.client.send(b"early")
        bench.relay.start()
        bench.turn(lambda: len(connect.errors) == 2)
        upstream, _ = server.accept()
        bench.held.append(upstream)
        upstream.setblocking(False)
        assert bench.read(upstream, 12) == b"header early"
        assert connect.errors == [errno.ECONNREFUSED, 0]


def test_client_reset_while_connecting(bench: Bench) -> None:
    """A client that resets before the upstream is up ends the attempt."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = Connect(bench, server.getsockname())
        rst(connect.client)
        bench.relay.start()
        bench.turn(lambda: bench.reasons)
        assert bench.reasons == [CLIENT_RESET]

"""Transports that send at once, on real sockets: order, producers, closing, errors."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactor
from zope.interface import implementer

from meshproxy.net.reactor import MeshReactor
from meshproxy.net.transport import SMALL, StreamTransport, peer_text, twisted_address
from tests.net import live
from tests.net.logged import errors

BIG = b"0123456789abcdef" * 65536 * 4  # more than the kernel's buffers hold


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own."""
    made = MeshReactor()
    yield made
    live.close(made)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection: non-blocking, blocking with a time limit."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    peer.settimeout(20)
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer.connect(server.getsockname())
        sock, _ = server.accept()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sock.setblocking(False)
    return sock, peer


class Noting(Protocol):
    """Notes what happens to it, and when it happens inside one of its own calls."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: list[Any] = []
        self.inside = False
        self.entered_again = False

    def dataReceived(self, data: bytes) -> None:
        """Bytes."""
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        """The end."""
        self.entered_again |= self.inside
        self.lost.append(reason)

    def write(self, data: bytes) -> None:
        """Write, and note what comes back from inside the call."""
        self.inside = True
        assert self.transport is not None
        self.transport.write(data)
        self.inside = False


class Producer:
    """A push producer that counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        """Count it."""
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        """Count it."""
        self.calls.append("resume")

    def stopProducing(self) -> None:
        """Count it."""
        self.calls.append("stop")


def connected(
    reactor: MeshReactor, protocol: Noting | None = None
) -> tuple[StreamTransport, Noting, socket.socket]:
    """A started transport, its protocol, and the peer's socket."""
    sock, peer = tcp_pair()
    transport = StreamTransport(reactor, sock, sock.getpeername())
    protocol = protocol or Noting()
    transport.start(protocol)
    return transport, protocol, peer


def read_all(reactor: MeshReactor, peer: socket.socket, count: int) -> bytes:
    """``count`` bytes from the peer's end, while the reactor turns."""
    peer.setblocking(False)
    got = bytearray()

    def more() -> bool:
        try:
            got.extend(peer.recv(1 << 20))
        except BlockingIOError:
            pass
        return len(got) >= count

    live.turn_until(reactor, more)
    peer.settimeout(20)
    return bytes(got)


def test_a_write_waits_for_no_turn(reactor: MeshReactor) -> None:
    """Small writes leave together before the reactor waits; nobody is registered for writing."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(b"hello")
        transport.writeSequence([b"a", b"b"])
        assert transport.buffered == 7
        reactor.doIteration(0)
        assert peer.recv(100) == b"helloab"
        assert reactor.getWriters() == []
        assert transport.buffered == 0


def test_a_large_write_is_sent_at_once(reactor: MeshReactor) -> None:
    """It takes the small ones before it along, and does not wait for the turn's end."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(b"small")
        protocol.write(b"x" * SMALL)
        assert transport.buffered == 0
        assert peer.recv(SMALL + 5, socket.MSG_WAITALL) == b"small" + b"x" * SMALL


def test_a_reactor_without_hold_sends_at_once() -> None:
    """Under any other reactor a small write is with the peer when write returns."""
    sock, peer = tcp_pair()
    with peer:
        transport = StreamTransport(MemoryReactor(), sock, sock.getpeername())
        transport.start(Noting())
        transport.write(b"hello")
        assert peer.recv(100) == b"hello"
        sock.close()


@pytest.mark.parametrize("how", ["loseConnection", "loseWriteConnection"])
def test_what_is_held_leaves_before_an_orderly_end(reactor: MeshReactor, how: str) -> None:
    """A write and a close in one turn: the peer reads the write, then the end."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(b"last words")
        getattr(transport, how)()
        assert read_all(reactor, peer, 10) == b"last words"
        peer.setblocking(False)
        live.turn_until(reactor, lambda: _at_end(peer))


def _at_end(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


def test_what_is_held_dies_with_an_abort(reactor: MeshReactor) -> None:
    """An aborted connection sends nothing more, and its release does nothing."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(b"never")
        transport.abortConnection()
        live.turn_until(reactor, lambda: protocol.lost)
        transport.release()
        with pytest.raises(ConnectionResetError):
            peer.recv(100)


def test_order_is_kept_when_the_kernel_takes_only_a_part(reactor: MeshReactor) -> None:
    """What is written behind a part that did not fit stays behind it."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(BIG)
        assert transport.buffered > 0
        assert reactor.getWriters() == [transport]
        protocol.write(b"after")
        protocol.write(b"wards")
        assert read_all(reactor, peer, len(BIG) + 10) == BIG + b"afterwards"
        assert transport.buffered == 0
        assert reactor.getWriters() == []
        protocol.write(b"again")
        live.turn(reactor)
        assert peer.recv(100) == b"again"


def test_small_writes_of_a_turn_are_bounded(reactor: MeshReactor) -> None:
    """However many there are, less than SMALL waits for the turn's end, and order is kept."""
    transport, protocol, peer = connected(reactor)
    with peer:
        producer = Producer()
        transport.registerProducer(producer, True)
        written = b""
        while not producer.calls:
            piece = b"%010d" % len(written) * 100
            protocol.write(piece)
            written += piece
            assert len(transport._held) < SMALL
        assert len(written) < 4 * len(BIG)
        assert read_all(reactor, peer, len(written)) == written


def test_an_error_is_reported_by_the_next_turn(reactor: MeshReactor) -> None:
    """A peer that reset the connection: write neither raises nor calls connectionLost."""
    transport, protocol, peer = connected(reactor)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    protocol.write(b"x")
    protocol.write(b"y")
    assert protocol.lost == []
    live.turn_until(reactor, lambda: protocol.lost)
    assert protocol.lost[0].check(ConnectionLost)
    assert not protocol.entered_again
    assert len(protocol.lost) == 1
    protocol.write(b"z")
    assert len(protocol.lost) == 1
    assert transport.disconnected


def test_an_orderly_end(reactor: MeshReactor) -> None:
    """The peer's FIN is ConnectionDone, once, after all of its bytes."""
    _, protocol, peer = connected(reactor)
    peer.sendall(b"last words")
    peer.close()
    live.turn_until(reactor, lambda: protocol.lost)
    assert protocol.got == b"last words"
    assert len(protocol.lost) == 1
    assert protocol.lost[0].check(ConnectionDone)


def test_lose_connection_sends_what_was_written(reactor: MeshReactor) -> None:
    """loseConnection waits for the buffer, whatever its size."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(BIG)
        transport.loseConnection()
        assert protocol.lost == []
        assert read_all(reactor, peer, len(BIG)) == BIG
        live.turn_until(reactor, lambda: protocol.lost)
        assert protocol.lost[0].check(ConnectionDone)
        assert peer.recv(1) == b""


def test_abort_connection_throws_the_buffer_away(reactor: MeshReactor) -> None:
    """abortConnection resets, and connectionLost comes with the next turn."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(BIG)
        transport.abortConnection()
        assert protocol.lost == []
        live.turn_until(reactor, lambda: protocol.lost)
        assert protocol.lost[0].check(ConnectionAborted)
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: peer.recv(1 << 20), b""))


def test_half_close(reactor: MeshReactor) -> None:
    """loseWriteConnection ends one direction when the buffer is empty; the other goes on."""
    transport, protocol, peer = connected(reactor)
    with peer:
        protocol.write(BIG)
        transport.loseWriteConnection()
        assert read_all(reactor, peer, len(BIG)) == BIG
        live.turn(reactor)
        assert peer.recv(1) == b""
        protocol.write(b"too late")
        peer.sendall(b"still read")
        live.turn_until(reactor, lambda: protocol.got == b"still read")
        peer.close()
        live.turn_until(reactor, lambda: protocol.lost)


def test_the_peers_half_close_reaches_who_wants_it(reactor: MeshReactor) -> None:
    """IHalfCloseableProtocol hears of it and may still write; an error in it ends all."""

    @implementer(IHalfCloseableProtocol)
    class Half(Noting):
        ended = 0
        broken = False

        def readConnectionLost(self) -> None:
            """Count it."""
            self.ended += 1
            if self.broken:
                raise RuntimeError("broken on purpose")

        def writeConnectionLost(self) -> None:
            """Part of the interface."""

    protocol = Half()
    _, _, peer = connected(reactor, protocol)
    with peer:
        peer.shutdown(socket.SHUT_WR)
        live.turn_until(reactor, lambda: protocol.ended)
        protocol.write(b"answer")
        live.turn(reactor)
        assert peer.recv(100) == b"answer"
        assert protocol.lost == []
    broken = Half()
    broken.broken = True
    _, _, peer = connected(reactor, broken)
    with peer, errors() as logged:
        peer.shutdown(socket.SHUT_WR)
        live.turn_until(reactor, lambda: broken.lost)
    assert [failure.type for failure in logged] == [RuntimeError]


def test_a_push_producer_is_paused_and_resumed(reactor: MeshReactor) -> None:
    """Paused when more than bufferSize waits, resumed when all of it has gone."""
    transport, protocol, peer = connected(reactor)
    with peer:
        producer = Producer()
        transport.registerProducer(producer, True)
        protocol.write(b"small")
        assert producer.calls == []
        protocol.write(BIG)
        assert producer.calls == ["pause"]
        read_all(reactor, peer, len(BIG) + 5)
        live.turn_until(reactor, lambda: producer.calls == ["pause", "resume"])
        transport.loseConnection()
        live.turn_until(reactor, lambda: protocol.lost)
        assert producer.calls[-1] == "stop"


def test_a_pull_producer_is_asked_until_it_is_done(reactor: MeshReactor) -> None:
    """A pull producer writes once each time it is asked, and is asked again after each write."""
    transport, protocol, peer = connected(reactor)
    with peer:

        class Pull(Producer):
            left = 5

            def resumeProducing(self) -> None:
                self.left -= 1
                transport.write(b"%d" % self.left)
                if not self.left:
                    transport.unregisterProducer()

        transport.registerProducer(Pull(), False)
        assert read_all(reactor, peer, 5) == b"43210"
        protocol.write(b"at once again")
        live.turn(reactor)
        assert peer.recv(100) == b"at once again"
        transport.registerProducer(Producer(), True)
        with pytest.raises(RuntimeError):
            transport.registerProducer(Pull(), False)
        protocol.write(b"!")
        live.turn(reactor)
        assert peer.recv(100) == b"!"


def test_pause_and_resume_reading(reactor: MeshReactor) -> None:
    """Nothing is delivered while paused, nothing is lost."""
    transport, protocol, peer = connected(reactor)
    with peer:
        transport.pauseProducing()
        peer.sendall(b"data")
        live.turn(reactor)
        assert protocol.got == b""
        transport.resumeProducing()
        live.turn_until(reactor, lambda: protocol.got == b"data")


def test_closing_is_called_with_the_open_socket(reactor: MeshReactor) -> None:
    """``closing`` sees the socket before it is closed, once, and before connectionLost."""
    transport, protocol, peer = connected(reactor)
    seen: list[tuple[int, int]] = []
    transport.closing = lambda sock: seen.append((sock.fileno(), len(protocol.lost)))
    number = transport.fileno()
    peer.close()
    live.turn_until(reactor, lambda: protocol.lost)
    assert seen == [(number, 0)]


def test_addresses(reactor: MeshReactor) -> None:
    """getPeer and getHost are Twisted's address objects."""
    transport, _, peer = connected(reactor)
    with peer:
        assert transport.getPeer() == address.IPv4Address("TCP", *peer.getsockname())
        assert transport.getHost() == address.IPv4Address("TCP", *peer.getpeername())


@pytest.mark.parametrize(
    ("family", "peer", "text"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), (b"127.0.0.1:80", b"127.0.0.1")),
        (socket.AF_INET6, ("::1", 80, 0, 0), (b"[::1]:80", b"::1")),
        (socket.AF_INET6, ("fe80::1%eth0", 8, 0, 2), (b"[fe80::1]:8", b"fe80::1")),
        (socket.AF_INET6, ("::ffff:10.0.0.1", 80, 0, 0), (b"10.0.0.1:80", b"10.0.0.1")),
        (socket.AF_UNIX, "", (b"unix:", b"unix:")),
    ],
)
def test_peer_text(family: int, peer: Any, text: tuple[bytes, bytes]) -> None:
    """An address as bytes, with and without its port."""
    assert peer_text(family, peer) == text


def test_twisted_addresses() -> None:
    """Each family has its class."""
    assert twisted_address(socket.AF_INET, ("10.0.0.1", 80)).host == "10.0.0.1"
    assert twisted_address(socket.AF_INET6, ("::1", 80, 0, 0)).port == 80
    assert twisted_address(socket.AF_UNIX, "/run/x") == address.UNIXAddress("/run/x")
    assert twisted_address(socket.AF_UNIX, "") == address.UNIXAddress(None)

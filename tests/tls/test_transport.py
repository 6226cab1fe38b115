"""Bytes over TLS on a socket: order, ends of either kind, errors, slow peers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import implementer

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls.settings import apply
from meshproxy.tls.transport import TlsTransport
from tests.integration.tls_raw import DATA, HANDSHAKE, Sealed, key_update, traffic_secret
from tests.net import live
from tests.tls.wire import Client, Noting, client_context, server_context, tls_pair

BIG = os.urandom(1 << 16) * 64  # 4 MiB, more than the kernel's buffers hold


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own."""
    made = MeshReactor()
    yield made
    live.close(made)


def connected(
    reactor: MeshReactor, protocol: Any = None, version: str = "1.3", family: str = "tcp"
) -> tuple[TlsTransport, Any, Client]:
    """A started transport, its protocol and the client."""
    ours, connection, client = tls_pair(
        reactor, client=client_context(version=version), family=family
    )
    transport = TlsTransport(reactor, ours, ("192.0.2.1", 1), connection)
    protocol = Noting() if protocol is None else protocol
    transport.start(protocol)
    return transport, protocol, client


@implementer(IHalfCloseableProtocol)
class Halves(Noting):
    """Lives on with one direction."""

    def __init__(self) -> None:
        super().__init__()
        self.read_ended = self.write_ended = False

    def readConnectionLost(self) -> None:
        """The client's end."""
        self.read_ended = True

    def writeConnectionLost(self) -> None:
        """Ours."""
        self.write_ended = True


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_both_ways(reactor: MeshReactor, version: str, family: str) -> None:
    """Small and large, both ways at once: every byte once and in order."""
    transport, protocol, client = connected(reactor, version=version, family=family)
    client.write(b"hello")
    client.until(lambda: protocol.got == b"hello")
    transport.write(b"wor")
    transport.write(b"ld")
    assert client.reply(5) == b"world"
    protocol.got = b""
    transport.write(BIG)
    client.write(BIG)
    client.until(lambda: len(client.got) == len(protocol.got) == len(BIG))
    assert client.got == BIG
    assert protocol.got == BIG
    assert transport.buffered == 0


def test_a_slow_client_pauses_the_producer(reactor: MeshReactor) -> None:
    """What is not taken is kept, the producer hears of it, and is woken when it has gone out."""
    transport, _, client = connected(reactor)
    calls: list[str] = []

    class Producer:
        def pauseProducing(self) -> None:
            calls.append("pause")

        def resumeProducing(self) -> None:
            calls.append("resume")

        def stopProducing(self) -> None:
            calls.append("stop")

    transport.registerProducer(Producer(), True)
    transport.write(BIG * 4)
    assert calls == ["pause"]
    client.until(lambda: len(client.got) == 4 * len(BIG))
    assert client.got == BIG * 4
    live.turn(reactor)
    assert calls == ["pause", "resume"]


def test_a_paused_reader_loses_nothing(reactor: MeshReactor) -> None:
    """While it is paused nothing is delivered; afterwards all is, what OpenSSL held included."""
    transport, protocol, client = connected(reactor)
    transport.pauseProducing()
    client.write(BIG)
    live.turn(reactor)
    assert protocol.got == b""
    transport.resumeProducing()
    client.until(lambda: len(protocol.got) == len(BIG))
    assert protocol.got == BIG


def sealing(
    reactor: MeshReactor, folder: Path
) -> tuple[TlsTransport, Noting, socket.socket, Sealed]:
    """A started transport, its protocol, the client's socket and what seals its records."""
    context = client_context()
    context.keylog_filename = str(folder / "secrets")
    server = server_context()
    apply(server)
    ours, connection, client = tls_pair(reactor, family="unix", server=server, client=context)
    transport, protocol = TlsTransport(reactor, ours, ("192.0.2.1", 1), connection), Noting()
    transport.start(protocol)
    return transport, protocol, client.sock, Sealed(traffic_secret(folder / "secrets"))


def test_others_have_their_turn(reactor: MeshReactor, tmp_path: Path) -> None:
    """Of records that are not the stream's, one read takes one, however many there are."""
    transport, protocol, sock, seal = sealing(reactor, tmp_path)
    for _ in range(5):
        sock.send(seal.record(HANDSHAKE, key_update(False)))
        seal.renew()
    sock.send(seal.record(DATA, b"hello"))
    for _ in range(5):
        assert transport.doRead() is None
        assert protocol.got == b""
    assert transport.doRead() is None
    assert protocol.got == b"hello"


@pytest.mark.parametrize("paused", [False, True])
def test_new_keys_that_nobody_reads(reactor: MeshReactor, tmp_path: Path, paused: bool) -> None:
    """
    A client that wants new keys again and again, and reads nothing, is not read until it does:
    its bytes do not keep the reactor busy. Afterwards all goes on, or stays paused.
    """
    transport, protocol, sock, seal = sealing(reactor, tmp_path)
    transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    while not transport._stuck:
        sock.send(seal.record(HANDSHAKE, key_update(True)))
        seal.renew()
        live.turn(reactor, 1)
    for _ in range(10):
        sock.send(seal.record(HANDSHAKE, key_update(True)))
        seal.renew()
    sock.send(seal.record(DATA, b"hello"))
    live.turn(reactor)
    assert transport._stuck
    assert transport not in reactor.getReaders()
    assert transport in reactor.getWriters()
    if paused:
        transport.pauseProducing()

    def take() -> None:
        try:
            while sock.recv(65536):
                pass
        except BlockingIOError:
            pass

    def free() -> bool:
        take()
        return transport not in reactor.getWriters()

    live.turn_until(reactor, free)
    if paused:
        assert transport not in reactor.getReaders()
        transport.resumeProducing()
    live.turn_until(reactor, lambda: free() and protocol.got == b"hello")
    assert not protocol.lost


@pytest.mark.parametrize("how", ["loseConnection", "loseWriteConnection"])
def test_an_end_behind_what_fills_the_socket(reactor: MeshReactor, how: str) -> None:
    """close_notify for which there is no room yet waits: the client would miss the end."""
    for version in ("1.2", "1.3"):
        transport, _, client = connected(reactor, Halves(), version, "unix")
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        data = BIG[:16000]
        transport._buffer(data)
        getattr(transport, how)()
        client.until(lambda client=client: client.ended or client.error or client.gone)
        assert client.error is None
        assert client.ended
        assert client.got == data


def test_the_client_ends_orderly(reactor: MeshReactor) -> None:
    """close_notify, alone or behind the last bytes, is an orderly end."""
    for last in (b"", b"bye"):
        _, protocol, client = connected(reactor)
        if last:
            client.write(last)
        client.notify()
        client.until(lambda protocol=protocol: protocol.lost)
        assert (protocol.got, protocol.lost) == (last, [ConnectionDone])
        client.until(lambda client=client: client.gone)
        assert client.error is None


@pytest.mark.parametrize("last", [b"", b"bye"])
def test_truncation(reactor: MeshReactor, last: bytes) -> None:
    """The end of the stream without close_notify is a loss; what came before it is delivered."""
    _, protocol, client = connected(reactor)
    if last:
        client.write(last)
    client.sock.close()
    live.turn_until(reactor, lambda: protocol.lost)
    assert (protocol.got, protocol.lost) == (last, [ConnectionLost])


def test_garbage(reactor: MeshReactor) -> None:
    """What is no record costs the connection, and nothing stays in OpenSSL's queue of errors."""
    _, protocol, client = connected(reactor)
    client.sock.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    live.turn_until(reactor, lambda: protocol.lost)
    assert protocol.lost == [ConnectionLost]
    # A leftover error would be taken for this one's.
    transport, protocol, client = connected(reactor)
    client.write(b"fine")
    client.until(lambda: protocol.got == b"fine")
    transport.abortConnection()


def test_half_close(reactor: MeshReactor) -> None:
    """Each side ends its own direction, and the other goes on."""
    transport, protocol, client = connected(reactor, Halves())
    client.notify()
    client.until(lambda: protocol.read_ended)
    transport.write(BIG)
    transport.loseWriteConnection()
    got = bytearray()

    def drained() -> bool:
        # Python's ssl reads nothing behind its own close_notify: the records are counted.
        try:
            while data := client.sock.recv(1 << 20):
                got.extend(data)
        except BlockingIOError:
            pass
        return bool(protocol.write_ended)

    live.turn_until(reactor, drained)
    drained()
    assert len(got) > len(BIG)
    assert protocol.lost == []
    transport.loseConnection()
    live.turn_until(reactor, lambda: protocol.lost)
    assert protocol.lost == [ConnectionDone]


def test_our_half_close_reads_on(reactor: MeshReactor) -> None:
    """Behind our close_notify the client's bytes still come."""
    transport, protocol, client = connected(reactor, Halves())
    transport.write(b"last")
    transport.loseWriteConnection()
    client.until(lambda: client.ended)
    assert client.got == b"last"
    client.write(b"more")
    client.until(lambda: protocol.got == b"more")
    client.notify()
    client.until(lambda: protocol.read_ended)
    transport.loseConnection()
    assert protocol.lost == [ConnectionDone]


def test_closing_sends_everything_and_close_notify(reactor: MeshReactor) -> None:
    """``loseConnection`` ends behind the last byte."""
    transport, protocol, client = connected(reactor)
    transport.write(BIG)
    transport.loseConnection()
    client.until(lambda: client.gone)
    client.pump()
    assert client.got == BIG
    assert client.ended
    assert protocol.lost == [ConnectionDone]


def test_aborting_sends_nothing(reactor: MeshReactor) -> None:
    """A reset, without close_notify."""
    transport, protocol, client = connected(reactor)
    transport.write(BIG)
    transport.abortConnection()
    client.until(lambda: client.gone)
    assert not client.ended
    assert protocol.lost == [ConnectionAborted]


def test_a_reset_while_writing(reactor: MeshReactor) -> None:
    """Found inside ``write``, it is told of by the reactor, once."""
    transport, protocol, client = connected(reactor)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.sock.close()
    for _ in range(5):
        transport.write(b"x" * 100_000)
        assert protocol.lost == []
    live.turn_until(reactor, lambda: protocol.lost)
    transport.write(b"too late")
    assert protocol.lost == [ConnectionLost]


def test_the_first_read_is_told_once(reactor: MeshReactor) -> None:
    """``first_read`` is called before the first bytes are delivered, and not again."""
    transport, protocol, client = connected(reactor)
    seen: list[bytes] = []
    transport.first_read = lambda _: seen.append(protocol.got)
    client.write(b"one")
    client.until(lambda: protocol.got == b"one")
    client.write(b"two")
    client.until(lambda: protocol.got == b"onetwo")
    assert seen == [b""]


def test_the_peer_is_known(reactor: MeshReactor) -> None:
    """Facts, certificate and addresses."""
    transport, _, _ = connected(reactor)
    assert transport.facts.version == b"TLSv1.3"
    assert transport.getPeerCertificate() is None
    assert transport.getPeer().host == "192.0.2.1"


def test_on_a_reactor_that_holds_nothing(reactor: MeshReactor) -> None:
    """Without ``hold`` a write goes out at once."""
    ours, connection, client = tls_pair(reactor)

    class Plain:
        def __getattr__(self, name: str) -> Any:
            if name == "hold":
                raise AttributeError(name)
            return getattr(reactor, name)

    transport = TlsTransport(Plain(), ours, ("192.0.2.1", 1), connection)
    transport.start(Noting())
    transport.write(b"now")
    client.pump()
    assert client.got == b"now"
    assert isinstance(transport.connection, SSL.Connection)

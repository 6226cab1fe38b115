"""TLS on transports that are not ours: counted, bounded and timed like that on sockets."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from zope.interface.verify import verifyObject

from meshproxy.net.proxy_protocol import encode_v1
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.transport import StreamTransport
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.tls.memory import MemoryTls
from meshproxy.tls.server import ServerTls
from tests.net import live
from tests.net.logged import errors
from tests.tls.wire import Client, Contexts, Noting, client_context, pair, server_context


class Scene:
    """A factory with TLS in memory, on transports of real sockets."""

    def __init__(
        self, contexts: Contexts | None = None, reactor: Any = None, **options: Any
    ) -> None:
        self.reactor = MeshReactor() if reactor is None else reactor
        self.wheel = TimerWheel(self.reactor)
        self.contexts = contexts or Contexts()
        self.protocols: list[Noting] = []
        self.addresses: list[Any] = []
        self.clients: list[Client] = []
        self.full = False
        self.kind: type[Noting] = Noting
        options.setdefault("handshake_timeout", 20.0)
        options.setdefault("max_handshakes", 100)
        self.tls = ServerTls(self.reactor, self.wheel, Registry(), "web", self.contexts, **options)
        self.memory = MemoryTls(self.tls)
        inner: Any = Factory.forProtocol(Noting)
        inner.buildProtocol = self._build
        self.factory: Any = self.memory.wrap(inner)

    def _build(self, address: Any) -> Noting | None:
        self.addresses.append(address)
        if self.full:
            return None
        self.protocols.append(self.kind())
        return self.protocols[-1]

    def client(self, *, before: bytes = b"", **options: Any) -> Client:
        """A client that is connected, and has sent ``before``."""
        ours, theirs = pair()
        if before:
            theirs.send(before)
        transport = StreamTransport(self.reactor, ours, ("192.0.2.1", 5))
        transport.start(self.factory.buildProtocol(None))
        self.clients.append(Client(self.reactor, theirs, **options))
        return self.clients[-1]

    def counts(self) -> dict[str, float]:
        """Handshakes and failures, without zeros."""
        found = self.tls.describe()
        counts = {"done": found["handshakes"], "resumed": found["resumed"], **found["failures"]}
        return {name: count for name, count in counts.items() if count}


@pytest.fixture
def scene() -> Iterator[Any]:
    """Makes scenes."""
    made: list[Scene] = []

    def make(*arguments: Any, **options: Any) -> Scene:
        made.append(Scene(*arguments, **options))
        return made[-1]

    yield make
    for one in reversed(made):
        for protocol in one.protocols:
            if not protocol.lost:
                protocol.transport.abortConnection()
        live.turn(one.reactor)
        assert len(one.wheel) == 0
        assert not one.tls.under_way
        one.wheel.stop()
    for reactor in {one.reactor for one in made}:
        live.close(reactor)


def test_both_ways(scene: Any) -> None:
    """Bytes pass, and the facts are at the transport."""
    made = scene(Contexts(server_context(verify=SSL.VERIFY_PEER)))
    assert verifyObject(IOpenSSLServerConnectionCreator, made.memory)
    client = made.client(context=client_context(certificate=True))
    assert made.tls.active == 1
    client.shake()
    client.write(b"x" * 300_000)
    client.until(lambda: made.protocols and len(made.protocols[0].got) == 300_000)
    (protocol,) = made.protocols
    protocol.transport.write(b"y" * 300_000)
    client.reply(300_000)
    facts = protocol.transport.facts
    assert (facts.server_name, facts.alpn) == (b"a.example", b"http/1.1")
    assert facts.certificate is not None
    assert made.counts() == {"done": 1}
    assert made.tls.active == 0
    client.notify()
    client.until(lambda: protocol.lost)
    assert protocol.lost == [ConnectionDone]


class _Short:
    """Contexts for which there are no descriptors."""

    @property
    def front(self) -> Any:
        """There is none."""
        raise OSError(errno.EMFILE, "too many")


def test_a_context_that_cannot_be_made(scene: Any) -> None:
    """It costs the client that it is for, and nobody who comes after it."""
    made = scene(max_handshakes=1)
    before, made.memory._contexts = made.memory._contexts, _Short()
    with errors() as failures:
        client = made.client()
        assert made.tls.active == 0
        client.until(lambda: client.gone)
    assert [failure.type for failure in failures] == [OSError]
    made.memory._contexts = before
    made.client().until(lambda: made.counts() == {"done": 1})


def test_nothing_passes_through(scene: Any) -> None:
    """What was read cannot be unread: such a listener is refused."""
    made = scene()
    made.tls.pass_through = lambda hello: None
    with pytest.raises(ValueError, match="plain address"):
        MemoryTls(made.tls)


def test_nobody_inside(scene: Any) -> None:
    """Where the factory has no protocol for a client, it is closed in order."""
    made = scene()
    made.full = True
    client = made.client()
    client.shake()
    client.write(b"hello")
    client.until(lambda: client.gone)
    assert client.ended
    assert made.tls.active == 0


def test_a_proxy_header(scene: Any) -> None:
    """It comes before TLS, in pieces too, and names the peer; a bad one ends the connection."""
    made = scene(proxy_protocol=True)
    header = encode_v1(("198.51.100.7", 4711), ("203.0.113.1", 443))
    client = made.client(before=header[:20])
    live.turn(made.reactor)
    client.sock.send(header[20:])
    client.shake()
    client.write(b"x")
    client.until(lambda: made.protocols and made.protocols[0].got)
    assert made.protocols[0].transport.getPeer().host == "198.51.100.7"
    assert made.addresses[0].port == 4711
    bad = made.client()
    bad.until(lambda: bad.gone)
    assert made.counts() == {"done": 1, "proxy_header": 1}
    unknown = made.client(before=b"PROXY UNKNOWN\r\n")
    unknown.shake()
    unknown.until(lambda: len(made.protocols) == 2)
    assert made.protocols[-1].transport.getPeer().host == "192.0.2.1"


def test_a_handshake_that_fails(scene: Any) -> None:
    """The client gets its alert, the reason is counted, the protocol loses its connection."""
    verify = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    made = scene(Contexts(server_context(verify=verify)))
    client = made.client(context=client_context(version="1.2"))
    client.until(lambda: client.error)
    assert "HANDSHAKE_FAILURE" in str(client.error)
    live.turn_until(made.reactor, made.counts)
    assert made.protocols == []
    assert made.counts() == {"handshake": 1}
    assert made.tls.last_failure == "peer did not return a certificate"


def test_a_client_that_leaves(scene: Any) -> None:
    """In the middle of its handshake: counted once."""
    made = scene()
    client = made.client()
    client.pump()
    live.turn(made.reactor)
    client.sock.close()
    live.turn_until(made.reactor, made.counts)
    assert made.counts() == {"handshake": 1}
    assert made.tls.last_failure in ("connection closed", "connection reset")
    made.client().sock.close()
    live.turn_until(made.reactor, lambda: len(made.counts()) == 2)
    assert made.counts() == {"handshake": 1, "client_gone": 1}
    assert made.protocols == []


def test_a_handshake_that_takes_too_long(scene: Any) -> None:
    """It is aborted when its time is over."""
    made = scene(handshake_timeout=0.1)
    made.client()
    live.turn_until(made.reactor, made.counts)
    assert made.counts() == {"timeout": 1}
    assert made.protocols == []


def test_the_oldest_makes_room(scene: Any) -> None:
    """One more than ``max_handshakes`` ends the one that has been at it longest."""
    made = scene(max_handshakes=1)
    made.client()
    second = made.client()
    second.shake()
    second.until(lambda: made.tls.active == 0)
    assert len(made.protocols) == 1
    assert made.counts() == {"done": 1, "evicted": 1}


def test_stopping(scene: Any) -> None:
    """What is under way is closed, what is done lives on."""
    made = scene()
    done = made.client()
    done.shake()
    done.until(lambda: made.tls.active == 0)
    made.client()
    made.tls.stop()
    last = made.clients[-1]
    last.until(lambda: last.gone)
    assert [protocol.lost for protocol in made.protocols] == [[]]
    assert made.counts() == {"done": 1}


def test_a_session_that_has_outlived_its_certificate(scene: Any) -> None:
    """It is counted, and not served: no byte gets inside."""
    made = scene()
    context = client_context(version="1.2")
    first = made.client(context=context)
    first.shake()
    first.until(lambda: made.protocols)
    made.contexts.old = True
    second = made.client(context=context, session=first.tls.session)
    second.shake()
    second.write(b"hello")
    second.until(lambda: second.gone)
    assert len(made.protocols) == 1
    assert made.counts() == {"done": 2, "resumed": 1, "handshake": 1}


def test_truncation(scene: Any) -> None:
    """The end without close_notify is a loss."""
    made = scene()
    client = made.client()
    client.shake()
    client.until(lambda: made.protocols)
    client.sock.close()
    live.turn_until(made.reactor, lambda: made.protocols[0].lost)
    assert made.protocols[0].lost == [ConnectionLost]


def test_closing_does_not_wait(scene: Any) -> None:
    """All that was written, close_notify, the end: also with a client that says nothing more."""
    made = scene()
    client = made.client()
    client.shake()
    client.until(lambda: made.tls.active == 0)
    (protocol,) = made.protocols
    protocol.transport.write(b"z" * 3_000_000)
    protocol.transport.loseConnection()
    client.until(lambda: client.gone)
    assert (len(client.got), client.ended) == (3_000_000, True)
    assert len(protocol.lost) == 1


def test_closing_waits_for_the_producer(scene: Any) -> None:
    """As with any transport: the end comes when it unregisters."""
    made = scene()
    client = made.client()
    client.shake()
    client.until(lambda: made.tls.active == 0)
    (protocol,) = made.protocols
    protocol.transport.registerProducer(_Silent(), True)
    protocol.transport.loseConnection()
    protocol.transport.write(b"late")
    client.reply(4)
    assert not client.ended
    protocol.transport.unregisterProducer()
    client.until(lambda: client.gone)
    assert client.ended


class _Silent:
    def pauseProducing(self) -> None:
        """Nothing."""

    resumeProducing = stopProducing = pauseProducing


def test_half_a_close_reads_on(scene: Any) -> None:
    """``loseWriteConnection`` says close_notify; what the client still sends is read."""
    made = scene()
    client = made.client()
    client.shake()
    client.until(lambda: made.tls.active == 0)
    (protocol,) = made.protocols
    protocol.transport.write(b"no")
    protocol.transport.loseWriteConnection()
    client.until(lambda: client.ended)
    client.write(b"but")
    client.until(lambda: protocol.got == b"but")
    assert not client.gone
    client.notify()
    client.until(lambda: client.gone)
    assert protocol.lost == [ConnectionDone]


class Paused(Noting):
    """Wants nothing at first."""

    def connectionMade(self) -> None:
        """Pause."""
        self.transport.pauseProducing()


def test_a_pause_keeps_what_was_decrypted(scene: Any) -> None:
    """A record that came with the handshake's last waits until it is wanted, then comes once."""
    made = scene()
    made.kind = Paused
    client = made.client()
    client.shake()
    client.write(b"early")
    client.until(lambda: made.protocols)
    live.turn(made.reactor)
    (protocol,) = made.protocols
    assert protocol.got == b""
    protocol.transport.resumeProducing()
    assert protocol.got == b""
    protocol.transport.pauseProducing()
    protocol.transport.resumeProducing()
    client.until(lambda: protocol.got == b"early")
    client.write(b"!")
    client.until(lambda: protocol.got == b"early!")


def test_what_was_kept_comes_before_the_end(scene: Any) -> None:
    """A client that leaves while nobody listens was heard all the same, unless it is aborted."""
    for aborted, expected in ((False, b"early"), (True, b"")):
        made = scene()
        made.kind = Paused
        client = made.client(context=client_context(version="1.2"))
        client.shake()
        client.until(lambda made=made: made.protocols)
        (protocol,) = made.protocols
        protocol.transport._inside.dataReceived(b"early")  # as if it came with the last record
        protocol.transport.resumeProducing()
        if aborted:
            protocol.transport.abortConnection()
        else:
            protocol.transport.loseConnection()
        client.until(lambda protocol=protocol: protocol.lost)
        assert protocol.got == expected


def test_tls_in_tls(scene: Any) -> None:
    """A wrapped factory can be wrapped once more."""
    outer = scene()
    inner = scene(reactor=outer.reactor)
    factory = outer.memory.wrap(inner.factory)
    ours, theirs = pair()
    transport = StreamTransport(outer.reactor, ours, ("192.0.2.1", 5))
    transport.start(factory.buildProtocol(None))
    first = Client(outer.reactor, theirs)
    first.shake()

    class Tunnel:
        """The socket that the inner TLS believes in."""

        def recv(self, size: int) -> bytes:
            first.pump()
            if not first.got:
                raise BlockingIOError
            data, first.got = first.got, b""
            return data

        def send(self, data: bytes) -> int:
            first.write(data)
            return len(data)

    second = Client(outer.reactor, Tunnel())  # type: ignore[arg-type]
    second.shake()
    second.write(b"deep")
    second.until(lambda: inner.protocols and inner.protocols[0].got == b"deep")
    inner.protocols[0].transport.write(b"down")
    assert second.reply(4) == b"down"
    assert inner.protocols[0].transport.facts.server_name == b"a.example"

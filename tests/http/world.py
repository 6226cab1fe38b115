"""
A listener, its clusters and their connections without a socket: a clock and transports that a
test moves.

The law it keeps: a transport behaves as Twisted's. It delivers nothing while reading is paused
or after the end, calls its protocol never from inside a call of the protocol, pauses its producer
when more than :data:`BUFFER` bytes wait, and ends once.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshproxy.config import load
from meshproxy.http import opening as opening_module
from meshproxy.http.exchange import Exchange
from meshproxy.http.h1.server import ServerConnection
from meshproxy.http.listener import HttpListener
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.upstream.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER = 65536

PLAIN = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - to: site
clusters:
  site:
    endpoints: [127.0.0.1:9001]
"""


class Transport:
    """One end of a connection; the test plays the kernel and the peer."""

    def __init__(self, clock: Clock, port: int = 40000) -> None:
        self.clock = clock
        self.port = port
        self.protocol: Any = None
        self.producer: Any = None
        self.closing: Callable[[Any], None] | None = None
        self.sock: Any = None
        #: What the peer has got so far and the test has not taken yet.
        self.sent = b""
        #: True: the peer reads nothing, and what is written waits.
        self.blocked = False
        # Any, because a type checker takes what was asserted once to be so for ever.
        self.reading: Any = True
        self.gone: Any = False
        self.aborted: Any = False
        self.half_closed = False
        self.disconnecting = False
        self._held = b""
        self._inbox: list[bytes] = []
        self._ending: type[Exception] | None = None
        self._paused_producer = False

    # Twisted's side

    def start(self, protocol: Any) -> None:
        """As StreamTransport's."""
        self.protocol = protocol
        protocol.makeConnection(self)

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken."""
        return len(self._held)

    def write(self, data: bytes) -> None:
        """Send, or keep while blocked."""
        assert isinstance(data, bytes)
        if self.gone or self.aborted:
            return
        if not self.blocked:
            self.sent += data
            return
        self._held += data
        if self.producer is not None and len(self._held) > BUFFER:
            self._paused_producer = True
            self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Push producers only."""
        assert streaming
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Forget it."""
        self.producer = None

    def pauseProducing(self) -> None:
        """Stop reading."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Read again; what waits comes with the next turn."""
        if self.gone or self.disconnecting:
            return
        self.reading = True
        if self._inbox or self._ending:
            self.clock.callLater(0, self._deliver)

    def loseConnection(self) -> None:
        """End when everything has gone out."""
        if self.gone or self.disconnecting:
            return
        self.disconnecting = True
        self.reading = False
        if not self._held:
            self.clock.callLater(0, self.lose, ConnectionDone)

    def loseWriteConnection(self) -> None:
        """End one direction."""
        self.half_closed = True

    def abortConnection(self) -> None:
        """End at once."""
        if self.gone or self.aborted:
            return
        self.aborted = self.disconnecting = True
        self.reading = False
        self.clock.callLater(0, self.lose, ConnectionAborted)

    def getHost(self) -> IPv4Address:
        """Our side."""
        return IPv4Address("TCP", "127.0.0.1", 8080)

    # The test's side

    def receive(self, data: bytes) -> None:
        """The peer sends."""
        self._inbox.append(data)
        self._deliver()

    def end(self, reason: type[Exception] = ConnectionDone) -> None:
        """The peer closes (``ConnectionDone``) or resets (``ConnectionLost``)."""
        self._ending = reason
        if reason is ConnectionLost:
            self._inbox.clear()
        self._deliver()

    def take(self) -> bytes:
        """What the peer got since it was last asked."""
        data, self.sent = self.sent, b""
        return data

    def block(self) -> None:
        """The peer stops reading."""
        self.blocked = True

    def drain(self) -> None:
        """The peer reads all and goes on reading."""
        self.blocked = False
        self.sent += self._held
        self._held = b""
        if self._paused_producer and self.producer is not None:
            self._paused_producer = False
            self.producer.resumeProducing()
        if self.disconnecting and not self.aborted:
            self.lose(ConnectionDone)

    def _deliver(self) -> None:
        while self._inbox and self.reading and not self.gone:
            self.protocol.dataReceived(self._inbox.pop(0))
        if self._ending and self.reading and not self.gone:
            self.lose(self._ending)

    def lose(self, reason: type[Exception]) -> None:
        """The end, once."""
        if self.gone:
            return
        self.gone = True
        if self.closing is not None:
            self.closing(self.sock)
        if self.producer is not None:
            self.producer.stopProducing()
            self.producer = None
        self.protocol.connectionLost(Failure(reason()))


class Sock:
    """The connected socket that a fake attempt yields; ``acknowledged`` counts bytes."""

    family = socket.AF_INET

    def __init__(self, port: int, transport: Transport) -> None:
        self.port = port
        self.transport = transport
        self.acknowledged: int | None = None

    def getsockname(self) -> tuple[str, int]:
        """Our side."""
        return "127.0.0.1", self.port

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        """struct tcp_info with the SYN and what the test says, or all of it, acknowledged."""
        count = self.acknowledged
        if count is None:
            count = len(self.transport.sent)
        return struct.pack("=120xQ", count + 1).ljust(size, b"\0")[:size]


class Attempt:
    """A connection being opened to an endpoint."""

    def __init__(self, world: World, where: Any, done: Any, failed: Any) -> None:
        self.world = world
        self.where = where
        self._done = done
        self._failed = failed
        self.over = False
        self.cancelled = False
        #: What it led to.
        self.transport: Transport | None = None

    def cancel(self) -> None:
        """As Connecting's."""
        if not self.over:
            self.over = self.cancelled = True

    def succeed(self) -> Transport:
        """It is up: the upstream's end of it."""
        assert not self.over
        self.over = True
        return self.world.connected(self, self._done)

    def fail(self, reason: str = "refused") -> None:
        """It is not."""
        assert not self.over
        self.over = True
        self._failed(reason)


class World:
    """
    The listener ``web`` of a configuration, and everything around it.

    ``instant``: attempts succeed (True) or fail (a reason) before connect returns; None leaves
    them to the test.
    """

    def __init__(self, text: str, patch: pytest.MonkeyPatch, accept: bool = True) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.wheel = TimerWheel(self.clock)
        self.registry = Registry()
        self.configuration = load(text, "test.yaml").configuration
        self.clusters = {
            name: Cluster(name, config, self.registry, self.wheel, self.configuration.zone)
            for name, config in self.configuration.clusters.items()
        }
        self.records: list[Exchange] = []
        self.begun = 0
        self.listener = HttpListener(
            self.clock,
            self.wheel,
            self.registry,
            "web",
            self.configuration.listeners["web"],
            self.clusters,
            self.records.append,
        )
        self.instant: bool | str | None = True
        self.attempts: list[Attempt] = []
        self.upstreams: list[Transport] = []
        self.downstreams: list[Transport] = []
        patch.setattr(opening_module, "connect", self._connect)
        patch.setattr(opening_module, "StreamTransport", lambda _r, sock, _p: sock.transport)

    def _connect(
        self,
        _reactor: Any,
        _family: int,
        where: Any,
        _timeout: float,
        done: Any,
        failed: Any,
        **_: Any,
    ) -> Attempt | None:
        attempt = Attempt(self, where, done, failed)
        self.attempts.append(attempt)
        if self.instant is True:
            attempt.succeed()
        elif self.instant:
            attempt.fail(self.instant)
        else:
            return attempt
        return None

    def connected(self, attempt: Attempt, done: Callable[[Any], None]) -> Transport:
        """Hand a connected socket to ``done``."""
        attempt.transport = transport = Transport(self.clock)
        transport.sock = Sock(50000 + len(self.upstreams), transport)
        self.upstreams.append(transport)
        done(transport.sock)
        return transport

    # The test's side

    @property
    def upstream(self) -> Transport:
        """The connection to an endpoint that was opened last."""
        return self.upstreams[-1]

    @property
    def connections(self) -> list[tuple[Attempt, Transport]]:
        """Attempts that succeeded, each with what it led to."""
        return [(one, one.transport) for one in self.attempts if one.transport is not None]

    @property
    def waiting(self) -> list[Attempt]:
        """Attempts without an answer."""
        return [attempt for attempt in self.attempts if not attempt.over]

    def client(self, data: bytes = b"", ip: bytes = b"192.0.2.1") -> Transport:
        """A client's connection, which has sent ``data``."""
        transport = Transport(self.clock)
        port = 40000 + len(self.downstreams)
        self.downstreams.append(transport)
        transport.start(ServerConnection(self.listener, b"%b:%d" % (ip, port), ip))
        if data:
            transport.receive(data)
        return transport

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, stopping at every call that is due."""
        end = self.clock.seconds() + seconds
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self.clock.advance(max(0.0, self.clock.calls[0].getTime() - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def value(self, slot: int) -> float:
        """A counter or gauge."""
        return self.registry.values[slot]

    def settle(self) -> None:
        """End everything and check that nothing is left, counted or held."""
        for transport in [*self.downstreams, *self.upstreams]:
            transport.drain()
            transport.end()
        for attempt in self.waiting:
            attempt.fail()
        self.turn()
        for transport in self.downstreams:
            transport.lose(ConnectionLost)  # also when reading is paused, as HUP does
        while self.waiting:  # those that a failed one made room for: a real one times out
            self.waiting[0].fail()
        for transport in self.upstreams:
            transport.drain()
            transport.end()
        self.turn(10_000.0)
        self.check()
        for transport in [*self.downstreams, *self.upstreams]:
            assert transport.gone
        assert self.listener.active == 0
        assert len(self.wheel) == 0
        assert not self.clock.getDelayedCalls()
        self.registry.refresh()
        for family in self.registry.families:
            lasting = family.name.endswith(("_endpoints", "_average_seconds"))
            if family.kind == "gauge" and not lasting:
                held = {labels: self.value(slot) for labels, slot in family.series.items()}
                assert not any(held.values()), (family.name, held)
        for cluster in self.clusters.values():
            for limits in (cluster.limits.default, cluster.limits.high):
                assert (limits.requests, limits.retries, limits.pending) == (0, 0, 0)
            assert cluster.limits.connections == 0
            for endpoint in cluster.endpoints:
                assert (endpoint.active, endpoint.connections) == (0, 0)
                assert endpoint.pool.total == 0

    def check(self) -> None:
        """What must be true at any time between two events."""
        for cluster in self.clusters.values():
            values, stats = self.registry.values, cluster.stats
            limit = cluster.config.pool.max_connections
            assert values[stats.pending_active] == cluster.limits.default.pending >= 0
            connections = total = 0
            for endpoint in cluster.endpoints:
                assert endpoint.active >= 0
                assert 0 <= endpoint.pool.total <= limit
                connections += endpoint.connections
                total += endpoint.pool.total
            assert cluster.limits.connections == total
            assert values[stats.connections_active] == connections
        if len(self.clusters) == 1:
            assert connections == sum(not transport.gone for transport in self.upstreams)
            (cluster,) = self.clusters.values()
            exchanges = [c.exchange for c in self.listener._connections if c.exchange is not None]
            busy = sum(exchange.holding for exchange in exchanges)
            for exchange in exchanges:
                if exchange.retrying is not None:
                    busy += sum(hedge._holding for hedge in exchange.retrying.hedges)
            assert sum(endpoint.active for endpoint in cluster.endpoints) == busy
            groups = {cluster.limits.default, cluster.limits.high}
            assert sum(limits.requests for limits in groups) == busy
        assert self.listener.active == sum(not t.gone for t in self.downstreams)
        assert len(set(map(id, self.records))) == len(self.records)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Make a world of a configuration's text; the plain one sends everything to one endpoint."""

    def make(text: str = PLAIN) -> World:
        return World(text, monkeypatch)

    return make


def pooled(**settings: object) -> str:
    """The plain configuration with these settings of the pool."""
    pending = settings.pop("max_pending", 1024)
    inside = ", ".join(f"{name}: {value}" for name, value in settings.items())
    return (
        PLAIN
        + f"    limits: {{ pending: {pending}, requests: 100000 }}\n    pool: {{ {inside} }}\n"
    )


def get(path: bytes = b"/", *lines: bytes, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: a.example", *lines, b"", b""))


def post(body: bytes, *lines: bytes, length: int | None = None) -> bytes:
    """A request with a body."""
    size = len(body) if length is None else length
    return get(b"/", b"Content-Length: %d" % size, *lines, method=b"POST") + body


def ok(body: bytes = b"", *lines: bytes) -> bytes:
    """A response with a length."""
    head = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *lines, b"", b"")
    return b"\r\n".join(head) + body


def status(data: bytes) -> int:
    """The status of a response's bytes."""
    assert data.startswith(b"HTTP/1.1 "), data
    return int(data[9:12])


def body(data: bytes) -> bytes:
    """What follows the head."""
    return data.partition(b"\r\n\r\n")[2]


def head(data: bytes) -> dict[bytes, bytes]:
    """The fields of a head (the last of each name)."""
    lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return {name: value for name, _, value in (line.partition(b": ") for line in lines)}

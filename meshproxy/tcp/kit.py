"""
Drive a TCP filter in a test: no socket, no waiting, no configuration.

The law it keeps: the chain, the connection and the relay are the real ones; what is fake are the
transports at both ends and the clock, and nothing happens but what the test says.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy import config
from meshproxy.interfaces import IContextFilter, IFilterContext
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry
from meshproxy.tcp.chain import Chain
from meshproxy.tcp.filtered import FilteredConnection
from meshproxy.tcp.listener import TcpListener
from meshproxy.upstream.cluster import Cluster

__all__ = ["ConnectionContext", "DrivenConnection", "FakeEnd", "drive_connection"]

FULL = 65536
"""Bytes: what a transport of ours takes before it stops its producer."""


class FakeEnd:
    """
    A transport, and the peer behind it.

    ``got`` is what the peer was sent, ``ended`` whether it was told the end, ``closed`` whether
    the connection is closed, and ``reset`` whether by a RST of ours. While ``reads`` is False the
    peer takes nothing. ``unread`` is what the peer sent and the proxy has not read.
    """

    def __init__(self, clock: Clock, where: Any = None) -> None:
        self._clock = clock
        self._where = where or IPv4Address("TCP", "127.0.0.1", 1)
        self._protocol: Any = None
        self._producer: Any = None
        self._paused = False
        self._reading = True
        self._finishing = ""
        self._reads = True
        self._unsent = bytearray()
        self._received = bytearray()
        self._coming: list[bytes | None] = []
        self.got = b""
        self.ended = self.closed = self.reset = self.connected = False

    # The peer.

    def send(self, data: bytes | None) -> None:
        """The peer sends bytes; None: its end."""
        self._coming.append(data)
        self._deliver()

    def vanish(self) -> None:
        """The peer resets the connection."""
        self._lose(ConnectionLost())

    @property
    def reads(self) -> bool:
        """Whether the peer takes what it is sent."""
        return self._reads

    @reads.setter
    def reads(self, value: bool) -> None:
        self._reads = value
        if value:
            self._flush()

    @property
    def unread(self) -> int:
        """Bytes that the peer sent and the proxy has not read yet."""
        return sum(len(data) for data in self._coming if data is not None)

    def _deliver(self) -> None:
        while self._coming and self._reading and self.connected:
            data = self._coming.pop(0)
            if data is None:
                self._protocol.readConnectionLost()
            else:
                self._protocol.dataReceived(data)

    # The transport.

    def start(self, protocol: Any) -> None:
        """Connect ``protocol``."""
        self._protocol = protocol
        self.connected = True
        protocol.makeConnection(self)
        self._deliver()

    @property
    def buffered(self) -> int:
        """Bytes written that the peer has not taken."""
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send."""
        if self.connected and not self.ended and self._finishing != "close":
            self._unsent += data
            if self._reads:
                self._flush()
            elif len(self._unsent) > FULL and self._producer is not None:
                self._paused = True
                self._producer.pauseProducing()

    def _flush(self) -> None:
        if not self.connected:
            return
        self.got += bytes(self._unsent)
        self._unsent.clear()
        if self._producer is not None and self._paused:
            self._paused = False
            self._producer.resumeProducing()
        if self._finishing:
            self.ended = True
            if self._finishing == "close":
                self._clock.callLater(0, self._lose, ConnectionDone())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Who is told when the peer takes nothing."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Nobody is told any more."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Read no more."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Read on."""
        self._reading = True
        if self._coming:
            self._clock.callLater(0, self._deliver)

    def loseWriteConnection(self) -> None:
        """End our sending."""
        self._finishing = self._finishing or "half"
        if self._reads:
            self._flush()

    def loseConnection(self) -> None:
        """Close, after what was written."""
        self._finishing = "close"
        self._reading = False
        if self._reads:
            self._flush()

    def abortConnection(self) -> None:
        """Reset."""
        if self.connected:
            self.reset = True
            self._clock.callLater(0, self._lose, ConnectionAborted())

    def getHost(self) -> Any:
        """Our address."""
        return IPv4Address("TCP", "127.0.0.1", 8080)

    def getPeer(self) -> Any:
        """The peer's address."""
        return self._where

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self.closed = True
            self._protocol.connectionLost(Failure(reason))


@implementer(IFilterContext)
class ConnectionContext:
    """
    An :class:`meshproxy.interfaces.IFilterContext` for tests: numbers in ``numbers`` by their short
    name (and labels), lines in ``lines``, what is shown in ``shown``.
    """

    http = None

    def __init__(self, clock: Clock, name: str = "it", listener: str = "test") -> None:
        self.reactor = clock
        self.name = name
        self.listener = listener
        self.cluster = ""
        self.now = clock.seconds
        self.numbers: dict[str, Number] = {}
        self.lines: list[str] = []
        self.shown: Any = None

    def time(self) -> float:
        """Seconds since 1970, as it were."""
        return 1_700_000_000.0 + float(self.now())

    def sleep(self, seconds: float) -> defer.Deferred[None]:
        """A Deferred for later."""
        call: Any = None
        done: defer.Deferred[None] = defer.Deferred(lambda _: call.active() and call.cancel())
        call = self.reactor.callLater(seconds, lambda: done.callback(None))
        return done

    def path(self, text: str) -> str:
        """``text``, as it is."""
        return text

    def counter(self, name: str, help: str, **labels: str) -> Number:  # noqa: A002
        """A number, by its name and labels."""
        inside = ",".join(f"{key}={value}" for key, value in labels.items())
        return self.numbers.setdefault(f"{name}{{{inside}}}" if inside else name, Number())

    gauge = counter

    def histogram(self, name: str, help: str, bounds: Any = None, **labels: str) -> Number:  # noqa: A002
        """A number that keeps the sum."""
        return self.counter(name, help, **labels)

    def log(self, message: str) -> None:
        """Keep the line."""
        self.lines.append(message)

    def show(self, describe: Any) -> None:
        """Keep what is shown."""
        self.shown = describe


class Number:
    """A counter, gauge or histogram: all of it is ``value``."""

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, by: float = 1) -> None:
        """Up."""
        self.value += by

    def dec(self, by: float = 1) -> None:
        """Down."""
        self.value -= by

    def set(self, to: float) -> None:
        """To."""
        self.value = to

    def observe(self, x: float) -> None:
        """Add."""
        self.value += x


class _Driven(FilteredConnection):
    """A connection whose upstream is fake, or refuses."""

    __slots__ = ("driven",)

    driven: DrivenConnection

    def again(self) -> bool:
        if self.choose() is None:
            return False
        end = self.driven.upstream_end
        if end is None:
            self.attempt_failed(False, "connection refused")
            self.drop(True, "connect failed")
        else:
            self.driven.asked = True
            end.start(self.relay.upstream)
            self.joined()
        return True

    def start_tls(self) -> defer.Deferred[Any]:
        transport, facts = self.side.transport, self.driven.tls
        if facts is None or self.tls is not None:
            return super().start_tls()
        transport.facts = facts
        return defer.succeed(facts)


class DrivenConnection:
    """
    A connection through filters, and both its ends.

    ``upstream`` are the bytes that the upstream got, ``client_got`` those of the client; ``ended``
    and ``upstream_ended`` whether they were told the end. ``asked``: an upstream was asked for.
    ``closed`` and ``reset``: how it is with the client. ``errors`` counts what filters did wrong,
    ``counters`` are those that they count themselves, by short name.
    """

    def __init__(
        self,
        filters: tuple[Any, ...],
        client: bytes,
        upstream: bool,
        idle_timeout: float,
        max_duration: float,
        clock: Clock | None,
        contexts: list[Any] | None,
        tls: Any = None,
    ) -> None:
        self.tls = tls
        self.clock = clock = clock or Clock()
        self.wheel = TimerWheel(clock)
        self.registry = Registry()
        self.asked = False
        self._made: list[ConnectionContext] = []
        self.record: Any = None
        if contexts is None:
            for number, one in enumerate(filters):
                if IContextFilter.providedBy(one):
                    context = ConnectionContext(clock, f"filter{number}")
                    one.attach(context)
                    self._made.append(context)
        self.fitted = [
            Fitted(one, f"filter{number}", "test", self.registry, clock.seconds)
            for number, one in enumerate(filters)
        ]
        served = Chain(self.fitted).serve_data is not None
        model: Any = config.Cluster.model_validate({"endpoints": ["192.0.2.250:1"]})
        cluster = Cluster("up", model, self.registry, self.wheel)
        tcp = SimpleNamespace(
            to={} if served else {"up": 1},
            filters=filters,
            max_connect_attempts=1,
            idle_timeout=idle_timeout,
            max_duration=max_duration,
            subset={},
        )
        model = SimpleNamespace(tcp=tcp, max_connections=10, proxy_protocol=False, nodelay=True)
        self.listener = TcpListener(
            clock,
            self.wheel,
            self.registry,
            "test",
            model,
            {"up": cluster},
            self._over,
            fit=lambda items, place: self.fitted,
        )
        self.listener._stock = _Driven
        self.client_end = FakeEnd(clock, address := _address(client))
        self.upstream_end = FakeEnd(clock) if upstream else None
        connection: Any = self.listener.protocol(address)
        connection.driven = self
        self.connection = connection
        self.client_end.start(connection.side)
        clock.advance(0)

    def _over(self, record: Any) -> None:
        self.record = record

    # What is to be seen.

    @property
    def upstream(self) -> bytes:
        """What the upstream got."""
        return b"" if self.upstream_end is None else self.upstream_end.got

    @property
    def upstream_ended(self) -> bool:
        """Whether the upstream was told the end."""
        return self.upstream_end is not None and self.upstream_end.ended

    @property
    def client_got(self) -> bytes:
        """What the client got."""
        return self.client_end.got

    @property
    def ended(self) -> bool:
        """Whether the client was told the end."""
        return self.client_end.ended

    @property
    def closed(self) -> bool:
        """Whether the client's connection is closed."""
        return self.client_end.closed

    @property
    def reset(self) -> bool:
        """Whether it was reset."""
        return self.client_end.reset

    @property
    def flags(self) -> bytes:
        """Envoy's response flags."""
        return bytes(self.connection.flags)

    @property
    def details(self) -> bytes:
        """Why it ended as it did."""
        return bytes(self.connection.details)

    @property
    def metadata(self) -> dict[str, Any]:
        """What filters left."""
        return dict(self.connection.metadata)

    @property
    def waiting(self) -> bool:
        """Whether a filter is waited for."""
        relay = self.connection.relay
        return (
            self.connection.waiting is not None
            or relay.received.asked is not None
            or relay.sent.asked is not None
        )

    @property
    def errors(self) -> int:
        """What filters did wrong."""
        return int(
            sum(
                self.registry.values[
                    self.registry.counter(
                        "meshproxy_filter_errors_total",
                        "Exceptions, and answers that came too late",
                        {"listener": "test", "filter": one.label},
                    )
                ]
                for one in self.fitted
            )
        )

    @property
    def counters(self) -> dict[str, float]:
        """The filters' own numbers."""
        return {name: number.value for made in self._made for name, number in made.numbers.items()}

    # What happens.

    def send(self, data: bytes) -> None:
        """The client sends."""
        self.client_end.send(data)
        self.clock.advance(0)

    def end(self) -> None:
        """The client ends its sending."""
        self.client_end.send(None)
        self.clock.advance(0)

    def answer(self, data: bytes) -> None:
        """The upstream sends."""
        assert self.upstream_end is not None
        self.upstream_end.send(data)
        self.clock.advance(0)

    def answer_end(self) -> None:
        """The upstream ends its sending."""
        assert self.upstream_end is not None
        self.upstream_end.send(None)
        self.clock.advance(0)

    def disconnect(self) -> None:
        """The client goes away."""
        self.client_end.vanish()
        self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Time goes by."""
        self.clock.advance(seconds)


def drive_connection(
    *filters: Any,
    received: list[bytes] | tuple[bytes, ...] = (),
    sent: list[bytes] | tuple[bytes, ...] = (),
    client: bytes = b"192.0.2.1:5000",
    upstream: bool = True,
    idle_timeout: float = 3600.0,
    max_duration: float = 0.0,
    clock: Clock | None = None,
    contexts: list[Any] | None = None,
    tls: Any = None,
) -> DrivenConnection:
    """
    A connection of ``client`` (``b"unix:"`` for one of a UNIX socket) through ``filters``, in
    order, to an upstream (that refuses, if not ``upstream``). The client sends ``received``, then
    the upstream ``sent``; neither ends.

    With ``contexts``, the filters are attached already; several connections through the same
    filters share a ``clock``. ``tls`` are the facts that ``start_tls`` gives, at once; without them
    it raises, as on a listener without ``on_demand``.
    """
    driven = DrivenConnection(
        filters, client, upstream, idle_timeout, max_duration, clock, contexts, tls
    )
    for data in received:
        driven.send(data)
    for data in sent:
        driven.answer(data)
    return driven


def _address(client: bytes) -> Any:
    if client == b"unix:":
        return UNIXAddress(None)
    host, _, port = client.decode().rpartition(":")
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host.strip("[]"), int(port))

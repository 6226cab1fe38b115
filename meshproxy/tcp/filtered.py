"""
A connection whose bytes go through filters, or that a filter serves.

The laws kept here: those of :class:`~meshproxy.net.relay_stock.TransportRelay`, with a
:class:`~meshproxy.tcp.direction.Direction` between the transports each way, and

* what filters write to the client is bounded by what it takes: a client that does not read is not
  read from;
* a connection that a filter ends in order ends after what was written: the end is sent, and the
  client read on until its own, or for :data:`~meshproxy.net.relay_stock.LINGER` seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport

from meshproxy.net.relay_stock import Side, TransportRelay
from meshproxy.net.splice import CLOSED
from meshproxy.net.transport import peer_text
from meshproxy.tcp.connection import IDLE
from meshproxy.tcp.direction import HELD, Direction
from meshproxy.tcp.judged import ENDED, JUDGED, REFUSED, Judged
from meshproxy.tcp.stock import StockConnection, address_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from meshproxy.observe.fitted import Fitted
    from meshproxy.tcp.chain import Chain
    from meshproxy.tcp.listener import TcpListener
    from meshproxy.tcp.upgrade import Upgrade


class FilteredConnection(Judged, StockConnection):
    """A client's connection whose transport is to be connected to :attr:`side`."""

    __slots__ = (*JUDGED, "_upgrade")

    relay: FilteredRelay
    _upgrade: Upgrade | None

    def __init__(self, listener: TcpListener, family: int, peer: Any) -> None:
        self.unjudged()
        self._upgrade = None
        StockConnection.__init__(self, listener, family, peer)
        self.relay.adopt(self.side)

    @property
    def over(self) -> bool:
        return self.ending or self.relay.over

    def join(self) -> TransportRelay:
        chain = self.listener.chain
        assert chain is not None
        return FilteredRelay(self.listener.reactor, self.finished, self, chain)

    def begin(self) -> None:
        self._local = peer_text(*address_of(self.side.transport.getHost()))[0]
        super().begin()

    def connect(self) -> None:
        self.judge()

    def admitted(self) -> None:
        chain = self.listener.chain
        if chain is not None and chain.serve_data is not None:
            self.relay.start()
        else:
            StockConnection.connect(self)

    def serving(self) -> None:
        self.went_up()

    def hold(self) -> None:
        side = self.side
        if side.connected and not side.ended:
            side.transport.resumeProducing()

    def release(self) -> None:
        if self.side.connected and not self.relay.over:
            self.side.transport.pauseProducing()

    def write(self, data: bytes) -> None:
        """Send bytes to the client, past the filters."""
        self.relay.write(data)

    def start_tls(self) -> Deferred[Any]:
        """End the client's TLS from here on."""
        tls = self.listener.on_demand
        if tls is None or self._upgrade is not None or self.over or not self.side.connected:
            return super().start_tls()
        # Who never starts TLS does not import it.
        from meshproxy.tcp.upgrade import Upgrade

        upgrade = self._upgrade = Upgrade(self, tls)
        upgrade.begin()
        return upgrade.deferred

    def finished(self, reason: str) -> None:
        super().finished(reason)
        if self._upgrade is not None:
            self._upgrade.over()

    def part(self, data: bytes) -> None:
        self.relay.write(data)
        self.relay.close(REFUSED)

    def client_lost(self, reason: Failure) -> None:
        """The client's transport is gone."""
        if self._upgrade is not None:
            self._upgrade.lost(reason)

    def drop(self, hard: bool, reason: str) -> None:
        if reason == IDLE and not self.relay.over:
            for direction in (self.relay.received, self.relay.sent):
                if direction.asked is not None:
                    self.late(direction.asked)
        super().drop(hard, reason)


class FilteredRelay(TransportRelay):
    """
    Moves bytes both ways through the steps of ``chain``, for ``connection``.

    ``answers``: filters write to the client themselves.
    """

    __slots__ = ("_parting", "_serve_data", "answers", "connection", "received", "sent", "written")

    _patient = frozenset({CLOSED, ENDED, REFUSED})

    def __init__(
        self,
        reactor: Any,
        finished: Callable[[str], None],
        connection: FilteredConnection,
        chain: Chain,
    ) -> None:
        super().__init__(reactor, finished)
        self.connection = connection
        self._serve_data = chain.serve_data
        self.received = Direction(self, self.client, chain.received)
        self.sent = Direction(self, self.upstream, chain.sent)
        self.answers = chain.serve_data is not None
        self.written = 0
        self._parting = False

    def adopt(self, client: Side) -> None:
        """``client`` is the client's protocol."""
        self.client = self.received.side = client

    @property
    def bytes_sent(self) -> int:
        """Bytes from the upstream, and what filters wrote to the client."""
        return self.upstream.count + self.written

    @property
    def buffered(self) -> int:
        """Bytes that neither side has been sent yet, and those that wait for filters."""
        return super().buffered + self.received.held + self.sent.held

    def start(self, opening: bytes = b"") -> None:
        """As for any relay; without an upstream's transport when a filter serves."""
        self._started = True
        self.last_activity = self._reactor.seconds()
        client, upstream = self.client, self.upstream
        if client.connected:
            client.transport.registerProducer(self.sent, True)
        if upstream.connected:
            upstream.transport.registerProducer(self.received, True)
            if opening:
                upstream.transport.write(opening)
        for direction in (self.received, self.sent):
            side = direction.side
            held, side.held = side.held, b""
            if (held or side.ended) and not self.over:
                direction.feed(held, side.ended)
            if not self.over:
                direction.flow()

    def moved(self, side: Side, data: bytes) -> None:
        side.count += len(data)
        if self._reason:
            return
        if not self._started:
            side.held += data
            if len(side.held) >= HELD:
                side.transport.pauseProducing()
            return
        self.last_activity = self._reactor.seconds()
        self._from(side).feed(data, False)

    def half_closed(self, side: Side) -> None:
        side.ended = True
        if self._reason:
            side.transport.loseConnection()
        elif self._started:
            self.last_activity = self._reactor.seconds()
            self._from(side).feed(b"", True)

    def lost(self, side: Side, reason: Failure) -> None:
        if side is self.client:
            self.connection.client_lost(reason)
        if self._started and not self._reason and not side.ended and reason.check(ConnectionDone):
            # A side that cannot end one direction alone: what it said still passes the filters.
            side.connected = 0
            self.half_closed(side)
            if not self._from(side).passed:
                return
        super().lost(side, reason)

    def put(self, direction: Direction, data: bytes, end: bool) -> None:
        """Bytes went through all steps of ``direction``, or its ``end``."""
        self.last_activity = self._reactor.seconds()
        if self._serve_data is not None:
            fitted, serve_data = self._serve_data
            direction.passed = end
            try:
                serve_data(self.connection, data, end)
            except Exception:
                self.broke(fitted)
            return
        side = direction.side
        other = self.other(side)
        if data:
            other.transport.write(data)
        if not end:
            return
        direction.passed = True
        if self._from(other).passed or not side.connected:
            self.close()
            return
        other.transport.unregisterProducer()
        if ISSLTransport.providedBy(other.transport):
            self.close()
        else:
            other.transport.loseWriteConnection()

    def write(self, data: bytes) -> None:
        """To the client, past the filters."""
        if data and not self._reason and self.client.connected:
            self.answers = True
            self.written += len(data)
            self.last_activity = self._reactor.seconds()
            self.client.transport.write(data)

    def broke(self, fitted: Fitted, failure: Failure | None = None) -> None:
        """A filter raised, or failed."""
        self.connection.broke(fitted, failure)

    def _from(self, side: Side) -> Direction:
        return self.received if side is self.client else self.sent

    def _force(self) -> None:
        client = self.client
        unsent = getattr(client.transport, "buffered", 1)
        if self._parting and client.connected and not unsent:
            # All is said, and only the client's own end is missing: no RST is called for.
            self._forcing = None
            if self.upstream.connected:
                self.upstream.transport.abortConnection()
            client.transport.loseConnection()
        else:
            super()._force()

    def _end(self, reason: str, hard: bool) -> None:
        if self._reason:
            return
        client = self.client
        spoken = self.bytes_sent and client.connected and not client.ended
        gentle = spoken and not hard and reason in (ENDED, REFUSED)
        if gentle and not ISSLTransport.providedBy(client.transport):
            self._reason = reason
            self._parting = True
            if self.upstream.connected:
                self.upstream.transport.unregisterProducer()
                self.upstream.transport.loseConnection()
            self._linger()
            client.transport.unregisterProducer()
            client.transport.loseWriteConnection()
            client.transport.resumeProducing()
        else:
            super()._end(reason, hard)
        self.received.stop()
        self.sent.stop()
        self.connection.cancel()

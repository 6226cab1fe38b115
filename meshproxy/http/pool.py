"""
Connections to one endpoint.

The law it keeps:

- A request takes the connection used last (so that the others can grow old and be closed);
  without one it waits in line, first come first served, and a connection is opened for it
  unless ``max_connections`` are there.
- Open connections (those being opened included) never exceed ``max_connections``, and waiting
  requests never exceed the cluster's limits; a request over it is refused at once, one
  that waits longer than ``pending_timeout`` is refused then.
- ``total`` counts every connection from its first SYN to its loss, once.
- An idle connection is closed after ``idle_timeout``, and the moment the endpoint closes it.

The decisions are here; the codec of the connections is given as a factory.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from meshproxy.http import replies
from meshproxy.http.h1.client import ClientConnection
from meshproxy.net import proxy_protocol
from meshproxy.net.connect import TIMEOUT, Connecting, connect
from meshproxy.net.listen import set_keepalive
from meshproxy.net.transport import StreamTransport, peer_text
from meshproxy.net.wheel import TimerWheel

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint


class _Opening:
    """A connection being opened: for one exchange, or (None) for whoever is first in line."""

    __slots__ = ("attempt", "exchange", "over", "pool", "start")

    def __init__(self, pool: Pool, exchange: Exchange | None) -> None:
        self.pool = pool
        self.exchange = exchange
        self.start = pool.now()
        self.attempt: Connecting | None = None
        self.over = False

    def done(self, sock: socket.socket) -> None:
        self.over = True
        self.pool.opened(self, sock)

    def failed(self, reason: str) -> None:
        self.over = True
        self.pool.failed(self, reason)


class Pool:
    """The connections to ``endpoint`` of ``cluster``."""

    def __init__(
        self, reactor: Any, wheel: TimerWheel, cluster: Cluster, endpoint: Endpoint
    ) -> None:
        config = cluster.config.pool
        self._reactor = reactor
        self._wheel = wheel
        self.cluster = cluster
        self.endpoint = endpoint
        self._stats = cluster.stats
        self._values = cluster.stats.values
        self._max_connections: int = config.max_connections
        self._pending_timeout: float = config.pending_timeout
        self._idle_timeout: float = config.idle_timeout
        #: A header that names the client belongs to one client's exchange alone.
        self._single = cluster.proxy_protocol is not None
        self._idle: list[ClientConnection] = []
        self._busy: set[ClientConnection] = set()
        # In order of arrival, each with its deadline.
        self._waiting: dict[Exchange, float] = {}
        self._openings: set[_Opening] = set()
        self._closed = False
        self._filling = False
        self.now = wheel.now
        self.deadline = 0.0
        self.slot = 0

    @property
    def total(self) -> int:
        """Connections open or being opened."""
        return self.endpoint.connections + len(self._openings)

    # From exchanges

    def request(self, exchange: Exchange) -> None:
        """Give the exchange a connection, now or later (``connected`` or ``pool_failed``)."""
        if self._idle:
            self._idle.pop().start(exchange)
            return
        limits = exchange.group.limits
        if self._closed or limits.pending >= limits.max_pending:
            self._overflow(exchange)
            return
        room = self.endpoint.connections + len(self._openings) < self._max_connections
        self._wait(exchange)
        if room:
            self._open(exchange if self._single else None)

    def request_fresh(self, exchange: Exchange) -> None:
        """As :meth:`request`, on a connection that never served before."""
        if self._closed or self.total >= self._max_connections:
            self._overflow(exchange)
            return
        self._wait(exchange)
        self._open(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        """The exchange does not want a connection any more."""
        if self._unwait(exchange):
            for opening in self._openings:
                if opening.exchange is exchange:
                    self._openings.discard(opening)
                    if opening.attempt is not None:
                        opening.attempt.cancel()
                    self.use_room()
                    break

    # From connections

    def release(self, connection: ClientConnection) -> None:
        """The connection is free again."""
        if self._waiting:
            exchange = self._first()
            if exchange is not None:
                connection.start(exchange)
                return
        if self._closed:
            connection.close()
            return
        connection.idle_since = now = self.now()
        self._idle.append(connection)
        if not self.slot:
            self._wheel.arm(self, now + self._idle_timeout)

    def discard(self, connection: ClientConnection) -> None:
        """The connection will be closed: give it to nobody."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: ClientConnection) -> None:
        """The connection is gone; :meth:`use_room` follows."""
        self.discard(connection)
        self._busy.discard(connection)
        self.endpoint.connections -= 1
        self._values[self._stats.connections_active] -= 1

    # Opening

    def _open(self, exchange: Exchange | None) -> None:
        cluster = self.cluster
        endpoint = self.endpoint
        opening = _Opening(self, exchange)
        self._openings.add(opening)
        attempt = connect(
            self._reactor,
            endpoint.family,
            endpoint.sockaddr,
            cluster.connect_timeout,
            opening.done,
            opening.failed,
            nodelay=cluster.nodelay,
        )
        if not opening.over:
            opening.attempt = attempt

    def opened(self, opening: _Opening, sock: socket.socket) -> None:
        """The connection is up."""
        self._openings.discard(opening)
        cluster = self.cluster
        values = self._values
        stats = self._stats
        now = self.now()
        values[stats.connections] += 1
        values[stats.connections_active] += 1
        self.endpoint.connections += 1
        stats.connect_duration.observe(values, now - opening.start)
        if cluster.keepalive is not False and sock.family != socket.AF_UNIX:
            set_keepalive(sock, cluster.keepalive)
        exchange = opening.exchange
        connection = ClientConnection(
            self, peer_text(sock.family, sock.getsockname())[0], single=self._single
        )
        self._busy.add(connection)
        transport = StreamTransport(self._reactor, sock, self.endpoint.sockaddr)
        transport.closing = connection.closing
        transport.start(connection)
        if exchange is not None:
            if not self._unwait(exchange):
                connection.close()
                return
        else:
            exchange = self._first()
        if exchange is None:
            self.release(connection)
            return
        exchange.connected_at = now
        if self._single:
            transport.write(self._proxy_header(exchange))
        connection.start(exchange)

    def _proxy_header(self, exchange: Exchange) -> bytes:
        source = _socket_address(exchange.client)
        destination = _socket_address(exchange.local)
        if self.cluster.proxy_protocol == "v1":
            return proxy_protocol.encode_v1(source, destination)
        return proxy_protocol.encode_v2(source, destination)

    def failed(self, opening: _Opening, reason: str) -> None:
        """The connection could not be made: the request first in line pays for it."""
        self._openings.discard(opening)
        stats = self._stats
        self._values[stats.connect_failures] += 1
        if reason == TIMEOUT:
            self._values[stats.connect_timeouts] += 1
            reply = replies.CONNECT_TIMEOUT
        else:
            reply = replies.CONNECT_FAILED
        exchange = opening.exchange
        if exchange is not None:
            if not self._unwait(exchange):
                exchange = None
        else:
            exchange = self._first()
        if exchange is not None:
            exchange.pool_failed(reply)
        self.use_room()

    def use_room(self) -> None:
        """Open for those in line for whom nothing is being opened."""
        if self._filling:
            return  # an attempt failed at once: the loop below goes on
        self._filling = True
        try:
            while (
                len(self._waiting) > len(self._openings)
                and self.total < self._max_connections
                and not self._closed
            ):
                exchange = None
                if self._single:
                    served = {opening.exchange for opening in self._openings}
                    exchange = next(e for e in self._waiting if e not in served)
                self._open(exchange)
        finally:
            # A defect on the way must cost one request, not the line for ever.
            self._filling = False

    # The line

    def _wait(self, exchange: Exchange) -> None:
        exchange.group.limits.pending += 1
        self._values[self._stats.pending_active] += 1
        deadline = self.now() + self._pending_timeout if self._pending_timeout else 0.0
        self._waiting[exchange] = deadline
        if deadline:
            self._wheel.arm(self, self._next_deadline())

    def _unwait(self, exchange: Exchange) -> bool:
        if self._waiting.pop(exchange, None) is None:
            return False
        exchange.group.limits.pending -= 1
        self._values[self._stats.pending_active] -= 1
        return True

    def _first(self) -> Exchange | None:
        """Take the first in line that waits for no connection of its own."""
        if not self._waiting:
            return None
        bound = {o.exchange for o in self._openings if o.exchange is not None}
        for exchange in self._waiting:
            if exchange not in bound:
                self._unwait(exchange)
                return exchange
        return None

    def _overflow(self, exchange: Exchange) -> None:
        self._values[self._stats.overflow_pending] += 1
        exchange.pool_failed(replies.OVERFLOW)

    # Time

    def _next_deadline(self) -> float:
        waiting = next(iter(self._waiting.values()), 0.0)
        if self._idle:
            idle = self._idle[0].idle_since + self._idle_timeout
            return min(waiting, idle) if waiting else idle
        # What becomes idle while the wheel holds the pool already does not arm it earlier.
        return min(waiting, self.now() + self._idle_timeout) if waiting else 0.0

    def expired(self, now: float) -> float:
        """Close what was idle too long, refuse what waited too long."""
        late = [exchange for exchange, limit in self._waiting.items() if limit and limit <= now]
        for exchange in late:
            for opening in [o for o in self._openings if o.exchange is exchange]:
                self._openings.discard(opening)
                if opening.attempt is not None:
                    opening.attempt.cancel()
            if self._unwait(exchange):
                self._overflow(exchange)
        self.use_room()
        limit = now - self._idle_timeout
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle.pop(0).close()
        return self._next_deadline()

    def close(self) -> None:
        """Close all connections: idle ones in order, the others at once."""
        self._closed = True
        self._wheel.disarm(self)
        for opening in list(self._openings):
            if opening.attempt is not None:
                opening.attempt.cancel()
        self._openings.clear()
        for exchange in list(self._waiting):
            if self._unwait(exchange):
                exchange.pool_failed(replies.NO_ENDPOINT)
        for connection in list(self._idle):
            connection.close()
        self._idle.clear()
        for connection in list(self._busy):
            if connection.exchange is not None and connection.transport is not None:
                connection.transport.abortConnection()


def _socket_address(text: bytes) -> Any:
    """
    ``(host, port)`` of ``b"host:port"``, or of an address alone, as trusted hops report it
    (port 0). None where there is no address (UNIX, ``unknown``).
    """
    whole = text.decode("latin-1")
    host, _, port = whole.rpartition(":")
    for address, number in ((whole, "0"), (host, port)):
        try:
            name = str(ip_address(address.strip("[]")))
        except ValueError:
            continue
        return (name, int(number)) if number.isdecimal() and int(number) < 65536 else None
    return None

"""
Connections to one endpoint.

The law it keeps:

- A request takes the connection used last (so that the others can grow old and be closed);
  without one it waits in line, first come first served, and a connection is opened for it
  unless the endpoint has ``max_connections`` or the cluster has what its limits allow.
- Requests in line never exceed the limits of their priority; one over them is refused at once,
  one that waits longer than ``pending_timeout`` is refused then, and one that no connection
  will ever come for is refused at once too.
- ``total`` counts every connection from its first SYN to its loss, once, and so does
  ``LimitSet.connections`` for the cluster.
- A connection is closed after ``idle_timeout`` without use (those that are kept warm excepted),
  is given to nobody after ``max_lifetime`` or ``max_requests``, and is dropped the moment the
  endpoint closes it or sends what nobody asked for.
- A connection that fails costs the first in line, unless enough others are being opened.

The decisions are here; sockets are opened by :mod:`meshproxy.http.opening`, what pools of a
cluster have to settle among them is :mod:`meshproxy.http.share`'s.
"""

from __future__ import annotations

import socket
from math import inf
from random import random
from typing import TYPE_CHECKING, Any

from meshproxy.http import replies
from meshproxy.http.opening import Opening, proxy_header, take_up
from meshproxy.http.share import BURST, share_of
from meshproxy.http.warmth import Warmth
from meshproxy.net.connect import EXHAUSTED, HANDSHAKE_TIMEOUT, TIMEOUT
from meshproxy.net.wheel import TimerWheel
from meshproxy.upstream.endpoint import CLOSED

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.h1.client import ClientConnection
    from meshproxy.tls.transport import TlsTransport
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint

#: Connections live up to this share of ``max_lifetime`` less, so that they do not all go at once.
JITTER = 0.1


class Pool:
    """The connections to ``endpoint`` of ``cluster``."""

    def __init__(
        self, reactor: Any, wheel: TimerWheel, cluster: Cluster, endpoint: Endpoint
    ) -> None:
        config = cluster.config.pool
        self.reactor = reactor
        self.cluster = cluster
        self.endpoint = endpoint
        self._wheel = wheel
        self._stats = cluster.stats
        self._values = cluster.stats.values
        self._limits = cluster.limits
        self._share = share_of(cluster)
        self._max_connections: int = config.max_connections
        self._pending_timeout: float = config.pending_timeout
        self._idle_timeout: float = config.idle_timeout
        self._max_lifetime: float = config.max_lifetime
        self._max_requests: int = config.max_requests
        #: A header that names the client belongs to one client's exchange alone.
        self._single = cluster.proxy_protocol is not None
        # In thousandths, so that 1.1 × 10 is 11. What names a client is not opened beforehand.
        self._ratio = 1000 if self._single else round(config.preconnect * 1000)
        self._idle: list[ClientConnection] = []
        # Those that serve or may serve, not those that are being closed.
        self._connections: set[ClientConnection] = set()
        self._open = 0
        # In order of arrival, each with its deadline.
        self._waiting: dict[Exchange, float] = {}
        self._openings: set[Opening] = set()
        self._bound: dict[Exchange, Opening] = {}
        self._closed = False
        # The endpoint is gone: nothing is kept that nobody waits for.
        self._retired = False
        #: Places at the cluster's limit that will be this pool's, and when to look for more.
        self.promised = 0
        self.look_at = 0.0
        self.now = wheel.now
        self.deadline = 0.0
        self.slot = 0
        # Who has no such limits does not pay for them.
        if self._max_lifetime or self._max_requests:
            self.release = self._release_aging  # type: ignore[method-assign]
        if self._max_lifetime:
            self.request = self._request_young  # type: ignore[method-assign]
        self._warmth: Warmth | None = None
        if config.warm and not self._single:
            self._warmth = Warmth(wheel, self, config.warm)
            if self._share.started:
                self._warmth.start()

    @property
    def total(self) -> int:
        """Connections open or being opened."""
        return self._open + len(self._openings)

    @property
    def opening(self) -> int:
        """Connections being opened."""
        return len(self._openings)

    def warm_up(self) -> None:
        """Keep ``warm`` connections from now on."""
        if self._warmth is not None:
            self._warmth.start()

    # From exchanges

    def request(self, exchange: Exchange) -> None:
        """Give the exchange a connection, now or later (``connected`` or ``pool_failed``)."""
        if self._idle:
            self._idle.pop().start(exchange)
            return
        self._line_up(exchange)

    def _request_young(self, exchange: Exchange) -> None:
        """As :meth:`request`, where connections grow too old."""
        now = self.now()
        while self._idle:
            connection = self._idle.pop()
            if now < connection.expires:
                connection.start(exchange)
                return
            self._let_go(connection, self._stats.aged_closed)
        self._line_up(exchange)

    def _line_up(self, exchange: Exchange) -> None:
        limits = exchange.group.limits
        if self._closed or limits.pending >= limits.max_pending:
            self._refuse(exchange, self._stats.overflow_pending)
            return
        self._wait(exchange)
        if self.lacking() > 0:
            self._share.serve(self)
        if self._ratio > 1000:
            self._preconnect()

    def request_fresh(self, exchange: Exchange) -> None:
        """
        As :meth:`request`, on a connection that never served before: it is opened at once, or
        the exchange is refused.
        """
        limits = exchange.group.limits
        if self._closed or limits.pending >= limits.max_pending:
            self._refuse(exchange, self._stats.overflow_pending)
        elif (
            self.total >= self._max_connections
            or self._limits.connections >= limits.max_connections
        ):
            self._refuse(exchange, self._stats.overflow_connections)
        else:
            self._wait(exchange)
            self._begin(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        """The exchange does not want a connection any more."""
        if self._unwait(exchange):
            opening = self._bound.get(exchange)
            if opening is not None:
                self._cancel(opening)
                self.use_room()

    # From connections

    def release(self, connection: ClientConnection) -> None:
        """The connection is free again."""
        if self._waiting:
            exchange = self._first()
            if exchange is not None:
                connection.start(exchange)
                return
        if self._retired:
            self._let_go(connection, None)
            return
        connection.idle_since = now = self.now()
        self._idle.append(connection)
        if not self.slot:
            self._wheel.arm(self, now + self._idle_timeout)

    def _release_aging(self, connection: ClientConnection) -> None:
        """As :meth:`release`, where connections grow too old or serve too often."""
        connection.served += 1
        if connection.served == self._max_requests or self.now() >= connection.expires:
            self._let_go(connection, self._stats.aged_closed)
            return
        Pool.release(self, connection)
        if self._idle:
            self.arm(connection.expires)

    def discard(self, connection: ClientConnection) -> None:
        """The connection will be closed: give it to nobody."""
        if connection in self._connections:
            self._connections.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
                if self._warmth is not None and not connection.used:
                    self._warmth.failed()

    def lost(self, connection: ClientConnection) -> None:
        """The connection is gone; :meth:`use_room` follows."""
        self.discard(connection)
        self.endpoint.connections -= 1
        self._open -= 1
        self._limits.connections -= 1
        self._values[self._stats.connections_active] -= 1
        self._share.left(connection)
        if self._warmth is not None:
            self._warmth.look()

    # Opening

    def lacking(self) -> int:
        """How many connections are to be opened for those in line, and may be by the pool."""
        if self._closed:
            return 0
        return min(
            len(self._waiting) - len(self._openings),
            self._max_connections - self._open - len(self._openings),
        )

    def step(self) -> bool:
        """Open for one in line (of whom :meth:`lacking` tells). Returns whether to go on."""
        if self.lacking() <= 0:
            return False
        exchange = next(iter(self._waiting))
        if self._limits.connections >= exchange.group.limits.max_connections:
            if self._share.claim(self):
                return False
            self._unwait(exchange)
            self._refuse(exchange, self._stats.overflow_connections)
        elif self._single:
            self._begin(next(e for e in self._waiting if e not in self._bound))
        else:
            self._begin(None)
        return self.lacking() > 0

    def use_room(self) -> None:
        """There may be room: open for those in line, here or elsewhere, who lack a connection."""
        share = self._share
        if share.hungry:
            share.freed()
        if self.lacking() > 0:
            share.serve(self)

    def open_ahead(self) -> bool:
        """Open a connection for nobody yet. Returns False where that may not be, or failed."""
        endpoint = self.endpoint
        if (
            self._retired
            or endpoint.removed
            or not endpoint.healthy
            or endpoint.breaker != CLOSED
            or self._limits.connections >= self._limits.default.max_connections
        ):
            return False
        total = self.total
        if total >= self._max_connections:
            return False
        self._begin(None)
        return self.total > total

    def _preconnect(self) -> None:
        """Have ``preconnect`` times as many connections as there are requests."""
        for _ in range(BURST):
            requests = len(self._connections) - len(self._idle) + len(self._waiting)
            if self.total * 1000 >= self._ratio * requests or not self.open_ahead():
                return

    def _begin(self, exchange: Exchange | None) -> None:
        opening = Opening(self, exchange, self.now())
        self._openings.add(opening)
        self._limits.connections += 1
        if exchange is not None:
            self._bound[exchange] = opening
        try:
            opening.begin()
        except BaseException:
            self._forget(opening)
            raise

    def _forget(self, opening: Opening) -> None:
        if opening in self._openings:
            self._openings.discard(opening)
            self._limits.connections -= 1
            if opening.exchange is not None:
                self._bound.pop(opening.exchange, None)

    def _cancel(self, opening: Opening) -> None:
        self._forget(opening)
        opening.cancel()

    def opened(
        self, opening: Opening, sock: socket.socket, transport: TlsTransport | None = None
    ) -> None:
        """The connection is up; ``transport`` is there already where it speaks TLS."""
        self._forget(opening)
        endpoint = self.endpoint
        values = self._values
        stats = self._stats
        now = self.now()
        values[stats.connections] += 1
        values[stats.connections_active] += 1
        endpoint.connections += 1
        self._open += 1
        self._limits.connections += 1
        stats.connect_duration.observe(values, now - opening.start)
        connection = take_up(self, sock, self._single, transport)
        self._connections.add(connection)
        if self._max_lifetime:
            connection.expires = now + self._max_lifetime * (1 - JITTER * random())
        else:
            connection.expires = inf
        if endpoint.local_failures and self.cluster.breaker is not None:
            self.cluster.breaker.connected(endpoint)
        exchange = opening.exchange
        if exchange is not None:
            if not self._unwait(exchange):
                exchange = None
        elif self._waiting:
            # Nothing is fresher: also for one that a connection of its own is being opened for.
            exchange = next(iter(self._waiting))
            own = self._bound.pop(exchange, None)
            if own is not None:
                own.exchange = None
            self._unwait(exchange)
        if exchange is None:
            self._keep(connection)
            return
        exchange.connected_at = now
        if self._single and transport is None:
            connection.transport.write(proxy_header(self.cluster.proxy_protocol, exchange))
        connection.start(exchange)

    def _keep(self, connection: ClientConnection) -> None:
        """A new connection is for nobody yet."""
        if self._single:
            self._let_go(connection, None)
            return
        # The endpoint may close it as it may any idle one: a request that meets that is replayed.
        connection.reused = True
        Pool.release(self, connection)
        if self._idle:
            self.arm(connection.expires)

    def failed(self, opening: Opening, reason: str, secure: bool = False) -> None:
        """The connection could not be made; ``secure``: it was there, and TLS failed."""
        self._forget(opening)
        endpoint = self.endpoint
        breaker = self.cluster.breaker
        values = self._values
        values[self._stats.connect_failures] += 1
        reply = replies.CONNECT_FAILED
        if reason in (TIMEOUT, HANDSHAKE_TIMEOUT):
            values[self._stats.connect_timeouts] += 1
            reply = replies.CONNECT_TIMEOUT
        if secure:
            reply = replies.insecure(reply, reason)
        # That we have no descriptors left says nothing of the endpoint.
        if reason != EXHAUSTED:
            endpoint.failed += 1
            if breaker is not None:
                breaker.failed(endpoint, True)
        warmth = self._warmth
        if warmth is not None:
            warmth.failed()
            warmth.look()
        exchange = opening.exchange
        if exchange is not None:
            if not self._unwait(exchange):
                exchange = None
        elif len(self._waiting) > len(self._openings):
            exchange = self._first()
        if exchange is not None:
            exchange.pool_failed(reply)
        self.use_room()

    # The line

    def _wait(self, exchange: Exchange) -> None:
        exchange.group.limits.pending += 1
        self._values[self._stats.pending_active] += 1
        now = self.now()
        self._waiting[exchange] = deadline = now + self._pending_timeout
        self.arm(min(deadline, now + self._idle_timeout))

    def _unwait(self, exchange: Exchange) -> bool:
        if self._waiting.pop(exchange, None) is None:
            return False
        exchange.group.limits.pending -= 1
        self._values[self._stats.pending_active] -= 1
        if self._retired and not self._waiting:
            self._disarm()
        return True

    def _first(self) -> Exchange | None:
        """Take the first in line that waits for no connection of its own."""
        for exchange in self._waiting:
            if exchange not in self._bound:
                self._unwait(exchange)
                return exchange
        return None

    def _refuse(self, exchange: Exchange, counter: int) -> None:
        self._values[counter] += 1
        exchange.pool_failed(replies.OVERFLOW)

    # Closing

    def longest_idle(self) -> float | None:
        """Since when the connection is idle that is so longest; None without one."""
        return self._idle[0].idle_since if self._idle else None

    def give_up(self) -> ClientConnection:
        """Close the connection that is idle longest."""
        connection = self._idle.pop(0)
        self._let_go(connection, self._stats.idle_closed)
        return connection

    def _let_go(self, connection: ClientConnection, counter: int | None) -> None:
        """Close a connection that nobody uses and that is not in the list of idle ones."""
        if counter is not None:
            self._values[counter] += 1
        self._connections.discard(connection)
        connection.close()

    def retire(self) -> None:
        """The endpoint is gone: serve those in line and in flight, keep nothing."""
        self._retired = True
        if self._warmth is not None:
            self._warmth.stop()
        while self._idle:
            self._let_go(self._idle.pop(), None)
        if not self._waiting:
            self._disarm()

    def _disarm(self) -> None:
        """Nobody is in line, and nobody will be: there is nothing to wait for."""
        self._wheel.disarm(self)
        for opening in list(self._openings):
            self._cancel(opening)

    def close(self) -> None:
        """Close all connections: idle ones in order, the others at once."""
        self._closed = True
        self.retire()
        self._disarm()
        self._share.forget(self)
        for exchange in list(self._waiting):
            if self._unwait(exchange):
                exchange.pool_failed(replies.NO_ENDPOINT)
        for connection in list(self._connections):
            if connection.exchange is not None and connection.transport is not None:
                connection.transport.abortConnection()

    # Time

    def arm(self, deadline: float) -> None:
        """Look at the pool no later than at ``deadline``."""
        if deadline < inf and (not self.slot or deadline < self.deadline):
            self._wheel.arm(self, deadline)

    def expired(self, now: float) -> float:
        """Refuse what waited too long, close what was idle too long or is too old."""
        while self._waiting:
            exchange, limit = next(iter(self._waiting.items()))
            if limit > now:
                break
            opening = self._bound.get(exchange)
            if opening is not None:
                self._cancel(opening)
            self._unwait(exchange)
            self._refuse(exchange, self._stats.overflow_pending)
        self.use_room()
        idle = self._idle
        limit = now - self._idle_timeout
        spare = len(self._connections)
        if self._warmth is not None:
            spare -= self._warmth.count
        while spare > 0 and idle and idle[0].idle_since <= limit:
            self.give_up()
            spare -= 1
        if self._max_lifetime:
            for connection in [c for c in idle if c.expires <= now]:
                idle.remove(connection)
                self._let_go(connection, self._stats.aged_closed)
        return self._next_deadline(now, spare > 0)

    def _next_deadline(self, now: float, spare: bool) -> float:
        deadline = inf
        idle = self._idle
        if self._waiting:
            # What becomes idle while the wheel holds the pool does not arm it earlier.
            deadline = min(next(iter(self._waiting.values())), now + self._idle_timeout)
        if idle and spare:
            deadline = min(deadline, idle[0].idle_since + self._idle_timeout)
        if idle and self._max_lifetime:
            deadline = min(deadline, min(c.expires for c in idle))
        return deadline if deadline < inf else 0.0

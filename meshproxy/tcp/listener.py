"""
A TCP listener: what it accepts, and how it is stopped.

The laws kept here:

* Never more than ``max_connections`` at a time: one more is accepted and closed at once, counted,
  and costs no upstream anything.
* The way bytes move is settled here, once: by splice where the reactor watches, by transports where
  it does not, where a Twisted endpoint made the connection or where a filter wants the bytes.
* What filters cost, a listener without filters does not pay: its connections know nothing of them.
  Nor does one without routes read what its clients say.
* :meth:`TcpListener.stop` answers when the last connection is gone, and none begins after it.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.protocol import Factory, Protocol
from twisted.python import log as logging

from meshproxy.net.transport import StreamTransport
from meshproxy.tcp.chain import Chain
from meshproxy.tcp.connection import HEADER_TIMEOUT, SETTLE, STOPPED, Connection
from meshproxy.tcp.filtered import FilteredConnection
from meshproxy.tcp.judged import JudgedConnection
from meshproxy.tcp.routes import hello_routes
from meshproxy.tcp.spliced import SplicedConnection
from meshproxy.tcp.stats import ListenerStats
from meshproxy.tcp.stock import StockConnection, address_of
from meshproxy.upstream.cluster import weighted_pick

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config import Listener
    from meshproxy.net.proxy_protocol import Header
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.fitted import Fitted
    from meshproxy.observe.registry import Registry
    from meshproxy.tls.hello import Hello
    from meshproxy.tls.server import ServerTls
    from meshproxy.tls.transport import TlsTransport
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.group import Group


class TcpListener:
    """
    Proxies the connections that one listener accepts.

    ``config`` has a ``tcp``; its clusters are found in ``clusters`` by name (KeyError when one is
    missing).  ``log`` gets each connection as an access record when it ends, if anything.  ``fit``
    makes filters of the configuration's, at a place in it.  ``tls`` ends the clients' TLS.

    Raises ``ValueError`` for filters, or clusters and filters, that cannot be together.
    """

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        registry: Registry,
        name: str,
        config: Listener,
        clusters: Mapping[str, Cluster],
        log: Callable[[Any], None] | None = None,
        *,
        fit: Callable[[Sequence[Any], tuple[str | int, ...]], list[Fitted]] | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        tcp = config.tcp
        if tcp is None:
            raise ValueError(f"listener {name} has no tcp")
        self.reactor = reactor
        self.wheel = wheel
        self.now = wheel.now
        self.name = name
        self.name_bytes = name.encode()
        self.config = config
        filters = getattr(tcp, "filters", ())
        fitted = fit(filters, ("listeners", name, "tcp", "filters")) if filters and fit else []
        #: The filters, compiled; None when there are none.
        self.chain = Chain(fitted) if fitted else None
        self.log = log if self.chain is None else self.chain.observed(log)
        #: Endpoints that are tried before a client is given up.
        self.max_attempts: int = tcp.max_connect_attempts
        self.max_connections = config.max_connections
        #: Where TLS is ended, what ends it has read the header.
        self.expects_header = config.proxy_protocol and tls is None
        #: What a filter starts, if it wants to.
        self.on_demand: ServerTls | None = None
        if tls is not None and config.tls is not None and config.tls.on_demand:
            self.on_demand, tls = tls, None
            self.expects_header = config.proxy_protocol
        self._tls = tls
        passing = config.tls.pass_through if tls is not None and config.tls is not None else ()
        if tls is not None:
            tls.secured = self._secured
            if passing:
                tls.pass_through = hello_routes(passing, clusters).find
                tls.passed = self.passed
        self.idle_timeout: float = tcp.idle_timeout
        self.max_duration: float = tcp.max_duration or inf
        #: Seconds that a filter may keep a connection waiting.
        self.filter_timeout: float = tcp.idle_timeout or HEADER_TIMEOUT
        #: Seconds after which a new relay is first looked at.
        self.first_check = min(self.idle_timeout or SETTLE, SETTLE)
        served = self.chain is not None and self.chain.serve_data is not None
        routes = getattr(tcp, "routes", ())
        if served and (tcp.to or routes):
            raise ValueError(
                "a filter serves the connections of this listener, so "
                f"'{'routes' if routes else 'to'}' is not used"
            )
        if served and passing:
            raise ValueError(
                "a filter serves the connections of this listener, so none can be passed through"
            )
        if not served and not tcp.to and not routes:
            raise ValueError("'to' is needed: no filter serves the connections of this listener")
        #: Where connections go by their hello; None: none is read.
        self.routes = hello_routes(routes, clusters) if routes else None
        #: Something is read before an upstream is looked for.
        self.opens = self.expects_header or (self.routes is not None and tls is None)
        #: Seconds for it to arrive.
        self.opening_timeout = min(
            tcp.hello_timeout if self.routes is not None else HEADER_TIMEOUT, self.max_duration
        )
        to = {} if routes else tcp.to or {}
        reached = {*to, *(name for route in routes for name in route.to)}
        groups = [clusters[name].group(tcp.subset) for name in to]
        #: Draw a group of endpoints; where a filter serves, or routes decide, there are none.
        self.pick = weighted_pick(groups, list(to.values())) if groups else _no_group
        self.stats = ListenerStats(registry, name)
        secret = (tls or self.on_demand) is not None or any(
            clusters[name].tls is not None for name in reached
        )
        self._may_splice = hasattr(reactor, "watch")
        self._spliced = SplicedConnection
        self._stock = StockConnection
        if self.chain is not None:
            self._may_splice = self._may_splice and not self.chain.moves
            self._spliced = JudgedConnection
            self._stock = FilteredConnection
        self._splices = self._may_splice and not secret
        self._open: set[Connection] = set()
        self._stopped: defer.Deferred[None] | None = None
        self._deadline: Any = None

    @property
    def active(self) -> int:
        """Connections now open."""
        return len(self._open)

    def accept(self, sock: socket.socket, peer: Any) -> None:
        """Take a connected, non-blocking socket; what :func:`meshproxy.net.listen.listen` calls."""
        tls = self._tls
        if tls is not None:
            if self._stopped is None and len(self._open) + tls.active < self.max_connections:
                tls.accept(sock, peer)
            else:
                self._refused()
                sock.close()
            return
        if not self._admit():
            sock.close()
            return
        if self._splices:
            self._splice(self._spliced(self, sock, peer))
            return
        connection = self._stock(self, sock.family, peer)
        self._open.add(connection)
        StreamTransport(self.reactor, sock, peer).start(connection.side)

    def _splice(self, connection: SplicedConnection) -> None:
        self._open.add(connection)
        try:
            connection.begin()
        except Exception:
            logging.err(None, f"a connection of listener {self.name}")
            connection.drop(True, "internal error")

    def passed(
        self,
        sock: socket.socket,
        peer: Any,
        header: Header | None,
        hello: Hello,
        pick: Callable[[], Group],
    ) -> None:
        """
        Take a socket whose client has said ``hello``, which lies there unread, and is to go where
        ``pick`` draws: what :class:`meshproxy.tls.server.ServerTls` calls.
        """
        if not self._admit():
            sock.close()
            return
        group = pick()
        if self._may_splice and group.cluster.tls is None:
            spliced = self._spliced(self, sock, peer)
            spliced.known(header, hello, group)
            self._splice(spliced)
            return
        connection = self._stock(self, sock.family, peer)
        connection.known(header, hello, group)
        self._open.add(connection)
        StreamTransport(self.reactor, sock, peer).start(connection.side)

    def _secured(self, transport: TlsTransport, header: Header | None) -> None:
        """A client's TLS handshake is over."""
        if not self._admit():
            transport.start(Protocol())
            transport.loseConnection()
            return
        connection = self._stock(self, transport.socket.family, transport.peer)
        if header is not None:
            connection.header_came(header)
        self._open.add(connection)
        transport.start(connection.side)

    def factory(self) -> Any:
        """A protocol factory for a listener that Twisted makes from an endpoint description."""
        factory = _Factory(self)
        if self._tls is None:
            return factory
        from meshproxy.tls.memory import MemoryTls

        return MemoryTls(self._tls).wrap(factory)

    def stop(self, grace: float = 0.0) -> defer.Deferred[None]:
        """
        Refuse what comes, give what is there ``grace`` seconds, then close it.

        The Deferred fires when no connection is left.
        """
        if self._stopped is None:
            self._stopped = defer.Deferred()
            if self._tls is not None:
                self._tls.stop()
            if self._open and grace > 0:
                self._deadline = self.reactor.callLater(grace, self._close_all)
            else:
                self._close_all()
                self._settled()
        waiting: defer.Deferred[None] = defer.Deferred()
        self._stopped.chainDeferred(waiting)
        return waiting

    def forget(self, connection: Connection) -> None:
        """``connection`` has ended."""
        self._open.discard(connection)
        if self._stopped is not None:
            self._settled()

    def _admit(self) -> bool:
        stats = self.stats
        values = stats.values
        values[stats.total] += 1
        if len(self._open) >= self.max_connections or self._stopped is not None:
            values[stats.refused] += 1
            return False
        values[stats.active] += 1
        return True

    def _refused(self) -> None:
        """A connection was turned away before anything was made for it."""
        stats = self.stats
        stats.values[stats.total] += 1
        stats.values[stats.refused] += 1

    def _close_all(self) -> None:
        self._deadline = None
        for connection in tuple(self._open):
            connection.drop(False, STOPPED)

    def _settled(self) -> None:
        stopped = self._stopped
        if stopped is None or self._open or stopped.called:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        stopped.callback(None)

    def protocol(self, address: Any) -> StockConnection | None:
        """A new connection for a transport whose peer is ``address``; None when refused."""
        if not self._admit():
            return None
        connection = self._stock(self, *address_of(address))
        self._open.add(connection)
        return connection


def _no_group() -> Any:
    raise RuntimeError("no cluster is there for all connections of this listener")


class _Factory(Factory):
    """What a Twisted endpoint listens with."""

    noisy = False

    def __init__(self, listener: TcpListener) -> None:
        self._listener = listener

    def buildProtocol(self, addr: Any) -> Any:
        """The protocol for a new connection; None closes it."""
        connection = self._listener.protocol(addr)
        return None if connection is None else connection.side

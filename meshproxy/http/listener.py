"""
An HTTP listener: what all its connections and exchanges share.

The law it keeps: everything an exchange needs of the configuration is an attribute or a bound
method of this object, made at start; counting is list items, and the clock is asked once a
step.
"""

from __future__ import annotations

import socket
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IProtocolFactory
from zope.interface import implementer

from meshproxy.http.actions import compile_route
from meshproxy.http.chain import NO_FILTERS, Chains, inherit
from meshproxy.http.client_cert import make_forward
from meshproxy.http.exchange import Exchange
from meshproxy.http.forward import Adorn, trusted_client
from meshproxy.http.h1.server import SecureConnection, ServerConnection
from meshproxy.http.pool import Pool
from meshproxy.http.router import Route, Router
from meshproxy.net.transport import SocketAddress, StreamTransport, peer_text
from meshproxy.net.wheel import TimerWheel
from meshproxy.upstream.cluster import LATENCY_BOUNDS, Cluster

if TYPE_CHECKING:
    from meshproxy.config import FilterItem
    from meshproxy.config import Listener as ListenerConfig
    from meshproxy.http.chain import Fit
    from meshproxy.net.proxy_protocol import Header
    from meshproxy.observe.registry import Registry
    from meshproxy.tls.server import ServerTls
    from meshproxy.tls.transport import TlsTransport

Log = Callable[[Exchange], None]


class HttpListener:
    """
    Serves HTTP/1 on the sockets given to :meth:`accept`.

    ``config`` is the listener's model, with ``http`` set; ``log`` gets every exchange when it
    is over, or is None. ``fit`` makes the filters that are written at a place. ``tls`` ends the
    clients' TLS.
    """

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        registry: Registry,
        name: str,
        config: ListenerConfig,
        clusters: Mapping[str, Cluster],
        log: Log | None,
        fit: Fit | None = None,
        *,
        tls: ServerTls | None = None,
    ) -> None:
        http = config.http
        assert http is not None
        #: What clients' URLs begin with.
        self.scheme = b"http" if tls is None else b"https"
        self._tls = tls
        # Clients that TLS has, and that are no connections yet.
        self._arriving: Collection[Any] = ()
        if tls is not None:
            tls.secured = self._secured
            self._arriving = tls.under_way
        self.name = name
        self.name_bytes = name.encode()
        self.wheel = wheel
        self.now: Callable[[], float] = wheel.now
        #: Where TLS is ended, what ends it has read the header.
        self.proxy_protocol: bool = config.proxy_protocol and tls is None
        self.trusted_hops: int = http.trusted_hops
        self.max_header_size: int = http.max_header_size
        self.max_headers: int = http.max_headers
        self.max_body: int | None = http.max_body
        self.headers_timeout: float = http.headers_timeout
        self.idle_timeout: float = http.idle_timeout
        self.stream_idle_timeout: float = http.stream_idle_timeout
        #: Somebody wrote how long exchanges may be silent.
        self.strict_idle = "stream_idle_timeout" in http.model_fields_set
        self.request_timeout: float = http.request_timeout
        self.max_connection_age: float = http.max_connection_age
        self.draining = False
        self._reactor = reactor
        self._log = log
        self._max_connections: int = config.max_connections
        self._connections: set[ServerConnection] = set()
        #: The local address, when the listener is bound to one; "" when it differs.
        self._local = b""
        self.values = registry.values
        self._count(registry)
        for cluster in clusters.values():
            cluster.use_pools(partial(Pool, reactor, wheel, cluster))

        chains = Chains(fit)
        #: Every route, in no order.
        self.routes: list[Route] = []
        #: What a request passes from a route with filters to one without.
        self.no_filters = NO_FILTERS
        path: tuple[str | int, ...] = ("listeners", name, "http")
        chains.prepare(http.filters, (*path, "filters"))

        def compiled(
            routes: Any, host: str, inherited: list[FilterItem], place: tuple[str | int, ...]
        ) -> list[Any]:
            made = []
            for number, config in enumerate(routes):
                route = compile_route(
                    config, number, name, host, clusters, registry, reactor, wheel, http.retry
                )
                chains.prepare(config.filters, (*place, "routes", number, "filters"))
                route.chain = chains.chain(inherit(inherited, config.filters))
                made.append(route)
            self.routes += made
            return made

        hosts = {}
        without_route = {}
        for host, hosted in http.hosts.items():
            place = (*path, "hosts", host)
            chains.prepare(hosted.filters, (*place, "filters"))
            inherited = inherit(http.filters, hosted.filters)
            hosts[host] = compiled(hosted.routes, host, inherited, place)
            without_route[host] = chains.chain(inherited)
        router = Router(
            hosts,
            compiled(http.routes, "", http.filters, path),
            without_route,
            chains.chain(http.filters),
        )
        self.match: Callable[[Exchange], Route | None] = router.match
        self.chain_without_route = router.chain_without_route
        self.forward: Callable[[Exchange], None] = make_forward(http, self.scheme)
        self.adorn = Adorn(http).adorn

    def _count(self, registry: Registry) -> None:
        labels = {"listener": self.name}

        def counter(what: str, text: str) -> int:
            return registry.counter(f"meshproxy_listener_{what}", text, labels)

        self._bytes_received = counter("bytes_received_total", "Request body bytes")
        self._bytes_sent = counter("bytes_sent_total", "Response body bytes")
        self._connections_total = counter("connections_total", "Connections accepted")
        self._connections_refused = counter(
            "connections_refused_total", "Connections closed at once: max_connections reached"
        )
        self._bad_proxy_headers = counter(
            "proxy_protocol_errors_total", "Connections without a good PROXY header"
        )
        self._connections_active = registry.gauge(
            "meshproxy_listener_connections_active", "Open connections", labels
        )
        registry.sample(
            "meshproxy_listener_requests_active",
            "Requests in flight",
            labels,
            lambda: sum(c.exchange is not None for c in self._connections),
        )
        slots = [
            registry.counter(
                "meshproxy_listener_responses_total",
                "Responses by class of status",
                {"listener": self.name, "class": f"{number}xx"},
            )
            for number in range(1, 6)
        ]
        self._responses = [slots[0], *slots]
        self._aborted = counter("requests_aborted_total", "Requests whose client went away")
        duration = registry.histogram(
            "meshproxy_listener_request_duration_seconds",
            "From the request's first byte parsed to the response's end",
            LATENCY_BOUNDS,
            labels,
        )
        self._duration_base = duration.base
        self._duration_sum = duration.sum_slot

    # Connections

    def set_local(self, local: bytes) -> None:
        """The address that every connection came to, when there is but one."""
        self._local = local

    def accept(self, sock: socket.socket, peer: SocketAddress) -> None:
        """Serve an accepted socket (non-blocking)."""
        if self.full():
            sock.close()
            return
        tls = self._tls
        if tls is not None:
            tls.accept(sock, peer)
            return
        client, client_ip = peer_text(sock.family, peer)
        connection = ServerConnection(self, client, client_ip, self._local)
        StreamTransport(self._reactor, sock, peer).start(connection)

    def _secured(self, transport: TlsTransport, header: Header | None) -> None:
        """A client's TLS handshake is over."""
        client, client_ip = peer_text(transport.socket.family, transport.peer)
        if header is not None and isinstance(header.source, tuple):
            host, port = header.source
            client_ip = host.encode()
            client = (b"[%b]:%d" if ":" in host else b"%b:%d") % (client_ip, port)
        facts = transport.facts
        transport.start(SecureConnection(self, client, client_ip, self._local, facts))

    def factory(self) -> IProtocolFactory:
        """A Twisted factory, for listeners given as endpoint descriptions."""
        factory = _Factory(self)
        tls = self._tls
        if tls is None:
            return factory
        from meshproxy.tls.memory import MemoryTls

        return MemoryTls(tls).wrap(factory)

    def opened(self, connection: ServerConnection) -> None:
        """A connection begins."""
        self._connections.add(connection)
        values = self.values
        values[self._connections_total] += 1
        values[self._connections_active] += 1

    def closed(self, connection: ServerConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self.values[self._connections_active] -= 1

    def full(self) -> bool:
        """Whether ``max_connections`` are open, or about to be; counts a refusal if so."""
        if len(self._connections) + len(self._arriving) < self._max_connections:
            return False
        self.values[self._connections_refused] += 1
        return True

    def bad_proxy_header(self) -> None:
        """A connection did not open with a PROXY header."""
        self.values[self._bad_proxy_headers] += 1

    @property
    def active(self) -> int:
        """Open connections, TLS handshakes under way among them."""
        return len(self._connections) + len(self._arriving)

    # Exchanges

    def identify(self, exchange: Exchange) -> None:
        """Believe the trusted hops about who the client is."""
        address = trusted_client(
            exchange.request_headers.get_all(b"x-forwarded-for"), self.trusted_hops
        )
        if address is not None:
            exchange.client = exchange.client_ip = address

    def finished(self, exchange: Exchange) -> None:
        """An exchange is over, however it ended."""
        values = self.values
        received = exchange.bytes_received
        sent = exchange.bytes_sent
        status = exchange.status // 100
        duration = exchange.end - exchange.start
        bucket = bisect_left(LATENCY_BOUNDS, duration)
        if status:
            values[self._responses[status]] += 1
        else:
            values[self._aborted] += 1
        values[self._bytes_received] += received
        values[self._bytes_sent] += sent
        values[self._duration_base + bucket] += 1
        values[self._duration_sum] += duration
        route = exchange.route
        if route is not None:
            values[route.active] -= 1
            values[route.duration_base + bucket] += 1
            values[route.duration_sum] += duration
            if status:
                values[route.responses[status]] += 1
        cluster = exchange.cluster
        if cluster is not None:
            stats = cluster.stats
            if status:
                values[stats.responses[status]] += 1
            values[stats.bytes_sent] += received
            values[stats.bytes_received] += sent
            values[stats.duration_base + bucket] += 1
            values[stats.duration_sum] += duration
            answered = exchange.response_start
            if answered:
                first = answered - exchange.upstream_start
                if first != duration:  # it is the same for what came at once
                    bucket = bisect_left(LATENCY_BOUNDS, first)
                values[stats.first_byte_base + bucket] += 1
                values[stats.first_byte_sum] += first
        chain = exchange.chain
        if chain is not None and chain.observers:
            chain.finished(exchange)
        log = self._log
        if log is not None:
            log(exchange)
        if chain is not None:
            exchange.request_view = exchange.response_view = None

    # Stopping

    def drain(self) -> None:
        """
        Say ``connection: close`` from now on, and close what is idle.

        A TLS handshake that has begun may end, and one request come by it.
        """
        self.draining = True
        if self._tls is not None:
            self._tls.drain()
        for connection in list(self._connections):
            connection.drain()

    def stop(self) -> None:
        """Close every connection at once."""
        self.draining = True
        if self._tls is not None:
            self._tls.stop()
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abortConnection()

    @property
    def connections(self) -> Collection[ServerConnection]:
        """The open connections; copy them before anything else happens."""
        return self._connections


@implementer(IProtocolFactory)
class _Factory:
    """Connections on transports that are not ours (systemd, haproxy, any endpoint string)."""

    def __init__(self, listener: HttpListener) -> None:
        self._listener = listener

    def doStart(self) -> None:
        """Part of ``IProtocolFactory``."""

    def doStop(self) -> None:
        """Part of ``IProtocolFactory``."""

    def buildProtocol(self, addr: Any) -> ServerConnection | None:
        """A connection's protocol, or None when there are too many."""
        listener = self._listener
        if listener.full():
            return None
        return _Described(listener, *_client(addr))


class _Described(ServerConnection):
    """
    A connection on such a transport. One that unwraps a PROXY header (``haproxy:``) knows the
    client only when the first byte behind the header is here, so it is asked again then.
    """

    __slots__ = ("_asked", "tls")

    def makeConnection(self, transport: Any) -> None:
        #: What :class:`meshproxy.tls.memory.MemoryTls` knows of the client's TLS.
        self.tls = getattr(transport, "facts", None)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if not hasattr(self, "_asked"):
            self._asked = True
            self.client, self.client_ip = _client(self.transport.getPeer())
        super().dataReceived(data)


def _client(address: Any) -> tuple[bytes, bytes]:
    """``b"ip:port"`` and ``b"ip"`` of a Twisted address, as :func:`peer_text` has them."""
    host = getattr(address, "host", None)
    if host is None:
        return b"unix:", b"unix:"
    ip = host.encode()
    return (b"[%b]:%d" if b":" in ip else b"%b:%d") % (ip, address.port), ip

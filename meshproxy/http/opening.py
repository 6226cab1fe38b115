"""
A connection to an endpoint, from the first SYN until its codec has it.

The law it keeps:

- Exactly one of the pool's ``opened`` and ``failed`` is called, once, unless the opening is
  cancelled first; either may be called before :meth:`Opening.begin` returns.
- A connection is set up as the cluster says (keepalive, Nagle, PROXY header, TLS) in one place;
  connecting and TLS together have the cluster's ``connect_timeout``.
- A PROXY header goes before TLS: who takes it off is in front of who decrypts.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from meshproxy.http.h1.client import ClientConnection, SecureConnection
from meshproxy.net import proxy_protocol
from meshproxy.net.connect import Connecting, connect
from meshproxy.net.listen import set_keepalive
from meshproxy.net.transport import StreamTransport, peer_text

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.pool import Pool
    from meshproxy.tls.client import ClientTls, Securing
    from meshproxy.tls.transport import TlsTransport


class Opening:
    """A connection being opened: for one exchange, or (None) for whoever is first in line."""

    __slots__ = ("_attempt", "_deadline", "_pool", "exchange", "start")

    def __init__(self, pool: Pool, exchange: Exchange | None, start: float) -> None:
        self.exchange = exchange
        self.start = start
        self._pool = pool
        self._attempt: Connecting | Securing | None = None
        self._deadline = 0.0

    def begin(self) -> None:
        """Send the SYN."""
        pool = self._pool
        cluster = pool.cluster
        endpoint = pool.endpoint
        done = self._done
        if cluster.tls is not None:
            done = self._plain
            self._deadline = pool.reactor.seconds() + cluster.connect_timeout
        attempt = connect(
            pool.reactor,
            endpoint.family,
            endpoint.sockaddr,
            cluster.connect_timeout,
            done,
            self._failed,
            nodelay=cluster.nodelay,
        )
        # None: all is over, or TLS has begun.
        if attempt is not None:
            self._attempt = attempt

    def cancel(self) -> None:
        """Give up; the pool hears nothing any more."""
        if self._attempt is not None:
            self._attempt.cancel()

    def _done(self, sock: socket.socket) -> None:
        self._pool.opened(self, sock)

    def _failed(self, reason: str) -> None:
        self._pool.failed(self, reason)

    # With TLS

    def _plain(self, sock: socket.socket) -> None:
        """It is connected."""
        self._attempt = None
        pool = self._pool
        cluster = pool.cluster
        if cluster.proxy_protocol is not None and self.exchange is not None:
            try:
                # A new socket's buffer has room for it.
                sock.send(proxy_header(cluster.proxy_protocol, self.exchange))
            except OSError as error:
                sock.close()
                self._failed(str(error.strerror))
                return
        tls: ClientTls = cluster.tls
        endpoint = pool.endpoint
        left = self._deadline - pool.reactor.seconds()
        self._attempt = tls.secure(
            pool.reactor, sock, endpoint.sockaddr, endpoint, left, self._secured, self._insecure
        )

    def _secured(self, transport: TlsTransport) -> None:
        self._pool.opened(self, transport.socket, transport)

    def _insecure(self, reason: str) -> None:
        self._pool.failed(self, reason, True)


def take_up(
    pool: Pool, sock: socket.socket, single: bool, transport: TlsTransport | None = None
) -> ClientConnection:
    """
    The codec of a connected socket, which ``transport`` has already if that speaks TLS.

    ``single``: it will serve one exchange.
    """
    keepalive = pool.cluster.keepalive
    if keepalive is not False and sock.family != socket.AF_UNIX:
        set_keepalive(sock, keepalive)
    local = peer_text(sock.family, sock.getsockname())[0]
    if transport is not None:
        secure = SecureConnection(pool, local, single=single)
        transport.closing = secure.closing
        transport.start(secure)
        return secure
    connection = ClientConnection(pool, local, single=single)
    plain = StreamTransport(pool.reactor, sock, pool.endpoint.sockaddr)
    plain.closing = connection.closing
    plain.start(connection)
    return connection


def proxy_header(version: str | None, exchange: Exchange) -> bytes:
    """The PROXY protocol header (``v1``, else v2) that names the exchange's client."""
    source = socket_address(exchange.client)
    destination = socket_address(exchange.local)
    if version == "v1":
        return proxy_protocol.encode_v1(source, destination)
    return proxy_protocol.encode_v2(source, destination)


def socket_address(text: bytes) -> Any:
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

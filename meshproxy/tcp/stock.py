"""
A connection over transports: any reactor, any listener that Twisted can describe.

The law kept here: the same as :mod:`meshproxy.tcp.spliced`, by a
:class:`~meshproxy.net.relay_stock.TransportRelay`.  A hello, and the bytes with which a PROXY
header ended, wait in the relay, and nothing more is read until the upstream is up.
"""

from __future__ import annotations

import socket
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport
from zope.interface import implementer

from meshproxy.net import connect
from meshproxy.net.listen import set_keepalive
from meshproxy.net.proxy_protocol import MAX_HEADER, ProxyProtocolError, parse
from meshproxy.net.relay_stock import Side, TransportRelay
from meshproxy.net.splice import CONNECT_FAILED
from meshproxy.net.transport import StreamTransport, peer_text
from meshproxy.tcp.connection import HEADER, HELLO, NO_ENDPOINT, Connection
from meshproxy.tcp.routes import hello_of
from meshproxy.tls.hello import BadHello, Hello, NotTls, parse_hello
from meshproxy.tls.preface import BAD_HEADER, CLIENT_GONE

if TYPE_CHECKING:
    from meshproxy.tcp.listener import TcpListener


class StockConnection(Connection):
    """A client's connection whose transport is to be connected to :attr:`side`."""

    __slots__ = ("_connecting", "_local", "_upstream_local", "relay", "side")

    #: What an attempt that is under way is: a TCP connection, then a TLS handshake.
    _connecting: connect.Connecting | Any

    relay: TransportRelay

    def __init__(self, listener: TcpListener, family: int, peer: Any) -> None:
        super().__init__(listener, family, peer)
        relay = self.relay = self.join()
        self.side = relay.client = OpeningSide(relay, self)
        self._connecting = None
        self._local = self._upstream_local = b""

    @property
    def tls(self) -> Any:  # type: ignore[override]
        """Facts about the client's TLS; None without."""
        return getattr(self.side.transport, "facts", None)

    def join(self) -> TransportRelay:
        """The relay."""
        return TransportRelay(self.listener.reactor, self.finished)

    def begin(self) -> None:
        listener = self.listener
        transport = self.side.transport
        if listener.log is not None:
            self._local = peer_text(*address_of(transport.getHost()))[0]
        if listener.opens:
            self.state = HEADER if listener.expects_header else HELLO
            listener.wheel.arm(self, self.start + listener.opening_timeout)
        else:
            transport.pauseProducing()
            if listener.routes is None or self.group is not None:
                self.connect()
            else:
                self.opened(hello_of(self.tls))

    def opened(self, hello: Hello | None) -> None:
        """The client has said what it was asked for."""
        if self.listener.routes is None or self.routed(hello):
            self.connect()

    def connect(self) -> None:
        """The client is known: look for an upstream."""
        listener = self.listener
        listener.wheel.disarm(self)
        if listener.max_duration < inf:
            listener.wheel.arm(self, self.start + listener.max_duration)
        if not self.again():
            self.drop(True, NO_ENDPOINT)

    def again(self) -> bool:
        endpoint = self.choose()
        cluster = self.cluster
        if endpoint is None or cluster is None:
            return False
        attempt = connect.connect(
            self.listener.reactor,
            endpoint.family,
            endpoint.sockaddr,
            cluster.connect_timeout,
            self._done,
            self._failed,
            nodelay=cluster.nodelay,
        )
        # None: _done or _failed ran already, and may have begun another attempt.
        if attempt is not None:
            self._connecting = attempt
        return True

    def _failed(self, reason: str) -> None:
        self._connecting = None
        self.attempt_failed(
            reason == connect.TIMEOUT, f"connection {reason}", ours=reason == connect.EXHAUSTED
        )
        if not self.again():
            self.drop(True, CONNECT_FAILED)

    def _done(self, sock: socket.socket) -> None:
        self._connecting = None
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is None or endpoint is None:
            sock.close()
            return
        if not isinstance(endpoint.sockaddr, str):
            set_keepalive(sock, cluster.keepalive)
        reactor = self.listener.reactor
        if cluster.tls is None:
            self._join(StreamTransport(reactor, sock, endpoint.sockaddr))
            return
        left = self.upstream_start + cluster.connect_timeout - self.listener.now()
        try:
            self._send_opening(sock)
        except OSError:
            # It was reset since the kernel said that it is connected.
            sock.close()
            self._failed("reset")
            return
        attempt = cluster.tls.secure(
            reactor, sock, endpoint.sockaddr, endpoint, max(left, 0.0), self._join, self._insecure
        )
        if attempt is not None:  # as above
            self._connecting = attempt

    def _insecure(self, reason: str) -> None:
        """The endpoint's TLS is not what it should be; the socket is closed."""
        self._connecting = None
        self.attempt_failed(reason == connect.HANDSHAKE_TIMEOUT, f"TLS_error: {reason}")
        if not self.again():
            self.drop(True, CONNECT_FAILED)

    def _join(self, transport: StreamTransport) -> None:
        """The relay's upstream gets its transport."""
        self._connecting = None
        if self.listener.log is not None:
            sock = transport.socket
            self._upstream_local = peer_text(sock.family, sock.getsockname())[0]
        transport.start(self.relay.upstream)
        self.joined()

    def _opening(self) -> bytes:
        cluster = self.cluster
        if cluster is None or cluster.proxy_protocol is None:
            return b""
        return self.opening_bytes(address_of(self.side.transport.getHost())[1])

    def _send_opening(self, sock: socket.socket) -> None:
        """A PROXY header goes before TLS; a new socket's buffer has room for it."""
        opening = self._opening()
        if opening:
            sock.send(opening)

    def joined(self) -> None:
        """The relay's upstream has its transport."""
        cluster = self.cluster
        plain = cluster is not None and cluster.tls is None
        opening = self._opening() if plain else b""
        self.went_up()
        self.relay.start(opening)

    def drop(self, hard: bool, reason: str) -> None:
        self._give_up()
        if self.relay.over:
            self.relay.force()
        elif hard:
            self.relay.abort(reason)
        else:
            self.relay.close(reason)

    def finished(self, reason: str) -> None:
        self._give_up()
        super().finished(reason)

    def _give_up(self) -> None:
        """An upstream that is not there yet is not wanted any more."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()

    def _names(self) -> tuple[bytes, bytes]:
        return self._local, self._upstream_local


@implementer(IHalfCloseableProtocol)
class OpeningSide(Side):
    """
    The client's protocol: first the PROXY header and the hello, those that there are to be, then
    the relay's.  The hello is the first of what the relay hands on.
    """

    def __init__(self, relay: TransportRelay, connection: StockConnection) -> None:
        super().__init__(relay, b"")
        # Bytes without which the hello cannot be whole.
        self._needed = 1
        self._connection: StockConnection | None = connection

    def connectionMade(self) -> None:
        connection = self._connection
        if connection is None:
            return
        listener = connection.listener
        if listener.config.nodelay and ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        if not listener.opens:
            self._connection = None
        connection.begin()

    def dataReceived(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            super().dataReceived(data)
            return
        self.held += data
        if connection.state == HEADER:
            try:
                header = parse(self.held[:MAX_HEADER])
            except ProxyProtocolError:
                self._connection = None
                connection.failed(b"-", BAD_HEADER)
                return
            if header is None:
                return
            self.held = self.held[header.consumed :]
            connection.header_came(header)
            connection.state = HELLO
        hello = None
        if connection.listener.routes is not None:
            if len(self.held) < self._needed:
                return
            try:
                found = parse_hello(self.held)
            except (NotTls, BadHello):
                pass
            else:
                if isinstance(found, int):
                    self._needed = found
                    return
                hello = found
        self._connection = None
        self.count = len(self.held)
        self.transport.pauseProducing()
        connection.opened(hello)

    def readConnectionLost(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            super().readConnectionLost()
        else:
            connection.failed(b"-", CLIENT_GONE)


def address_of(address: Any) -> tuple[int, Any]:
    """The family and socket address of a Twisted address; ``(0, None)`` for what has none."""
    if isinstance(address, IPv4Address):
        return socket.AF_INET, (address.host, address.port)
    if isinstance(address, IPv6Address):
        return socket.AF_INET6, (address.host, address.port)
    name = getattr(address, "name", None)
    return socket.AF_UNIX, name.decode(errors="surrogateescape") if name else ""

"""
A connection to an endpoint, HTTP/1.1.

The law it keeps:

- One exchange at a time. The connection goes back to its pool only when the response ended
  where its framing said, the request had been sent whole, nothing followed, and neither side
  asked to close.
- It lets go of the exchange before it reports the response's end, so that whatever the
  exchange does then cannot touch a connection that already serves somebody else.
- What cannot be parsed, and what comes unasked, ends the connection.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IPushProducer
from zope.interface import implementer

from meshproxy.http import replies
from meshproxy.http.h1.framing import ChunkedDecoder
from meshproxy.http.h1.memo import Memo
from meshproxy.http.h1.response import UNTIL_CLOSE, parse_response
from meshproxy.http.headers import Headers
from meshproxy.http.outcome import IDEMPOTENT
from meshproxy.tls.reasons import worded

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.pool import Pool

#: Envoy's limit for a response's head, in bytes.
MAX_HEAD = 61440

# What the bytes that come next are.
HEAD = 0
LENGTH = 1
CHUNKS = 2
TO_END = 3
TUNNEL = 4

# struct tcp_info (linux/tcp.h): tcpi_bytes_acked is the 64-bit number at offset 120.
_ACKED = 120


def bytes_acknowledged(sock: socket.socket) -> int | None:
    """
    Bytes that the peer's kernel has acknowledged on this TCP connection, or None when the
    system does not say. Linux counts the SYN as one.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED + 8)
    except OSError:
        return None
    if len(info) < _ACKED + 8:
        return None
    number: int = struct.unpack_from("=Q", info, _ACKED)[0]
    return number


def bytes_written(sock: socket.socket) -> int | None:
    """
    What :func:`bytes_acknowledged` will say when all that was sent so far is acknowledged, or
    less; None when the system does not say.
    """
    acknowledged = bytes_acknowledged(sock)
    if acknowledged is None:
        return None
    try:
        # SIOCOUTQ: what was sent, or is to be, and is not acknowledged yet.
        waiting = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return None
    number: int = struct.unpack("=i", waiting)[0]
    return acknowledged + number


@implementer(IProtocol, IPushProducer)
class ClientConnection:
    """
    The upstream codec of one connection (:class:`meshproxy.http.stream.Upstream`).

    ``idle_since`` and ``expires`` (seconds) and ``served`` (requests) belong to the pool.
    """

    __slots__ = (
        "_buffer",
        "_chunked",
        "_decoder",
        "_keep_alive",
        "_memo",
        "_paused",
        "_pool",
        "_remaining",
        "_sent",
        "_sent_before",
        "_state",
        "_unacknowledged",
        "_unsent",
        "exchange",
        "expires",
        "idle_since",
        "local",
        "reused",
        "served",
        "single",
        "transport",
    )

    def __init__(self, pool: Pool, local: bytes, single: bool = False) -> None:
        self._pool = pool
        self.local = local
        #: Never used for a second exchange.
        self.single = single
        self.transport: Any = None
        self.exchange: Exchange | None = None
        #: It was idle before, so that the endpoint may have closed it meanwhile.
        self.reused = False
        self.idle_since = 0.0
        self.expires = 0.0
        self.served = 0
        self._buffer = b""
        self._memo: Memo | None = None if single else Memo()
        self._state = HEAD
        self._decoder: ChunkedDecoder | None = None
        self._remaining = 0
        self._keep_alive = True
        self._chunked = False
        self._paused = False
        self._sent = 0
        self._sent_before = 0
        self._unacknowledged = False
        self._unsent = False

    @property
    def until_close(self) -> bool:
        """See :class:`meshproxy.http.stream.Upstream`."""
        return self._state == TO_END

    @property
    def used(self) -> bool:
        """Whether it was ever given an exchange."""
        return self._sent > 0

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """The connection is there."""
        self.transport = transport
        transport.registerProducer(self, True)

    def connectionMade(self) -> None:
        """Part of ``IProtocol``; :meth:`makeConnection` does it all."""

    def closing(self, sock: socket.socket) -> None:
        """The transport is about to close ``sock``: the last moment to ask the kernel."""
        if self.exchange is not None:
            if self.transport.buffered >= self._sent - self._sent_before:
                self._unsent = True
                return
            acknowledged = bytes_acknowledged(sock)
            self._unacknowledged = (
                acknowledged is not None and acknowledged <= self._sent_before + 1
            )

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone; "done" says that the endpoint meant it to be."""
        exchange, self.exchange = self.exchange, None
        self.transport = None
        pool = self._pool
        pool.lost(self)
        # The exchange first: a replay takes the place that is free now, before those in line.
        if exchange is not None:
            self._abandon(exchange, reason)
        pool.use_room()

    def _abandon(self, exchange: Exchange, reason: Any) -> None:
        ended = reason.check(ConnectionDone) is not None
        state = self._state
        if ended and state == TO_END:
            exchange.upstream_stream = None
            exchange.response_finished(b"", None)
        elif ended and state in (LENGTH, CHUNKS):
            # An orderly end in the middle of a body breaks its framing (RFC 9112, 8).
            exchange.upstream_lost(replies.PROTOCOL_ERROR, False)
        else:
            # A FIN acknowledges what came before it. A RST may be faster than a delayed
            # acknowledgement, and says nothing of what was read before it.
            unread = self._unsent or (ended and self._unacknowledged)
            exchange.upstream_lost(replies.TERMINATED, unread)

    # The request

    def start(self, exchange: Exchange) -> None:
        """Send the exchange's request; the connection is the exchange's until its end."""
        self.exchange = exchange
        exchange.connected(self)
        fields = exchange.request_headers.fields
        body = exchange.body_now() if exchange.early is not None else b""
        lines = b"".join([field[2] for field in fields])
        upgrade = exchange.upgrade
        if upgrade:
            lines += b"connection: upgrade\r\nupgrade: %b\r\n" % upgrade
        complete = exchange.whole
        self._chunked = False
        if exchange.request_length < 0:
            trailers = exchange.trailers
            if complete and trailers is None:
                # All of it is here already: its length is known after all.
                lines += b"content-length: %d\r\n" % len(body)
            else:
                self._chunked = not complete
                lines += b"transfer-encoding: chunked\r\n"
                if body:
                    body = b"%x\r\n%b\r\n" % (len(body), body)
                if trailers is not None:
                    body += b"0\r\n%b\r\n" % b"".join([f[2] for f in trailers.fields])
        data = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b\r\n%b" % (
            exchange.method,
            exchange.upstream_path,
            exchange.upstream_authority or self._pool.endpoint.text,
            lines,
            body,
        )
        self._sent_before = self._sent
        self._sent += len(data)
        self.transport.write(data)
        if not complete and self.exchange is exchange:
            exchange.upstream_resumed()

    def send(self, data: bytes) -> None:
        """See :class:`meshproxy.http.stream.Upstream`."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._sent += len(data)
        self.transport.write(data)

    def finish(self, trailers: Headers | None) -> None:
        """See :class:`meshproxy.http.stream.Upstream`."""
        if self._chunked:
            lines = b"" if trailers is None else b"".join([f[2] for f in trailers.fields])
            data = b"0\r\n%b\r\n" % lines
            self._sent += len(data)
            self.transport.write(data)

    def cancel(self) -> None:
        """See :class:`meshproxy.http.stream.Upstream`."""
        self.exchange = None
        self._keep_alive = False
        if self.transport is not None:
            self.transport.abortConnection()

    def pause(self) -> None:
        """See :class:`meshproxy.http.stream.Upstream`."""
        if not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pauseProducing()

    def resume(self) -> None:
        """See :class:`meshproxy.http.stream.Upstream`."""
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resumeProducing()

    def tunnel(self, data: bytes) -> None:
        """See :class:`meshproxy.http.stream.Upstream`."""
        self.transport.write(data)

    def close(self) -> None:
        """Close an idle connection."""
        self._keep_alive = False
        transport = self.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.loseConnection()

    # The response

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the endpoint."""
        exchange = self.exchange
        if exchange is None:
            self._pool.discard(self)
            self.close()
            return
        state = self._state
        if state == HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._head(exchange, data)
        elif state == LENGTH:
            remaining = self._remaining - len(data)
            if remaining > 0:
                self._remaining = remaining
                exchange.response_data(data)
                return
            if remaining:
                data = data[:remaining]
                self._keep_alive = False
            self._ended(exchange)
            exchange.response_finished(data, None)
        elif state == CHUNKS:
            self._chunks(exchange, data)
        elif state == TO_END:
            exchange.response_data(data)
        else:
            exchange.upstream_tunnel_data(data)

    def _head(self, exchange: Exchange, data: bytes) -> None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                line_feed = data.find(b"\n")
                if len(data) > MAX_HEAD or (
                    line_feed >= 0 and (line_feed == 0 or data[line_feed - 1] != 13)
                ):
                    self._fail(exchange)
                else:
                    self._buffer = data
                    self.reused = False  # it was not closed while idle: no reason to replay
                return
            if end > MAX_HEAD:
                self._fail(exchange)
                return
            try:
                head = parse_response(
                    data[:end], exchange.method, exchange.listener.max_headers, self._memo
                )
            except ValueError:
                self._fail(exchange)
                return
            data = data[end + 4 :]
            status = head.status
            if status >= 200:
                break
            if status == 101:
                self._switch(exchange, head.upgrade, Headers(head.fields), data)
                return
            # 100 answers an expectation that the proxy has met itself already.
            self.reused = False  # as above
            if status != 100:
                exchange.inform(status, Headers(head.fields))
            if self.exchange is not exchange or not data:
                return
        headers = Headers.parsed(head.fields, True)
        length = head.length
        self._keep_alive = head.keep_alive
        if length >= 0:
            more = length - len(data)
            if more <= 0:
                if more:
                    data = data[:length]
                    self._keep_alive = False  # something follows: never trust it again
                self._ended(exchange)
                exchange.response_head(status, headers, length, data, True)
                return
            self._remaining = more
            self._state = LENGTH
            exchange.response_head(status, headers, length, data, False)
        elif length == UNTIL_CLOSE:
            self._state = TO_END
            exchange.response_head(status, headers, -1, data, False)
        else:
            self._state = CHUNKS
            self._decoder = decoder = ChunkedDecoder()
            try:
                body = decoder.feed(data) if data else b""
            except ValueError:
                self._fail(exchange)
                return
            if decoder.finished and decoder.trailers is None:
                if decoder.rest:
                    self._keep_alive = False
                self._ended(exchange)
                exchange.response_head(status, headers, -1, body, True)
                return
            exchange.response_head(status, headers, -1, body, False)
            if decoder.finished and self.exchange is exchange:
                if decoder.rest:
                    self._keep_alive = False
                self._ended(exchange)
                exchange.response_finished(b"", decoder.trailers)

    def _chunks(self, exchange: Exchange, data: bytes) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            data = decoder.feed(data)
        except ValueError:
            self._fail(exchange)
            return
        if decoder.finished:
            if decoder.rest:
                self._keep_alive = False
            self._ended(exchange)
            exchange.response_finished(data, decoder.trailers)
        elif data:
            exchange.response_data(data)

    def _switch(self, exchange: Exchange, upgrade: bytes, headers: Headers, data: bytes) -> None:
        if not exchange.upgrade or upgrade != exchange.upgrade:
            self._fail(exchange)
            return
        self._state = TUNNEL
        self._keep_alive = False
        exchange.switched(101, headers)
        if data and self.exchange is exchange:
            exchange.upstream_tunnel_data(data)

    def _ended(self, exchange: Exchange) -> None:
        """The response is complete: let go of the exchange, keep or close the connection."""
        self.exchange = None
        self._state = HEAD
        self._decoder = None
        exchange.upstream_stream = None
        if not exchange.whole or (exchange.request_length and self.transport.buffered):
            # Nobody wants the rest of the request: do not wait for the endpoint to read it.
            self._keep_alive = False
            self._pool.discard(self)
            self.transport.abortConnection()
        elif self._keep_alive and not self.single:
            self.reused = True
            if self._paused:
                self._paused = False
                self.transport.resumeProducing()
            self._pool.release(self)
        else:
            self._pool.discard(self)
            self.close()

    def _fail(self, exchange: Exchange) -> None:
        """What came is no HTTP/1 response."""
        self.exchange = None
        self._keep_alive = False
        self._pool.discard(self)
        self.transport.abortConnection()
        exchange.upstream_lost(replies.PROTOCOL_ERROR, False)

    # The transport's producer: the endpoint reads slowly

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if self.exchange is not None:
            self.exchange.upstream_paused()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        if self.exchange is not None:
            self.exchange.upstream_resumed()

    def stopProducing(self) -> None:
        """The connection is being lost; :meth:`connectionLost` follows."""


class SecureConnection(ClientConnection):
    """
    The same over TLS.

    What the kernel counts are bytes of records, so the count at a request's beginning is asked
    for: only for a method that is not idempotent, for the others are sent again anyway. What the
    transport has not sent says nothing: OpenSSL may have sent a part of it.
    """

    __slots__ = ("_alert", "_written")

    def __init__(self, pool: Pool, local: bytes, single: bool = False) -> None:
        super().__init__(pool, local, single)
        self._alert = ""
        self._written: int | None = None

    def start(self, exchange: Exchange) -> None:
        """As :meth:`ClientConnection.start`."""
        self._written = None
        if exchange.method not in IDEMPOTENT:
            self._written = bytes_written(self.transport.socket)
        super().start(exchange)

    def closing(self, sock: socket.socket) -> None:
        """As :meth:`ClientConnection.closing`."""
        written = self._written
        if self.exchange is not None and written is not None:
            acknowledged = bytes_acknowledged(sock)
            self._unacknowledged = acknowledged is not None and acknowledged <= written

    def connectionLost(self, reason: Any) -> None:
        """As :meth:`ClientConnection.connectionLost`."""
        broken_by = self.transport.broken_by
        if broken_by:
            self._alert = worded(broken_by)
        super().connectionLost(reason)

    def _abandon(self, exchange: Exchange, reason: Any) -> None:
        # With TLS 1.3 our side of a handshake is over before the endpoint has seen our
        # certificate: that it refuses us comes in place of the first response.
        if self._alert.startswith("alert: ") and self._state == HEAD and not self.reused:
            exchange.upstream_lost(replies.insecure(replies.CONNECT_FAILED, self._alert), False)
            return
        super()._abandon(exchange, reason)

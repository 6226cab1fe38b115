"""
What a client's HTTP/1 connection writes, and how it ends.

The law it keeps (RFC 9112, 6 and 9): a response is framed by its length where that is known, by
chunks towards HTTP/1.1, by the end of the connection towards HTTP/1.0; ``connection: close`` is
said before the connection is closed. A refused request is answered in full, and what the client
still sends is read and thrown away for at most :data:`LINGER` seconds, so that it can read the
answer before a reset destroys it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.http.headers import Headers
from meshproxy.http.replies import STATUS_LINES

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.listener import HttpListener

#: Seconds.
LINGER = 1.0
#: Seconds that a client has for taking the last bytes when there is no stream idle timeout.
FLUSH = 300.0
#: Bytes thrown away while lingering before the connection is reset.
LINGER_BYTES = 1 << 20

# What the bytes that come next are.
PROXY = 0
HEAD = 1
BODY = 2
WAIT = 3  # the request is complete, its response is not
TUNNELLING = 4
LINGERING = 5
CLOSED = 6


class Responder:
    """
    The writing half of :class:`meshproxy.http.h1.server.ServerConnection`.

    It needs the connection's ``transport``, and the ``exchange`` that is being answered.
    """

    __slots__ = (
        "_chunked",
        "_head_only",
        "_keep_alive",
        "_last",
        "_listener",
        "_old",
        "_paused",
        "_pending",
        "_remaining",
        "_state",
        "deadline",
        "exchange",
        "slot",
        "transport",
    )

    def __init__(self, listener: HttpListener) -> None:
        self._listener = listener
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self._state = PROXY if listener.proxy_protocol else HEAD
        self._pending = b""
        self._remaining = 0
        self._keep_alive = True
        self._old = False
        self._head_only = False
        self._chunked = False
        self._paused = False
        self._last = 0.0
        self.deadline = 0.0
        self.slot = 0

    def inform(self, status: int, headers: Headers) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        if not self._old:
            lines = b"".join([field[2] for field in headers.fields])
            self.transport.write(STATUS_LINES[status] + lines + b"\r\n")

    def respond(self, status: int, headers: Headers, length: int, data: bytes, end: bool) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        exchange = self.exchange
        lines = b"".join([field[2] for field in headers.fields])
        if length < 0 and not self._head_only and status != 304:
            if status == 101:
                self._state = TUNNELLING
                upgrade = exchange.upgrade  # type: ignore[union-attr]
                self.transport.write(
                    b"%b%bconnection: upgrade\r\nupgrade: %b\r\n\r\n"
                    % (STATUS_LINES[101], lines, upgrade)
                )
                return
            if self._old:
                self._keep_alive = False  # the body ends with the connection
            else:
                self._chunked = True
                lines += b"transfer-encoding: chunked\r\n"
                if end:
                    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
                elif data:
                    data = b"%x\r\n%b\r\n" % (len(data), data)
        if (
            not self._keep_alive
            or self._listener.draining
            or (end and not exchange.request_complete)  # type: ignore[union-attr]
        ):
            self._keep_alive = False
            lines += b"connection: close\r\n"
        elif self._old:
            lines += b"connection: keep-alive\r\n"
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINES[status], lines, data))

    def send(self, data: bytes) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        self._last = self._listener.now()
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.transport.write(data)

    def finish(self, data: bytes, trailers: Headers | None) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        if self._chunked:
            lines = b"" if trailers is None else b"".join([f[2] for f in trailers.fields])
            if data:
                data = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, lines)
            else:
                data = b"0\r\n%b\r\n" % lines
        if data:
            self.transport.write(data)

    def abort(self, reset: bool) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        self.exchange = None
        if reset or (self._old and self._state != TUNNELLING):
            # An HTTP/1.0 client would take an orderly end for the end of the body.
            self._state = CLOSED
            self.transport.abortConnection()
        else:
            self._close()

    def tunnel(self, data: bytes) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        self._last = self._listener.now()
        self.transport.write(data)

    # Closing

    def _close(self) -> None:
        """Close when what was written has gone out."""
        self._state = CLOSED
        transport = self.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.loseConnection()
            # A client that never takes the rest does not keep the connection for ever.
            listener = self._listener
            listener.wheel.arm(self, listener.now() + (listener.stream_idle_timeout or FLUSH))

    def _linger(self) -> None:
        self._state = LINGERING
        self._pending = b""
        self._remaining = LINGER_BYTES
        transport = self.transport
        if transport is None:
            return
        transport.unregisterProducer()
        if self._paused:
            self._paused = False
            transport.resumeProducing()
        transport.loseWriteConnection()
        self._listener.wheel.arm(self, self._listener.now() + LINGER)

    def expired(self, now: float) -> float:
        """A connection that is closing took too long: reset it. The timer wheel's entry."""
        if self.transport is not None:
            self.transport.abortConnection()
        return 0.0

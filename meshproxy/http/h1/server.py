"""
A client's HTTP/1 connection.

The law it keeps:

- One exchange at a time; pipelined requests wait as bytes, at most :data:`PIPELINE` of them
  before reading stops, and are answered in order. None is begun while the client does not take
  the answers that it has.
- A request that is refused (a 4xx or 501 of the codec) is the connection's last: what follows
  it cannot be told apart from its body.
- One entry in the timer wheel a connection: its meaning (idle, head, body, response) is worked
  out when it comes up, not when it is set.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IProtocol, IPushProducer
from zope.interface import implementer

from meshproxy.http import replies
from meshproxy.http.exchange import Exchange
from meshproxy.http.h1.framing import ChunkedDecoder
from meshproxy.http.h1.memo import Memo
from meshproxy.http.h1.request import EMPTY_LINES, Refused, parse_request
from meshproxy.http.h1.responder import (
    BODY,
    CLOSED,
    HEAD,
    LINGERING,
    PROXY,
    TUNNELLING,
    WAIT,
    Responder,
)
from meshproxy.http.headers import Headers
from meshproxy.http.outcome import OVER, RESPONDING, TUNNEL
from meshproxy.http.replies import Reply
from meshproxy.net import proxy_protocol

if TYPE_CHECKING:
    from meshproxy.http.listener import HttpListener
    from meshproxy.tls.facts import Facts

PIPELINE = 65536


@implementer(IProtocol, IPushProducer)
class ServerConnection(Responder):
    """
    The downstream codec of one connection (:class:`meshproxy.http.stream.Downstream`).

    ``client``, ``client_ip``, ``local``: see there; ``local`` may be empty, it is asked of the
    transport then.
    """

    __slots__ = (
        "_age",
        "_decoder",
        "_head_start",
        "_local",
        "_memo",
        "_parsing",
        "_retires",
        "_stalled",
        "client",
        "client_ip",
    )

    #: See :class:`meshproxy.http.stream.Downstream`.
    tls: Facts | None = None

    def __init__(
        self, listener: HttpListener, client: bytes, client_ip: bytes, local: bytes = b""
    ) -> None:
        super().__init__(listener)
        self.client = client
        self.client_ip = client_ip
        self._local = local
        self._decoder: ChunkedDecoder | None = None
        self._parsing = False
        #: When it is too old to be used again, or 0.0.
        self._retires = 0.0
        self._age: _Age | None = None
        self._stalled = False
        self._head_start = 0.0
        self._memo: Memo | None = None

    @property
    def local(self) -> bytes:
        """``b"ip:port"`` that the client connected to."""
        if not self._local and self.transport is not None:
            host = self.transport.getHost()
            name = getattr(host, "host", None)
            self._local = b"unix:" if name is None else b"%b:%d" % (name.encode(), host.port)
        return self._local

    @property
    def stalled(self) -> bool:
        """See :class:`meshproxy.http.stream.Downstream`."""
        return self._stalled

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """The connection is there."""
        self.transport = transport
        transport.registerProducer(self, True)
        listener = self._listener
        listener.opened(self)
        self._last = now = listener.now()
        age = listener.max_connection_age
        if age:
            # Not all at once: those that came together leave within the last tenth.
            self._retires = now + age * (1.0 - 0.1 * random())
            self._age = _Age(self)
            listener.wheel.arm(self._age, self._retires)
        if self._state == PROXY:
            self._head_start = now
            listener.wheel.arm(self, now + listener.headers_timeout)
        elif listener.idle_timeout:
            listener.wheel.arm(self, now + listener.idle_timeout)

    def connectionMade(self) -> None:
        """Part of ``IProtocol``; :meth:`makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the client."""
        state = self._state
        if state == HEAD:
            if self._pending:
                data = self._pending + data
                self._pending = b""
            self._heads(data)
        elif state == BODY:
            self._body(data)
        elif state == WAIT:
            self._pending += data
            if len(self._pending) > PIPELINE and not self._paused:
                self._paused = True
                self.transport.pauseProducing()
        elif state == TUNNELLING:
            self._last = self._listener.now()
            self.exchange.tunnel_data(data)  # type: ignore[union-attr]
        elif state == LINGERING:
            self._remaining -= len(data)
            if self._remaining < 0:
                self.transport.abortConnection()
        elif state == PROXY:
            self._proxied(data)

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        self._state = CLOSED
        self._pending = b""
        listener = self._listener
        listener.wheel.disarm(self)
        if self._age is not None:
            listener.wheel.disarm(self._age)
            self._age = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.downstream_lost()
        listener.closed(self)
        self.transport = None

    # The client's bytes

    def _proxied(self, data: bytes) -> None:
        """The header of the PROXY protocol, before anything else."""
        data = self._pending + data
        self._pending = b""
        try:
            header = proxy_protocol.parse(data)
        except proxy_protocol.ProxyProtocolError:
            self._listener.bad_proxy_header()
            self._state = CLOSED
            self.transport.abortConnection()
            return
        if header is None:
            self._pending = data
            return
        if isinstance(header.source, tuple):
            host, port = header.source[0].encode(), header.source[1]
            self.client_ip = host
            self.client = (b"[%b]:%d" if b":" in host else b"%b:%d") % (host, port)
        self._state = HEAD
        self._head_start = 0.0
        rest = data[header.consumed :]
        if rest:
            self._heads(rest)

    def _heads(self, data: bytes) -> None:
        """Requests, one after another, as long as they are answered at once."""
        listener = self._listener
        self._parsing = True
        while True:
            if data[:2] == b"\r\n":
                data = data[EMPTY_LINES(data).end() :]  # type: ignore[union-attr]
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._partial(data)
                break
            if end > listener.max_header_size:
                self._refuse(replies.HEADERS_TOO_LARGE)
                break
            try:
                head = parse_request(data[:end], listener.max_headers, self._memo)
            except Refused as refused:
                self._refuse(refused.reply)
                break
            rest = data[end + 4 :]
            self._head_start = 0.0
            self._old = old = head.old
            method = head.method
            self._head_only = method == b"HEAD"
            self._keep_alive = head.keep_alive
            self._chunked = False
            length = head.length
            now = listener.now()
            if self._retires and now >= self._retires:
                self._keep_alive = False
            self.exchange = exchange = Exchange(
                listener,
                self,
                now,
                b"HTTP/1.0" if old else b"HTTP/1.1",
                method,
                head.authority,
                head.target,
                Headers.parsed(head.fields, head.marks),
                length,
                head.upgrade,
                head.expect_continue,
            )
            if length == 0:
                self._state = WAIT
                self._pending = rest
                exchange.begin(b"", True)
            else:
                self._begin_body(exchange, length, rest)
            if exchange.state != OVER:
                self._arm(exchange)
                break
            if self._state != HEAD or self._stalled:
                break
            data = self._pending
            self._pending = b""
            if not data:
                break
        self._parsing = False

    def _begin_body(self, exchange: Exchange, length: int, rest: bytes) -> None:
        if length > 0:
            if len(rest) >= length:
                self._state = WAIT
                self._pending = rest[length:]
                exchange.begin(rest[:length], True)
                return
            self._state = BODY
            self._remaining = length - len(rest)
            exchange.begin(rest, False)
            return
        decoder = ChunkedDecoder(self._listener.max_header_size)
        try:
            body = decoder.feed(rest) if rest else b""
        except ValueError:
            self._keep_alive = False
            self._state = BODY
            exchange.reply(replies.BAD_REQUEST)
            return
        if not decoder.finished:
            self._state = BODY
            self._decoder = decoder
            exchange.begin(body, False)
            return
        self._state = WAIT
        self._pending = decoder.rest
        if decoder.trailers is None:
            exchange.begin(body, True)
        else:
            exchange.begin(body, False)
            if self.exchange is exchange:
                exchange.request_finished(decoder.trailers)

    def _partial(self, data: bytes) -> None:
        """The beginning of a head, or nothing at all."""
        if not data:
            return
        if len(data) > self._listener.max_header_size + 3:  # the last three may be CR LF CR
            self._refuse(replies.HEADERS_TOO_LARGE)
            return
        for line_feed in (data.find(b"\n"), data.rfind(b"\n")):
            if line_feed == 0 or (line_feed > 0 and data[line_feed - 1] != 13):
                # A bare LF can never become part of a good head: do not wait for more.
                self._refuse(replies.BAD_REQUEST)
                return
        self._pending = data
        if not self._head_start:
            listener = self._listener
            self._head_start = now = listener.now()
            listener.wheel.arm(self, now + listener.headers_timeout)

    def _body(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        self._last = self._listener.now()
        trailers = None
        decoder = self._decoder
        if decoder is None:
            remaining = self._remaining
            if len(data) < remaining:
                self._remaining = remaining - len(data)
                exchange.request_data(data)
                return
            rest = data[remaining:]
            if rest:
                data = data[:remaining]
        else:
            try:
                data = decoder.feed(data)
            except ValueError:
                self._keep_alive = False
                exchange.downstream_error()
                return
            if not decoder.finished:
                if data:
                    exchange.request_data(data)
                return
            self._decoder = None
            trailers = decoder.trailers
            rest = decoder.rest
        if data:
            exchange.request_data(data)
            if self.exchange is not exchange:  # answered meanwhile
                return
        self._state = WAIT
        self._pending = rest
        exchange.request_finished(trailers)
        if self.exchange is exchange:
            self._arm(exchange)

    def _refuse(self, reply: Reply) -> None:
        """Answer a request that cannot be understood, and no other after it."""
        listener = self._listener
        self._keep_alive = False
        self._old = False
        self._head_only = False
        self._chunked = False
        self._state = BODY
        self._pending = b""
        self.exchange = exchange = Exchange(
            listener, self, listener.now(), b"HTTP/1.1", b"", b"", b"", Headers(), 0, b"", False
        )
        exchange.reply(reply)

    # Downstream

    def done(self, reusable: bool) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        exchange = self.exchange
        self.exchange = None
        self._decoder = None
        if not reusable:
            self._linger()
            return
        if not self._keep_alive:
            self._close()
            return
        self._state = HEAD
        self._last = exchange.end  # type: ignore[union-attr]
        if self._memo is None:
            self._memo = Memo()
        if self._stalled:
            self.pause()  # until resumeProducing, or expired
            idle = self._listener.stream_idle_timeout
            if idle:
                self._listener.wheel.arm(self, self._last + idle)
        elif (self._pending or self._paused) and not self._parsing:
            self._go_on()

    def _go_on(self) -> None:
        """Begin what is here already, and read on."""
        pending, self._pending = self._pending, b""
        if pending:
            self._heads(pending)
        if self._state in (HEAD, WAIT) and not self._stalled:
            self.resume()

    def pause(self) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        if not self._paused and self._state != WAIT:
            self._paused = True
            self.transport.pauseProducing()

    def resume(self) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        if self._paused and (
            len(self._pending) <= PIPELINE if self._state == WAIT else self._state < LINGERING
        ):
            self._paused = False
            self.transport.resumeProducing()

    def wake(self, deadline: float) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        # Moving the entry later is free, and here it would be wrong.
        if not self.slot or deadline < self.deadline:
            self._listener.wheel.arm(self, deadline)

    def open_tunnel(self) -> None:
        """See :class:`meshproxy.http.stream.Downstream`."""
        early, self._pending = self._pending, b""
        self.resume()
        if early:
            self.exchange.tunnel_data(early)  # type: ignore[union-attr]

    def drain(self) -> None:
        """Close now if idle, else after the response under way."""
        if self.exchange is None and self._state in (HEAD, PROXY) and not self._pending:
            self._close()
        else:
            self._keep_alive = False

    # The transport's producer: the client reads slowly

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._stalled = True
        if self.exchange is not None:
            self.exchange.downstream_paused()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._stalled = False
        self._last = self._listener.now()
        if self.exchange is not None:
            self.exchange.downstream_resumed()
        elif self._state == HEAD and not self._parsing:
            self._go_on()

    def stopProducing(self) -> None:
        """The connection is being lost; :meth:`connectionLost` follows."""

    # The timer wheel's entry

    def _arm(self, exchange: Exchange) -> None:
        listener = self._listener
        deadline = exchange.deadline
        self._last = now = exchange.request_end or exchange.start
        idle = exchange.stream_idle
        if idle:
            idle += now
            if not deadline or idle < deadline:
                deadline = idle
        if listener.request_timeout and not exchange.request_complete:
            whole = exchange.start + listener.request_timeout
            if not deadline or whole < deadline:
                deadline = whole
        if deadline:
            listener.wheel.arm(self, deadline)

    def expired(self, now: float) -> float:
        """A deadline passed: find out which one it is."""
        exchange = self.exchange
        if exchange is not None:
            deadline = self._expired_exchange(exchange, now)
            if self.exchange is exchange:
                return deadline
            if self.exchange is not None or self.slot:
                return 0.0  # another exchange has begun, or the connection is closing
        state = self._state
        if state in (LINGERING, CLOSED):
            return super().expired(now)
        listener = self._listener
        if self._head_start:
            limit = self._head_start + listener.headers_timeout
            if limit > now:
                return limit
            if state == PROXY:
                listener.bad_proxy_header()
                self._state = CLOSED
                self.transport.abortConnection()
            else:
                self._refuse(replies.HEADERS_TIMEOUT)
            return 0.0
        idle = (listener.stream_idle_timeout if self._stalled else 0.0) or listener.idle_timeout
        if not idle:
            return 0.0
        limit = self._last + idle
        if limit > now:
            return limit
        self._close()
        return 0.0

    def _expired_exchange(self, exchange: Exchange, now: float) -> float:
        """The same while there is an exchange; it may be over afterwards."""
        if exchange.state == TUNNEL:
            return self._expired_tunnel(exchange, now)
        listener = self._listener
        deadline = exchange.deadline
        if deadline and deadline <= now:
            deadline = exchange.timed_out(now)
            if self.exchange is not exchange:
                return 0.0
        if listener.request_timeout and not exchange.request_complete:
            whole = exchange.start + listener.request_timeout
            if whole <= now:
                exchange.expire(replies.REQUEST_TIMEOUT)
                return 0.0
            if not deadline or whole < deadline:
                deadline = whole
        idle = exchange.stream_idle
        if idle:
            quiet = self._last + idle
            if quiet > now:
                return quiet if not deadline or quiet < deadline else deadline
            if exchange.strict_idle or not exchange.endless():
                complete = exchange.request_complete or exchange.state == RESPONDING
                exchange.expire(replies.STREAM_IDLE if complete else replies.REQUEST_IDLE)
                return 0.0
            exchange.stream_idle = 0.0
        # Where the exchange has no limit, the connection has one behind it.
        return deadline or (now + listener.idle_timeout if listener.idle_timeout else 0.0)

    def _expired_tunnel(self, exchange: Exchange, now: float) -> float:
        """A tunnel is never cut for its silence but where its route says so."""
        idle = exchange.stream_idle
        if not idle or exchange.route.stream_idle is None:  # type: ignore[union-attr]
            return 0.0
        quiet = self._last + idle
        if quiet > now:
            return quiet
        exchange.expire(replies.STREAM_IDLE)
        return 0.0

    def hurry(self) -> None:
        """The listener's idle timeout has become shorter: keep it, if idle."""
        if self.exchange is None and self._state == HEAD:
            self.wake(self._last + self._listener.idle_timeout)


class SecureConnection(ServerConnection):
    """A connection whose transport ends the client's TLS; ``tls`` are its facts."""

    __slots__ = ("tls",)

    def __init__(
        self, listener: HttpListener, client: bytes, client_ip: bytes, local: bytes, tls: Facts
    ) -> None:
        super().__init__(listener, client, client_ip, local)
        self.tls = tls


class _Age:
    """The end of a connection's time, where it is limited: an entry of the wheel by itself."""

    __slots__ = ("_connection", "deadline", "slot")

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self.deadline = 0.0
        self.slot = 0

    def expired(self, now: float) -> float:
        """No request after the one under way."""
        self._connection.drain()
        return 0.0

"""
The made-up client and endpoint of an exchange.

The law they keep: they behave as the codecs do (:mod:`meshproxy.http.stream`): one response head,
nothing after the end, pauses as hints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.http.exchange import Exchange
from meshproxy.http.headers import Headers, make_field
from meshproxy.http.message import Response

if TYPE_CHECKING:
    from meshproxy.testing.kit import Driven, Kit

HeaderPairs = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]


def headers_of(given: HeaderPairs) -> Headers:
    return Headers.of(given.items() if isinstance(given, Mapping) else given)


@dataclass(slots=True)
class Sent:
    """What the endpoint got. ``body`` is what has come so far; ``complete``: all of it."""

    method: bytes
    target: bytes
    authority: bytes
    headers: Headers
    body: bytes = b""
    trailers: Headers | None = None
    complete: bool = False


class Client:
    """The downstream of one exchange (:class:`meshproxy.http.stream.Downstream`)."""

    tls: Any = None

    def __init__(self, client: bytes) -> None:
        self.client = client
        self.client_ip = client.rpartition(b":")[0].strip(b"[]")
        self.local = b"192.0.2.2:80"
        self.stalled = False
        self.reading = True
        self.status = 0
        self.headers: Headers | None = None
        self.length = -1
        self.pieces: list[bytes] = []
        self.trailers: Headers | None = None
        self.informed: list[int] = []
        self.finished = False
        self.aborted = False
        self.tunnel_open = False
        self.tunnelled: list[bytes] = []
        self.woken = 0.0

    def inform(self, status: int, headers: Headers) -> None:
        self.informed.append(status)

    def respond(self, status: int, headers: Headers, length: int, data: bytes, end: bool) -> None:
        if self.status:
            raise AssertionError("a client gets one response")
        self.status = status
        self.headers = Headers(headers.fields)
        self.length = length
        if data:
            self.pieces.append(data)
        self.finished = end

    def send(self, data: bytes) -> None:
        self.pieces.append(data)

    def finish(self, data: bytes, trailers: Headers | None) -> None:
        if data:
            self.pieces.append(data)
        self.trailers = trailers
        self.finished = True

    def done(self, reusable: bool) -> None:
        self.finished = True

    def abort(self, reset: bool) -> None:
        self.aborted = True

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def wake(self, deadline: float) -> None:
        self.woken = deadline

    def open_tunnel(self) -> None:
        self.tunnel_open = True

    def tunnel(self, data: bytes) -> None:
        self.tunnelled.append(data)


class Endpoint:
    """The pool of the endpoint, and each connection of it."""

    def __init__(self) -> None:
        #: The kit, for requests that belong to no exchange of it.
        self.kit: Kit | None = None
        #: What was asked besides by ``fetch``, and what it is answered.
        self.fetched: list[tuple[Any, Response | None]] = []

    def request(self, exchange: Any) -> None:
        driven: Driven | None = getattr(exchange, "driven", None)
        if driven is None:
            Beside(exchange, self)
            return
        upstream = Upstream(driven)
        driven.stream = upstream
        exchange.connected(upstream)
        upstream.begin(exchange)

    request_fresh = request

    def withdraw(self, exchange: Any) -> None:
        """Nobody waits here."""

    def close(self) -> None:
        """Nothing is open."""


class Upstream:
    """The upstream of one exchange (:class:`meshproxy.http.stream.Upstream`)."""

    local = b"192.0.2.2:40000"
    reused = False
    until_close = False

    def __init__(self, driven: Driven) -> None:
        self._driven = driven
        self.reading: Any = True
        self.cancelled: Any = False

    def begin(self, exchange: Exchange) -> None:
        body = exchange.body_now() if exchange.early is not None else b""
        headers = Headers(exchange.request_headers.fields)
        complete = exchange.whole
        if exchange.request_length < 0 and complete and exchange.trailers is None:
            headers.fields.append(make_field(b"content-length", b"%d" % len(body)))
        self._driven.upstream = Sent(
            exchange.method,
            exchange.upstream_path,
            exchange.upstream_authority,
            headers,
            body,
            exchange.trailers,
            complete,
        )
        if not complete:
            exchange.upstream_resumed()
        else:
            self._driven.answer_by_itself()

    def send(self, data: bytes) -> None:
        self._driven.upstream.body += data

    def finish(self, trailers: Headers | None) -> None:
        sent = self._driven.upstream
        assert sent is not None
        sent.complete = True
        sent.trailers = trailers
        self._driven.answer_by_itself()

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def tunnel(self, data: bytes) -> None:
        self._driven.tunnelled.append(data)


class Beside:
    """A request that was sent beside the exchange: answered at once, or never."""

    local = b"192.0.2.2:40001"
    reused = False
    until_close = False

    def __init__(self, copy: Any, endpoint: Endpoint) -> None:
        answer = None if endpoint.kit is None else endpoint.kit.beside
        if callable(answer):
            answer = answer(copy)
        endpoint.fetched.append((copy, answer))
        copy.connected(self)
        if copy.early is not None:
            copy.body_now()
        if answer is not None:
            headers = Headers(answer.headers.fields)
            headers.fields.append(make_field(b"content-length", b"%d" % len(answer.body)))
            copy.upstream_stream = None
            copy.response_head(answer.status, headers, len(answer.body), answer.body, True)

    def cancel(self) -> None:
        """Nobody wants the answer."""

    def send(self, data: bytes) -> None:
        """All of it was there."""

    def finish(self, trailers: Headers | None) -> None:
        """As :meth:`send`."""

    def pause(self) -> None:
        """As :meth:`send`."""

    def resume(self) -> None:
        """As :meth:`send`."""

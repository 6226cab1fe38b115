"""
Try a filter without a socket, a clock or a configuration.

The law it keeps: only what lies outside the proxy is made up here: the client, the endpoint, the
clock, and the HTTP service behind ``context.http``. The exchange, the chain, the router and the
pool's side of the endpoint are the proxy's own, so that what a filter does here it does there.

>>> from meshproxy.testing import drive
>>> drive(MyFilter(MyFilter.Options(keys=["k"])), headers={b"x-api-key": b"wrong"}).status
401
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from meshproxy.config import load
from meshproxy.http import replies
from meshproxy.http.chain import Chain
from meshproxy.http.exchange import Exchange
from meshproxy.http.headers import Headers, make_field
from meshproxy.http.listener import HttpListener
from meshproxy.http.message import Response
from meshproxy.http.outcome import OVER
from meshproxy.interfaces import IContextFilter, IFilterService
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.context import Context
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry
from meshproxy.tcp.kit import DrivenConnection, drive_connection
from meshproxy.upstream.cluster import Cluster

__all__ = [
    "Driven",
    "DrivenConnection",
    "FakeHttp",
    "Kit",
    "Recorded",
    "drive",
    "drive_connection",
    "recorded",
]

_CONFIGURATION = """
listeners:
  test:
    listen: 127.0.0.1:80
    http:
      routes:
        - { name: unrouted, match: { path: /404-no-such-route }, respond: { status: 404 } }
        - { name: test, to: test, timeout: 15s, upgrades: [websocket] }
clusters:
  test: { endpoints: [ 192.0.2.80:80 ] }
"""

HeaderPairs = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]
Body = bytes | None

#: What an endpoint answers where a test does not say.
OK = Response(200, b"ok\n")


def _headers(given: HeaderPairs) -> Headers:
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


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded exchange: what :func:`drive` takes in place of its keywords."""

    method: bytes = b"GET"
    target: bytes = b"/"
    authority: bytes = b"test.example"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    client: bytes = b"192.0.2.1:5000"
    response: Response | None = field(default=OK)


_DROPPED = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"host")
)


def _latin(pairs: Iterable[Iterable[str]]) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for pair in pairs:
        name, value = pair
        key = name.lower().encode("latin-1")
        if key not in _DROPPED and not key.startswith(b":"):
            found.append((key, value.encode("latin-1")))
    return tuple(found)


def _from_tap(entry: Mapping[str, Any]) -> Recorded:
    request = entry["request"]
    answer = entry.get("response")
    response = None
    if answer and 200 <= answer.get("status", 0) <= 599:
        body = base64.b64decode(answer.get("body") or "")
        response = Response(answer["status"], body, _latin(answer.get("headers", ())))
    return Recorded(
        request["method"].encode("latin-1"),
        request["target"].encode("latin-1"),
        request.get("authority", "test.example").encode("latin-1"),
        _latin(request.get("headers", ())),
        base64.b64decode(request.get("body") or ""),
        entry.get("client", "192.0.2.1:5000").encode("latin-1"),
        response,
    )


def _from_har(entry: Mapping[str, Any]) -> Recorded:
    request, answer = entry["request"], entry["response"]
    _, _, rest = request["url"].partition("://")
    authority, slash, target = rest.partition("/")
    content = answer.get("content", {})
    text = content.get("text") or ""
    body = base64.b64decode(text) if content.get("encoding") == "base64" else text.encode()
    pairs = _latin((held["name"], held["value"]) for held in answer["headers"])
    # A browser records bodies decoded.
    kept = [pair for pair in pairs if pair[0] != b"content-encoding"]
    response = None
    if 200 <= answer["status"] <= 599:
        response = Response(answer["status"], b"" if answer["status"] in (204, 304) else body, kept)
    return Recorded(
        request["method"].encode(),
        (slash + target).partition("#")[0].encode() or b"/",
        authority.encode(),
        _latin((held["name"], held["value"]) for held in request["headers"]),
        (request.get("postData") or {}).get("text", "").encode(),
        response=response,
    )


def recorded(path: str | Path) -> Iterator[Recorded]:
    """
    The exchanges in a file: what the ``tap`` filter wrote (JSON lines), or a browser's HAR.

    Raises ``OSError``, and ``ValueError`` for a file that is neither.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("{") and '"log"' in text[:1000]:
            entries = json.loads(text)["log"]["entries"]
            yield from map(_from_har, entries)
        else:
            for line in text.splitlines():
                if line.strip():
                    yield _from_tap(json.loads(line))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no recorded exchanges: {error!r}") from error


class _Client:
    """The downstream of one exchange (:class:`meshproxy.http.stream.Downstream`)."""

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


class _Endpoint:
    """The pool of the endpoint, and each connection of it."""

    def __init__(self) -> None:
        self.driven: Driven | None = None
        #: What was asked besides by ``fetch``, and what it is answered.
        self.fetched: list[tuple[Any, Response | None]] = []

    def request(self, exchange: Any) -> None:
        driven = self.driven
        if driven is None or exchange is not driven.exchange:
            _Beside(exchange, self)
            return
        upstream = _Upstream(driven)
        driven.stream = upstream
        exchange.connected(upstream)
        upstream.begin(exchange)

    request_fresh = request

    def withdraw(self, exchange: Any) -> None:
        """Nobody waits here."""

    def close(self) -> None:
        """Nothing is open."""


class _Upstream:
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


class _Beside:
    """A request that was sent beside the exchange: answered at once, or never."""

    local = b"192.0.2.2:40001"
    reused = False
    until_close = False

    def __init__(self, copy: Any, endpoint: _Endpoint) -> None:
        answer = endpoint.driven.kit.beside if endpoint.driven is not None else None
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


class FakeAnswer:
    """An answer of :class:`FakeHttp`, with what treq's responses offer filters."""

    def __init__(self, status: int, body: bytes, headers: HeaderPairs = ()) -> None:
        from twisted.web.http_headers import Headers as WebHeaders

        self.code = status
        self.length = len(body)
        self.headers = WebHeaders()
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            self.headers.addRawHeader(name, value)
        self._body = body

    def content(self) -> Deferred[bytes]:
        """The whole body."""
        return succeed(self._body)

    def collect(self, collector: Callable[[bytes], Any]) -> Deferred[None]:
        """The body piece by piece; what ``collector`` raises fails the Deferred."""
        try:
            if self._body:
                collector(self._body)
        except Exception:
            return fail()
        return succeed(None)

    def json(self) -> Deferred[Any]:
        """The body as JSON."""
        try:
            return succeed(json.loads(self._body))
        except ValueError:
            return fail()

    def text(self, encoding: str = "utf-8") -> Deferred[str]:
        """The body as text."""
        return succeed(self._body.decode(encoding))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class FakeHttp:
    """
    The HTTP service behind ``context.http``.

    ``answer`` is what requests get: a :class:`FakeAnswer`, an exception, a Deferred, None (it never
    answers), or a function (method, url, keywords) → one of these. ``requests`` is what was asked,
    ``cancelled`` how many were given up.
    """

    def __init__(self) -> None:
        self.answer: Any = FakeAnswer(200, b"")
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.cancelled = 0

    def respond(self, status: int, body: bytes = b"", headers: HeaderPairs = ()) -> None:
        """Answer everything like this from now on."""
        self.answer = FakeAnswer(status, body, headers)

    def request(self, method: Any, url: Any, **keywords: Any) -> Deferred[Any]:
        """As treq's."""
        name = _text(method)
        where = _text(url)
        self.requests.append((name, where, keywords))
        answer = self.answer
        if callable(answer) and not isinstance(answer, Deferred):
            answer = answer(name, where, keywords)
        if isinstance(answer, Deferred):
            return answer
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is None:
            return Deferred(self._given_up)
        return succeed(answer)

    def _given_up(self, _: Deferred[Any]) -> None:
        self.cancelled += 1

    def get(self, url: Any, **keywords: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("GET", url, **keywords)

    def post(self, url: Any, data: Any = None, **keywords: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("POST", url, data=data, **keywords)


class Kit:
    """
    A place in which filters run: one clock, one set of counters, one fake HTTP service.

    ``drive`` makes one for each call; make one yourself for several exchanges with the same
    filters. ``wall`` is the time since 1970 at the clock's 0, in seconds; ``directory`` is where
    the paths of options are.
    """

    def __init__(self, *, wall: float = 1_700_000_000.0, directory: str | Path = ".") -> None:
        self.clock = Clock()
        self.http = FakeHttp()
        self.registry = Registry()
        #: What the endpoint answers to ``exchange.fetch``: a Response, None (never), a function.
        self.beside: Any = OK
        #: What filters show in the admin, by name.
        self.shown: dict[str, Callable[[], Any]] = {}
        self.log: list[str] = []
        self._wall = wall
        self._directory = str(directory)
        self._wheel = TimerWheel(self.clock)
        self._contexts: dict[int, Any] = {}
        self._fitted: dict[int, Fitted] = {}
        self._labels: set[str] = set()
        loaded = load(_CONFIGURATION, "testing.yaml").configuration
        self._endpoint = _Endpoint()
        cluster = Cluster("test", loaded.clusters["test"], self.registry, self._wheel)
        self.listener = HttpListener(
            self.clock,
            self._wheel,
            self.registry,
            "test",
            loaded.listeners["test"],
            {"test": cluster},
            None,
        )
        for endpoint in cluster.endpoints:
            endpoint.pool = self._endpoint
        self.records: list[Exchange] = []

    def attach(self, *filters: Any, plugin: str = "") -> None:
        """Give each its context and start it, unless it has been."""
        for held in filters:
            if id(held) in self._fitted:
                continue
            name = plugin or type(held).__name__.lower()
            label = name
            while label in self._labels:
                label += "_"
            self._labels.add(label)
            self._fitted[id(held)] = Fitted(held, label, "test", self.registry, self.clock.seconds)
            if IContextFilter.providedBy(held):
                held.attach(self._context(name, label))
            if IFilterService.providedBy(held):
                held.start()

    def stop(self, *filters: Any) -> None:
        """Stop these filters, as the proxy does at its end."""
        for held in filters:
            if IFilterService.providedBy(held):
                held.stop()

    def _context(self, name: str, label: str) -> Any:
        context = Context(
            label,
            name,
            "test",
            self.registry,
            self.clock,
            self.clock.seconds,
            self._directory,
            lambda describe: self.shown.__setitem__(label, describe),
        )
        context.http = self.http
        context.time = lambda: self._wall + self.clock.seconds()
        context.log = self.log.append
        return context

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps small enough for whatever is due on the way."""
        steps = max(1, min(1000, int(seconds / 0.05)))
        for _ in range(steps):
            self.clock.advance(seconds / steps)

    @property
    def counters(self) -> dict[str, float]:
        """
        The filters' numbers that are not 0, by short name (``denied``); labels of the filter's
        own behind it in braces (``denied{reason=key}``), several filters' added up.
        """
        found: dict[str, float] = {}
        for family in self.registry.families:
            if not family.name.startswith("meshproxy_filter_"):
                continue
            for values, slot in family.series.items():
                labels = dict(zip(family.label_names, values, strict=True))
                short = family.name.removeprefix("meshproxy_filter_").removesuffix("_total")
                for name in {label.rstrip("_") for label in self._labels}:
                    short = short.removeprefix(name + "_")
                own = {k: v for k, v in labels.items() if k not in ("listener", "filter")}
                if own:
                    short += "{" + ",".join(f"{k}={v}" for k, v in own.items()) + "}"
                width = 1 if family.kind != "histogram" else len(family.bounds) + 1
                number = sum(self.registry.values[slot : slot + width])
                if number:
                    found[short] = found.get(short, 0) + number
        return found

    def drive(
        self,
        *filters: Any,
        method: bytes = b"GET",
        target: bytes = b"/",
        headers: HeaderPairs = (),
        body: Body = b"",
        response: Response | Callable[[Sent], Response] | None = OK,
        client: bytes = b"192.0.2.1:5000",
        authority: bytes = b"test.example",
        scheme: bytes = b"http",
        tls: Any = None,
        upgrade: bytes = b"",
        length: int | None = None,
        record: Recorded | None = None,
    ) -> Driven:
        """An exchange through these filters, in this order. See :func:`drive`."""
        if record is not None:
            method, target, authority = record.method, record.target, record.authority
            headers, body, client = record.headers, record.body, record.client
            response = record.response
        self.attach(*filters)
        chain = Chain([self._fitted[id(held)] for held in filters])
        for route in self.listener.routes:
            route.chain = chain
        self.listener.chain_without_route = lambda exchange: chain
        driven = Driven(self, response)
        self._endpoint.driven = driven
        stream = _Client(client)
        fields = _headers(headers)
        if length is None:
            length = -1 if body is None else len(body)
        if body:
            fields.fields.append(make_field(b"content-length", b"%d" % len(body)))
        exchange = _Exchange(
            self.listener,
            stream,
            self.clock.seconds(),
            b"HTTP/1.1",
            method,
            authority,
            target,
            fields,
            length,
            upgrade,
            False,
        )
        exchange.made_up_scheme = scheme
        exchange.made_up_tls = tls
        driven.exchange = exchange
        driven.client = stream
        self._wheel.arm(driven, self.clock.seconds() + 0.05)
        if body is None:
            exchange.begin(b"", False)
        else:
            exchange.begin(body, True)
        return driven


class _Exchange(Exchange):
    """An exchange whose connection may have been TLS."""

    __slots__ = ("made_up_scheme", "made_up_tls")

    made_up_scheme: bytes
    made_up_tls: Any

    @property
    def scheme(self) -> bytes:
        return self.made_up_scheme

    @property
    def tls(self) -> Any:
        return self.made_up_tls


class Driven:
    """
    What became of an exchange, and the means to move it on.

    ``upstream`` is what the endpoint got (:class:`Sent`), None while it got nothing.
    """

    exchange: Exchange
    client: _Client

    def __init__(self, kit: Kit, response: Any) -> None:
        self.kit = kit
        # Any: a type checker takes what was asserted once to be so for ever.
        self.upstream: Any = None
        self.stream: Any = None
        self.tunnelled: list[bytes] = []
        self._response = response
        self._answered = False
        # An entry of the timer wheel, in the place of the client's connection.
        self.deadline = 0.0
        self.slot = 0

    def expired(self, now: float) -> float:
        """The timer wheel: see to the exchange's deadline."""
        exchange = self.exchange
        if exchange.state == OVER:
            return 0.0
        if exchange.deadline and exchange.deadline <= now:
            exchange.timed_out(now)
        return 0.0 if exchange.state == OVER else now + 0.05

    # What the client got.

    @property
    def status(self) -> int:
        """The response's status, 0 while there is none."""
        return self.client.status

    @property
    def headers(self) -> Headers:
        """The response's headers."""
        return self.client.headers if self.client.headers is not None else Headers()

    @property
    def body(self) -> bytes:
        """The response's body so far."""
        return b"".join(self.client.pieces)

    @property
    def pieces(self) -> list[bytes]:
        """The response's body in the pieces in which it was sent."""
        return self.client.pieces

    @property
    def trailers(self) -> Headers | None:
        """The response's trailers."""
        return self.client.trailers

    @property
    def finished(self) -> Any:  # a checker would take an asserted bool for settled
        """Whether the response is complete."""
        return self.client.finished

    @property
    def aborted(self) -> Any:  # a checker would take an asserted bool for settled
        """Whether the connection was cut."""
        return self.client.aborted

    @property
    def over(self) -> Any:  # a checker would take an asserted bool for settled
        """Whether the exchange is over."""
        return self.exchange.state == OVER

    @property
    def waiting(self) -> Any:  # a checker would take an asserted bool for settled
        """Whether a filter is being waited for."""
        filtering = self.exchange.filtering
        return filtering is not None and filtering.waiting is not None

    @property
    def reading(self) -> Any:  # a checker would take an asserted bool for settled
        """Whether the proxy reads more of the request."""
        return self.client.reading

    @property
    def flags(self) -> bytes:
        """Envoy's response flags."""
        return self.exchange.flags

    @property
    def details(self) -> bytes:
        """Why the response is what it is."""
        return self.exchange.details

    @property
    def metadata(self) -> dict[str, Any]:
        """The facts that the filters noted."""
        return self.exchange.metadata

    @property
    def counters(self) -> dict[str, float]:
        """See :attr:`Kit.counters`."""
        return self.kit.counters

    # What moves it on.

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.kit.advance(seconds)

    def send(self, data: bytes) -> None:
        """More of the request's body (of a request driven with ``body=None``)."""
        self.exchange.request_data(data)

    def end(self, trailers: HeaderPairs | None = None) -> None:
        """The request is complete."""
        self.exchange.request_finished(None if trailers is None else _headers(trailers))

    def disconnect(self) -> None:
        """The client goes away."""
        self.exchange.downstream_lost()

    def stall(self, stalled: bool = True) -> None:
        """The client does not take what is sent (or does again)."""
        self.client.stalled = stalled
        if stalled:
            self.exchange.downstream_paused()
        else:
            self.exchange.downstream_resumed()

    def answer_by_itself(self) -> None:
        """The request has come whole: the endpoint answers as was said."""
        response = self._response
        if response is None or self._answered:
            return
        if callable(response):
            assert self.upstream is not None
            response = response(self.upstream)
        self.answer(response.status, list(response.headers), response.body)

    def answer(
        self,
        status: int = 200,
        headers: HeaderPairs = (),
        data: bytes = b"",
        *,
        end: bool = True,
        length: int | None = None,
    ) -> None:
        """
        The endpoint answers. Without ``end`` more follows (:meth:`answer_data`,
        :meth:`answer_end`), of unknown length unless ``length`` is given.
        """
        self._answered = True
        fields = _headers(headers)
        if length is None:
            length = len(data) if end else -1
        if length >= 0 and status not in (204, 304):
            fields.fields.append(make_field(b"content-length", b"%d" % length))
        exchange = self.exchange
        body = b"" if exchange.method == b"HEAD" else data
        if end:
            exchange.upstream_stream = None
        exchange.response_head(status, fields, length, body, end)

    def answer_data(self, data: bytes) -> None:
        """More of the response's body."""
        self.exchange.response_data(data)

    def answer_end(self, data: bytes = b"", trailers: HeaderPairs | None = None) -> None:
        """The response is complete."""
        self.exchange.upstream_stream = None
        held = None if trailers is None else _headers(trailers)
        self.exchange.response_finished(data, held)

    def fail(self) -> None:
        """The endpoint's connection breaks."""
        self.exchange.upstream_lost(replies.TERMINATED, False)


def drive(*filters: Any, **keywords: Any) -> Driven:
    """
    Send a request through these filters to an endpoint, and return what became of it.

    Keywords: ``method``, ``target``, ``authority``, ``headers`` (mapping or pairs of bytes),
    ``body`` (None: it is sent later, by ``send`` and ``end``), ``client`` (``b"ip:port"``),
    ``scheme``, ``tls``, ``upgrade``, ``response`` (a Response that the endpoint gives when it has
    the request, a function of :class:`Sent` that returns one, or None: it is given later, by
    ``answer``), or ``record`` (:class:`Recorded`) in place of them.
    """
    return Kit().drive(*filters, **keywords)

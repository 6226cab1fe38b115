"""
Filters in a chain, without a socket, a clock or a configuration.

The law it keeps: only what lies outside the proxy is made up here: the client, the endpoint, the
clock, and the HTTP service behind ``context.http``. The exchange, the chain, the router and the
pool's side of the endpoint are the proxy's own, so that what a filter does here it does there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from meshproxy.testing.ends import Client, Endpoint, HeaderPairs, Sent, headers_of
from meshproxy.testing.recording import OK, Recorded
from meshproxy.testing.service import FakeHttp
from meshproxy.upstream.cluster import Cluster

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

Body = bytes | None

#: What the clock says when a kit is made, in seconds.
START = 1000.0


class Kit:
    """
    A place in which filters run: one clock, one set of counters, one fake HTTP service.

    ``drive`` makes one for each call; make one yourself for several exchanges with the same
    filters. ``wall`` is the time since 1970 when it is made, in seconds; ``directory`` is where
    the paths of options are.
    """

    def __init__(self, *, wall: float = 1_700_000_000.0, directory: str | Path = ".") -> None:
        self.clock = Clock()
        # Times of 0.0 mean that something has not happened.
        self.clock.advance(START)
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
        self._endpoint = Endpoint()
        self._endpoint.kit = self
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
        context.time = lambda: self._wall + self.clock.seconds() - START
        context.log = self.log.append
        return context

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps small enough for whatever is due on the way."""
        # To the very number: a thousandth of a millionth early, what is due would not be.
        target = self.clock.seconds() + seconds
        steps = max(1, min(1000, int(seconds / 0.05)))
        for _ in range(steps - 1):
            self.clock.advance(seconds / steps)
        self.clock.advance(max(0.0, target - self.clock.seconds()))

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
        stream = Client(client)
        fields = headers_of(headers)
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
        exchange.driven = driven
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

    __slots__ = ("driven", "made_up_scheme", "made_up_tls")

    driven: Driven
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
    client: Client

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
        self.exchange.request_finished(None if trailers is None else headers_of(trailers))

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
        fields = headers_of(headers)
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
        held = None if trailers is None else headers_of(trailers)
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

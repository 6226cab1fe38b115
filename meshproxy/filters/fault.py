"""
Faults on purpose: delays, aborts and slow responses, to see what they do to others.

The law it keeps: at most ``max_active`` exchanges are under a fault at a time, a delay that a
client asks for is bounded, and what is delayed is given up when the client goes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from meshproxy import api
from meshproxy.api import (
    Field,
    HeaderName,
    PositiveDuration,
    PositiveSize,
    Response,
    Unfit,
    ValueMatch,
    string_test,
)
from meshproxy.filters._pace import Bucket, steadily
from meshproxy.filters._wanted import header_test, no_host
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterContext,
    IRequestFilter,
    IResponseBodyFilter,
    IResponseFilter,
)

__all__ = ["Fault"]

_Percentage = Annotated[float, Field(ge=0, le=100)]
_PERCENTAGE = "How many of the requests it is done to, in percent."


class Delay(api.Options):
    """Requests wait before they go on."""

    exactly_one: ClassVar[tuple[str, ...]] = ("fixed", "from_headers")

    fixed: PositiveDuration | None = Field(default=None, description="For this long.")
    from_headers: bool = Field(
        default=False,
        description="For the milliseconds that the request's header "
        "`x-envoy-fault-delay-request` says.",
    )
    longest: PositiveDuration = Field(
        default=30.0, description="The longest delay that a header can ask for."
    )
    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what does nothing."""
        yield from super().faults(given)
        if given.get("from_headers") is False:
            yield Unfit("leave it out, or write true", at=("from_headers",))
        if "longest" in given and "from_headers" not in given:
            yield Unfit("'longest' does nothing without 'from_headers'", at=("longest",))


class Abort(api.Options):
    """Requests are answered with a failure, or cut off."""

    exactly_one: ClassVar[tuple[str, ...]] = ("status", "reset")

    status: int | None = Field(default=None, ge=200, le=599, description="Answer with this status.")
    reset: bool = Field(default=False, description="Cut the client's connection.")
    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a reset that is none, and a status that has no body."""
        yield from super().faults(given)
        if given.get("reset") is False:
            yield Unfit("leave it out, or write true", at=("reset",))
        if given.get("status") in (204, 205, 304):
            yield Unfit("an abort has a body, and this status none", at=("status",))


class Slow(api.Options):
    """Response bodies are slowed down."""

    rate: PositiveSize = Field(description="Bytes a second.")
    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)


class FaultMatch(api.Options):
    """Which requests; all that is written must hold."""

    headers: dict[HeaderName, ValueMatch] = Field(default={}, description="What headers must be.")
    paths: list[ValueMatch] = Field(
        default=[], description="The path, without the query, is one of these."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a header that is not among them."""
        yield from super().faults(given)
        yield from no_host(given, "the route, or 'hosts' of the listener")


@implementer(IRequestFilter, IExchangeObserver, IContextFilter)
class Fault:
    """
    Delay, abort or slow down requests, some or all of them.

    ``source`` is where chance comes from: a function that returns numbers from 0 up to 1.
    """

    keeps_length = True

    class Options(api.Options):
        """What is done, and to which requests."""

        delay: Delay | None = Field(default=None, description="Let requests wait.")
        abort: Abort | None = Field(
            default=None, description="Answer 'fault filter abort', or cut the connection."
        )
        bandwidth: Slow | None = Field(default=None, description="Slow responses down.")
        match: FaultMatch = Field(
            default=FaultMatch(), description="Which requests; without it, all."
        )
        max_active: int | None = Field(
            default=None,
            ge=1,
            description="Exchanges that are under a fault at a time; others pass as they are.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield a filter that does nothing."""
            yield from super().faults(given)
            if not any(key in given for key in ("delay", "abort", "bandwidth")):
                yield Unfit("write 'delay', 'abort' or 'bandwidth', or nothing ever fails")

    def __init__(self, options: Options, source: Callable[[], float] = random.random) -> None:
        self._source = source
        self._delay = options.delay
        self._abort = options.abort
        self._slow = options.bandwidth
        self._most = options.max_active
        self._active = 0
        self._headers = tuple(
            header_test(name, wanted, every=False) for name, wanted in options.match.headers.items()
        )
        self._paths = tuple(string_test(wanted) for wanted in options.match.paths)
        if self._slow is not None:
            alsoProvides(self, IResponseFilter, IResponseBodyFilter)

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._context = context
        self._delayed = context.counter("delayed", "Requests that were delayed")
        self._aborted = context.counter("aborted", "Requests that were aborted")
        self._slowed = context.counter("slowed", "Responses that were slowed down")
        self._overflow = context.counter("overflow", "Requests spared for max_active")
        self._gauge = context.gauge("active", "Exchanges under a fault")

    def _hits(self, percentage: float) -> bool:
        return percentage >= 100 or self._source() * 100 < percentage

    def request(self, exchange: Any) -> Any:
        """Part of ``IRequestFilter``."""
        request = exchange.request
        if self._headers:
            headers = request.headers
            if not all(test(headers) for test in self._headers):
                return None
        if self._paths:
            path = request.path
            if not any(test(path) for test in self._paths):
                return None
        delay = self._seconds(request)
        abort = self._abort is not None and self._hits(self._abort.percentage)
        slow = self._slow is not None and not abort and self._hits(self._slow.percentage)
        if not (delay or abort or slow):
            return None
        if self._most is not None and self._active >= self._most:
            self._overflow.inc()
            return None
        self._active += 1
        self._gauge.set(self._active)
        exchange.notes[self] = None
        if slow:
            assert self._slow is not None
            self._slowed.inc()
            exchange.notes[self] = Bucket(self._slow.rate, 0)
        if delay:
            self._delayed.inc()
            exchange.flags = b"DI"
            waiting: Deferred[Any] = self._context.sleep(delay)
            if abort:
                waiting.addCallback(lambda _: self._give_up(exchange, b"DI,FI"))
            return waiting
        return self._give_up(exchange, b"FI") if abort else None

    def _seconds(self, request: Any) -> float:
        """How long this request waits, 0.0 for not at all."""
        delay = self._delay
        if delay is None:
            return 0.0
        seconds = delay.fixed
        if seconds is None:
            asked = request.headers.get(b"x-envoy-fault-delay-request")
            if asked is None or not asked.isdigit() or len(asked) > 9:
                return 0.0
            seconds = min(int(asked) / 1000, delay.longest)
        return seconds if seconds and self._hits(delay.percentage) else 0.0

    def _give_up(self, exchange: Any, flags: bytes) -> Response | Deferred[Any]:
        assert self._abort is not None
        self._aborted.inc()
        status = self._abort.status
        if status is not None:
            return Response(
                status, b"fault filter abort", details=b"fault_filter_abort", flags=flags
            )
        exchange.flags = flags
        # Not within this call, which belongs to what is being cut off.
        cut = self._context.reactor.callLater(0, exchange.cut, b"fault_filter_abort")

        def gone(_: Deferred[Any]) -> None:
            if cut.active():
                cut.cancel()

        return Deferred(gone)

    def response(self, exchange: Any) -> None:
        """Part of ``IResponseFilter``; provided with ``bandwidth``."""
        if exchange.notes.get(self) is None:
            exchange.skip_body(self)

    def response_data(self, exchange: Any, data: bytes, end: bool) -> AsyncIterator[bytes] | None:
        """Part of ``IResponseBodyFilter``."""
        bucket = exchange.notes.get(self)
        if bucket is None or not data:
            return None
        return steadily(bucket, data, self._context.now, self._context.sleep)

    def finished(self, exchange: Any) -> None:
        """Part of ``IExchangeObserver``."""
        if self._active and self in exchange.notes:
            del exchange.notes[self]
            self._active -= 1
            self._gauge.set(self._active)

"""
Bytes per second.

The law it keeps: what is within the allowance goes on at once, and what is over it in pieces of a
twentieth of a second, each when there is an allowance for it, so that those who share one take
turns; what was set aside for somebody who went away is given back. The body itself is not touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

from zope.interface import alsoProvides, implementer

from meshproxy import api
from meshproxy.api import Field, PositiveSize, Size, Unfit
from meshproxy.filters._networks import prefix_of
from meshproxy.filters._pace import Bucket, Buckets, steadily
from meshproxy.interfaces import (
    IContextFilter,
    IFilterContext,
    IRequestBodyFilter,
    IRequestFilter,
    IResponseBodyFilter,
)

__all__ = ["Bandwidth"]


class Pace(api.Options):
    """How fast one direction is."""

    rate: PositiveSize = Field(description="Bytes a second.")
    burst: Size | None = Field(
        default=None,
        description="Bytes that go at once where nothing went for a while; without it, those of a "
        "second.",
    )

    @property
    def at_once(self) -> int:
        """The burst in bytes."""
        return self.rate if self.burst is None else self.burst


class _Direction:
    """One direction: its buckets, and what is counted."""

    __slots__ = ("_pace", "buckets", "delayed", "shared")

    def __init__(self, pace: Pace, by: str, most: int) -> None:
        self._pace = pace
        self.shared = Bucket(pace.rate, pace.at_once) if by == "listener" else None
        self.buckets = Buckets(pace.rate, pace.at_once, most) if by == "client_ip" else None
        self.delayed: Any = None

    def bucket(self, ip: bytes, now: float) -> Bucket:
        """The bucket of an exchange."""
        if self.buckets is not None:
            return self.buckets.of(prefix_of(ip), now)
        return Bucket(self._pace.rate, self._pace.at_once)


@implementer(IRequestFilter, IContextFilter)
class Bandwidth:
    """
    Limit the bytes per second of request and response bodies.

    A body that is over its allowance goes on in small pieces, each at its time. Time limits run on:
    what takes longer than the route's timeout is cut.
    """

    keeps_length = True

    class Options(api.Options):
        """How fast, and who shares it."""

        request: Pace | None = Field(default=None, description="The pace of request bodies.")
        response: Pace | None = Field(default=None, description="The pace of response bodies.")
        by: Literal["exchange", "client_ip", "listener"] = Field(
            default="exchange",
            description="Who has an allowance: each `exchange`, all exchanges of a `client_ip` "
            "(IPv6: of a /64) together, or all that pass this filter (`listener`).",
        )
        max_clients: int = Field(
            default=10_000,
            ge=1,
            le=1_000_000,
            description="Clients that are kept apart with `by: client_ip`; those on top of that "
            "share one allowance.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield what does nothing."""
            yield from super().faults(given)
            if "request" not in given and "response" not in given:
                yield Unfit("give 'request', 'response' or both a pace")
            if "max_clients" in given and given.get("by") != "client_ip":
                yield Unfit(
                    "'max_clients' does nothing without 'by: client_ip'", at=("max_clients",)
                )

    def __init__(self, options: Options) -> None:
        def direction(pace: Pace | None) -> _Direction | None:
            return None if pace is None else _Direction(pace, options.by, options.max_clients)

        self._request = direction(options.request)
        self._response = direction(options.response)
        if self._request is not None:
            alsoProvides(self, IRequestBodyFilter)
        if self._response is not None:
            alsoProvides(self, IResponseBodyFilter)

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._now = context.now
        self._sleep = context.sleep
        for name, direction in (("request", self._request), ("response", self._response)):
            if direction is not None:
                direction.delayed = context.counter(
                    "delayed", "Pieces of bodies that had to wait", direction=name
                )

    def request(self, exchange: Any) -> None:
        """
        Part of ``IRequestFilter``, which every such filter has; the bodies' interfaces are provided
        where they have a pace, so that the other direction costs nothing.
        """

    def request_data(self, exchange: Any, data: bytes, end: bool) -> AsyncIterator[bytes] | None:
        """Part of ``IRequestBodyFilter``."""
        return self._pass(self._request, "request", exchange, data)

    def response_data(self, exchange: Any, data: bytes, end: bool) -> AsyncIterator[bytes] | None:
        """Part of ``IResponseBodyFilter``."""
        return self._pass(self._response, "response", exchange, data)

    def _pass(
        self, direction: _Direction | None, name: str, exchange: Any, data: bytes
    ) -> AsyncIterator[bytes] | None:
        """None when the bytes may go at once, or their pieces, each in its time."""
        size = len(data)
        if direction is None or not size:
            return None
        now = self._now()
        bucket = direction.shared
        if bucket is None:
            key = (self, name)
            bucket = exchange.notes.get(key)
            if bucket is None:
                bucket = exchange.notes[key] = direction.bucket(exchange.client_ip, now)
        if not bucket.reserve(size, now):
            return None
        bucket.give_back(size)
        direction.delayed.inc()
        return steadily(bucket, data, self._now, self._sleep)

"""
The filter ``bandwidth`` of connections: bytes per second.

The law it keeps: a piece goes on when there is an allowance for all of it, and the pieces of those
who share an allowance in the order in which they came; nothing is dropped, and what was set aside
for somebody who went away is given back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, Size, Unfit
from meshproxy.filters._networks import prefix_of
from meshproxy.filters._pace import Bucket, Buckets
from meshproxy.interfaces import IBytesFilter, IContextFilter, IFilterContext

__all__ = ["Bandwidth"]

_SLOWEST = 1024


class Pace(api.Options):
    """How fast one direction is."""

    rate: Annotated[Size, Field(ge=_SLOWEST)] = Field(description="Bytes a second, 1 KiB at least.")
    burst: Size | None = Field(
        default=None,
        description="Bytes that go at once where nothing went for a while; without it, those of a "
        "second.",
    )


class _Direction:
    """One direction: its buckets, and what is counted."""

    __slots__ = ("_buckets", "_burst", "_rate", "_shared", "delayed")

    def __init__(self, pace: Pace, by: str, most: int) -> None:
        self._rate = pace.rate
        self._burst = pace.rate if pace.burst is None else pace.burst
        self._shared = Bucket(self._rate, self._burst) if by == "listener" else None
        self._buckets = Buckets(self._rate, self._burst, most) if by == "client_ip" else None
        self.delayed: Any = None

    def bucket(self, connection: Any, now: float) -> Bucket:
        """The bucket of a connection."""
        if self._shared is not None:
            return self._shared
        if self._buckets is not None:
            return self._buckets.of(prefix_of(connection.client_ip), now)
        bucket: Bucket | None = connection.notes.get(self)
        if bucket is None:
            bucket = connection.notes[self] = Bucket(self._rate, self._burst)
        return bucket


@implementer(IBytesFilter, IContextFilter)
class Bandwidth:
    """
    Limit the bytes per second of connections.

    Bytes are held up piece by piece, as they are read (64 KiB and the like), so a rate far below
    that makes them go in lumps. The listener's ``idle_timeout`` runs while a piece waits.
    """

    class Options(api.Options):
        """How fast, and who shares it."""

        up: Pace | None = Field(default=None, description="The pace of what clients send.")
        down: Pace | None = Field(default=None, description="The pace of what clients get.")
        by: Literal["connection", "client_ip", "listener"] = Field(
            default="connection",
            description="Who has an allowance: each `connection`, all connections of a `client_ip` "
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
            if "up" not in given and "down" not in given:
                yield Unfit("give 'up', 'down' or both a pace")
            if "max_clients" in given and given.get("by") != "client_ip":
                yield Unfit(
                    "'max_clients' does nothing without 'by: client_ip'", at=("max_clients",)
                )

    def __init__(self, options: Options) -> None:
        def direction(pace: Pace | None) -> _Direction | None:
            return None if pace is None else _Direction(pace, options.by, options.max_clients)

        self._up = direction(options.up)
        self._down = direction(options.down)

    def attach(self, context: IFilterContext) -> None:
        """Ask for a clock and the numbers."""
        self._now = context.now
        self._sleep = context.sleep
        for name, direction in (("up", self._up), ("down", self._down)):
            if direction is not None:
                direction.delayed = context.counter(
                    "delayed", "Pieces that had to wait", direction=name
                )

    def received(self, connection: Any, data: bytes, end: bool) -> Deferred[None] | None:
        """From the client."""
        return self._held(self._up, connection, data)

    def sent(self, connection: Any, data: bytes, end: bool) -> Deferred[None] | None:
        """For the client."""
        return self._held(self._down, connection, data)

    def _held(
        self, direction: _Direction | None, connection: Any, data: bytes
    ) -> Deferred[None] | None:
        if direction is None or not data:
            return None
        now = self._now()
        bucket = direction.bucket(connection, now)
        wait = bucket.reserve(len(data), now)
        if wait <= 0.0:
            return None
        direction.delayed.inc()
        size = len(data)

        def gone(failure: Failure) -> Failure:
            bucket.give_back(size)
            return failure

        sleeping: Deferred[None] = self._sleep(wait)
        return sleeping.addErrback(gone)

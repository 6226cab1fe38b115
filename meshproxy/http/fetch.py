"""
A request that a filter sends beside its exchange, for an answer of its own.

The law it keeps: a fetch goes where the exchange's route goes, by the same rewrites, balancing,
limits and breaker; it lives for itself, so that the end of the exchange does not end it; its
answer comes whole and bounded, or not at all; and its time is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail

from meshproxy.errors import BodyTooLarge, FetchFailed
from meshproxy.http.copy import Copy
from meshproxy.http.headers import CONTENT_LENGTH, EXPECT, Headers
from meshproxy.http.outcome import Outcome

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.replies import Reply
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

#: Seconds, where neither the caller nor the route says.
TIMEOUT = 15.0
#: Bytes of a body, where the caller does not say.
LIMIT = 1 << 20


class Fetched:
    """An endpoint's answer: ``status``, ``headers`` (without content-length) and ``body``."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Fetch(Copy):
    """One request beside an exchange; an entry of the timer wheel."""

    __slots__ = ("_chunks", "_done", "_headers", "_limit", "_size", "deadline", "slot")

    def __init__(
        self, request: Outcome, group: Group, endpoint: Endpoint, limit: int, timeout: float
    ) -> None:
        super().__init__(request, group, endpoint, b"")  # type: ignore[arg-type]
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0
        self._headers = Headers()
        self._done: Deferred[Fetched] | None = None
        self.deadline = 0.0
        self.slot = 0
        self.listener.wheel.arm(self, self.upstream_start + timeout)

    def fetch(self) -> Deferred[Fetched]:
        """Ask."""
        done = self._done = Deferred(self._cancelled)
        self.begin()
        return done

    def _settle(self) -> Deferred[Fetched] | None:
        """There is an outcome: who is to be told of it, if anybody is."""
        done, self._done = self._done, None
        self.listener.wheel.disarm(self)
        return done

    def _cancelled(self, _: Deferred[Fetched]) -> None:
        self._settle()
        self.give_up()

    def expired(self, now: float) -> float:
        """It takes too long."""
        if self.upstream_stream is not None:
            self.judge(False, True)
        self._end("timeout")
        return 0.0

    def _end(self, why: str) -> None:
        done = self._settle()
        self.give_up()
        if done is not None:
            done.errback(FetchFailed(why))

    def response_head(
        self, status: int, headers: Headers, length: int, data: bytes, end: bool
    ) -> None:
        """See :meth:`meshproxy.http.exchange.Exchange.response_head`."""
        self._headers = headers
        if data:
            self._chunks.append(data)
            self._size = len(data)
        if max(length, self._size) > self._limit:
            super().response_head(status, headers, length, data, False)
            self._too_large()
            return
        super().response_head(status, headers, length, data, end)

    def response_data(self, data: bytes) -> None:
        """More of it."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._too_large()

    def response_finished(self, data: bytes, trailers: Headers | None) -> None:
        """The last of it."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._too_large()
        else:
            super().response_finished(data, trailers)

    def _too_large(self) -> None:
        done = self._settle()
        if self.status < 500:  # else that is its verdict already
            self.judge(True, False)
        self.give_up()
        if done is not None:
            done.errback(BodyTooLarge(f"more than {self._limit} bytes"))

    def _ended(self) -> None:
        super()._ended()
        done = self._settle()
        if done is not None:
            headers = self._headers
            headers.drop(b"content-length")
            done.callback(Fetched(self.status, headers, b"".join(self._chunks)))

    def _failed(self, reply: Reply) -> None:
        self._end(reply.details.decode())


def fetch(
    exchange: Exchange,
    headers: Mapping[bytes, bytes | None] | None,
    limit: int | None,
    timeout: float | None,
) -> Deferred[Fetched]:
    """See :meth:`meshproxy.interfaces.IExchange.fetch`."""
    route = exchange.route
    if route is None or route.act is not None:
        return fail(FetchFailed("no cluster takes this request"))
    listener = exchange.listener
    fields = [
        field
        for field in exchange.request_headers.fields
        if field[3] not in (CONTENT_LENGTH, EXPECT)
    ]
    request = type(exchange)(
        listener,
        exchange.stream,
        listener.now(),
        exchange.protocol,
        b"GET",
        exchange.authority,
        exchange.target,
        Headers(fields),
        0,
        b"",
        False,
    )
    for name, value in (headers or {}).items():
        if value is None:
            request.request_headers.remove(name)
        else:
            request.request_headers.set(name, value)
    request.client = exchange.client
    request.client_ip = exchange.client_ip
    request.route = route
    pick = route.pick_group
    group: Group = route.group if pick is None else pick()  # type: ignore[assignment]
    request.group = group
    request.cluster = group.cluster
    listener.forward(request)
    if route.prepare is not None:
        route.prepare(request)
    limits = group.limits
    if limits.requests >= limits.max_requests:
        return fail(FetchFailed("overflow"))
    endpoint = group.pick() if route.choose is None else route.choose(request)
    if endpoint is None:
        return fail(FetchFailed("no_healthy_upstream"))
    wait = route.timeout or TIMEOUT if timeout is None else timeout
    return Fetch(request, group, endpoint, LIMIT if limit is None else limit, wait).fetch()

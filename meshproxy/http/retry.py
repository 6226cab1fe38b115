"""
Another try for a request that failed: whether, when, and where.

The law it keeps:

- A request goes out again only while its client has got nothing, while all of it is kept, and
  if repeating it does no harm: nothing of it was sent, or taken; its method is idempotent (RFC
  9110, 9.2.2); it carries an ``idempotency-key``; or the route says so.
- Retries of a cluster at a time are bounded (:class:`meshproxy.upstream.limits.Limits`), those of
  a request by ``attempts`` and by its time.
- Everything that is decided by the configuration alone is decided when it is read: a response
  that needs no second look costs one item of a table.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from random import random
from typing import TYPE_CHECKING, Any

from meshproxy.http import replies
from meshproxy.http.exchange import Exchange
from meshproxy.http.hedge import Hedge
from meshproxy.http.outcome import IDEMPOTENT, SENT
from meshproxy.http.replies import Reply

if TYPE_CHECKING:
    from meshproxy.config import Retry as RetryConfig
    from meshproxy.http.headers import Headers
    from meshproxy.upstream.endpoint import Endpoint

_BREAKS = {"reset", "5xx", "gateway-error"}
_WORDS = {"5xx": range(500, 600), "gateway-error": (502, 503, 504), "retriable-4xx": (409,)}
_BEFORE = b"disconnect/reset before headers. "


def _retried(reply: Reply) -> Reply:
    """What is said, and logged, when ``reply`` is that of the last try."""
    return reply._replace(
        body=reply.body.replace(
            _BEFORE + b"reset reason", _BEFORE + b"retried and the latest reset reason"
        ),
        flags=b"URX," + reply.flags,
    )


#: What is said, and logged, when the last of several tries failed (Envoy's words).
_RETRIED: dict[Reply, Reply] = {}
for _reply in (
    replies.CONNECT_FAILED,
    replies.CONNECT_TIMEOUT,
    replies.TERMINATED,
    replies.PROTOCOL_ERROR,
    replies.ROUTE_TIMEOUT,
    replies.OVERFLOW,
):
    _RETRIED[_reply] = _retried(_reply)


def status_table(ranges: list[str]) -> bytearray:
    """A table of 1000 flags, one a status, from ranges such as ``500-599`` or ``409``."""
    table = bytearray(1000)
    for text in ranges:
        low, _, high = text.partition("-")
        for status in range(int(low), int(high or low) + 1):
            table[status] = 1
    return table


class RetryPolicy:
    """
    What a route's ``retry`` says, compiled. ``call_later`` is a reactor's.

    The four events of a try that went wrong (``unconnected``, ``broken``, ``try_expired``,
    ``responded``) are told to it; each returns whether it took care of the exchange.
    """

    __slots__ = (
        "_attempts",
        "_backoff",
        "_backoff_max",
        "_buffer",
        "_buffer_streams",
        "_call_later",
        "_connect",
        "_headers",
        "_hedge",
        "_refused",
        "_repeat_all",
        "_reset",
        "_retry_after",
        "_statuses",
        "_strict",
        "max_body",
        "per_try",
        "suspects",
    )

    def __init__(self, config: RetryConfig, call_later: Any) -> None:
        on = set(config.on)
        self._call_later = call_later
        self._reset = bool(on & _BREAKS)
        self._refused = self._reset or "refused-stream" in on
        self._connect = self._reset or "connect-failure" in on
        self._statuses = status_table(config.statuses)
        for word in on & _WORDS.keys():
            for status in _WORDS[word]:
                self._statuses[status] = 1
        self._headers = frozenset(name.encode() for name in config.headers)
        #: By status: whether a complete response must be looked at.
        self.suspects = bytearray(b"\1" * 1000) if self._headers else self._statuses
        self._attempts: int = config.attempts
        #: Seconds that a try may take, or 0.0.
        self.per_try: float = config.per_try_timeout
        # Whether it was written for this policy, and not for everybody.
        self._strict = "per_try_timeout" in config.model_fields_set
        self._backoff: float = config.backoff.base
        self._backoff_max: float = config.backoff.max or config.backoff.base * 10
        self._retry_after: float = config.max_retry_after
        self._repeat_all: bool = config.non_idempotent
        #: Bytes of a request's body that are kept.
        self.max_body: int = config.max_body
        self._buffer: int = config.response_buffer if self._reset else 0
        self._buffer_streams: bool = config.buffer_streams
        self._hedge: bool = config.hedge

    # What happened to a try.

    def unconnected(self, exchange: Exchange, reply: Reply) -> bool:
        """No connection was had; nothing was sent."""
        if exchange.retrying is not None and exchange.retrying.hedges:
            return True  # the one beside it goes on
        if reply is replies.OVERFLOW or not self._connect:
            return False
        return self.again(exchange, None)

    def broken(self, exchange: Exchange, unacknowledged: bool) -> bool:
        """The connection ended, or what came was no response."""
        if exchange.retrying is not None and exchange.retrying.hedges:
            exchange.rewind()
            return True
        if not (self._reset or (self._refused and unacknowledged)):
            return False
        return self._repeatable(exchange, unacknowledged) and self.again(exchange, None)

    def try_expired(self, exchange: Exchange, now: float) -> None:
        """The present try takes too long."""
        if not self._strict and exchange.endless():
            return
        stats = exchange.group.cluster.stats
        stats.values[stats.per_try_timeouts] += 1
        if self._hedge and self._reset:
            if exchange.state == SENT and self._may_hedge(exchange):
                self._beside(exchange, now)
                return
            if exchange.retrying is not None and exchange.retrying.hedges:
                return
        if exchange.upstream_stream is not None:
            exchange.judge(True)
        sent = exchange.state == SENT
        exchange.release()
        if (
            self._reset
            and (not sent or self._repeatable(exchange, False))
            and self.again(exchange, None)
        ):
            return
        exchange.reply(replies.ROUTE_TIMEOUT)

    def responded(
        self, exchange: Exchange, status: int, headers: Headers, length: int, data: bytes, end: bool
    ) -> bool:
        """
        A response's head, as :meth:`Exchange.response` got it: True when it is not to be passed
        on, now or ever.
        """
        repeatable = self._repeatable(exchange, False)
        if repeatable and self.bad(status, headers):
            retrying = exchange.retrying
            if retrying is not None and retrying.hedges:
                exchange.release()
                exchange.rewind()
                return True
            wait = self._wait_for(headers)
            return (wait is None or wait <= self._retry_after) and self.again(exchange, wait)
        if end or not repeatable or not self._buffer or not self._left(exchange):
            return False
        if length > self._buffer or len(data) > self._buffer:
            return False
        if length < 0 and (not self._buffer_streams or exchange.endless(headers)):
            return False
        exchange.held = Held(status, headers, length, data, self._buffer)
        return True

    def bad(self, status: int, headers: Headers) -> bool:
        """Whether a response is one to retry."""
        if self._statuses[status]:
            return True
        names = self._headers
        return bool(names) and any(field[0] in names for field in headers.fields)

    # What is done about it.

    def _left(self, exchange: Exchange) -> int:
        retrying = exchange.retrying
        return self._attempts if retrying is None else retrying.left

    def _repeatable(self, exchange: Exchange, unacknowledged: bool) -> bool:
        received = exchange.bytes_received
        if received and (exchange.replay is None or received > self.max_body):
            return False
        return (
            unacknowledged
            or exchange.method in IDEMPOTENT
            or self._repeat_all
            or b"idempotency-key" in exchange.request_headers
        )

    def _wait_for(self, headers: Headers) -> float | None:
        """Seconds that the response's ``retry-after`` asks for (RFC 9110, 10.2.3)."""
        if not self._retry_after:
            return None
        value = headers.get(b"retry-after")
        if value is None:
            return None
        if value.isdigit():
            return float(value[:9])
        try:
            return max(0.0, parsedate_to_datetime(value.decode()).timestamp() - time.time())
        except (ValueError, TypeError, IndexError, OverflowError):
            return None

    def _take(self, exchange: Exchange) -> Retrying | None:
        """One of the attempts that are left, counted; None when there is none."""
        retrying = self._retrying(exchange)
        if retrying.left <= 0:
            if self._attempts and not retrying.exhausted:
                retrying.exhausted = True
                stats = exchange.group.cluster.stats
                stats.values[stats.retries_exhausted] += 1
            return None
        if not retrying.count():
            return None
        retrying.left -= 1
        if exchange.endpoint is not None:
            retrying.tried.append(exchange.endpoint)
        return retrying

    def again(self, exchange: Exchange, wait: float | None) -> bool:
        """Try again after a pause. False: there is no attempt, no room or no time left."""
        retrying = exchange.retrying
        number = 0 if retrying is None else self._attempts - retrying.left
        if wait is None:
            wait = random() * min(self._backoff * (2.0 ** (number + 1) - 1), self._backoff_max)
        now = exchange.listener.now()
        if exchange.limit and now + wait >= exchange.limit:
            return False
        retrying = self._take(exchange)
        if retrying is None:
            return False
        exchange.release()
        exchange.rewind()
        exchange.deadline = exchange.limit
        stats = exchange.group.cluster.stats
        stats.values[stats.retries] += 1
        retrying.retried = True
        retrying.call = self._call_later(wait, retrying.go)
        return True

    def _retrying(self, exchange: Exchange) -> Retrying:
        retrying = exchange.retrying
        if retrying is None:
            retrying = exchange.retrying = Retrying(exchange, self._attempts)
        return retrying

    def _may_hedge(self, exchange: Exchange) -> bool:
        """Whether there may ever be another try beside the present one."""
        return (
            exchange.whole
            and not exchange.upgrade
            and self._left(exchange) > 0
            and self._repeatable(exchange, False)
        )

    def _beside(self, exchange: Exchange, now: float) -> None:
        """Leave the slow try alone, and begin another if there is room; else look again later."""
        retrying = self._retrying(exchange)
        retrying.tried.append(exchange.endpoint)  # type: ignore[arg-type]
        limits = exchange.group.limits
        endpoint = None
        if limits.requests < limits.max_requests and retrying.count():
            endpoint = retrying.another()
            if endpoint is not None:
                retrying.left -= 1
            elif not (retrying.retried or retrying.hedges):
                retrying.uncount()
        if retrying.left:
            deadline = now + self.per_try
            if not exchange.limit or deadline < exchange.limit:
                exchange.deadline = deadline
        if endpoint is None:
            return
        stats = exchange.group.cluster.stats
        stats.values[stats.hedges] += 1
        retrying.tried.append(endpoint)
        hedge = Hedge(exchange, self, endpoint)
        retrying.hedges.append(hedge)
        exchange.attempts += 1
        hedge.begin()


class Held:
    """A response that is kept back until it is complete, or too long."""

    __slots__ = ("_chunks", "_headers", "_length", "_limit", "_size", "_status")

    def __init__(self, status: int, headers: Headers, length: int, data: bytes, limit: int) -> None:
        self._status = status
        self._headers = headers
        self._length = length
        self._chunks = [data]
        self._size = len(data)
        self._limit = limit

    def add(self, exchange: Exchange, data: bytes) -> None:
        """More of the body; when it is too much, all of it goes to the client."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit:
            exchange.held = None
            body = b"".join(self._chunks)
            now = exchange.listener.now()
            exchange.commit(self._status, self._headers, self._length, body, False, now)

    def complete(self, exchange: Exchange, data: bytes, trailers: Headers | None) -> None:
        """The last of the body: all of it goes to the client."""
        exchange.held = None
        body = b"".join([*self._chunks, data])
        now = exchange.listener.now()
        end = trailers is None
        exchange.commit(self._status, self._headers, self._length, body, end, now)
        if not end:
            exchange.response_ended(b"", trailers)


class Retrying:
    """What was tried for one exchange, and what is under way beside it."""

    __slots__ = (
        "_counted",
        "_exchange",
        "call",
        "exhausted",
        "hedges",
        "left",
        "retried",
        "tried",
    )

    def __init__(self, exchange: Exchange, left: int) -> None:
        self._exchange: Exchange | None = exchange
        self.left = left
        # In the cluster's retries under way.
        self._counted = False
        self.retried = False
        self.exhausted = False
        self.tried: list[Endpoint] = []
        self.hedges: list[Hedge] = []
        #: The pause before the next try.
        self.call: Any = None

    def another(self) -> Endpoint | None:
        """An endpoint that was not tried, if there is one."""
        exchange = self._exchange
        assert exchange is not None
        number_of = exchange.route.number_of  # type: ignore[union-attr]
        number = None if number_of is None else number_of(exchange)
        return exchange.group.pick_other(self.tried, number)

    def go(self) -> None:
        """The pause is over."""
        self.call = None
        exchange = self._exchange
        assert exchange is not None
        limits = exchange.group.limits
        if limits.requests >= limits.max_requests:
            stats = exchange.group.cluster.stats
            stats.values[stats.overflow_requests] += 1
            exchange.reply(replies.OVERFLOW)
            return
        endpoint = self.another()
        if endpoint is None:
            exchange.no_endpoint()
        else:
            exchange.try_again(endpoint)

    def failed(self, hedge: Hedge, reply: Reply) -> None:
        """A try beside the first has come to nothing."""
        self.hedges.remove(hedge)
        exchange = self._exchange
        if exchange is None or self.hedges or exchange.trying:
            return
        policy = exchange.route.retry  # type: ignore[union-attr]
        if policy is None or not policy.again(exchange, None):
            exchange.reply(reply)

    def settle(self, status: int) -> None:
        """A response goes to the client: what is under way beside it is given up."""
        exchange = self._exchange
        if exchange is None:
            return
        self._drop_hedges()
        self.uncount()
        if self.exhausted:
            exchange.flags = b"URX"
        elif self.retried and status < 500:
            stats = exchange.group.cluster.stats
            stats.values[stats.retries_succeeded] += 1

    def count(self) -> bool:
        """Count it among the cluster's retries under way. False: there are too many."""
        exchange = self._exchange
        assert exchange is not None
        if not self._counted:
            limits = exchange.group.limits
            if not limits.may_retry():
                stats = exchange.group.cluster.stats
                stats.values[stats.overflow_retries] += 1
                return False
            self._counted = True
            limits.retries += 1
        return True

    def uncount(self) -> None:
        """What is retried no more leaves room for others, however long its response takes."""
        if self._counted:
            self._counted = False
            self._exchange.group.limits.retries -= 1  # type: ignore[union-attr]

    def expire(self) -> None:
        """The time of all that is under way is over."""
        for hedge in self.hedges:
            if hedge.upstream_stream is not None:
                hedge.judge(False, True)

    def last_word(self, reply: Reply) -> Reply:
        """What to say in place of ``reply`` after several tries."""
        if not self.exhausted:
            return reply
        # That TLS failed is said in words of its own.
        return _retried(reply) if reply.flags == b"UF" else _RETRIED.get(reply, reply)

    def over(self) -> None:
        """The exchange is over."""
        if self._exchange is None:
            return
        self.uncount()
        self._exchange = None
        if self.call is not None:
            self.call.cancel()
            self.call = None
        self._drop_hedges()

    def _drop_hedges(self) -> None:
        hedges, self.hedges = self.hedges, []
        for hedge in hedges:
            hedge.give_up()

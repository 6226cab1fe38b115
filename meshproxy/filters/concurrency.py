"""
The filter ``concurrency``: so many requests at a time, by client and in all, with a queue.

The law it keeps:

- A request that was let in leaves exactly once, however its exchange ends, and the next one of its
  key comes in at that moment: in the order of arrival within a key, each key in turn where all of
  them wait for the total.
- A key is known while a request of it is in or waits, and no longer. Everything is bounded: the
  keys, the waiting requests of each key and in all, and how long they wait.
- A request that waits costs one Deferred; there is one timer for all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.api import Field, Options, PositiveDuration, Response, Unfit
from meshproxy.filters._keys import BY, LONGEST, MISSING, By, Key, Missing, compile_key
from meshproxy.filters._limit_fields import retry_after
from meshproxy.filters._match import Applies, compile_applies
from meshproxy.filters._rate import KEYS
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterService,
    IRequestFilter,
)

__all__ = ["Concurrency"]

_OTHERS = b"\0" * (LONGEST + 1)  # longer than any client's key
_EVERYONE = b"*"

Number = Annotated[int, Field(ge=1, le=1_000_000)]


class ConcurrencyOptions(Options):
    """How many at a time, and how many of the rest may wait for how long."""

    one_or_several: ClassVar[frozenset[str]] = frozenset({"by"})

    requests: Number | None = Field(
        default=None, description="How many requests of one key at a time."
    )
    total: Number | None = Field(default=None, description="How many requests at a time in all.")
    by: By | None = Field(default=None, description=BY + " Without it, `client_ip`.")
    missing: Missing = Field(default="share", description=MISSING)
    match: Applies | None = Field(
        default=None, description="The requests that count; without it, all."
    )
    queue: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="How many requests of one key may wait for a place; 0: none.",
    )
    queue_total: Number = Field(default=1000, description="How many requests may wait in all.")
    wait: PositiveDuration = Field(default=1.0, description="How long a request waits at most.")
    retry_after: PositiveDuration = Field(
        default=1.0, description="When those that are refused are told to come again."
    )
    status: int = Field(
        default=503, ge=400, le=599, description="The status of those that are refused."
    )
    body: str = Field(
        default="concurrency_limited", description="The body of those that are refused."
    )
    keys: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=KEYS, description="How many keys may have requests in or waiting."
    )
    full: Literal["share", "refuse"] = Field(
        default="share",
        description="A new key when there are `keys`: `share`, all of them are one; `refuse`.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what limits nothing or does nothing."""
        yield from super().faults(given)
        requests, total = given.get("requests"), given.get("total")
        if requests is None and total is None:
            yield Unfit("one of 'requests' and 'total' is needed")
        if requests is None:
            for key in ("by", "missing", "keys", "full"):
                if key in given:
                    yield Unfit(f"'{key}' does nothing without 'requests'", at=(key,))
        elif isinstance(requests, int) and isinstance(total, int) and requests > total:
            yield Unfit(f"it can never be reached, 'total' is {total}", at=("requests",))
        if not given.get("queue"):
            for key in ("queue_total", "wait"):
                if key in given:
                    yield Unfit(f"'{key}' does nothing without 'queue'", at=(key,))


class _Key:
    """The requests of one key: how many are in, and those that wait. ``queued``: its turn comes."""

    __slots__ = ("active", "key", "queued", "waiting")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.active = 0
        self.queued = False
        self.waiting: OrderedDict[_Waiter, None] | None = None


def _everyone(exchange: Any) -> bytes:
    return _EVERYONE


class _Waiter(Deferred[Response | None]):
    """A request that waits."""

    deadline: float
    exchange: Any
    held: _Key


@implementer(IRequestFilter, IExchangeObserver, IContextFilter, IFilterService)
class Concurrency:
    """Limit requests at a time, with a queue."""

    Options = ConcurrencyOptions

    def __init__(self, options: ConcurrencyOptions) -> None:
        self._applies = compile_applies(options.match)
        self._key: Key = _everyone
        if options.requests is not None:
            self._key = compile_key(options.by, options.missing)
        self._refuse_keyless = options.missing == "refuse"
        most = 1 << 62
        self._each = most if options.requests is None else options.requests
        self._all = most if options.total is None else options.total
        self._queue = options.queue
        self._queue_total = options.queue_total
        self._wait = options.wait
        self._most = options.keys
        self._share = options.full == "share"
        self._status = options.status
        self._body = options.body.encode()
        self._retry_after = retry_after(options.retry_after)
        self._keys: dict[bytes, _Key] = {}
        self._active = 0
        # All that wait, the one that has waited longest first.
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        # Keys that wait for the total alone, in turn.
        self._turns: OrderedDict[_Key, None] = OrderedDict()
        self._admitting = False
        self._timer: Any = None
        self._expiring = False

    def attach(self, context: Any) -> None:
        """See :class:`meshproxy.interfaces.IContextFilter`."""
        self._now = context.now
        self._reactor = context.reactor
        self._in = context.gauge("active", "Requests that are in")
        self._queued = context.gauge("waiting", "Requests that wait for a place")
        self._waited = context.counter("waited", "Requests that had to wait")
        refused = "Requests that were refused"
        self._overflow = context.counter("refused", refused, reason="queue_full")
        self._too_long = context.counter("refused", refused, reason="waited_too_long")
        self._keyless = context.counter("refused", refused, reason="no_key")
        self._crowded = context.counter("crowded", "Requests for which no key could be kept")
        context.show(self._describe)

    def start(self) -> None:
        """Nothing is open before the first request."""

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Coming in.

    def request(self, exchange: Any) -> Any:
        """See :class:`meshproxy.interfaces.IRequestFilter`."""
        applies = self._applies
        if applies is not None and not applies(exchange):
            return None
        key = self._key(exchange)
        if key is None:
            if not self._refuse_keyless:
                return None
            self._keyless.inc()
            return Response(400, b"concurrency_key_missing", details=b"concurrency_key_missing")
        held = self._keys.get(key)
        if held is None:
            if len(self._keys) >= self._most:
                self._crowded.inc()
                if not self._share:
                    return self._refuse(self._overflow)
                key = _OTHERS
                held = self._keys.get(key)
            if held is None:
                held = self._keys[key] = _Key(key)
        # Turns are there, beside a free place, only while those that waited are let in.
        if held.active < self._each and self._active < self._all and not self._turns:
            self._admit(held, exchange)
            return None
        if len(held.waiting or ()) >= self._queue or len(self._waiting) >= self._queue_total:
            self._forget(held)
            return self._refuse(self._overflow)
        return self._enqueue(held, exchange)

    def _admit(self, held: _Key, exchange: Any) -> None:
        held.active += 1
        self._active += 1
        self._in.inc()
        exchange.notes[self] = held

    def _refuse(self, counter: Any) -> Response:
        counter.inc()
        return Response(self._status, self._body, self._retry_after, details=b"concurrency_limited")

    # Waiting.

    def _enqueue(self, held: _Key, exchange: Any) -> _Waiter:
        waiter = _Waiter(self._leave)
        waiter.held = held
        waiter.exchange = exchange
        waiter.deadline = self._now() + self._wait
        if held.waiting is None:
            held.waiting = OrderedDict()
        held.waiting[waiter] = None
        self._waiting[waiter] = None
        self._queued.inc()
        self._waited.inc()
        self._take_turn(held)
        if self._timer is None and not self._expiring:
            self._timer = self._reactor.callLater(self._wait, self._expire)
        return waiter

    def _leave(self, waiter: Any) -> None:
        """It waits no more. Called as its Deferred's canceller, too."""
        held = waiter.held
        del self._waiting[waiter]
        del held.waiting[waiter]
        if not held.waiting:
            held.waiting = None
        waiter.exchange = None
        self._queued.dec()
        self._forget(held)

    def _expire(self) -> None:
        """Refuse those that waited too long."""
        self._timer = None
        now = self._now()
        self._expiring = True
        try:
            while self._waiting and (waiter := next(iter(self._waiting))).deadline <= now:
                self._leave(waiter)
                waiter.callback(self._refuse(self._too_long))
        finally:
            self._expiring = False
            if self._waiting:
                first = next(iter(self._waiting))
                self._timer = self._reactor.callLater(max(first.deadline - now, 0.0), self._expire)

    def _take_turn(self, held: _Key) -> None:
        """Queue a key whose next request waits for the total alone."""
        if held.waiting and held.active < self._each and not held.queued:
            held.queued = True
            self._turns[held] = None

    def _forget(self, held: _Key) -> None:
        """Nobody of a key is left, or waits."""
        if held.waiting is None:
            if held.queued:
                held.queued = False
                del self._turns[held]
            if not held.active:
                del self._keys[held.key]

    # Going.

    def finished(self, exchange: Any) -> None:
        """See :class:`meshproxy.interfaces.IExchangeObserver`."""
        held = exchange.notes.pop(self, None)
        if held is None:
            return
        held.active -= 1
        self._active -= 1
        self._in.dec()
        self._take_turn(held)
        self._forget(held)
        # One that comes in may be over at once, and be here again: it is the same loop's next.
        if self._turns and not self._admitting:
            self._admitting = True
            try:
                self._admit_waiting()
            finally:
                self._admitting = False

    def _admit_waiting(self) -> None:
        while self._turns and self._active < self._all:
            held, _ = self._turns.popitem(last=False)
            held.queued = False
            assert held.waiting is not None
            waiter = next(iter(held.waiting))
            exchange = waiter.exchange
            self._admit(held, exchange)
            self._leave(waiter)
            self._take_turn(held)
            waiter.callback(None)

    def _describe(self) -> dict[str, Any]:
        """For the admin: numbers only, since keys may be secrets."""
        return {
            "active": self._active,
            "waiting": len(self._waiting),
            "keys": len(self._keys),
        }

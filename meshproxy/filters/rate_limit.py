"""
The filter ``rate_limit``: so many requests in a time, by client or by anything else.

The law it keeps: in any stretch of ``t`` seconds a key is let through at most ``burst`` times and
the rate times ``t`` besides. A request that one limit refuses takes nothing from the others. The
memory is bounded, and crowding it gives nobody a new bucket (:mod:`meshproxy.filters._rate`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from meshproxy.api import Response
from meshproxy.filters._keys import compile_key
from meshproxy.filters._limit_fields import Policy, Standing, limit_fields, retry_after
from meshproxy.filters._match import compile_applies
from meshproxy.filters._rate import GcraTable, Rate, Taken
from meshproxy.filters._rate_limit_options import Cost, Limit, RateLimitOptions
from meshproxy.interfaces import IContextFilter, IRateStore, IRequestFilter, IResponseFilter

__all__ = ["RateLimit"]


class _Limit:
    """A limit, compiled. ``take`` is its store's."""

    __slots__ = ("key", "name", "policy", "prefix", "rate", "refuse", "refused", "table", "take")

    def __init__(
        self,
        name: str,
        limit: Limit | RateLimitOptions,
        options: RateLimitOptions,
        store: Any | None,
    ) -> None:
        assert limit.requests is not None
        self.name = name
        self.key = compile_key(limit.by, limit.missing)
        self.refuse = limit.missing == "refuse"
        self.rate = Rate(limit.requests, limit.per, limit.burst)
        self.policy = Policy(name, limit.requests, limit.per)
        self.table: GcraTable | None = None
        # A table of its own needs no name in its keys.
        self.prefix = b""
        if store is None:
            self.table = GcraTable(options.keys, options.full)
            self.take: Callable[[bytes, float, Rate, float], Any] = self.table.take
        else:
            self.take = store.take
        self.refused: Any = None

    def standing(self, taken: Taken) -> Standing:
        """What a client is told of ``taken``."""
        allowed, remaining, full, wait = taken
        # The next one of a bucket that has just been taken from; 1e-9: 3 * 0.1 % 0.1 is not 0.
        more = (full - 1e-9) % self.rate.interval if allowed else wait
        return self.policy, remaining, more, full


@implementer(IRequestFilter, IContextFilter)
class RateLimit:
    """
    Limit requests per time and client.

    ``store`` is where the buckets are (:class:`meshproxy.interfaces.IRateStore`); without one,
    each limit has a table in this process. A store that answers with a Deferred holds the request
    up as long.
    """

    Options = RateLimitOptions

    def __init__(self, options: RateLimitOptions, store: IRateStore | None = None) -> None:
        limits: list[tuple[str, Limit | RateLimitOptions]] = [("default", options)]
        if options.limits is not None:
            limits = [
                (limit.name or f"limit-{number}", limit)
                for number, limit in enumerate(options.limits, 1)
            ]
        self._limits = tuple(_Limit(name, limit, options, store) for name, limit in limits)
        self._local = store is None
        # One limit in a table here, of which those who pass are told nothing: the common case.
        common = self._local and len(self._limits) == 1 and not options.on_allowed
        self._alone = self._limits[0] if common else None
        self._applies = compile_applies(options.match)
        cost = options.cost or Cost(fixed=1)
        self._fixed = cost.fixed
        self._cost_header = (cost.header or "").encode()
        self._default_cost = cost.default
        self._most_cost = cost.max
        self._status = options.status
        self._body = options.body.encode()
        self._style = options.headers
        self._on_allowed = options.on_allowed
        self._shadow = options.shadow
        if options.on_allowed:
            alsoProvides(self, IResponseFilter)

    def attach(self, context: Any) -> None:
        """See :class:`meshproxy.interfaces.IContextFilter`."""
        # A table takes any clock; a shared one needs one that others have.
        self._now = context.now if self._local else context.time
        self._name = context.name
        self._crowded = context.counter("crowded", "Requests for which no key could be kept")
        for limit in self._limits:
            if not self._local:
                limit.prefix = f"{context.listener}/{context.name}/{limit.name}:".encode()
            limit.refused = context.counter(
                "refused", "Requests over the limit, also in shadow", limit=limit.name
            )
            if limit.table is not None:
                limit.table.on_crowded = self._crowded.inc
        context.show(self._describe)

    def request(self, exchange: Any) -> Any:
        """See :class:`meshproxy.interfaces.IRequestFilter`."""
        applies = self._applies
        if applies is not None and not applies(exchange):
            return None
        cost = self._fixed or self._said_cost(exchange)
        now = self._now()
        alone = self._alone
        if alone is not None:
            key = alone.key(exchange)
            if key is not None:
                taken = alone.take(key, cost, alone.rate, now)
                if taken[0]:
                    return None
                return self._over(exchange, alone, taken, cost, now, [])
        took: list[tuple[_Limit, bytes, Taken]] = []
        for position, limit in enumerate(self._limits):
            key = limit.key(exchange)
            if key is None:
                if limit.refuse:
                    return self._keyless(exchange, limit, cost, now, took)
                continue
            key = limit.prefix + key
            taken = limit.take(key, cost, limit.rate, now)
            if type(taken) is not tuple:
                return self._go_on(exchange, cost, now, took, position, key, taken)
            if not taken[0]:
                return self._over(exchange, limit, taken, cost, now, took)
            took.append((limit, key, taken))
        if self._on_allowed and took:
            exchange.notes[self] = [limit.standing(taken) for limit, _, taken in took]
        return None

    async def _go_on(
        self,
        exchange: Any,
        cost: int,
        now: float,
        took: list[tuple[_Limit, bytes, Taken]],
        position: int,
        key: bytes | None,
        pending: Any,
    ) -> Response | None:
        """The same from the limit at ``position``, whose store has ``pending`` to say first."""
        while True:
            limit = self._limits[position]
            if key is not None:
                taken: Taken = await pending if isinstance(pending, Deferred) else pending
                if not taken[0]:
                    return self._over(exchange, limit, taken, cost, now, took)
                took.append((limit, key, taken))
            elif limit.refuse:
                return self._keyless(exchange, limit, cost, now, took)
            position += 1
            if position == len(self._limits):
                break
            limit = self._limits[position]
            key = limit.key(exchange)
            if key is not None:
                key = limit.prefix + key
                pending = limit.take(key, cost, limit.rate, now)
        if self._on_allowed:
            exchange.notes[self] = [limit.standing(taken) for limit, _, taken in took]
        return None

    def response(self, exchange: Any) -> None:
        """See :class:`meshproxy.interfaces.IResponseFilter`; provided with ``on_allowed``."""
        standings = exchange.notes.get(self)
        if standings is not None:
            _add(exchange.response.headers, limit_fields(self._style, standings))

    def _said_cost(self, exchange: Any) -> int:
        """What the header says that the request takes."""
        said = exchange.request.headers.get(self._cost_header)
        if said is None:
            return self._default_cost
        if len(said) > 10 or not said.isdigit():
            return self._most_cost
        return min(int(said), self._most_cost) or 1

    def _over(
        self,
        exchange: Any,
        limit: _Limit,
        taken: Taken,
        cost: int,
        now: float,
        took: list[tuple[_Limit, bytes, Taken]],
    ) -> Response | None:
        """The limit refuses: the others get back what they gave."""
        _give_back(took, cost, now)
        limit.refused.inc()
        if self._shadow:
            exchange.metadata[f"{self._name}.shadow"] = limit.name
            return None
        exchange.metadata[f"{self._name}.limit"] = limit.name
        standing = limit.standing(taken)
        return Response(
            self._status,
            self._body,
            [*retry_after(taken[3]), *limit_fields(self._style, (standing,))],
            details=b"rate_limited",
            flags=b"RL",
        )

    def _keyless(
        self,
        exchange: Any,
        limit: _Limit,
        cost: int,
        now: float,
        took: list[tuple[_Limit, bytes, Taken]],
    ) -> Response | None:
        """The request does not say whom it is from."""
        _give_back(took, cost, now)
        limit.refused.inc()
        if self._shadow:
            exchange.metadata[f"{self._name}.shadow"] = limit.name
            return None
        return Response(400, b"limit_key_missing", details=b"limit_key_missing")

    def _describe(self) -> dict[str, Any]:
        """For the admin: how full the tables are. No keys, since they may be secrets."""
        return {
            "limits": [
                {
                    "name": limit.name,
                    "requests": limit.rate.limit,
                    "per": limit.rate.period,
                    "burst": limit.rate.burst,
                    "refused": limit.refused.value,
                    "keys": None if limit.table is None else len(limit.table),
                }
                for limit in self._limits
            ],
            "crowded": self._crowded.value,
            "shadow": self._shadow,
        }


def _give_back(took: list[tuple[_Limit, bytes, Taken]], cost: int, now: float) -> None:
    """Undo what was taken. A store that fails at it keeps what it got: nobody is let in by that."""
    for limit, key, _ in took:
        given = limit.take(key, -cost, limit.rate, now)
        if isinstance(given, Deferred):
            given.addErrback(lambda _: None)


def _add(headers: Any, fields: list[tuple[bytes, bytes]]) -> None:
    """Add to a response's headers; the draft's are lists, to which an upstream's belong too."""
    for name, value in fields:
        if name.startswith(b"x-"):
            headers.set(name, value)
        else:
            headers.add(name, value)

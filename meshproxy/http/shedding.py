"""
What overload does to an HTTP listener.

The law it keeps: while nothing is wrong it costs a request nothing; the listener's ``match`` and
``idle_timeout`` are other ones while something is, and its own again afterwards. Only requests that
begin are answered 503: those in flight are finished, also where a filter has them matched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from meshproxy.config import Match
from meshproxy.http.replies import Reply
from meshproxy.http.router import Route

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.h1.server import ServerConnection
    from meshproxy.http.listener import HttpListener
    from meshproxy.observe.registry import Registry

OVERLOAD = Reply(503, b"envoy overloaded", b"-", b"overload", True)

#: Connections whose idle time is looked at in one turn: a few milliseconds.
SLICE = 5000


class _Every(frozenset[bytes]):
    """Holds everything: the answer to a request for an upgrade is no other."""

    def __contains__(self, item: object) -> bool:
        return True


class HttpShedding:
    """
    Sheds the load of ``listener``; the paths in ``spare`` are served all the same.

    Everything may be called as often as one likes, and again after a reload has given the listener
    another ``match`` or ``idle_timeout``.
    """

    def __init__(self, listener: HttpListener, registry: Registry, spare: Iterable[str]) -> None:
        self._listener = listener
        self._spare = frozenset(path.encode() for path in spare)
        self._values = registry.values
        self.shed_slot = registry.counter(
            "meshproxy_listener_requests_shed_total",
            "Requests answered 503 because the proxy was overloaded",
            {"listener": listener.name},
        )
        route = Route("overload", Match())
        # Every request that is given to a route counts in its slot, and is taken off again when it
        # ends with that route: these end with none, so that they stay counted.
        route.active = self.shed_slot
        route.act = self._answer
        route.upgrades = _Every()
        self._route = route
        self._shedding: Callable[[Exchange], Route | None] = self._match
        self._match_before: Callable[[Exchange], Route | None] = listener.match
        self._idle = self._idle_before = listener.idle_timeout
        self._walk: Iterator[ServerConnection] = iter(())

    @property
    def in_flight(self) -> float:
        """Requests that have a route and are not over."""
        values = self._listener.values
        return sum([values[route.active] for route in self._listener.routes])

    def shed(self, on: bool) -> None:
        """Answer requests that begin with 503 from now on, or no more."""
        listener = self._listener
        if on:
            if listener.match is not self._shedding:
                self._match_before = listener.match
                listener.match = self._shedding
        elif listener.match is self._shedding:
            listener.match = self._match_before

    def _match(self, exchange: Exchange) -> Route | None:
        if exchange.filtering is not None:
            return self._match_before(exchange)
        if self._spare and exchange.target.partition(b"?")[0] in self._spare:
            return self._match_before(exchange)
        return self._route

    def _answer(self, exchange: Exchange) -> None:
        exchange.route = None
        exchange.reply(OVERLOAD)

    def shorten_idle(self, seconds: float) -> None:
        """
        Let connections be idle for ``seconds`` at most from now on; 0.0: as long as configured.

        Called again and again meanwhile, it reaches those that became idle since.
        """
        listener = self._listener
        if listener.idle_timeout != self._idle:
            self._idle = self._idle_before = listener.idle_timeout
        if not seconds:
            self._idle = listener.idle_timeout = self._idle_before
            self._walk = iter(())
            return
        before = self._idle_before
        self._idle = listener.idle_timeout = min(before, seconds) if before else seconds
        if self._idle == before:
            return
        walked = 0
        for connection in islice(self._walk, SLICE):
            walked += 1
            connection.hurry()
        if walked < SLICE:
            self._walk = iter(tuple(listener.connections))

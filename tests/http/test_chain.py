"""Chains: what is compiled, what is inherited, and what becomes of a request that changes route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.config import FilterItem
from meshproxy.http.chain import MERGED, Chain, Chains, inherit
from meshproxy.interfaces import IRequestFilter
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry
from meshproxy.testing import Kit
from tests.http.filters import Made, Named


def item(name: str, label: str = "", off: bool = False) -> FilterItem:
    """An item of a configuration."""
    return FilterItem(name, label or name, "http", off=off)


def fitted(filter_: Any, label: str) -> Fitted:
    """A filter at a place."""
    return Fitted(filter_, label, "test", Registry(), lambda: 0.0)


def labels(items: Sequence[FilterItem]) -> list[str]:
    """Names and labels, for comparing."""
    return [f"{held.name}/{held.label}" for held in items]


def test_inner_items_replace_switch_off_and_append() -> None:
    """By label: in its place, away, or behind."""
    outer = [item("a"), item("b"), item("c", "d")]
    assert labels(inherit(outer, [])) == ["a/a", "b/b", "c/d"]
    own = [item("e"), item("x", "b"), item("d", off=True)]
    assert labels(inherit(outer, own)) == ["a/a", "x/b", "e/e"]
    assert labels(inherit(outer, [item("none", off=True)])) == labels(outer)
    assert labels(outer) == ["a/a", "b/b", "c/d"]


def test_the_same_items_are_the_same_chain() -> None:
    """A thousand routes that add nothing share one chain; a filter is made once."""
    made: list[str] = []

    def fit(items: Sequence[FilterItem], path: tuple[str | int, ...]) -> list[Fitted]:
        made.extend(held.name for held in items)
        return [fitted(Made(), held.label) for held in items if not held.off]

    chains = Chains(fit)
    outer = [item("a"), item("b")]
    chains.prepare(outer, ("filters",))
    assert chains.chain(inherit(outer, [])) is chains.chain(list(outer))
    assert chains.chain([]) is None
    assert made == ["a", "b"]
    inner = [item("a", off=True)]
    chains.prepare(inner, ("routes", 0, "filters"))
    chain = chains.chain(inherit(outer, inner))
    assert chain is not None
    assert [held.label for held in chain.fitted] == ["b"]


def test_filters_without_anybody_to_make_them() -> None:
    """A listener that is given filters and no way to make them says so."""
    with pytest.raises(ValueError, match="nobody"):
        Chains(None).prepare([item("a")], ("filters",))


def test_only_what_is_provided_is_called() -> None:
    """A method that belongs to no declared interface is never called."""

    @implementer(IRequestFilter)
    class Half:
        def request(self, exchange: Any) -> None:
            """Nothing."""

        def response(self, exchange: Any) -> None:
            raise AssertionError("it was never promised")

    driven = Kit().drive(Half())
    assert driven.status == 200


def test_trivial_filters_make_no_object() -> None:
    """Filters that look and go on leave no trace on the exchange."""
    kit = Kit()
    driven = kit.drive(
        Made(
            request=lambda exchange: exchange.request.headers.get(b"x"),
            response=lambda exchange: exchange.response.headers.set(b"x-a", b"1"),
            finished=lambda exchange: None,
        )
    )
    assert driven.headers.get(b"x-a") == b"1"
    assert driven.exchange.filtering is None


class Routed:
    """Two routes with chains of their own: ``/a`` with ``first``, ``/b`` with ``second``."""

    def __init__(self, first: Sequence[tuple[Any, str]], second: Sequence[tuple[Any, str]]) -> None:
        self.kit = Kit()
        self.fitted: dict[int, Fitted] = {}
        self.a = self._chain(first)
        self.b = self._chain(second)

    def _chain(self, filters: Sequence[tuple[Any, str]]) -> Chain | None:
        for held, label in filters:
            if id(held) not in self.fitted:
                self.fitted[id(held)] = Fitted(
                    held, label, "test", self.kit.registry, self.kit.clock.seconds
                )
        return Chain([self.fitted[id(held)] for held, _ in filters]) if filters else None

    def drive(self, target: bytes, **keywords: Any) -> Any:
        """A request; whose chain is decided by the route."""
        listener = self.kit.listener
        other, route = listener.routes

        def match(exchange: Any) -> Any:
            if exchange.target.startswith(b"/none"):
                return None
            # A second route object that goes to the same cluster.
            return second if exchange.target.startswith(b"/b") else route

        import copy

        second = copy.copy(route)
        second.name_bytes = b"second"
        # The kit gives every route of the listener its chain; these two have their own.
        listener.routes = [other]
        route.chain = self.a
        second.chain = self.b
        listener.match = match
        try:
            return self.kit.drive(target=target, **keywords)
        finally:
            listener.routes = [other, route]


def to_b(exchange: Any) -> None:
    """What a filter does that rewrites."""
    exchange.request.target = b"/b/new"
    exchange.clear_route()


async def to_b_later(exchange: Any) -> None:
    """The same, of a coroutine."""
    to_b(exchange)


@pytest.mark.parametrize("move", [to_b, to_b_later])
def test_a_new_route_brings_its_filters(move: Any) -> None:
    """
    Those that have run are not run again, those behind are the new route's, and the response
    passes exactly those that the request has passed.
    """
    calls: list[str] = []
    shared = Named("shared", calls)
    mover = Made(request=move)
    strict, lax = Named("strict", calls), Named("lax", calls)
    only_b = Named("only b", calls)
    routed = Routed(
        [(shared, "shared"), (mover, "mover"), (strict, "limit")],
        [(shared, "shared"), (mover, "mover"), (lax, "limit"), (only_b, "b")],
    )
    driven = routed.drive(b"/a")
    assert driven.status == 200
    assert driven.upstream.target == b"/b/new"
    assert driven.exchange.route_name == b"second"
    assert [call for call in calls if "finished" not in call] == [
        "shared request",
        "lax request",
        "only b request",
        "only b response 200",
        "lax response 200",
        "shared response 200",
    ]


def test_a_new_route_without_filters() -> None:
    """The rest of the old route's filters are not run."""
    calls: list[str] = []
    routed = Routed([(Made(request=to_b), "mover"), (Named("a", calls), "a")], [])
    assert routed.drive(b"/a").status == 200
    assert calls == []


def test_a_request_that_loses_its_route() -> None:
    """It is a 404 at the end of the chain, as without filters."""

    def away(exchange: Any) -> None:
        exchange.request.target = b"/none"
        exchange.clear_route()
        assert exchange.route_name == b""

    routed = Routed([(Made(request=away), "mover")], [])
    driven = routed.drive(b"/a")
    assert (driven.status, driven.flags) == (404, b"NR")


def test_the_routes_requests_in_flight_follow() -> None:
    """The gauge of the old route goes down and the new one's up; at the end all are as before."""
    routed = Routed([(Made(request=to_b), "mover")], [])
    listener = routed.kit.listener
    before = list(listener.values)
    driven = routed.drive(b"/a", response=None)
    route = driven.exchange.route
    assert listener.values[route.active] == before[route.active] + 1
    driven.answer(200)
    assert listener.values[route.active] == before[route.active]


def test_merged_chains_are_kept_and_bounded() -> None:
    """The same change of route is compiled once; many different ones do not fill the memory."""
    first = Chain([fitted(Made(), "a"), fitted(Made(), "b")])
    second = Chain([fitted(Made(), "a"), fitted(Made(), "c")])
    merged = first.merged(0, second)
    assert merged is first.merged(0, second)
    assert [held.label for held in merged.fitted] == ["a", "c"]
    for number in range(MERGED + 10):
        first.merged(0, Chain([fitted(Made(), f"x{number}")]))
    assert len(first._merged) <= MERGED


def test_clearing_the_route_too_late() -> None:
    """Once the request was sent on there is no other route for it."""
    raised: list[Exception] = []

    def response(exchange: Any) -> None:
        try:
            exchange.clear_route()
        except RuntimeError as error:
            raised.append(error)

    assert Kit().drive(Made(response=response)).status == 200
    assert len(raised) == 1


def test_answers_and_waits_are_counted_by_filter() -> None:
    """``meshproxy_filter_answers_total`` and ``waits_total`` say which filter did it."""
    kit = Kit()
    gate: Deferred[Any] = Deferred()
    driven = kit.drive(Made(request=lambda exchange: gate))
    gate.callback(Response(403))
    assert driven.status == 403
    assert kit.counters["answers"] == kit.counters["waits"] == 1

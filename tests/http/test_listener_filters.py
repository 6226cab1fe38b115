"""A listener's chains: its own filters, its hosts' and its routes'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock

from meshproxy.config import FilterItem, load
from meshproxy.http.listener import HttpListener
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry

TEXT = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      filters: [{headers: {request: {set: {x-a: "1"}}}}, {headers: {}, as: second}]
      hosts:
        a.example:
          filters: [health]
          routes:
            - { name: a-all, match: { path: /all }, respond: {} }
            - { name: a-none, match: { path: /none }, respond: {},
                filters: [{headers: false}, {second: false}, {health: false}] }
        b.example:
          routes:
            - { name: b, match: { path: /b }, respond: {},
                filters: [{headers: {request: {set: {x-a: "2"}}}}, cors] }
      routes:
        - { name: rest, match: { path: /rest }, respond: {} }
"""


class Made:
    """The listener of the text, and what was fitted for it."""

    def __init__(self) -> None:
        self.places: list[tuple[str | int, ...]] = []
        clock = Clock()
        registry = Registry()

        def fit(items: Sequence[FilterItem], path: tuple[str | int, ...]) -> list[Fitted]:
            self.places.append(path)
            return [
                Fitted(object(), item.label, "web", registry, clock.seconds)
                for item in items
                if not item.off
            ]

        model = load(TEXT, "test.yaml").configuration.listeners["web"]
        wheel = TimerWheel(clock)
        self.listener = HttpListener(clock, wheel, registry, "web", model, {}, None, fit)
        self.routes = {route.name_bytes: route for route in self.listener.routes}

    def labels(self, route: bytes) -> list[str] | None:
        """The chain of a route."""
        chain = self.routes[route].chain
        return None if chain is None else [held.label for held in chain.fitted]

    def missed(self, authority: bytes) -> list[str]:
        """The chain of a request that no route takes."""
        exchange: Any = type("Asked", (), {"authority": authority})
        chain = self.listener.chain_without_route(exchange)
        assert chain is not None
        return [held.label for held in chain.fitted]


@pytest.fixture(scope="module")
def made() -> Made:
    """One for all."""
    return Made()


def test_routes_have_what_their_host_and_listener_have(made: Made) -> None:
    """And their own in place of it, less what is switched off, with what is new behind."""
    assert made.labels(b"rest") == ["headers", "second"]
    assert made.labels(b"a-all") == ["headers", "second", "health"]
    assert made.labels(b"a-none") is None
    assert made.labels(b"b") == ["headers", "second", "cors"]


def test_the_same_filter_is_one_object(made: Made) -> None:
    """What is inherited is shared; what is given other options is another."""
    rest, a_all, b = (made.routes[name].chain for name in (b"rest", b"a-all", b"b"))
    assert rest is not None
    assert a_all is not None
    assert b is not None
    assert rest.fitted[0] is a_all.fitted[0]
    assert rest.fitted[1] is b.fitted[1]
    assert rest.fitted[0] is not b.fitted[0]


def test_requests_without_a_route(made: Made) -> None:
    """They pass the filters of their host, or of the listener."""
    assert made.missed(b"a.example:80") == ["headers", "second", "health"]
    assert made.missed(b"b.example") == ["headers", "second"]
    assert made.missed(b"other.example") == ["headers", "second"]


def test_places_are_told(made: Made) -> None:
    """Whoever makes the filters knows where in the file they are."""
    web = ("listeners", "web", "http")
    assert set(made.places) == {
        (*web, "filters"),
        (*web, "hosts", "a.example", "filters"),
        (*web, "hosts", "b.example", "routes", 0, "filters"),
    }


def test_without_filters_there_is_no_chain() -> None:
    """Nothing is looked at for a request of a listener without filters."""
    text = TEXT.split("      filters:")[0] + "      routes: [{ respond: {} }]\n"
    model = load(text, "test.yaml").configuration.listeners["web"]
    clock = Clock()
    listener = HttpListener(clock, TimerWheel(clock), Registry(), "web", model, {}, None)
    assert [route.chain for route in listener.routes] == [None]

"""Metrics of single endpoints: bounded, and never of those that are gone."""

from __future__ import annotations

import gc
import weakref

import pytest

from meshproxy.observe.registry import Registry
from meshproxy.upstream import seats as module
from meshproxy.upstream.endpoint import HALF_OPEN, Endpoint
from meshproxy.upstream.seats import SHOWN, EndpointSeats
from tests.upstream.made import spec


class Watched(Endpoint):
    """One whose end can be seen."""

    __slots__ = ("__weakref__",)


def shown(registry: Registry, key: str) -> dict[str, float]:
    """What the metrics say of an endpoint."""
    registry.refresh()
    return {
        family.name.removeprefix("meshproxy_endpoint_"): registry.values[slot]
        for family in registry.families
        for labels, slot in family.series.items()
        if labels == ("api", key)
    }


def test_what_is_shown() -> None:
    """The present state, each time somebody looks."""
    registry = Registry()
    seats = EndpointSeats(registry, "api")
    endpoint = Endpoint(spec(1))
    seats.take(endpoint)
    assert shown(registry, "127.0.0.1:1") == {
        "active": 0, "answered": 0, "failed": 0, "connections": 0,
        "healthy": 1, "breaker": 0, "max_active": 0,
    }  # fmt: skip
    endpoint.active, endpoint.answered, endpoint.failed, endpoint.connections = 1, 2, 3, 4
    endpoint.healthy, endpoint.breaker, endpoint.max_active = False, HALF_OPEN, 5
    assert list(shown(registry, "127.0.0.1:1").values()) == [1, 2, 3, 4, 0, 2, 5]


def test_one_that_is_gone() -> None:
    """Shows 0, and is not kept alive; who comes back under its key takes the same slots."""
    registry = Registry()
    seats = EndpointSeats(registry, "api")
    endpoint = Watched(spec(1))
    endpoint.answered = 9
    seats.take(endpoint)
    assert shown(registry, "127.0.0.1:1")["answered"] == 9
    seats.leave(endpoint)
    assert not any(shown(registry, "127.0.0.1:1").values())
    slots = len(registry.values)
    gone = weakref.ref(endpoint)
    del endpoint
    gc.collect()
    assert gone() is None
    back = Endpoint(spec(1))
    back.answered = 1
    seats.take(back)
    assert shown(registry, "127.0.0.1:1")["answered"] == 1
    assert len(registry.values) == slots


def test_the_old_one_leaving_late_does_not_hide_the_new() -> None:
    """A seat belongs to who took it last."""
    registry = Registry()
    seats = EndpointSeats(registry, "api")
    old, new = Endpoint(spec(1)), Endpoint(spec(1))
    new.answered = 1
    seats.take(old)
    seats.take(new)
    seats.leave(old)
    assert shown(registry, "127.0.0.1:1")["answered"] == 1


def test_the_slots_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys come and go."""
    monkeypatch.setattr(module, "MOST", 3)
    registry = Registry()
    seats = EndpointSeats(registry, "api")
    for number in range(1, 10):
        endpoint = Endpoint(spec(number))
        seats.take(endpoint)
        seats.leave(endpoint)
    assert len(registry.values) == 3 * len(SHOWN)
    seats.leave(Endpoint(spec(100)))

"""What a filter is given of the proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python import log
from zope.interface import Interface

from meshproxy.interfaces import IFilterContext
from meshproxy.observe.context import Context
from meshproxy.observe.registry import Registry


def made(registry: Registry | None = None, **keywords: Any) -> tuple[Context, Clock]:
    """A context and its clock."""
    clock = Clock()
    shown: list[Callable[[], Any]] = []
    context = Context(
        "label", "plug-in", "web", registry or Registry(), clock, clock.seconds, "/etc/mesh",
        shown.append, **keywords,
    )  # fmt: skip
    return context, clock


def test_everything_that_is_promised_is_there() -> None:
    """Every name of the interface."""
    context, _ = made(make_http=object)
    interface: type[Interface] = IFilterContext
    assert [name for name in interface.names() if not hasattr(context, name)] == []


def test_numbers_carry_the_plugin_and_the_label() -> None:
    """Two places of one plugin count apart; the same asked twice is one."""
    registry = Registry()
    context, _ = made(registry)
    counter = context.counter("denied", "Refused", reason="key")
    counter.inc()
    context.counter("denied", "Refused", reason="key").inc(2)
    assert counter.value == 3
    gauge = context.gauge("held", "Held")
    gauge.inc(5)
    gauge.dec(2)
    assert gauge.value == 3
    gauge.set(1)
    histogram = context.histogram("seconds", "Time", (1.0, 2.0))
    histogram.observe(1.5)
    families = {family.name: family for family in registry.families}
    assert set(families) == {
        "meshproxy_filter_plug_in_denied_total",
        "meshproxy_filter_plug_in_held",
        "meshproxy_filter_plug_in_seconds",
    }
    denied = families["meshproxy_filter_plug_in_denied_total"]
    ((values, _),) = denied.series.items()
    assert dict(zip(denied.label_names, values, strict=True)) == {
        "listener": "web", "filter": "label", "reason": "key"
    }  # fmt: skip
    seconds = families["meshproxy_filter_plug_in_seconds"]
    base = next(iter(seconds.series.values()))
    assert registry.values[base : base + 4] == [0, 1, 0, 1.5]


def test_sleeping() -> None:
    """A Deferred that fires in time, and whose timer goes with it when it is cancelled."""
    context, clock = made()
    fired: list[Any] = []
    context.sleep(2.0).addCallback(fired.append)
    given_up = context.sleep(5.0)
    given_up.addErrback(lambda _: None)
    given_up.cancel()
    clock.advance(1.9)
    assert fired == []
    clock.advance(0.2)
    assert fired == [None]
    assert clock.getDelayedCalls() == []


def test_paths_begin_at_the_configuration() -> None:
    """Relative ones do; absolute ones are what they are."""
    context, _ = made()
    assert context.path("keys.json") == "/etc/mesh/keys.json"
    assert context.path("/var/keys.json") == "/var/keys.json"


def test_the_client_is_made_when_it_is_asked_for() -> None:
    """Once; and there may be none."""
    calls: list[int] = []

    def make() -> object:
        calls.append(1)
        return object()

    context, _ = made(make_http=make)
    assert calls == []
    assert context.http is context.http
    assert calls == [1]
    with pytest.raises(RuntimeError):
        _ = made()[0].http


@pytest.mark.parametrize("cluster", ["", "api"])
def test_a_plugin_that_is_no_filter(cluster: str) -> None:
    """Its numbers and lines say its kind, and its cluster if it serves one."""
    registry = Registry()
    context, _ = made(registry, kind="health_check", cluster=cluster)
    context.counter("asked", "Asked").inc()
    (family,) = registry.families
    assert family.name == "meshproxy_health_check_plug_in_asked_total"
    owner = {"cluster": "api"} if cluster else {"listener": "web"}
    assert dict(zip(family.label_names, *family.series, strict=True)) == {
        **owner, "plugin": "label"
    }  # fmt: skip
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(log.textFromEventDict(event) or "")

    log.addObserver(observe)
    try:
        context.log("a word")
    finally:
        log.removeObserver(observe)
    of = "cluster 'api'" if cluster else "listener 'web'"
    assert lines == [f"health check 'label' of {of}: a word"]

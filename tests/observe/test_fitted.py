"""What is counted and logged of a filter."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.python import log
from twisted.python.failure import Failure

from meshproxy.observe.fitted import Chosen, Fitted
from meshproxy.observe.registry import Registry


@pytest.fixture
def lines() -> list[str]:
    """What is written to the log."""
    return []


def fail(fitted: Fitted) -> None:
    """A filter that raises."""
    try:
        raise ZeroDivisionError("a defect")
    except ZeroDivisionError:
        fitted.failed()


def test_every_error_is_counted_and_one_a_second_logged(lines: list[str]) -> None:
    """With the traceback, and how many there were since the last."""

    def observe(event: dict[str, object]) -> None:
        lines.append(log.textFromEventDict(event) or "")

    clock = Clock()
    registry = Registry()
    fitted = Fitted(object(), "mine", "web", registry, clock.seconds)
    clock.advance(10)
    log.addObserver(observe)
    try:
        for _ in range(5):
            fail(fitted)
        clock.advance(1.5)
        fitted.failed(Failure(ValueError("another")))
    finally:
        log.removeObserver(observe)
    assert len(lines) == 2
    assert "filter 'mine' of listener 'web'" in lines[0]
    assert "ZeroDivisionError: a defect" in lines[0]
    assert "(4 more since the last one)" in lines[1]
    assert "another" in lines[1]
    labels = {"listener": "web", "filter": "mine"}
    slot = registry.counter("meshproxy_filter_errors_total", "", labels)
    assert registry.values[slot] == 6


def test_answers_and_waits() -> None:
    """Each in its counter."""
    registry = Registry()
    fitted = Fitted(object(), "mine", "web", registry, lambda: 0.0)
    fitted.answered()
    fitted.waited()
    fitted.waited()
    labels = {"listener": "web", "filter": "mine"}
    assert registry.values[registry.counter("meshproxy_filter_answers_total", "", labels)] == 1
    assert registry.values[registry.counter("meshproxy_filter_waits_total", "", labels)] == 2
    assert repr(fitted) == "<filter mine of listener web>"


@pytest.mark.parametrize(
    ("listener", "cluster", "whose"),
    [("web", "", "health check 'x' of listener 'web'"), ("", "api", "health check 'x' of cluster")],
)
def test_a_plugin_that_is_no_filter(listener: str, cluster: str, whose: str) -> None:
    """It is counted apart from filters, with its kind and with what it serves."""
    registry = Registry()
    chosen = Chosen(object(), "x", "health_check", listener, cluster, registry, lambda: 5.0)
    fail(chosen)
    (family,) = registry.families
    labels = {"kind": "health_check", "listener": listener, "cluster": cluster, "plugin": "x"}
    assert family.name == "meshproxy_plugin_errors_total"
    assert dict(zip(family.label_names, *family.series, strict=True)) == labels
    assert registry.values == [1]
    assert chosen.whose.startswith(whose)

"""The numbers for a person and for a small program."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from meshproxy.admin.stats import (
    LONGEST,
    SECONDS,
    BadFilter,
    as_json,
    as_text,
    compile_filter,
    select,
)
from meshproxy.observe.registry import Registry


@pytest.fixture
def registry() -> Registry:
    """One of each kind."""
    made = Registry()
    made.values[made.counter("b_total", "", {"listener": 'we"b', "class": "2xx"})] += 12
    made.sample("a", "", {}, lambda: 1.5)
    histogram = made.histogram("c_seconds", "", (0.1, 1.0), {"listener": "web"})
    for value in [0.05] * 8 + [0.5, 7.0]:
        histogram.observe(made.values, value)
    return made


def test_text(registry: Registry) -> None:
    """A line a series, sorted, whole numbers as such, percentiles as the bound they are under."""
    assert as_text(registry, None) == (
        "a: 1.5\n"
        'b_total{listener="we\\"b",class="2xx"}: 12\n'
        'c_seconds{listener="web"}: count=10 sum=7.9 p50<=0.1 p90<=1 p99<=inf\n'
    )


def test_json(registry: Registry) -> None:
    """The same as JSON, buckets cumulative as in Prometheus."""
    assert as_json(registry, None) == {
        "stats": [
            {"name": "a", "kind": "gauge", "labels": {}, "value": 1.5},
            {
                "name": "b_total",
                "kind": "counter",
                "labels": {"listener": 'we"b', "class": "2xx"},
                "value": 12,
            },
            {
                "name": "c_seconds",
                "kind": "histogram",
                "labels": {"listener": "web"},
                "count": 10,
                "sum": pytest.approx(7.9),
                "buckets": [
                    {"le": 0.1, "count": 8},
                    {"le": 1.0, "count": 9},
                    {"le": None, "count": 10},
                ],
            },
        ]
    }


def test_filters_search_names_and_labels(registry: Registry) -> None:
    """A filter matches anywhere in the text of a series."""
    assert as_text(registry, compile_filter("class=.2xx")).startswith("b_total{")
    assert as_text(registry, compile_filter("^a$")) == "a: 1.5\n"
    assert as_text(registry, compile_filter("nothing")) == ""


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[",
        "*",
        "x" * (LONGEST + 1),
        "(a+)+$",
        "(a|a)*b",
        "(a){9}",
        "a*b*c*d*",
        "a{9999999999}",
    ],
)
def test_bad_filters(pattern: str) -> None:
    """What is no expression, or could take for ever, is refused."""
    with pytest.raises(BadFilter):
        compile_filter(pattern)


@given(st.text(max_size=20) | st.text("()[]{}*+?|\\.^$a1,-:", max_size=20))
def test_any_filter_is_compiled_or_refused(pattern: str) -> None:
    """No text makes anything else be raised."""
    with contextlib.suppress(BadFilter):
        assert isinstance(compile_filter(pattern), re.Pattern)


def test_a_slow_search_is_given_up() -> None:
    """The time limit is looked at between series."""
    registry = Registry()
    registry.gauge("a", "", {})
    clock = Clock()

    def slow() -> float:
        clock.advance(SECONDS * 0.75)
        return clock.seconds()

    with pytest.raises(BadFilter, match="too long"):
        list(select(_twice(registry), compile_filter("a"), slow))


def _twice(registry: Registry) -> Registry:
    for number in range(5):
        registry.gauge(f"a{number}", "", {})
    return registry

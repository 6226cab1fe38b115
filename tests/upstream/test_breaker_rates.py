"""Circuit breakers by rates: what an interval is, and who is judged at its end."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.upstream.endpoint import CLOSED, OPEN
from tests.upstream.breaking import World
from tests.upstream.logged import lines
from tests.upstream.made import spec


def test_failure_percentage() -> None:
    """Judged each interval over what the interval brought, by endpoints with enough of it."""
    world = World(
        5,
        failure_threshold=0,
        failure_percentage={"threshold": 50, "min_endpoints": 5, "min_requests": 10},
        max_ejection_percent=100,
        interval="10s",
    )
    for endpoint in world.all:
        world.answer(endpoint, 1000)  # before the first failure: not of the interval
    assert not len(world.cluster.wheel)
    world.fail(world.one, 5)
    world.answer(world.one, 5)
    world.fail(world.all[1], 5)
    world.answer(world.all[1], 6)
    for endpoint in world.all[2:]:
        world.answer(endpoint, 10)
    with lines() as logged:
        world.later(10)
    assert [each.breaker for each in world.all] == [OPEN, *[CLOSED] * 4]
    assert world.one.failures == 1  # though its last response was good
    assert world.ejections("failure_percentage") == 1
    assert logged == [
        (
            "breaker cluster=api endpoint=127.0.0.1:1 state=open reason=failure_percentage "
            "failed=50.0% for=30s"
        )
    ]


def test_failure_percentage_needs_enough_endpoints_and_requests() -> None:
    """With fewer nothing is judged, however bad it looks."""
    config = {"threshold": 50, "min_endpoints": 3, "min_requests": 10}
    world = World(3, failure_threshold=0, failure_percentage=config, interval="10s")
    world.fail(world.one, 10)
    world.answer(world.all[1], 10)
    world.answer(world.all[2], 9)
    world.later(10)
    assert world.one.breaker == CLOSED
    world.fail(world.one, 10)
    world.answer(world.all[1], 10)
    world.answer(world.all[2], 10)
    world.later(10)
    assert world.one.breaker == OPEN


def test_success_rate() -> None:
    """Below the mean by more than so many standard deviations; not those that are as the others."""
    world = World(
        5,
        failure_threshold=0,
        success_rate={"deviations": 1.9, "min_endpoints": 5, "min_requests": 100},
        max_ejection_percent=100,
    )
    for endpoint, bad in zip(world.all, (50, 1, 1, 1, 2), strict=True):
        world.fail(endpoint, bad)
        world.answer(endpoint, 100 - bad)
    with lines() as logged:
        world.later(10)
    # Rates 50, 99, 99, 99, 98: mean 89, deviation 19.5, threshold 51.9.
    assert [each.breaker for each in world.all] == [OPEN, *[CLOSED] * 4]
    assert world.ejections("success_rate") == 1
    assert logged == [
        (
            "breaker cluster=api endpoint=127.0.0.1:1 state=open reason=success_rate "
            "success=50.0% threshold=51.9% for=30s"
        )
    ]
    all_bad = World(5, failure_threshold=0, success_rate={"min_requests": 10})
    for endpoint in all_bad.all:
        all_bad.fail(endpoint, 20)
    all_bad.later(10)
    assert [each.breaker for each in all_bad.all] == [CLOSED] * 5


def test_success_rate_needs_enough_endpoints() -> None:
    """Those with too few requests and those given up already are no endpoints in this."""
    world = World(6, failure_threshold=100, success_rate={"min_endpoints": 5, "min_requests": 10})
    world.fail(world.all[5], 100)
    assert world.all[5].breaker == OPEN
    world.fail(world.one, 10)
    for endpoint in world.all[1:4]:
        world.answer(endpoint, 10)
    world.answer(world.all[4], 9)
    world.later(10)
    assert world.one.breaker == CLOSED


def test_one_is_opened_once_by_both_rates() -> None:
    """What one way opened the other does not open again in the same interval."""
    world = World(
        5,
        failure_threshold=0,
        success_rate={"deviations": 1, "min_requests": 10},
        failure_percentage={"threshold": 10, "min_requests": 10},
        max_ejection_percent=100,
    )
    world.fail(world.one, 10)
    for endpoint in world.all[1:]:
        world.answer(endpoint, 10)
    world.later(10)
    assert (world.ejections("success_rate"), world.ejections("failure_percentage")) == (1, 0)


def test_an_interval_without_failures_ends_the_judging() -> None:
    """An idle or healthy cluster has no timer; the next failure begins a new interval."""
    world = World(
        2,
        failure_threshold=0,
        failure_percentage={"threshold": 50, "min_endpoints": 1, "min_requests": 1},
    )
    world.fail(world.one)
    world.answer(world.one, 10)
    world.later(10)
    assert len(world.cluster.wheel) == 1
    world.answer(world.one, 10)
    world.later(10)
    assert not len(world.cluster.wheel)
    assert not world.clock.getDelayedCalls()
    world.fail(world.one)
    world.later(10)
    assert world.one.breaker == OPEN


def test_late_failures_are_not_held_against_one_that_came_back() -> None:
    """What was counted while it was open is of no interval."""
    world = World(
        2,
        failure_threshold=3,
        failure_percentage={"threshold": 50, "min_endpoints": 1, "min_requests": 1},
        base_ejection_time="12s",
    )
    world.fail(world.one, 3)
    world.later(11)
    world.fail(world.all[1])  # keeps the judging going
    world.answer(world.all[1], 100)
    world.fail(world.one, 50)
    world.later(1)
    world.probe(world.one)
    world.answer(world.one)
    world.later(9)
    assert world.one.breaker == CLOSED


@pytest.mark.parametrize("apart", [{}, {"local_failure_threshold": 1000}])
def test_late_successes_do_not_speak_for_one_that_came_back(apart: dict[str, Any]) -> None:
    """No more than late failures speak against it; with local failures counted apart, too."""
    world = World(
        2,
        failure_threshold=3,
        failure_percentage={"threshold": 50, "min_endpoints": 1, "min_requests": 1},
        base_ejection_time="12s",
        interval="20s",
        **apart,
    )
    world.fail(world.one, 3)
    world.answer(world.one, 100)
    world.later(12)
    world.probe(world.one)
    world.answer(world.one)
    world.fail(world.one, 2)
    world.later(8)
    assert (world.one.breaker, world.ejections("failure_percentage")) == (OPEN, 1)


def test_endpoints_that_came_during_the_interval_are_judged_by_what_they_did() -> None:
    """They have no counts from before."""
    world = World(
        1,
        failure_threshold=0,
        failure_percentage={"threshold": 50, "min_endpoints": 2, "min_requests": 10},
    )
    world.fail(world.one)
    world.answer(world.one, 100)
    world.cluster.update([spec(1), spec(2)])
    new = world.cluster.endpoints[1]
    world.fail(new, 10)
    world.later(10)
    assert (world.one.breaker, new.breaker) == (CLOSED, OPEN)

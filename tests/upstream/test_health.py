"""Active health checks: when endpoints are asked, what the answers change, and how it all ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed

from meshproxy.errors import CheckFailed
from meshproxy.upstream import health as module
from meshproxy.upstream.endpoint import CLOSED, OPEN, Endpoint
from meshproxy.upstream.health import AT_ONCE
from tests.net.logged import errors
from tests.upstream.checking import World
from tests.upstream.logged import lines
from tests.upstream.made import spec


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance gives 0, so that first checks come at once and intervals are as written."""
    monkeypatch.setattr(module, "random", lambda: 0.0)


def test_nothing_happens_before_start() -> None:
    """An endpoint counts as healthy, and is not asked."""
    world = World()
    world.later(60)
    assert (world.check.asked, world.one.healthy) == ([], True)
    assert world.checker.describe(world.one) == {
        "check": "fake",
        "healthy": True,
        "checked": False,
    }


def test_first_checks_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each at its own moment within a second, or within the interval when that is shorter."""
    numbers = iter([0.0, 0.5, 0.999] * 2)
    monkeypatch.setattr(module, "random", lambda: next(numbers))
    for interval, spread in (("5s", 1.0), ("500ms", 0.5)):
        world = World(3, interval=interval)
        world.check.hang()
        world.checker.start()
        due = sorted(call.getTime() for call in world.clock.getDelayedCalls())
        assert due == [0.0, 0.5 * spread, 0.999 * spread]


def test_the_interval_counts_from_the_beginning_of_a_check() -> None:
    """A check that takes a while does not put off the next one."""
    world = World(timeout="3s")
    world.check.hang()
    world.checker.start()
    world.later(2)
    world.check.open[0][1].callback(None)
    world.later(2.9)
    assert len(world.check.asked) == 1
    world.later(0.1)
    assert len(world.check.asked) == 2


def test_one_check_at_a_time() -> None:
    """Where the timeout is longer than the interval the next one waits for the end."""
    world = World(interval="1s", timeout="10s")
    world.check.hang()
    world.checker.start()
    world.later(9)
    assert len(world.check.asked) == 1
    world.check.open.pop()[1].callback(None)
    world.later(0)
    assert len(world.check.asked) == 2


def test_jitter_makes_intervals_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """By up to the configured percentage, by chance."""
    world = World(jitter=50)
    world.checker.start()
    world.later(0)
    monkeypatch.setattr(module, "random", lambda: 0.5)
    world.later(5)
    assert len(world.check.asked) == 2
    world.later(6.2)
    assert len(world.check.asked) == 2
    world.later(0.1)
    assert len(world.check.asked) == 3


def test_the_first_result_decides_at_once() -> None:
    """Either way; afterwards the thresholds count, in a row."""
    world = World(unhealthy_threshold=3, healthy_threshold=2)
    world.check.bad()
    world.checker.start()
    with lines() as logged:
        world.later(0)
    assert (world.one.healthy, world.changes) == (False, 1)
    assert logged == [
        ('health cluster=api endpoint=127.0.0.1:1 state=unhealthy check=fake reason="status 500"')
    ]
    world.check.good()
    with lines() as logged:
        world.later(5)
        assert not world.one.healthy
        world.later(5)
    assert (world.one.healthy, world.changes) == (True, 2)
    assert world.one.since == 10
    assert logged == ["health cluster=api endpoint=127.0.0.1:1 state=healthy check=fake"]
    world.check.bad()
    world.later(10)
    world.check.good()
    world.later(5)
    world.check.bad()
    world.later(10)
    assert (world.one.healthy, world.changes) == (True, 2)
    world.later(5)
    assert (world.one.healthy, world.changes) == (False, 3)
    assert (world.value("became_unhealthy"), world.value("became_healthy")) == (2, 1)
    assert (world.value("checks_passed"), world.value("checks_failed")) == (3, 6)


def test_a_first_result_that_is_good_changes_nothing() -> None:
    """It was believed to be healthy; there is no event."""
    world = World()
    world.checker.start()
    with lines() as logged:
        world.later(0)
    assert (logged, world.changes, world.one.since) == ([], 0, 0.0)
    assert world.value("became_healthy") == 0


def test_intervals_of_the_unhealthy_and_of_the_idle() -> None:
    """Unhealthy ones have their own; without traffic the third holds, for the healthy only."""
    world = World(
        unhealthy_interval="1s",
        no_traffic_interval="60s",
        healthy_threshold=1,
        unhealthy_threshold=1,
    )
    asked = world.check.asked
    world.checker.start()
    world.later(0)
    world.later(5)
    assert len(asked) == 2
    world.later(59.9)
    assert len(asked) == 2
    world.one.answered += 1
    world.later(0.1)
    assert len(asked) == 3
    world.one.failed += 1
    world.later(5)
    assert len(asked) == 4
    world.one.answered += 1
    world.check.bad()
    world.later(5)
    assert (len(asked), world.one.healthy) == (5, False)
    count = len(asked)
    world.later(3)
    assert len(asked) == count + 3
    world.check.good()
    world.later(1)
    count = len(asked)
    world.later(59)
    assert len(asked) == count
    world.later(1)
    assert len(asked) == count + 1


def test_traffic_is_counted_once_for_many() -> None:
    """With n endpoints an interval costs O(n), not O(n²)."""
    counted = 0

    class Counting(tuple[Endpoint, ...]):
        def __iter__(self) -> Any:
            nonlocal counted
            counted += 1
            return super().__iter__()

    world = World(50, no_traffic_interval="60s")
    world.checker.start()
    world.cluster.endpoints = Counting(world.cluster.endpoints)
    world.later(0)
    assert len(world.check.asked) == 50
    assert counted == 1


def test_a_check_that_takes_too_long_is_cancelled() -> None:
    """It fails with the reason ``timeout``, and its Deferred is not forgotten."""
    world = World(timeout="1s")
    world.check.hang()
    world.checker.start()
    world.later(0.9)
    assert (world.check.cancelled, world.one.healthy) == (0, True)
    world.later(0.1)
    assert (world.check.cancelled, world.one.healthy) == (1, False)
    assert world.check.open == []
    said = world.checker.describe(world.one)
    assert said["reason"] == "timeout"
    world.later(4)
    assert len(world.check.asked) == 2


def test_a_check_that_cannot_be_cancelled_has_no_second_one_beside_it() -> None:
    """It counts as a failure each interval until it ends; its late result counts for nothing."""
    world = World(timeout="1s")
    inner: Deferred[None] = Deferred()

    def stubborn(endpoint: Endpoint) -> Deferred[None]:
        outer: Deferred[None] = succeed(None)
        # Swallows the cancellation and waits for something else.
        first: Deferred[None] = Deferred()
        outer.addCallback(lambda _: first)
        outer.addErrback(lambda _: inner)
        return outer

    world.check.answer = stubborn
    world.checker.start()
    world.later(11)
    assert len(world.check.asked) == 1
    assert world.checker.describe(world.one)["consecutive"] == 3
    assert world.checker.describe(world.one)["reason"] == "the check before does not end"
    world.check.good()
    inner.callback(None)
    assert world.checker.describe(world.one)["consecutive"] == 3
    world.later(4)
    assert len(world.check.asked) == 2
    assert world.checker.describe(world.one)["result"] == "passed"


def test_what_a_check_ought_not_to_raise_is_logged_once_for_each_change() -> None:
    """It is a failure as others are, whether raised at once or later; nothing else suffers."""
    world = World()

    def broken(endpoint: Endpoint) -> Any:
        raise KeyError("broken")

    world.check.answer = broken
    world.checker.start()
    with errors() as logged:
        world.later(10)
        assert (len(world.check.asked), len(logged)) == (3, 1)
        assert not world.one.healthy
        assert world.checker.describe(world.one)["reason"] == "KeyError: 'broken'"
        world.check.answer = lambda endpoint: fail(ValueError("later"))
        world.later(10)
        assert len(logged) == 2
        world.check.good()
        world.later(5)
        world.check.answer = broken
        world.later(10)
        assert len(logged) == 3
    assert [failure.type for failure in logged] == [KeyError, ValueError, KeyError]


def test_a_canceller_that_raises_is_logged() -> None:
    """The check has failed all the same, and the next one comes."""
    world = World(timeout="1s")

    def canceller(deferred: Deferred[None]) -> None:
        raise RuntimeError("broken")

    made: list[Deferred[None]] = []

    def ask(endpoint: Endpoint) -> Deferred[None]:
        made.append(Deferred(canceller))
        return made[-1]

    world.check.answer = ask
    world.checker.start()
    with errors() as logged:
        world.later(1)
    assert [failure.type for failure in logged] == [RuntimeError]
    assert not world.one.healthy
    world.later(4)
    assert world.checker.describe(world.one)["consecutive"] == 2
    made[0].callback(None)
    world.later(5)
    assert len(world.check.asked) == 2


def test_a_reason_is_one_short_printable_line() -> None:
    """Whatever an endpoint said, it neither ends the quotes nor the line, nor fills the log."""
    world = World()
    world.check.bad('said "no"\nstate=healthy \x1b[2J' + "é" * 100_000)
    world.checker.start()
    with lines() as logged:
        world.later(0)
    assert r'reason="said \"no\"\nstate=healthy \x1b[2J\xc3\xa9' in logged[0]
    assert logged[0].isascii()
    assert logged[0].isprintable()
    assert len(logged[0]) < 2000


def test_at_most_so_many_at_once() -> None:
    """The others wait in line, and get their turn as checks end, also all at once."""
    count = AT_ONCE * 3
    world = World(count, timeout="1s")
    world.check.hang()
    world.checker.start()
    world.later(0)
    assert len(world.check.open) == AT_ONCE
    world.check.open.pop()[1].callback(None)
    world.later(0)
    assert len(world.check.open) == AT_ONCE
    assert len(world.check.asked) == AT_ONCE + 1
    world.later(1)
    assert len(world.check.open) == AT_ONCE
    world.check.bad()
    world.later(1)
    assert len(set(world.check.asked)) == count
    assert len(world.check.asked) == count


def test_a_long_line_of_checks_that_fail_at_once() -> None:
    """No recursion: a check's end begins the next one in a turn of its own."""
    world = World(1200)
    world.check.hang()
    world.checker.start()
    world.later(0)
    world.check.bad()
    world.later(1)
    world.later(1)
    assert len(set(world.check.asked)) == 1200
    assert sum(endpoint.healthy for endpoint in world.cluster.endpoints) == 0


def test_endpoints_that_come_and_go() -> None:
    """New ones are asked, gone ones cancelled; those that stay keep what was learnt."""
    world = World(2, timeout="4s")
    one, two = world.cluster.endpoints
    world.check.hang()
    world.checker.start()
    world.later(0)
    assert world.check.asked == [one, two]
    world.cluster.update([spec(2), spec(3)])
    assert world.check.cancelled == 1
    assert [endpoint for endpoint, _ in world.check.open] == [two]
    world.later(0)
    assert world.check.asked[2:] == [world.cluster.endpoints[1]]
    assert world.checker.describe(one)["checked"] is False
    assert one.healthy
    assert (world.value("checks_failed"), world.value("checks_passed")) == (0, 0)
    for _, deferred in world.check.open:
        deferred.callback(None)
    world.cluster.update([])
    assert not world.clock.getDelayedCalls()


def test_one_that_is_gone_while_it_waits_in_line() -> None:
    """It leaves the line; who took a place in the meantime gives it back."""
    world = World(AT_ONCE + 3, timeout="100s", interval="200s")
    world.check.hang()
    world.checker.start()
    world.later(0)
    every = list(world.cluster.endpoints)
    # The last in line goes.
    world.cluster.update([each.spec for each in every[:-1]])
    assert every.pop() not in world.cluster.endpoints
    # A running one ends, the first in line is given its place, and is gone before it begins.
    world.check.open.pop(0)[1].callback(None)
    world.cluster.update([each.spec for each in every if each is not every[AT_ONCE]])
    world.later(0)
    assert every[AT_ONCE] not in world.check.asked
    assert every[AT_ONCE + 1] in world.check.asked
    world.check.open.pop(0)[1].callback(None)
    world.later(0)
    assert len(world.check.asked) == AT_ONCE + 1  # nobody is left in line
    world.cluster.update([spec(number) for number in range(2000, 2000 + AT_ONCE)])
    world.later(0)
    assert len(world.check.open) == AT_ONCE


def test_endpoints_that_are_not_to_be_checked() -> None:
    """They count as healthy and are never asked; their source may change its mind."""
    world = World(1)
    world.cluster.update([spec(1, checked=False), spec(2)])
    one = world.cluster.endpoints[0]
    world.checker.start()
    world.later(20)
    assert one not in world.check.asked
    world.check.bad()
    world.cluster.update([spec(1), spec(2)])
    world.later(0)
    changes = world.changes
    assert world.value("became_unhealthy") == 1
    with lines() as logged:
        world.cluster.update([spec(1, checked=False), spec(2)])
    assert one.healthy
    assert world.changes == changes + 2  # the update's own, and the one for health
    assert 'state=healthy check=fake reason="not checked any more"' in logged[0]
    count = world.check.asked.count(one)
    world.later(20)
    assert world.check.asked.count(one) == count


def test_a_passing_check_closes_the_breaker() -> None:
    """One that began while it was open, of an endpoint that is healthy; when configured."""
    world = World(breaker={"failure_threshold": 1}, unhealthy_threshold=1, healthy_threshold=2)
    breaker = world.breaker
    world.check.hang()
    world.checker.start()
    world.later(0)
    breaker.failed(world.one, False)
    # This check began before: it says nothing of what happened since.
    world.check.open.pop()[1].callback(None)
    assert world.one.breaker == OPEN
    world.check.good()
    world.later(5)
    assert world.one.breaker == CLOSED
    world.check.bad()
    world.later(5)
    breaker.failed(world.one, False)
    world.check.good()
    world.later(5)
    assert (world.one.healthy, world.one.breaker) == (False, OPEN)
    world.later(5)
    assert (world.one.healthy, world.one.breaker) == (True, CLOSED)


def test_a_passing_check_leaves_the_breaker_when_told_so() -> None:
    """``closes_breaker: false``, and a cluster without one."""
    world = World(breaker={"failure_threshold": 1}, closes_breaker=False)
    world.checker.start()
    world.breaker.failed(world.one, False)
    world.later(20)
    assert world.one.breaker == OPEN
    assert world.value("checks_passed") == 5
    none = World()
    none.one.breaker = OPEN
    none.checker.start()
    none.later(5)
    assert none.value("checks_passed") == 2


def test_a_cluster_that_raises_does_not_end_the_checks() -> None:
    """A defect of a balancer, say: the error is not lost, and the next check comes."""
    world = World(timeout="1s")

    def broken() -> None:
        raise RuntimeError("a balancer's")

    world.cluster.changed = broken
    world.check.hang()
    world.checker.start()
    with pytest.raises(RuntimeError):
        world.later(1)
    world.later(4)
    assert len(world.check.asked) == 2


def test_stop_cancels_everything() -> None:
    """Running checks, those in line and those to come; and nothing begins afterwards."""
    world = World(AT_ONCE + 10)
    world.check.hang()
    world.checker.start()
    world.checker.start()
    world.later(0)
    world.check.open.pop()[1].callback(None)
    running = len(world.check.open)
    world.checker.stop()
    world.checker.stop()
    assert world.check.cancelled == running
    assert not world.clock.getDelayedCalls()
    assert world.cluster.watchers == []
    world.cluster.update([spec(5000)])
    assert not world.clock.getDelayedCalls()
    # And it can begin again.
    world.checker.start()
    world.later(0)
    assert world.check.asked[-1] is world.cluster.endpoints[0]
    world.checker.stop()


def test_stopped_by_what_a_result_brings_about() -> None:
    """Nothing is scheduled after that either."""
    world = World()
    world.check.bad()
    world.cluster.changed = world.checker.stop
    world.checker.start()
    world.later(0)
    assert not world.one.healthy
    assert not world.clock.getDelayedCalls()


def test_what_the_admin_is_told() -> None:
    """The last result, why, how long ago, and how many such in a row."""
    world = World()
    world.check.bad("refused")
    world.checker.start()
    assert world.checker.describe(world.one) == {
        "check": "fake",
        "healthy": True,
        "checked": True,
        "result": None,
    }
    world.later(7)
    assert world.checker.describe(world.one) == {
        "check": "fake",
        "healthy": False,
        "checked": True,
        "result": "failed",
        "reason": "refused",
        "seconds_ago": 2.0,
        "consecutive": 2,
    }
    world.check.good()
    world.later(3)
    said = world.checker.describe(world.one)
    assert (said["result"], said["reason"], said["consecutive"]) == ("passed", "", 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_any_results(results: list[bool], fall: int, rise: int) -> None:
    """After any results the endpoint is what the thresholds say of them, and each was counted."""
    world = World(unhealthy_threshold=fall, healthy_threshold=rise, interval="1s")
    world.check.hang()
    world.checker.start()
    healthy = True
    for number, passed in enumerate(results):
        world.later(0 if number == 0 else 1)
        _, deferred = world.check.open.pop()
        if passed:
            deferred.callback(None)
        else:
            deferred.errback(CheckFailed("no"))
        seen = results[: number + 1]
        need = rise if passed else fall
        if number == 0 or (len(seen) >= need and set(seen[-need:]) == {passed}):
            healthy = passed
        assert world.one.healthy == healthy
    assert world.value("checks_passed") == sum(results)
    assert world.value("checks_failed") == len(results) - sum(results)
    world.checker.stop()
    assert not world.clock.getDelayedCalls()

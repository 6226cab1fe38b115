"""Circuit breakers: what opens them, for how long, how they come back, and how many may be open."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from meshproxy.upstream.breaker import LOOK
from meshproxy.upstream.endpoint import CLOSED, HALF_OPEN, OPEN
from tests.net.logged import errors
from tests.upstream.breaking import World
from tests.upstream.logged import lines
from tests.upstream.made import cluster as make_cluster
from tests.upstream.made import spec


def test_consecutive_failures_open_it() -> None:
    """At the threshold, not before; the cluster is told, it is counted and logged."""
    world = World(failure_threshold=5)
    with lines() as logged:
        world.fail(world.one, 4)
        assert (world.one.breaker, world.changes, logged) == (CLOSED, 0, [])
        world.fail(world.one)
    assert world.one.breaker == OPEN
    assert world.changes == 1
    assert world.ejections("consecutive") == 1
    assert logged == [
        "breaker cluster=api endpoint=127.0.0.1:1 state=open reason=consecutive failures=5 for=30s"
    ]
    assert [each.breaker for each in world.all[1:]] == [CLOSED] * 9


def test_a_good_response_begins_the_count_anew() -> None:
    """Failures are counted in a row, local ones and others alike."""
    world = World(failure_threshold=3)
    world.fail(world.one, 2)
    world.answer(world.one)
    assert world.one.failures == 0
    world.fail(world.one, 1, local=True)
    world.fail(world.one, 1)
    assert (world.one.breaker, world.one.local_failures) == (CLOSED, 0)
    world.fail(world.one, 1, local=True)
    assert world.one.breaker == OPEN


def test_local_failures_counted_apart() -> None:
    """Each kind has its threshold; a response ends a row of local failures, not the reverse."""
    world = World(failure_threshold=3, local_failure_threshold=2, max_ejection_percent=100)
    one, two, three = world.all[:3]
    world.fail(one, 1, local=True)
    world.fail(one, 1)
    world.fail(one, 1, local=True)
    world.fail(one, 1)
    assert (one.breaker, one.failures, one.local_failures) == (CLOSED, 2, 0)
    world.fail(one, 1, local=True)
    assert (one.breaker, one.failures, one.local_failures) == (CLOSED, 3, 1)
    world.fail(one, 1)
    assert one.breaker == OPEN
    assert world.ejections("consecutive") == 1
    world.fail(two, 2, local=True)
    assert (two.breaker, two.failures, two.local_failures) == (OPEN, 2, 0)
    assert world.ejections("local") == 1
    world.fail(three, 1, local=True)
    world.answer(three)
    assert (three.failures, three.local_failures) == (0, 0)
    world.fail(three, 1, local=True)
    assert three.breaker == CLOSED


def test_a_connection_ends_local_failures_only_where_nobody_waits_for_it() -> None:
    """An endpoint that accepts and resets every request is found; a warm pool's one is forgiven."""
    world = World(failure_threshold=3, local_failure_threshold=2)
    one, two = world.all[:2]
    world.fail(one, 1)
    world.fail(one, 1, local=True)
    world.connect(one)
    assert (one.failures, one.local_failures) == (1, 0)
    two.active = 1
    world.fail(two, 1, local=True)
    world.connect(two)
    world.fail(two, 1, local=True)
    assert two.breaker == OPEN


def test_threshold_zero_counts_nothing() -> None:
    """With failure_threshold 0 only the other ways open it."""
    world = World(failure_threshold=0, local_failure_threshold=2)
    world.fail(world.one, 100)
    assert world.one.breaker == CLOSED
    world.fail(world.one, 2, local=True)
    assert world.one.breaker == OPEN


def test_it_half_opens_when_its_time_is_over_and_closes_with_the_probe() -> None:
    """Offered then; the verdict of the request that took the offer counts."""
    world = World(failure_threshold=1, base_ejection_time="30s")
    world.fail(world.one)
    world.later(29.8)
    assert (world.one.breaker, world.offers) == (OPEN, [])
    with lines() as logged:
        world.later(0.2)
        assert world.one.breaker == HALF_OPEN
        assert world.offers == [world.one]
        assert world.one.failures >= 1
        world.probe(world.one)
        world.answer(world.one)
    assert world.one.breaker == CLOSED
    assert (world.one.failures, world.one.local_failures) == (0, 0)
    assert world.one.since == world.clock.seconds()
    assert world.changes == 3
    assert logged == [
        "breaker cluster=api endpoint=127.0.0.1:1 state=half_open",
        "breaker cluster=api endpoint=127.0.0.1:1 state=closed reason=probe",
    ]


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    """Base times the number of openings, up to the longest; each is counted as a probe's."""
    world = World(failure_threshold=3, base_ejection_time="10s", max_ejection_time="25s")
    world.fail(world.one, 3)
    for seconds in (10, 20, 25, 25):
        world.later(seconds - 0.2)
        assert world.one.breaker == OPEN
        world.later(0.2)
        assert world.one.breaker == HALF_OPEN
        world.probe(world.one)
        with lines() as logged:
            world.fail(world.one, local=seconds == 20)
        world.one.active -= 1
        assert world.one.breaker == OPEN
        longer = min(seconds + 10, 25)
        assert logged == [
            f"breaker cluster=api endpoint=127.0.0.1:1 state=open reason=probe for={longer}s"
        ]
    assert world.ejections("probe") == 4
    assert world.ejections("consecutive") == 1
    assert len(world.offers) == 4


def test_the_factor_grows_no_more_than_it_has_to() -> None:
    """Once the longest time is reached: otherwise it would be forgiven as slowly as it grew."""
    world = World(failure_threshold=1, base_ejection_time="10s", max_ejection_time="20s")
    world.fail(world.one)
    for times in (1, 2, 2, 2):
        assert world.times(world.one) == times
        world.later(20)
        world.probe(world.one)
        world.fail(world.one)
        world.one.active -= 1


def test_probes_where_local_failures_are_counted_apart() -> None:
    """A probe's failure opens it again, of whichever kind."""
    world = World(failure_threshold=1, local_failure_threshold=1)
    world.fail(world.one)
    for number, local in enumerate((True, False), 1):
        world.later(30 * number)
        assert world.one.breaker == HALF_OPEN
        world.fail(world.one, 1, local)
        assert world.one.breaker == HALF_OPEN
        world.probe(world.one)
        world.fail(world.one, 1, local)
        world.one.active -= 1
        assert (world.one.breaker, world.ejections("probe")) == (OPEN, number)


def test_each_offer_is_taken_anew() -> None:
    """After a failed probe, what comes late does not count for the next one."""
    world = World(failure_threshold=1)
    world.fail(world.one)
    world.later(30)
    world.probe(world.one)
    world.fail(world.one)
    world.later(60)
    assert world.one.breaker == HALF_OPEN
    world.answer(world.one)
    assert world.one.breaker == HALF_OPEN


def test_an_offer_that_is_taken_and_not_used() -> None:
    """Whoever took it has a second; to be told twice, or of one that is closed, means nothing."""
    world = World(failure_threshold=1, base_ejection_time="3s")
    world.breaker.taken(world.one)
    assert not len(world.cluster.wheel)
    world.fail(world.one)
    world.later(3)
    world.breaker.taken(world.one)
    world.later(LOOK / 2)
    assert len(world.offers) == 1
    world.breaker.taken(world.one)
    world.later(LOOK / 2)
    assert len(world.offers) == 2


def test_a_cluster_that_raises_does_not_keep_it_from_being_offered() -> None:
    """A defect of a balancer, say: it would be half-open for ever."""
    world = World(failure_threshold=1)
    world.fail(world.one)

    def broken() -> None:
        raise RuntimeError("a balancer's")

    world.cluster.changed = broken
    with errors() as logged:
        world.later(30)
    assert world.offers == [world.one]
    assert [failure.type for failure in logged] == [RuntimeError]


def test_late_results_of_requests_from_before() -> None:
    """They neither close nor open it again, nor lengthen it: open, and half-open but not taken."""
    world = World(failure_threshold=1)
    world.one.active = 4
    world.fail(world.one)
    changes = world.changes
    world.answer(world.one)
    world.fail(world.one)
    assert world.one.breaker == OPEN
    world.later(30)
    assert world.one.breaker == HALF_OPEN
    world.answer(world.one)
    world.fail(world.one)
    assert world.one.breaker == HALF_OPEN
    assert world.changes == changes + 1
    assert world.one.failures >= 1
    assert world.ejections("probe") == 0
    assert world.times(world.one) == 1


def test_slow_start_needs_no_probe() -> None:
    """With ``half_open: slow_start`` it closes at its time, and the endpoint counts as new."""
    world = World(failure_threshold=1, half_open="slow_start")
    world.fail(world.one)
    world.later(30)
    assert world.one.breaker == CLOSED
    assert world.one.failures == 0
    assert 30 <= world.one.since <= world.clock.seconds()
    assert world.offers == []


def test_a_probe_without_a_verdict_is_offered_again() -> None:
    """Its client left: once nothing is in flight any more, somebody else may try."""
    world = World(failure_threshold=1)
    world.fail(world.one)
    world.later(30)
    world.later(100)
    assert len(world.offers) == 1  # not taken: nothing to look at
    assert not len(world.cluster.wheel)
    world.probe(world.one)
    world.later(LOOK * 3)
    assert len(world.offers) == 1
    world.one.active -= 1
    world.later(LOOK)
    assert world.offers == [world.one] * 2
    world.answer(world.one)
    assert world.one.breaker == HALF_OPEN  # that offer has not been taken
    world.probe(world.one)
    world.answer(world.one)
    assert world.one.breaker == CLOSED


def test_old_connections_do_not_keep_a_lost_probe_from_being_offered_again() -> None:
    """A long download from before hides that the probe's client left, for an ejection's time."""
    world = World(failure_threshold=1, base_ejection_time="10s")
    world.one.active = 1
    world.fail(world.one)
    world.later(10)
    world.probe(world.one)
    world.one.active -= 1
    world.later(8)
    assert len(world.offers) == 1
    world.later(3)
    assert len(world.offers) == 2


def test_as_many_as_are_allowed_and_one_always() -> None:
    """Refused ones are counted, and their next failure tries again."""
    world = World(4, failure_threshold=2, max_ejection_percent=50)
    for endpoint in world.all:
        world.fail(endpoint, 2)
    assert [each.breaker for each in world.all] == [OPEN, OPEN, CLOSED, CLOSED]
    refused = world.cluster.stats.ejections_refused
    assert world.value(refused) == 2
    assert world.all[2].failures == 2
    world.breaker.close(world.one, "test")
    world.fail(world.all[2])
    assert world.all[2].breaker == OPEN
    assert world.value(refused) == 2
    none = World(2, failure_threshold=1, max_ejection_percent=0)
    for endpoint in none.all:
        none.fail(endpoint)
    assert [each.breaker for each in none.all] == [OPEN, CLOSED]


def test_half_open_ones_count_as_given_up() -> None:
    """Half-open endpoints take the place of others, and reopening needs no place."""
    world = World(4, failure_threshold=1, max_ejection_percent=25)
    world.fail(world.one)
    world.later(30)
    assert world.one.breaker == HALF_OPEN
    world.fail(world.all[1])
    assert world.all[1].breaker == CLOSED
    world.probe(world.one)
    world.fail(world.one)
    assert (world.one.breaker, world.breaker.ejected) == (OPEN, 1)


def test_quiet_intervals_forgive() -> None:
    """Each interval without an opening takes one off the factor; then no timer is left."""
    world = World(failure_threshold=1, base_ejection_time="10s", interval="5s")
    world.fail(world.one)
    world.later(10)
    world.probe(world.one)
    world.fail(world.one)
    world.one.active -= 1
    world.later(20)
    world.probe(world.one)
    world.answer(world.one)
    assert world.times(world.one) == 2
    world.later(4.8)
    assert world.times(world.one) == 2
    world.later(0.2)
    assert world.times(world.one) == 1
    world.later(5)
    assert world.times(world.one) == 0
    assert not len(world.cluster.wheel)
    assert not world.clock.getDelayedCalls()
    world.fail(world.one)
    assert world.breaker.describe(world.one)["seconds"] == 10


def test_opening_again_soon_lasts_longer() -> None:
    """What closed a moment ago and fails again is given up for twice the time."""
    world = World(failure_threshold=1, base_ejection_time="10s")
    world.fail(world.one)
    world.later(10)
    world.probe(world.one)
    world.answer(world.one)
    world.later(1)
    world.fail(world.one)
    assert world.breaker.describe(world.one)["seconds"] == 20


def test_a_passing_health_check_closes_it() -> None:
    """At any time; there is nothing to close in a closed one."""
    world = World(failure_threshold=1)
    world.breaker.close(world.one, "health")
    assert world.changes == 0
    world.fail(world.one)
    with lines() as logged:
        world.breaker.close(world.one, "health")
    assert (world.one.breaker, world.one.failures, world.changes) == (CLOSED, 0, 2)
    assert logged == ["breaker cluster=api endpoint=127.0.0.1:1 state=closed reason=health"]
    world.later(60)
    assert (world.one.breaker, world.offers) == (CLOSED, [])


def test_an_endpoint_that_is_removed_while_open_is_forgotten() -> None:
    """It makes room for others, its timer goes, and what comes late changes nothing."""
    world = World(3, failure_threshold=1, max_ejection_percent=0)
    world.fail(world.one)
    world.cluster.update([spec(2), spec(3)])
    assert world.breaker.ejected == 0
    assert not len(world.cluster.wheel)
    world.fail(world.all[1])
    assert world.all[1].breaker == OPEN
    world.fail(world.all[2])
    assert world.all[2].breaker == CLOSED
    # Nobody asked before its time came.
    world.cluster.update([spec(3)])
    world.later(30)
    assert world.offers == []
    assert not len(world.cluster.wheel)
    gone = world.all[1]
    world.answer(gone)
    world.fail(gone)
    world.cluster.update([])
    changes = world.changes
    world.fail(world.all[2], 10)
    assert (world.all[2].breaker, world.changes) == (CLOSED, changes)


def test_stop_lets_go_of_the_wheel() -> None:
    """Nothing is armed, nor will be by what is reported afterwards."""
    world = World(
        4, failure_threshold=2, max_ejection_percent=100, failure_percentage={"min_endpoints": 1}
    )
    one, two, three, four = world.all
    for endpoint in (one, two, three):
        world.fail(endpoint, 2)
    world.breaker.close(two, "test")
    assert len(world.cluster.wheel) == 4
    world.breaker.stop()
    assert not len(world.cluster.wheel)
    world.fail(four, 5)
    world.breaker.close(three, "test")
    assert four.breaker == CLOSED
    assert not len(world.cluster.wheel)


def test_what_the_admin_is_told() -> None:
    """The state in a word, and what explains it."""
    world = World(failure_threshold=1)
    say = world.breaker.describe
    assert say(world.one) == {"state": "closed", "failures": 0, "local_failures": 0}
    world.fail(world.one)
    assert say(world.one) == {
        "state": "open",
        "failures": 1,
        "local_failures": 0,
        "times": 1,
        "reason": "consecutive",
        "seconds": 30.0,
    }
    world.later(30)
    assert say(world.one) == {
        "state": "half_open",
        "failures": 1,
        "local_failures": 0,
        "times": 1,
        "reason": "consecutive",
    }


def test_what_is_picked_meanwhile() -> None:
    """With the cluster's own choice: others while it is open, one probe, then its share again."""
    clock = Clock()
    cluster: Any = make_cluster(
        [spec(1), spec(2)],
        clock=clock,
        balance="round_robin",
        circuit_breaker={"failure_threshold": 2, "base_ejection_time": "10s"},
    )
    one, two = cluster.endpoints
    group = cluster.group()
    assert {group.pick(), group.pick()} == {one, two}
    for _ in range(2):
        one.failed += 1
        cluster.breaker.failed(one, True)
    assert [group.pick() for _ in range(4)] == [two] * 4
    for _ in range(202):
        clock.advance(0.05)
    assert one.breaker == HALF_OPEN
    assert [group.pick() for _ in range(4)].count(one) == 1
    one.active += 1
    assert [group.pick() for _ in range(4)] == [two] * 4
    one.answered += 1
    cluster.breaker.succeeded(one)
    assert [group.pick() for _ in range(4)].count(one) == 2
    # When none is left, nobody waits.
    config = {"failure_threshold": 1}
    alone: Any = make_cluster([spec(1)], clock=clock, circuit_breaker=config)
    alone.breaker.failed(alone.endpoints[0], False)
    assert alone.group().pick() is None
    cluster.breaker.stop()
    alone.breaker.stop()

"""Requests that wait for another."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from meshproxy.filters._cache_collapse import ALONE, LEAD, READY, Flights


def flights(clock: Clock, limit: int = 2) -> Flights:
    """Two wait for 5 s; a key that cannot be shared is left alone for 10 s."""
    return Flights(limit, 5.0, 10.0, clock.callLater, clock.seconds)


def joined(held: Flights, results: list[int]) -> Deferred[int]:
    """A waiter for the key ``k``."""
    waiter = held.join("k")
    assert waiter is not None
    waiter.addCallback(results.append)
    return waiter


def test_all_go_on_when_it_is_there() -> None:
    """Everybody learns the outcome, once, and no timer stays."""
    clock = Clock()
    held = flights(clock)
    flight = held.lead("k")
    assert flight is not None
    assert held.lead("k") is None
    results: list[int] = []
    joined(held, results)
    joined(held, results)
    assert held.join("k") is None  # two are enough
    assert held.waiting == 2
    held.land(flight, READY)
    held.land(flight, ALONE)
    assert results == [READY, READY]
    assert len(held) == 0
    assert clock.getDelayedCalls() == []
    assert held.join("k") is None


def test_nobody_waits_for_ever() -> None:
    """After the time since the first one came all go on by themselves."""
    clock = Clock()
    held = flights(clock)
    flight = held.lead("k")
    assert flight is not None
    results: list[int] = []
    joined(held, results)
    clock.advance(4.0)
    joined(held, results)
    clock.advance(1.0)
    assert results == [ALONE, ALONE]
    held.land(flight, READY)
    assert results == [ALONE, ALONE]


def test_the_next_goes_ahead() -> None:
    """When the first gives up, one of those who wait takes its place, the others wait on."""
    clock = Clock()
    held = flights(clock)
    flight = held.lead("k")
    assert flight is not None
    first: list[int] = []
    second: list[int] = []
    joined(held, first)
    joined(held, second)
    held.give_up(flight)
    assert (first, second) == ([LEAD], [])
    held.land(flight, READY)
    assert second == [READY]
    again = held.lead("k")
    assert again is not None
    held.give_up(again)
    assert len(held) == 0


def test_a_waiter_that_goes_takes_nobody_with_it() -> None:
    """It is taken out; without any the timer goes too."""
    clock = Clock()
    held = flights(clock)
    flight = held.lead("k")
    assert flight is not None
    results: list[int] = []
    failures = []
    first = joined(held, results)
    first.addErrback(lambda failure: failures.append(failure.check(CancelledError)))
    joined(held, results)
    first.cancel()
    held.land(flight, READY)
    assert results == [READY]
    assert failures == [CancelledError]
    flight = held.lead("k")
    lone = held.join("k")
    assert lone is not None
    lone.addErrback(lambda failure: None)
    lone.cancel()
    assert clock.getDelayedCalls() == []


def test_what_cannot_be_shared_is_not_waited_for() -> None:
    """For a time; and no more keys are remembered than there may be."""
    clock = Clock()
    held = flights(clock)
    flight = held.lead("k")
    assert flight is not None
    held.land(flight, ALONE, True)
    assert held.lead("k") is None
    assert held.join("k") is None
    clock.advance(10.0)
    assert held.lead("k") is not None
    for number in range(held.APART + 10):
        other = held.lead(number)
        assert other is not None
        held.land(other, ALONE, True)
    assert len(held._apart) <= held.APART
    assert all(isinstance(key, int) for key in held._apart)  # not the URLs, which may be long


def test_without_waiters_it_is_off() -> None:
    """0: nobody goes ahead of anybody."""
    held = flights(Clock(), 0)
    assert held.lead("k") is None
    assert held.join("k") is None


def test_stopping_lets_everybody_go() -> None:
    """At the end nobody waits, and nothing is timed."""
    clock = Clock()
    held = flights(clock)
    held.lead("k")
    results: list[int] = []
    joined(held, results)
    held.stop()
    assert results == [ALONE]
    assert clock.getDelayedCalls() == []

"""The filter concurrency, in the real chain over fake transports."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshproxy.api import Response
from meshproxy.filters.concurrency import Concurrency
from meshproxy.interfaces import IExchangeObserver, IFilterService
from meshproxy.testing import Driven, Kit


def made(**options: Any) -> Concurrency:
    """A filter with these options."""
    return Concurrency(Concurrency.Options.model_validate(options))


@pytest.fixture
def kit() -> Kit:
    """A place whose endpoint answers when the test says so, also those that had to wait."""
    kit = Kit()
    kit.beside = None
    return kit


def begin(kit: Kit, held: Concurrency, client: int = 1, **request: Any) -> Driven:
    """A request of a client, in flight."""
    return kit.drive(held, client=b"192.0.2.%d:1" % client, **{"response": None, **request})


def is_in(driven: Driven) -> bool:
    """Whether it was let in, and has no answer yet."""
    return not driven.waiting and not driven.status


def empty(kit: Kit, held: Concurrency) -> bool:
    """Whether nothing is left of anybody."""
    numbers = kit.shown["concurrency"]()
    gauges = [kit.counters.get(name, 0) for name in ("active", "waiting")]
    left = [held._keys, held._waiting, held._turns]
    return numbers == {"active": 0, "waiting": 0, "keys": 0} and not any([*gauges, *left])


def test_too_many_at_a_time(kit: Kit) -> None:
    """Two are in, the third is refused; when one is over the next comes in."""
    held = made(requests=2)
    first, second = begin(kit, held), begin(kit, held)
    third = begin(kit, held)
    assert (third.status, third.body) == (503, b"concurrency_limited")
    assert third.details == b"concurrency_limited"
    assert third.headers.get(b"retry-after") == b"1"
    assert third.upstream is None
    assert is_in(begin(kit, held, client=2))
    first.answer()
    assert is_in(begin(kit, held))
    assert is_in(second)
    assert kit.counters["refused{reason=queue_full}"] == 1
    assert kit.counters["active"] == 3


def test_in_all(kit: Kit) -> None:
    """``total`` holds for all keys together, with ``requests`` or alone."""
    for held in (made(total=2), made(requests=2, total=2)):
        one, two = begin(kit, held, 1), begin(kit, held, 2)
        assert begin(kit, held, 3).status == 503
        one.answer()
        two.answer()
        assert begin(kit, held, 3, response=Response(200)).status == 200


def test_waiting_in_order(kit: Kit) -> None:
    """Requests of a key come in one by one, in the order in which they came."""
    held = made(requests=1, queue=3, wait="10s")
    flights = [begin(kit, held) for _ in range(5)]
    assert [driven.waiting for driven in flights] == [False, True, True, True, False]
    assert flights[4].status == 503
    for at in range(4):
        assert [is_in(driven) for driven in flights[:4]] == [at == other for other in range(4)]
        flights[at].answer(204)
        assert flights[at].status == 204
    assert empty(kit, held)
    assert kit.counters["waited"] == 3


def test_who_waits_is_not_overtaken(kit: Kit) -> None:
    """A place that becomes free is that of who waits, not of who comes."""
    held = made(requests=1, queue=3)
    first, second = begin(kit, held), begin(kit, held)
    first.answer()
    third = begin(kit, held)
    assert (is_in(second), third.waiting) == (True, True)


def test_one_key_does_not_wait_for_another(kit: Kit) -> None:
    """A client with a long queue holds nobody else up, and each key has its own queue."""
    held = made(requests=1, queue=1)
    begin(kit, held, 1)
    assert begin(kit, held, 1).waiting
    assert begin(kit, held, 1).status == 503
    other = begin(kit, held, 2)
    assert is_in(other)
    assert begin(kit, held, 2).waiting


def test_keys_take_turns_for_the_total(kit: Kit) -> None:
    """Where all wait for the total, each client gets its turn, however many requests one has."""
    held = made(total=1, requests=1, queue=10, wait="10s")
    running = begin(kit, held, 9)
    waiting = [(client, begin(kit, held, client)) for client in (1, 1, 1, 2, 3)]
    order = []
    while True:
        running.answer()
        found = [pair for pair in waiting if is_in(pair[1])]
        if not found:
            break
        ((client, running),) = found
        order.append(client)
    assert order == [1, 2, 3, 1, 1]
    assert empty(kit, held)


def test_waiting_for_too_long(kit: Kit) -> None:
    """After ``wait`` a request is refused; those behind it have their own time."""
    held = made(requests=1, queue=5, wait="2s", retry_after="5s")
    first, second = begin(kit, held), begin(kit, held)
    kit.advance(1.0)
    third = begin(kit, held)
    kit.advance(1.1)
    assert (second.status, second.details) == (503, b"concurrency_limited")
    assert second.headers.get(b"retry-after") == b"5"
    assert third.waiting
    assert is_in(first)
    kit.advance(1.0)
    assert third.status == 503
    assert kit.counters["refused{reason=waited_too_long}"] == 2
    first.answer()
    assert empty(kit, held)
    assert held._timer is None


def test_the_queue_in_all_is_bounded(kit: Kit) -> None:
    """``queue_total`` holds for all keys together."""
    held = made(requests=1, queue=5, queue_total=2)
    for client in (1, 2, 3):
        begin(kit, held, client)
    assert [begin(kit, held, client).waiting for client in (1, 2, 3)] == [True, True, False]


def test_a_client_that_goes_while_it_waits(kit: Kit) -> None:
    """It leaves the queue at once, gets no place later, and holds nobody up."""
    held = made(requests=1, queue=2, wait="10s")
    first, second, third = (begin(kit, held) for _ in range(3))
    second.disconnect()
    assert begin(kit, held).waiting
    first.answer()
    assert is_in(third)
    assert second.upstream is None


@pytest.mark.parametrize("ending", ["answer", "disconnect", "fail", "cut", "timeout"])
def test_a_place_is_given_back_however_it_ends(kit: Kit, ending: str) -> None:
    """An answer, a client or endpoint that goes, a body cut short, a timeout: each frees it."""
    held = made(requests=1)
    driven = begin(kit, held)
    if ending == "cut":
        driven.answer(200, {}, b"half", end=False)
        driven.fail()
    elif ending == "timeout":
        kit.advance(15.1)
    else:
        getattr(driven, ending)()
    assert driven.over
    assert empty(kit, held)


def test_a_place_is_held_until_the_response_ends(kit: Kit) -> None:
    """A response that is being sent still takes a place."""
    held = made(requests=1)
    driven = begin(kit, held)
    driven.answer(200, {}, b"first", end=False)
    assert begin(kit, held).status == 503
    driven.answer_end(b"last")
    assert empty(kit, held)


def test_the_route_may_run_out_of_time_first(kit: Kit) -> None:
    """Who waits longer than the route allows is answered 504, and leaves the queue."""
    held = made(requests=1, queue=1, wait="1m")
    begin(kit, held, response=None).answer(200, {}, b"", end=False)
    driven = begin(kit, held)
    kit.advance(15.1)
    assert driven.status == 504
    assert kit.counters.get("waiting", 0) == 0


def test_many_that_are_over_as_soon_as_they_are_in(kit: Kit) -> None:
    """A thousand waiting requests, each answered the moment it comes in, need no deeper stack."""
    held = made(requests=1, queue=1000)
    first = begin(kit, held)
    flights = [begin(kit, held, response=Response(204)) for _ in range(1000)]
    kit.beside = Response(204)
    first.answer()
    assert {driven.status for driven in flights} == {204}
    assert empty(kit, held)


def test_many_that_are_refused_at_once(kit: Kit) -> None:
    """All that waited too long are refused by one timer, in order."""
    held = made(requests=1, queue=1000, wait="1s")
    first = begin(kit, held)
    before = len(kit.clock.getDelayedCalls())
    flights = [begin(kit, held) for _ in range(500)]
    assert len(kit.clock.getDelayedCalls()) <= before + 1
    kit.advance(1.1)
    assert {driven.status for driven in flights} == {503}
    first.answer()
    assert empty(kit, held)


@implementer(IExchangeObserver)
class _Again:
    """When an exchange is over, it calls what the test gave it, once."""

    def __init__(self) -> None:
        self.then: Callable[[], object] | None = None

    def finished(self, exchange: Any) -> None:
        """Call it."""
        then, self.then = self.then, None
        if then is not None:
            then()


def test_who_comes_while_others_are_let_in(kit: Kit) -> None:
    """A request that comes at the moment a place is free stands behind those that wait."""
    held, again = made(total=1, queue=9), _Again()

    def fly(response: Response | None) -> Driven:
        return kit.drive(held, again, response=response)

    first = fly(None)
    second, third = fly(Response(204)), fly(None)
    late: list[Driven] = []
    again.then = lambda: late.append(fly(None))  # when the second, just let in, is over
    first.answer()
    assert second.status == 204
    assert is_in(third)
    assert late[0].waiting


def test_who_comes_while_others_are_refused(kit: Kit) -> None:
    """A request that begins to wait while one has waited too long has its own time and no more."""
    held, again = made(requests=1, queue=9, wait="2s"), _Again()

    def fly() -> Driven:
        return kit.drive(held, again, response=None)

    fly().answer(200, {}, b"", end=False)
    flights = [fly()]
    kit.clock.advance(1.0)
    flights.append(fly())
    again.then = lambda: flights.append(fly())
    for _ in range(3):
        kit.clock.advance(0.5)
    assert [driven.status for driven in flights] == [503, 0, 0]
    calls: Any = kit.clock.getDelayedCalls()
    assert [call.func for call in calls].count(held._expire) == 1
    kit.clock.advance(0.5)
    assert [driven.status for driven in flights] == [503, 503, 0]
    kit.clock.advance(1.0)
    assert [driven.status for driven in flights] == [503, 503, 503]
    assert held._timer is None


def test_a_place_is_given_back_once(kit: Kit) -> None:
    """Who is told twice that an exchange is over frees one place."""
    held = made(requests=2)
    first, second = begin(kit, held), begin(kit, held)
    first.answer()
    held.finished(first.exchange)
    assert kit.shown["concurrency"]()["active"] == 1
    second.answer()
    assert empty(kit, held)


@pytest.mark.parametrize("seed", range(5))
def test_no_key_leaks_whatever_happens(kit: Kit, seed: int) -> None:
    """A thousand beginnings and endings by chance: never too much, and nothing left."""
    chance = random.Random(seed)
    held = made(requests=3, total=8, queue=4, queue_total=12, wait="500ms", keys=5)
    flights: list[Driven] = []
    for _ in range(1000):
        kit.beside = chance.choice([None, Response(200)])
        event = chance.randrange(8)
        if event < 4 or not flights:
            response = chance.choice([None, None, Response(204)])
            flights.append(begin(kit, held, chance.randrange(9), response=response))
        elif event == 7:
            kit.clock.advance(chance.choice([0.0, 0.05, 0.3]))
        else:
            driven = flights.pop(chance.randrange(len(flights)))
            if driven.over:
                continue
            if driven.waiting or event == 4:
                driven.disconnect()
            elif driven.status:
                driven.answer_end(b"x")
            elif event == 5:
                driven.answer(200, {}, b"x" * chance.randrange(3), end=chance.random() < 0.5)
                if not driven.over:
                    flights.append(driven)
            else:
                driven.fail()
        assert held._active <= 8
        assert len(held._waiting) <= 12
        assert len(held._keys) <= 6
        assert all(key.active <= 3 for key in held._keys.values())
        assert held._active == sum(key.active for key in held._keys.values())
        assert len(held._waiting) == sum(len(key.waiting or ()) for key in held._keys.values())
        # Nobody waits while there is room for him.
        room = held._active < 8
        assert not any(room and key.waiting and key.active < 3 for key in held._keys.values())
    for driven in flights:
        if not driven.over:
            driven.disconnect()
    assert empty(kit, held)


def test_who_does_not_say_who_he_is(kit: Kit) -> None:
    """Without what ``by`` names: one key for all of them, no limit, or a refusal."""
    by = {"header": "x-user"}
    share = made(requests=1, by=by)
    assert [begin(kit, share).status for _ in range(2)] == [0, 503]
    skip = made(requests=1, by=by, missing="skip")
    assert [begin(kit, skip).status for _ in range(2)] == [0, 0]
    refuse = made(requests=1, by=by, missing="refuse")
    refused = begin(kit, refuse)
    assert (refused.status, refused.details) == (400, b"concurrency_key_missing")
    assert begin(kit, refuse, headers={b"x-user": b"ann"}).status == 0
    assert kit.counters["refused{reason=no_key}"] == 1


@pytest.mark.parametrize(("full", "expected"), [("share", [0, 503]), ("refuse", [503, 503])])
def test_more_keys_than_places(kit: Kit, full: str, expected: list[int]) -> None:
    """New keys are one together, or refused; a key that is there is not disturbed."""
    held = made(requests=1, keys=2, full=full)
    one, two = begin(kit, held, 1), begin(kit, held, 2)
    others = [begin(kit, held, 3), begin(kit, held, 4)]
    assert [driven.status for driven in others] == expected
    assert kit.counters["crowded"] == 2
    one.answer()
    assert is_in(begin(kit, held, 1)) or full == "share"
    two.disconnect()


def test_only_what_matches_counts(kit: Kit) -> None:
    """Other requests pass without limit, and free nobody's place when they end."""
    held = made(requests=1, match={"paths": {"prefix": "/slow/"}})
    assert is_in(begin(kit, held, target=b"/slow/x"))
    assert [begin(kit, held, response=Response(200)).status for _ in range(3)] == [200] * 3
    assert begin(kit, held, target=b"/slow/x").status == 503


def test_another_answer(kit: Kit) -> None:
    """Status and body can be set."""
    held = made(requests=1, status=429, body="later")
    begin(kit, held)
    refused = begin(kit, held)
    assert (refused.status, refused.body) == (429, b"later")


def test_a_stop_cancels_the_timer(kit: Kit) -> None:
    """Nothing of a stopped filter is left in the reactor."""
    held = made(requests=1, queue=1)
    begin(kit, held)
    begin(kit, held)
    timer = held._timer
    assert timer is not None
    kit.stop(held)
    assert not timer.active()
    assert verifyObject(IFilterService, held)
    assert verifyObject(IExchangeObserver, held)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "'requests' and 'total' is needed"),
        ({"total": 5, "by": "route"}, "'by' does nothing without 'requests'"),
        ({"requests": 5, "total": 4}, "never be reached"),
        ({"requests": 5, "wait": "1s"}, "'wait' does nothing without 'queue'"),
        ({"requests": 5, "queue_total": 1}, "'queue_total' does nothing"),
        ({"requests": 0}, "greater than or equal to 1"),
        ({"requests": 1, "queue": 1, "wait": 0}, "cannot be 0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    """What limits nothing or does nothing is told in words."""
    with pytest.raises(ValidationError, match=said):
        made(**options)

"""What overload does to an HTTP listener, and that it is undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.http import shedding as module
from meshproxy.http.shedding import HttpShedding
from tests.http.world import PLAIN, Transport, World, body, get, head, ok, post, status

Make = Callable[..., World]
SHORT = PLAIN.replace("http:", "http:\n      idle_timeout: 2s")
ENDLESS = PLAIN.replace("http:", "http:\n      idle_timeout: 0")
UPGRADING = PLAIN.replace("- to: site", "- { to: site, upgrades: [websocket] }")


def shedding(made: World, *spare: str) -> HttpShedding:
    """The listener's."""
    return HttpShedding(made.listener, made.registry, spare)


def served(made: World, client: Transport, request: bytes = get()) -> bytes:
    """Have a request answered by the upstream; what the client got."""
    client.receive(request)
    made.turn()
    made.upstream.receive(ok(b"fine"))
    made.turn()
    sent, client.sent = client.sent, b""
    return sent


def refused(made: World, client: Transport, request: bytes = get()) -> bytes:
    """Have a request answered without the upstream; what the client got."""
    client.receive(request)
    made.turn()
    sent, client.sent = client.sent, b""
    return sent


def test_a_request_is_shed_and_the_connection_kept(world: Make) -> None:
    """503 in Envoy's words, at once, without an upstream; the next request may be served."""
    made = world()
    shed = shedding(made)
    client = made.client()
    shed.shed(True)
    answer = refused(made, client)
    assert (status(answer), body(answer)) == (503, b"envoy overloaded")
    assert head(answer)[b"x-envoy-overloaded"] == b"true"
    assert b"connection" not in head(answer)
    assert made.attempts == []
    assert (made.records[0].details, made.records[0].flags) == (b"overload", b"-")
    assert made.value(shed.shed_slot) == 1
    shed.shed(False)
    assert status(served(made, client)) == 200
    assert made.value(shed.shed_slot) == 1
    made.settle()


def test_a_request_pays_nothing_while_nothing_is_wrong(world: Make) -> None:
    """The listener's look-up is the router's own before and after, not a wrapper of it."""
    made = world()
    before = made.listener.match
    shed = shedding(made)
    assert made.listener.match is before
    for _ in range(2):
        shed.shed(True)
        shed.shed(True)
        assert made.listener.match is not before
        shed.shed(False)
        shed.shed(False)
        assert made.listener.match is before


def test_requests_in_flight_are_finished(world: Make) -> None:
    """What had begun gets its answer; what comes behind it on the connection is shed."""
    made = world()
    shed = shedding(made)
    client = made.client(get())
    made.turn()
    assert shed.in_flight == 1
    shed.shed(True)
    client.receive(get(b"/next"))
    made.turn()
    made.upstream.receive(ok(b"fine"))
    made.turn()
    first, _, second = client.sent.partition(b"fine")
    assert (status(first), status(second)) == (200, 503)
    assert shed.in_flight == 0
    made.settle()


def test_a_request_that_a_filter_sends_back_is_in_flight(world: Make) -> None:
    """One that has passed a filter already is matched as ever."""
    made = world()
    shed = shedding(made)
    (route,) = made.listener.routes
    shed.shed(True)

    class Begun:
        filtering = object()
        target = b"/"

    asked: Any = made.listener.match
    assert asked(Begun()) is route


def test_spared_paths_are_served(world: Make) -> None:
    """By their path without the query, and no other that only begins so."""
    made = world()
    shed = shedding(made, "/healthz")
    shed.shed(True)
    client = made.client()
    assert status(served(made, client, get(b"/healthz?full=1"))) == 200
    assert status(refused(made, client, get(b"/healthz/x"))) == 503
    made.settle()


def test_an_upgrade_is_shed_likewise(world: Make) -> None:
    """503, not the 403 of an upgrade that no route takes, with and without such a route."""
    for text in (PLAIN, UPGRADING):
        made = world(text)
        shedding(made).shed(True)
        lines = (b"Connection: upgrade", b"Upgrade: websocket")
        assert status(refused(made, made.client(), get(b"/", *lines))) == 503
        made.settle()


def test_a_request_whose_body_is_still_to_come(world: Make) -> None:
    """The answer does not wait for it; the connection cannot be used again."""
    made = world()
    shedding(made).shed(True)
    client = made.client()
    answer = refused(made, client, post(b"part", length=1000))
    assert status(answer) == 503
    assert head(answer)[b"connection"] == b"close"
    answer = refused(made, made.client(), post(b"whole"))
    assert status(answer) == 503
    assert b"connection" not in head(answer)
    made.settle()


def test_a_reload_may_change_what_is_matched_meanwhile(world: Make) -> None:
    """A new look-up is shed at the next call, and is there when shedding ends."""
    made = world()
    shed = shedding(made)
    shed.shed(True)

    def reloaded(exchange: Any) -> None:
        return None

    made.listener.match = reloaded
    shed.shed(True)
    assert status(refused(made, made.client())) == 503
    shed.shed(False)
    assert status(refused(made, made.client())) == 404
    made.settle()


def test_idle_connections_are_closed_sooner(world: Make) -> None:
    """Old and new ones alike; one with a request in flight is left alone."""
    made = world()
    shed = shedding(made)
    used, silent, busy = made.client(), made.client(), made.client()
    served(made, used)
    busy.receive(get())
    made.turn(1.0)
    shed.shorten_idle(5.0)
    shed.shorten_idle(5.0)
    new = made.client()
    made.turn(4.2)
    assert (used.gone, silent.gone, busy.gone, new.gone) == (True, True, False, False)
    made.turn(1.0)
    assert (busy.gone, new.gone) == (False, True)
    made.settle()


def test_a_connection_that_becomes_idle_meanwhile(world: Make) -> None:
    """The next call finds it: its own deadline, of before, would be an hour away."""
    made = world()
    shed = shedding(made)
    client = made.client(get())
    shed.shorten_idle(5.0)
    shed.shorten_idle(5.0)
    made.turn(10.0)
    made.upstream.receive(ok(b"fine"))
    made.turn()
    for _ in range(4):
        shed.shorten_idle(5.0)
    made.turn(4.9)
    assert not client.gone
    made.turn(0.2)
    assert client.gone
    made.settle()


def test_afterwards_connections_may_be_idle_as_before(world: Make) -> None:
    """Also those whose deadline was moved: it is looked at again, not kept."""
    made = world()
    shed = shedding(made)
    client = made.client()
    shed.shorten_idle(5.0)
    shed.shorten_idle(5.0)
    shed.shorten_idle(0.0)
    assert made.listener.idle_timeout == 3600.0
    made.turn(3599.0)
    assert not client.gone
    made.turn(2.0)
    assert client.gone
    made.settle()


@pytest.mark.parametrize(("text", "during", "after"), [(SHORT, 2.0, 2.0), (ENDLESS, 5.0, 0.0)])
def test_less_than_that_is_left_as_it_is(
    world: Make, text: str, during: float, after: float
) -> None:
    """The shorter of the two holds; no limit at all is the longest."""
    made = world(text)
    shed = shedding(made)
    client = made.client()
    shed.shorten_idle(5.0)
    shed.shorten_idle(5.0)
    assert made.listener.idle_timeout == during
    made.turn(during + 0.1)
    assert client.gone
    shed.shorten_idle(0.0)
    assert made.listener.idle_timeout == after
    made.settle()


def test_a_reload_may_change_the_idle_timeout_meanwhile(world: Make) -> None:
    """The new one is there when it ends."""
    made = world()
    shed = shedding(made)
    shed.shorten_idle(5.0)
    made.listener.idle_timeout = 60.0
    shed.shorten_idle(5.0)
    assert made.listener.idle_timeout == 5.0
    shed.shorten_idle(0.0)
    assert made.listener.idle_timeout == 60.0


def test_a_head_that_is_not_complete_keeps_its_own_limit(world: Make) -> None:
    """It is no idle connection: its time is that of the head."""
    made = world()
    shed = shedding(made)
    client = made.client(b"GET / HT")
    made.turn(1.0)
    for _ in range(3):
        shed.shorten_idle(5.0)
    made.turn(10.0)
    assert not client.gone
    made.settle()


def test_connections_are_walked_in_slices(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, one call looks at a bounded number, and a few calls at all."""
    monkeypatch.setattr(module, "SLICE", 4)
    made = world()
    shed = shedding(made)
    clients = [made.client() for _ in range(10)]
    made.turn(10.0)
    closed = []
    for _ in range(5):
        shed.shorten_idle(5.0)
        made.turn(0.1)
        closed.append(sum(client.gone for client in clients))
    assert closed == [0, 4, 8, 10, 10]
    made.settle()

"""What is kept for an exchange: who is waited for, and that all of it ends with the exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from meshproxy.api import AlreadyAnswered, Response
from meshproxy.http import replies
from meshproxy.http.outcome import OVER
from meshproxy.testing import Driven, Kit, drive
from tests.http.filters import Made, Named, fit, raising, waiter
from tests.http.world import World, get, status

BIG = b"x" * 100_000


def test_a_filter_that_waits_for_ever_ends_in_a_504_that_names_it() -> None:
    """The route's timeout runs from the end of the request, whoever holds it up."""
    cancelled: list[bool] = []
    gate: Deferred[Any] = Deferred(lambda _: cancelled.append(True))
    kit = Kit()
    driven = kit.drive(Made(request=lambda exchange: gate))
    driven.advance(14.0)
    assert driven.status == 0
    driven.advance(2.0)
    assert (driven.status, driven.flags) == (504, b"UT")
    assert driven.details == b"filter_timeout[made]"
    assert cancelled == [True]
    assert driven.over


def test_a_response_filter_that_waits_for_ever() -> None:
    """The same for responses; the endpoint is not blamed for it."""
    gate: Deferred[Any] = Deferred()
    kit = Kit()
    driven = kit.drive(Made(response=lambda exchange: gate))
    assert (driven.status, driven.waiting) == (0, True)
    driven.advance(16.0)
    assert (driven.status, driven.details) == (504, b"filter_timeout[made]")
    endpoint = driven.exchange.endpoint
    assert endpoint is not None
    assert endpoint.failures == 0
    assert endpoint.active == 0


@pytest.mark.parametrize("where", ["request", "response", "request_data", "response_data"])
def test_a_client_that_goes_away_cancels_what_is_waited_for(where: str) -> None:
    """The Deferred is cancelled before ``finished``, and what it says later changes nothing."""
    order: list[str] = []
    gate: Deferred[Any] = Deferred(lambda _: order.append("cancelled"))
    methods: dict[str, Any] = {where: lambda *_: gate}
    filter_ = Made(finished=lambda exchange: order.append("finished"), **methods)
    driven = drive(filter_, method=b"POST", body=b"body")
    assert driven.waiting
    driven.disconnect()
    assert order == ["cancelled", "finished"]
    assert driven.over
    assert driven.flags == b"DC"
    cluster = driven.exchange.cluster
    assert cluster is None or driven.exchange.group.limits.requests == 0


def test_a_coroutine_sees_its_cancellation() -> None:
    """Inside ``async def`` a disconnect is a CancelledError at the await."""
    seen: list[str] = []
    gate: Deferred[Any] = Deferred()

    async def request(exchange: Any) -> None:
        try:
            await gate
        except CancelledError:
            seen.append("cancelled")
            raise

    driven = drive(Made(request=request))
    driven.disconnect()
    assert seen == ["cancelled"]


def test_a_coroutine_that_answers_after_its_cancellation_is_not_heard() -> None:
    """Who swallows the cancellation and answers all the same answers nobody."""
    gate: Deferred[Any] = Deferred()

    async def request(exchange: Any) -> Response:
        try:
            await gate
        except CancelledError:
            pass
        return Response(200, b"late")

    kit = Kit()
    driven = kit.drive(Made(request=request))
    driven.advance(16.0)
    assert (driven.status, driven.body) == (504, b"upstream request timeout")


def test_answering_while_waiting_and_again_when_done() -> None:
    """A filter that answers from elsewhere is cancelled, and its own answer comes too late."""
    filter_, gate = waiter()
    driven = drive(filter_)
    driven.exchange.respond(Response(202, b"taken"))
    assert (driven.status, driven.body) == (202, b"taken")
    assert gate.called
    assert driven.over


def test_answering_while_the_endpoint_works() -> None:
    """A timer of a filter may answer at any time before the response."""
    driven = drive(Made(request=lambda exchange: None), response=None)
    driven.exchange.respond(Response(202, b"taken"))
    assert (driven.status, driven.body) == (202, b"taken")
    assert driven.stream.cancelled


def test_metadata_and_notes() -> None:
    """Facts pass between filters; notes are private, and both are per exchange."""
    kit = Kit()
    first = Made(request=lambda exchange: exchange.metadata.update(user="ann", n=3, ok=True))

    def second(exchange: Any) -> None:
        exchange.metadata["seen"] = exchange.metadata["user"]
        assert not exchange.notes
        exchange.notes[first] = 1

    for _ in range(2):
        driven = kit.drive(first, Made(request=second))
        assert driven.status == 200
        facts = driven.exchange.facts
        assert facts.get(b"seen") == b"ann"
        assert facts.get(b"n") == b"3"
        assert facts.get(b"ok") == b"true"
        assert facts.get(b"none") is None


def test_everything_is_let_go_of() -> None:
    """After the end the cluster has no request in flight, whatever the filters did."""

    def ended(driven: Driven) -> None:
        assert driven.exchange.state == OVER
        group = driven.exchange.group
        if group is not None:
            assert group.limits.requests == 0
            assert all(endpoint.active == 0 for endpoint in group.cluster.endpoints)

    gate: Deferred[Any] = Deferred()
    slow = drive(Made(response_data=lambda *_: gate), response=Response(200, BIG))
    group = slow.exchange.group
    # The endpoint is done, whatever the filters do with its response.
    assert group.limits.requests == 0
    gate.callback(None)
    assert slow.body == BIG
    ended(slow)
    ended(drive(Made(response=lambda exchange: Response(404)), response=Response(200, BIG)))
    ended(drive(Made(response=raising), response=Response(200, BIG)))


# What a call leaves behind that came to nothing.


@pytest.mark.parametrize("where", ["request", "response"])
@pytest.mark.parametrize("what", ["respond", "set_body", "read", "clear_route"])
def test_what_a_filter_asked_for_before_it_raised_is_forgotten(where: str, what: str) -> None:
    """An answer, a body, a read or a route of a call that raised never shows up later."""

    def defect(exchange: Any) -> None:
        message = getattr(exchange, where)
        if what == "respond":
            exchange.respond(Response(403, b"stale"))
        elif what == "set_body":
            message.set_body(b"stale")
        elif what == "read":
            message.read(100).addErrback(lambda _: None)
        elif where == "request":
            exchange.request.target = b"/404-no-such-route"
            exchange.clear_route()
        raise ZeroDivisionError("a defect")

    calls: list[str] = []
    kit = Kit()
    late = Made(response=lambda exchange: succeed(None))
    methods: dict[str, Any] = {where: defect}
    driven = kit.drive(Named("a", calls), late, Made(**methods))
    assert (driven.status, driven.body) == (500, b"internal error")
    assert calls == ["a request", "a response 500", "a finished"]
    assert driven.over


@pytest.mark.parametrize("how", ["plain", "coroutine", "raising"])
@pytest.mark.parametrize("where", ["request", "response", "request_data", "response_data"])
def test_cutting_inside_a_call_is_the_end(where: str, how: str) -> None:
    """Nothing goes on behind it: no request upstream, no response, and one ``finished``."""

    def cut(exchange: Any, *_: Any) -> None:
        exchange.cut(b"enough")
        if how == "raising":
            raise ZeroDivisionError("a defect")

    async def cut_later(exchange: Any, *_: Any) -> None:
        exchange.cut(b"enough")
        await Deferred()

    calls: list[str] = []
    methods: dict[str, Any] = {where: cut_later if how == "coroutine" else cut}
    filter_ = Made(**methods)
    driven = drive(Named("a", calls), filter_, method=b"POST", body=b"body")
    assert driven.aborted
    assert driven.over
    assert driven.status == 0
    assert driven.details == b"enough"
    assert [call for call in calls if "finished" in call] == ["a finished"]
    assert (driven.upstream is None) == where.startswith("request")


def test_cutting_what_is_over_does_nothing() -> None:
    """A timer of a filter that comes too late must not hit the connection's next exchange."""
    calls: list[str] = []
    driven = drive(Named("a", calls))
    driven.exchange.cut(b"late")
    assert not driven.aborted
    assert driven.details == b"via_upstream"
    assert calls.count("a finished") == 1


@pytest.mark.parametrize("where", ["request", "response", "request_data", "response_data"])
def test_who_answers_when_it_is_cancelled_is_not_heard(where: str) -> None:
    """A wait that is given up because somebody else answers cannot answer, or cut, any more."""
    raised: list[type[Exception]] = []

    async def step(exchange: Any, *_: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            exchange.cut(b"mine")
            try:
                exchange.respond(Response(200, b"mine"))
            except AlreadyAnswered as error:
                raised.append(type(error))

    calls: list[str] = []
    methods: dict[str, Any] = {where: step}
    driven = drive(Named("a", calls), Made(**methods), method=b"POST", body=b"body")
    driven.advance(16.0)
    assert (driven.status, driven.details) == (504, b"filter_timeout[made]")
    assert raised == [AlreadyAnswered]
    assert calls.count("a finished") == 1
    # Who has seen the response that is given up does not see another.
    assert calls[1] == ("a response 200" if where == "response_data" else "a response 504")
    assert len(calls) == 3


@pytest.mark.parametrize("where", ["request_data", "request_trailers"])
def test_the_routes_time_runs_while_a_body_is_held_up(where: str) -> None:
    """Also when the head has gone, or would go with a body that is all here."""
    methods: dict[str, Any] = {where: lambda *_: Deferred()}
    filter_ = Made(**methods)
    driven = drive(filter_, method=b"POST", body=None)
    driven.send(b"data")
    driven.end({b"x": b"1"})
    driven.advance(16.0)
    assert (driven.status, driven.details) == (504, b"filter_timeout[made]")
    driven = drive(Made(request_data=lambda *_: Deferred()), method=b"POST", body=b"whole")
    driven.advance(16.0)
    assert (driven.status, driven.details) == (504, b"filter_timeout[made]")


def test_a_filter_that_reads_is_not_to_blame_for_a_slow_endpoint() -> None:
    """Whose body does not come is who is late."""

    async def response(exchange: Any) -> None:
        await exchange.response.read(1000)

    driven = drive(Made(response=response), response=None)
    driven.answer(200, {}, b"half", end=False)
    driven.advance(16.0)
    assert (driven.status, driven.details) == (504, replies.ROUTE_TIMEOUT.details)
    endpoint = driven.exchange.endpoint
    assert endpoint is not None
    assert endpoint.failed == 1


RETRIED = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - { to: site, retry: { attempts: 3, backoff: { base: 1s, max: 5s } } }
clusters:
  site:
    endpoints: [127.0.0.1:9001]
"""


def test_no_other_try_begins_behind_an_answer_that_waits(world: Callable[..., World]) -> None:
    """A filter answers in the pause before a retry, and its answer is held up: that is the end."""
    made = world(RETRIED)
    gate: Deferred[Any] = Deferred()
    fit(made, Made(response=lambda exchange: gate))
    client = made.client(get())
    exchange = client.protocol.exchange
    made.upstream.end()
    assert exchange.retrying is not None
    exchange.respond(Response(202, b"taken"))
    made.turn(10.0)
    assert len(made.attempts) == 1
    gate.callback(None)
    assert status(client.take()) == 202
    made.settle()
    assert len(made.records) == 1


def test_a_client_that_stalls_and_a_filter_that_waits_pause_together(
    world: Callable[..., World],
) -> None:
    """Either may go on first: the upstream is read again when both do, and no byte is lost."""
    gates: list[Deferred[Any]] = []

    def wait(exchange: Any, data: bytes, end: bool) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1].addCallback(lambda _: data)

    for order in ("filter first", "client first"):
        made = world()
        gates.clear()

        fit(made, Made(keeps_length=True, response_data=wait))
        client = made.client(get())
        client.block()
        body = b"x" * 100_000
        made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + body)
        gates[0].callback(None)  # the client has too much now
        assert not made.upstream.reading
        made.upstream.receive(body[:50_000])
        assert len(gates) == 1
        client.drain()
        assert made.upstream.reading
        made.turn()
        assert not made.upstream.reading
        client.block()
        made.upstream.receive(body[50_000:])
        steps = [lambda: gates[1].callback(None), client.drain]
        for step in steps if order == "filter first" else reversed(steps):
            step()
        made.turn()
        gates[-1].callback(None)
        client.drain()
        made.turn()
        assert client.take().endswith(b"\r\n\r\n" + body * 2)
        made.settle()

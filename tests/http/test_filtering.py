"""What filters may do to an exchange, and what they cannot do to anybody else."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from meshproxy.api import AlreadyAnswered, BodyTooLarge, Response
from meshproxy.http.outcome import OVER
from meshproxy.testing import Driven, Kit, drive
from tests.http.filters import Made, Named

BIG = b"x" * 100_000


def waiter(seen: list[Any] | None = None) -> tuple[Made, Deferred[Any]]:
    """A filter whose ``request`` waits for the Deferred."""
    gate: Deferred[Any] = Deferred()
    return Made(request=lambda exchange: gate), gate


# The order of things.


def test_requests_in_order_responses_in_reverse() -> None:
    """The order in the configuration is the order on the wire, and the way back its reverse."""
    calls: list[str] = []
    driven = drive(Named("a", calls), Named("b", calls))
    assert driven.status == 200
    assert calls == [
        "a request",
        "b request",
        "b response 200",
        "a response 200",
        "a finished",
        "b finished",
    ]


@pytest.mark.parametrize("how", ["returned", "deferred", "coroutine", "later", "responded"])
def test_an_answer_is_seen_by_those_before(how: str) -> None:
    """However a filter answers: those before see its response, it and those behind do not."""
    calls: list[str] = []
    answer = Response(403, b"no")
    gate: Deferred[Any] = Deferred()

    async def coroutine(exchange: Any) -> Response:
        return answer

    def responded(exchange: Any) -> None:
        exchange.respond(answer)

    ways = {
        "returned": lambda exchange: answer,
        "deferred": lambda exchange: succeed(answer),
        "coroutine": coroutine,
        "later": lambda exchange: gate,
        "responded": responded,
    }
    kit = Kit()
    driven = kit.drive(Named("a", calls), Made(request=ways[how]), Named("c", calls))
    if how == "later":
        assert driven.waiting
        gate.callback(answer)
    assert (driven.status, driven.body) == (403, b"no")
    assert driven.headers.get(b"content-length") == b"2"
    assert not driven.upstream
    assert calls == ["a request", "a response 403", "a finished", "c finished"]
    assert driven.details.startswith(b"filter_response[")
    assert kit.counters["answers"] == 1


def test_a_response_may_be_given_again_and_again() -> None:
    """One Response for every request: what is added for one client is not there for the next."""
    answer = Response(403, b"no", {b"x-a": b"1"})
    kit = Kit()
    filter_ = Made(
        request=lambda exchange: answer,
    )
    outer = Made(response=lambda exchange: exchange.response.headers.add(b"x-b", b"2"))
    for _ in range(3):
        driven = kit.drive(outer, filter_)
        assert driven.headers.get_all(b"x-b") == [b"2"]
    assert list(answer.headers) == [(b"x-a", b"1"), (b"content-type", b"text/plain")]


def test_the_proxys_own_replies_pass_the_chain() -> None:
    """A 404 without a route and a 503 of a broken upstream are responses like any other."""
    calls: list[str] = []
    kit = Kit()
    kit.listener.match = lambda exchange: None
    driven = kit.drive(Named("a", calls))
    assert (driven.status, driven.flags) == (404, b"NR")
    driven = drive(Named("b", calls), response=None)
    driven.fail()
    assert (driven.status, driven.flags) == (503, b"UC")
    assert "a response 404" in calls
    assert "b response 503" in calls


def test_a_response_may_be_replaced() -> None:
    """A filter puts another in its place; the filters still to come see that, once."""
    calls: list[str] = []
    replaced = Made(response=lambda exchange: Response(418, b"tea"))
    driven = drive(Named("a", calls), replaced, Named("c", calls), response=None)
    driven.answer(200, {b"x-secret": b"1"}, b"first", end=False)
    assert (driven.status, driven.body, driven.headers.get(b"x-secret")) == (418, b"tea", None)
    assert driven.stream.cancelled
    assert calls[:3] == ["a request", "c request", "c response 200"]
    assert calls[3:] == ["a response 418", "a finished", "c finished"]


# Waiting.


def test_waiting_holds_the_request_back_and_lets_it_go() -> None:
    """Nothing goes upstream while a filter waits; all of it afterwards."""
    filter_, gate = waiter()
    driven = drive(filter_, method=b"POST", body=b"hello")
    assert not driven.upstream
    assert driven.waiting
    gate.callback(None)
    assert driven.upstream.body == b"hello"
    assert driven.upstream.complete
    assert driven.status == 200
    assert not driven.waiting


def test_a_body_streams_in_while_a_filter_waits_up_to_a_bound() -> None:
    """What comes meanwhile is kept, and the client paused when it is too much."""
    filter_, gate = waiter()
    driven = drive(filter_, method=b"POST", body=None)
    driven.send(b"x" * 60_000)
    assert driven.reading
    driven.send(b"y" * 60_000)
    assert not driven.reading
    gate.callback(None)
    assert driven.reading
    driven.send(b"z")
    driven.end()
    assert driven.upstream.body == b"x" * 60_000 + b"y" * 60_000 + b"z"
    assert driven.status == 200


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


def test_waiting_for_ever_with_the_request_unfinished_ends_when_it_is_finished() -> None:
    """The time begins with the end of the request, as without filters."""
    filter_, _ = waiter()
    driven = drive(filter_, method=b"POST", body=None)
    driven.advance(20.0)
    assert driven.status == 0
    driven.end()
    driven.advance(16.0)
    assert driven.status == 504


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


@pytest.mark.parametrize("latest_first", [False, True])
def test_filters_wait_one_after_another(latest_first: bool) -> None:
    """
    Each in its turn, both ways, and the bodies arrive whole; a body may pass the filters that
    its head has passed while another holds the head up.
    """
    gates: list[Deferred[Any]] = []

    def wait(*_: Any) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1]

    driven = drive(
        Made(request=wait, response=wait),
        Made(request=wait, request_data=wait, response_data=wait),
        method=b"POST",
        body=b"up",
        response=Response(200, b"down"),
    )
    fired = 0
    while waiting := [gate for gate in gates if not gate.called]:
        assert not driven.finished
        waiting[-1 if latest_first else 0].callback(None)
        fired += 1
    assert fired == 5
    assert (driven.status, driven.body, driven.finished) == (200, b"down", True)
    assert driven.upstream.body == b"up"


# What a filter does wrong.


def raising(*_: Any) -> Any:
    """What a defect does."""
    raise ZeroDivisionError("a defect")


async def raising_later(*_: Any) -> Any:
    """The same, of a coroutine."""
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize("defect", [raising, raising_later])
@pytest.mark.parametrize("where", ["request", "request_data", "response"])
def test_an_exception_is_a_500(where: str, defect: Any) -> None:
    """It is counted, those before see the 500, and nothing is left behind."""
    calls: list[str] = []
    kit = Kit()
    bad = Made(**{where: defect})
    driven = kit.drive(Named("a", calls), bad, method=b"POST", body=b"body")
    assert (driven.status, driven.body) == (500, b"internal error")
    assert driven.details == b"filter_error[made]"
    assert calls == ["a request", "a response 500", "a finished"]
    assert kit.counters["errors"] == 1
    assert driven.over
    good = kit.drive(Named("a", calls))
    assert good.status == 200


def test_an_exception_in_the_middle_of_a_response_cuts_it() -> None:
    """The client must not take half a body for a whole one."""

    def response_data(exchange: Any, data: bytes, end: bool) -> None:
        if data == b"two":
            raising()

    driven = drive(Made(response_data=response_data), response=None)
    driven.answer(200, {}, b"one", end=False)
    assert driven.body == b"one"
    driven.answer_data(b"two")
    assert driven.aborted
    assert driven.body == b"one"
    assert driven.details == b"filter_error[made]"
    assert driven.stream.cancelled


def test_an_observer_that_raises_harms_nobody() -> None:
    """The next observer is told all the same."""
    calls: list[str] = []
    kit = Kit()
    driven = kit.drive(Made(finished=raising), Named("b", calls))
    assert driven.status == 200
    assert calls[-1] == "b finished"
    assert kit.counters["errors"] == 1


@pytest.mark.parametrize("result", [42, "text", b"bytes", object()])
def test_a_result_of_the_wrong_kind_is_an_error(result: object) -> None:
    """None, a Response or an awaitable; anything else is told, not guessed at."""
    kit = Kit()
    driven = kit.drive(Made(request=lambda exchange: result))
    assert driven.status == 500
    driven = kit.drive(Made(response=lambda exchange: succeed(result)))
    assert driven.status == 500
    assert kit.counters["errors"] == 2


@pytest.mark.parametrize("result", [42, "text"])
def test_a_body_of_the_wrong_kind_is_an_error(result: object) -> None:
    """Bytes, None, a Response or an awaitable of these."""
    driven = drive(Made(request_data=lambda *_: result), method=b"POST", body=b"x")
    assert driven.status == 500
    driven = drive(Made(response_data=lambda *_: succeed(result)))
    assert driven.status == 500


def test_answering_twice() -> None:
    """The first answer stands; the second raises in the filter, or is counted against it."""
    raised: list[Exception] = []

    def request(exchange: Any) -> Response:
        exchange.respond(Response(403, b"first"))
        try:
            exchange.respond(Response(404, b"second"))
        except AlreadyAnswered as error:
            raised.append(error)
        return Response(405, b"third")

    kit = Kit()
    driven = kit.drive(Made(request=request))
    assert (driven.status, driven.body) == (403, b"first")
    assert len(raised) == 1
    assert kit.counters["errors"] == 1
    with pytest.raises(AlreadyAnswered):
        driven.exchange.respond(Response(200))


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


def test_answering_from_a_body() -> None:
    """A filter that does not like what it sees answers at once, in the middle of an upload."""

    def request_data(exchange: Any, data: bytes, end: bool) -> Response | None:
        return Response(422, b"bad") if b"virus" in data else None

    calls: list[str] = []
    driven = drive(Named("a", calls), Made(request_data=request_data), method=b"POST", body=None)
    driven.send(b"good")
    assert driven.upstream.body == b"good"
    driven.send(b"virus")
    assert (driven.status, driven.body) == (422, b"bad")
    driven.send(b"more")
    assert driven.upstream.body == b"good"
    assert calls == ["a request", "a response 422", "a finished"]


def test_an_answer_after_the_head_has_gone_cuts_the_response() -> None:
    """There is no second response: the filter's mistake costs the connection."""
    kit = Kit()
    driven = kit.drive(
        Made(response_data=lambda exchange, data, end: Response(500) if end else None),
        response=None,
    )
    driven.answer(200, {}, b"one", end=False)
    driven.answer_end(b"two")
    assert driven.aborted
    assert driven.status == 200
    assert kit.counters["errors"] == 1


def test_a_liar_about_lengths_costs_the_connection() -> None:
    """A body that keeps_length promised and that comes out longer never desynchronises."""
    liar = Made(keeps_length=True, response_data=lambda exchange, data, end: data + b"!")
    driven = drive(liar, response=None)
    driven.answer(200, {}, b"one", end=False, length=6)
    driven.answer_end(b"two")
    assert driven.status in (0, 500) or driven.aborted
    assert len(driven.body) <= 6 or driven.status == 500
    kit = Kit()
    up = Made(keeps_length=True, request_data=lambda exchange, data, end: data + b"!")
    driven = kit.drive(up, method=b"POST", body=b"abc")
    assert driven.status == 500
    assert not driven.upstream
    assert kit.counters["errors"] == 1


# Bodies.


def test_a_body_that_changes_loses_its_length() -> None:
    """It gets a new one if all of it is here, and goes in chunks if not."""
    upper = Made(
        request_data=lambda exchange, data, end: data * 2,
        response_data=lambda exchange, data, end: data * 3,
    )
    driven = drive(upper, method=b"POST", body=b"ab", response=Response(200, b"cd"))
    assert driven.upstream.body == b"abab"
    assert driven.upstream.headers.get_all(b"content-length") == [b"4"]
    assert driven.body == b"cdcdcd"
    assert driven.headers.get_all(b"content-length") == [b"6"]
    driven = drive(upper, response=None)
    driven.answer(200, {}, b"a", end=False, length=2)
    driven.answer_end(b"b")
    assert (driven.body, driven.headers.get(b"content-length")) == (b"aaabbb", None)


def test_a_body_that_keeps_its_length_keeps_it() -> None:
    """A filter that only looks says so, and a download keeps its length."""
    seen: list[tuple[bytes, bool]] = []
    look = Made(keeps_length=True, response_data=lambda e, data, end: seen.append((data, end)))
    driven = drive(look, response=None)
    driven.answer(200, {}, b"a", end=False, length=2)
    driven.answer_end(b"b")
    assert (driven.body, driven.headers.get(b"content-length")) == (b"ab", b"2")
    assert seen == [(b"a", False), (b"b", True)]


def test_no_body_no_call() -> None:
    """GET, HEAD, 204 and 304 never reach a body's filter."""
    calls: list[str] = []
    filter_ = Made(
        request_data=lambda *_: calls.append("up"), response_data=lambda *_: calls.append("down")
    )
    drive(filter_, response=Response(204))
    drive(filter_, response=Response(304))
    driven = drive(filter_, method=b"HEAD", response=Response(200, b"four"))
    assert driven.body == b""
    assert calls == []


def test_skipping_a_body_leaves_it_alone() -> None:
    """A filter that has nothing to do here says so; the length stays."""
    calls: list[bytes] = []
    filter_ = Made(
        request=lambda exchange: exchange.skip_body(filter_),
        request_data=lambda exchange, data, end: calls.append(data),
        response=lambda exchange: exchange.skip_body(filter_),
        response_data=lambda exchange, data, end: calls.append(data),
    )
    driven = drive(filter_, method=b"POST", body=b"abc", response=Response(200, b"down"))
    assert calls == []
    assert driven.upstream.headers.get(b"content-length") == b"3"
    assert driven.headers.get(b"content-length") == b"4"


def test_bodies_pass_in_order_through_steps_that_wait() -> None:
    """A slow step holds up what is behind it, in order, within a bound that pauses the source."""
    gates: list[Deferred[Any]] = []

    def slow(exchange: Any, data: bytes, end: bool) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1].addCallback(lambda _: data.upper())

    driven = drive(Made(response_data=slow), response=None)
    driven.answer(200, {}, b"a", end=False)
    driven.answer_data(b"b")
    driven.answer_end(b"c")
    assert len(gates) == 1
    assert not driven.stream.reading
    for number in range(3):
        gates[number].callback(None)
    assert (driven.body, driven.finished) == (b"ABC", True)


def test_reading_a_whole_body() -> None:
    """``read`` gives what the filters before leave of it; what is set goes on in its place."""
    seen: list[bytes] = []

    async def request(exchange: Any) -> None:
        body = await exchange.request.read(100)
        seen.append(body)
        exchange.request.set_body(body[::-1])

    def before(exchange: Any, data: bytes, end: bool) -> bytes:
        return data.upper()

    def behind(exchange: Any, data: bytes, end: bool) -> bytes:
        return b"<" + data + b">"

    driven = drive(
        Made(request_data=before),
        Made(request=request),
        Made(request_data=behind),
        method=b"POST",
        body=None,
    )
    driven.send(b"ab")
    driven.send(b"cd")
    assert driven.waiting
    assert not driven.upstream
    driven.end()
    assert seen == [b"ABCD"]
    assert driven.upstream.body == b"<DCBA>"
    assert driven.upstream.headers.get(b"content-length") == b"6"


def test_reading_inside_a_plain_function() -> None:
    """``read`` may be called before anything waits, and its Deferred returned."""
    seen: list[bytes] = []

    def request(exchange: Any) -> Deferred[None]:
        return exchange.request.read(100).addCallback(seen.append)  # type: ignore[no-any-return]

    driven = drive(Made(request=request), method=b"POST", body=b"whole")
    assert seen == [b"whole"]
    assert driven.status == 200


def test_a_body_over_the_readers_bound_is_a_413() -> None:
    """By its announced length at once, else as soon as it is too much; not the filter's error."""

    async def request(exchange: Any) -> None:
        await exchange.request.read(10)

    kit = Kit()
    driven = kit.drive(Made(request=request), method=b"POST", body=b"x" * 11)
    assert (driven.status, driven.body) == (413, b"Payload Too Large")
    driven = kit.drive(Made(request=request), method=b"POST", body=None)
    driven.send(b"x" * 6)
    assert driven.status == 0
    driven.send(b"x" * 6)
    assert driven.status == 413
    assert "errors" not in kit.counters


def test_a_filter_may_take_a_body_that_is_too_large_its_own_way() -> None:
    """The exception is there to be caught."""

    async def request(exchange: Any) -> Response | None:
        try:
            await exchange.request.read(1)
        except BodyTooLarge:
            return Response(400, b"my words")
        return None

    driven = drive(Made(request=request), method=b"POST", body=b"two")
    assert (driven.status, driven.body) == (400, b"my words")


def test_reading_and_setting_a_response() -> None:
    """The same for responses, whose length is the new body's."""

    async def response(exchange: Any) -> None:
        body = await exchange.response.read(1000)
        exchange.response.set_body(body * 2)

    driven = drive(Made(response=response), response=None)
    driven.answer(200, {b"content-type": b"a/b"}, b"one", end=False)
    driven.answer_data(b"two")
    assert driven.status == 0
    driven.answer_end(b"three")
    assert driven.body == b"onetwothree" * 2
    assert driven.headers.get_all(b"content-length") == [b"22"]
    big = drive(Made(response=response), response=Response(200, b"x" * 1001))
    assert (big.status, big.details) == (500, b"response_payload_too_large")


def test_a_body_for_a_request_without_one() -> None:
    """``set_body`` in a plain function gives a GET a body, with its length."""
    driven = drive(Made(request=lambda exchange: exchange.request.set_body(b"query")))
    assert driven.upstream.body == b"query"
    assert driven.upstream.headers.get(b"content-length") == b"5"


def test_a_body_that_is_not_whole_cannot_be_replaced() -> None:
    """Half of the old body must not follow the new one."""

    def request(exchange: Any) -> None:
        exchange.request.set_body(b"new")

    driven = drive(Made(request=request), method=b"POST", body=None)
    assert driven.status == 500


def test_a_set_response_to_head_has_its_length_alone() -> None:
    """A HEAD's response has no body, whatever a filter says."""
    driven = drive(
        Made(response=lambda exchange: exchange.response.set_body(b"seven77")), method=b"HEAD"
    )
    assert (driven.body, driven.headers.get(b"content-length")) == (b"", b"7")


def test_trailers_pass_behind_the_body() -> None:
    """Both ways, in order, and they may wait."""
    seen: list[Any] = []
    gate: Deferred[Any] = Deferred()

    def up(exchange: Any, trailers: Any) -> None:
        seen.append(list(trailers))
        trailers.set(b"x-up", b"2")

    def down(exchange: Any, trailers: Any) -> Deferred[Any]:
        trailers.set(b"x-down", b"2")
        return gate

    driven = drive(
        Made(request_trailers=up, response_trailers=down),
        method=b"POST",
        body=None,
        response=None,
    )
    driven.send(b"body")
    driven.end({b"x-up": b"1"})
    assert seen == [[(b"x-up", b"1")]]
    assert driven.upstream.trailers is not None
    assert driven.upstream.trailers.get(b"x-up") == b"2"
    driven.answer(200, {}, b"down", end=False)
    driven.answer_end(b"", {b"x-down": b"1"})
    assert not driven.finished
    gate.callback(None)
    assert driven.finished
    assert driven.trailers is not None
    assert driven.trailers.get(b"x-down") == b"2"


# The upstream meanwhile.


def test_an_upstream_that_breaks_while_a_filter_holds_its_head() -> None:
    """The client has got nothing yet: it gets a 503, from the filters before."""
    calls: list[str] = []
    gate: Deferred[Any] = Deferred()
    driven = drive(Named("a", calls), Made(response=lambda exchange: gate), response=None)
    driven.answer(200, {}, b"half", end=False)
    assert driven.waiting
    driven.fail()
    assert (driven.status, driven.flags) == (503, b"UC")
    assert calls[1] == "a response 503"
    assert gate.called


def test_an_upgrade_is_shown_and_may_be_held_up() -> None:
    """The 101 passes the chain; bytes that come before it has passed are not lost."""
    gate: Deferred[Any] = Deferred()
    calls: list[int] = []

    def response(exchange: Any) -> Deferred[Any]:
        calls.append(exchange.response.status)
        return gate

    driven = drive(Made(response=response), upgrade=b"websocket", response=None)
    from meshproxy.http.headers import Headers

    driven.exchange.switched(101, Headers())
    driven.exchange.upstream_tunnel_data(b"early")
    assert driven.status == 0
    gate.callback(None)
    assert (driven.status, calls) == (101, [101])
    assert driven.client.tunnel_open
    assert driven.client.tunnelled == [b"early"]
    driven.exchange.tunnel_data(b"ping")
    assert driven.tunnelled == [b"ping"]


def test_an_upgrade_may_be_refused_after_all() -> None:
    """A filter answers in place of the 101."""
    driven = drive(
        Made(response=lambda exchange: Response(403)), upgrade=b"websocket", response=None
    )
    from meshproxy.http.headers import Headers

    driven.exchange.switched(101, Headers())
    assert driven.status == 403
    assert driven.stream.cancelled


def test_a_slow_client_pauses_the_upstream_through_the_filters() -> None:
    """Back-pressure passes the chain."""
    driven = drive(Made(response_data=lambda exchange, data, end: data), response=None)
    driven.answer(200, {}, b"one", end=False)
    driven.stall()
    assert not driven.stream.reading
    driven.stall(False)
    assert driven.stream.reading


# Changing a request.


def test_what_a_filter_sets_goes_upstream_and_the_log_keeps_what_came() -> None:
    """Method, target, authority and headers; the access record's path is as received."""

    def request(exchange: Any) -> None:
        sent = exchange.request
        sent.method = b"PUT"
        sent.path = b"/new"
        sent.query = b"a=2"
        sent.authority = b"other.example"
        sent.headers.set(b"x-a", b"1")

    driven = drive(Made(request=request), target=b"/old?a=1")
    assert driven.upstream.method == b"PUT"
    assert driven.upstream.target == b"/new?a=2"
    assert driven.upstream.authority == b"other.example"
    assert driven.upstream.headers.get(b"x-a") == b"1"
    assert driven.exchange.path == b"/old?a=1"


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("target", b"no-slash"),
        ("target", b""),
        ("target", b"/a b"),
        ("target", b"/a\r\nx: y"),
        ("target", b"/a#b"),
        ("path", b"/a?b"),
        ("authority", b""),
        ("authority", b"a\r\nb"),
        ("method", b"NOT A TOKEN"),
        ("method", b"HEAD"),
    ],
)
def test_what_cannot_be_sent_cannot_be_set(what: str, value: bytes) -> None:
    """A filter cannot split a message by mistake."""
    raised: list[type[Exception]] = []

    def request(exchange: Any) -> None:
        try:
            setattr(exchange.request, what, value)
        except ValueError as error:
            raised.append(type(error))

    driven = drive(Made(request=request), target=b"/old")
    assert raised == [ValueError]
    assert driven.upstream.target == b"/old"


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

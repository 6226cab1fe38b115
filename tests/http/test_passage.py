"""What filters may do in either direction, and what they cannot do to anybody else."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from meshproxy.api import AlreadyAnswered, Response
from meshproxy.testing import Kit, drive
from tests.http.filters import Made, Named, raising, raising_later


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


@pytest.mark.parametrize("where", ["request", "response", "request_data", "response_data"])
def test_a_deferred_that_waits_for_another_is_a_wait(where: str) -> None:
    """One that has fired, and whose callback returned another: its time is the filter's too."""
    gate: Deferred[Any] = Deferred()
    kit = Kit()
    methods: dict[str, Any] = {where: lambda *_: succeed(None).addCallback(lambda _: gate)}
    driven = kit.drive(Made(**methods), method=b"POST", body=b"body")
    assert driven.waiting
    assert kit.counters["waits"] == 1
    driven.advance(16.0)
    assert (driven.status, driven.details) == (504, b"filter_timeout[made]")


def test_a_wait_that_is_over_at_once_before_trailers_that_wait() -> None:
    """Each wait is counted for the filter whose it is."""
    gate: Deferred[Any] = Deferred()
    kit = Kit()
    driven = kit.drive(
        Made(
            request=lambda exchange: exchange.request.read(100).addCallback(lambda _: None),
            request_trailers=lambda exchange, trailers: gate,
        ),
        method=b"POST",
        body=None,
    )
    driven.send(b"data")
    driven.end({b"x": b"1"})
    assert driven.status == 0
    gate.callback(None)
    assert driven.status == 200
    assert kit.counters["waits"] == 2

"""A request's way through the chain: waiting, reading, answering in the middle of it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from meshproxy.api import BodyTooLarge, Response
from meshproxy.testing import Kit, drive
from tests.http.filters import Made, Named, waiter


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


def test_waiting_for_ever_with_the_request_unfinished_ends_when_it_is_finished() -> None:
    """The time begins with the end of the request, as without filters."""
    filter_, _ = waiter()
    driven = drive(filter_, method=b"POST", body=None)
    driven.advance(20.0)
    assert driven.status == 0
    driven.end()
    driven.advance(16.0)
    assert driven.status == 504


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

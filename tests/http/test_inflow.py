"""A request's way through the chain: waiting, reading, answering in the middle of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from meshproxy.api import BodyTooLarge, Response
from meshproxy.testing import Kit, drive
from tests.http.filters import Made, Named, fit, waiter
from tests.http.world import World, post


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


# Bodies and heads on different ways.


def test_pieces_of_a_body_do_not_overtake_each_other() -> None:
    """
    A piece that waits in one filter while an older one stands before the next filter, whose head
    waits: they meet nobody in one step, and leave in the order in which they came.
    """
    gates: list[Deferred[Any]] = []
    head: Deferred[Any] = Deferred()

    def slow(exchange: Any, data: bytes, end: bool) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1].addCallback(lambda _: data)

    driven = drive(
        Made(request_data=slow),
        Made(request=lambda exchange: head, request_data=slow),
        Made(request=lambda exchange: None),
        method=b"POST",
        body=None,
    )
    driven.send(b"one ")
    while waiting := [gate for gate in gates if not gate.called]:
        waiting[0].callback(None)
    driven.send(b"two ")
    head.callback(None)
    driven.send(b"three")
    driven.end()
    while waiting := [gate for gate in gates if not gate.called]:
        waiting[-1].callback(None)
    assert (driven.status, driven.upstream.body) == (200, b"one two three")


def test_a_head_without_a_body_is_no_call_for_the_body() -> None:
    """The body's filters are called when there is some of it, or its end."""
    calls: list[tuple[bytes, bool]] = []
    filter_ = Made(request_data=lambda exchange, data, end: calls.append((data, end)))
    driven = drive(filter_, method=b"POST", body=None)
    assert calls == []
    driven.end()
    assert calls == [(b"", True)]


def test_leave_to_send_a_body_is_given_once_and_never_in_a_response(
    world: Callable[..., World],
) -> None:
    """A filter that swallows what comes does not get the client a second 100 (RFC 9110, 15.2)."""
    gate: Deferred[Any] = Deferred()
    made = world()
    fit(made, Made(request_data=lambda *_: gate))
    client = made.client(post(b"", b"Expect: 100-continue", length=8))
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.receive(b"data")
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nearly")
    assert client.take().endswith(b"\r\n\r\nearly")
    gate.callback(b"")
    made.upstream.receive(b"later")
    assert client.take() == b"later"
    made.settle()


def test_the_client_is_listened_to_when_all_of_its_request_has_passed() -> None:
    """A reading that was paused for a filter goes on at the end too: else it leaves unnoticed."""
    gate: Deferred[Any] = Deferred()
    driven = drive(Made(request_data=lambda *_: gate), method=b"POST", body=None, response=None)
    driven.send(b"data")
    assert not driven.reading
    driven.end()
    gate.callback(None)
    assert driven.upstream.complete
    assert driven.reading


def test_a_generator_makes_no_more_than_the_upstream_takes() -> None:
    """What is asked for piece by piece is not asked for while nobody takes it."""
    made: list[int] = []

    async def request_data(exchange: Any, data: bytes, end: bool) -> Any:
        for number in range(10):
            made.append(number)
            yield b"%d" % number

    driven = drive(Made(request_data=request_data), method=b"POST", body=None, response=None)
    driven.exchange.upstream_paused()
    driven.send(b"data")
    assert made == []
    driven.exchange.upstream_resumed()
    assert driven.upstream.body == b"0123456789"


def test_answering_from_trailers_is_the_end() -> None:
    """The filters behind are not called, nothing of the end goes upstream."""
    calls: list[str] = []
    driven = drive(
        Made(request_trailers=lambda exchange, trailers: exchange.respond(Response(400, b"no"))),
        Made(request_trailers=lambda exchange, trailers: calls.append("late")),
        method=b"POST",
        body=None,
    )
    driven.send(b"data")
    driven.end({b"x": b"1"})
    assert (driven.status, driven.body, calls) == (400, b"no", [])
    assert not driven.upstream.complete


def test_what_is_refused_while_its_refusal_waits_is_not_sent_on() -> None:
    """A body that is too large for the listener, behind a filter that takes its time."""
    gate: Deferred[Any] = Deferred()
    kit = Kit()
    kit.listener.max_body = 3
    filter_ = Made(request=lambda exchange: succeed(None), response=lambda exchange: gate)
    driven = kit.drive(filter_, method=b"POST", body=None)
    assert driven.upstream is not None
    early = kit.drive(
        Made(
            request=lambda exchange: exchange.request.read(100).addCallback(lambda _: None),
            request_data=lambda exchange, data, end: data,
            response=lambda exchange: gate,
        ),
        method=b"POST",
        body=b"too much",
        length=-1,
    )
    assert early.upstream is None
    gate.callback(None)
    assert early.status == 413
    assert early.exchange.attempts == 0

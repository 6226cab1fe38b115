"""A response's way through the chain in reverse, whoever made it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from meshproxy.api import Response
from meshproxy.http.headers import Headers
from meshproxy.testing import Kit, drive
from tests.http.filters import Made, Named, raising


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


def test_a_set_response_to_head_has_its_length_alone() -> None:
    """A HEAD's response has no body, whatever a filter says."""
    driven = drive(
        Made(response=lambda exchange: exchange.response.set_body(b"seven77")), method=b"HEAD"
    )
    assert (driven.body, driven.headers.get(b"content-length")) == (b"", b"7")


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


def test_an_upgrade_that_was_held_up_flows_on() -> None:
    """The upstream that was paused while the client could not be told speaks again afterwards."""
    gate: Deferred[Any] = Deferred()
    driven = drive(Made(response=lambda exchange: gate), upgrade=b"websocket", response=None)
    driven.exchange.switched(101, Headers())
    driven.exchange.upstream_tunnel_data(b"early")
    assert not driven.stream.reading
    gate.callback(None)
    assert driven.client.tunnelled == [b"early"]
    assert driven.stream.reading


def test_a_generator_makes_no_more_than_the_client_takes() -> None:
    """A client that does not read does not have a small response unfolded into memory."""
    made: list[int] = []

    async def response_data(exchange: Any, data: bytes, end: bool) -> Any:
        for number in range(10):
            made.append(number)
            if number == 2:
                driven.stall()
            yield b"%d" % number

    driven = drive(Made(response_data=response_data), response=None)
    driven.answer(200, {}, b"x", end=False)
    assert made == [0, 1, 2]
    driven.answer_end(b"")
    driven.stall(False)
    assert made == [*range(10), 0, 1, 2]
    driven.stall(False)
    assert driven.body == b"0123456789" * 2


def test_a_generator_that_waits_lets_the_head_go() -> None:
    """Its pieces come in their time: nobody waits for the last one to say how long all is."""
    gate: Deferred[Any] = Deferred()

    async def response_data(exchange: Any, data: bytes, end: bool) -> Any:
        yield data[:1]
        await gate
        yield data[1:]

    driven = drive(Made(response_data=response_data), response=Response(200, b"body"))
    assert (driven.status, driven.body) == (200, b"b")
    gate.callback(None)
    assert (driven.body, driven.finished) == (b"body", True)


def test_who_has_seen_a_response_is_not_shown_another() -> None:
    """A body's filter that fails when the head has passed all: the client alone is told."""
    calls: list[str] = []
    gate: Deferred[Any] = Deferred()
    driven = drive(
        Named("a", calls), Made(response_data=lambda *_: gate), response=Response(200, b"x")
    )
    assert driven.waiting
    gate.errback(ZeroDivisionError("a defect"))
    assert (driven.status, driven.body) == (500, b"internal error")
    assert calls == ["a request", "a response 200", "a finished"]


def test_a_body_that_turns_out_empty_has_an_end() -> None:
    """Where no length was told, its filters hear of the end: a coding has its last bytes to say."""
    ended: list[tuple[bytes, bool]] = []

    def response_data(exchange: Any, data: bytes, end: bool) -> bytes:
        ended.append((data, end))
        return b"tail"

    driven = drive(Made(response_data=response_data), response=None)
    driven.answer(200, {}, b"", end=True, length=-1)
    assert ended == [(b"", True)]
    assert (driven.body, driven.headers.get(b"content-length")) == (b"tail", b"4")
    nothing = drive(Made(response_data=response_data), response=Response(200))
    assert (nothing.body, len(ended)) == (b"", 1)


def test_the_length_of_a_head_that_get_would_not_have_is_not_told() -> None:
    """A filter that may change bodies takes the length of a HEAD's response away, even unasked."""
    head = drive(
        Made(response_data=lambda *_: None), method=b"HEAD", response=Response(200, b"four")
    )
    assert head.headers.get(b"content-length") is None
    kept = drive(
        Made(keeps_length=True, response_data=lambda *_: None),
        method=b"HEAD",
        response=Response(200, b"four"),
    )
    assert kept.headers.get(b"content-length") == b"4"


def test_a_filter_that_does_not_see_an_answer_does_not_take_its_length() -> None:
    """An answer in front of a filter that changes bodies keeps its length while it waits."""
    gate: Deferred[Any] = Deferred()
    driven = drive(
        Made(keeps_length=True, response_data=lambda *_: gate),
        Made(request=lambda exchange: Response(403, b"no")),
        Made(response_data=lambda exchange, data, end: data * 2),
    )
    assert (driven.status, driven.headers.get(b"content-length")) == (403, b"2")
    gate.callback(None)
    assert (driven.body, driven.finished) == (b"no", True)

"""What filters see of an exchange."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from zope.interface import Interface

from meshproxy.api import Response
from meshproxy.http.views import Request, ResponseView, Viewed
from meshproxy.interfaces import IExchange, IRequest, IResponse
from meshproxy.testing import Kit, drive
from tests.http.filters import Made, Named


@pytest.mark.parametrize(
    ("interface", "made"), [(IExchange, Viewed), (IRequest, Request), (IResponse, ResponseView)]
)
def test_everything_that_is_promised_is_there(interface: type[Interface], made: type) -> None:
    """Every attribute and method of the interfaces is one of the exchange's or the view's."""
    missing = [name for name in interface.names() if not hasattr(made, name)]
    assert missing == []


def looked(look: Any, **keywords: Any) -> Any:
    """What ``look(exchange)`` gives inside a request filter."""
    found: list[Any] = []
    driven = drive(Made(request=lambda exchange: found.append(look(exchange))), **keywords)
    assert driven.status
    return found[0]


def test_a_request_is_seen() -> None:
    """Its parts, as received."""
    keywords = {
        "method": b"POST",
        "target": b"/a%20b?x=1&y=%41+b",
        "headers": [(b"Cookie", b'a=1; b="two"'), (b"Cookie", b"c=3=4"), (b"X-A", b"1")],
        "body": b"four",
        "client": b"[2001:db8::1]:99",
    }
    look = {
        "method": lambda e: e.request.method,
        "target": lambda e: e.request.target,
        "path": lambda e: e.request.path,
        "query": lambda e: e.request.query,
        "authority": lambda e: e.request.authority,
        "header": lambda e: e.request.headers.get(b"x-a"),
        "cookies": lambda e: [e.request.cookie(n) for n in (b"a", b"b", b"c", b"d")],
        "parameters": lambda e: [e.request.parameter(n) for n in (b"x", b"y", b"z")],
        "length": lambda e: e.request.length,
        "complete": lambda e: e.request.complete,
        "client": lambda e: (e.client, e.client_ip),
        "names": lambda e: (e.listener_name, e.route_name, e.cluster_name, e.upstream),
        "response": lambda e: e.response,
        "tls": lambda e: e.tls,
        "scheme": lambda e: e.scheme,
        "trailers": lambda e: e.request.trailers,
    }
    assert looked(lambda e: {k: v(e) for k, v in look.items()}, **keywords) == {
        "method": b"POST",
        "target": b"/a%20b?x=1&y=%41+b",
        "path": b"/a%20b",
        "query": b"x=1&y=%41+b",
        "authority": b"test.example",
        "header": b"1",
        "cookies": [b"1", b"two", b"3=4", None],
        "parameters": [b"1", b"A b", None],
        "length": 4,
        "complete": True,
        "client": (b"[2001:db8::1]:99", b"2001:db8::1"),
        "names": (b"test", b"test", b"", b""),
        "response": None,
        "tls": None,
        "scheme": b"http",
        "trailers": None,
    }


def test_a_response_is_seen() -> None:
    """Its parts; whether it is an endpoint's, and whether it can have a body."""
    found: list[Any] = []

    def response(exchange: Any) -> None:
        answer = exchange.response
        found.append(
            (answer.status, answer.length, answer.local, answer.bodiless, exchange.cluster_name)
        )

    drive(Made(response=response), response=Response(201, b"abc"))
    drive(Made(response=response), response=Response(204))
    driven = drive(Made(response=response), response=None)
    driven.fail()
    drive(Made(response=response), Made(request=lambda e: Response(403, b"no")))
    assert found == [
        (201, 3, False, False, b"test"),
        (204, -1, False, True, b"test"),
        (503, 95, True, False, b"test"),
        (403, 2, True, False, b""),
    ]


def test_a_status_may_be_changed() -> None:
    """But not into or out of one that has no body."""

    def change(exchange: Any) -> None:
        exchange.response.status = 202
        for status in (99, 204, 600):
            with pytest.raises(ValueError, match="599|no body"):
                exchange.response.status = status

    assert drive(Made(response=change)).status == 202


def test_respond_wants_a_response() -> None:
    """Anything else is refused at once."""

    def request(exchange: Any) -> None:
        with pytest.raises(TypeError):
            exchange.respond("no")

    assert drive(Made(request=request)).status == 200


def test_skipping_for_somebody_else() -> None:
    """Only a filter of this chain can be skipped."""

    def request(exchange: Any) -> None:
        with pytest.raises(ValueError, match="not in the exchange's chain"):
            exchange.skip_body(object())

    assert drive(Made(request=request)).status == 200


def test_query_and_path_are_set_apart() -> None:
    """Setting one leaves the other; an empty query takes the question mark with it."""

    def request(exchange: Any) -> None:
        exchange.request.path = b"/p"
        assert exchange.request.target == b"/p?q=1"
        exchange.request.query = b""
        assert exchange.request.target == b"/p"

    assert drive(Made(request=request), target=b"/old?q=1").upstream.target == b"/p"


def test_a_body_is_read_once() -> None:
    """The second reader is told so."""
    found: list[Any] = []

    def request(exchange: Any) -> Any:
        first = exchange.request.read(10)
        exchange.request.read(10).addErrback(lambda failure: found.append(failure.type))
        return first.addCallback(found.append)

    drive(Made(request=request), method=b"POST", body=b"abc")
    assert found == [RuntimeError, b"abc"]


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


def test_a_request_is_not_read_or_set_once_there_is_a_response() -> None:
    """``request.read`` in ``response`` never gets, or waits for, another body than its own."""
    seen: list[str] = []

    async def response(exchange: Any) -> None:
        try:
            await exchange.request.read(100)
        except RuntimeError as error:
            seen.append(str(error))

    def plain(exchange: Any) -> None:
        with pytest.raises(RuntimeError):
            exchange.request.set_body(b"wrong")
        exchange.request.read(100).addErrback(lambda failure: seen.append(str(failure.value)))

    for filters in ([Made(response=response)], [Made(response=plain)]):
        driven = drive(*filters, Made(request=lambda exchange: succeed(None)))
        assert (driven.status, driven.body) == (200, b"ok\n")
        driven = drive(*filters)
        assert (driven.status, driven.body) == (200, b"ok\n")
    assert seen == ["a request's body is read before there is a response"] * 4


def test_a_response_that_is_not_whole_cannot_be_replaced() -> None:
    """What the endpoint still sends must not follow the new body."""

    def response(exchange: Any) -> None:
        with pytest.raises(RuntimeError):
            exchange.response.set_body(b"new")

    driven = drive(Made(response=response), response=None)
    driven.answer(200, {}, b"half", end=False)
    driven.answer_end(b"whole")
    assert driven.body == b"halfwhole"


def test_a_body_that_has_gone_is_not_waited_for() -> None:
    """``read`` where there is nothing to read any more fails, and does not hang."""
    failed: list[type[BaseException]] = []

    def request_data(exchange: Any, data: bytes, end: bool) -> None:
        exchange.request.read(100).addErrback(lambda failure: failed.append(failure.type))

    driven = drive(Made(request_data=request_data), method=b"POST", body=None)
    driven.send(b"a")
    driven.end()
    assert driven.status == 200
    assert failed == [RuntimeError, RuntimeError]


def test_an_end_that_was_the_connections_is_told_whenever_it_is_asked() -> None:
    """``delimited`` stays false when the body's end came while another filter waited."""
    told: list[bool] = []
    gate: Deferred[Any] = Deferred()
    driven = drive(
        Made(response=lambda exchange: told.append(exchange.response.delimited)),
        Made(response=lambda exchange: gate),
        response=None,
    )
    driven.stream.until_close = True
    driven.answer(200, {}, b"half", end=False)
    driven.answer_end()
    gate.callback(None)
    assert driven.body == b"half"
    assert told == [False]
    driven = drive(Made(response=lambda exchange: told.append(exchange.response.delimited)))
    assert told == [False, True]


def test_a_read_may_be_given_up() -> None:
    """Who cancels a read, in whatever phase it was begun, may read again or go on."""

    async def request(exchange: Any) -> None:
        for _ in range(2):
            reader = exchange.request.read(100)
            reader.cancel()
            with pytest.raises(CancelledError):
                await reader

    def plain(exchange: Any) -> Any:
        reader = exchange.request.read(100)
        reader.addErrback(lambda _: None)
        gate.addCallback(lambda _: reader.cancel())
        return gate

    gate: Deferred[Any] = Deferred()
    driven = drive(Made(request=plain), Made(request=request), method=b"POST", body=None)
    driven.send(b"body")
    gate.callback(None)
    driven.end()
    assert (driven.status, driven.upstream.body) == (200, b"body")


def test_changing_the_route_to_and_fro_is_no_change() -> None:
    """The last route counts, and its filters are run."""
    calls: list[str] = []

    def request(exchange: Any) -> None:
        for target in (b"/none", b"/"):
            exchange.request.target = target
            exchange.clear_route()

    kit = Kit()
    match = kit.listener.match
    kit.listener.match = lambda exchange: None if exchange.target == b"/none" else match(exchange)
    driven = kit.drive(Made(request=request), Named("a", calls))
    assert driven.status == 200
    assert calls[0] == "a request"


def test_an_exchange_and_its_views_let_go_of_each_other() -> None:
    """One object serves all filters; at the end nothing is left for the collector of cycles."""
    import gc

    seen: list[bool] = []

    def look(exchange: Any) -> None:
        seen.append(exchange.request is exchange.request)

    def look_back(exchange: Any) -> None:
        seen.append(exchange.response is exchange.response)

    driven = drive(Made(request=look, response=look_back))
    assert seen == [True, True]
    exchange = driven.exchange
    assert exchange.request_view is None
    assert exchange.response_view is None
    assert not [held for held in gc.get_referrers(exchange) if isinstance(held, Request)]


def test_a_replaced_response_is_seen_anew() -> None:
    """The filters before one that replaces it get the new head, not what was kept of the old."""
    seen: list[tuple[int, bytes | None]] = []

    def note(exchange: Any) -> None:
        seen.append((exchange.response.status, exchange.response.headers.get(b"x-a")))

    def replace(exchange: Any) -> Response:
        note(exchange)
        return Response(418, b"", {b"x-a": b"2"})

    drive(Made(response=note), Made(response=replace), response=Response(200, b"", {b"x-a": b"1"}))
    assert seen == [(200, b"1"), (418, b"2")]

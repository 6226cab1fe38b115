"""What filters see of an exchange."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import Interface

from meshproxy.api import Response
from meshproxy.http.views import Request, ResponseView, Viewed
from meshproxy.interfaces import IExchange, IRequest, IResponse
from meshproxy.testing import drive
from tests.http.filters import Made


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

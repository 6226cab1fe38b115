"""Requests beside an exchange."""

from __future__ import annotations

from typing import Any

from meshproxy.api import BodyTooLarge, Response
from meshproxy.errors import FetchFailed
from meshproxy.testing import Kit
from tests.http.filters import Made


class Fetching:
    """A filter that fetches; what came of it."""

    def __init__(self, **keywords: Any) -> None:
        self.got: list[Any] = []
        self.failed: list[Any] = []
        self.deferreds: list[Any] = []
        self.keywords = keywords
        self.filter = Made(request=self._request)

    def _request(self, exchange: Any) -> None:
        exchange.request.headers.set(b"x-by-filter", b"1")
        fetched = exchange.fetch(**self.keywords)
        self.deferreds.append(fetched)
        fetched.addCallbacks(self.got.append, lambda failure: self.failed.append(failure.value))


def test_an_answer_comes_whole() -> None:
    """Status, headers without framing, body; the exchange goes its own way."""
    kit = Kit()
    kit.beside = Response(200, b"beside", {b"etag": b'"1"'})
    fetching = Fetching()
    driven = kit.drive(fetching.filter, response=Response(201, b"own"))
    assert (driven.status, driven.body) == (201, b"own")
    (fetched,) = fetching.got
    assert (fetched.status, fetched.body) == (200, b"beside")
    assert fetched.headers.get(b"etag") == b'"1"'
    assert fetched.headers.get(b"content-length") is None


def test_what_is_asked() -> None:
    """GET at the same target, with the filter's headers and those laid over, without the body."""
    kit = Kit()
    asked: list[Any] = []

    def beside(copy: Any) -> Response:
        asked.append(copy)
        return Response(304)

    kit.beside = beside
    fetching = Fetching(headers={b"if-none-match": b'"1"', b"range": None})
    kit.drive(
        fetching.filter,
        method=b"POST",
        target=b"/x?y",
        headers={b"range": b"bytes=0-", b"x-own": b"2"},
        body=b"body",
    )
    (copy,) = asked
    headers = copy.request_headers
    assert (copy.method, copy.upstream_path) == (b"GET", b"/x?y")
    assert headers.get(b"if-none-match") == b'"1"'
    assert headers.get(b"range") is None
    assert (headers.get(b"x-own"), headers.get(b"x-by-filter")) == (b"2", b"1")
    assert headers.get(b"content-length") is None
    assert headers.get(b"x-forwarded-for") == b"192.0.2.1"
    assert fetching.got[0].status == 304


def test_it_outlives_its_exchange_and_has_a_bound_of_its_own() -> None:
    """The client's going does not end it; its time does, and its failure is told."""
    kit = Kit()
    kit.beside = None
    fetching = Fetching(timeout=3.0)
    driven = kit.drive(fetching.filter)
    assert driven.over
    group = driven.exchange.group
    assert group.limits.requests == 1
    kit.advance(4.0)
    assert [type(error) for error in fetching.failed] == [FetchFailed]
    assert group.limits.requests == 0


def test_a_cancelled_fetch_is_given_up() -> None:
    """Nothing is in flight any more."""
    kit = Kit()
    kit.beside = None
    fetching = Fetching()
    driven = kit.drive(fetching.filter)
    fetching.deferreds[0].cancel()
    assert driven.exchange.group.limits.requests == 0


def test_a_body_over_the_limit() -> None:
    """It fails, and the connection is not kept waiting for the rest."""
    kit = Kit()
    kit.beside = Response(200, b"x" * 11)
    fetching = Fetching(limit=10)
    kit.drive(fetching.filter)
    assert [type(error) for error in fetching.failed] == [BodyTooLarge]


def test_where_there_is_nothing_to_ask() -> None:
    """Without a route there is no cluster, and the filter is told."""
    kit = Kit()
    kit.listener.match = lambda exchange: None
    fetching = Fetching()
    kit.drive(fetching.filter)
    assert [str(error) for error in fetching.failed] == ["no cluster takes this request"]


def test_the_clusters_limit_holds() -> None:
    """A fetch counts as a request in flight, and is refused over the limit."""
    kit = Kit()
    kit.beside = None
    first = kit.drive(Fetching().filter)
    first.exchange.group.limits.max_requests = 1
    fetching = Fetching()
    kit.drive(fetching.filter)
    assert [str(error) for error in fetching.failed] == ["overflow"]


def test_an_error_over_the_limit_is_the_endpoints_failure() -> None:
    """An answer 500 that is too long counts as one that failed, once; a 200 as a good one."""
    for status, answered, failed in ((500, 0, 1), (200, 1, 0)):
        kit = Kit()
        kit.beside = Response(status, b"x" * 11)
        driven = kit.drive(Fetching(limit=10).filter, response=None)
        endpoint = driven.exchange.endpoint
        assert endpoint is not None
        assert (endpoint.answered, endpoint.failed) == (answered, failed)

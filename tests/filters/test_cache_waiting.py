"""The filter cache: stale responses, and requests that wait for one like them."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.interfaces import IResponseFilter
from tests.filters.cached import ETAG, MINUTE, Pairs, a_kit, answering, cc, made, waiting


def test_only_if_cached() -> None:
    """RFC 9111, 5.2.1.7: 504, and nobody is asked."""
    kit, held = a_kit(), made()
    refused = kit.drive(held, headers=[cc(b"only-if-cached")])
    assert (refused.status, refused.upstream, refused.details) == (504, None, b"only_if_cached")


def test_stale_while_revalidate() -> None:
    """RFC 5861, 3: at once the old one, beside it the new one; once at a time."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(cc(b"max-age=60, stale-while-revalidate=30"), ETAG))
    asked: list[Any] = []

    def beside(copy: Any) -> Response:
        asked.append(copy)
        return answering(cc(b"max-age=60, stale-while-revalidate=30"), body=b"new")

    kit.beside = beside
    kit.advance(65.0)
    stale = kit.drive(held, headers={b"range": b"bytes=0-1", b"if-range": b'"1"', b"x-a": b"1"})
    assert (stale.upstream, stale.status, stale.body) == (None, 206, b"he")
    assert stale.details == b"cache_stale"
    assert len(asked) == 1
    sent = asked[0].request_headers
    assert sent.get(b"if-none-match") == b'"1"'
    assert sent.get(b"x-a") == b"1"
    assert b"range" not in sent
    assert b"if-range" not in sent
    hit = kit.drive(held)
    assert (hit.upstream, hit.body, hit.details) == (None, b"new", b"cache_hit")
    kit.advance(91.0)
    assert kit.drive(held).upstream is not None
    assert kit.counters["refreshes"] == 1


def test_a_refresh_confirms() -> None:
    """A 304 beside the exchange makes the stored response fresh again."""
    kit, held = a_kit(), made(stale_while_revalidate="30s")
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.beside = Response(304, b"", [MINUTE, ETAG])
    kit.advance(65.0)
    assert kit.drive(held).details == b"cache_stale"
    assert kit.drive(held).details == b"cache_hit"


def test_one_refresh_at_a_time() -> None:
    """However many ask; and it is given up when the proxy stops."""
    kit, held = a_kit(), made(stale_while_revalidate="30s")
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.beside = None
    kit.advance(65.0)
    for _ in range(3):
        assert kit.drive(held).details == b"cache_stale"
    assert kit.counters["refreshes"] == 1
    kit.stop(held)
    assert kit.counters["refresh_failures"] == 1


@pytest.mark.parametrize(
    ("answer", "details"),
    [
        (answering(status=500), b"cache_stale"),
        (answering(cc(b"no-store")), b"via_upstream"),
        (answering(MINUTE, body=b"x" * 11), b"via_upstream"),
    ],
)
def test_a_refresh_that_brings_nothing(answer: Response, details: bytes) -> None:
    """An error changes nothing; what is not to be stored, or too large, drops what is."""
    kit, held = a_kit(), made(stale_while_revalidate="30s", max_entry=10)
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.beside = answer
    kit.advance(65.0)
    assert kit.drive(held).details == b"cache_stale"
    assert kit.drive(held).details == details


def test_a_purge_reaches_what_is_refreshed() -> None:
    """What was asked for before it is not stored after it."""
    kit, held = a_kit(), made(stale_while_revalidate="30s")
    kit.drive(held, response=answering(MINUTE, ETAG))

    def beside(copy: Any) -> Response:
        assert held._shelf.invalidate(b"http://test.example/") == 1
        return answering(MINUTE, body=b"new")

    kit.beside = beside
    kit.advance(65.0)
    assert kit.drive(held).details == b"cache_stale"
    assert kit.drive(held).details == b"via_upstream"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_stale_if_error(status: int) -> None:
    """RFC 5861, 4: in place of an error, for a time."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(cc(b"max-age=60, stale-if-error=60"), ETAG))
    kit.advance(90.0)
    stale = kit.drive(held, response=answering(status=status, body=b"bad"))
    assert stale.upstream is not None
    assert (stale.status, stale.body, stale.details) == (200, b"hello", b"cache_stale")
    assert int(stale.headers.get(b"age") or b"0") >= 89
    kit.advance(60.0)
    assert kit.drive(held, response=answering(status=status)).status == status


@pytest.mark.parametrize(
    ("said", "asked", "options", "status"),
    [
        (b"max-age=60", b"", {}, 503),
        (b"max-age=60", b"", {"stale_if_error": "1h"}, 200),
        (b"max-age=60", b"stale-if-error=99", {}, 200),
        (b"max-age=60", b"no-cache", {"stale_if_error": "1h"}, 503),
        (b"max-age=60, must-revalidate", b"", {"stale_if_error": "1h"}, 503),
        (b"max-age=60, must-revalidate", b"stale-if-error=99", {}, 503),
        (b"s-maxage=60", b"", {"stale_if_error": "1h"}, 503),
        (b"max-age=60, stale-if-error=0", b"", {"stale_if_error": "1h"}, 503),
    ],
)
def test_who_allows_stale_in_place_of_errors(
    said: bytes, asked: bytes, options: dict[str, Any], status: int
) -> None:
    """The response, the request, the configuration; and none of them against RFC 9111, 4.2.4."""
    kit, held = a_kit(), made(**options)
    kit.drive(held, response=answering(cc(said), ETAG))
    kit.advance(90.0)
    headers = [cc(asked)] if asked else []
    answer = kit.drive(held, response=answering(status=503), headers=headers)
    assert answer.status == status


def test_stale_when_nobody_can_be_reached() -> None:
    """The proxy's own 503 is an error as well."""
    kit, held = a_kit(), made(stale_if_error="1h")
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(90.0)
    down = kit.drive(held, response=None)
    down.fail()
    assert (down.status, down.body) == (200, b"hello")


# Collapsing.


def test_identical_requests_wait_for_one() -> None:
    """One goes to the origin, the others get its response when all of it is there."""
    kit, held = a_kit(), made()
    first, others = waiting(kit, held, 3)
    assert all(other.waiting and other.upstream is None for other in others)
    first.answer(200, [MINUTE], b"he", end=False)
    assert all(other.status == 0 for other in others)
    first.answer_end(b"llo")
    assert [other.body for other in others] == [b"hello"] * 3
    assert all(other.upstream is None for other in others)
    assert kit.counters["collapsed"] == 3


def test_those_who_wait_are_judged_by_their_own_headers() -> None:
    """A condition and a range of a waiter's are its own; so is its variant."""
    kit, held = a_kit(), made()
    first = kit.drive(held, response=None, headers={b"x-a": b"1"})
    condition = kit.drive(held, headers={b"x-a": b"1", b"if-none-match": b'"1"'})
    other = kit.drive(held, headers={b"x-a": b"2"}, response=answering(body=b"two"))
    assert condition.waiting
    assert other.waiting
    first.answer(200, [MINUTE, ETAG, (b"vary", b"x-a")], b"hello")
    assert (condition.status, condition.upstream) == (304, None)
    assert other.upstream is not None
    assert other.body == b"two"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [cc(b"private")]),
        (200, [cc(b"no-cache"), ETAG]),
        (500, []),
        (200, [MINUTE, (b"set-cookie", b"a=b")]),
    ],
)
def test_what_cannot_be_shared_lets_all_go_at_once(status: int, headers: Pairs) -> None:
    """Each by itself, none behind the other; and for a time nobody waits for that URL."""
    kit, held = a_kit(), made()
    first, others = waiting(kit, held, 3)
    first.answer(status, headers, b"x", end=False)
    assert [other.upstream is not None for other in others] == [True] * 3
    assert [other.body for other in others] == [b"own"] * 3
    first.answer_end()
    kit.drive(held, response=None)
    assert kit.drive(held, response=answering()).upstream is not None


def test_a_body_too_large_lets_them_go() -> None:
    """As soon as that is seen."""
    kit, held = a_kit(), made(max_entry=10)
    first, others = waiting(kit, held, 2)
    first.answer(200, [MINUTE], b"x" * 8, end=False)
    assert all(other.waiting for other in others)
    first.answer_data(b"x" * 8)
    assert [other.body for other in others] == [b"own"] * 2


def test_the_first_ones_client_goes_away() -> None:
    """The next one asks, the others wait for that."""
    kit, held = a_kit(), made()
    first = kit.drive(held, response=None)
    second = kit.drive(held, response=None)
    third = kit.drive(held, response=answering(body=b"own"))
    first.disconnect()
    assert second.upstream is not None
    assert third.waiting
    second.answer(200, [MINUTE], b"he", end=False)
    fourth = kit.drive(held, response=answering(body=b"own"))
    second.disconnect()
    assert third.upstream is not None
    assert (third.body, fourth.waiting) == (b"own", False)


def test_the_first_one_is_cut() -> None:
    """Whoever waits for a body that is never complete asks by itself."""
    kit, held = a_kit(), made()
    first = kit.drive(held, response=None)
    others = [kit.drive(held, response=None) for _ in range(3)]
    first.answer(200, [MINUTE], b"he", end=False)
    first.fail()
    # At once, none behind the other: nobody has been answered yet.
    assert all(other.upstream is not None for other in others)


def test_a_waiter_that_goes_away() -> None:
    """It changes nothing for the others."""
    kit, held = a_kit(), made()
    first, others = waiting(kit, held, 2)
    others[0].disconnect()
    first.answer(200, [MINUTE], b"hello")
    assert others[1].body == b"hello"
    assert others[0].status == 0


def test_waiting_is_bounded() -> None:
    """In number, and in time."""
    kit, held = a_kit(), made(collapse={"waiters": 2, "wait": "3s"})
    first, others = waiting(kit, held, 3)
    assert [other.body for other in others] == [b"", b"", b"own"]
    kit.advance(3.1)
    assert [other.body for other in others] == [b"own"] * 3
    first.answer(200, [MINUTE], b"hello")
    assert first.body == b"hello"


def test_who_does_not_wait() -> None:
    """Other URLs, requests that must be answered by the origin, and all where it is off."""
    kit, held = a_kit(), made()
    kit.drive(held, response=None)
    assert kit.drive(held, target=b"/2", response=answering()).upstream is not None
    for headers in ([cc(b"no-cache")], [cc(b"no-store")], [(b"range", b"bytes=0-1")]):
        assert kit.drive(held, headers=headers, response=answering()).upstream is not None
    assert kit.drive(held, method=b"POST", response=answering()).upstream is not None
    kit, held = a_kit(), made(collapse={"waiters": 0})
    kit.drive(held, response=None)
    assert kit.drive(held, response=answering()).upstream is not None
    kit, held = a_kit(), made()
    kit.drive(held, response=None, headers={b"if-none-match": b'"1"'})
    assert kit.drive(held, response=answering()).upstream is not None  # that may bring a 304


def test_a_change_lets_those_who_wait_go() -> None:
    """What they wait for may be out of date."""
    kit, held = a_kit(), made()
    _, others = waiting(kit, held, 2)
    kit.drive(held, method=b"DELETE", response=answering())
    assert [other.body for other in others] == [b"own"] * 2


def test_a_revalidation_is_waited_for() -> None:
    """One asks whether it still holds, all get it."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    first, others = waiting(kit, held, 2)
    assert all(other.waiting for other in others)
    first.answer(304, [MINUTE, ETAG])
    assert [other.body for other in (first, *others)] == [b"hello"] * 3


def test_stopping_lets_all_go() -> None:
    """Nobody waits for a proxy that ends, and no timer stays."""
    kit, held = a_kit(), made()
    first, others = waiting(kit, held, 2)
    kit.stop(held)
    assert [other.body for other in others] == [b"own"] * 2
    first.disconnect()
    assert held._shelf.flights.waiting == 0


def test_a_later_filter_that_fails_holds_nobody_up() -> None:
    """An exchange that ends in any way lets those go who wait for it."""

    @implementer(IResponseFilter)
    class Fails:
        def response(self, exchange: Any) -> None:
            raise ZeroDivisionError

    kit, held = a_kit(), made()
    fails = Fails()
    first = kit.drive(held, fails, response=None)
    other = kit.drive(held, response=answering(body=b"own"))
    assert other.waiting
    first.answer(200, [MINUTE], b"hello")
    assert first.status == 500
    assert other.body == b"own"

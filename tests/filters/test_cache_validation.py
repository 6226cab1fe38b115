"""The filter cache: HEAD, validation, ranges, whole bodies and invalidation."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.interfaces import IRequestFilter
from tests.filters.cached import ETAG, MINUTE, Pairs, a_kit, answering, cc, date, made


def test_head_from_a_stored_get() -> None:
    """RFC 9110, 9.3.2: the same fields, the length, no body; and the other way round not."""
    kit, held = a_kit(), made()
    kit.drive(held, method=b"HEAD", response=answering(MINUTE))
    assert kit.drive(held, response=answering(MINUTE)).upstream is not None
    head = kit.drive(held, method=b"HEAD")
    assert head.upstream is None
    assert (head.status, head.body, head.headers.get(b"content-length")) == (200, b"", b"5")


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([MINUTE, ETAG], True),
        ([MINUTE, (b"etag", b'"2"')], False),
        ([MINUTE], False),
    ],
)
def test_head_confirms_or_drops(headers: Pairs, kept: bool) -> None:
    """RFC 9111, 4.3.5: a HEAD's response that is alike freshens it, another drops it."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    kit.drive(held, method=b"HEAD", response=answering(*headers))
    assert (kit.drive(held).upstream is None) is kept


def test_head_tells_by_the_length() -> None:
    """RFC 9111, 4.3.5."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    kit.drive(held, method=b"HEAD", response=answering(MINUTE, ETAG, body=b"longer"))
    assert kit.drive(held).upstream is not None


# Validation.


def test_a_clients_condition_is_judged_here() -> None:
    """RFC 9111, 4.3.2: 304, with what it must say and no length."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    hit = kit.drive(held, headers={b"if-none-match": b'W/"1"'})
    assert (hit.status, hit.body, hit.upstream) == (304, b"", None)
    assert b"content-length" not in hit.headers
    assert hit.headers.get(b"etag") == b'"1"'
    assert b"age" in hit.headers
    other = kit.drive(held, headers={b"if-none-match": b'"2"'})
    assert (other.status, other.upstream) == (200, None)


def test_a_stale_response_is_validated() -> None:
    """RFC 9111, 4.3.1, 4.3.3, 4.3.4: by its validators; confirmed, it is fresh again."""
    kit, held = a_kit(), made()
    modified = (b"last-modified", date(-99))
    kit.drive(held, response=answering(MINUTE, ETAG, modified, (b"x-a", b"1"), (b"x-b", b"1")))
    kit.advance(61.0)
    confirms = Response(304, b"", [MINUTE, ETAG, (b"x-a", b"2"), (b"date", date(61))])
    again = kit.drive(held, response=confirms)
    assert again.upstream is not None
    assert again.upstream.headers.get(b"if-none-match") == b'"1"'
    assert again.upstream.headers.get(b"if-modified-since") == date(-99)
    assert (again.status, again.body, again.details) == (200, b"hello", b"cache_revalidated")
    assert again.headers.get_all(b"x-a") == [b"2"]
    assert again.headers.get_all(b"x-b") == [b"1"]
    assert int(again.headers.get(b"age") or b"-1") <= 1
    kit.advance(58.0)
    assert kit.drive(held).upstream is None
    assert kit.counters["revalidated"] == 1


def test_a_clients_condition_is_judged_behind_ours() -> None:
    """RFC 9111, 4.3.3: ours goes to the origin; the client's is judged by what that confirms."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    for condition, status in ((b'"1"', 304), (b'"0"', 200)):
        kit.advance(61.0)
        again = kit.drive(
            held, response=Response(304, b"", [ETAG]), headers={b"if-none-match": condition}
        )
        assert again.upstream is not None
        assert again.upstream.headers.get_all(b"if-none-match") == [b'"1"']
        assert again.status == status


def test_without_a_validator_it_is_asked_for() -> None:
    """RFC 9111, 4.3.1: there is nothing to ask by, and a client's own condition stays."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE))
    kit.advance(61.0)
    again = kit.drive(held, response=Response(304), headers={b"if-none-match": b'"9"'})
    assert again.upstream is not None
    assert again.upstream.headers.get(b"if-none-match") == b'"9"'
    assert again.status == 304


def test_a_new_response_takes_the_place() -> None:
    """RFC 9111, 4.3.3: a full response to a condition of ours is what counts from now on."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    again = kit.drive(held, response=answering(MINUTE, (b"etag", b'"2"'), body=b"new"))
    assert again.body == b"new"
    hit = kit.drive(held)
    assert (hit.upstream, hit.body) == (None, b"new")


def test_no_cache_is_stored_and_always_asked_about() -> None:
    """RFC 9111, 5.2.2.4."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(cc(b"no-cache, max-age=60"), ETAG))
    for _ in range(2):
        again = kit.drive(held, response=Response(304, b"", [ETAG]))
        assert again.upstream is not None
        assert (again.status, again.body) == (200, b"hello")


def test_confirmed_under_another_name() -> None:
    """It answers this once, and is then asked for anew: which one is stored is in doubt."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    again = kit.drive(held, response=Response(304, b"", [MINUTE, (b"etag", b'"2"')]))
    assert (again.status, again.body) == (200, b"hello")
    after = kit.drive(held, response=answering(MINUTE))
    assert after.upstream is not None
    assert b"if-none-match" not in after.upstream.headers


def test_confirmed_but_not_to_be_stored_any_more() -> None:
    """RFC 9111, 4.3.4: what a 304 says of storing holds from now on."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    again = kit.drive(held, response=Response(304, b"", [cc(b"no-store"), ETAG]))
    assert (again.status, again.body) == (200, b"hello")
    assert kit.drive(held, response=answering()).upstream is not None
    assert kit.counters.get("entries", 0) == 0


def test_confirmed_to_one_client_alone() -> None:
    """RFC 9111, 3.5: a 304 to a request with Authorization is its client's, no news for all."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    own = {b"authorization": b"x"}
    again = kit.drive(held, response=Response(304, b"", [ETAG]), headers=own)
    assert (again.status, again.body) == (200, b"hello")
    kit.drive(held, response=answering(MINUTE), headers=own)
    after = kit.drive(held, response=Response(304, b"", [ETAG]))
    assert after.upstream is not None
    assert after.upstream.headers.get(b"if-none-match") == b'"1"'
    shared = Response(304, b"", [cc(b"public, max-age=60"), ETAG])
    kit.advance(61.0)
    kit.drive(held, response=shared, headers=own)
    assert kit.drive(held).upstream is None


def test_no_store_asks_for_all_of_it() -> None:
    """RFC 9111, 5.2.1.5: nothing of its response may go into what is stored."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    asked = kit.drive(held, response=answering(MINUTE, body=b"own"), headers=[cc(b"no-store")])
    assert asked.upstream is not None
    assert b"if-none-match" not in asked.upstream.headers
    assert asked.body == b"own"
    again = kit.drive(held, response=Response(304, b"", [MINUTE, ETAG]))
    assert again.body == b"hello"


def test_cookies_of_a_304_reach_their_client_only() -> None:
    """RFC 9111, 7.3: they are in the answer, and not in what is stored."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    kit.advance(61.0)
    again = kit.drive(held, response=Response(304, b"", [MINUTE, ETAG, (b"set-cookie", b"a=b")]))
    assert again.headers.get(b"set-cookie") == b"a=b"
    assert b"set-cookie" not in kit.drive(held).headers


def test_a_304_to_a_clients_own_condition_passes() -> None:
    """It is no response that could be stored."""
    kit, held = a_kit(), made()
    passed = kit.drive(
        held, response=Response(304, b"", [ETAG]), headers={b"if-none-match": b'"1"'}
    )
    assert passed.status == 304
    assert kit.drive(held).upstream is not None


def test_news_drop_what_is_stored() -> None:
    """A stale response does not outlive what the origin gives in its place, stored or not."""
    kit, held = a_kit(), made()
    for status, dropped in ((200, True), (410, True), (403, False), (429, False)):
        kit.drive(held, response=answering(cc(b"max-age=1"), ETAG))
        kit.advance(61.0)
        kit.drive(held, response=answering(cc(b"no-store"), status=status))
        again = kit.drive(held, response=answering(cc(b"no-store")))
        assert again.upstream is not None
        assert (b"if-none-match" not in again.upstream.headers) is dropped


# Ranges.


def test_a_range_of_what_is_stored() -> None:
    """RFC 9110, 14: one range, by 206."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE, ETAG))
    part = kit.drive(held, headers={b"range": b"bytes=1-3", b"if-range": b'"1"'})
    assert (part.upstream, part.status, part.body) == (None, 206, b"ell")
    assert part.headers.get(b"content-range") == b"bytes 1-3/5"
    assert part.headers.get(b"content-length") == b"3"
    none = kit.drive(held, headers={b"range": b"bytes=9-"})
    assert (none.status, none.headers.get(b"content-range")) == (416, b"bytes */5")
    whole = kit.drive(held, headers={b"range": b"bytes=0-0,2-2"})
    assert (whole.upstream, whole.status, whole.body) == (None, 200, b"hello")


def test_a_range_of_what_is_not_stored_passes() -> None:
    """It is sent on as it is, and nothing is stored of it."""
    kit, held = a_kit(), made()
    response = answering(MINUTE, (b"content-range", b"bytes 1-3/5"), body=b"ell", status=206)
    for _ in range(2):
        part = kit.drive(held, headers={b"range": b"bytes=1-3"}, response=response)
        assert part.upstream is not None
        assert part.upstream.headers.get(b"range") == b"bytes=1-3"
        assert part.status == 206


# Only whole bodies.


def test_a_cut_body_is_not_stored() -> None:
    """RFC 9111, 3.3."""
    kit, held = a_kit(), made()
    cut = kit.drive(held, response=None)
    cut.answer(200, [MINUTE], b"hel", end=False, length=5)
    cut.fail()
    assert cut.aborted
    assert kit.drive(held).upstream is not None


def test_a_body_in_pieces_is_stored_when_all_is_there() -> None:
    """Of a known length or not; before its end nothing is."""
    for length in (None, 5):
        kit, held = a_kit(), made(collapse={"waiters": 0})
        slow = kit.drive(held, response=None)
        slow.answer(200, [MINUTE], b"he", end=False, length=length)
        slow.answer_data(b"l")
        assert kit.drive(held, response=answering()).upstream is not None
        slow.answer_end(b"lo")
        hit = kit.drive(held)
        assert (hit.upstream, hit.body) == (None, b"hello")


def test_a_body_that_grows_too_large_is_not_stored() -> None:
    """The client gets it all the same, and no more of it is kept than may be stored."""
    kit, held = a_kit(), made(max_entry=10)
    large = kit.drive(held, response=None)
    large.answer(200, [MINUTE], b"x" * 8, end=False)
    large.answer_data(b"x" * 8)
    large.answer_end(b"x")
    assert len(large.body) == 17
    assert kit.counters.get("stored", 0) == 0


def test_an_empty_body_is_stored() -> None:
    """204, and 200 with nothing in it."""
    for status in (200, 204):
        kit, held = a_kit(), made()
        kit.drive(held, response=answering(MINUTE, body=b"", status=status))
        hit = kit.drive(held)
        assert (hit.upstream, hit.status, hit.body) == (None, status, b"")


def test_what_the_proxy_says_itself_is_not_stored() -> None:
    """Nor what a filter behind this one answers."""

    @implementer(IRequestFilter)
    class Refuses:
        def request(self, exchange: Any) -> Response:
            return Response(404, b"no", [MINUTE])

    kit, held = a_kit(), made()
    refuses = Refuses()
    kit.drive(held, refuses)
    assert kit.drive(held, refuses).headers.get(b"age") is None
    assert kit.counters.get("stored", 0) == 0


# Invalidation.


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [
        (b"POST", 200, False),
        (b"PUT", 204, False),
        (b"DELETE", 302, False),
        (b"PATCH", 200, False),
        (b"MKCOL", 201, False),
        (b"POST", 404, True),
        (b"POST", 500, True),
        (b"OPTIONS", 200, True),
        (b"PROPFIND", 200, True),
    ],
)
def test_unsafe_methods_invalidate(method: bytes, status: int, kept: bool) -> None:
    """RFC 9111, 4.4: when they succeed."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE))
    body = b"" if status == 204 else b"done"
    kit.drive(held, method=method, response=answering(body=body, status=status))
    assert (kit.drive(held, response=answering()).upstream is None) is kept


def test_what_a_change_names_is_invalidated_too() -> None:
    """RFC 9111, 4.4: Location and Content-Location, of the same origin."""
    kit, held = a_kit(), made()
    other = b"other.example"
    targets = [(b"/a", b"test.example"), (b"/b?c", b"test.example"), (b"/d", b"test.example")]
    for target, authority in [*targets, (b"/a", other)]:
        kit.drive(held, target=target, authority=authority, response=answering(MINUTE))
    named = [(b"location", b"/a"), (b"content-location", b"http://test.example/b?c")]
    kit.drive(held, method=b"POST", response=answering(*named))
    named = [(b"location", b"http://other.example/a")]
    kit.drive(held, method=b"POST", response=answering(*named))
    hits = [
        kit.drive(held, target=target, authority=authority, response=answering()).upstream is None
        for target, authority in [*targets, (b"/a", other)]
    ]
    assert hits == [False, False, True, True]


def test_what_was_under_way_is_not_stored_after_a_change() -> None:
    """A GET that was sent before a POST may bring what was there before it."""
    kit, held = a_kit(), made()
    slow = kit.drive(held, response=None)
    kit.drive(held, method=b"POST", response=answering())
    slow.answer(200, [MINUTE], b"old")
    assert slow.body == b"old"
    assert kit.drive(held, response=answering()).upstream is not None
    slow = kit.drive(held, target=b"/2", response=None)
    slow.answer(200, [MINUTE], b"ol", end=False)
    kit.drive(held, target=b"/2", method=b"POST", response=answering())
    slow.answer_end(b"d")
    assert kit.drive(held, target=b"/2", response=answering()).upstream is not None

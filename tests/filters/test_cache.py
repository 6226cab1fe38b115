"""The filter cache: what a hit is, keys, bounds, purging, and what is said."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.filters.api_key import ApiKey
from meshproxy.filters.cache import Cache
from meshproxy.interfaces import IRequestFilter, IResponseFilter
from tests.filters.cached import ETAG, MINUTE, Pairs, a_kit, answering, cc, date, made, waiting


def test_what_a_hit_is() -> None:
    """All stored fields, once each, with the Age and the origin's Date; nothing of the first."""
    kit, held = a_kit(), made()
    fields = (MINUTE, ETAG, (b"x-a", b"1"), (b"x-a", b"2"), (b"date", date(-3)), (b"age", b"2"))
    kit.drive(held, response=answering(*fields, (b"content-type", b"text/x")))
    kit.advance(7.0)
    hit = kit.drive(held)
    assert list(hit.headers) == [
        MINUTE,
        ETAG,
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"date", date(-3)),
        (b"content-type", b"text/x"),
        (b"age", b"9" if hit.headers.get(b"age") == b"9" else b"10"),
        (b"content-length", b"5"),
        (b"server", b"meshproxy"),
    ]
    assert hit.details == b"cache_hit"
    assert kit.counters["hits"] == 1


def test_fields_that_are_not_stored() -> None:
    """RFC 9111, 3.1, 5.2.2.4 and 5.2.2.7: the first client gets them, nobody else does."""
    kit, held = a_kit(), made(set_cookie="strip")
    fields = (
        cc(b'max-age=60, private="x-a", no-cache="x-b"'),
        (b"x-a", b"1"),
        (b"x-b", b"1"),
        (b"x-c", b"1"),
        (b"set-cookie", b"a=b"),
        (b"proxy-authenticate", b"Basic"),
    )
    first = kit.drive(held, response=answering(*fields))
    assert {b"x-a", b"x-b", b"x-c", b"set-cookie"} <= {name for name, _ in first.headers}
    hit = kit.drive(held)
    names = {name for name, _ in hit.headers}
    assert hit.upstream is None
    assert b"x-c" in names
    assert names.isdisjoint({b"x-a", b"x-b", b"set-cookie", b"proxy-authenticate"})


def test_a_response_without_a_date_gets_one() -> None:
    """RFC 9110, 6.6.1: when it was received, not when it is served."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE))
    kit.advance(30.0)
    assert kit.drive(held).headers.get(b"date") == date(0)


@pytest.mark.parametrize("method", [b"POST", b"OPTIONS", b"TRACE", b"PATCH"])
def test_other_methods_go_past(method: bytes) -> None:
    """RFC 9111, 2: nothing is stored of them, and nothing stored answers them."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE))
    assert kit.drive(held, method=method, response=answering(MINUTE)).upstream is not None
    kit, held = a_kit(), made()
    kit.drive(held, method=method, response=answering(MINUTE))
    assert kit.drive(held).upstream is not None


def test_a_get_with_a_body_goes_past() -> None:
    """What it asks for is in its body, which is no part of the key."""
    kit, held = a_kit(), made()
    for _ in range(2):
        assert kit.drive(held, body=b"x", response=answering(MINUTE)).upstream is not None


def test_an_upgrade_goes_past() -> None:
    """It is no request for a representation."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE))
    assert kit.drive(held, upgrade=b"websocket", response=answering()).upstream is not None


# Keys.


def test_what_makes_a_key() -> None:
    """RFC 9111, 2: scheme, host, path, query; as configured, less of the query."""
    kit, held = a_kit(), made(key={"ignore_query": ["utm"], "sort_query": True})
    kit.drive(held, target=b"/p?b=1&a=2", response=answering(MINUTE))
    alike = [
        {"target": b"/p?a=2&b=1"},
        {"target": b"/p?a=2&utm=9&b=1"},
        {"target": b"/p?b=1&a=2", "authority": b"TEST.example:80"},
    ]
    for request in alike:
        assert kit.drive(held, response=answering(), **request).upstream is None  # type: ignore[arg-type]
    others = [
        {"target": b"/p?a=2"},
        {"target": b"/P?a=2&b=1"},
        {"target": b"/p?b=1&a=2", "authority": b"test.example:81"},
        {"target": b"/p?b=1&a=2", "scheme": b"https"},
    ]
    for request in others:
        assert kit.drive(held, response=answering(), **request).upstream is not None  # type: ignore[arg-type]


def test_what_a_filter_behind_changes_is_not_the_key() -> None:
    """Vary goes by what the client sent."""

    @implementer(IRequestFilter)
    class Hides:
        def request(self, exchange: Any) -> None:
            exchange.request.headers.remove(b"accept-encoding")

    kit, held = a_kit(), made()
    hides = Hides()
    response = answering(MINUTE, (b"vary", b"accept-encoding"))
    kit.drive(held, hides, response=response, headers={b"accept-encoding": b"gzip"})
    assert kit.drive(held, hides, headers={b"accept-encoding": b"gzip"}).upstream is None
    assert kit.drive(held, hides, headers={b"accept-encoding": b"br"}).upstream is not None


def test_filters_in_front_see_hits() -> None:
    """What they change in an answer is not stored."""

    @implementer(IResponseFilter)
    class Marks:
        def response(self, exchange: Any) -> None:
            exchange.response.headers.add(b"x-mark", b"1")

    kit, held = a_kit(), made()
    marks = Marks()
    for _ in range(3):
        driven = kit.drive(marks, held, response=answering(MINUTE))
        assert driven.headers.get_all(b"x-mark") == [b"1"]


# Bounds.


def test_the_memory_is_bounded() -> None:
    """Whatever comes, and it is told."""
    kit, held = a_kit(), made(memory=20_000, max_entry=10_000)
    for number in range(50):
        kit.drive(held, target=b"/%d" % number, response=answering(MINUTE, body=b"x" * 1000))
    assert 0 < kit.counters["bytes"] <= 20_000
    assert kit.counters["entries"] + kit.counters["evicted"] == 50
    assert kit.drive(held, target=b"/49").upstream is None
    assert kit.drive(held, target=b"/0").upstream is not None


def test_what_is_not_complete_yet_is_bounded() -> None:
    """Slow downloads together keep no more than a quarter of the memory; clients get them all."""
    kit, held = a_kit(), made(memory=100_000, max_entry=10_000)
    slow = []
    for number in range(10):
        one = kit.drive(held, target=b"/%d" % number, response=None)
        one.answer(200, [MINUTE], b"x" * 5000, end=False)
        slow.append(one)
    assert held._shelf.filling == 25_000
    slow[0].disconnect()
    slow[1].answer_end(b"y")
    assert held._shelf.filling == 15_000
    for one in slow[2:]:
        one.answer_end(b"y")
        assert len(one.body) == 5001
    assert held._shelf.filling == 0
    assert kit.counters["stored"] == 4


def test_variants_are_bounded() -> None:
    """A flood of values costs a URL its oldest ones."""
    kit, held = a_kit(), made(variants=3)
    response = answering(MINUTE, (b"vary", b"x-a"))
    for number in range(10):
        kit.drive(held, headers={b"x-a": b"%d" % number}, response=response)
    assert kit.counters["entries"] == 3


def test_nothing_is_left_of_exchanges() -> None:
    """However they ended: no request under way, no flight, nobody waiting."""
    kit, held = a_kit(), made()
    first, others = waiting(kit, held, 2)
    others[0].disconnect()
    first.disconnect()
    for headers in ([MINUTE], [cc(b"no-store")]):
        kit.drive(held, target=b"/2", response=answering(*headers))
    kit.drive(held, target=b"/3", response=None).fail()
    shown = kit.shown["cache"]()
    assert (shown["in_flight"], shown["waiting"], shown["refreshing"]) == (0, 0, 0)
    assert held._shelf._under_way == {}


# Purging.


def test_purge() -> None:
    """By URL with all variants, or by prefix; for those who may."""
    kit, held = a_kit(), made(purge={"networks": ["10.0.0.0/8"]})
    admin = {"method": b"PURGE", "client": b"10.1.2.3:9"}
    for target in (b"/a", b"/b/1", b"/b/2?x", b"/c"):
        for scheme in (b"http", b"https"):
            kit.drive(held, target=target, scheme=scheme, response=answering(MINUTE))
    denied = kit.drive(held, method=b"PURGE", target=b"/a")
    assert (denied.status, denied.details, denied.upstream) == (403, b"purge_denied", None)
    assert kit.drive(held, target=b"/a").upstream is None
    done = kit.drive(held, target=b"/a", **admin)  # type: ignore[arg-type]
    assert (done.status, done.body, done.upstream) == (200, b"2 purged", None)
    assert kit.drive(held, target=b"/b/*", **admin).body == b"4 purged"  # type: ignore[arg-type]
    assert kit.drive(held, target=b"/b/*", **admin).body == b"0 purged"  # type: ignore[arg-type]
    assert kit.drive(held, target=b"/c").upstream is None
    assert kit.drive(held, target=b"/a").upstream is not None
    assert kit.counters["purged"] == 6


def test_without_the_option_purge_is_a_method_like_any() -> None:
    """It goes to the origin; what that says decides, as RFC 9111, 4.4 has it."""
    kit, held = a_kit(), made()
    kit.drive(held, response=answering(MINUTE))
    assert kit.drive(held, method=b"PURGE", response=answering(status=405)).upstream is not None
    assert kit.drive(held).upstream is None


# What is said.


def test_cache_status() -> None:
    """RFC 9211: what the cache did with each request."""
    kit, held = a_kit(), made(cache_status="edge", stale_if_error="1h")

    def status(response: Response, headers: Pairs | None = None, **more: Any) -> list[bytes]:
        driven = kit.drive(held, response=response, headers=headers or [], **more)
        return driven.headers.get_all(b"cache-status")

    fine = answering(MINUTE, ETAG, (b"vary", b"x-a"), (b"cache-status", b"origin; hit"))
    assert status(fine) == [b"origin; hit", b"edge; fwd=uri-miss; fwd-status=200; stored"]
    assert status(fine) == [b"origin; hit", b"edge; hit; ttl=60"]
    assert status(fine, [(b"x-a", b"1")])[1] == b"edge; fwd=vary-miss; fwd-status=200; stored"
    assert status(fine, [cc(b"no-cache")])[1] == b"edge; fwd=request; fwd-status=200; stored"
    assert status(answering(), [(b"if-match", b"*")]) == [b"edge; fwd=bypass; fwd-status=200"]
    assert status(answering(), method=b"POST", target=b"/2") == [
        b"edge; fwd=method; fwd-status=200"
    ]
    assert status(answering(), [cc(b"only-if-cached")], target=b"/3") == [
        b"edge; detail=only-if-cached"
    ]
    kit.advance(61.0)
    again = status(Response(304, b"", [MINUTE, ETAG]))
    assert again[-1] == b"edge; fwd=stale; fwd-status=304"
    kit.advance(61.0)
    assert status(answering(status=500))[-1].startswith(b"edge; hit; ttl=-")
    assert made()._says == b""


def test_what_is_told_of_an_exchange() -> None:
    """In its metadata, for logs."""
    kit, held = a_kit(), made()
    assert kit.drive(held, response=answering(MINUTE, ETAG)).metadata["cache"] == "miss"
    kit.advance(61.0)
    confirmed = kit.drive(held, response=Response(304, b"", [MINUTE, ETAG]))
    assert confirmed.metadata["cache"] == "revalidated"
    assert kit.drive(held, headers={b"if-match": b"*"}).metadata["cache"] == "bypass"


@pytest.mark.parametrize(
    "options",
    [
        {"cache_status": "no spaces"},
        {"cache_status": "1st"},
        {"variants": 0},
        {"purge": {"networks": []}},
        {"purge": {"networks": ["10.0.0.1/8"]}},
        {"disk": {}},
        {"set_cookie": "maybe"},
        {"collapse": {"wait": "0s"}},
        {"unknown": 1},
    ],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    """With a message, before anything runs."""
    with pytest.raises(ValueError, match="."):
        Cache.Options.model_validate(options)


@pytest.mark.parametrize("inside", [False, True])
def test_what_came_for_somebody_is_not_for_others(inside: bool) -> None:
    """A response to a verified user is not shared, although the credential was taken out."""

    def chain(held: Cache) -> list[Any]:
        keys = ApiKey(ApiKey.Options.model_validate({"keys": {"ann": {"plain": "a" * 16}}}))
        return [held, keys] if inside else [keys, held]

    kit = a_kit()
    for control, shared in ((b"max-age=60", False), (b"max-age=60, public", True)):
        filters = chain(made())
        key = {b"x-api-key": b"a" * 16}
        kit.drive(*filters, headers=key, response=answering(cc(control), body=b"ann's"))
        second = kit.drive(*filters, headers=key, response=answering(body=b"other's"))
        assert second.body == (b"ann's" if shared else b"other's")

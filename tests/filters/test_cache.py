"""
The filter cache, in the real chain over fake transports.

The table of cases goes through RFC 9111 (and 5861) by section, after the categories of the public
HTTP cache tests: what is stored, what is reused and for how long, validation, invalidation, what
requests may ask for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.filters.cache import Cache
from meshproxy.interfaces import IRequestFilter, IResponseFilter
from meshproxy.testing import Driven, Kit

WALL = 1_700_000_000
Pairs = list[tuple[bytes, bytes]]


def made(**options: Any) -> Cache:
    """A filter with these options, as a configuration writes them."""
    return Cache(Cache.Options.model_validate(options))


class Several(Kit):
    """A kit for exchanges that wait while others are driven: each meets an endpoint of its own."""

    def __init__(self) -> None:
        super().__init__(wall=WALL - 1)
        self._driven: list[Driven] = []
        endpoint = self._endpoint
        connect = endpoint.request

        def request(exchange: Any) -> None:
            for driven in self._driven:
                if driven.exchange is exchange:
                    endpoint.driven = driven
            connect(exchange)

        endpoint.request = request

    def drive(self, *filters: Any, **keywords: Any) -> Driven:
        """As a kit does."""
        driven = super().drive(*filters, **keywords)
        self._driven.append(driven)
        return driven


def a_kit() -> Kit:
    """A kit whose clock has begun: an exchange at 0 counts as one that never was."""
    kit = Several()
    kit.advance(1.0)
    return kit


def date(seconds: float) -> bytes:
    """An HTTP date, so many seconds from the beginning of the test."""
    return formatdate(WALL + seconds, usegmt=True).encode()


def cc(value: bytes) -> tuple[bytes, bytes]:
    """A Cache-Control field."""
    return (b"cache-control", value)


def answering(*headers: tuple[bytes, bytes], body: bytes = b"hello", status: int = 200) -> Response:
    """What an endpoint says."""
    return Response(status, body, list(headers))


ETAG = (b"etag", b'"1"')
MINUTE = cc(b"max-age=60")


@dataclass(frozen=True)
class Case:
    """
    Two requests ``after`` seconds apart, with the headers ``first`` and ``second``; the endpoint
    answers with ``response`` and ``status``. ``hit``: the second is answered from the cache.
    """

    about: str
    response: Pairs
    hit: bool
    first: Pairs = field(default_factory=list)
    second: Pairs = field(default_factory=list)
    after: float = 5.0
    status: int = 200
    options: dict[str, Any] = field(default_factory=dict)
    target: bytes = b"/"
    authority: bytes = b"test.example"


CASES = [
    # What is stored and reused.
    Case("4.2 fresh by max-age", [MINUTE], True),
    Case("4.2 no longer fresh", [MINUTE], False, after=61),
    Case("4.2 fresh to the last second", [MINUTE], True, after=58),
    Case("4.2 max-age=0", [cc(b"max-age=0")], False, after=0),
    Case("5.2.2.10 s-maxage before max-age", [cc(b"max-age=1, s-maxage=60")], True),
    Case("5.2.2.10 and shorter", [cc(b"max-age=60, s-maxage=1")], False),
    Case("5.3 Expires", [(b"expires", date(60)), (b"date", date(0))], True),
    Case(
        "5.3 Expires by the origin's clock",
        [(b"expires", date(-3540)), (b"date", date(-3600))],
        False,
    ),
    Case("5.3 Expires over", [(b"expires", date(3)), (b"date", date(0))], False),
    Case("5.3 Expires: 0", [(b"expires", b"0"), (b"last-modified", date(-9999))], False),
    Case("4.2.1 max-age before Expires", [MINUTE, (b"expires", date(-9))], True),
    Case("4.2.1 max-age that is none", [cc(b"max-age=x"), (b"expires", date(60))], False),
    Case("4.2.2 by Last-Modified", [(b"last-modified", date(-600)), (b"date", date(0))], True),
    Case(
        "4.2.2 and no longer", [(b"last-modified", date(-600)), (b"date", date(0))], False, after=61
    ),
    Case(
        "4.2.2 unless switched off",
        [(b"last-modified", date(-600))],
        False,
        options={"heuristic": 0},
    ),
    Case("4.2.2 nothing to guess by", [], False),
    Case("4.2.2 but as configured", [], True, options={"lifetime": "10s"}),
    Case("4.2.2 404 by guess", [(b"last-modified", date(-600))], True, status=404),
    Case("4.2.2 302 not", [(b"last-modified", date(-600))], False, status=302),
    Case("3 302 with max-age", [MINUTE], True, status=302),
    Case("3 500 with max-age", [MINUTE], True, status=500),
    Case("3 599, which nobody knows, with max-age", [MINUTE], True, status=599),
    Case("3.3 206", [MINUTE, (b"content-range", b"bytes 0-4/9")], False, status=206),
    Case("4.2.3 Age counts", [MINUTE, (b"age", b"58")], False),
    Case("4.2.3 Date counts", [MINUTE, (b"date", date(-58))], False),
    Case("4.2.3 a Date to come is now", [MINUTE, (b"date", date(600))], True),
    Case("5.1 Age that is none", [MINUTE, (b"age", b"x")], True),
    # Restrictions of responses.
    Case("5.2.2.5 no-store", [cc(b"no-store, max-age=60")], False),
    Case("5.2.2.5 in another line", [MINUTE, cc(b"no-store")], False),
    Case("5.2.2.5 in capitals", [cc(b"NO-STORE, max-age=60")], False),
    Case("5.2.2.5 quoted in an extension it is not", [cc(b'a="no-store", max-age=60')], True),
    Case("5.2.2.3 must-understand", [cc(b"must-understand, no-store, max-age=60")], True),
    Case(
        "5.2.2.3 of what is not", [cc(b"must-understand, no-store, max-age=60")], False, status=599
    ),
    Case("5.2.2.4 no-cache", [cc(b"no-cache, max-age=60")], False),
    Case("5.2.2.4 no-cache of fields", [cc(b'no-cache="x-a", max-age=60')], True),
    Case("5.2.2.7 private", [cc(b"private, max-age=60")], False),
    Case("5.2.2.7 private fields", [cc(b'private="x-a", max-age=60')], True),
    Case("8246 immutable", [cc(b"immutable, max-age=60")], True),
    Case("8246 says nothing of when it is stale", [cc(b"immutable, max-age=60")], False, after=61),
    Case("3.5 Authorization", [MINUTE], False, first=[(b"authorization", b"x")]),
    Case("3.5 with public", [cc(b"public, max-age=60")], True, first=[(b"authorization", b"x")]),
    Case("3.5 stored without it, it serves", [MINUTE], True, second=[(b"authorization", b"x")]),
    Case("7.3 Set-Cookie", [MINUTE, (b"set-cookie", b"a=b")], False),
    Case("7.3 stripped", [MINUTE, (b"set-cookie", b"a=b")], True, options={"set_cookie": "strip"}),
    Case("7.3 kept", [MINUTE, (b"set-cookie", b"a=b")], True, options={"set_cookie": "keep"}),
    # Vary.
    Case("4.1 the same", [MINUTE, (b"vary", b"x-a")], True, [(b"x-a", b"1")], [(b"x-a", b"1")]),
    Case("4.1 another", [MINUTE, (b"vary", b"x-a")], False, [(b"x-a", b"1")], [(b"x-a", b"2")]),
    Case("4.1 absent then", [MINUTE, (b"vary", b"x-a")], False, [(b"x-a", b"1")]),
    Case("4.1 absent before", [MINUTE, (b"vary", b"x-a")], False, second=[(b"x-a", b"1")]),
    Case("4.1 absent is not empty", [MINUTE, (b"vary", b"x-a")], False, second=[(b"x-a", b"")]),
    Case("4.1 absent twice", [MINUTE, (b"vary", b"x-a")], True),
    Case(
        "4.1 another field", [MINUTE, (b"vary", b"x-a")], True, [(b"x-b", b"1")], [(b"x-b", b"2")]
    ),
    Case(
        "4.1 lines are a list",
        [MINUTE, (b"vary", b"x-a")],
        True,
        [(b"x-a", b"1, 2")],
        [(b"x-a", b"1"), (b"x-a", b"2")],
    ),
    Case(
        "4.1 names in any case",
        [MINUTE, (b"vary", b"X-A")],
        False,
        [(b"x-a", b"1")],
        [(b"x-a", b"2")],
    ),
    Case("4.1 *", [MINUTE, (b"vary", b"*")], False),
    Case("4.1 * among others", [MINUTE, (b"vary", b"x-a, *")], False),
    # What requests ask for.
    Case("5.2.1.4 no-cache", [MINUTE], False, second=[cc(b"no-cache")]),
    Case(
        "5.2.1.4 unless it is not obeyed",
        [MINUTE],
        True,
        second=[cc(b"no-cache")],
        options={"client_control": False},
    ),
    Case("5.4 Pragma", [MINUTE], False, second=[(b"pragma", b"no-cache")]),
    Case(
        "5.4 beside Cache-Control",
        [MINUTE],
        True,
        second=[(b"pragma", b"no-cache"), cc(b"max-age=9")],
    ),
    Case("5.2.1.1 max-age", [MINUTE], False, second=[cc(b"max-age=3")]),
    Case("5.2.1.1 max-age that is enough", [MINUTE], True, second=[cc(b"max-age=9")]),
    Case("5.2.1.1 max-age=0", [MINUTE], False, second=[cc(b"max-age=0")]),
    Case("5.2.1.3 min-fresh", [MINUTE], False, second=[cc(b"min-fresh=58")]),
    Case("5.2.1.3 that is left", [MINUTE], True, second=[cc(b"min-fresh=50")]),
    Case("5.2.1.2 max-stale", [MINUTE], True, second=[cc(b"max-stale=10")], after=65),
    Case("5.2.1.2 not for so long", [MINUTE], False, second=[cc(b"max-stale=4")], after=65),
    Case("5.2.1.2 for any time", [MINUTE], True, second=[cc(b"max-stale")], after=600),
    Case(
        "5.2.2.2 must-revalidate",
        [cc(b"max-age=60, must-revalidate")],
        False,
        second=[cc(b"max-stale")],
        after=65,
    ),
    Case(
        "5.2.2.8 proxy-revalidate",
        [cc(b"max-age=60, proxy-revalidate")],
        False,
        second=[cc(b"max-stale")],
        after=65,
    ),
    Case(
        "5.2.2.10 s-maxage forbids too",
        [cc(b"s-maxage=60")],
        False,
        second=[cc(b"max-stale")],
        after=65,
    ),
    Case("5.2.1.5 no-store stores nothing", [MINUTE], False, first=[cc(b"no-store")]),
    Case("5.2.1.5 and is answered from the cache", [MINUTE], True, second=[cc(b"no-store")]),
    Case("5.2.1.7 only-if-cached", [MINUTE], True, second=[cc(b"only-if-cached")]),
    Case(
        "9110 13.1.1 If-Match is the origin's",
        [MINUTE, ETAG],
        False,
        second=[(b"if-match", b'"1"')],
    ),
    Case(
        "9110 13.1.4 so is If-Unmodified-Since",
        [MINUTE],
        False,
        second=[(b"if-unmodified-since", date(0))],
    ),
    # Configuration.
    Case(
        "past it by a header",
        [MINUTE],
        False,
        second=[(b"x-debug", b"")],
        options={"bypass": {"headers": ["X-Debug"]}},
    ),
    Case(
        "past it by a cookie",
        [MINUTE],
        False,
        second=[(b"cookie", b"a=1; sid=2")],
        options={"bypass": {"cookies": ["sid"]}},
    ),
    Case(
        "by another cookie not",
        [MINUTE],
        True,
        second=[(b"cookie", b"a=1; sid2=2")],
        options={"bypass": {"cookies": ["sid"]}},
    ),
    Case("not the paths", [MINUTE], False, options={"match": {"paths": [{"prefix": "/x/"}]}}),
    Case("the paths", [MINUTE], True, options={"match": {"paths": ["/"]}}),
    Case("too large a body", [MINUTE], False, options={"max_entry": 4}),
    Case("just not too large", [MINUTE], True, options={"max_entry": 5}),
    Case("no memory", [MINUTE], False, options={"memory": 0}),
]


@pytest.mark.parametrize("case", CASES, ids=[case.about for case in CASES])
def test_stored_and_reused(case: Case) -> None:
    """The sections of RFC 9111 that decide whether a second request is answered from the cache."""
    kit, held = a_kit(), made(**case.options)
    response = answering(*case.response, status=case.status)
    first = kit.drive(held, response=response, headers=case.first)
    assert (first.status, first.body) == (case.status, b"hello")
    kit.advance(case.after)
    second = kit.drive(held, response=answering(body=b"other"), headers=case.second)
    assert (second.upstream is None) is case.hit
    if case.hit:
        assert (second.status, second.body) == (case.status, b"hello")
        assert b"age" in second.headers


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


# HEAD.


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


# Stale responses.


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
    stale = kit.drive(held, headers={b"range": b"bytes=0-1", b"x-a": b"1"})
    assert (stale.upstream, stale.status, stale.body) == (None, 206, b"he")
    assert stale.details == b"cache_stale"
    assert len(asked) == 1
    sent = asked[0].request_headers
    assert sent.get(b"if-none-match") == b'"1"'
    assert sent.get(b"x-a") == b"1"
    assert b"range" not in sent
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


def waiting(kit: Kit, held: Cache, count: int, **request: Any) -> tuple[Driven, list[Driven]]:
    """One request under way, and those that wait for it."""
    first = kit.drive(held, response=None, **request)
    others = [kit.drive(held, response=answering(body=b"own"), **request) for _ in range(count)]
    return first, others


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
    first, others = waiting(kit, held, 2)
    first.answer(200, [MINUTE], b"he", end=False)
    first.fail()
    assert [other.body for other in others] == [b"own"] * 2


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

"""
What the cache stores and reuses, in the real chain, case by case.

The table goes through RFC 9111 (and 5861) by section, after the categories of the public HTTP
cache tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.filters.cached import ETAG, MINUTE, Pairs, a_kit, answering, cc, date, made


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

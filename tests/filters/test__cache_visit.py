"""What becomes of a response on its way into the store."""

from __future__ import annotations

import pytest

from meshproxy.api import Headers
from meshproxy.filters._cache_control import NOTHING, directives
from meshproxy.filters._cache_policy import Freshness, Rules
from meshproxy.filters._cache_store import Entry
from meshproxy.filters._cache_visit import Visit, freshen, plan, size_of

RULES = Rules(86400.0, 0.0, 0.0, 0.0, "pass")
WALL = 784111777.0
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
Pairs = list[tuple[bytes, bytes]]


def visit(*own: tuple[bytes, bytes]) -> Visit:
    """A GET with these headers, sent on at 100."""
    made = Visit(b"k", b"r", b"GET", Headers.of(own), NOTHING, b"uri-miss")
    made.started = 100.0
    return made


def test_a_plan() -> None:
    """What will be stored: the fields that may be, the variant, the age."""
    headers = Headers.of(
        [
            (b"cache-control", b'max-age=60, private="x-p"'),
            (b"vary", b"x-a"),
            (b"x-p", b"1"),
            (b"content-length", b"5"),
            (b"age", b"7"),
            (b"connection", b"x"),
        ]
    )
    made, why = plan(visit((b"x-a", b"1")), 200, headers, 5, 102.0, WALL, RULES)
    assert why == ""
    assert made is not None
    entry = made.entry
    assert made.names == (b"x-a",)
    assert entry.values == (b"r", b"1")
    assert entry.age == 9.0
    assert entry.received == 102.0
    assert list(Headers(entry.fields or [])) == [
        (b"cache-control", b'max-age=60, private="x-p"'),
        (b"vary", b"x-a"),
        (b"date", DATE),
    ]
    made.add(b"he")
    made.add(b"llo")
    stored = made.complete()
    assert stored is entry
    assert (entry.body, entry.length) == (b"hello", 5)


@pytest.mark.parametrize(
    ("length", "fine"), [(5, True), (4, False), (6, False), (-1, True), (0, False)]
)
def test_a_body_of_another_length_is_not_stored(length: int, fine: bool) -> None:
    """RFC 9111, 3.3: as many bytes as announced."""
    headers = Headers.of([(b"cache-control", b"max-age=60")])
    made, _ = plan(visit(), 200, headers, length, 102.0, WALL, RULES)
    assert made is not None
    made.add(b"hello")
    assert (made.complete() is not None) is fine


@pytest.mark.parametrize(
    ("pairs", "stored"),
    [
        ([(b"cache-control", b"max-age=0")], False),
        ([(b"cache-control", b"max-age=0"), (b"etag", b'"1"')], True),
        ([(b"cache-control", b"max-age=0"), (b"last-modified", DATE)], True),
        ([(b"cache-control", b"max-age=0, stale-if-error=60")], True),
        ([(b"cache-control", b"max-age=5, stale-while-revalidate=1"), (b"age", b"9")], False),
        ([(b"cache-control", b"no-cache, max-age=60")], False),
    ],
)
def test_what_could_never_be_used_is_not_stored(pairs: Pairs, stored: bool) -> None:
    """Stale from the beginning, with nothing to ask by."""
    made, why = plan(visit(), 200, Headers.of(pairs), -1, 100.0, WALL, RULES)
    assert (made is not None) is stored
    assert why == ("" if stored else "stale")


def stored(*pairs: tuple[bytes, bytes]) -> Entry:
    """A stored response."""
    fresh = Freshness(60.0, False, True, 0.0, 0.0)
    return Entry(b"k", (), 200, Headers.of(pairs).fields, b"hello", fresh, 50.0, 0.0, 0.0)


def test_a_304_replaces_fields() -> None:
    """RFC 9111, 3.2: all of a name, but for those that tell of a body, or of one client."""
    entry = stored(
        (b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"1"), (b"content-type", b"a"), (b"etag", b'"1"')
    )
    before = list(entry.fields or [])
    size = entry.size
    update = Headers.of(
        [
            (b"x-a", b"3"),
            (b"content-type", b"b"),
            (b"content-length", b"0"),
            (b"content-encoding", b"gzip"),
            (b"set-cookie", b"a=b"),
            (b"cache-control", b'max-age=30, private="x-c"'),
            (b"x-c", b"1"),
            (b"etag", b'W/"1"'),
            (b"age", b"4"),
        ]
    )
    allowed = freshen(entry, before, update, 1.0, 200.0, WALL, RULES, Headers())
    assert allowed == ""
    assert list(Headers(entry.fields or [])) == [
        (b"x-b", b"1"),
        (b"content-type", b"a"),
        (b"x-a", b"3"),
        (b"cache-control", b'max-age=30, private="x-c"'),
        (b"etag", b'W/"1"'),
    ]
    assert (entry.lifetime, entry.age, entry.received) == (30, 5.0, 200.0)
    assert entry.etag == b'W/"1"'
    assert size_of(entry, before, entry.fields or []) == size + sum(
        220 + 2 * len(field[2]) for field in entry.fields or []
    ) - sum(220 + 2 * len(field[2]) for field in before)


@pytest.mark.parametrize(
    ("own", "update", "why"),
    [
        ([], [(b"cache-control", b"max-age=9")], ""),
        ([], [(b"cache-control", b"private")], "private"),
        ([], [(b"cache-control", b"no-store")], "no-store"),
        ([], [(b"vary", b"*")], "vary"),
        ([(b"authorization", b"x")], [], "authorization"),
        ([(b"authorization", b"x")], [(b"cache-control", b"public")], ""),
    ],
)
def test_whether_it_may_still_be_stored(own: Pairs, update: Pairs, why: str) -> None:
    """RFC 9111, 3, once more, by what the response says now."""
    entry = stored((b"cache-control", b"max-age=60"), (b"etag", b'"1"'))
    fields = list(entry.fields or [])
    held = freshen(entry, fields, Headers.of(update), 0.0, 9.0, WALL, RULES, Headers.of(own))
    assert held == why


def test_the_age_is_that_of_what_confirms() -> None:
    """RFC 9111, 4.2.3: a 304 from another cache may be old itself."""
    entry = stored((b"cache-control", b"max-age=60"), (b"date", b"Sun, 06 Nov 1994 08:00:00 GMT"))
    fields = list(entry.fields or [])
    freshen(entry, fields, Headers.of([(b"date", DATE)]), 0.0, 9.0, WALL + 3, RULES, Headers())
    assert entry.age == 3.0
    freshen(entry, fields, Headers(), 0.5, 9.0, WALL + 3, RULES, Headers())
    assert entry.age == 0.5


def test_holding() -> None:
    """What a visit holds is there whatever becomes of the entry."""
    made, entry = visit(), stored((b"etag", b'"1"'))
    made.hold(entry)
    entry.fields = entry.body = None
    assert made.body == b"hello"
    assert made.fields is not None
    assert directives([]) is NOTHING

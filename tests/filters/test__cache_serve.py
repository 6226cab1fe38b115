"""A stored response as an answer: conditions, ranges, age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.api import Headers
from meshproxy.filters._cache_policy import Freshness
from meshproxy.filters._cache_serve import answer, of_entry, same_etag
from meshproxy.filters._cache_store import Entry

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = b"Sun, 06 Nov 1994 07:49:37 GMT"
LONG_BEFORE = b"Sun, 06 Nov 1994 06:49:37 GMT"
BODY = b"0123456789"

Pairs = list[tuple[bytes, bytes]]


def entry(*more: tuple[bytes, bytes], etag: bytes = b'"e"', status: int = 200) -> Entry:
    """Ten bytes with validators."""
    pairs = [(b"date", DATE), (b"content-type", b"text/x"), (b"cache-control", b"max-age=9"), *more]
    if etag:
        pairs.append((b"etag", etag))
    fresh = Freshness(60.0, False, True, 0.0, 0.0)
    fields = Headers.of(pairs).fields
    return Entry(b"k", (), status, fields, BODY, fresh, 0.0, 0.0, 784111777.0)


MODIFIED = (b"last-modified", BEFORE)

#: What it shows, the entry, the request's headers, the status.
CONDITIONS: list[tuple[str, Entry, Pairs, int]] = [
    ("13.1.2: the same tag", entry(), [(b"if-none-match", b'"e"')], 304),
    ("13.1.2: weak comparison", entry(), [(b"if-none-match", b'W/"e"')], 304),
    ("13.1.2: weak on our side", entry(etag=b'W/"e"'), [(b"if-none-match", b'"e"')], 304),
    ("13.1.2: one of a list", entry(), [(b"if-none-match", b'"a", W/"b" ,"e"')], 304),
    (
        "13.1.2: a list in lines",
        entry(),
        [(b"if-none-match", b'"a"'), (b"if-none-match", b'"e"')],
        304,
    ),
    ("13.1.2: a comma in a tag", entry(etag=b'"a,b"'), [(b"if-none-match", b'"a,b"')], 304),
    ("13.1.2: not a part of one", entry(etag=b'"b"'), [(b"if-none-match", b'"a,"b""')], 200),
    ("13.1.2: another", entry(), [(b"if-none-match", b'"f"')], 200),
    ("13.1.2: another case", entry(), [(b"if-none-match", b'"E"')], 200),
    ("13.1.2: *", entry(etag=b""), [(b"if-none-match", b"*")], 304),
    ("13.1.2: no tag of ours", entry(etag=b""), [(b"if-none-match", b'"e"')], 200),
    ("8.8.3: a tag without quotes", entry(etag=b"e"), [(b"if-none-match", b"e")], 200),
    ("13.1.3: not modified since", entry(MODIFIED), [(b"if-modified-since", BEFORE)], 304),
    ("13.1.3: a later date", entry(MODIFIED), [(b"if-modified-since", DATE)], 304),
    ("13.1.3: modified since", entry(MODIFIED), [(b"if-modified-since", LONG_BEFORE)], 200),
    ("13.1.3: no date", entry(MODIFIED), [(b"if-modified-since", b"x")], 200),
    ("13.1.3: two dates", entry(MODIFIED), [(b"if-modified-since", DATE)] * 2, 200),
    ("9111 4.3.2: by the Date", entry(), [(b"if-modified-since", DATE)], 304),
    ("9111 4.3.2: by the Date, before", entry(), [(b"if-modified-since", BEFORE)], 200),
    (
        "13.2.2: the tag comes first",
        entry(MODIFIED),
        [(b"if-none-match", b'"f"'), (b"if-modified-since", DATE)],
        200,
    ),
    (
        "13.2.2: and counts alone",
        entry(MODIFIED),
        [(b"if-none-match", b'"e"'), (b"if-modified-since", LONG_BEFORE)],
        304,
    ),
    ("13.2.1: only in place of a 200", entry(status=404), [(b"if-none-match", b'"e"')], 404),
]


@pytest.mark.parametrize(
    ("held", "headers", "status"),
    [case[1:] for case in CONDITIONS],
    ids=[case[0] for case in CONDITIONS],
)
def test_conditions(held: Entry, headers: Pairs, status: int) -> None:
    """RFC 9110, 13, with RFC 9111, 4.3.2 where it says more."""
    made = answer(held, 5.5, b"GET", Headers.of(headers), b"cache_hit")
    assert made.status == status
    assert made.headers.get(b"age") == b"5"
    assert made.body == (b"" if status == 304 else BODY)


def test_a_304_says_what_it_must() -> None:
    """RFC 9110, 15.4.5: and nothing about a body."""
    made = answer(entry(), 5.0, b"GET", Headers.of([(b"if-none-match", b'"e"')]), b"")
    assert [name for name, _ in made.headers] == [b"date", b"cache-control", b"etag", b"age"]


#: What it shows, the entry, the request's headers, the status, the bytes.
RANGES: list[tuple[str, Entry, Pairs, int, bytes]] = [
    ("14.1.2: first and last", entry(), [(b"range", b"bytes=2-4")], 206, b"234"),
    ("14.1.2: to the end", entry(), [(b"range", b"bytes=7-")], 206, b"789"),
    ("14.1.2: the last ones", entry(), [(b"range", b"bytes=-3")], 206, b"789"),
    ("14.1.2: more than there are", entry(), [(b"range", b"bytes=-30")], 206, BODY),
    ("14.1.2: beyond the end", entry(), [(b"range", b"bytes=8-99")], 206, b"89"),
    ("14.1.2: the unit in any case", entry(), [(b"range", b"Bytes=0-0")], 206, b"0"),
    ("14.2: nothing there", entry(), [(b"range", b"bytes=10-")], 416, b""),
    ("14.2: the last 0", entry(), [(b"range", b"bytes=-0")], 416, b""),
    ("14.2: last before first", entry(), [(b"range", b"bytes=4-2")], 200, BODY),
    ("14.2: several", entry(), [(b"range", b"bytes=0-1,4-5")], 200, BODY),
    ("14.2: another unit", entry(), [(b"range", b"lines=0-1")], 200, BODY),
    ("14.2: nonsense", entry(), [(b"range", b"bytes=-")], 200, BODY),
    ("14.2: a sign", entry(), [(b"range", b"bytes=+1-2")], 200, BODY),
    (
        "14.2: a number of a thousand digits",
        entry(),
        [(b"range", b"bytes=0-" + b"9" * 1000)],
        200,
        BODY,
    ),
    ("14.2: two fields", entry(), [(b"range", b"bytes=0-1")] * 2, 200, BODY),
    ("14.2: not of a 404", entry(status=404), [(b"range", b"bytes=0-1")], 404, BODY),
    (
        "13.1.5: If-Range holds",
        entry(),
        [(b"range", b"bytes=0-1"), (b"if-range", b'"e"')],
        206,
        b"01",
    ),
    (
        "13.1.5: If-Range does not",
        entry(),
        [(b"range", b"bytes=0-1"), (b"if-range", b'"f"')],
        200,
        BODY,
    ),
    (
        "13.1.5: a weak one never",
        entry(etag=b'W/"e"'),
        [(b"range", b"bytes=0-1"), (b"if-range", b'W/"e"')],
        200,
        BODY,
    ),
    (
        "13.1.5: a date that is the same",
        entry(MODIFIED),
        [(b"range", b"bytes=0-1"), (b"if-range", BEFORE)],
        206,
        b"01",
    ),
    (
        "13.1.5: a date that is not",
        entry(MODIFIED),
        [(b"range", b"bytes=0-1"), (b"if-range", DATE)],
        200,
        BODY,
    ),
    (
        "8.8.2.2: a date that is too near",
        entry((b"last-modified", DATE)),
        [(b"range", b"bytes=0-1"), (b"if-range", DATE)],
        200,
        BODY,
    ),
    (
        "13.2.2: a condition comes first",
        entry(),
        [(b"range", b"bytes=0-1"), (b"if-none-match", b'"e"')],
        304,
        b"",
    ),
]


@pytest.mark.parametrize(
    ("held", "headers", "status", "body"),
    [case[1:] for case in RANGES],
    ids=[case[0] for case in RANGES],
)
def test_ranges(held: Entry, headers: Pairs, status: int, body: bytes) -> None:
    """RFC 9110, 14: one range of what is stored; what cannot be served so is the whole."""
    made = answer(held, 0.0, b"GET", Headers.of(headers), b"")
    assert (made.status, made.body) == (status, body)
    assert (b"content-range" in made.headers) is (status in (206, 416))


def test_what_a_range_says() -> None:
    """RFC 9110, 14.4."""
    part = answer(entry(), 0.0, b"GET", Headers.of([(b"range", b"bytes=2-4")]), b"")
    assert part.headers.get(b"content-range") == b"bytes 2-4/10"
    assert part.headers.get(b"etag") == b'"e"'
    none = answer(entry(), 0.0, b"GET", Headers.of([(b"range", b"bytes=99-")]), b"")
    assert none.headers.get(b"content-range") == b"bytes */10"
    head = answer(entry(), 0.0, b"HEAD", Headers.of([(b"range", b"bytes=2-4")]), b"")
    assert head.status == 200


@given(st.binary(max_size=30))
def test_no_range_is_wrong(spec: bytes) -> None:
    """Whatever is asked for, what comes is a part of the body, and said to be that."""
    pairs = [(b"range", bytes(b for b in b"bytes=" + spec if b >= 0x20 and b != 0x7F))]
    made = answer(entry(), 0.0, b"GET", Headers.of(pairs), b"")
    assert made.status in (200, 206, 416)
    assert made.body in BODY


@given(st.binary(max_size=40))
def test_no_condition_breaks_it(text: bytes) -> None:
    """Nonsense is no match."""
    clean = bytes(b for b in text if b >= 0x20 and b != 0x7F)
    for name in (b"if-none-match", b"if-modified-since", b"if-range"):
        pairs = [(name, clean), (b"range", b"bytes=0-1")]
        assert answer(entry(), 0.0, b"GET", Headers.of(pairs), b"").status in (200, 206, 304)


def test_the_whole() -> None:
    """Every field as stored, and the age; the stored ones are not touched by what is added."""
    held = entry()
    for seconds, age in ((0.9, b"0"), (61.0, b"61"), (1e12, b"%d" % (1 << 31))):
        made = of_entry(held, seconds, b"cache_hit")
        made.headers.add(b"x-more", b"y")
        assert made.headers.get(b"age") == age
        assert made.body is held.body
    assert b"x-more" not in Headers(held.fields or [])


def test_tags() -> None:
    """RFC 9110, 8.8.3.2."""
    assert same_etag(b'W/"1"', b'"1"')
    assert not same_etag(b'"1"', b'"2"')
    assert not same_etag(b"1", b"1")

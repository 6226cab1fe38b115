"""Cache-Control and dates: what is read, and what is not believed."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._cache_control import (
    FOREVER,
    LONGEST,
    Directives,
    _date,
    _parsed,
    directives,
    http_date,
    seconds,
)

FLAGS = {
    b"no-store": "no_store",
    b"public": "public",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"must-understand": "must_understand",
    b"only-if-cached": "only_if_cached",
    b"immutable": "immutable",
    b"no-transform": "no_transform",
}
NUMBERS = {
    b"max-age": "max_age",
    b"s-maxage": "s_maxage",
    b"stale-while-revalidate": "while_revalidate",
    b"stale-if-error": "if_error",
    b"min-fresh": "min_fresh",
    b"max-stale": "max_stale",
}


def said(value: bytes) -> dict[str, Any]:
    """What is said at all, by name."""
    found = directives([value])
    empty = Directives()
    return {
        name: getattr(found, name)
        for name in Directives.__slots__
        if getattr(found, name) != getattr(empty, name)
    }


CASES: list[tuple[str, bytes, dict[str, Any]]] = [
    ("5.2: names in any case", b"MAX-AGE=5, No-Store", {"max_age": 5, "no_store": True}),
    ("5.2: a number in quotes", b'max-age="5"', {"max_age": 5}),
    ("5.2: a number in quotes with an escape", b'max-age="1\\0"', {"max_age": 10}),
    ("5.2: unknown directives are ignored", b"foo, bar=1, max-age=5", {"max_age": 5}),
    ("5.2: what is quoted is no directive", b'x="a, no-store", max-age=5', {"max_age": 5}),
    ("5.2: nor behind an escaped quote", b'x="\\", no-store", max-age=5', {"max_age": 5}),
    ("9110 5.6.1: empty members", b",, ,max-age=5 ,,", {"max_age": 5}),
    ("4.2.1: a number twice, the same", b"max-age=5, max-age=5", {"max_age": 5}),
    ("4.2.1: a number twice, different", b"max-age=5, max-age=9", {"max_age": 0}),
    ("4.2.1: a number that is none", b"max-age=abc", {"max_age": 0}),
    ("4.2.1: one good, one bad", b"max-age=9, max-age=abc", {"max_age": 0}),
    ("1.2.2: a sign", b"max-age=+5", {"max_age": 0}),
    ("1.2.2: a negative", b"max-age=-5", {"max_age": 0}),
    ("1.2.2: a fraction", b"max-age=1.5", {"max_age": 0}),
    ("1.2.2: an underscore", b"max-age=1_0", {"max_age": 0}),
    ("1.2.2: digits of another script", "max-age=٣".encode(), {"max_age": 0}),
    ("1.2.2: no number", b"max-age", {"max_age": 0}),
    ("1.2.2: an empty one", b"max-age=", {"max_age": 0}),
    ("5.2: a space before =", b"max-age =5", {"max_age": 0}),
    ("5.2: a space behind =", b"max-age= 5", {"max_age": 0}),
    ("5.2: a space in place of the comma", b"s-maxage=5 max-age=3", {"s_maxage": 0}),
    ("1.2.2: too large", b"max-age=99999999999999999999", {"max_age": FOREVER}),
    ("1.2.2: leading zeros", b"max-age=0005", {"max_age": 5}),
    ("5.2.2.5: an argument changes nothing", b"no-store=1", {"no_store": True}),
    ("5.2.2.5: nor an empty one", b'no-store=""', {"no_store": True}),
    (
        "5.2.2.7: private names fields",
        b'private="Set-Cookie, X-A"',
        {"without": {"set-cookie", "x-a"}},
    ),
    ("5.2.2.7: as a token", b"private=x-a", {"without": {"x-a"}}),
    ("5.2.2.7: several times", b'private="a", private="b"', {"without": {"a", "b"}}),
    (
        "5.2.2.7: unqualified beside it",
        b'private, private="a"',
        {"private": True, "without": {"a"}},
    ),
    ("5.2.2.7: an empty list", b'private=""', {"private": True}),
    ("5.2.2.7: what is no name", b'private="a b"', {"private": True}),
    ("5.2.2.7: what a response needs", b'private="vary"', {"private": True}),
    ("5.2.2.4: no-cache names fields", b'no-cache="x-a"', {"without": {"x-a"}}),
    (
        "5.2.2.4: unqualified beside it",
        b'no-cache="x", no-cache',
        {"no_cache": True, "without": {"x"}},
    ),
    ("5.2.1.2: max-stale without a number", b"max-stale", {"max_stale": FOREVER}),
    ("5.2.1.2: max-stale that is none", b"max-stale=x", {"max_stale": 0}),
    ("5.2.1.3: min-fresh that is none", b"min-fresh=x", {"min_fresh": FOREVER}),
    ("an unended quote restricts", b'x="\\", no-store', {"no_cache": True, "no_store": True}),
    (
        "an unended list of names",
        b'private="a, max-age=5',
        {"no_cache": True, "private": True, "max_age": 5},
    ),
    ("longer than anybody writes", b"x" * (LONGEST + 1), {"no_cache": True, "no_store": True}),
]


@pytest.mark.parametrize(("value", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_read(value: bytes, expected: dict[str, Any]) -> None:
    """RFC 9111, 5.2 and 4.2.1: each directive; of what is odd, what permits least."""
    if "without" in expected:
        expected = expected | {"without": frozenset(n.encode() for n in expected["without"])}
    assert said(value) == expected


def test_lines_are_one_list() -> None:
    """RFC 9110, 5.3: several lines say what one with commas says."""
    found = directives([b"max-age=5", b"no-store"])
    assert found.max_age == 5
    assert found.no_store
    assert directives([]).max_age is None


token = st.text("abcdefghijklmnopqrstuvwxyzABC-_!#$%&'*+.^`|~0123456789", min_size=1, max_size=9)
quoted = st.text([chr(code) for code in range(0x20, 0x7F)], max_size=12).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
known = set(FLAGS) | set(NUMBERS) | {b"private", b"no-cache"}
extension = st.builds(
    lambda name, value: (name + value).encode(),
    token.filter(lambda name: name.lower().encode() not in known),
    st.one_of(st.just(""), token.map("={}".format), quoted.map("={}".format)),
)
separator = st.sampled_from([b",", b", ", b" ,\t", b",,", b" , , "])


@given(
    st.dictionaries(st.sampled_from(sorted(NUMBERS)), st.integers(0, 1 << 40)),
    st.sets(st.sampled_from(sorted(FLAGS))),
    st.lists(extension, max_size=4),
    st.randoms(use_true_random=False),
    separator,
    st.booleans(),
)
def test_the_grammar_is_read(
    numbers: dict[bytes, int],
    flags: set[bytes],
    extensions: list[bytes],
    order: Any,
    comma: bytes,
    quotes: bool,
) -> None:
    """Whatever the grammar of RFC 9111, 5.2 makes is read as it is meant, among any extensions."""
    form = b'%b="%d"' if quotes else b"%b=%d"
    items = [form % pair for pair in numbers.items()] + list(flags) + extensions
    order.shuffle(items)
    found = directives([comma.join(items)])
    for name, slot in NUMBERS.items():
        expected = min(numbers[name], FOREVER) if name in numbers else None
        assert getattr(found, slot) == expected
    for name, slot in FLAGS.items():
        assert getattr(found, slot) is (name in flags)
    assert not found.no_cache
    assert not found.private


@given(st.binary(max_size=200), st.sampled_from([b"no-store", b"private", b"no-cache"]))
def test_a_restriction_in_front_is_never_lost(rubbish: bytes, restriction: bytes) -> None:
    """Whatever follows it: nothing raises, and the restriction holds."""
    found = directives([restriction + b", " + rubbish])
    assert getattr(found, restriction.decode().replace("-", "_"))


@given(st.binary(max_size=300))
def test_a_number_is_never_out_of_range(rubbish: bytes) -> None:
    """No text makes a negative or endless number, or raises."""
    found = directives([b"max-age=" + rubbish, rubbish])
    assert found.max_age is not None
    assert 0 <= found.max_age <= FOREVER


def test_seconds() -> None:
    """1*DIGIT, and no more than it is good for."""
    assert seconds(b"15") == 15
    assert seconds(b"9" * 400) == FOREVER
    assert seconds(b"") is None
    assert seconds(b" 1") is None


DATES = [
    (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
    (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
    (b"Sun Nov  6 08:49:37 1994", 784111777),
    (b"Sunday, 06-Nov-27 08:49:37 GMT", 1825490977),
    (b"0", None),
    (b"-1", None),
    (b"", None),
    (b"Sun, 06 Nov 1994 08:49:37 PST", None),
    (b"Sun, 06 Nov 1994 08:49:37 +0100", None),
    (b"Sun, 06 Nov 1994 08:49:37", None),
    (b"sun, 06 nov 1994 08:49:37 gmt", None),
    (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
    (b"Sun, 06 Nov 1994 24:49:37 GMT", None),
    (b"Sun, 06 Nov 1994 08:60:37 GMT", None),
    (b"Sun, 32 Nov 1994 08:49:37 GMT", None),
    (b"Sun, 06 Foo 1994 08:49:37 GMT", None),
    (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
    (b"Sun, 06 Nov 1994 08:49:37 GMT, x", None),
]


@pytest.mark.parametrize(("value", "expected"), DATES, ids=[repr(d[0]) for d in DATES])
def test_dates(value: bytes, expected: int | None) -> None:
    """RFC 9110, 5.6.7: three forms, and nothing else (RFC 9111, 5.3: not even 0)."""
    assert http_date(value) == expected


@given(st.integers(0, 4102444800))
def test_every_date_is_read(moment: int) -> None:
    """What is written now is read as that."""
    assert http_date(formatdate(moment, usegmt=True).encode()) == moment


def test_long_texts_are_not_remembered() -> None:
    """What is no directive and no date by its length takes no place in a table."""
    before = (_parsed.cache_info().currsize, _date.cache_info().currsize)
    assert directives([b"no-store" + b"x" * LONGEST]).no_store
    assert http_date(b"Sun, 06 Nov 1994 08:49:37 GMT" + b" " * 20) is None
    assert (_parsed.cache_info().currsize, _date.cache_info().currsize) == before


@given(st.binary(max_size=40))
def test_no_text_breaks_it(text: bytes) -> None:
    """It is a date or it is none."""
    http_date(text)
    http_date(b"Sun, 31 Feb " + text)

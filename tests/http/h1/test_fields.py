"""Field lines: what is a field, and how much memory remembering them takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.http.h1 import fields
from meshproxy.http.h1.fields import LINE, LINES, NAMES, VALUES, lookup, parse_line
from meshproxy.http.headers import CONTENT_LENGTH, PLAIN


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Nothing is remembered from other tests."""
    fields._lines.clear()
    fields._names.clear()


def test_a_line() -> None:
    """Name in lower case, value without the white space around it, the line to send, a kind."""
    assert parse_line(b"X-One: \t a b \t") == (b"x-one", b"a b", b"x-one: a b\r\n", PLAIN)
    assert parse_line(b"CONTENT-Length:3")[3] == CONTENT_LENGTH
    assert parse_line(b"x-one:")[1] == b""
    assert parse_line(b"x-one: a:b")[1] == b"a:b"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no colon",
        b"x-one",
        b": x",
        b"x one: 1",
        b"x-one : 1",
        b" x-one: 1",
        b"\tx-one: 1",
        b"x-one: a\r",
        b"x-one: a\nb",
        b"x-one: a\x00",
        b"x-one: a\x0b",
        b"x-one: a\x7f",
        b"x\xe9: 1",
        b"x\x00: 1",
        b'x"y: 1',
    ],
)
def test_bad_lines(line: bytes) -> None:
    """Refused the first time and again, also when the name is known already."""
    parse_line(b"x-one: good")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^(bad header line|control char)"):
            parse_line(line)
    assert lookup(line) is None


@given(st.binary(max_size=40))
def test_any_line_is_a_field_or_refused(line: bytes) -> None:
    """A field that comes out has exactly the bytes of the line that went in."""
    try:
        name, value, sent, _ = parse_line(line)
    except ValueError:
        return
    assert sent == name + b": " + value + b"\r\n"
    raw, _, text = line.partition(b":")
    assert (raw.lower(), text.strip(b" \t")) == (name, value)
    assert not set(b"\r\n\x00") & set(name + value)
    assert lookup(line) in (None, (name, value, sent, parse_line(line)[3]))


def test_a_line_seen_before_is_looked_up() -> None:
    """The second time there is nothing to parse."""
    assert lookup(b"Accept: */*") is None
    field = parse_line(b"Accept: */*")
    assert lookup(b"Accept: */*") is field


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Basic eA==",
        b"COOKIE: a=b",
        b"Set-Cookie: a=b",
        b"Proxy-Authorization: x",
        b"X: " + b"y" * LINE,
    ],
)
def test_secrets_and_long_lines_are_not_kept(line: bytes) -> None:
    """They stay nowhere."""
    parse_line(line)
    assert lookup(line) is None


def test_memory_is_bounded() -> None:
    """Any number of lines, names and values leaves bounded tables."""
    for number in range(LINES + NAMES):
        parse_line(b"n%d: 1" % number)
    assert len(fields._lines) <= LINES
    assert len(fields._names) <= NAMES
    fields._lines.clear()
    for number in range(1000):
        parse_line(b"x-changing: %d" % number)
    assert len(fields._lines) <= VALUES
    parse_line(b"x" * 65 + b": 1")
    assert b"x" * 65 not in fields._names

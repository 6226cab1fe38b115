"""Header fields: ordered, checked, with their lines ready."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.http.headers import CONTENT_LENGTH, KINDS, PLAIN, Headers, make_field


def test_a_field() -> None:
    """Name in lower case, value trimmed, line made once, kind known."""
    assert make_field(b"X-One", b" a\t") == (b"x-one", b"a", b"x-one: a\r\n", PLAIN)
    assert make_field(b"Content-Length", b"3")[3] == CONTENT_LENGTH
    assert all(make_field(name, b"")[3] == kind for name, kind in KINDS.items())


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r", b"\xe9", b"a\x00", b"a\n"])
def test_bad_names(name: bytes) -> None:
    """Only tokens."""
    with pytest.raises(ValueError, match="header name"):
        make_field(name, b"x")


@given(st.binary())
def test_values(value: bytes) -> None:
    """Nothing that could end a line, or start another, passes."""
    bad = any((byte < 32 and byte != 9) or byte == 127 for byte in value.strip(b" \t"))
    if bad:
        with pytest.raises(ValueError, match="control character"):
            make_field(b"x", value)
    else:
        line = make_field(b"x", value)[2]
        assert line.count(b"\n") == line.count(b"\r") == 1


def headers() -> Headers:
    """Some, with a name twice."""
    return Headers.of([(b"A", b"1"), (b"B", b"2"), (b"a", b"3"), (b"C", b"4")])


def test_reading() -> None:
    """First value, all values, membership, order, length, equality."""
    held = headers()
    assert held.get(b"a") == b"1"
    assert held.get(b"x") is None
    assert held.get(b"x", b"y") == b"y"
    assert held.get_all(b"a") == [b"1", b"3"]
    assert b"b" in held
    assert b"x" not in held
    assert list(held) == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4")]
    assert len(held) == 4
    assert held == headers()
    assert held != Headers()
    assert held != 1
    assert "b'a'" in repr(held)


def test_changing() -> None:
    """set keeps the first's place and drops the others; add appends; remove takes all."""
    held = headers()
    held.set(b"A", b"new")
    assert list(held) == [(b"a", b"new"), (b"b", b"2"), (b"c", b"4")]
    held.set(b"d", b"5")
    held.add(b"b", b"6")
    assert held.get_all(b"b") == [b"2", b"6"]
    held.remove(b"b")
    held.remove(b"missing")
    assert list(held) == [(b"a", b"new"), (b"c", b"4"), (b"d", b"5")]
    with pytest.raises(ValueError, match="control character"):
        held.add(b"x", b"a\r\nb")


def test_a_list_given_is_not_shared() -> None:
    """Headers made of fields have a list of their own."""
    fields = headers().fields
    Headers(fields).add(b"x", b"y")
    assert len(fields) == 4


def test_fields_of_a_kind_are_marked_when_they_are_put_in() -> None:
    """Headers that were parsed without any say so no more once a filter has put one in."""
    for put in (Headers.set, Headers.add):
        headers = Headers.parsed([make_field(b"x-a", b"1")], False)
        put(headers, b"x-b", b"2")
        assert not headers.marks
        put(headers, b"x-forwarded-for", b"192.0.2.1")
        assert headers.marks


@pytest.mark.parametrize(
    "name",
    [b"content-length", b"Transfer-Encoding", b"connection", b"keep-alive", b"host", b"upgrade"],
)
def test_what_frames_a_message_is_not_a_filters(name: bytes) -> None:
    """It can be neither put in nor taken out by name: a mistake must not split messages."""
    headers = Headers.of([(b"content-length", b"1"), (b"x-a", b"1")])
    for change in (lambda: headers.set(name, b"1"), lambda: headers.add(name, b"1")):
        with pytest.raises(ValueError, match="frames the message"):
            change()
    with pytest.raises(ValueError, match="frames the message"):
        headers.remove(name.lower())
    assert len(headers) == 2
    headers.drop(b"content-length")
    assert list(headers) == [(b"x-a", b"1")]

"""Responses that filters make."""

from __future__ import annotations

import pytest

from meshproxy.http.headers import Headers, make_field
from meshproxy.http.message import Response


def test_pairs_mappings_and_headers() -> None:
    """Headers may be given in each of these ways; names become lower case."""
    pairs = [(b"X-A", b"1"), (b"x-a", b"2")]
    assert list(Response(204, headers=pairs).headers) == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert list(Response(204, headers={b"A": b"1"}).headers) == [(b"a", b"1")]
    assert list(Response(204, headers=Headers.of(pairs)).headers) == [
        (b"x-a", b"1"),
        (b"x-a", b"2"),
    ]


def test_a_body_has_a_type() -> None:
    """text/plain where none is given; none for an empty body."""
    assert list(Response(200, b"x").headers) == [(b"content-type", b"text/plain")]
    html = {b"Content-Type": b"text/html"}
    assert list(Response(200, b"x", html).headers) == [(b"content-type", b"text/html")]
    assert list(Response(200).headers) == []


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (99, b"", ()),
        (101, b"", ()),
        (600, b"", ()),
        (204, b"x", ()),
        (304, b"x", ()),
        (200, "text", ()),
        (200, b"", {b"content-length": b"1"}),
        (200, b"", {b"Transfer-Encoding": b"chunked"}),
        (200, b"", {b"connection": b"close"}),
        (200, b"", {b"keep-alive": b"1"}),
        (200, b"", {b"upgrade": b"h2c"}),
        (200, b"", {b"bad name": b"1"}),
        (200, b"", {b"a": b"1\r\nb: 2"}),
    ],
)
def test_what_cannot_be_sent_is_refused(status: int, body: object, headers: object) -> None:
    """When it is made, where the filter's author sees it."""
    with pytest.raises(ValueError, match=r"\w"):
        Response(status, body, headers)  # type: ignore[arg-type]


def test_of_fields_checked_before() -> None:
    """Nothing is added to a response that was stored, and its list is its own."""
    fields = [make_field(b"etag", b'"1"')]
    made = Response.of(200, b"x", fields, details=b"hit")
    assert (made.status, made.body, made.details, made.flags) == (200, b"x", b"hit", b"-")
    made.headers.add(b"age", b"1")
    assert len(fields) == 1


def test_repr_is_bounded() -> None:
    """A log line of a large response is short."""
    assert len(repr(Response(200, b"x" * 10_000))) < 200

"""No spelling of a header that belongs to the proxy comes through."""

from __future__ import annotations

import pytest

from meshproxy.api import Headers
from meshproxy.filters._own_headers import OwnHeaders, no_framing


@pytest.mark.parametrize("name", [b"x-user-id", b"X-User-Id", b"x_user_id", b"X-USER_id"])
def test_every_spelling_is_dropped(name: bytes) -> None:
    """Case and the underscore, which WSGI takes for a dash, make no other header."""
    headers = Headers.of([(b"a", b"1"), (name, b"admin"), (name, b"root"), (b"b", b"2")])
    OwnHeaders(["x-user-id"]).remove_from(headers)
    assert list(headers) == [(b"a", b"1"), (b"b", b"2")]


def test_an_underscore_in_the_own_name() -> None:
    """A name that is written with an underscore is guarded likewise."""
    headers = Headers.of([(b"x-user", b"a"), (b"x_user", b"b"), (b"x-users", b"c")])
    OwnHeaders(["x_user"]).remove_from(headers)
    assert list(headers) == [(b"x-users", b"c")]


def test_no_names_cost_nothing() -> None:
    """Without names the list of fields stays the same object."""
    headers = Headers.of([(b"a", b"1")])
    fields = headers.fields
    OwnHeaders([]).remove_from(headers)
    assert headers.fields is fields


def test_framing_is_refused() -> None:
    """Headers that frame a message cannot be set by an option."""
    faults = list(no_framing(["X-User", "Content-Length", 7, "host"], "headers"))
    assert [fault.at for fault in faults] == [("headers",), ("headers",)]
    assert "Content-Length" in faults[0].message


def test_what_comes_behind_the_filters_is_refused() -> None:
    """Headers that the proxy writes later would be there twice; x-forwarded-user is free."""
    names = ["X-Request-Id", "x-forwarded-for", "x-forwarded-user"]
    assert len(list(no_framing(names, "headers"))) == 2
    assert list(no_framing(names, "headers", sent_on=False)) == []

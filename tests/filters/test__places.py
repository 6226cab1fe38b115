"""Where credentials are found, and that nothing of them is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshproxy import api
from meshproxy.filters._places import Ambiguous, LookIn, Places


class _Options(api.Options):
    look_in: LookIn


class Request:
    """What of a request is looked at."""

    def __init__(self, headers: list[tuple[bytes, bytes]], query: bytes = b"") -> None:
        self.headers = api.Headers.of(headers)
        self.query = query


def places(*look_in: Any) -> Places:
    """Places as a configuration writes them."""
    return Places(_Options.model_validate({"look_in": list(look_in)}).look_in)


ALL = places("bearer", {"header": "X-Key"}, {"cookie": "key"}, {"parameter": "key"})


def test_each_place() -> None:
    """Each place is looked into, the first that holds something counts."""
    assert ALL.find(Request([(b"authorization", b"bEaReR  tok ")])) == (0, b"tok")
    assert ALL.find(Request([(b"authorization", b"Basic x"), (b"x-key", b"k")])) == (1, b"k")
    assert ALL.find(Request([(b"cookie", b'a=b; key="c=="; keys=d')])) == (2, b"c==")
    assert ALL.find(Request([], b"a=1&k%65y=x%2By+z")) == (3, b"x+y z")
    assert ALL.find(Request([(b"x-key", b"h")], b"key=p")) == (1, b"h")
    assert ALL.find(Request([(b"x-key", b""), (b"authorization", b"Bearer")], b"key=")) is None
    assert ALL.bearer
    assert not places({"header": "a"}).bearer


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Basic b")], b""),
        ([(b"x-key", b"a"), (b"X-Key", b"a")], b""),
        ([(b"cookie", b"key=a; key=b")], b""),
        ([(b"cookie", b"key=a"), (b"cookie", b"key=a")], b""),
        ([], b"key=a&key=b"),
        ([], b"key=a&%6bey=b"),
    ],
)
def test_what_comes_twice_is_ambiguous(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """Two credentials in one place are refused, also equal ones and ones spelled otherwise."""
    with pytest.raises(Ambiguous):
        ALL.find(Request(headers, query))


def test_all_of_it_is_taken_out() -> None:
    """Every place is emptied, and what stands beside the credential stays."""
    request = Request(
        [
            (b"authorization", b"Bearer a"),
            (b"x-key", b"b"),
            (b"cookie", b"x=1; key=c; y=2"),
            (b"cookie", b"key=d"),
        ],
        b"a=1&key=e&b=%20&%6Bey=f&c",
    )
    ALL.strip(request)
    assert list(request.headers) == [(b"cookie", b"x=1; y=2")]
    assert request.query == b"a=1&b=%20&c"


def test_one_place_is_kept() -> None:
    """The place that was verified may stay; another scheme's Authorization always does."""
    request = Request([(b"authorization", b"Basic a"), (b"x-key", b"b")], b"key=e")
    ALL.strip(request, 1)
    assert list(request.headers) == [(b"authorization", b"Basic a"), (b"x-key", b"b")]
    assert request.query == b""


def test_a_request_without_any_is_left_as_it_is() -> None:
    """Nothing is rewritten where there is nothing to take out."""
    request = Request([(b"cookie", b"a=1;b=2 ;; c")], b"a&&b=")
    ALL.strip(request)
    assert list(request.headers) == [(b"cookie", b"a=1;b=2 ;; c")]
    assert request.query == b"a&&b="


@pytest.mark.parametrize("wrong", ["header", {"header": "a", "cookie": "b"}, {}, 1])
def test_places_that_are_none(wrong: Any) -> None:
    """A place has one kind and a name."""
    with pytest.raises(ValidationError):
        places(wrong)
    with pytest.raises(api.Unfit, match="no credential"):
        places({"header": "Host"})


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_what_is_stripped_is_not_found(cookie: bytes, query: bytes) -> None:
    """After taking out, no place holds anything, whatever was sent."""
    cookie = bytes(byte for byte in cookie if byte >= 0x20 and byte != 0x7F)
    request = Request([(b"cookie", cookie + b"; key=1")], query + b"&key=2")
    ALL.strip(request)
    assert ALL.find(request) is None

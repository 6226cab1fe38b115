"""Bodies of services that send too much, or never end."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.web.http import PotentialDataLoss

from meshproxy.filters._web_body import HttpUrl, TooLong, read_body
from meshproxy.testing import FakeAnswer as Answer


def result(reading: Deferred[bytes]) -> bytes | Exception:
    """What a Deferred has fired with."""
    found: list[bytes] = []
    failed: list[Exception] = []
    reading.addCallbacks(found.append, lambda failure: failed.append(failure.value))
    return (found or failed)[0]


def test_a_body() -> None:
    """All of it, with or without an announced end; a cut connection is an error."""
    assert result(read_body(Answer(200, b"abc"), 3)) == b"abc"
    for reason, expected in ((PotentialDataLoss(), b"abc"), (ConnectionLost(), None)):
        answer = Answer(200, b"abc", end=False)
        reading = read_body(answer, 3)
        answer.finish(reason)
        found = result(reading)
        assert found == expected if expected else isinstance(found, ConnectionLost)


def test_too_long_a_body() -> None:
    """One byte more fails, or is cut off; the connection is given up, what follows ignored."""
    for cut in (False, True):
        answer = Answer(200, b"abcd", end=False)
        reading = read_body(answer, 3, cut=cut)
        assert answer.given_up()
        answer.protocol.dataReceived(b"more")
        answer.finish()
        found = result(reading)
        assert found == b"abc" if cut else isinstance(found, TooLong)


def test_giving_up() -> None:
    """A Deferred that is cancelled gives up the connection."""
    answer = Answer(200, b"a", end=False)
    reading = read_body(answer, 3)
    assert not answer.given_up()
    reading.cancel()
    assert answer.given_up()
    assert isinstance(result(reading), CancelledError)
    answer.finish()


@pytest.mark.parametrize("url", ["http://a", "https://a.example:8443/x?y=z", "http://[::1]:80/"])
def test_addresses(url: str) -> None:
    """http and https, with a host."""
    assert TypeAdapter(HttpUrl).validate_python(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "a", "ftp://a", "http://", "http://a b", "http://a/#b", "http://u:p@a/", "file:///x"],
)
def test_what_is_no_address(url: str) -> None:
    """Other schemes, no host, a fragment, a password."""
    with pytest.raises(ValidationError):
        TypeAdapter(HttpUrl).validate_python(url)

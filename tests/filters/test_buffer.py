"""The filter buffer."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.filters.buffer import Buffer
from meshproxy.testing import Kit, drive


def test_a_request_goes_on_when_it_is_whole() -> None:
    """The endpoint sees nothing before, and then a body of known length."""
    driven = drive(Buffer(Buffer.Options()), method=b"POST", body=None)
    driven.send(b"abc")
    assert driven.waiting
    driven.send(b"def")
    assert (driven.status, driven.upstream) == (0, None)
    driven.end()
    upstream = driven.upstream
    assert upstream is not None
    assert upstream.body == b"abcdef"
    assert upstream.headers.get(b"content-length") == b"6"
    assert driven.status == 200
    assert driven.counters["buffered"] == 1


def test_trailers_go_on_as_well() -> None:
    """What comes behind the body is kept too."""
    driven = drive(Buffer(Buffer.Options()), method=b"POST", body=None)
    driven.send(b"abc")
    driven.end({b"x-sum": b"1"})
    assert driven.upstream is not None
    assert driven.upstream.body == b"abc"
    assert driven.upstream.trailers is not None
    assert driven.upstream.trailers.get(b"x-sum") == b"1"


def test_a_request_without_a_body_does_not_wait() -> None:
    """There is nothing to wait for."""
    driven = drive(Buffer(Buffer.Options()))
    assert driven.status == 200
    assert driven.counters == {}


def test_an_announced_length_is_refused_at_once() -> None:
    """A client that says that it sends more is not read."""
    driven = drive(Buffer(Buffer.Options(max_bytes=5)), method=b"POST", body=None, length=6)
    assert driven.upstream is None
    assert (driven.status, driven.body) == (413, b"Payload Too Large")
    assert driven.details == b"request_payload_too_large"
    assert driven.counters["too_large"] == 1


def test_a_body_that_grows_too_long_is_refused() -> None:
    """A client that does not say is read up to the bound; the bound itself is allowed."""
    held = Buffer(Buffer.Options(max_bytes=5))
    driven = drive(held, method=b"POST", body=None)
    driven.send(b"12345")
    assert driven.status == 0
    driven.send(b"6")
    assert (driven.status, driven.body) == (413, b"Payload Too Large")
    assert driven.upstream is None
    full = drive(Buffer(Buffer.Options(max_bytes=5)), method=b"POST", body=b"12345")
    assert full.status == 200


def test_a_client_that_goes_away_is_forgotten() -> None:
    """Nothing is sent, and nothing fails."""
    driven = drive(Buffer(Buffer.Options()), method=b"POST", body=None)
    driven.send(b"abc")
    driven.disconnect()
    assert driven.over
    assert driven.upstream is None
    assert "errors" not in driven.counters


def test_an_upgrade_is_no_way_around_it() -> None:
    """A request for one has no body and goes on; one that has a body is bounded like any other."""
    held = Buffer(Buffer.Options(max_bytes=5))
    kit = Kit()
    assert kit.drive(held, upgrade=b"websocket", response=None).upstream is not None
    driven = kit.drive(held, method=b"POST", body=b"123456", upgrade=b"websocket")
    assert (driven.status, driven.upstream) == (413, None)


def test_a_bound_of_nothing_is_refused() -> None:
    """It would refuse every body."""
    with pytest.raises(ValidationError):
        Buffer.Options(max_bytes=0)

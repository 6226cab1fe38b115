"""The filter bandwidth."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.api import Response
from meshproxy.filters.bandwidth import Bandwidth
from meshproxy.interfaces import IRequestBodyFilter, IResponseBodyFilter
from meshproxy.testing import Driven, Kit, drive


def made(**options: Any) -> Bandwidth:
    """The filter with these options, as a configuration would write them."""
    return Bandwidth(Bandwidth.Options.model_validate(options))


def download(kit: Kit, held: Bandwidth, client: bytes = b"192.0.2.1:1") -> Driven:
    """A response that has begun, with a length that is not known."""
    driven = kit.drive(held, response=None, client=client)
    driven.answer(200, {}, b"", end=False)
    return driven


def test_a_burst_goes_at_once_and_the_rest_waits() -> None:
    """No byte is lost, added or out of order."""
    kit = Kit()
    driven = download(kit, made(response={"rate": 1000, "burst": 300}))
    driven.answer_data(b"a" * 300)
    assert driven.body == b"a" * 300
    driven.answer_data(b"b" * 100)
    driven.answer_data(b"c" * 100)
    kit.advance(0.12)
    assert driven.body == b"a" * 300 + b"b" * 100
    driven.answer_end(b"d")
    kit.advance(0.1)
    assert driven.body == b"a" * 300 + b"b" * 100 + b"c" * 100 + b"d"
    assert driven.finished
    assert kit.counters["delayed{direction=response}"] >= 2


def test_the_length_stays_known() -> None:
    """The body is as long as it was, so the client is told."""
    driven = drive(made(response={"rate": 1000, "burst": 0}), response=Response(200, b"x" * 100))
    driven.advance(0.2)
    assert driven.body == b"x" * 100
    assert driven.headers.get(b"content-length") == b"100"


def test_an_upload() -> None:
    """The endpoint gets it at the rate, and the client is not read meanwhile."""
    driven = drive(made(request={"rate": 1000, "burst": 0}), method=b"POST", body=None)
    driven.send(b"a" * 500)
    assert not driven.reading
    driven.advance(0.25)
    # In small pieces, not in one lump at the end of its time.
    assert 150 <= len(driven.upstream.body) <= 250
    driven.advance(0.3)
    assert driven.upstream.body == b"a" * 500
    assert driven.reading
    driven.end()
    assert driven.status == 200


def test_without_a_burst_it_is_that_of_a_second() -> None:
    """As in Envoy."""
    driven = drive(made(response={"rate": 1000}), response=Response(200, b"x" * 1000))
    assert driven.finished
    waits = drive(made(response={"rate": 1000}), response=Response(200, b"x" * 1001))
    assert not waits.finished


def test_a_direction_without_a_pace_costs_nothing() -> None:
    """The filter asks for no body that it does not limit."""
    one = made(request={"rate": 1})
    assert IRequestBodyFilter.providedBy(one)
    assert not IResponseBodyFilter.providedBy(one)
    other = made(response={"rate": 1})
    assert not IRequestBodyFilter.providedBy(other)
    assert IResponseBodyFilter.providedBy(other)


@pytest.mark.parametrize(
    ("by", "same_client", "other_client"),
    [("exchange", True, True), ("client_ip", False, True), ("listener", False, False)],
)
def test_who_shares_an_allowance(by: str, same_client: bool, other_client: bool) -> None:
    """Each exchange its own, each client its own, or all together."""
    kit = Kit()
    held = made(response={"rate": 1000, "burst": 1000}, by=by)
    download(kit, held).answer_data(b"x" * 1000)
    same = download(kit, held, b"192.0.2.1:2")
    same.answer_data(b"y" * 100)
    assert (same.body == b"y" * 100) is same_client
    other = download(kit, held, b"192.0.2.9:1")
    other.answer_data(b"z" * 100)
    assert (other.body == b"z" * 100) is other_client


def test_those_who_share_take_turns() -> None:
    """A big download does not keep a small one out: pieces go in the order in which they came."""
    kit = Kit()
    held = made(response={"rate": 1000, "burst": 0}, by="listener")
    big, small = download(kit, held), download(kit, held)
    for _ in range(5):
        big.answer_data(b"b" * 100)
    small.answer_data(b"s" * 100)
    kit.advance(0.22)
    assert (len(big.body), len(small.body)) == (100, 100)


def test_a_network_of_one_household_is_one_client() -> None:
    """The addresses of an IPv6 /64 share an allowance."""
    kit = Kit()
    held = made(response={"rate": 1000, "burst": 1000}, by="client_ip")
    download(kit, held, b"[2001:db8::1]:1").answer_data(b"x" * 1000)
    same = download(kit, held, b"[2001:db8::2]:1")
    same.answer_data(b"y")
    assert same.body == b""


def test_who_goes_away_gives_back() -> None:
    """What was set aside for a piece that is not sent is there for others; no timer is left."""
    kit = Kit()
    held = made(response={"rate": 1000, "burst": 0}, by="listener")
    gone = download(kit, held)
    gone.answer_data(b"x" * 10_000)
    gone.disconnect()
    assert "errors" not in kit.counters
    driven = download(kit, held)
    driven.answer_data(b"y" * 100)
    kit.advance(0.15)
    assert driven.body == b"y" * 100


def test_the_endpoint_is_not_read_ahead() -> None:
    """What cannot go is not fetched."""
    kit = Kit()
    driven = download(kit, made(response={"rate": 1000, "burst": 0}))
    driven.answer_data(b"x" * 100)
    assert driven.stream is not None
    stream = driven.stream
    assert not stream.reading
    kit.advance(0.2)
    assert [stream.reading] == [True]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"by": "exchange"},
        {"request": {"rate": 0}},
        {"request": {}},
        {"request": {"rate": 1}, "by": "route"},
        {"request": {"rate": 1}, "max_clients": 5},
        {"request": {"rate": 1}, "by": "client_ip", "max_clients": 0},
    ],
)
def test_limits_that_are_none_are_refused(options: dict[str, Any]) -> None:
    """What would do nothing, or let nothing through, is found at start."""
    with pytest.raises(ValidationError):
        Bandwidth.Options.model_validate(options)


def test_a_response_that_is_here_whole_begins_at_once() -> None:
    """Its head, with its length, does not wait for the last piece; a client that goes ends it."""
    driven = drive(made(response={"rate": 1000, "burst": 0}), response=Response(200, b"x" * 1000))
    driven.advance(0.5)
    assert driven.headers.get(b"content-length") == b"1000"
    assert 400 <= len(driven.body) <= 550
    assert max(map(len, driven.pieces)) <= 50
    driven.disconnect()
    driven.advance(1.0)
    assert len(driven.body) <= 550

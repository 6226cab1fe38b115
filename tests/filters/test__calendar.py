"""Periods of a calendar, in zones whose clocks jump."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy import api
from meshproxy.filters._calendar import Per, period_of, zone_of

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Cairo",
    "America/St_Johns",
)


def at(text: str, zone: Any = UTC) -> int:
    """A local time as seconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


@pytest.mark.parametrize(
    ("per", "start", "end"),
    [
        ("hour", "2026-11-23T23:00", "2026-11-24T00:00"),
        ("day", "2026-11-23T00:00", "2026-11-24T00:00"),
        ("week", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-11-01T00:00", "2026-12-01T00:00"),
    ],
)
def test_periods(per: Per, start: str, end: str) -> None:
    """An hour, a day, a week from Monday, and a month."""
    assert period_of(at("2026-11-23T23:17") + 0.9, per, UTC) == (at(start), at(end))


def test_a_zone_has_its_own_days() -> None:
    """In Berlin a day begins at 23:00 UTC, and has 25 hours when summer ends."""
    berlin = ZoneInfo("Europe/Berlin")
    start, end = period_of(at("2026-11-23T23:30"), "day", berlin)
    assert start == at("2026-11-23T23:00")
    start, end = period_of(at("2026-10-25T12:00"), "day", berlin)
    assert end - start == 25 * 3600
    start, end = period_of(at("2026-03-29T12:00"), "day", berlin)
    assert end - start == 23 * 3600


def test_december_and_february() -> None:
    """The month after December is January; a month has its own length."""
    assert period_of(at("2026-12-31T23:59"), "month", UTC)[1] == at("2027-01-01T00:00")
    start, end = period_of(at("2028-02-29T12:00"), "month", UTC)
    assert end - start == 29 * 86400


@given(
    st.integers(0, 4_102_444_800),
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(ZONES),
)
def test_every_moment_is_in_one_period(now: int, per: Per, name: str) -> None:
    """Whatever the clocks do: it has begun and not ended, and the next one begins then."""
    zone = zone_of(name)
    start, end = period_of(now, per, zone)
    assert start <= now < end
    assert period_of(start, per, zone)[0] <= start
    following = period_of(end, per, zone)
    assert following[1] > end
    assert following[0] != start


def test_the_clocks_of_lord_howe() -> None:
    """Where clocks are set back by half an hour, an hour never ends before it began."""
    zone = zone_of("Australia/Lord_Howe")
    begin = at("2026-04-04T13:00")
    for now in range(begin, begin + 4 * 3600, 60):
        start, end = period_of(now, "hour", zone)
        assert start <= now < end


def test_zones_that_are_none() -> None:
    """A zone that is not there is refused, with what was meant."""
    with pytest.raises(api.Unfit, match="no time zone 'Europe/Berln'") as caught:
        zone_of("Europe/Berln")
    assert caught.value.suggestion == "Europe/Berlin"
    for name in ("../etc/passwd", "", "/etc/localtime"):
        with pytest.raises(api.Unfit):
            zone_of(name)

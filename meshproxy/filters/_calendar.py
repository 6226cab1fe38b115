"""
Hours, days, weeks and months of a calendar, as times since 1970.

The law it keeps: every moment is in one period, ``start <= now < end``, whatever a zone's clocks
do; a day of 23 or 25 hours is one day. A period is known by its start, which no other has.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator

from meshproxy.api import Unfit

__all__ = ["Per", "Zone", "period_of", "zone_of"]

Per = Literal["hour", "day", "week", "month"]
"""The type of an option that is the length of a period. A week begins on Monday."""


def zone_of(name: str) -> tzinfo:
    """The time zone called ``name``. Raises :class:`meshproxy.api.Unfit`."""
    if name == "UTC":
        return UTC  # without a database of zones
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        pass
    near = get_close_matches(name[:64], available_timezones(), n=1)
    raise Unfit(
        f"there is no time zone '{name[:64]}' on this machine; zones are called as Europe/Berlin",
        near[0] if near else None,
    )


def _known(value: str) -> str:
    zone_of(value)
    return value


Zone = Annotated[str, AfterValidator(_known)]
"""The type of an option that names a time zone."""


def period_of(now: float, per: Per, zone: tzinfo) -> tuple[int, int]:
    """The start and end (seconds since 1970) of the period that ``now`` is in."""
    local = datetime.fromtimestamp(int(now), zone)
    if per == "hour":
        # Not by the date: clocks that are set back by half an hour have hours of their own.
        offset = local.utcoffset() or timedelta()
        seconds = offset.days * 86400 + offset.seconds
        start = (int(now) + seconds) // 3600 * 3600 - seconds
        return start, start + 3600
    today = local.date()
    if per == "day":
        first, following = today, today + timedelta(days=1)
    elif per == "week":
        first = today - timedelta(days=today.weekday())
        following = first + timedelta(days=7)
    else:
        first = today.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
    return _midnight(first, zone), _midnight(following, zone)


def _midnight(day: date, zone: tzinfo) -> int:
    """When a day begins; where the clocks skip midnight, the moment at which they do."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())

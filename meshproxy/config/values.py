"""Durations, sizes and addresses: from what a person writes to what the proxy uses.

Laws:
- A duration is a float of seconds, a size an int of bytes; neither is ever negative, infinite or
  not a number, and each has a stated bound.
- Every function here raises `Unfit` (a ValueError) and nothing else, whatever it is given.
- What `format_duration` and `Address.text` write is read back as the same value.
"""

from __future__ import annotations

import re

from meshproxy.config.address import (
    Address,
    is_name,
    parse_endpoint,
    parse_listen,
    parse_target,
)
from meshproxy.config.unfit import Unfit, quoted

__all__ = [
    "LARGEST_SIZE",
    "LONGEST_DURATION",
    "Address",
    "format_duration",
    "is_name",
    "parse_duration",
    "parse_endpoint",
    "parse_listen",
    "parse_size",
    "parse_target",
    "seconds_of",
]

LONGEST_DURATION = 366 * 86400.0
"""Seconds; more is refused, since a timer that far away is a slip of the hand."""

LARGEST_SIZE = 1 << 40
"""Bytes; more is refused."""

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_UNIT_WORDS = {
    "msec": "ms",
    "millis": "ms",
    "millisecond": "ms",
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hr": "h",
    "hour": "h",
    "day": "d",
}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|[smhd]))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])", re.ASCII)
_LOOSE_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]{0,12})", re.ASCII)

_SIZE = re.compile(r"(\d{1,15})(B|KiB|MiB|GiB)?", re.ASCII)
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LOOSE_SIZE = re.compile(r"(\d{1,15})\s*([kmg]?)i?(?:b|bytes?)?", re.ASCII)


def parse_duration(value: object) -> float:
    """Return the seconds that `value` means: `250ms`, `5s`, `1m30s`, `1h`, `2d`, or `0`.

    The smallest step is a millisecond, the largest value 366 days. Raises `Unfit` for anything
    else; a number without a unit is refused, since nobody can tell seconds from milliseconds.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unfit(f"a duration such as 5s is expected, not {quoted(value)}")
    if not isinstance(value, str):
        if value == 0:
            return 0.0
        raise Unfit(
            f"a duration needs a unit (ms, s, m, h, d), and {quoted(value)} has none",
            _with_seconds(value),
        )
    if value == "0":
        return 0.0
    if _DURATION.fullmatch(value) is None:
        if re.fullmatch(r"-\s*\d.*", value, re.ASCII):
            raise Unfit(f"a duration cannot be negative: {quoted(value)}")
        raise Unfit(
            f"a duration such as 250ms, 5s, 1m30s or 1h is expected, not {quoted(value)}",
            _likely_duration(value),
        )
    milliseconds = 0.0
    previous = float("inf")
    for number, unit in _PART.findall(value):
        if _UNITS[unit] >= previous:
            raise Unfit(
                f"in a duration the larger unit comes first, and each once: {quoted(value)}"
            )
        previous = _UNITS[unit]
        milliseconds += float(number) * previous
    if milliseconds > LONGEST_DURATION * 1000:
        raise Unfit(f"a duration is at most 366d, and {quoted(value)} is more")
    if milliseconds != int(milliseconds):
        raise Unfit(f"a duration is a whole number of milliseconds, and {quoted(value)} is not")
    return milliseconds / 1000


def seconds_of(value: object, default: float) -> float:
    """Return the seconds of what stands in a section: text, seconds already, or None for `default`.

    For what is no duration it is NaN, which is neither less nor more than anything: the field
    itself reports it, and a comparison with it finds nothing wrong.
    """
    if value is None:
        return default
    if isinstance(value, float):
        return value
    try:
        return parse_duration(value)
    except Unfit:
        return float("nan")


def _with_seconds(number: float) -> str | None:
    """Return `number` as a duration in seconds, or None when that would not be accepted."""
    text = f"{number}s" if abs(number) < 10**9 else ""
    return text if len(text) < 20 and _DURATION.fullmatch(text) else None


def _likely_duration(text: str) -> str | None:
    """Return the duration that `text` (such as `5 sec`) was probably meant to be, or None."""
    match = _LOOSE_DURATION.fullmatch(text.strip().lower()[:32])
    if match is None:
        return None
    number, unit = match.groups()
    unit = _UNIT_WORDS.get(unit.removesuffix("s"), unit) if len(unit) > 2 else unit or "s"
    unit = _UNIT_WORDS.get(unit, unit)
    return number + unit if unit in _UNITS else None


def format_duration(seconds: float) -> str:
    """Return `seconds` as `parse_duration` reads it, in the largest units that fit: `1m30s`."""
    left = round(seconds * 1000)
    if left == 0:
        return "0"
    parts = []
    for unit, length in _UNITS.items():
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(value: object) -> int:
    """Return the bytes that `value` means: `4096`, `64KiB`, `1MiB`, `2GiB`.

    The units are powers of 1024 (IEC 80000-13); `kB` and `MB`, which some read as powers of 1000,
    are refused. Raises `Unfit` for anything else and for more than 1 TiB.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Unfit(f"a size such as 64KiB is expected, not {quoted(value)}")
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value)
        if match is None:
            raise Unfit(
                f"a size such as 4096, 64KiB, 1MiB or 2GiB is expected, not {quoted(value)}",
                _likely_size(value),
            )
        size = int(match[1]) * _SIZE_UNITS[match[2] or "B"]
    if size < 0:
        raise Unfit(f"a size cannot be negative: {quoted(value)}")
    if size > LARGEST_SIZE:
        raise Unfit(f"a size is at most 1024GiB, and {quoted(value)} is more")
    return size


def _likely_size(text: str) -> str | None:
    """Return the size that `text` (such as `1 MB`) was probably meant to be, or None."""
    match = _LOOSE_SIZE.fullmatch(text.strip().lower()[:32])
    if match is None:
        return None
    return match[1] + {"k": "KiB", "m": "MiB", "g": "GiB", "": ""}[match[2]]

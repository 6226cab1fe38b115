"""Times of a clock as dates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from meshproxy.observe.wall import KEPT, IsoMilliseconds, IsoSeconds, Stamp, Wall

AT = 1_700_000_000.25


def fixed(at: float = AT) -> Wall:
    """The clock is the wall's."""

    def clock() -> float:
        return at

    return Wall(clock, clock)


@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_are_iso_dates(millisecond: int) -> None:
    """Every millisecond is the date that the library says, between the texts given."""
    text = IsoMilliseconds(fixed(), b"[%", b"%]")[millisecond]
    date = datetime.fromisoformat(text[2:-2].decode())
    assert text.startswith(b"[%")
    assert text.endswith(b"Z%]")
    assert date == datetime.fromtimestamp(millisecond // 1000, UTC).replace(
        microsecond=millisecond % 1000 * 1000
    )


def test_what_is_kept_is_bounded() -> None:
    """Records of ever new times do not fill the memory."""
    seconds = IsoSeconds(fixed())
    milliseconds = IsoMilliseconds(fixed(), b"", b"")
    for number in range(2 * KEPT + 1):
        assert seconds[number]
        assert milliseconds[number]
    assert len(seconds) <= KEPT
    assert len(milliseconds) <= KEPT


def test_a_step_of_the_time_is_followed() -> None:
    """The offset is measured again with the first record of a new second."""
    clock, wall = Clock(), Clock()
    wall.advance(AT)
    measured = Wall(clock.seconds, wall.seconds)
    seconds = IsoSeconds(measured)
    assert clock.seconds() + measured.offset == AT
    wall.advance(3600)
    assert clock.seconds() + measured.offset == AT
    assert seconds[int(AT) + 1]
    assert clock.seconds() + measured.offset == AT + 3600


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("%Y-%m-%d %H:%M:%S", b"2023-11-14 22:13:20"),
        ("%s.%3f", b"1700000000.250"),
        ("%H%f%M", b"2225000000013"),
        ("%s %6f %1f", b"1700000000 250000 2"),
        ("%d/%b/%Y:%H:%M:%S %z", b"14/Nov/2023:22:13:20 +0000"),
        ("%Z%%", b"UTC%"),
        ("%%s%%3f", b"%s%3f"),
        ("", b""),
    ],
)
def test_stamps(form: str, expected: bytes) -> None:
    """strftime's directives and Envoy's, in UTC; called twice they give the same."""
    stamp = Stamp(form, fixed())
    assert [stamp(AT), stamp(AT)] == [expected, expected]


@pytest.mark.parametrize("form", ["%n", "%t", "%", "%é", "%Q", "%0f"])
def test_directives_that_are_refused(form: str) -> None:
    """Unknown ones, and those that would break the line."""
    with pytest.raises(ValueError, match="directive"):
        Stamp(form, fixed())

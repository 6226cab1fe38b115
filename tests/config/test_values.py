"""Durations and sizes: what is read, what is refused and how it is said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.unfit import Unfit
from meshproxy.config.values import (
    LARGEST_SIZE,
    LONGEST_DURATION,
    format_duration,
    parse_duration,
    parse_size,
    seconds_of,
)

anything = st.one_of(
    st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers())
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        ("1.5s", 1.5),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
        ("366d", LONGEST_DURATION),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    """The forms that the vocabulary shows mean what they say."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        (5, "5s"),
        (1.5, "1.5s"),
        ("5", "5s"),
        ("5 s", "5s"),
        ("5S", "5s"),
        ("5 seconds", "5s"),
        ("10 mins", "10m"),
        ("2hours", "2h"),
        ("100 msec", "100ms"),
        ("5x", None),
        ("", None),
        ("s", None),
        ("-5s", None),
        (True, None),
        (None, None),
        ([], None),
        (float("nan"), None),
        (float("inf"), None),
        ("367d", None),
        ("0.5ms", None),
        ("30s1m", None),
        ("5s5s", None),
        ("\u0665s", None),
        ("1e3s", None),
    ],
)
def test_refused_durations(text: object, suggestion: str | None) -> None:
    """Whatever is no duration is refused, with what was meant where that can be told."""
    with pytest.raises(Unfit) as caught:
        parse_duration(text)
    assert caught.value.suggestion == suggestion
    if suggestion is not None:
        parse_duration(suggestion)


def test_a_number_too_long_to_print_is_refused() -> None:
    """Python refuses to write such a number out; a message about it does not try to."""
    for parse in (parse_duration, parse_size):
        with pytest.raises(Unfit):
            parse(10**5000)


@given(st.integers(0, int(LONGEST_DURATION * 1000)))
def test_durations_survive_writing(milliseconds: int) -> None:
    """What format_duration writes is read as the same value."""
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(anything)
def test_a_duration_is_a_usable_number_or_unfit(value: object) -> None:
    """Nothing is ever negative, infinite, not a number, or another exception."""
    try:
        seconds = parse_duration(value)
    except Unfit:
        return
    assert math.isfinite(seconds)
    assert 0 <= seconds <= LONGEST_DURATION


def test_seconds_of_what_stands_in_a_section() -> None:
    """Text, seconds already, nothing; and what is no duration is neither less nor more."""
    assert seconds_of("1m", 5.0) == 60.0
    assert seconds_of(1.5, 5.0) == 1.5
    assert seconds_of(None, 5.0) == 5.0
    assert seconds_of(0, 5.0) == 0.0
    wrong: list[object] = ["x", [], True, 7]
    assert all(math.isnan(seconds_of(value, 5.0)) for value in wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("1MiB", 1 << 20),
        ("2GiB", 2 << 30),
        ("10B", 10),
        ("4096", 4096),
        (4096, 4096),
        (0, 0),
        ("1024GiB", LARGEST_SIZE),
    ],
)
def test_sizes(text: object, size: int) -> None:
    """The forms that the vocabulary shows mean powers of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("64KB", "64KiB"),
        ("64k", "64KiB"),
        ("1 MB", "1MiB"),
        ("1mib", "1MiB"),
        ("5 bytes", "5"),
        ("1.5MiB", None),
        ("-1", None),
        (-1, None),
        (1.0, None),
        (True, None),
        (None, None),
        ("", None),
        ("1025GiB", None),
        (LARGEST_SIZE + 1, None),
    ],
)
def test_refused_sizes(text: object, suggestion: str | None) -> None:
    """Ambiguous units and everything else are refused, with what was meant."""
    with pytest.raises(Unfit) as caught:
        parse_size(text)
    assert caught.value.suggestion == suggestion


@given(anything)
def test_a_size_is_a_usable_number_or_unfit(value: object) -> None:
    """Nothing is ever negative, unbounded, or another exception."""
    try:
        size = parse_size(value)
    except Unfit:
        return
    assert type(size) is int
    assert 0 <= size <= LARGEST_SIZE

"""What clients are told of limits, byte by byte."""

from __future__ import annotations

import math

from meshproxy.filters._limit_fields import Policy, limit_fields, retry_after, whole


def test_the_draft() -> None:
    """Two lists of structured items: the policies, and what remains of each; seconds rounded up."""
    burst = Policy("burst", 100, 60.0)
    day = Policy("day", 5000, 86400.0, "content-bytes")
    assert limit_fields("draft", [(burst, 49.7, 0.3, 12.0), (day, 0.0, 80.0, 80.0)]) == [
        (
            b"ratelimit-policy",
            b'"burst";q=100;w=60, "day";q=5000;qu="content-bytes";w=86400',
        ),
        (b"ratelimit", b'"burst";r=49;t=1, "day";r=0;t=80'),
    ]


def test_a_window_of_no_whole_seconds_is_left_out() -> None:
    """The draft's ``w`` is a whole number above 0."""
    for window in (0.5, 1.5, 0.0):
        assert Policy("a", 3, window).item == b'"a";q=3'
    assert Policy("a", 3, 1.0).item == b'"a";q=3;w=1'


def test_the_older_three() -> None:
    """One limit's numbers: that of which least remains."""
    hour, day = Policy("hour", 10, 3600.0), Policy("day", 100, 86400.0)
    assert limit_fields("legacy", [(day, 40.0, 1.0, 500.2), (hour, 3.0, 1.0, 9.0)]) == [
        (b"x-ratelimit-limit", b"10"),
        (b"x-ratelimit-remaining", b"3"),
        (b"x-ratelimit-reset", b"9"),
    ]


def test_off() -> None:
    """Nothing is told."""
    assert limit_fields("off", [(Policy("a", 1), 0.0, 1.0, 1.0)]) == []


def test_numbers_are_whole_and_not_negative() -> None:
    """What floating arithmetic leaves over changes no number, and nothing is below 0."""
    assert whole(2.9999999) == 3
    assert whole(-0.5) == 0
    fields = dict(limit_fields("draft", [(Policy("a", 1), -1.0, -2.0, 0.0)]))
    assert fields[b"ratelimit"] == b'"a";r=0;t=0'
    assert len(Policy("a", 10**18).item) == len(b'"a";q=') + 15


def test_retry_after() -> None:
    """Whole seconds, 1 at least; nothing where waiting does not help."""
    assert retry_after(0.01) == [(b"retry-after", b"1")]
    assert retry_after(3.0000000001) == [(b"retry-after", b"3")]
    assert retry_after(3.2) == [(b"retry-after", b"4")]
    assert retry_after(math.inf) == []

"""Bytes at a pace."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from meshproxy.filters._pace import Bucket, Buckets, steadily


def test_a_burst_goes_at_once() -> None:
    """As much as the burst needs no waiting, what comes on top does."""
    bucket = Bucket(100, 50)
    assert bucket.reserve(50, 10.0) == 0.0
    assert bucket.reserve(100, 10.0) == pytest.approx(1.0)
    assert bucket.reserve(100, 10.0) == pytest.approx(2.0)


def test_who_asks_first_goes_first() -> None:
    """Of two that take turns, each gets every second place."""
    bucket = Bucket(100, 0)
    waits = [bucket.reserve(10, 0.0) for _ in range(4)]
    assert waits == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_what_is_given_back_can_be_used() -> None:
    """A piece that is not sent costs those behind it nothing."""
    bucket = Bucket(100, 0)
    bucket.reserve(1000, 0.0)
    bucket.give_back(1000)
    assert bucket.reserve(100, 0.0) == pytest.approx(1.0)


def test_idleness_saves_no_more_than_the_burst() -> None:
    """An hour without a byte does not allow an hour's bytes at once."""
    bucket = Bucket(100, 50)
    bucket.reserve(50, 0.0)
    assert not bucket.full(0.2)
    assert bucket.full(3600.0)
    assert bucket.reserve(150, 3600.0) == pytest.approx(1.0)


@given(
    st.integers(1, 1000),
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 2)), max_size=30),
)
def test_never_more_than_promised(rate: int, burst: int, pieces: list[tuple[int, float]]) -> None:
    """From the beginning to any moment, what went is at most the burst and the rate's."""
    bucket = Bucket(rate, burst)
    now = 0.0
    went: list[tuple[float, int]] = []
    for size, pause in pieces:
        now += pause
        went.append((now + bucket.reserve(size, now), size))
    for end, _ in went:
        assert sum(size for at, size in went if at <= end) <= burst + rate * end + 1e-6


def test_each_key_has_its_bucket() -> None:
    """One client's bytes do not slow another's."""
    buckets = Buckets(100, 0, 10)
    assert buckets.of(b"a", 0.0).reserve(100, 0.0) == pytest.approx(1.0)
    assert buckets.of(b"a", 0.0).reserve(100, 0.0) == pytest.approx(2.0)
    assert buckets.of(b"b", 0.0).reserve(100, 0.0) == pytest.approx(1.0)


def test_the_table_is_bounded_and_forgets_no_debt() -> None:
    """New clients share a bucket while all are in use, and get places that are full again."""
    buckets = Buckets(100, 0, 2)
    for key in (b"a", b"b"):
        buckets.of(key, 0.0).reserve(100, 0.0)
    shared = buckets.of(b"c", 0.0)
    assert buckets.of(b"d", 0.0) is shared
    assert len(buckets) == 2
    assert buckets.of(b"c", 5.0) is not shared
    assert len(buckets) == 2


def test_steadily() -> None:
    """Pieces of a twentieth of a second, each in its time; what was not sent is given back."""
    clock = Clock()
    bucket = Bucket(1000, 0)
    out: list[bytes] = []

    async def collect() -> None:
        pieces = steadily(bucket, b"x" * 120, clock.seconds, sleep)
        while True:
            out.append(await pieces.__anext__())

    def sleep(seconds: float) -> Any:
        return deferLater(clock, seconds)

    running = Deferred.fromCoroutine(collect())
    assert out == []
    clock.advance(0.051)
    assert [len(piece) for piece in out] == [50]
    running.addErrback(lambda _: None)
    running.cancel()
    assert bucket.reserve(50, clock.seconds()) == pytest.approx(0.05, abs=0.002)

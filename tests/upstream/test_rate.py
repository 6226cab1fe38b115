"""The token bucket: never more than burst + rate × time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream.rate import TokenBucket


def test_burst_then_rate() -> None:
    """It begins full; emptied, it gives one token every 1 / rate seconds."""
    bucket = TokenBucket(4.0, 3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.ready(0.0)
    assert bucket.ready(0.25)
    assert bucket.take(0.25)
    assert not bucket.take(0.25)
    # A long pause saves up the burst and no more.
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_left() -> None:
    """What is left is what can be taken."""
    bucket = TokenBucket(4.0, 3)
    assert bucket.left(0.0) == 3
    for left in (2, 1, 0):
        bucket.take(0.0)
        assert bucket.left(0.0) == left
    assert bucket.left(0.3) == 1
    assert bucket.left(1e6) == 3


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """What was taken stays taken."""
    bucket = TokenBucket(1.0, 1)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert not bucket.take(10.0)
    assert bucket.take(11.0)


@given(
    st.floats(0.1, 100),
    st.integers(1, 20),
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_the_bound_holds_at_any_time(rate: float, burst: int, steps: list[float]) -> None:
    """Whatever the times of asking: at most burst + rate × time; and what is ready is given."""
    bucket = TokenBucket(rate, burst)
    now, taken = 0.0, 0
    for step in steps:
        now += step
        ready = bucket.ready(now)
        assert bucket.take(now) is ready
        taken += ready
        assert taken <= burst + rate * now + 1e-6

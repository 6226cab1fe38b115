"""What the rate algorithm allows, and what a full table forgets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from meshproxy.filters._rate import GcraTable, Rate
from meshproxy.interfaces import IRateStore

rates = st.builds(
    Rate,
    st.integers(1, 50),
    st.sampled_from([0.25, 1.0, 3.0, 60.0, 3600.0]),
    st.integers(1, 20),
)
# The time between two events, and which key comes.
steps = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 5.0, allow_subnormal=False)), st.integers(0, 5)
    ),
    max_size=150,
)
STARTS = st.sampled_from([0.0, 12.5, 1.8e9])


def within(times: Sequence[float], rate: Rate) -> bool:
    """Whether no stretch of time holds more of ``times`` than ``burst + rate * t``."""
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            most = rate.burst + (times[last] - begin) / rate.interval
            # A clock from 1970 is read to 2.4e-7 seconds.
            if last - first + 1 > most + 1e-5 + 1e-6 / rate.interval:
                return False
    return True


def test_a_burst_and_then_the_rate() -> None:
    """A full bucket gives its burst at once, then one each interval, and says how long to wait."""
    table = GcraTable()
    rate = Rate(10, 1.0, 3)
    assert [table.take(b"a", 1, rate, 100.0)[0] for _ in range(4)] == [True, True, True, False]
    assert table.take(b"a", 1, rate, 100.0) == pytest.approx((False, 0.0, 0.3, 0.1))
    assert table.take(b"a", 1, rate, 100.1)[0]
    assert not table.take(b"a", 1, rate, 100.1)[0]
    assert table.take(b"a", 1, rate, 200.0) == pytest.approx((True, 2.0, 0.1, 0.0))


def test_burst_is_the_limit_unless_written() -> None:
    """Without a burst, a whole period's worth may come at once."""
    table, rate = GcraTable(), Rate(30, 10.0)
    assert sum(table.take(b"a", 1, rate, 0.0)[0] for _ in range(100)) == 30


def test_a_refused_one_takes_nothing() -> None:
    """Who is refused does not wait longer for having asked."""
    table, rate = GcraTable(), Rate(1, 1.0)
    table.take(b"a", 1, rate, 0.0)
    for _ in range(100):
        assert table.take(b"a", 1, rate, 0.5)[3] == pytest.approx(0.5)
    assert table.take(b"a", 1, rate, 1.0)[0]


def test_costs() -> None:
    """A cost counts as so many; one over the burst can never be allowed, and says so."""
    table, rate = GcraTable(), Rate(10, 1.0)
    assert table.take(b"a", 7, rate, 0.0) == pytest.approx((True, 3.0, 0.7, 0.0))
    assert table.take(b"a", 5, rate, 0.0) == pytest.approx((False, 3.0, 0.7, 0.2))
    assert table.take(b"a", 11, rate, 0.0)[3] == math.inf
    assert table.take(b"a", 3, rate, 0.0)[0]


def test_giving_back() -> None:
    """A negative cost undoes the take before it, and never makes more than a full bucket."""
    table, rate = GcraTable(), Rate(5, 1.0)
    table.take(b"a", 2, rate, 0.0)
    assert table.take(b"a", -2, rate, 0.0) == (True, 5.0, 0.0, 0.0)
    table.take(b"a", -4, rate, 0.0)
    assert sum(table.take(b"a", 1, rate, 0.0)[0] for _ in range(9)) == 5


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    """After the clock went back by a day, a bucket is empty at most, not locked for a day."""
    table, rate = GcraTable(), Rate(10, 1.0)
    assert table.take(b"a", 10, rate, 90_000.0)[0]
    assert table.take(b"a", 1, rate, 3_600.0) == pytest.approx((False, 0.0, 1.0, 0.1), abs=1e-5)
    assert table.take(b"a", 1, rate, 3_600.1)[0]


@given(rates, steps, STARTS)
def test_no_stretch_of_time_has_more_than_burst_and_rate(
    rate: Rate, taken: list[tuple[float, int]], now: float
) -> None:
    """Whatever comes when, no window of a key holds more than ``burst + rate * t``."""
    table = GcraTable()
    allowed: dict[int, list[float]] = {}
    for pause, key in taken:
        now += pause
        if table.take(b"%d" % key, 1, rate, now)[0]:
            allowed.setdefault(key, []).append(now)
    assert all(within(times, rate) for times in allowed.values())


@given(rates, steps, STARTS, st.integers(1, 4), st.sampled_from(["share", "refuse"]))
def test_a_full_table_never_gives_anybody_a_new_bucket(
    rate: Rate, taken: list[tuple[float, int]], now: float, keys: int, full: str
) -> None:
    """
    In a table with fewer places than keys the same bound holds for every key, across places lost,
    shared and got again; and it never holds more than it may.
    """
    table = GcraTable(keys, "share" if full == "share" else "refuse")
    allowed: dict[int, list[float]] = {}
    for pause, key in taken:
        now += pause
        if table.take(b"%d" % key, 1, rate, now)[0]:
            allowed.setdefault(key, []).append(now)
        assert len(table) <= keys
    assert all(within(times, rate) for times in allowed.values())


@given(rates, steps, STARTS)
def test_a_table_with_room_judges_each_key_alone(
    rate: Rate, taken: list[tuple[float, int]], now: float
) -> None:
    """With room for all, a key's answers are those of a table of its own."""
    table = GcraTable(6)
    alone: dict[int, GcraTable] = {}
    for pause, key in taken:
        now += pause
        own = alone.setdefault(key, GcraTable(1))
        assert table.take(b"k%d" % key, 1, rate, now) == own.take(b"k", 1, rate, now)
    assert table.crowded == 0


@given(rates, st.lists(st.floats(0.0, 2.0), max_size=60), STARTS)
def test_the_wait_is_exact(rate: Rate, pauses: list[float], now: float) -> None:
    """After the seconds that a refusal names it is allowed, and shortly before it is not."""
    table = GcraTable()
    for pause in pauses:
        now += pause
        allowed, _, _, wait = table.take(b"a", 1, rate, now)
        if not allowed:
            early = now + wait - 0.01 * rate.interval - 1e-6
            if early > now:
                assert not table.take(b"a", 1, rate, early)[0]
            now += wait + 1e-6
            assert table.take(b"a", 1, rate, now)[0]


def test_crowding_does_not_reset_a_bucket() -> None:
    """An attacker who floods the table with keys finds his own bucket as empty as he left it."""
    table, rate = GcraTable(100), Rate(1, 10.0, 2)
    assert [table.take(b"me", 1, rate, 0.0)[0] for _ in range(3)] == [True, True, False]
    for number in range(10_000):
        table.take(b"%d" % number, 1, rate, 1.0)
    assert not table.take(b"me", 1, rate, 1.0)[0]
    assert len(table) == 100


def test_new_keys_share_one_bucket_when_no_place_is_free() -> None:
    """Without a free place, all new keys of a rate have one burst together, and are counted."""
    table, rate = GcraTable(2), Rate(1, 10.0, 3)
    table.take(b"a", 1, rate, 0.0)
    table.take(b"b", 1, rate, 0.0)
    assert sum(table.take(b"%d" % number, 1, rate, 0.0)[0] for number in range(50)) == 3
    assert table.crowded == 50
    other = Rate(1, 10.0, 4)
    assert sum(table.take(b"%d" % number, 1, other, 0.0)[0] for number in range(50)) == 4


def test_new_keys_are_refused_when_told_so() -> None:
    """With ``full="refuse"``, a new key waits until a place is free; a known one does not."""
    table, rate = GcraTable(1, "refuse"), Rate(1, 10.0, 2)
    assert table.take(b"a", 1, rate, 0.0)[0]
    assert table.take(b"b", 1, rate, 0.0) == (False, 0.0, 20.0, 10.0)
    assert table.take(b"a", 1, rate, 0.0)[0]
    assert table.take(b"b", 1, rate, 20.0)[0]
    assert b"a" not in table


def test_what_was_shared_is_not_given_again_with_a_place() -> None:
    """A key that emptied the shared bucket gets a place that is just as empty."""
    table, rate = GcraTable(1), Rate(1, 10.0, 2)
    table.take(b"other", 1, rate, 0.0)
    assert [table.take(b"me", 1, rate, 9.0)[0] for _ in range(3)] == [True, True, False]
    assert not table.take(b"me", 1, rate, 10.0)[0]
    assert b"me" in table
    assert table.take(b"me", 1, rate, 19.0)[0]


def test_the_hand_finds_every_bucket_that_is_full_again() -> None:
    """One free place among many is found after a turn of the hand at most."""
    table, rate = GcraTable(80), Rate(1, 10.0)
    for number in range(80):
        table.take(b"%d" % number, 1, rate, 0.0 if number == 40 else 9.0)
    for number in range(10):
        table.take(b"new%d" % number, 1, rate, 10.0)
    assert b"40" not in table
    assert len(table) == 80


@pytest.mark.parametrize(
    ("limit", "period", "burst"),
    [(0, 1, 1), (1, 0, 1), (1, 1, 0.5), (-1, 1, 1), (2_000_001, 1, 1), (1, math.inf, 1)],
)
def test_rates_that_cannot_be(limit: float, period: float, burst: float) -> None:
    """A rate that makes no sense, or is too fast for a clock, is refused."""
    with pytest.raises(ValueError, match=r"rate is|burst is"):
        Rate(limit, period, burst)
    with pytest.raises(ValueError, match="one key"):
        GcraTable(0)


def test_it_is_a_store() -> None:
    """The table is what ``IRateStore`` promises."""
    assert verifyObject(IRateStore, GcraTable())

"""The timer wheel: never early, at most one resolution late, and nothing held afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from meshproxy.net.wheel import TimerWheel
from tests.net.logged import errors

RESOLUTION = 0.05
#: What a sweep waits behind its slot's boundary, with room for rounding.
SLACK = RESOLUTION * 0.002


class Entry:
    """Remembers when it expired; ``following`` are the deadlines that it returns then."""

    def __init__(self, *following: float) -> None:
        self.deadline = 0.0
        self.slot = 0
        self.calls: list[float] = []
        self.following = list(following)

    def expired(self, now: float) -> float:
        """Note the time."""
        self.calls.append(now)
        return self.following.pop(0) if self.following else 0.0


def run(clock: Clock, seconds: float) -> None:
    """Let the time pass, stopping at every call that is due."""
    end = clock.seconds() + seconds
    while clock.calls and clock.calls[0].getTime() <= end:
        clock.advance(max(0.0, clock.calls[0].getTime() - clock.seconds()))
    clock.advance(max(0.0, end - clock.seconds()))


times = st.floats(min_value=0.0, max_value=20.0)


@settings(deadline=None)
@given(st.floats(min_value=0.0, max_value=1e9), st.lists(times, min_size=1, max_size=20))
def test_never_early_and_at_most_one_resolution_late(start: float, delays: list[float]) -> None:
    """Whatever the clock shows and whatever the deadlines are, each is met in its slot."""
    clock = Clock()
    clock.advance(start)
    wheel = TimerWheel(clock, RESOLUTION)
    entries = []
    for delay in delays:
        entry = Entry()
        entries.append((entry, start + delay))
        wheel.arm(entry, start + delay)
    run(clock, 25.0)
    for entry, deadline in entries:
        (called,) = entry.calls
        assert deadline <= called <= max(deadline, start) + RESOLUTION + SLACK
    assert len(wheel) == 0
    assert clock.calls == []


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("arm", "disarm", "pass")), st.integers(0, 4), times),
        max_size=60,
    )
)
def test_any_order_of_arming_disarming_and_waiting(steps: list[tuple[str, int, float]]) -> None:
    """A model that knows only the last deadline of each entry agrees with the wheel."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    entries = [Entry() for _ in range(5)]
    wanted: dict[int, float] = {}

    def settle() -> None:
        now = clock.seconds()
        for number, entry in enumerate(entries):
            if entry.calls:
                (called,) = entry.calls
                assert called >= wanted.pop(number)
                entry.calls.clear()
        assert all(deadline + RESOLUTION + SLACK >= now for deadline in wanted.values())
        assert len(wheel) == len(wanted)

    for step, number, value in steps:
        if step == "arm":
            wanted[number] = clock.seconds() + value
            wheel.arm(entries[number], wanted[number])
        elif step == "disarm":
            wanted.pop(number, None)
            wheel.disarm(entries[number])
        else:
            run(clock, value)
        settle()
    run(clock, 25.0)
    settle()
    assert not wanted
    assert clock.calls == []


def test_a_later_deadline_is_an_attribute() -> None:
    """Moving a deadline later leaves the entry in its slot until the slot comes up."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    entry = Entry()
    wheel.arm(entry, 1.0)
    slot = entry.slot
    wheel.arm(entry, 5.0)
    assert entry.slot == slot
    entry.deadline = 6.0
    run(clock, 1.5)
    assert entry.slot > slot
    assert entry.calls == []
    run(clock, 5.0)
    assert len(entry.calls) == 1


def test_an_earlier_deadline_moves_the_entry() -> None:
    """Moving a deadline earlier is obeyed at once, and the old place is given up."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    entry = Entry()
    wheel.arm(entry, 10.0)
    wheel.arm(entry, 1.0)
    assert len(wheel) == 1
    run(clock, 1.1)
    assert len(entry.calls) == 1
    run(clock, 10.0)
    assert len(entry.calls) == 1


def test_what_expired_returns_is_the_next_deadline() -> None:
    """An entry stays in the wheel as long as it names another deadline."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    entry = Entry(2.0, 3.0)
    wheel.arm(entry, 1.0)
    run(clock, 5.0)
    assert [round(call) for call in entry.calls] == [1, 2, 3]
    assert entry.slot == 0


def test_disarmed_entries_are_not_held() -> None:
    """After disarm the wheel holds no reference; disarming twice is nothing."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    entry = Entry()
    wheel.arm(entry, 1.0)
    wheel.disarm(entry)
    wheel.disarm(entry)
    assert (entry.slot, entry.deadline, len(wheel)) == (0, 0.0, 0)
    ghost = weakref.ref(entry)
    del entry
    gc.collect()
    assert ghost() is None


def test_disarmed_by_another_entry_of_the_same_sweep() -> None:
    """Of two entries that are due together and disarm each other, exactly one expires."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)

    class Rival(Entry):
        other: Entry

        def expired(self, now: float) -> float:
            wheel.disarm(self.other)
            return super().expired(now)

    one, two = Rival(), Rival()
    one.other, two.other = two, one
    wheel.arm(one, 1.0)
    wheel.arm(two, 1.0)
    run(clock, 3.0)
    assert len(one.calls) + len(two.calls) == 1


def test_rearmed_earlier_by_another_entry_of_the_same_sweep() -> None:
    """An entry that is moved while its slot is swept expires once, not once for each place."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)

    class Mover(Entry):
        other: Entry

        def expired(self, now: float) -> float:
            if not self.other.calls:
                wheel.arm(self.other, 0.5)
            return super().expired(now)

    one, two = Mover(), Mover()
    one.other, two.other = two, one
    wheel.arm(one, 1.0)
    wheel.arm(two, 1.0)
    run(clock, 3.0)
    assert (len(one.calls), len(two.calls)) == (1, 1)


def test_slow_entries_hide_no_slots() -> None:
    """Slots that pass while a sweep lasts, and while it puts entries back, are swept after it."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)

    class Slow(Entry):
        def expired(self, now: float) -> float:
            clock.rightNow += 1.0  # the time that the call takes
            super().expired(now)
            return now + 2.0

    slow, other = Slow(), Entry()
    wheel.arm(slow, 0.1)
    wheel.arm(other, 0.5)
    run(clock, 1.5)
    assert len(other.calls) == 1
    wheel.stop()


def test_a_long_stall() -> None:
    """After a stall of hours everything due expires at once, in order of the slots."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    order: list[int] = []

    class Named(Entry):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def expired(self, now: float) -> float:
            order.append(self.number)
            return 0.0

    for number in (3, 1, 2):
        wheel.arm(Named(number), float(number))
    clock.advance(10_000.0)
    assert order == [1, 2, 3]


def test_an_exception_costs_its_entry_alone() -> None:
    """expired() that raises is logged; the other entries of the slot are called."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)

    class Broken(Entry):
        def expired(self, now: float) -> float:
            raise RuntimeError("broken on purpose")

    others = [Entry() for _ in range(10)]
    for entry in (Broken(), *others):
        wheel.arm(entry, 1.0)
    with errors() as logged:
        run(clock, 2.0)
    assert [len(entry.calls) for entry in others] == [1] * 10
    assert [failure.type for failure in logged] == [RuntimeError]
    assert len(wheel) == 0


def test_an_entry_that_arms_itself() -> None:
    """expired() may arm its own entry; what it returns then does not count."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)

    class Again(Entry):
        def expired(self, now: float) -> float:
            if not self.calls:
                wheel.arm(self, now + 1.0)
            return super().expired(now)

    entry = Again()
    wheel.arm(entry, 1.0)
    run(clock, 5.0)
    assert len(entry.calls) == 2
    assert len(wheel) == 0


def test_an_idle_wheel_asks_for_no_call() -> None:
    """Without entries the clock has nothing to do, before the first and after the last."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)
    assert clock.calls == []
    entry = Entry()
    wheel.arm(entry, 1.0)
    assert len(clock.calls) == 1
    wheel.disarm(entry)
    run(clock, 1.0)
    assert clock.calls == []


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_stop(inside: bool) -> None:
    """After stop nothing expires, even from inside a sweep, and nothing can be armed."""
    clock = Clock()
    wheel = TimerWheel(clock, RESOLUTION)

    class Last(Entry):
        def expired(self, now: float) -> float:
            wheel.stop()
            return super().expired(now)

    entries = [Last() for _ in range(5)]
    for entry in entries:
        wheel.arm(entry, 1.0)
    if not inside:
        wheel.stop()
    run(clock, 2.0)
    assert sum(len(entry.calls) for entry in entries) == (1 if inside else 0)
    late = Entry()
    wheel.arm(late, 3.0)
    run(clock, 5.0)
    assert late.calls == []
    assert clock.calls == []

"""The monitors: right, cheap, and never in the way."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from meshproxy.observe.resources import (
    Descriptors,
    LoopLag,
    Memory,
    descriptor_limit,
    memory_limit,
    relieve,
)


class Busy:
    """A clock of the loop and a time that goes on while the loop is busy."""

    def __init__(self) -> None:
        self.time = 100.0
        self.clock = Clock()

    def now(self) -> float:
        """The time."""
        return self.time

    def idle(self, seconds: float) -> None:
        """The loop has nothing to do: what is due comes in time."""
        for _ in range(round(seconds * 100)):
            self.time += 0.01
            self.clock.advance(0.01)

    def work(self, seconds: float) -> None:
        """The loop does something else, and then what became due meanwhile."""
        self.time += seconds
        self.clock.advance(seconds)


def test_the_lag_of_a_loop_that_is_always_late_is_found() -> None:
    """Turns of 300 ms: calls every 50 ms come 250 ms late, and the reading comes near that."""
    busy = Busy()
    lag = LoopLag(busy.clock, 0.05, busy.now)
    lag.start()
    readings = []
    for _ in range(8):
        busy.work(0.3)
        readings.append(lag.read())
    assert readings == sorted(readings)
    assert readings[0] == pytest.approx(0.125)
    assert readings[-1] == pytest.approx(0.25, rel=0.01)
    lag.stop()


def test_one_pause_weighs_half_and_is_forgotten() -> None:
    """After a single second of collecting garbage, say, the reading halves at every look."""
    busy = Busy()
    lag = LoopLag(busy.clock, 0.05, busy.now)
    lag.start()
    busy.work(1.05)
    assert lag.read() == pytest.approx(0.5)
    busy.idle(0.25)
    assert lag.read() == pytest.approx(0.25, abs=0.02)
    for _ in range(10):
        busy.idle(0.25)
        last = lag.read()
    assert last < 0.02
    lag.stop()
    assert busy.clock.getDelayedCalls() == []


def test_a_call_that_is_overdue_counts_before_it_comes() -> None:
    """The reading does not wait for the call: it may be the one that is later still."""
    busy = Busy()
    lag = LoopLag(busy.clock, 0.05, busy.now)
    lag.start()
    busy.time += 0.85
    assert lag.read() == pytest.approx(0.4)
    lag.stop()
    lag.stop()
    assert lag.read() == pytest.approx(0.2)


def test_memory_is_what_is_resident() -> None:
    """It is what the kernel says, and grows by what is written to."""
    memory = Memory()
    memory.start()
    before = memory.read()
    block = bytearray(os.urandom(1) * (64 << 20))
    after = memory.read()
    assert 1 << 20 < before < after
    assert after - before > 48 << 20
    assert len(block) == 64 << 20
    memory.stop()
    memory.stop()


def test_memory_without_its_file(tmp_path: Path) -> None:
    """Elsewhere than on Linux it is the most there ever was; an unreadable file keeps the last."""
    memory = Memory(str(tmp_path / "none"))
    memory.start()
    assert memory.read() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    (tmp_path / "statm").write_text("100 7 1")
    memory = Memory(str(tmp_path / "statm"))
    memory.start()
    assert memory.read() == 7.0 * resource.getpagesize()
    (tmp_path / "statm").write_text("")
    assert memory.read() == 7.0 * resource.getpagesize()
    memory.stop()


def test_descriptors_are_counted() -> None:
    """Opening ten makes ten more."""
    descriptors = Descriptors()
    descriptors.start()
    before = descriptors.read()
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    try:
        if os.stat("/proc/self/fd").st_size:
            assert descriptors.read() == before + 10
        assert Descriptors().read() == before + 10
    finally:
        for number in held:
            os.close(number)
    descriptors.stop()


class _Unsized:
    """The status of a folder on a kernel that does not say how many are in it."""

    st_size = 0


def test_a_listing_is_not_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder has to be listed, that costs a hundredth of the time at most."""
    time = [100.0]
    listed: list[str] = []

    def listing(path: str) -> list[str]:
        listed.append(path)
        time[0] += 0.02
        return [str(number) for number in range(40 + len(listed))]

    monkeypatch.setattr(os, "stat", lambda path: _Unsized)
    monkeypatch.setattr(os, "listdir", listing)
    descriptors = Descriptors("/somewhere", lambda: time[0])
    assert descriptors.read() == 40.0
    time[0] += 1.9
    assert descriptors.read() == 40.0
    time[0] += 0.2
    assert descriptors.read() == 41.0
    assert listed == ["/somewhere"] * 2


def test_no_descriptor_for_the_listing_means_all_are_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listing needs one itself; that it fails says how many there are."""

    def listing(path: str) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "stat", lambda path: _Unsized)
    monkeypatch.setattr(os, "listdir", listing)
    assert Descriptors().read() == descriptor_limit()


def machine() -> float:
    """The machine's memory in bytes."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def groups(root: Path, own: str, limits: dict[str, str]) -> None:
    """A /proc and a /sys with these control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("", {}, None),
        ("0::/\n", {"memory.max": "1000000\n"}, 1000000.0),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "70000\n"}, 70000.0),
        ("0::/a/b\n", {"a/b/memory.max": "50000\n", "a/memory.max": "70000\n"}, 50000.0),
        ("0::/outside\n", {"memory.max": "90000\n"}, 90000.0),
        ("4:cpu:/\n5:memory:/x\n", {"memory/x/memory.limit_in_bytes": "80000\n"}, 80000.0),
        ("5:memory:/x\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": "garbage"}, None),
        ("nonsense\n", {"memory.max": "0\n"}, None),
    ],
)
def test_the_limit_of_memory(
    tmp_path: Path, own: str, limits: dict[str, str], expected: float | None
) -> None:
    """The least of the control groups' limits, of either version, and of the machine's memory."""
    groups(tmp_path, own, limits)
    assert memory_limit(tmp_path) == (machine() if expected is None else expected)


def test_the_limit_of_memory_without_control_groups(tmp_path: Path) -> None:
    """It is the machine's."""
    assert memory_limit(tmp_path) == machine()
    assert 0 < memory_limit() <= machine()


def test_relief_collects_what_only_cycles_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage in cycles is gone afterwards; a C library without malloc_trim is no error."""

    class Node:
        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            gone.append(True)

    gone: list[bool] = []
    Node()
    relieve()
    assert gone == [True]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    relieve()

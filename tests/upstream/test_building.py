"""The yard: tables built beside the work, a slice at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python import log

from meshproxy.net.wheel import TimerWheel
from meshproxy.upstream.building import Yard


class House:
    """Something of three slices."""

    def __init__(self, seen: list[str], name: str, broken: bool = False) -> None:
        self.seen = seen
        self.name = name
        self.broken = broken
        self.building = self.build()

    def build(self) -> Iterator[None]:
        for number in range(2):
            self.seen.append(f"{self.name}{number}")
            if self.broken:
                raise ValueError(self.name)
            yield


class World:
    """A yard and what it did."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.yard = Yard(self.wheel)
        self.seen: list[str] = []

    def ask(self, name: str, key: object = None, broken: bool = False) -> None:
        """Ask for a house."""

        def done(house: House) -> None:
            self.seen.append(f"{house.name} done")

        self.yard.ask(key or name, lambda: House(self.seen, name, broken), done)

    def turn(self, times: int = 1) -> None:
        """A sweep of the wheel."""
        for _ in range(times):
            self.clock.advance(0.05)


def test_a_slice_a_sweep() -> None:
    """Nothing is done at once, then one slice each time, and nothing is left on the clock."""
    world = World()
    world.ask("a")
    assert world.seen == []
    seen = []
    for _ in range(6):
        world.turn()
        seen.append(len(world.seen))
    assert world.seen == ["a0", "a1", "a done"]
    assert all(after - before <= 1 for before, after in zip([0, *seen], seen, strict=False))
    assert len(world.yard) == len(world.wheel) == 0
    assert not world.clock.getDelayedCalls()


def test_one_after_the_other() -> None:
    """In the order of asking; the next begins when the last is done."""
    world = World()
    world.ask("a")
    world.ask("b")
    assert world.yard.holds("a")
    assert world.yard.holds("b")
    assert len(world.yard) == 2
    world.turn(20)
    assert world.seen == ["a0", "a1", "a done", "b0", "b1", "b done"]
    assert not world.yard.holds("a")


def test_asked_again() -> None:
    """Before it began the new replaces the old; after, the old is finished first."""
    world = World()
    world.ask("old", key=1)
    world.ask("new", key=1)
    world.turn(2)
    world.ask("newer", key=1)
    world.turn(20)
    assert world.seen == ["new0", "new1", "new done", "newer0", "newer1", "newer done"]


def test_forgotten() -> None:
    """What has not begun never does."""
    world = World()
    world.ask("a")
    world.ask("b")
    world.yard.forget("a")
    world.yard.forget("unknown")
    world.turn(20)
    assert world.seen == ["b0", "b1", "b done"]


def test_an_exception_costs_what_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and the others are built."""
    logged: list[Any] = []
    monkeypatch.setattr(log, "err", lambda *args: logged.append(args))
    world = World()
    world.ask("bad", broken=True)
    world.ask("good")
    world.turn(20)
    assert len(logged) == 1
    assert world.seen == ["bad0", "good0", "good1", "good done"]


def test_stop() -> None:
    """Nothing is built any more, and the clock is left alone."""
    world = World()
    world.ask("a")
    world.ask("b")
    world.turn(2)
    world.yard.stop()
    seen = list(world.seen)
    world.turn(20)
    assert world.seen == seen
    assert len(world.yard) == 0
    assert not world.clock.getDelayedCalls()

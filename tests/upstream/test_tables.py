"""Tables of hashes: there is one at any time, and none is built at one go at run time."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from meshproxy.net.wheel import TimerWheel
from meshproxy.upstream.building import Yard
from meshproxy.upstream.hashing import rehash
from meshproxy.upstream.maglev import Maglev
from meshproxy.upstream.ring import Ring
from meshproxy.upstream.tables import TABLES, Table
from tests.upstream.made import endpoints

KEYS = [rehash(number, 1) for number in range(500)]


class World:
    """A yard, and how often a table said that it was ready."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.yard = Yard(TimerWheel(self.clock))
        self.ready = 0

    def count(self) -> None:
        """A table is ready."""
        self.ready += 1

    def turn(self, times: int = 100) -> None:
        """Sweeps of the wheel."""
        for _ in range(times):
            self.clock.advance(0.05)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_old_serves_until_the_new_is_complete(name: str) -> None:
    """New endpoints get nothing before, those that are gone nothing at any time."""
    world = World()
    a, b, c = endpoints(1, 1, 1)
    table = Table(name, (a, b), world.yard, world.count, True)
    before = [table.pick_by(key) for key in KEYS]
    assert set(before) == {a, b}
    a.usable = False
    table.tell((b, c))
    assert table.describe() == "rebuilding"
    assert {table.pick_by(key) for key in KEYS} == {b}
    world.turn(2)
    assert {table.pick_by(key) for key in KEYS} == {b}
    world.turn()
    assert {table.pick_by(key) for key in KEYS} == {b, c}
    assert (table.describe(), world.ready) == ("ready", 1)


def test_nothing_new_nothing_built() -> None:
    """The same endpoints and weights, whatever their health; a weight makes a difference."""
    world = World()
    held = tuple(endpoints(1, 1))
    table = Table("ring_hash", held, world.yard, world.count, True)
    held[0].healthy = held[0].usable = False
    table.tell(held)
    assert len(world.yard) == 0
    held[0].weight = 2
    table.tell(held)
    assert len(world.yard) == 1


@pytest.mark.parametrize(("name", "kind"), [("ring_hash", Ring), ("maglev", Maglev)])
def test_a_table_that_appears_at_run_time(name: str, kind: type) -> None:
    """A coarse ring stands in until it is built beside the work."""
    world = World()
    held = tuple(endpoints(1, 1, 1))
    table = Table(name, held, world.yard, world.count, False)
    assert {table.pick_by(key) for key in KEYS} == set(held)
    world.turn()
    assert world.ready == 1
    whole = kind(held)
    assert [table.pick_by(key) for key in KEYS] == [whole.pick_by(key) for key in KEYS]


def test_forgotten() -> None:
    """Nothing is built for it, and nobody is told."""
    world = World()
    waiting = Table("ring_hash", endpoints(1), world.yard, world.count, False)
    waiting.forget()
    assert len(world.yard) == 0
    begun = Table("ring_hash", endpoints(1), world.yard, world.count, False)
    world.turn(2)
    begun.forget()
    world.turn()
    assert world.ready == 0

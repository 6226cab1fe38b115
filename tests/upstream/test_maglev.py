"""Maglev: shares, and how few keys move."""

from __future__ import annotations

from collections import Counter

import pytest
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IHashBalancer
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.hashing import rehash
from meshproxy.upstream.maglev import SIZE, Maglev
from tests.upstream.made import endpoints

KEYS = [rehash(number, 1) for number in range(20_000)]


def test_it_is_a_hash_balancer() -> None:
    """It provides the interface; another process would build the same table."""
    held = endpoints(1, 1, 1)
    table = Maglev(held)
    assert verifyObject(IHashBalancer, table)
    assert table._table == Maglev(held)._table


def test_every_place_is_filled_evenly() -> None:
    """With equal weights within one place."""
    held = endpoints(*[7] * 10)
    count = Counter(Maglev(held)._table)
    assert sum(count.values()) == SIZE == 65537
    assert max(count.values()) - min(count.values()) <= 1


def test_places_follow_the_weights() -> None:
    """Within two places of the share, for very different weights, too."""
    held = endpoints(1, 2, 100, 1000, 33)
    count = Counter(Maglev(held)._table)
    for endpoint in held:
        assert abs(count[endpoint] - SIZE * endpoint.weight / 1136) <= 2


def test_one_that_leaves_moves_few_keys() -> None:
    """Of ten one leaves: its tenth moves, and at most 5 % of the others' keys beside."""
    held = endpoints(*[1] * 10)
    before, after = Maglev(held), Maglev(held[:-1])
    moved = kept = 0
    for key in KEYS:
        old, new = before.pick_by(key), after.pick_by(key)
        if old is held[-1]:
            continue
        kept += 1
        moved += new is not old
    assert len(KEYS) - kept <= len(KEYS) / 10 * 1.1
    assert moved <= kept * 0.05


def test_health_moves_no_key_of_the_others() -> None:
    """The keys of an unusable endpoint go to all others, and come back with it."""
    held = endpoints(*[1] * 5)
    table = Maglev(held)
    before = [table.pick_by(key) for key in KEYS]
    held[2].usable = False
    taken: Counter[Endpoint | None] = Counter()
    for key, old in zip(KEYS, before, strict=True):
        new = table.pick_by(key)
        if old is held[2]:
            taken[new] += 1
        else:
            assert new is old
    assert set(taken) == set(held) - {held[2]}
    assert max(taken.values()) <= 1.2 * len(KEYS) / 5 / 4
    held[2].usable = True
    assert [table.pick_by(key) for key in KEYS] == before


def test_the_only_usable_one_is_found() -> None:
    """However few there are; and None when there is none."""
    held = endpoints(*[1] * 100)
    table = Maglev(held)
    for endpoint in held:
        endpoint.usable = endpoint is held[42]
    assert {table.pick_by(key) for key in KEYS[:200]} == {held[42]}
    held[42].usable = False
    assert table.pick_by(KEYS[0]) is None


@pytest.mark.parametrize("weighing", [(1,), (1, 1, 1), (5, 1, 3)])
def test_it_is_built_in_slices(weighing: tuple[int, ...]) -> None:
    """Nothing is ready before the end, and the slices are many."""
    table = Maglev(endpoints(*weighing), at_once=False)
    assert not table._table
    assert sum(1 for _ in table.building) >= 8
    assert len(table._table) == SIZE

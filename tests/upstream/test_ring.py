"""The ring: shares, and how few keys move."""

from __future__ import annotations

from collections import Counter

import pytest
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IHashBalancer
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.hashing import rehash
from meshproxy.upstream.ring import Ring, first_usable, points_of_heaviest
from tests.upstream.made import endpoints

KEYS = [rehash(number, 1) for number in range(20_000)]


def test_it_is_a_hash_balancer() -> None:
    """It provides the interface, and answers the same for the same number."""
    held = endpoints(1, 1, 1)
    ring = Ring(held)
    assert verifyObject(IHashBalancer, ring)
    again = Ring(tuple(reversed(held)))
    assert all(ring.pick_by(key) is again.pick_by(key) for key in KEYS)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 300, 1024, 1025])
def test_there_are_enough_points(count: int) -> None:
    """At least 1024, and not more than a table of Maglev's would hold."""
    ring = Ring(endpoints(*[1] * count))
    assert 1024 <= len(ring._points) == count * points_of_heaviest(count) <= 65_600
    assert ring._points == sorted(ring._points)
    assert len(ring._owners) == len(ring._points) + 1


def test_every_number_has_an_endpoint() -> None:
    """The ends of the range, too: behind the last point comes the first."""
    ring = Ring(endpoints(1, 1, 1))
    first, last = ring._owners[0], ring._owners[-2]
    assert first is not last
    assert ring.pick_by(ring._points[-1] - 1) is last
    assert ring.pick_by(2**64 - 1) is first
    for number in (0, 1, ring._points[0], ring._points[-1], ring._points[-1] + 1, 2**64 - 1):
        assert ring.pick_by(number) is not None


def test_shares_follow_the_weights() -> None:
    """By the points, within 15 % of the share (their hashes are fixed, so it always holds)."""
    held = endpoints(1, 2, 4, 1)
    ring = Ring(held)
    count = Counter(ring.pick_by(key) for key in KEYS)
    for endpoint in held:
        share = len(KEYS) * endpoint.weight / 8
        assert count[endpoint] == pytest.approx(share, rel=0.15)


def test_one_that_leaves_moves_its_own_keys_only() -> None:
    """Of ten one leaves: about a tenth of the keys move, and none of the others' at all."""
    held = endpoints(*[1] * 10)
    before, after = Ring(held), Ring(held[:-1])
    moved = 0
    for key in KEYS:
        old, new = before.pick_by(key), after.pick_by(key)
        if old is held[-1]:
            moved += 1
        else:
            assert new is old
    assert moved <= len(KEYS) / 10 * 1.2


def test_one_of_another_weight_that_leaves() -> None:
    """The same with weights, as long as the greatest stays."""
    held = endpoints(3, 1, 2, 3, 1)
    before, after = Ring(held), Ring([held[0], *held[2:]])
    for key in KEYS:
        if before.pick_by(key) is not held[1]:
            assert after.pick_by(key) is before.pick_by(key)


def test_health_moves_no_key_of_the_others() -> None:
    """The keys of an unusable endpoint go to the next ones, and come back with it."""
    held = endpoints(*[1] * 5)
    ring = Ring(held)
    before = [ring.pick_by(key) for key in KEYS]
    held[2].usable = False
    taken: Counter[Endpoint | None] = Counter()
    for key, old in zip(KEYS, before, strict=True):
        new = ring.pick_by(key)
        if old is held[2]:
            taken[new] += 1
        else:
            assert new is old
    # Not one neighbour bears it all.
    assert set(taken) == set(held) - {held[2]}
    held[2].usable = True
    assert [ring.pick_by(key) for key in KEYS] == before


def test_it_goes_on_as_the_ring_without_the_unusable() -> None:
    """Passing over an endpoint is what a ring without it would answer."""
    held = endpoints(*[1] * 5)
    ring, smaller = Ring(held), Ring(held[1:])
    held[0].usable = False
    assert all(ring.pick_by(key) is smaller.pick_by(key) for key in KEYS)


def test_the_only_usable_one_is_found() -> None:
    """However far it is; and None when there is none."""
    held = endpoints(*[1] * 300)
    ring = Ring(held)
    for endpoint in held:
        endpoint.usable = endpoint is held[123]
    assert {ring.pick_by(key) for key in KEYS[:200]} == {held[123]}
    held[123].usable = False
    assert ring.pick_by(KEYS[0]) is None


def test_a_light_endpoint_has_a_point() -> None:
    """One of a thousandth is on the ring, too."""
    held = endpoints(1000, 1)
    assert held[1] in Ring(held)._owners


def test_it_is_built_in_slices() -> None:
    """Nothing is ready before the end; a thousand endpoints take many slices."""
    ring = Ring(endpoints(*[1] * 1000), at_once=False)
    assert not ring._owners
    assert sum(1 for _ in ring.building) >= 32
    assert ring.pick_by(5) is not None


def test_first_usable() -> None:
    """Each place of beginning finds the next usable one, around the end."""
    held = endpoints(1, 1, 1, 1)
    held[0].usable = held[3].usable = False
    found = [first_usable(held, number) for number in range(4)]
    assert found == [held[1], held[1], held[2], held[1]]

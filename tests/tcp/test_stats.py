"""The slots of a listener."""

from __future__ import annotations

from meshproxy.observe.registry import Registry
from meshproxy.tcp.stats import ListenerStats


def test_slots() -> None:
    """Every statistic has a slot of its own, and a reload finds the same ones."""
    registry = Registry()
    one, two = ListenerStats(registry, "in"), ListenerStats(registry, "in")
    names = [name for name in ListenerStats.__slots__ if name != "values"]
    slots = [getattr(one, name) for name in names]
    assert len(set(slots)) == len(names)
    assert slots == [getattr(two, name) for name in names]
    assert one.values is registry.values

"""Slots: contiguous, stable, summed over processes."""

from __future__ import annotations

import struct
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.observe.registry import DURATION_BOUNDS, Registry

NUMBERS = st.floats(-1e6, 1e6)
BOUNDS = st.lists(st.floats(-100, 100), min_size=1, max_size=8, unique=True).map(sorted)


def test_a_slot_is_an_index_of_values_for_ever() -> None:
    """The list that a hot path holds is the one that later registrations extend."""
    registry = Registry()
    values = registry.values
    first = registry.counter("a_total", "A", {"listener": "web"})
    values[first] += 1
    second = registry.gauge("b", "B", {})
    values[second] -= 2
    assert registry.values is values
    assert values == [1, -2]


def test_asked_twice_is_one_slot() -> None:
    """A reload finds the numbers that it made before, of every kind."""
    registry = Registry()

    def ask() -> tuple[object, ...]:
        return (
            registry.counter("a_total", "A", {"x": "1"}),
            registry.gauge("b", "B", {"x": "1"}),
            registry.histogram("c_seconds", "C", DURATION_BOUNDS, {"x": "1"}),
            registry.block("counter", [("d_total", "D"), ("e_total", "E")], {"x": "1"}),
            registry.vector("counter", "f_total", "F", {"x": "1"}, "class", ["2xx", "5xx"]),
        )

    first = ask()
    size = len(registry.values)
    assert ask() == first
    assert len(registry.values) == size


def test_a_group_is_contiguous() -> None:
    """One base reaches every slot of a block and of a vector."""
    registry = Registry()
    registry.counter("first_total", "", {})
    base = registry.block("gauge", [("a", ""), ("b", ""), ("c", "")], {"x": "1"})
    vector = registry.vector("counter", "d_total", "", {"x": "1"}, "class", ["1xx", "2xx"])
    slots = {family.name: list(family.series.values()) for family in registry.families}
    assert [slots[name] for name in ("a", "b", "c")] == [[base], [base + 1], [base + 2]]
    assert slots["d_total"] == [vector, vector + 1]


def test_the_first_help_text_stays() -> None:
    """Rooms that count the same thing may word it differently."""
    registry = Registry()
    assert registry.gauge("a", "one", {}) == registry.gauge("a", "two", {})
    assert [family.help for family in registry.families] == ["one"]


@pytest.mark.parametrize(
    ("kind", "name", "labels"),
    [
        ("counter", "a", {}),
        ("gauge", "a_total", {}),
        ("gauge", "a-b", {}),
        ("gauge", "", {}),
        ("gauge", "a_bucket", {}),
        ("gauge", "a_count", {}),
        ("gauge", "a", {"le": "1"}),
        ("gauge", "a", {"__a": "1"}),
        ("gauge", "a", {"b-c": "1"}),
        ("gauge", "held", {}),
        ("gauge", "held_total", {"x": "1"}),
        ("counter", "held_total", {"y": "1"}),
    ],
)
def test_ambiguous_names_are_refused(kind: str, name: str, labels: dict[str, str]) -> None:
    """What an exposition could not tell apart raises ValueError, and leaves no slot behind."""
    registry = Registry()
    registry.counter("held_total", "", {"x": "1"})
    ask = registry.counter if kind == "counter" else registry.gauge
    with pytest.raises(ValueError, match=r"."):
        ask(name, "", labels)
    assert len(registry.values) == 1
    assert len(list(registry.families)) == 1


def test_half_a_known_block_is_refused() -> None:
    """A block cannot be contiguous when a part of it is elsewhere already."""
    registry = Registry()
    registry.gauge("a", "", {})
    with pytest.raises(ValueError, match="not as this block"):
        registry.block("gauge", [("b", ""), ("a", "")], {})
    with pytest.raises(ValueError, match="twice"):
        registry.block("gauge", [("c", ""), ("c", "")], {})
    with pytest.raises(ValueError, match="no slots"):
        registry.block("gauge", [], {})
    assert len(registry.values) == 1


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_bad_bounds_are_refused(bounds: tuple[float, ...]) -> None:
    """A histogram's bounds are finite and grow."""
    with pytest.raises(ValueError, match="bounds"):
        Registry().histogram("a", "", bounds, {})


@given(BOUNDS, st.lists(NUMBERS, max_size=50))
def test_histogram_law(bounds: list[float], observed: list[float]) -> None:
    """Each number is in the first bucket whose bound it does not exceed; the sum is the sum."""
    registry = Registry()
    registry.gauge("before", "", {})
    histogram = registry.histogram("a", "", bounds, {})
    after = registry.gauge("after", "", {})
    for number in observed:
        histogram.observe(registry.values, number)
    counts = registry.values[histogram.base : histogram.sum_slot]
    assert sum(counts) == len(observed)
    for number, bound in enumerate(bounds):
        assert sum(counts[: number + 1]) == sum(x <= bound for x in observed)
    assert registry.values[histogram.sum_slot] == pytest.approx(sum(observed), abs=1e-3)
    assert registry.values[0] == registry.values[after] == 0


def test_the_hot_path_is_what_observe_does() -> None:
    """The two statements of the docstring count as the method does."""
    registry = Registry()
    histogram = registry.histogram("a", "", (1.0, 2.0), {})
    values = registry.values
    values[histogram.base + bisect_left(histogram.bounds, 2.0)] += 1
    values[histogram.sum_slot] += 2.0
    written = values[:]
    values[:] = [0, 0, 0, 0.0]
    histogram.observe(values, 2.0)
    assert values == written


def test_samples_are_read_when_looked_at() -> None:
    """A sample costs nothing until refreshed, and a reload replaces its reader."""
    registry = Registry()
    slot = registry.sample("a", "", {}, lambda: 3.0)
    assert registry.values[slot] == 0
    registry.refresh()
    assert registry.values[slot] == 3
    assert registry.sample("a", "", {}, lambda: 4.0) == slot
    registry.refresh()
    assert registry.values[slot] == 4


def filled(numbers: list[float]) -> Registry:
    """A registry whose slots hold ``numbers``."""
    registry = Registry()
    for number, value in enumerate(numbers):
        registry.values[registry.gauge(f"g{number}", "", {"x": "1"})] = value
    return registry


def snapshot_of(registry: Registry) -> memoryview:
    """A buffer with its snapshot."""
    buffer = memoryview(bytearray(registry.size))
    registry.snapshot(buffer)
    return buffer


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n))))
def test_snapshots_are_summed(processes: list[list[float]]) -> None:
    """Totals are, slot by slot, the sum of what the processes counted."""
    width = len(processes[0]) if processes else 0
    reader = filled([0.0] * width)
    totals = [0.0] * width
    for numbers in processes:
        assert reader.sum_into(totals, snapshot_of(filled(numbers)))
    expected = [sum(column) for column in zip(*processes, strict=True)] or totals
    assert totals == pytest.approx(expected)


@given(st.lists(NUMBERS, max_size=6), st.integers(0, 64))
def test_a_snapshot_is_exact_and_stays_in_its_place(numbers: list[float], spare: int) -> None:
    """Every double comes back as it was; bytes behind the snapshot are not touched."""
    registry = filled(numbers)
    buffer = bytearray(b"\xaa" * (registry.size + spare))
    buffer[:8] = bytes(8)
    registry.snapshot(memoryview(buffer))
    totals: list[float] = [0.0] * len(numbers)
    assert registry.sum_into(totals, memoryview(buffer))
    assert totals == numbers
    assert buffer[registry.size :] == b"\xaa" * spare


def test_a_snapshot_under_way_is_not_summed() -> None:
    """An odd sequence number says that a writer is at work: nothing is added."""
    registry = filled([1.0])
    buffer = snapshot_of(registry)
    (sequence,) = struct.unpack_from("=Q", buffer)
    struct.pack_into("=Q", buffer, 0, sequence + 1)
    totals = [5.0]
    assert registry.sum_into(totals, buffer) is False
    assert totals == [5.0]
    registry.snapshot(buffer)
    assert registry.sum_into(totals, buffer) is True
    assert totals == [6.0]


def test_another_layout_is_refused() -> None:
    """A snapshot of other names, or none at all, is never added."""
    registry = filled([1.0, 2.0])
    other = Registry()
    other.block("gauge", [("g1", ""), ("g0", "")], {"x": "1"})
    totals = [0.0, 0.0]
    for buffer in (snapshot_of(other), memoryview(bytearray(registry.size)), memoryview(b"")):
        with pytest.raises(ValueError, match=r"layout|short"):
            registry.sum_into(totals, buffer)
    with pytest.raises(ValueError, match="totals"):
        registry.sum_into([0.0], snapshot_of(registry))
    with pytest.raises(ValueError, match="bytes"):
        registry.snapshot(memoryview(bytearray(registry.size - 1)))
    assert totals == [0.0, 0.0]


def test_a_snapshot_reads_samples() -> None:
    """Other processes see what a sample reads at the time."""
    registry = Registry()
    registry.sample("a", "", {}, lambda: 7.0)
    totals = [0.0]
    assert registry.sum_into(totals, snapshot_of(registry))
    assert totals == [7.0]

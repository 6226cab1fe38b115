"""How traffic is spread: the worked examples of Envoy's documentation, and what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream.spread import Level, health, local_share, priority_loads, ramp


def levels(*percents: int) -> list[Level]:
    """Priorities of a hundred endpoints of which so many are well."""
    return [Level(100, percent, 100) for percent in percents]


@pytest.mark.parametrize(
    ("percents", "loads"),
    [
        ((100,), (100,)),
        ((72,), (100,)),
        ((100, 100), (100, 0)),
        ((72, 72), (100, 0)),
        ((71, 71), (99, 1)),
        ((50, 50), (70, 30)),
        ((25, 100), (35, 65)),
        ((25, 25), (50, 50)),
        ((25, 20), (56, 44)),
        ((100, 100, 100), (100, 0, 0)),
        ((72, 72, 100), (100, 0, 0)),
        ((71, 71, 100), (99, 1, 0)),
        ((50, 50, 100), (70, 30, 0)),
        ((50, 25, 100), (70, 30, 0)),
        ((25, 25, 100), (35, 35, 30)),
        ((25, 25, 20), (36, 36, 28)),
    ],
)
def test_priority_levels_of_envoy(percents: tuple[int, ...], loads: tuple[int, ...]) -> None:
    """The tables of "Priority levels", within the rounding of whole per cent."""
    # No panic in these: they are about loads alone.
    shares, panics = priority_loads(levels(*percents), 1.4, 0)
    assert not any(panics)
    assert [100 * share for share in shares] == pytest.approx(loads, abs=1.0)


@pytest.mark.parametrize(
    ("percents", "loads", "panics"),
    [
        ((72, 72), (100, 0), (False, False)),
        ((71, 71), (99, 1), (False, False)),
        ((50, 60), (70, 30), (False, False)),
        ((25, 100), (35, 65), (False, False)),
        ((25, 25), (50, 50), (True, True)),
        ((5, 65), (7, 93), (True, False)),
    ],
)
def test_panic_thresholds_of_envoy(
    percents: tuple[int, ...], loads: tuple[int, ...], panics: tuple[bool, ...]
) -> None:
    """The table of "Panic threshold", at its 50 %."""
    spread = priority_loads(levels(*percents), 1.4, 50)
    assert [100 * share for share in spread.shares] == pytest.approx(loads, abs=1.0)
    assert tuple(spread.panics) == panics


def test_total_panic_loads_by_size() -> None:
    """When all panic, a priority gets what its endpoints are of all."""
    spread = priority_loads([Level(10, 0, 10), Level(30, 0, 30)], 1.4, 50)
    assert spread.shares == [0.25, 0.75]


def test_open_breakers_are_not_used_in_a_panic() -> None:
    """A priority with none to use gets no load; nobody at all is loaded when none has any."""
    assert priority_loads([Level(4, 0, 0), Level(4, 0, 2)], 1.4, 50).shares == [0.0, 1.0]
    assert priority_loads([Level(4, 0, 0), Level(4, 1, 2)], 1.4, 50).shares == [0.0, 1.0]
    assert priority_loads([Level(4, 0, 0)], 1.4, 50).shares == [0.0]


def test_without_a_panic_threshold_checks_are_always_believed() -> None:
    """0: nobody panics, and nobody gets traffic where nobody is well."""
    assert priority_loads(levels(0, 0), 1.4, 0) == ([0.0, 0.0], [False, False])
    assert priority_loads(levels(1, 0), 1.4, 0) == ([1.0, 0.0], [False, False])


def test_no_endpoints_no_load() -> None:
    """Empty priorities, and none at all."""
    assert priority_loads([], 1.4, 50) == ([], [])
    assert priority_loads([Level(0, 0, 0), Level(2, 2, 2)], 1.4, 50).shares == [0.0, 1.0]


@st.composite
def any_levels(draw: st.DrawFn) -> list[Level]:
    """Priorities with well ≤ closed ≤ total."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        total = draw(st.integers(0, 50))
        closed = draw(st.integers(0, total))
        found.append(Level(total, draw(st.integers(0, closed)), closed))
    return found


@given(any_levels(), st.floats(1.0, 10.0), st.floats(0.0, 100.0))
def test_what_holds_for_all(given: list[Level], factor: float, threshold: float) -> None:
    """Loads are never negative, sum to 1 where anybody may be used, and go to nobody without."""
    shares, panics = priority_loads(given, factor, threshold)
    assert all(share >= 0 for share in shares)
    usable = [
        level.closed if panic else level.well for level, panic in zip(given, panics, strict=True)
    ]
    assert sum(shares) == pytest.approx(1.0 if any(usable) else 0.0)
    for share, count in zip(shares, usable, strict=True):
        assert count or not share


def test_zones() -> None:
    """All stays local while enough is well there; what lacks goes to others that are."""
    assert local_share(Level(4, 3, 4), 5, 1.4) == 1.0
    assert local_share(Level(4, 2, 4), 5, 1.4) == pytest.approx(0.7)
    assert local_share(Level(4, 2, 4), 0, 1.4) == 1.0
    assert local_share(Level(4, 0, 4), 5, 1.4) == 0.0
    assert local_share(Level(0, 0, 0), 5, 1.4) == 0.0


def test_health() -> None:
    """Overprovisioned, and at most 1."""
    assert health(1, 2, 1.4) == pytest.approx(0.7)
    assert health(5, 7, 1.4) == pytest.approx(1.0)
    assert health(2, 2, 1.4) == 1.0
    assert health(0, 0, 1.4) == 0.0


def test_ramp() -> None:
    """Envoy's formula: even at aggression 1, faster at first with more, never below least."""
    assert [ramp(t, 10.0, 1.0, 0.1) for t in (0, 0.5, 5, 10, 11)] == [0.1, 0.1, 0.5, 1.0, 1.0]
    assert ramp(2.5, 10.0, 2.0, 0.1) == pytest.approx(0.5)
    assert ramp(-1.0, 10.0, 2.0, 0.1) == 0.1
    assert ramp(float("inf"), 10.0, 1.0, 0.1) == 1.0

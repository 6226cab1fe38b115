"""The arithmetic of rounds and ratios."""

from __future__ import annotations

import pytest

from tests.benchmarks.figures import Column, Report, Sample, interleave, order, ratios


def _report(samples: dict[str, list[Sample]]) -> Report:
    reference = next(iter(samples))
    return Report("http", "", reference, (Column("cost", "µs"),), samples, {}, {}, {})


def test_order_is_reversed_every_other_round() -> None:
    """A drift of the machine within a round falls on both ends of the list alike."""
    assert order(["a", "b", "c"], 0) == ["a", "b", "c"]
    assert order(["a", "b", "c"], 1) == ["c", "b", "a"]
    assert order(["a", "b", "c"], 2) == ["a", "b", "c"]


def test_interleave_measures_each_proxy_once_in_each_round() -> None:
    """Samples come by proxy, in the order of rounds, though rounds alternate."""
    asked: list[tuple[str, int]] = []

    def measure(name: str, round_number: int) -> Sample:
        asked.append((name, round_number))
        return {"cost": float(round_number)}

    samples = interleave(["a", "b"], 3, measure)
    assert asked == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert samples == {name: [{"cost": 0.0}, {"cost": 1.0}, {"cost": 2.0}] for name in "ab"}


def test_ratios_stay_within_their_round() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    ours: list[Sample] = [{"cost": 10.0}, {"cost": 20.0}]
    theirs: list[Sample] = [{"cost": 20.0}, {"cost": 40.0}]
    assert ratios(ours, theirs) == [0.5, 0.5]


def test_ratios_of_unequal_rounds_are_refused() -> None:
    """A round that one proxy lacks cannot be compared."""
    with pytest.raises(ValueError, match="is longer than"):
        ratios([{"cost": 1.0}], [{"cost": 1.0}, {"cost": 2.0}])


def test_report_medians_and_ratios_are_against_the_reference() -> None:
    """The reference has no ratio to itself; each peer has one a round."""
    report = _report(
        {"meshproxy": [{"cost": 1.0}, {"cost": 9.0}, {"cost": 2.0}], "envoy": [{"cost": 4.0}] * 3}
    )
    assert report.medians("meshproxy") == {"cost": 2.0}
    assert report.ratios() == {"envoy": [0.25, 2.25, 0.5]}

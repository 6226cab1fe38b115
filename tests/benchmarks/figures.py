"""From rounds of samples to figures: medians, ratios within rounds, and one report a scenario.

A sample is what one proxy did in one round, by name; ``cost`` is always there and is what ratios
are made of.  A ratio never mixes rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Sample = dict[str, float]
Samples = dict[str, list[Sample]]
COST = "cost"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a sample: its key, its heading with the unit, its decimal places."""

    key: str
    title: str
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """All that one scenario found; ratios are the ``reference``'s to each other proxy."""

    scenario: str
    description: str
    reference: str
    columns: tuple[Column, ...]
    samples: Samples
    versions: Mapping[str, str]
    skipped: Mapping[str, str]
    goals: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def medians(self, proxy: str) -> Sample:
        """Every figure's median over the rounds."""
        rounds = self.samples[proxy]
        return {
            column.key: median(sample[column.key] for sample in rounds) for column in self.columns
        }

    def ratios(self) -> dict[str, list[float]]:
        """The reference's cost divided by each peer's, round by round."""
        return {
            peer: ratios(self.samples[self.reference], rounds)
            for peer, rounds in self.samples.items()
            if peer != self.reference
        }


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Cost against cost within each round; raises ValueError when the rounds do not pair up."""
    return [mine[COST] / other[COST] for mine, other in zip(ours, theirs, strict=True)]


def order(names: Sequence[str], round_number: int) -> list[str]:
    """The order of one round: forwards in even rounds, backwards in odd ones."""
    return list(names) if round_number % 2 == 0 else list(reversed(names))


def interleave(names: Sequence[str], rounds: int, measure: Callable[[str, int], Sample]) -> Samples:
    """Measure each proxy in every round, the order reversed every other round."""
    samples: Samples = {name: [] for name in names}
    for round_number in range(rounds):
        for name in order(names, round_number):
            samples[name].append(measure(name, round_number))
    return samples

"""
Which endpoints do much worse than they ought to, by an interval's share of successes.

The law it keeps: an endpoint with few requests is neither judged nor a measure for the others, and
where few have enough of them nobody is judged. The arithmetic is that of Envoy's outlier detection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.config.breaker import FailurePercentage, SuccessRate
    from meshproxy.upstream.endpoint import Endpoint

    #: An endpoint, its requests in the interval, and how many of them in percent were successes.
    Rate = tuple[Endpoint, int, float]


def below_the_others(rates: Sequence[Rate], config: SuccessRate) -> Iterator[tuple[Endpoint, str]]:
    """
    Yield, with details for the log, those below the mean of all by more than ``deviations``
    standard deviations (of the population).
    """
    judged = [(endpoint, rate) for endpoint, n, rate in rates if n >= config.min_requests]
    if len(judged) < config.min_endpoints:
        return
    mean = sum(rate for _, rate in judged) / len(judged)
    variance = sum((rate - mean) ** 2 for _, rate in judged) / len(judged)
    threshold = mean - config.deviations * sqrt(variance)
    for endpoint, rate in judged:
        if rate < threshold:
            yield endpoint, f"success={rate:.1f}% threshold={threshold:.1f}%"


def over_the_threshold(
    rates: Sequence[Rate], config: FailurePercentage
) -> Iterator[tuple[Endpoint, str]]:
    """Yield, with details for the log, those with ``threshold`` percent of failures or more."""
    judged = [(endpoint, rate) for endpoint, n, rate in rates if n >= config.min_requests]
    if len(judged) < config.min_endpoints:
        return
    for endpoint, rate in judged:
        if 100.0 - rate >= config.threshold:
            yield endpoint, f"failed={100.0 - rate:.1f}%"

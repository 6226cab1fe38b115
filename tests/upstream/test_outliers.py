"""Outliers: who is far below the others, or over a threshold, and who is not judged at all."""

from __future__ import annotations

from statistics import fmean, pstdev

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meshproxy.config.breaker import FailurePercentage, SuccessRate
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.outliers import below_the_others, over_the_threshold
from tests.upstream.made import endpoints

RATES = st.lists(st.tuples(st.integers(1, 300), st.floats(0, 100)), max_size=12)


def rates(*pairs: tuple[int, float]) -> list[tuple[Endpoint, int, float]]:
    """As the breaker finds them: requests and successes in percent, one for each endpoint."""
    made = endpoints(*[1] * len(pairs))
    return [(endpoint, n, rate) for endpoint, (n, rate) in zip(made, pairs, strict=True)]


def test_below_the_others() -> None:
    """One that fails half of its requests among four that fail hardly any."""
    given_rates = rates((100, 50.0), (100, 99.0), (100, 99.0), (100, 99.0), (100, 98.0))
    found = list(below_the_others(given_rates, SuccessRate()))
    assert found == [(given_rates[0][0], "success=50.0% threshold=51.9%")]
    assert not list(below_the_others(given_rates, SuccessRate(deviations=2.1)))


def test_all_alike_are_no_outliers() -> None:
    """However bad they are: nobody does worse than the others."""
    assert not list(below_the_others(rates(*[(100, 3.0)] * 7), SuccessRate()))


@given(RATES, st.floats(0.1, 3), st.integers(2, 6), st.integers(1, 200))
def test_as_the_statistics_module_says(
    pairs: list[tuple[int, float]], deviations: float, min_endpoints: int, min_requests: int
) -> None:
    """Mean and standard deviation over those with enough requests, if these are enough."""
    config = SuccessRate(
        deviations=deviations, min_endpoints=min_endpoints, min_requests=min_requests
    )
    given_rates = rates(*pairs)
    found = {endpoint for endpoint, _ in below_the_others(given_rates, config)}
    judged = [(endpoint, rate) for endpoint, n, rate in given_rates if n >= min_requests]
    if len(judged) < min_endpoints:
        assert not found
        return
    threshold = fmean(rate for _, rate in judged) - deviations * pstdev(rate for _, rate in judged)
    # At the threshold itself rounding decides.
    assume(all(abs(rate - threshold) > 1e-9 for _, rate in judged))
    assert found == {endpoint for endpoint, rate in judged if rate < threshold}
    assert len(found) < len(judged)


@pytest.mark.parametrize(("rate", "is_found"), [(50.1, False), (50.0, True), (0.0, True)])
def test_over_the_threshold(rate: float, is_found: bool) -> None:
    """To reach it is enough."""
    config = FailurePercentage(threshold=50, min_endpoints=2, min_requests=10)
    given_rates = rates((10, rate), (10, 100.0), (9, 0.0))
    found = list(over_the_threshold(given_rates, config))
    details = f"failed={100 - rate:.1f}%"
    assert found == ([(given_rates[0][0], details)] if is_found else [])


def test_too_few_endpoints() -> None:
    """Those with too few requests do not count as endpoints either."""
    config = FailurePercentage(threshold=50, min_endpoints=2, min_requests=10)
    assert not list(over_the_threshold(rates((10, 0.0), (9, 100.0)), config))

"""The circuit breaker of a cluster."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import CircuitBreaker, FailurePercentage, SuccessRate
from tests.config.texts import lines_of, messages_of, with_cluster

E = "endpoints: ['127.0.0.1:1']"


def test_defaults() -> None:
    """Envoy's, of outlier detection; seconds."""
    breaker = CircuitBreaker()
    assert (breaker.failure_threshold, breaker.local_failure_threshold) == (5, None)
    assert (breaker.base_ejection_time, breaker.max_ejection_time) == (30.0, 300.0)
    assert (breaker.max_ejection_percent, breaker.interval) == (10.0, 10.0)
    assert (breaker.success_rate, breaker.failure_percentage) == (None, None)
    assert breaker.half_open == "probe"
    rate = SuccessRate()
    assert (rate.deviations, rate.min_endpoints, rate.min_requests) == (1.9, 5, 100)
    share = FailurePercentage()
    assert (share.threshold, share.min_endpoints, share.min_requests) == (85.0, 5, 50)


@pytest.mark.parametrize(
    ("breaker", "expected"),
    [
        ("", []),
        (
            "failure_threshold: 1, local_failure_threshold: 1, max_ejection_percent: 0",
            [],
        ),
        (
            "failure_threshold: 0",
            ["nothing else would open it; write success_rate or failure_percentage beside it"],
        ),
        ("failure_threshold: 0, local_failure_threshold: 3", []),
        ("failure_threshold: 0, success_rate: {}", []),
        ("failure_threshold: 0, failure_percentage: {}", []),
        ("failure_threshold: false", ["a whole number is expected, not false"]),
        ("failure_threshold: -1", ["this must be at least 0, and it is -1"]),
        ("failure_threshold: 1000001", ["this must be at most 1000000"]),
        ("local_failure_threshold: 0", ["this must be at least 1, and it is 0"]),
        ("base_ejection_time: 0", ["this duration cannot be 0"]),
        ("base_ejection_time: 30", ["a duration needs a unit"]),
        (
            "base_ejection_time: 10m",
            ["base_ejection_time (10m) is longer than max_ejection_time (5m)"],
        ),
        (
            "max_ejection_time: 20s",
            ["base_ejection_time (30s) is longer than max_ejection_time (20s)"],
        ),
        ("base_ejection_time: 10m, max_ejection_time: 10m", []),
        ("base_ejection_time: x, max_ejection_time: 1s", ["a duration such as"]),
        ("max_ejection_percent: 101", ["this must be at most 100, and it is 101"]),
        ("max_ejection_percent: .nan", ["a number that ends is expected, not nan"]),
        ("max_ejection_percent: '50'", ["a number is expected; take the quotes off '50'"]),
        ("interval: 0", ["this duration cannot be 0"]),
        ("success_rate: { deviations: 0 }", ["this must be more than 0, and it is 0"]),
        ("success_rate: { deviations: -.inf }", ["a number that ends is expected, not -inf"]),
        ("success_rate: { min_endpoints: 1 }", ["this must be at least 2, and it is 1"]),
        ("success_rate: { min_requests: 0 }", ["this must be at least 1, and it is 0"]),
        ("success_rate: true", ["a mapping (key: value) is expected, not true"]),
        ("failure_percentage: { threshold: 0 }", ["this must be more than 0, and it is 0"]),
        ("failure_percentage: { threshold: 100.5 }", ["this must be at most 100, and it is 100.5"]),
        ("failure_percentage: { min_endpoints: 0 }", ["this must be at least 1, and it is 0"]),
        ("failure_percentage: { min_requests: 10000001 }", ["this must be at most 10000000"]),
        ("half_open: probe", []),
        ("half_open: slow_start", ["it needs the cluster's 'slow_start'"]),
        ("half_open: slow", ["probe or slow_start is expected, not the text 'slow'"]),
        ("consecutive_5xx: 5", ["unknown key 'consecutive_5xx'"]),
    ],
)
def test_breakers(breaker: str, expected: list[str]) -> None:
    """Every key, its bounds, and what could never open or never close."""
    found = messages_of(with_cluster(f"{E}, circuit_breaker: {{ {breaker} }}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


def test_slow_start_on_return() -> None:
    """It takes the cluster's own slow start."""
    text = f"{E}, slow_start: 10s, circuit_breaker: {{ half_open: slow_start }}"
    assert messages_of(with_cluster(text)) == []


def test_places() -> None:
    """Times that contradict each other are shown at the one that was written."""
    breaker = "circuit_breaker: { max_ejection_time: 20s }"
    assert lines_of(with_cluster(f"{E}, {breaker}")) == [
        (
            "2:86: clusters.api.circuit_breaker.max_ejection_time: base_ejection_time (30s) is "
            "longer than max_ejection_time (20s)"
        )
    ]


def test_in_python() -> None:
    """Built sections are refused for the same reasons."""
    with pytest.raises(ValidationError, match="longer than max_ejection_time"):
        CircuitBreaker.model_validate({"base_ejection_time": "1h"})
    with pytest.raises(ValidationError, match="nothing else would open it"):
        CircuitBreaker(failure_threshold=0)
    assert CircuitBreaker(failure_threshold=0, success_rate=SuccessRate()).success_rate is not None

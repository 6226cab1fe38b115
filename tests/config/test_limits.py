"""Limits, budgets, rates and pools."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import Adaptive, Limits, Pool, PriorityLimits, Rate, RetryBudget
from tests.config.texts import lines_of, messages_of, with_cluster

E = "endpoints: ['127.0.0.1:1']"


def test_defaults() -> None:
    """Envoy's, of its circuit breakers and retry budget; its gradient; seconds."""
    for limits in (Limits(), PriorityLimits()):
        assert (limits.connections, limits.pending, limits.requests) == (1024, 1024, 1024)
        assert limits.retries == 3
    assert Limits().high is None
    assert (RetryBudget().percent, RetryBudget().min_concurrent) == (20.0, 3)
    rate = Rate(requests=5)
    assert (rate.per, rate.burst) == (1.0, None)
    adaptive = Adaptive()
    assert (adaptive.initial, adaptive.min, adaptive.max) == (20, 3, 1000)
    assert (adaptive.interval, adaptive.percentile, adaptive.buffer) == (0.1, 50.0, 25.0)
    assert adaptive.recalibrate == 60.0
    pool = Pool()
    assert (pool.warm, pool.preconnect, pool.max_requests, pool.max_lifetime) == (0, 1.0, 0, 0.0)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("limits: { connections: 1, pending: 0, requests: 1, retries: 0 }", []),
        ("limits: { connections: 0 }", ["this must be at least 1, and it is 0"]),
        ("limits: { pending: -1 }", ["this must be at least 0, and it is -1"]),
        ("limits: { requests: 1000001 }", ["this must be at most 1000000, and it is 1000001"]),
        ("limits: { retries: 3.5 }", ["a whole number is expected, not the number 3.5"]),
        ("limits: { high: { requests: 0 } }", ["this must be at least 1, and it is 0"]),
        ("limits: { high: { high: {} } }", ["unknown key 'high'"]),
        ("limits: 5", ["a mapping (key: value) is expected, not the number 5"]),
        ("retry_budget: {}", []),
        ("retry_budget: { percent: 101 }", ["this must be at most 100, and it is 101"]),
        ("retry_budget: { percent: .inf }", ["a number that ends is expected, not inf"]),
        ("retry_budget: { min_concurrent: -1 }", ["this must be at least 0, and it is -1"]),
        (
            "retry_budget: {}, limits: { pending: 5, retries: 5 }",
            ["'retry_budget' takes the place of this"],
        ),
        (
            "retry_budget: {}, limits: { high: { retries: 5 } }",
            ["'retry_budget' takes the place of this"],
        ),
        ("endpoint_limits: { concurrency: 0 }", ["this must be at least 1, and it is 0"]),
        (
            "endpoint_limits: { concurrency: 5, adaptive: {} }",
            ["'concurrency' is there already, and only one of 'concurrency' and 'adaptive' can be"],
        ),
        ("endpoint_limits: { concurrency: 5, rate: { requests: 5 } }", []),
        ("endpoint_limits: { rate: {} }", ["'requests' is missing"]),
        ("endpoint_limits: { rate: { requests: 0 } }", ["this must be at least 1, and it is 0"]),
        ("endpoint_limits: { rate: { requests: 1, per: 0 } }", ["this duration cannot be 0"]),
        (
            "endpoint_limits: { rate: { requests: 1, burst: 0 } }",
            ["this must be at least 1, and it is 0"],
        ),
        ("endpoint_limits: { rate: 5 }", ["a mapping (key: value) is expected, not the number 5"]),
        ("endpoint_limits: { adaptive: { initial: 5, min: 5, max: 5 } }", []),
        (
            "endpoint_limits: { adaptive: { max: 10 } }",
            ["'initial' (20) must be between 'min' (3) and 'max' (10)"],
        ),
        (
            "endpoint_limits: { adaptive: { min: 30 } }",
            ["'initial' (20) must be between 'min' (30) and 'max' (1000)"],
        ),
        (
            "endpoint_limits: { adaptive: { initial: 1 } }",
            ["'initial' (1) must be between 'min' (3) and 'max' (1000)"],
        ),
        (
            "endpoint_limits: { adaptive: { initial: '1' } }",
            ["a whole number is expected; take the quotes off '1'"],
        ),
        ("endpoint_limits: { adaptive: { interval: 0 } }", ["this duration cannot be 0"]),
        (
            "endpoint_limits: { adaptive: { percentile: 0 } }",
            ["this must be more than 0, and it is 0"],
        ),
        (
            "endpoint_limits: { adaptive: { percentile: 100.1 } }",
            ["this must be at most 100, and it is 100.1"],
        ),
        (
            "endpoint_limits: { adaptive: { buffer: .nan } }",
            ["a number that ends is expected, not nan"],
        ),
        ("endpoint_limits: { adaptive: { recalibrate: 60 } }", ["a duration needs a unit"]),
        ("pool: { warm: 5, preconnect: 3, max_requests: 1, max_lifetime: 1h }", []),
        ("pool: { warm: 5, max_connections: 4 }", ["max_connections allows 4 only, and this is 5"]),
        ("pool: { warm: 1025 }", ["max_connections allows 1024 only, and this is 1025"]),
        ("pool: { preconnect: 0.5 }", ["this must be at least 1, and it is 0.5"]),
        ("pool: { preconnect: 3.1 }", ["this must be at most 3, and it is 3.1"]),
        ("pool: { preconnect: .inf }", ["a number that ends is expected, not inf"]),
        ("pool: { max_requests: -1 }", ["this must be at least 0, and it is -1"]),
        ("pool: { max_lifetime: 1y }", ["a duration such as"]),
        ("pool: { idle_timeout: 0 }", ["this duration cannot be 0"]),
        ("pool: { pending_timeout: 0 }", ["this duration cannot be 0"]),
        (
            "pool: { max_pending: 5 }",
            ["unknown key 'max_pending'; that is 'limits.pending' of the cluster here"],
        ),
        ("pool: { protocol: h2 }", ["'protocol' is not supported by this version"]),
    ],
)
def test_limits(cluster: str, expected: list[str]) -> None:
    """Every key, its bounds, and what contradicts itself."""
    found = messages_of(with_cluster(f"{E}, {cluster}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


def test_places() -> None:
    """What contradicts a default is shown at what was written."""
    text = with_cluster(f"{E}, endpoint_limits: {{ adaptive: {{ max: 10 }} }}")
    assert lines_of(text)[0].startswith(
        "2:84: clusters.api.endpoint_limits.adaptive.max: 'initial'"
    )


def test_in_python() -> None:
    """Built sections are refused for the same reasons."""
    with pytest.raises(ValidationError, match="must be between"):
        Adaptive(max=10)
    with pytest.raises(ValidationError, match="allows 4 only"):
        Pool(warm=5, max_connections=4)
    with pytest.raises(ValidationError, match="finite"):
        RetryBudget(percent=float("nan"))

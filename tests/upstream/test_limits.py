"""Limits: what a cluster may have under way."""

from __future__ import annotations

from meshproxy.config import Limits as LimitsConfig
from meshproxy.config import RetryBudget
from meshproxy.upstream.limits import LimitSet


def test_the_configured_numbers() -> None:
    """Each has its own; without `high` both priorities are one object, counted together."""
    held = LimitSet(LimitsConfig(connections=1, pending=2, requests=3, retries=4), None)
    default = held.default
    assert (default.max_connections, default.max_pending) == (1, 2)
    assert (default.max_requests, default.max_retries) == (3, 4)
    assert held.high is held.default
    assert (held.connections, default.requests, default.pending, default.retries) == (0, 0, 0, 0)


def test_high_has_limits_of_its_own() -> None:
    """What default uses up, high does not miss."""
    config = LimitsConfig.model_validate({"retries": 1, "high": {"retries": 2}})
    held = LimitSet(config, None)
    held.default.retries = 1
    assert not held.default.may_retry()
    assert held.high.may_retry()
    assert (held.high.max_retries, held.high.max_requests) == (2, 1024)


def test_retries_without_a_budget() -> None:
    """So many as the limit says."""
    limits = LimitSet(LimitsConfig(retries=2), None).default
    limits.retries = 1
    assert limits.may_retry()
    limits.retries = 2
    assert not limits.may_retry()


def test_a_retry_budget() -> None:
    """A share of what is under way, and a few at any time."""
    budget = RetryBudget(percent=20, min_concurrent=3)
    limits = LimitSet(LimitsConfig(retries=0), budget).default
    assert limits.most_retries() == 3
    limits.requests = 100
    limits.retries = 19
    assert limits.may_retry()
    limits.retries = 20
    assert not limits.may_retry()
    assert limits.most_retries() == 20

"""The circuit breaker of a cluster: when an endpoint is given up for a while, and how it returns.

Law: a breaker that could never open, or never stay open as long as it says, is refused. What is
called a circuit breaker here is Envoy's outlier detection; Envoy's circuit breakers are `limits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from meshproxy.config.fields import PositiveDuration
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit
from meshproxy.config.values import format_duration, seconds_of

__all__ = ["CircuitBreaker", "FailurePercentage", "SuccessRate"]


class SuccessRate(Section):
    """Open for endpoints whose share of successes is far below that of the others."""

    deviations: float = Field(
        default=1.9,
        gt=0,
        le=100,
        description="How far below the mean of all endpoints, in standard deviations.",
    )
    min_endpoints: int = Field(
        default=5, ge=2, le=10_000, description="Nothing is judged with fewer endpoints."
    )
    min_requests: int = Field(
        default=100,
        ge=1,
        le=10_000_000,
        description="An endpoint with fewer requests in an interval is not judged.",
    )


class FailurePercentage(Section):
    """Open for endpoints with too many failures among their requests."""

    threshold: float = Field(
        default=85.0,
        gt=0,
        le=100,
        description="So many failures, in percent of an interval's requests, open it.",
    )
    min_endpoints: int = Field(
        default=5, ge=1, le=10_000, description="Nothing is judged with fewer endpoints."
    )
    min_requests: int = Field(
        default=50,
        ge=1,
        le=10_000_000,
        description="An endpoint with fewer requests in an interval is not judged.",
    )


class CircuitBreaker(Section):
    """An endpoint that fails is sent nothing for a while."""

    failure_threshold: int = Field(
        default=5,
        ge=0,
        le=1_000_000,
        description="So many failures in a row open it: responses 5xx, and connections that are "
        "refused, time out or break. 0 for not counting them.",
    )
    local_failure_threshold: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Count what fails without a response (refused, timed out, broken) apart: so "
        "many in a row open it, and `failure_threshold` is for responses 5xx alone.",
    )
    base_ejection_time: PositiveDuration = Field(
        default=30.0, description="How long it stays open, times how often it opened lately."
    )
    max_ejection_time: PositiveDuration = Field(
        default=300.0, description="The longest that it stays open, however often it opened."
    )
    max_ejection_percent: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="Endpoints given up at a time, in percent of all; one always can be.",
    )
    interval: PositiveDuration = Field(
        default=10.0,
        description="How often `success_rate` and `failure_percentage` are judged; after an "
        "interval without opening, it counts as opened once less.",
    )
    success_rate: SuccessRate | None = Field(
        default=None, description="Judge each endpoint by the others' share of successes."
    )
    failure_percentage: FailurePercentage | None = Field(
        default=None, description="Judge each endpoint by its share of failures."
    )
    half_open: Literal["probe", "slow_start"] = Field(
        default="probe",
        description="How an endpoint returns: one request at a time until one succeeds, or by "
        "the cluster's `slow_start`.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a breaker that can never open, and times that contradict each other."""
        yield from super().faults(given)
        others = ("local_failure_threshold", "success_rate", "failure_percentage")
        never = given.get("failure_threshold") == 0 and not any(key in given for key in others)
        if never and not isinstance(given.get("failure_threshold"), bool):
            yield Unfit(
                "nothing else would open it; write success_rate or failure_percentage beside it",
                at=("failure_threshold",),
            )
        base = seconds_of(given.get("base_ejection_time"), 30.0)
        longest = seconds_of(given.get("max_ejection_time"), 300.0)
        if base > longest:
            written = "base_ejection_time" in given
            yield Unfit(
                f"base_ejection_time ({format_duration(base)}) is longer than max_ejection_time "
                f"({format_duration(longest)})",
                at=("base_ejection_time" if written else "max_ejection_time",),
            )

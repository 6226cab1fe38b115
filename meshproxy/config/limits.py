"""How much may be under way: per cluster, per endpoint, and in connections that are kept.

Law: every limit has a default and a bound of its own, so that no number can ask for more than a
machine has; what contradicts itself is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from meshproxy.config.fields import Duration, PositiveDuration
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit

__all__ = ["Adaptive", "EndpointLimits", "Limits", "Pool", "PriorityLimits", "Rate", "RetryBudget"]

_MOST = 1_000_000


class PriorityLimits(Section):
    """What the requests of one priority may have under way in a cluster."""

    connections: int = Field(
        default=1024,
        ge=1,
        le=_MOST,
        description="Most connections to the whole cluster, those being opened included. Both "
        "priorities count them together.",
    )
    pending: int = Field(
        default=1024,
        ge=0,
        le=_MOST,
        description="Most requests that wait for a connection; 0 to let none wait.",
    )
    requests: int = Field(
        default=1024, ge=1, le=_MOST, description="Most requests at a time, waiting ones included."
    )
    retries: int = Field(
        default=3, ge=0, le=_MOST, description="Most retries at a time; 0 to have none."
    )


class Limits(PriorityLimits):
    """What a cluster may have under way; over it the answer is 503 at once."""

    high: PriorityLimits | None = Field(
        default=None,
        description="Limits of their own for routes with `priority: high`, which share these "
        "otherwise.",
    )


class RetryBudget(Section):
    """Retries as a share of what is under way, in place of `limits.retries`."""

    percent: float = Field(
        default=20.0,
        ge=0,
        le=100,
        description="Retries at a time, in percent of the requests under way.",
    )
    min_concurrent: int = Field(
        default=3, ge=0, le=_MOST, description="So many retries are allowed at any time."
    )


class Rate(Section):
    """So many in a given time: a token bucket."""

    requests: int = Field(
        ge=1, le=_MOST, description="How many requests (HTTP) or connections (TCP)."
    )
    per: PositiveDuration = Field(default=1.0, description="In what time.")
    burst: int | None = Field(
        default=None,
        ge=1,
        le=_MOST,
        description="So many may come at once after a pause; as many as `requests` otherwise.",
    )


class Adaptive(Section):
    """A limit of concurrency that follows the endpoint's latency (Envoy's gradient).

    It shrinks as the latency grows over the least that was measured, and grows again while the
    latency is near that.
    """

    initial: int = Field(default=20, ge=1, le=_MOST, description="The limit at first.")
    min: int = Field(default=3, ge=1, le=_MOST, description="Never less than this.")
    max: int = Field(default=1000, ge=1, le=_MOST, description="Never more than this.")
    interval: PositiveDuration = Field(
        default=0.1, description="How often the limit is computed anew."
    )
    percentile: float = Field(
        default=50.0, gt=0, le=100, description="Which latency of an interval counts."
    )
    buffer: float = Field(
        default=25.0,
        ge=0,
        le=1000,
        description="Latency over the least, in percent, that is still taken for normal.",
    )
    recalibrate: PositiveDuration = Field(
        default=60.0, description="How often the least latency is measured anew."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield limits that contradict each other."""
        yield from super().faults(given)
        low, high = given.get("min", 3), given.get("max", 1000)
        first = given.get("initial", 20)
        if all(type(n) is int for n in (low, high, first)) and not low <= first <= high:
            at = next(key for key in ("initial", "max", "min") if key in given)
            yield Unfit(
                f"'initial' ({first}) must be between 'min' ({low}) and 'max' ({high})", at=(at,)
            )


class EndpointLimits(Section):
    """What one endpoint gets at most; others are chosen while it has enough, or else 503."""

    at_most_one: ClassVar[tuple[tuple[str, ...], ...]] = (("concurrency", "adaptive"),)

    concurrency: int | None = Field(
        default=None, ge=1, le=_MOST, description="Most requests or connections at a time."
    )
    adaptive: Adaptive | None = Field(
        default=None, description="Find out by latency how many requests at a time it can take."
    )
    rate: Rate | None = Field(
        default=None, description="Most requests or connections in a given time."
    )


class Pool(Section):
    """The HTTP connections that are kept to each endpoint."""

    later: ClassVar[frozenset[str]] = frozenset({"protocol"})
    elsewhere: ClassVar[Mapping[str, str]] = {"max_pending": "'limits.pending' of the cluster"}

    max_connections: int = Field(
        default=1024, ge=1, le=_MOST, description="Most connections to one endpoint."
    )
    warm: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="So many connections are kept open to each endpoint, used or not.",
    )
    preconnect: float = Field(
        default=1.0,
        ge=1.0,
        le=3.0,
        description="Connections opened for each request that needs a new one; more than 1 opens "
        "some ahead of need.",
    )
    idle_timeout: PositiveDuration = Field(
        default=60.0, description="How long an unused connection is kept."
    )
    max_requests: int = Field(
        default=0,
        ge=0,
        le=2**31,
        description="A connection is closed after so many requests; 0 for no limit.",
    )
    max_lifetime: Duration = Field(
        default=0.0,
        description="A connection is not used again when it is this old; 0 for no limit.",
    )
    pending_timeout: PositiveDuration = Field(
        default=5.0, description="How long a request waits for a connection before it gets a 503."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield more warm connections than may exist."""
        yield from super().faults(given)
        warm, most = given.get("warm", 0), given.get("max_connections", 1024)
        if type(warm) is int and type(most) is int and warm > most:
            yield Unfit(f"max_connections allows {most} only, and this is {warm}", at=("warm",))

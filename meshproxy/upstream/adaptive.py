"""
A concurrency limit that follows an endpoint's latency: Envoy's gradient controller.

The laws it keeps:

- ``endpoint.max_active`` is always within ``min`` and ``max``.
- A sample costs O(1) and the memory is bounded: of more than :data:`MOST` samples in an interval,
  a random choice counts.
- It has no timer: what is due is done at the next sample, so that an idle endpoint costs nothing.

Every ``interval``: gradient = (least latency + buffer) / latency, within 0.5 and 2, where the
latency is the ``percentile`` of the interval's samples; limit = gradient × limit +
sqrt(gradient × limit). The least latency is the same percentile of :data:`CALIBRATION` samples that
began while the limit was ``min``; it is measured anew every ``recalibrate`` seconds, and when the
limit has been at ``min`` for :data:`STUCK` intervals. The first measurement is made under the
initial limit. (Envoy, "Adaptive Concurrency", gradient_controller.cc.)
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from random import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.config.limits import Adaptive as Config
    from meshproxy.upstream.endpoint import Endpoint

#: Samples that are kept of an interval.
MOST = 256
#: Samples that tell the least latency.
CALIBRATION = 50
#: Intervals at the least limit after which the least latency is doubted.
STUCK = 5
#: Recalibrations are put off by chance, up to this part, so that endpoints do not go together.
JITTER = 0.15
#: Latencies are at least this: a clock may stand still.
_LEAST = 1e-6


class Adaptive:
    """The limiter of one endpoint; ``sample(seconds)`` tells it a request's latency."""

    __slots__ = (
        "_begun",
        "_calibrating",
        "_config",
        "_due",
        "_endpoint",
        "_least",
        "_limit",
        "_now",
        "_recalibrate",
        "_sampled",
        "_samples",
        "_seen",
        "_stuck",
    )

    def __init__(self, endpoint: Endpoint, config: Config, now: Callable[[], float]) -> None:
        self._endpoint = endpoint
        self._config = config
        self._now = now
        self._limit = config.initial
        self._samples: list[float] = []
        self._seen = 0
        self._stuck = 0
        self._sampled = 0.0
        self._least = 0.0
        self._calibrating = True
        # Samples of requests that began before this tell nothing of the limit now.
        self._begun = now()
        self._due = self._recalibrate = self._begun
        endpoint.max_active = config.initial

    def sample(self, seconds: float) -> None:
        """A request that was answered now took so many seconds."""
        now = self._now()
        if now - seconds < self._begun - _LEAST:
            return
        samples = self._samples
        self._seen += 1
        if len(samples) < MOST:
            samples.append(seconds)
        else:
            place = int(random() * self._seen)
            if place < MOST:
                samples[place] = seconds
        if self._calibrating:
            if len(samples) >= CALIBRATION:
                self._calibrated(now)
        elif now >= self._due:
            self._adapt(now)

    def describe(self) -> dict[str, object]:
        """What the admin shows; latencies in seconds."""
        return {
            "limit": self._endpoint.max_active,
            "least_latency": self._least,
            "latency": self._sampled,
            "calibrating": self._calibrating,
        }

    def _percentile(self) -> float:
        samples = sorted(self._samples)
        place = int(len(samples) * self._config.percentile / 100)
        self._samples.clear()
        self._seen = 0
        return max(_LEAST, samples[min(place, len(samples) - 1)])

    def _calibrated(self, now: float) -> None:
        config = self._config
        self._least = self._percentile()
        self._calibrating = False
        self._stuck = 0
        self._endpoint.max_active = self._limit
        self._due = now + config.interval
        self._recalibrate = now + config.recalibrate * (1.0 + JITTER * random())

    def _adapt(self, now: float) -> None:
        config = self._config
        self._due = now + config.interval
        latency = self._sampled = self._percentile()
        normal = self._least * (1.0 + config.buffer / 100)
        wanted = min(2.0, max(0.5, normal / latency)) * self._limit
        limit = int(max(config.min, min(config.max, wanted + sqrt(wanted))))
        self._limit = self._endpoint.max_active = limit
        self._stuck = self._stuck + 1 if limit == config.min else 0
        # A least limit that cannot be left says nothing of the latency where both ends meet.
        stuck = self._stuck >= STUCK and config.min < config.max
        if now >= self._recalibrate or stuck:
            self._calibrating = True
            self._begun = now
            self._endpoint.max_active = config.min

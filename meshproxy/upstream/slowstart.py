"""
Slow start: a new or returning endpoint gets its share little by little.

The law it keeps: shares are computed anew about once a second, and only while some endpoint is
in its window; the path of a request knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from meshproxy.upstream.spread import ramp

if TYPE_CHECKING:
    from meshproxy.config import SlowStart as Config
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.upstream.endpoint import Endpoint

#: Most seconds between two steps; a short window has :data:`STEPS` of them.
STEP = 1.0
STEPS = 10


class SlowStart:
    """
    The ramps of one cluster's endpoints. An entry of the wheel while there are any.

    ``refresh`` is called when shares are to be computed anew; it calls ``apply``.
    """

    __slots__ = ("_config", "_refresh", "_step", "_wheel", "deadline", "slot")

    def __init__(self, config: Config, wheel: TimerWheel, refresh: Callable[[], None]) -> None:
        self.deadline = 0.0
        self.slot = 0
        self._config = config
        self._wheel = wheel
        self._refresh = refresh
        self._step = max(wheel.resolution, min(STEP, config.window / STEPS))

    def apply(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Set the share of each by the time ``since`` it came, and see to the next step."""
        config = self._config
        window = config.window
        least = config.min_weight_percent / 100
        rising = False
        for endpoint in endpoints:
            elapsed = now - endpoint.since
            if elapsed >= window:
                endpoint.share = endpoint.weight
            else:
                part = ramp(elapsed, window, config.aggression, least)
                endpoint.share = endpoint.weight * part
                rising = True
        if rising and not self.slot:
            self._wheel.arm(self, now + self._step)

    def expired(self, now: float) -> float:
        """The next step."""
        self._refresh()
        # The wheel sees what apply() armed.
        return 0.0

    def stop(self) -> None:
        """Let go of the wheel; shares stay what they are."""
        self._wheel.disarm(self)

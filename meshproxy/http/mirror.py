"""
Copies of requests for another cluster, whose answers nobody reads.

The law it keeps: a mirror never delays, changes or fails the exchange it copies; copies under way
are bounded by the limits of their cluster, and each by a time.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

from meshproxy.http.copy import Copy

if TYPE_CHECKING:
    from meshproxy.config import Mirror as MirrorConfig
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.replies import Reply
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

#: Seconds that a copy may take when the route has no time limit.
LONGEST = 15.0


class Mirror:
    """A route's ``mirror``, compiled. ``timeout`` (seconds) is that of its copies."""

    __slots__ = ("_group", "_share", "max_body", "timeout", "wheel")

    def __init__(
        self, config: MirrorConfig, group: Group, wheel: TimerWheel, timeout: float
    ) -> None:
        self._group = group
        self._share = config.percent / 100
        self.wheel = wheel
        self.max_body: int = config.max_body
        self.timeout = timeout or LONGEST

    def copy(self, exchange: Exchange, body: bytes | None) -> None:
        """Send a copy of a complete request; ``body`` is None when it was too long to keep."""
        if self._share < 1.0 and random() >= self._share:
            return
        group = self._group
        stats = group.cluster.stats
        limits = group.limits
        endpoint = None
        if (
            body is not None
            and len(body) <= self.max_body
            and not exchange.upgrade
            and limits.requests < limits.max_requests
        ):
            endpoint = group.pick()
        if endpoint is None:
            stats.values[stats.mirror_failures] += 1
            return
        stats.values[stats.mirrored] += 1
        Mirrored(self, exchange, group, endpoint, body or b"").begin()


class Mirrored(Copy):
    """One copy, which is its own entry of the timer wheel."""

    __slots__ = ("_mirror", "deadline", "slot")

    def __init__(
        self, mirror: Mirror, exchange: Exchange, group: Group, endpoint: Endpoint, body: bytes
    ) -> None:
        super().__init__(exchange, group, endpoint, body)
        self._mirror = mirror
        self.deadline = 0.0
        self.slot = 0

    def begin(self) -> None:
        """Ask for a connection, for a time."""
        self._mirror.wheel.arm(self, self.upstream_start + self._mirror.timeout)
        super().begin()

    def expired(self, now: float) -> float:
        """It takes too long."""
        if self.upstream_stream is not None:
            self.judge(False, True)
        self.give_up()
        self._count_failure()
        return 0.0

    def _ended(self) -> None:
        self._mirror.wheel.disarm(self)
        super()._ended()

    def _failed(self, reply: Reply) -> None:
        self._mirror.wheel.disarm(self)
        self._count_failure()

    def _count_failure(self) -> None:
        stats = self.group.cluster.stats
        stats.values[stats.mirror_failures] += 1

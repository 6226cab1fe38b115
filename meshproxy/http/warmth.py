"""
Connections that are there before anybody asks for them.

The law it keeps:

- An endpoint that is well, and whose breaker is closed, has ``pool.warm`` connections; what is
  lost is opened again, as far as the limits allow. Nothing is opened before the start.
- When connecting fails, or connections end without having served anybody, the next are opened
  1 s later, then after twice the time, up to 30 s; never more often than once a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.http.share import BURST, share_of

if TYPE_CHECKING:
    from meshproxy.http.pool import Pool
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.upstream.cluster import Cluster

#: Seconds between two rounds of opening, and the longest that failures make of it.
FIRST = 1.0
LONGEST = 30.0


class Warmth:
    """Keeps ``count`` connections in ``pool``; an entry of the wheel."""

    __slots__ = ("_delay", "_next", "_over", "_pool", "_wheel", "count", "deadline", "slot")

    def __init__(self, wheel: TimerWheel, pool: Pool, count: int) -> None:
        self.count = count
        self._wheel = wheel
        self._pool = pool
        self._delay = 0.0
        # No round before this time.
        self._next = 0.0
        self._over = False
        self.deadline = 0.0
        self.slot = 0

    def look(self) -> None:
        """Open what is missing, with the wheel's next sweep or when the back-off is over."""
        if not self.slot and not self._over and self._pool.total < self.count:
            self._wheel.arm(self, max(self._wheel.now(), self._next))

    def failed(self) -> None:
        """A connection could not be opened, or ended without having served anybody."""
        now = self._wheel.now()
        if now >= self._next - FIRST + self._delay or not self._delay:
            self._delay = min(max(FIRST, self._delay * 2), LONGEST)
            self._next = now + self._delay
        self.look()

    def stop(self) -> None:
        """Open no more."""
        self._over = True
        self._wheel.disarm(self)

    def expired(self, now: float) -> float:
        """Open what is missing."""
        return 0.0


def warm_up(cluster: Cluster) -> None:
    """Begin to open: for the cluster's endpoints now, for those that come later as they do."""
    share_of(cluster).started = True
    for endpoint in cluster.endpoints:
        if endpoint.pool is not None:
            endpoint.pool.warm_up()

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
    """Keeps ``count`` connections in ``pool``, once started; an entry of the wheel."""

    __slots__ = (
        "_delay",
        "_failed",
        "_next",
        "_on",
        "_pool",
        "_wheel",
        "count",
        "deadline",
        "slot",
    )

    def __init__(self, wheel: TimerWheel, pool: Pool, count: int) -> None:
        self.count = count
        self._wheel = wheel
        self._pool = pool
        self._on = False
        # The back-off in force, whether it was made longer since the last round, and the time
        # before which there is no round.
        self._delay = 0.0
        self._failed = False
        self._next = 0.0
        self.deadline = 0.0
        self.slot = 0

    def start(self) -> None:
        """Begin, with the wheel's next sweep."""
        self._on = True
        self.look()

    def stop(self) -> None:
        """Open no more."""
        self._on = False
        self._wheel.disarm(self)

    def look(self) -> None:
        """A connection may be missing: open it when there may be a round."""
        if self._on and not self.slot and self._pool.total < self.count:
            self._wheel.arm(self, max(self._wheel.now(), self._next))

    def failed(self) -> None:
        """A connection could not be opened, or ended without having served anybody."""
        if not self._failed:
            self._failed = True
            self._delay = min(max(FIRST, self._delay * 2), LONGEST)
            self._next = self._wheel.now() + self._delay

    def expired(self, now: float) -> float:
        """Open what is missing."""
        if now < self._next:
            return self._next
        pool = self._pool
        missing = self.count - pool.total
        if missing <= 0:
            if pool.opening:
                return now + FIRST  # who knows how that ends
            self._delay = 0.0
            self._failed = False
            return 0.0
        self._failed = False
        for _ in range(min(missing, BURST)):
            if not pool.open_ahead():
                break
        else:
            if missing > BURST:
                return now  # the same round goes on with the next sweep
        if not self._on:
            return 0.0
        self._next = max(self._next, now + FIRST)
        return self._next


def warm_up(cluster: Cluster) -> None:
    """Begin to open: for the cluster's endpoints now, for those that come later as they do."""
    share_of(cluster).started = True
    for endpoint in cluster.endpoints:
        if endpoint.pool is not None:
            endpoint.pool.warm_up()

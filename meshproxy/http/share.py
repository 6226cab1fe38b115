"""
The connections that a cluster may have, shared by the pools of its endpoints.

The law it keeps:

- At the cluster's limit a pool that wants a connection takes the place of the connection, of
  another endpoint, that has been idle longest; the place is its own from the moment it falls
  free. Without one it waits, as long as it has a connection at all to wait for.
- Places that fall free go round the pools that want one, one each in turn.
- However many want a connection, and however fast connecting fails, a turn of the reactor opens
  :data:`BURST` at most and never calls deeper for one more: pools are served from one loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshproxy.http.h1.client import ClientConnection
    from meshproxy.http.pool import Pool
    from meshproxy.upstream.cluster import Cluster

#: Connections opened in one turn of the reactor, for those in line or ahead of need.
BURST = 64

#: Seconds after which a pool that waits at the limit looks for idle connections again.
LOOK = 0.1


class Share:
    """What the pools of ``cluster`` share. See :func:`share_of`."""

    __slots__ = ("_call", "_cluster", "_due", "_leaving", "_serving", "hungry", "started")

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        #: Whether connections may be opened before anybody asks for one.
        self.started = False
        #: Pools that wait for a place, in order.
        self.hungry: dict[Pool, bool] = {}
        # Pools that have somebody in line to open for, in order.
        self._due: dict[Pool, None] = {}
        # Connections closed for their place, and the pool that gets it.
        self._leaving: dict[ClientConnection, Pool] = {}
        self._serving = False
        self._call: Any = None

    def serve(self, pool: Pool) -> None:
        """Open for those in line at ``pool``, now or (called from inside) soon."""
        due = self._due
        due[pool] = None
        if self._serving:
            return
        self._serving = True
        try:
            for _ in range(BURST):
                pool = next(iter(due))
                del due[pool]
                if pool.step():
                    due[pool] = None
                if not due:
                    return
        finally:
            # A defect on the way must cost one request, not the line for ever.
            self._serving = False
            if due and self._call is None:
                self._call = pool.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._call = None
        if self._due:
            self.serve(next(iter(self._due)))

    def freed(self) -> None:
        """Places may have fallen free: as many of those that wait as there are get one each."""
        hungry = self.hungry
        limits = self._cluster.limits
        free = max(limits.default.max_connections, limits.high.max_connections)
        free -= limits.connections
        if free <= 0:
            return
        for pool in list(hungry):
            if not hungry.pop(pool, False):
                continue  # served meanwhile, from inside
            if pool.lacking() > 0:
                self.serve(pool)
                free -= 1
                if not free:
                    return

    def claim(self, pool: Pool) -> bool:
        """
        The cluster is at its limit, and ``pool`` wants a connection.

        Returns whether there is anything to wait for: a place, or a connection of its own.
        """
        now = pool.now()
        waits = pool.total > 0
        # Whoever can wait need not look at every endpoint each time.
        if not waits or now >= pool.look_at:
            while pool.lacking() > pool.promised:
                if not self._displace(pool):
                    pool.look_at = now + LOOK
                    break
        if not waits and not pool.promised:
            self.hungry.pop(pool, None)
            return False
        self.hungry[pool] = True
        if pool.lacking() > pool.promised:
            pool.arm(pool.look_at)
        return True

    def _displace(self, heir: Pool) -> bool:
        """Close the connection that is idle longest for the pool ``heir``."""
        oldest: Pool | None = None
        since = 0.0
        for endpoint in self._cluster.endpoints:
            pool = endpoint.pool
            if pool is None or pool is heir:
                continue
            idle_since = pool.longest_idle()
            if idle_since is not None and (oldest is None or idle_since < since):
                oldest = pool
                since = idle_since
        if oldest is None:
            return False
        heir.promised += 1
        self._leaving[oldest.give_up()] = heir
        return True

    def left(self, connection: ClientConnection) -> None:
        """The connection is gone and not counted any more: its heir takes the place."""
        heir = self._leaving.pop(connection, None)
        if heir is not None:
            heir.promised -= 1
            self.hungry.pop(heir, None)
            self.serve(heir)

    def forget(self, pool: Pool) -> None:
        """The pool is closed."""
        self.hungry.pop(pool, None)
        self._due.pop(pool, None)
        if self._call is not None and not self._due:
            self._call.cancel()
            self._call = None


def share_of(cluster: Cluster) -> Share:
    """The one of the cluster."""
    share: Share | None = cluster.limits.pools
    if share is None:
        share = cluster.limits.pools = Share(cluster)
    return share

"""
What overload does to a TCP listener.

The law it keeps: while nothing is wrong it costs a connection nothing. Shedding is a limit of no
connections at all, so that new ones are closed at once and those open live on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.observe.registry import Registry
    from meshproxy.tcp.listener import TcpListener


class TcpShedding:
    """
    Sheds the load of ``listener``.

    Everything may be called as often as one likes, and again after a reload has given the listener
    another ``max_connections`` or ``idle_timeout``.
    """

    #: HTTP requests: none here.
    in_flight = 0.0

    def __init__(self, listener: TcpListener, registry: Registry) -> None:
        self._listener = listener
        self._values = registry.values
        self.shed_slot = registry.counter(
            "meshproxy_listener_connections_shed_total",
            "Connections closed at once because the proxy was overloaded",
            {"listener": listener.name},
        )
        self._limit_before = listener.max_connections
        self._refused = 0.0
        self._idle = self._idle_before = listener.idle_timeout

    def shed(self, on: bool) -> None:
        """Close new connections at once from now on, or no more."""
        listener = self._listener
        refused = listener.stats.values[listener.stats.refused]
        if listener.max_connections:
            if not on:
                return
            self._limit_before = listener.max_connections
            listener.max_connections = 0
        else:
            # All that were refused since were refused for this.
            self._values[self.shed_slot] += refused - self._refused
            if not on:
                listener.max_connections = self._limit_before
        self._refused = refused

    def shorten_idle(self, seconds: float) -> None:
        """
        Let connections be idle for ``seconds`` at most from now on; 0.0: as long as configured.

        A connection's own look at its time comes within some seconds, and goes by this.
        """
        listener = self._listener
        if listener.idle_timeout != self._idle:
            self._idle = self._idle_before = listener.idle_timeout
        before = self._idle_before
        if not seconds:
            self._idle = listener.idle_timeout = before
        else:
            self._idle = listener.idle_timeout = min(before, seconds) if before else seconds

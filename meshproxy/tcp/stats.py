"""
The registry slots of one TCP listener.

The law kept here: names and slots are settled at configuration time; a connection only adds to
``values[stats.x]``.  A cluster's slots are its own: ``meshproxy.upstream.cluster.ClusterStats``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.observe.registry import Registry


class ListenerStats:
    """Slots, as indices into ``values``."""

    __slots__ = (
        "active",
        "duration_timeouts",
        "failed",
        "hello_timeouts",
        "idle_timeouts",
        "no_route",
        "received",
        "refused",
        "sent",
        "total",
        "values",
    )

    def __init__(self, registry: Registry, name: str) -> None:
        labels = {"listener": name}

        def counter(what: str, text: str) -> int:
            return registry.counter(f"meshproxy_listener_{what}", text, labels)

        self.values = registry.values
        self.total = counter("connections_total", "Connections accepted")
        self.active = registry.gauge(
            "meshproxy_listener_connections_active", "Open connections", labels
        )
        self.refused = counter(
            "connections_refused_total", "Connections closed at once, over max_connections"
        )
        self.failed = counter(
            "connections_failed_total",
            "Connections that ended before an upstream was up",
        )
        self.idle_timeouts = counter("idle_timeouts_total", "Connections closed for being idle")
        self.duration_timeouts = counter(
            "duration_timeouts_total", "Connections closed for having lasted max_duration"
        )
        self.hello_timeouts = counter(
            "hello_timeouts_total", "Connections reset because no ClientHello came in time"
        )
        self.no_route = counter("no_route_total", "Connections reset because no route took them")
        self.received = counter("bytes_received_total", "Bytes received from clients")
        self.sent = counter("bytes_sent_total", "Bytes sent to clients")

"""
A cluster: endpoints that do the same work, and one way to choose among them.

The law it keeps: ``pick`` is resolved at configuration time to the balancer's bound method;
it returns an endpoint, or None when there is none to be had. The statistics of a cluster are
slots of the registry, named once here, for every protocol that uses clusters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from random import random
from typing import TYPE_CHECKING

from meshproxy.upstream.balancer import BALANCERS
from meshproxy.upstream.endpoint import Endpoint

if TYPE_CHECKING:
    from meshproxy.config import Cluster as ClusterConfig
    from meshproxy.observe.registry import Registry

#: Upper bounds of the latency histograms, in seconds.
LATENCY_BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
)  # fmt: skip


class ClusterStats:
    """The registry slots of one cluster; ``values[stats.x] += 1`` counts."""

    def __init__(self, registry: Registry, name: str) -> None:
        labels = {"cluster": name}

        def counter(what: str, text: str) -> int:
            return registry.counter(f"meshproxy_cluster_{what}", text, labels)

        def gauge(what: str, text: str) -> int:
            return registry.gauge(f"meshproxy_cluster_{what}", text, labels)

        self.values = registry.values
        slots = [
            registry.counter(
                "meshproxy_cluster_responses_total",
                "Responses by class of status, own replies included",
                {"cluster": name, "class": f"{number}xx"},
            )
            for number in range(1, 6)
        ]
        # Indexed by the class of a status; nothing is ever counted at 0.
        self.responses = [slots[0], *slots]
        self.connections = counter("connections_total", "Connections opened")
        self.connections_active = gauge("connections_active", "Open connections")
        self.connect_failures = counter("connect_failures_total", "Connections that failed")
        self.connect_timeouts = counter("connect_timeouts_total", "Connections that timed out")
        self.pending_active = gauge("pending_active", "Requests waiting for a connection")
        self.overflow = counter("overflow_total", "Requests refused at a limit")
        self.replays = counter(
            "replays_total", "Requests sent again because an idle connection had been closed"
        )
        self.bytes_sent = counter("bytes_sent_total", "Body bytes sent to the cluster")
        self.bytes_received = counter("bytes_received_total", "Body bytes received from it")
        self.duration = registry.histogram(
            "meshproxy_cluster_request_duration_seconds",
            "From the request's head sent to the response's end",
            LATENCY_BOUNDS,
            labels,
        )
        # Looked up once: the path of a request indexes the slots itself.
        self.duration_base = self.duration.base
        self.duration_sum = self.duration.sum_slot
        self.connect_duration = registry.histogram(
            "meshproxy_cluster_connect_duration_seconds",
            "Time to connect",
            LATENCY_BOUNDS,
            labels,
        )


class Cluster:
    """Endpoints and how to reach them. Durations are in seconds."""

    def __init__(self, name: str, config: ClusterConfig, registry: Registry) -> None:
        self.name = name
        self.name_bytes = name.encode()
        self.config = config
        self.endpoints = tuple(Endpoint(e.address, e.weight) for e in config.endpoints)
        self.pick: Callable[[], Endpoint | None] = BALANCERS[config.balance](self.endpoints).pick
        self.connect_timeout: float = config.connect_timeout
        self.proxy_protocol: str | None = config.proxy_protocol
        self.nodelay: bool = config.nodelay
        self.keepalive: bool | float = config.keepalive
        self.stats = ClusterStats(registry, name)
        registry.sample(
            "meshproxy_cluster_active",
            "Requests (HTTP) or connections (TCP) in flight",
            {"cluster": name},
            lambda: sum(endpoint.active for endpoint in self.endpoints),
        )
        #: Requests waiting for a connection, over all endpoints.
        self.pending = 0

    def describe(self) -> dict[str, object]:
        """What the admin shows."""
        return {
            "name": self.name,
            "balance": self.config.balance,
            "pending": self.pending,
            "endpoints": [
                {
                    "address": endpoint.address.text,
                    "weight": endpoint.weight,
                    "active": endpoint.active,
                    "connections": endpoint.connections,
                }
                for endpoint in self.endpoints
            ],
        }


def weighted_pick(to: Mapping[str, int], clusters: Mapping[str, Cluster]) -> Callable[[], Cluster]:
    """A function that picks a cluster by the weights of a route's ``to``."""
    chosen = [clusters[name] for name in to]
    if len(chosen) == 1:
        only = chosen[0]
        return lambda: only
    bounds = list(accumulate(to.values()))
    total = bounds[-1]
    return lambda: chosen[bisect_right(bounds, random() * total)]

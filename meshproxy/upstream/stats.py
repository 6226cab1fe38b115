"""
The registry slots of a cluster: named once here, for every protocol that uses clusters.

The law it keeps: ``values[stats.x] += 1`` counts; what somebody counts anyway is sampled when it
is looked at and costs the path of a request nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from meshproxy.upstream.endpoint import STATES

if TYPE_CHECKING:
    from meshproxy.observe.registry import Histogram, Registry
    from meshproxy.upstream.cluster import Cluster

#: Upper bounds of the latency histograms, in seconds.
LATENCY_BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
)  # fmt: skip

#: Why an endpoint is ejected, as the label ``reason`` says.
REASONS = ("consecutive", "local", "success_rate", "failure_percentage", "probe")


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
        # Over a limit: which one.
        self.overflow_connections = counter(
            "overflow_connections_total", "Requests refused: no connection allowed"
        )
        self.overflow_pending = counter(
            "overflow_pending_total", "Requests refused: too many waiting, or for too long"
        )
        self.overflow_requests = counter(
            "overflow_requests_total", "Requests refused: too many under way"
        )
        self.overflow_endpoints = counter(
            "overflow_endpoints_total", "Requests refused: every endpoint has enough"
        )
        self.overflow_retries = counter(
            "overflow_retries_total", "Retries not made: too many under way"
        )
        self.no_endpoint = counter(
            "no_endpoint_total", "Requests and connections for which no endpoint was well"
        )
        self.replays = counter(
            "replays_total", "Requests sent again because an idle connection had been closed"
        )
        self.retries = counter("retries_total", "Requests sent again by a retry policy")
        self.retries_succeeded = counter(
            "retries_succeeded_total", "Retried requests that ended with a good response"
        )
        self.retries_exhausted = counter(
            "retries_exhausted_total", "Requests that failed with no attempt left"
        )
        self.hedges = counter("hedges_total", "Tries begun beside a slow one")
        self.per_try_timeouts = counter("per_try_timeouts_total", "Tries that took too long")
        self.mirrored = counter("mirrored_total", "Copies of requests sent here and ignored")
        self.mirror_failures = counter(
            "mirror_failures_total", "Copies that were not sent, or not answered"
        )
        self.bytes_sent = counter("bytes_sent_total", "Body bytes sent to the cluster")
        self.bytes_received = counter("bytes_received_total", "Body bytes received from it")
        self.ejections = {
            reason: registry.counter(
                "meshproxy_cluster_ejections_total",
                "Circuit breakers of endpoints that opened",
                {"cluster": name, "reason": reason},
            )
            for reason in REASONS
        }
        self.ejections_refused = counter(
            "ejections_refused_total", "Breakers that stayed closed: max_ejection_percent"
        )
        self.became_healthy = counter("became_healthy_total", "Endpoints that became healthy")
        self.became_unhealthy = counter("became_unhealthy_total", "Endpoints that became unhealthy")
        self.checks_passed = counter("health_checks_passed_total", "Health checks that passed")
        self.checks_failed = counter("health_checks_failed_total", "Health checks that failed")
        self.updates = counter("discovery_updates_total", "Answers of the source of endpoints")
        self.update_failures = counter(
            "discovery_failures_total", "Times that the source of endpoints failed"
        )
        self.idle_closed = counter(
            "connections_idle_closed_total", "Connections closed because nothing used them"
        )
        self.aged_closed = counter(
            "connections_aged_closed_total",
            "Connections closed for their age or their number of requests",
        )
        self.duration = registry.histogram(
            "meshproxy_cluster_request_duration_seconds",
            "From the request's head sent to the response's end",
            LATENCY_BOUNDS,
            labels,
        )
        # Looked up once: the path of a request indexes the slots itself.
        self.duration_base = self.duration.base
        self.duration_sum = self.duration.sum_slot
        self.first_byte = registry.histogram(
            "meshproxy_cluster_first_byte_seconds",
            "From the last try's beginning to the response's head",
            LATENCY_BOUNDS,
            labels,
        )
        self.first_byte_base = self.first_byte.base
        self.first_byte_sum = self.first_byte.sum_slot
        self.connect_duration = registry.histogram(
            "meshproxy_cluster_connect_duration_seconds",
            "Time to connect, TLS included",
            LATENCY_BOUNDS,
            labels,
        )

    def mean(self, histogram: Histogram) -> float:
        """The average of what was observed since the start, in seconds; 0.0 of nothing."""
        values = self.values
        count = sum(values[histogram.base : histogram.sum_slot])
        return values[histogram.sum_slot] / count if count else 0.0


def sample_cluster(registry: Registry, cluster: Cluster) -> None:
    """Gauges of what a cluster counts anyway, read when somebody looks."""
    labels = {"cluster": cluster.name}
    registry.sample(
        "meshproxy_cluster_active",
        "Requests (HTTP) or connections (TCP) in flight",
        labels,
        lambda: sum(endpoint.active for endpoint in cluster.endpoints),
    )
    for number, state in enumerate(STATES):
        registry.sample(
            "meshproxy_cluster_endpoints",
            "Endpoints by what they are at this moment",
            {**labels, "state": state},
            # Bound now: each has its own.
            lambda number=number: cluster.states[number],  # type: ignore[misc]
        )
    stats = cluster.stats
    for what, text, histogram in (
        ("connect", "Average time to connect, since the start", stats.connect_duration),
        ("first_byte", "Average time to a response's head, since the start", stats.first_byte),
    ):
        registry.sample(
            f"meshproxy_cluster_{what}_average_seconds",
            text,
            labels,
            partial(stats.mean, histogram),
        )
    limits = cluster.limits
    registry.sample(
        "meshproxy_cluster_limited_connections",
        "Connections that count for the limit: open ones and those being opened",
        labels,
        lambda: limits.connections,
    )
    for priority in ("default", "high"):
        held = limits.high if priority == "high" else limits.default
        if priority == "high" and held is limits.default:
            continue
        for what, text in (
            ("requests", "Requests under way, waiting ones included"),
            ("pending", "Requests waiting for a connection, by the priority of their routes"),
            ("retries", "Retries under way"),
        ):
            registry.sample(
                f"meshproxy_cluster_limited_{what}",
                text,
                {**labels, "priority": priority},
                partial(getattr, held, what),
            )

"""
A cluster in words, for the admin: all that tells why an endpoint gets traffic or gets none.

The law it keeps: what it returns is JSON's, and ``endpoints`` is in the order of the cluster's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from meshproxy.upstream.endpoint import BREAKERS, CLOSED, STATES, UNLIMITED

if TYPE_CHECKING:
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group
    from meshproxy.upstream.limits import Limits


def describe(cluster: Cluster, groups: Iterable[Group]) -> dict[str, Any]:
    """What the admin shows of a cluster."""
    limits = cluster.limits
    said: dict[str, Any] = {
        "name": cluster.name,
        "balance": getattr(cluster.config.balance, "label", cluster.config.balance),
        "states": dict(zip(STATES, cluster.states, strict=True)),
        "limits": {
            "connections": [limits.connections, limits.default.max_connections],
            "default": _limits(limits.default),
        },
        "average_seconds": {
            "connect": round(cluster.stats.mean(cluster.stats.connect_duration), 6),
            "first_byte": round(cluster.stats.mean(cluster.stats.first_byte), 6),
        },
        "groups": [group.describe() for group in groups],
        "endpoints": [_endpoint(cluster, endpoint) for endpoint in cluster.endpoints],
    }
    if limits.high is not limits.default:
        said["limits"]["high"] = _limits(limits.high)
    return said


def _limits(limits: Limits) -> dict[str, Any]:
    """What is used, and how much of it there is at most."""
    return {
        "requests": [limits.requests, limits.max_requests],
        "pending": [limits.pending, limits.max_pending],
        "retries": [limits.retries, limits.most_retries()],
    }


def _endpoint(cluster: Cluster, endpoint: Endpoint) -> dict[str, Any]:
    spec = endpoint.spec
    said = {
        "address": spec.text,
        "name": spec.name,
        "weight": endpoint.weight,
        "share": round(endpoint.share, 4),
        "priority": spec.priority,
        "labels": dict(spec.labels),
        "zone": spec.zone,
        "healthy": endpoint.healthy,
        "breaker": BREAKERS[endpoint.breaker],
        "usable": endpoint.usable,
        "offered": endpoint in cluster.offers,
        "active": endpoint.active,
        "connections": endpoint.connections,
        "answered": endpoint.answered,
        "failed": endpoint.failed,
        "max_active": None if endpoint.max_active >= UNLIMITED else endpoint.max_active,
    }
    if cluster.breaker is not None and endpoint.breaker != CLOSED:
        said["ejection"] = cluster.breaker.describe(endpoint)
    if endpoint.adaptive is not None:
        said["adaptive"] = endpoint.adaptive.describe()
    if endpoint.bucket is not None:
        said["rate_left"] = endpoint.bucket.left(cluster.wheel.now())
    return said

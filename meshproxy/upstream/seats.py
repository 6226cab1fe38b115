"""
Metrics of single endpoints, where ``endpoint_metrics`` asks for them.

The law it keeps: slots of a registry are never freed, so a cluster has :data:`MOST` seats at most,
one for each key that was ever known; an endpoint that is gone leaves its seat, which shows 0 and
keeps nothing alive, and whoever comes back under the key takes it again. Reading is all it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.python import log

from meshproxy.upstream.endpoint import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.observe.registry import Registry
    from meshproxy.upstream.endpoint import Endpoint

MOST = 1000

SHOWN: dict[str, tuple[str, Callable[[Endpoint], float]]] = {
    "active": ("Requests (HTTP) or connections (TCP) in flight", lambda e: e.active),
    "answered": ("Responses that were no failures, since it came", lambda e: e.answered),
    "failed": ("Failures, since it came", lambda e: e.failed),
    "connections": ("Open connections", lambda e: e.connections),
    "healthy": ("1 when its health checks pass or there are none", lambda e: int(e.healthy)),
    "breaker": ("0 closed, 1 open, 2 half-open", lambda e: e.breaker),
    "max_active": (
        "What it may have in flight by its concurrency limit, adaptive or not; 0: no limit",
        lambda e: e.max_active if e.max_active < UNLIMITED else 0,
    ),
}


class _Seat:
    """Who is shown under one key."""

    __slots__ = ("endpoint",)

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None

    def reader(self, of: Callable[[Endpoint], float]) -> Callable[[], float]:
        """What the registry calls."""

        def read() -> float:
            endpoint = self.endpoint
            return 0 if endpoint is None else of(endpoint)

        return read


class EndpointSeats:
    """The endpoint metrics of one cluster."""

    def __init__(self, registry: Registry, cluster: str) -> None:
        self._registry = registry
        self._cluster = cluster
        self._seats: dict[str, _Seat] = {}
        self._full = False

    def take(self, endpoint: Endpoint) -> None:
        """Show this endpoint from now on, if there is a seat."""
        key = endpoint.spec.key
        seat = self._seats.get(key)
        if seat is None:
            if len(self._seats) >= MOST:
                if not self._full:
                    self._full = True
                    log.msg(f"metrics cluster={self._cluster} endpoints={MOST} more=hidden")
                return
            seat = self._seats[key] = _Seat()
            labels = {"cluster": self._cluster, "endpoint": key}
            for what, (text, of) in SHOWN.items():
                name = f"meshproxy_endpoint_{what}"
                self._registry.sample(name, text, labels, seat.reader(of))
        seat.endpoint = endpoint

    def leave(self, endpoint: Endpoint) -> None:
        """It is gone."""
        seat = self._seats.get(endpoint.spec.key)
        if seat is not None and seat.endpoint is endpoint:
            seat.endpoint = None

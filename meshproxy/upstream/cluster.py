"""
A cluster: endpoints that do the same work, and ways to choose among them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import random
from typing import TYPE_CHECKING, Any

from meshproxy.upstream.endpoint import Endpoint, EndpointSpec
from meshproxy.upstream.group import Group
from meshproxy.upstream.limits import LimitSet
from meshproxy.upstream.stats import LATENCY_BOUNDS as LATENCY_BOUNDS
from meshproxy.upstream.stats import ClusterStats as ClusterStats

try:
    from meshproxy.upstream.breaker import Breaker  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    Breaker = None

if TYPE_CHECKING:
    from meshproxy.config import Cluster as ClusterConfig
    from meshproxy.config.cluster import Endpoint as EndpointConfig
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.registry import Registry


def _all_known(config: ClusterConfig) -> bool:
    """Whether every endpoint is an address, so that nothing has to be looked up."""
    return bool(config.endpoints) and all(
        endpoint.address is not None and endpoint.address.family for endpoint in config.endpoints
    )


def spec_of(config: EndpointConfig) -> EndpointSpec:
    """What a configuration says of an endpoint whose address is a number or a path."""
    address = config.address
    assert address is not None
    assert address.family
    check = config.health_check
    return EndpointSpec(
        address.text,
        address.family,
        address.sockaddr,
        address.text,
        config.weight,
        config.priority,
        config.labels,
        config.zone,
        "",
        (check.port or 0) if check is not None else 0,
        check is None or not check.disabled,
    )


class Cluster:
    """
    Endpoints and how to reach them. Durations are in seconds.

    ``zone`` is the proxy's own.
    """

    def __init__(
        self,
        name: str,
        config: ClusterConfig,
        registry: Registry,
        wheel: TimerWheel,
        zone: str = "",
    ) -> None:
        self.name = name
        self.name_bytes = name.encode()
        self.config = config
        self.wheel = wheel
        self.zone = zone
        self.connect_timeout: float = config.connect_timeout
        self.proxy_protocol: str | None = config.proxy_protocol
        self.nodelay: bool = config.nodelay
        self.keepalive: bool | float = config.keepalive
        self.stats = ClusterStats(registry, name)
        self.limits = LimitSet(config.limits, config.retry_budget)
        #: Judges responses and failures; None without ``circuit_breaker``.
        self.breaker: Any = None
        if config.circuit_breaker is not None and Breaker is not None:
            self.breaker = Breaker(self, config.circuit_breaker)
        #: Called after every ``update``.
        self.watchers: list[Callable[[], None]] = []
        self.endpoints: tuple[Endpoint, ...] = ()
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._pools: Callable[[Endpoint], Any] | None = None
        registry.sample(
            "meshproxy_cluster_active",
            "Requests (HTTP) or connections (TCP) in flight",
            {"cluster": name},
            lambda: sum(endpoint.active for endpoint in self.endpoints),
        )
        if _all_known(config):
            self.update([spec_of(endpoint) for endpoint in config.endpoints])

    def update(self, specs: Sequence[EndpointSpec]) -> None:
        """These are the endpoints now; those that were known already stay what they are."""
        known = {endpoint.spec.key: endpoint for endpoint in self.endpoints}
        found: dict[str, Endpoint] = {}
        for spec in specs:
            endpoint = known.get(spec.key)
            if endpoint is None:
                endpoint = Endpoint(spec)
                if self._pools is not None:
                    endpoint.pool = self._pools(endpoint)
            else:
                endpoint.tell(spec)
            found[spec.key] = endpoint
        gone = [endpoint for key, endpoint in known.items() if key not in found]
        self.endpoints = tuple(found.values())
        for endpoint in gone:
            endpoint.removed = True
            if endpoint.pool is not None:
                endpoint.pool.close()
        self.changed()
        for watcher in self.watchers:
            watcher()

    def changed(self) -> None:
        """An endpoint's health or breaker changed: choose anew."""
        for group in self._groups.values():
            group.refresh()

    def use_pools(self, make: Callable[[Endpoint], Any]) -> None:
        """Give every endpoint, those that come later too, a pool. The first maker is kept."""
        if self._pools is None:
            self._pools = make
            for endpoint in self.endpoints:
                endpoint.pool = make(endpoint)

    def group(self, labels: Mapping[str, str] | None = None, priority: str = "default") -> Group:
        """The group of endpoints with these labels, besides the cluster's own ``subset``."""
        wanted = {**self.config.subset, **(labels or {})}
        key = (priority, *sorted(wanted.items()))
        group = self._groups.get(key)
        if group is None:
            limits = self.limits.high if priority == "high" else self.limits.default
            group = self._groups[key] = Group(self, wanted, limits)
        return group

    def offer(self, endpoint: Endpoint) -> None:
        """
        The next pick of a group that holds this half-open endpoint returns it, once.

        Whoever returns it calls ``breaker.taken(endpoint)`` then, before ``active`` is counted up:
        verdicts close or open a half-open breaker only after that.
        """

    def by_token(self, token: bytes) -> Endpoint | None:
        """The usable endpoint that a sticky cookie's value stands for."""
        return None

    def describe(self) -> dict[str, object]:
        """What the admin shows."""
        return {
            "name": self.name,
            "balance": self.config.balance,
            "pending": self.limits.default.pending,
            "endpoints": [
                {
                    "address": endpoint.spec.text,
                    "weight": endpoint.weight,
                    "active": endpoint.active,
                    "connections": endpoint.connections,
                }
                for endpoint in self.endpoints
            ],
        }


def weighted_pick(groups: Sequence[Group], weights: Sequence[int]) -> Callable[[], Group]:
    """A function that picks a group by weight."""
    if len(groups) == 1:
        only = groups[0]
        return lambda: only
    bounds = list(accumulate(weights))
    total = bounds[-1]
    return lambda: groups[bisect_right(bounds, random() * total)]

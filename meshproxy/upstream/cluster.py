"""
A cluster: endpoints that do the same work, and ways to choose among them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, islice
from random import random
from typing import TYPE_CHECKING, Any

from twisted.python import log

from meshproxy.upstream.adaptive import Adaptive
from meshproxy.upstream.balancer import BALANCERS, Balancing
from meshproxy.upstream.breaker import Breaker
from meshproxy.upstream.building import Yard
from meshproxy.upstream.describe import describe
from meshproxy.upstream.endpoint import (
    CLOSED,
    HALF_OPEN,
    HEALTHY,
    STATES,
    UNHEALTHY,
    Endpoint,
    EndpointSpec,
)
from meshproxy.upstream.group import Group
from meshproxy.upstream.hashing import token_of
from meshproxy.upstream.limits import LimitSet
from meshproxy.upstream.rate import TokenBucket
from meshproxy.upstream.seats import EndpointSeats
from meshproxy.upstream.slowstart import SlowStart
from meshproxy.upstream.stats import LATENCY_BOUNDS as LATENCY_BOUNDS
from meshproxy.upstream.stats import ClusterStats as ClusterStats
from meshproxy.upstream.stats import sample_cluster

if TYPE_CHECKING:
    from meshproxy.config import Cluster as ClusterConfig
    from meshproxy.config.cluster import Endpoint as EndpointConfig
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.registry import Registry

#: Endpoints of a cluster.
MOST = 10_000
#: About the seconds that choosing anew costs for each endpoint and group; the part of the time that
#: may be spent on it; and what is so little work that it is never put off.
COST = 2e-6
BUSY = 0.05
SMALL = 512


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
        config.server_name or "",
    )


class Cluster:
    """
    Endpoints and how to reach them. Durations are in seconds.

    ``zone`` is the proxy's own. ``balancing`` makes balancers where ``config.balance`` is a
    plugin.
    """

    def __init__(
        self,
        name: str,
        config: ClusterConfig,
        registry: Registry,
        wheel: TimerWheel,
        zone: str = "",
        balancing: Balancing | None = None,
    ) -> None:
        self.name = name
        self.name_bytes = name.encode()
        self.config = config
        self.wheel = wheel
        self.zone = zone
        #: What makes balancers; None where the choice is by hash.
        self.balancing: Balancing | None = balancing
        if isinstance(config.balance, str):
            self.balancing = BALANCERS.get(config.balance)
        elif balancing is None:
            raise ValueError(f"cluster {name}: nobody made the balancer '{config.balance.label}'")
        self.connect_timeout: float = config.connect_timeout
        self.proxy_protocol: str | None = config.proxy_protocol
        self.nodelay: bool = config.nodelay
        self.keepalive: bool | float = config.keepalive
        #: Makes TLS of connections to the endpoints (``meshproxy.tls.client.ClientTls``), or None.
        self.tls: Any = None
        self.stats = ClusterStats(registry, name)
        self.limits = LimitSet(config.limits, config.retry_budget)
        #: Whether an endpoint may have enough, so that a balancer's choice is looked at.
        self.limited: bool = config.endpoint_limits != type(config.endpoint_limits)()
        #: Judges responses and failures; None without ``circuit_breaker``.
        self.breaker: Breaker | None = None
        if config.circuit_breaker is not None:
            self.breaker = Breaker(self, config.circuit_breaker)
        #: Called after every ``update``.
        self.watchers: list[Callable[[], None]] = []
        self.endpoints: tuple[Endpoint, ...] = ()
        #: How many endpoints are in each of STATES.
        self.states = [0] * len(STATES)
        #: Half-open endpoints whose next request is a probe.
        self.offers: list[Endpoint] = []
        #: Whether no endpoint was ever known; tables are built at once then.
        self.fresh = True
        self.yard = Yard(wheel)
        self._tokens: dict[bytes, Endpoint] = {}
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._pools: Callable[[Endpoint], Any] | None = None
        self._slow: SlowStart | None = None
        if config.slow_start is not None:
            self._slow = SlowStart(config.slow_start, wheel, self._refresh)
        self._late = _Late(self._refresh)
        self._refreshed = float("-inf")
        self._seats = EndpointSeats(registry, name) if config.endpoint_metrics else None
        sample_cluster(registry, self)
        if _all_known(config):
            self.update([spec_of(endpoint) for endpoint in config.endpoints])

    # Endpoints.

    def update(self, specs: Sequence[EndpointSpec]) -> None:
        """
        These are the endpoints now; those that were known already stay what they are. One that
        TLS asks for by another name from now on is another one, with connections of its own.

        Of more than :data:`MOST` the rest is left out.
        """
        wanted = {spec.key: spec for spec in specs}
        if len(wanted) > MOST:
            log.msg(f"discovery cluster={self.name} endpoints={len(wanted)} used={MOST}")
            wanted = dict(islice(wanted.items(), MOST))
        known = {endpoint.spec.key: endpoint for endpoint in self.endpoints}
        if self.fresh or {key: endpoint.spec for key, endpoint in known.items()} != wanted:
            self._replace(known, wanted)
        for watcher in tuple(self.watchers):
            watcher()

    def _replace(self, known: dict[str, Endpoint], wanted: dict[str, EndpointSpec]) -> None:
        # Those that are there when traffic begins share it from the first request.
        since = float("-inf") if self.fresh else self.wheel.now()
        found = []
        for key, spec in wanted.items():
            endpoint = known.pop(key, None)
            if endpoint is not None and self._renamed(endpoint.spec, spec):
                self._drop(endpoint)
                endpoint = None
            if endpoint is None:
                endpoint = Endpoint(spec)
                endpoint.since = since
                self._equip(endpoint)
            elif endpoint.spec != spec:
                endpoint.tell(spec)
            found.append(endpoint)
        self.endpoints = tuple(found)
        for endpoint in known.values():
            self._drop(endpoint)
        self._tokens = {endpoint.token: endpoint for endpoint in found}
        for group in self._groups.values():
            group.regroup()
        if found:
            self.fresh = False
        # Not to be put off: loads of priorities must be those of the priorities that there are.
        self._refreshed = float("-inf")
        self.changed()

    def _renamed(self, old: EndpointSpec, new: EndpointSpec) -> bool:
        tls = self.config.tls
        return tls is not None and not tls.server_name and old.server_name != new.server_name

    def _equip(self, endpoint: Endpoint) -> None:
        limits = self.config.endpoint_limits
        endpoint.token = token_of(self.name, endpoint.spec.key)
        if limits.concurrency is not None:
            endpoint.max_active = limits.concurrency
        if limits.rate is not None:
            rate = limits.rate
            endpoint.bucket = TokenBucket(rate.requests / rate.per, rate.burst or rate.requests)
        if limits.adaptive is not None:
            endpoint.adaptive = Adaptive(endpoint, limits.adaptive, self.wheel.now)
        if self._pools is not None:
            endpoint.pool = self._pools(endpoint)
        if self._seats is not None:
            self._seats.take(endpoint)

    def _drop(self, endpoint: Endpoint) -> None:
        """It is gone; what is in flight there ends as it will."""
        endpoint.removed = True
        endpoint.usable = False
        endpoint.adaptive = None
        endpoint.bucket = None
        if endpoint in self.offers:
            self.offers.remove(endpoint)
        if self._seats is not None:
            self._seats.leave(endpoint)
        if endpoint.pool is not None:
            try:
                endpoint.pool.retire()
            except Exception:
                # It must not keep the others from being updated.
                log.err(None, f"retiring the pool of {endpoint.spec.text}")

    def changed(self) -> None:
        """
        An endpoint's health or breaker changed: choose anew.

        In a large cluster, where many change at about the same time, that is put off for a
        moment; groups look at each choice meanwhile.
        """
        work = len(self.endpoints) * len(self._groups)
        wait = self._refreshed + work * COST / BUSY - self.wheel.now()
        if work <= SMALL or wait <= 0:
            self._refresh()
        elif not self._late.slot:
            for group in self._groups.values():
                group.beware()
            self.wheel.arm(self._late, self.wheel.now() + wait)

    def _refresh(self) -> None:
        now = self._refreshed = self.wheel.now()
        self.wheel.disarm(self._late)
        slow = self._slow
        states = [0] * len(STATES)
        for endpoint in self.endpoints:
            state = HEALTHY
            if endpoint.breaker != CLOSED or not endpoint.healthy:
                state = endpoint.state_now()
            states[state] += 1
            if state == HEALTHY and endpoint.state != HEALTHY and slow is not None:
                self._returned(endpoint, now)
            endpoint.state = state
            endpoint.usable = state == HEALTHY
        self.states = states
        if slow is not None:
            slow.apply(self.endpoints, now)
        groups = self._groups.values()
        # All of them before any is built: one's panic may make another's endpoints usable.
        for group in groups:
            group.assess()
        for group in groups:
            group.rebuild()

    def _returned(self, endpoint: Endpoint, now: float) -> None:
        """Slow start for what was unhealthy; after a breaker only where that is asked for."""
        breaker = self.config.circuit_breaker
        ejected = endpoint.state != UNHEALTHY
        probed = ejected and breaker is not None and breaker.half_open == "probe"
        endpoint.since = float("-inf") if probed else now

    def use_pools(self, make: Callable[[Endpoint], Any]) -> None:
        """Give every endpoint, those that come later too, a pool. The first maker is kept."""
        if self._pools is None:
            self._pools = make
            for endpoint in self.endpoints:
                endpoint.pool = make(endpoint)

    # Choosing.

    def group(self, labels: Mapping[str, str] | None = None, priority: str = "default") -> Group:
        """The group of endpoints with these labels, besides the cluster's own ``subset``."""
        wanted = {**self.config.subset, **(labels or {})}
        key = (priority, *sorted(wanted.items()))
        group = self._groups.get(key)
        if group is None:
            limits = self.limits.high if priority == "high" else self.limits.default
            group = self._groups[key] = Group(self, wanted, limits)
        return group

    def by_token(self, token: bytes, group: Group) -> Endpoint | None:
        """
        The usable endpoint of ``group`` that a sticky cookie's value stands for, if its limits
        allow one more.

        It takes a token of the endpoint's rate.
        """
        endpoint = self._tokens.get(token)
        if endpoint is None or not endpoint.usable or endpoint.breaker != CLOSED:
            return None
        if not group.holds(endpoint):
            return None
        return endpoint if endpoint.room(self.wheel.now()) else None

    def offer(self, endpoint: Endpoint) -> None:
        """
        The next pick of a group that holds this half-open endpoint returns it, once.

        Whoever returns it calls ``breaker.taken(endpoint)`` then, before ``active`` is counted up:
        verdicts close or open a half-open breaker only after that.
        """
        if not endpoint.removed and endpoint not in self.offers:
            self.offers.append(endpoint)
            self._publish()

    def take_offer(self, group: Group) -> Endpoint | None:
        """An offered endpoint that the group holds: its probe begins."""
        now = self.wheel.now()
        taken = None
        count = len(self.offers)
        for endpoint in tuple(self.offers):
            if endpoint.breaker != HALF_OPEN:
                self.offers.remove(endpoint)
            elif (
                taken is None
                # What fails its checks would fail the probe.
                and endpoint.healthy
                and group.holds(endpoint)
                and endpoint.room(now)
            ):
                self.offers.remove(endpoint)
                taken = endpoint
        if len(self.offers) != count:
            self._publish()
        if taken is not None and self.breaker is not None:
            self.breaker.taken(taken)
        return taken

    def _publish(self) -> None:
        for group in self._groups.values():
            group.publish()

    # The rest.

    def stop(self) -> None:
        """Let go of the wheel, for good."""
        if self.breaker is not None:
            self.breaker.stop()
        if self._slow is not None:
            self._slow.stop()
        self.wheel.disarm(self._late)
        self.yard.stop()

    def describe(self) -> dict[str, Any]:
        """What the admin shows."""
        return describe(self, self._groups.values())


class _Late:
    """A refresh that was put off. An entry of the wheel."""

    __slots__ = ("_refresh", "deadline", "slot")

    def __init__(self, refresh: Callable[[], None]) -> None:
        self.deadline = 0.0
        self.slot = 0
        self._refresh = refresh

    def expired(self, now: float) -> float:
        """It is time."""
        self._refresh()
        return 0.0


def weighted_pick(groups: Sequence[Group], weights: Sequence[int]) -> Callable[[], Group]:
    """A function that picks a group by weight."""
    if len(groups) == 1:
        only = groups[0]
        return lambda: only
    bounds = list(accumulate(weights))
    total = bounds[-1]
    return lambda: groups[bisect_right(bounds, random() * total)]

"""
The endpoints that a route chooses from: all of a cluster, or those with certain labels.

The laws it keeps:

- ``pick`` is the balancer's own bound method while there is one priority to choose from and
  nothing to look at besides; what limits, offers and several priorities cost is paid by those who
  have them.
- An endpoint whose breaker is not closed is not chosen, in a panic neither, but for an offered
  one, once.
- A change of health rebuilds what is O(endpoints) at most, and no table of hashes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from random import getrandbits, random
from typing import TYPE_CHECKING

from meshproxy.upstream import spread
from meshproxy.upstream.endpoint import CLOSED, Endpoint
from meshproxy.upstream.hashing import rehash
from meshproxy.upstream.tables import Table

if TYPE_CHECKING:
    from meshproxy.interfaces import IBalancer
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.limits import Limits

Pick = Callable[[], Endpoint | None]
PickBy = Callable[[int], Endpoint | None]

#: Picks that are tried before endpoints are looked at one by one, and how many are then.
TRIES = 4
SCANNED = 1000


def _nobody() -> None:
    return None


def _nobody_by(number: int) -> None:
    return None


class Group:
    """
    A choice among endpoints, with the limits that count for who chooses.

    ``pick()`` returns an endpoint or None; it is an attribute, replaced whenever the endpoints
    change, so ask the group for it each time. ``pick_by(number)`` is the same for a hash, and the
    same as ``pick`` unless ``by_hash``. Both take a token of the endpoint's rate, if it has one.
    """

    __slots__ = (
        "_balancers",
        "_bounds",
        "_held",
        "_loads",
        "_order",
        "_panicking",
        "_parts",
        "_picks",
        "_picks_by",
        "_plain",
        "_plain_by",
        "_priorities",
        "_raw",
        "_raw_by",
        "_tables",
        "_wary",
        "by_hash",
        "cluster",
        "fallback",
        "labels",
        "limits",
        "pick",
        "pick_by",
    )

    def __init__(self, cluster: Cluster, labels: dict[str, str], limits: Limits) -> None:
        self.cluster = cluster
        self.labels = labels
        self.limits = limits
        #: Whether the cluster balances by hash, so that ``pick_by`` differs from ``pick``.
        self.by_hash: bool = cluster.balancing is None
        #: Whether nobody has the labels, so that ``subsets.fallback`` decided.
        self.fallback = False
        self._held: frozenset[Endpoint] = frozenset()
        self._priorities: list[tuple[int, tuple[Endpoint, ...]]] = []
        self._loads = spread.Loads([], [])
        self._panicking: frozenset[int] = frozenset()
        # All that may be chosen: those that are loaded now, then the others by priority.
        self._order: tuple[Sequence[Endpoint], Sequence[Endpoint]] = ((), ())
        self._balancers: dict[tuple[int, str], IBalancer] = {}
        self._parts: Collection[tuple[int, str]] = ()
        self._tables: dict[int, Table] = {}
        self._picks: list[Pick] = []
        self._picks_by: list[PickBy] = []
        self._bounds: list[float] = []
        # The choice without limits; with them; and what is offered besides.
        self._raw: Pick = _nobody
        self._raw_by: PickBy = _nobody_by
        self._plain: Pick = _nobody
        self._plain_by: PickBy = _nobody_by
        self._wary = False
        self.pick: Pick = _nobody
        self.pick_by: PickBy = _nobody_by
        self.regroup(at_once=True)
        self.assess()
        self.rebuild()

    # What changes when endpoints do. The cluster calls these in this order.

    def regroup(self, at_once: bool = False) -> None:
        """
        Endpoints came or went, or their labels, weights or priorities changed.

        ``at_once``: tables of hashes that are new are built here, not beside the work.
        """
        cluster = self.cluster
        held = _labelled(cluster.endpoints, self.labels)
        self.fallback = not held
        if not held:
            config = cluster.config.subsets
            if config.fallback == "any":
                held = list(cluster.endpoints)
            elif config.fallback == "default":
                held = _labelled(cluster.endpoints, config.default)
        self._held = frozenset(held)
        by_priority: dict[int, list[Endpoint]] = {}
        for endpoint in held:
            by_priority.setdefault(endpoint.spec.priority, []).append(endpoint)
        self._priorities = [(p, tuple(by_priority[p])) for p in sorted(by_priority)]
        # What is in no use must not keep those alive that are gone.
        self._balancers = {key: self._balancers[key] for key in self._parts}
        if self.by_hash:
            self._retable(dict(self._priorities), at_once or self.cluster.fresh)

    def _retable(self, priorities: dict[int, tuple[Endpoint, ...]], at_once: bool) -> None:
        for priority in [priority for priority in self._tables if priority not in priorities]:
            self._tables.pop(priority).forget()
        for priority, held in priorities.items():
            # In an order that every process has.
            endpoints = tuple(sorted(held, key=lambda endpoint: endpoint.spec.key))
            table = self._tables.get(priority)
            if table is None:
                cluster = self.cluster
                self._tables[priority] = Table(
                    str(cluster.config.balance), endpoints, cluster.yard, self.rebuild, at_once
                )
            else:
                table.tell(endpoints)

    def assess(self) -> None:
        """Load the priorities, and see which of them panic: their endpoints are usable, too."""
        config = self.cluster.config
        levels = []
        for _, endpoints in self._priorities:
            well = closed = 0
            for endpoint in endpoints:
                if endpoint.breaker == CLOSED:
                    closed += 1
                    if endpoint.healthy:
                        well += 1
            levels.append(spread.Level(len(endpoints), well, closed))
        self._loads = spread.priority_loads(levels, config.overprovisioning, config.panic_threshold)
        panicking = []
        for (priority, endpoints), panic in zip(self._priorities, self._loads.panics, strict=True):
            if panic:
                panicking.append(priority)
                for endpoint in endpoints:
                    endpoint.usable = endpoint.breaker == CLOSED
        self._panicking = frozenset(panicking)

    def rebuild(self) -> None:
        """Balancers for those that may be chosen now."""
        loaded: list[Endpoint] = []
        others: list[Endpoint] = []
        shares: list[float] = []
        self._picks = []
        self._picks_by = []
        balancers: dict[tuple[int, str], IBalancer] = {}
        balancing = self.cluster.balancing
        for (priority, endpoints), load in zip(self._priorities, self._loads.shares, strict=True):
            panic = priority in self._panicking
            well = [e for e in endpoints if e.breaker == CLOSED and (panic or e.healthy)]
            if not load or not well:
                others += well
                continue
            loaded += well
            if self.by_hash:
                shares.append(load)
                self._picks_by.append(self._tables[priority].pick_by)
                continue
            for part, share, chosen in self._zoned(priority, endpoints, well):
                key = priority, part
                assert balancing is not None
                balancer = balancing(chosen, self._balancers.get(key))
                balancers[key] = balancer
                shares.append(load * share)
                self._picks.append(balancer.pick)
        self._order = loaded, others
        # Those of parts that come and go with health are kept for their positions.
        self._balancers.update(balancers)
        self._parts = balancers.keys()
        self._bounds = list(accumulate(shares))[:-1]
        mixed = self.by_hash and any(e.usable and not self._well(e) for e in self._held)
        self._wary = self.cluster.limited or mixed
        self._arrange()

    def _zoned(
        self, priority: int, endpoints: Sequence[Endpoint], well: list[Endpoint]
    ) -> list[tuple[str, float, list[Endpoint]]]:
        """The parts of a priority by zone: name, share of the traffic, endpoints."""
        cluster = self.cluster
        zone = cluster.zone
        if not (zone and cluster.config.zone_aware) or priority in self._panicking:
            return [("", 1.0, well)]
        local = [endpoint for endpoint in well if endpoint.spec.zone == zone]
        others = [endpoint for endpoint in well if endpoint.spec.zone != zone]
        total = sum(1 for endpoint in endpoints if endpoint.spec.zone == zone)
        level = spread.Level(total, len(local), len(local))
        share = spread.local_share(level, len(others), cluster.config.overprovisioning)
        parts = [("local", share, local), ("others", 1.0 - share, others)]
        return [part for part in parts if part[1] > 0.0]

    def _arrange(self) -> None:
        """Find the cheapest way through what was built."""
        if self.by_hash:
            self._raw = self._any
            picks_by = self._picks_by
            if not picks_by:
                self._raw_by = _nobody_by
            else:
                self._raw_by = picks_by[0] if len(picks_by) == 1 else self._of_several_by
        else:
            self._raw_by = self._ignoring
            picks = self._picks
            if not picks:
                self._raw = _nobody
            else:
                self._raw = picks[0] if len(picks) == 1 else self._of_several
        if self._wary:
            self._plain, self._plain_by = self._admitted, self._admitted_by
        else:
            self._plain, self._plain_by = self._raw, self._raw_by
        self.publish()

    def publish(self) -> None:
        """Endpoints are offered, or are no more."""
        if any(map(self._held.__contains__, self.cluster.offers)):
            self.pick, self.pick_by = self._offered, self._offered_by
        else:
            self.pick, self.pick_by = self._plain, self._plain_by

    def beware(self) -> None:
        """What was built is out of date and stays so for a moment: look at what it chooses."""
        if not self._wary:
            self._wary = True
            self._arrange()

    # Choosing.

    def pick_other(self, tried: Sequence[Endpoint], number: int | None = None) -> Endpoint | None:
        """As ``pick``, or ``pick_by`` with a number; none of ``tried`` while there are others."""
        now = self.cluster.wheel.now()
        if not self.by_hash:
            number = None
        for attempt in range(TRIES):
            if number is not None:
                endpoint = self._raw_by(rehash(number, attempt) if attempt else number)
            else:
                endpoint = self._raw()
            if endpoint is None:
                return None
            if endpoint not in tried and self._well(endpoint) and endpoint.room(now):
                return endpoint
        endpoint = self._search(getrandbits(32), tried)
        if endpoint is None:
            endpoint = self._admitted() if number is None else self._admitted_by(number)
        return endpoint

    def full(self) -> bool:
        """Whether, when ``pick`` gave None, an endpoint was well but had enough."""
        return self.cluster.limited and bool(self._order[0] or self._order[1])

    def holds(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is one of those to choose from, well or not."""
        return endpoint in self._held

    def _of_several(self) -> Endpoint | None:
        return self._picks[bisect_right(self._bounds, random())]()

    def _of_several_by(self, number: int) -> Endpoint | None:
        # Other bits than those that choose in the table.
        place = rehash(number, 0) / 2.0**64
        return self._picks_by[bisect_right(self._bounds, place)](number)

    def _any(self) -> Endpoint | None:
        return self._raw_by(getrandbits(64))

    def _ignoring(self, number: int) -> Endpoint | None:
        return self._raw()

    def _well(self, endpoint: Endpoint) -> bool:
        return (
            endpoint.breaker == CLOSED
            and not endpoint.removed
            and (endpoint.healthy or endpoint.spec.priority in self._panicking)
        )

    def _admitted(self) -> Endpoint | None:
        """As ``_raw``, with an eye on limits."""
        endpoint = self._raw()
        if endpoint is None:
            return None
        # Most often: a limit of concurrency alone, and it is not reached.
        if (
            endpoint.active < endpoint.max_active
            and endpoint.bucket is None
            and endpoint.breaker == CLOSED
            and endpoint.healthy
            and not endpoint.removed
        ):
            return endpoint
        now = self.cluster.wheel.now()
        for _ in range(TRIES):
            if self._well(endpoint) and endpoint.room(now):
                return endpoint
            endpoint = self._raw()
            if endpoint is None:
                return None
        return self._search(getrandbits(32))

    def _admitted_by(self, number: int) -> Endpoint | None:
        if not self.by_hash:
            return self._admitted()
        now = self.cluster.wheel.now()
        for attempt in range(TRIES):
            endpoint = self._raw_by(rehash(number, attempt) if attempt else number)
            if endpoint is None:
                return None
            if self._well(endpoint) and endpoint.room(now):
                return endpoint
        return self._search(number)

    def _search(self, number: int, tried: Sequence[Endpoint] = ()) -> Endpoint | None:
        """The first that will do, from a place that depends on ``number``; backups last."""
        now = self.cluster.wheel.now()
        left = SCANNED
        for endpoints in self._order:
            count = len(endpoints)
            for step in range(min(count, left)):
                endpoint = endpoints[(number + step) % count]
                if endpoint not in tried and self._well(endpoint) and endpoint.room(now):
                    return endpoint
            left -= count
        return None

    def _offered(self) -> Endpoint | None:
        endpoint = self.cluster.take_offer(self)
        return self._plain() if endpoint is None else endpoint

    def _offered_by(self, number: int) -> Endpoint | None:
        endpoint = self.cluster.take_offer(self)
        return self._plain_by(number) if endpoint is None else endpoint

    # Looking.

    def describe(self) -> dict[str, object]:
        """What the admin shows: who gets which part of the traffic."""
        return {
            "labels": dict(self.labels),
            "fallback": self.fallback,
            "endpoints": len(self._held),
            "choosing_from": len(self._order[0]),
            "priorities": [
                {
                    "priority": priority,
                    "endpoints": len(endpoints),
                    "load": round(load, 4),
                    "panic": panic,
                    **({"table": self._tables[priority].describe()} if self.by_hash else {}),
                }
                for (priority, endpoints), load, panic in zip(
                    self._priorities, self._loads.shares, self._loads.panics, strict=True
                )
            ],
        }


def _labelled(endpoints: Sequence[Endpoint], labels: dict[str, str]) -> list[Endpoint]:
    if not labels:
        return list(endpoints)
    wanted = labels.items()
    return [e for e in endpoints if all(e.spec.labels.get(key) == value for key, value in wanted)]

"""Clusters: their endpoints, their statistics, and the weighted choice among them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python import log

from meshproxy.config import load
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.upstream import cluster as module
from meshproxy.upstream.cluster import LATENCY_BOUNDS, Cluster, weighted_pick
from meshproxy.upstream.endpoint import CLOSED, HALF_OPEN, OPEN, Endpoint, EndpointSpec
from tests.upstream.made import cluster, spec

TEXT = """
listeners:
  web:
    listen: 127.0.0.1:1
    http: { routes: [{ to: { one: 1, two: 3 } }] }
clusters:
  one:
    endpoints: [127.0.0.1:9001, { address: "[::1]:9002", weight: 2 }]
    balance: least_request
    connect_timeout: 2s
    keepalive: 30s
    nodelay: false
    proxy_protocol: v2
  two: { endpoints: ["unix:/run/two.sock"] }
"""


def clusters(registry: Registry | None = None) -> dict[str, Cluster]:
    """Those of the text."""
    registry = registry or Registry()
    configured = load(TEXT, "test.yaml").configuration.clusters
    return {
        name: Cluster(name, config, registry, TimerWheel(Clock()))
        for name, config in configured.items()
    }


def test_what_a_cluster_takes_of_its_configuration() -> None:
    """Everything that a connection needs, without asking the model again."""
    one = clusters()["one"]
    assert (one.name, one.name_bytes) == ("one", b"one")
    assert [endpoint.text for endpoint in one.endpoints] == [b"127.0.0.1:9001", b"[::1]:9002"]
    assert [endpoint.weight for endpoint in one.endpoints] == [1, 2]
    assert (one.connect_timeout, one.proxy_protocol) == (2.0, "v2")
    assert (one.nodelay, one.keepalive) == (False, 30.0)
    assert one.group().pick() in one.endpoints
    assert one.limits.default.pending == 0


def test_what_the_admin_shows() -> None:
    """Counts and addresses, as JSON can say them."""
    one = clusters()["one"]
    one.endpoints[0].active = 2
    one.endpoints[0].connections = 3
    one.limits.default.pending = 1
    said = one.describe()
    assert (said["name"], said["balance"]) == ("one", "least_request")
    assert said["limits"]["default"]["pending"] == [1, 1024]
    first, second = said["endpoints"]
    assert (first["address"], first["active"], first["connections"]) == ("127.0.0.1:9001", 2, 3)
    assert (second["address"], second["weight"]) == ("[::1]:9002", 2)
    assert json.loads(json.dumps(said)) == said


def test_statistics_are_slots_of_their_own() -> None:
    """No two of a cluster's numbers share a slot; asking again (a reload) gives the same."""
    registry = Registry()
    first, again = clusters(registry), clusters(registry)
    stats = first["one"].stats
    names = ["connections", "connections_active", "connect_failures", "connect_timeouts"]
    names += ["pending_active", "overflow_pending", "replays", "bytes_sent", "bytes_received"]
    slots = [getattr(stats, name) for name in names] + stats.responses[1:]
    assert len(set(slots)) == len(slots)
    for name in names:
        assert getattr(again["one"].stats, name) == getattr(stats, name)
        assert getattr(first["two"].stats, name) != getattr(stats, name)
    assert stats.values is registry.values
    assert stats.responses[0] == stats.responses[1]


def test_latency_bounds_ascend() -> None:
    """bisect needs it."""
    assert list(LATENCY_BOUNDS) == sorted(set(LATENCY_BOUNDS))


def test_one_cluster_is_no_choice() -> None:
    """A route to one cluster asks for no number."""
    held = clusters()
    group = held["two"].group()
    pick = weighted_pick([group], [5])
    assert {pick() for _ in range(5)} == {group}


def test_weighted_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers spread evenly over [0, 1) give exactly the shares, the ends included."""
    held = clusters()
    numbers = iter([0.0, 0.25, 0.5, 0.75, 0.9999999999999999])
    monkeypatch.setattr(module, "random", lambda: next(numbers))
    pick = weighted_pick([held["one"].group(), held["two"].group()], [1, 3])
    assert Counter(pick().cluster.name for _ in range(5)) == {"one": 1, "two": 4}


# Updates.


def specs(*numbers: int) -> list[EndpointSpec]:
    """Of these ports."""
    return [spec(number) for number in numbers]


def test_names_begin_empty() -> None:
    """A cluster with names or a source waits for what that says."""
    assert cluster(endpoints=["host.example:80"], resolve="strict").endpoints == ()
    mixed = cluster(endpoints=["127.0.0.1:1", "host.example:80"], resolve="strict")
    assert mixed.endpoints == ()
    assert mixed.group().pick() is None


def test_an_update_keeps_those_that_stay() -> None:
    """With what was learnt of them; new ones are new, and those that are gone are marked."""
    made = cluster(specs(1, 2))
    one, two = made.endpoints
    one.answered, two.healthy = 5, False
    made.update([spec(2, 7), spec(3)])
    again, three = made.endpoints
    assert again is two
    assert (two.weight, two.healthy, three.healthy) == (7, False, True)
    assert (one.removed, one.usable, two.removed) == (True, False, False)
    made.update(specs(1, 2, 3))
    assert made.endpoints[0] is not one
    assert made.endpoints[0].answered == 0


@pytest.mark.parametrize(
    ("tls", "stays"),
    [({"tls": True}, False), ({"tls": {"server_name": "fixed.example"}}, True), ({}, True)],
)
def test_another_name_for_tls_is_another_endpoint(tls: Any, stays: bool) -> None:
    """No connection that was verified for the old name serves the new one."""
    made = cluster([spec(1, server_name="a.example"), spec(2)], **tls)
    made.use_pools(FakePool)
    one, two = made.endpoints
    made.update([spec(1, 7, server_name="b.example"), spec(2)])
    assert made.endpoints[1] is two
    assert (made.endpoints[0] is one) is stays
    assert made.endpoints[0].weight == 7
    assert made.endpoints[0].server_name == b"b.example"
    assert (one.removed, one.pool.retired) == ((False, 0) if stays else (True, 1))


def test_an_update_that_says_nothing_new() -> None:
    """Nobody is chosen anew, whatever the order; watchers are told all the same."""
    made = cluster(specs(1, 2))
    told: list[int] = []
    made.watchers.append(lambda: told.append(len(made.endpoints)))
    group = made.group()
    before, pick = made.endpoints, group.pick
    made.update(specs(2, 1))
    assert made.endpoints is before
    assert group.pick is pick
    made.update(specs(1, 2, 3))
    assert group.pick is not pick
    assert told == [2, 3]


def test_the_same_key_twice() -> None:
    """Is one endpoint: what was said last."""
    made = cluster([spec(1, 2), spec(1, 3)])
    assert [endpoint.weight for endpoint in made.endpoints] == [3]


def test_endpoints_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the most are left out, and that is said."""
    said: list[str] = []
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(log, "msg", said.append)
    made = cluster(specs(1, 2, 3, 4, 5))
    assert len(made.endpoints) == 3
    assert said == ["discovery cluster=api endpoints=5 used=3"]


class FakePool:
    """What happens to a pool."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.retired = 0

    def retire(self) -> None:
        self.retired += 1
        raise ValueError("a defect of a pool")


def test_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each endpoint has one of the first maker's; one that is gone retires; defects are logged."""
    errors: list[Any] = []
    monkeypatch.setattr(log, "err", lambda *args: errors.append(args))
    made = cluster(specs(1, 2))
    made.use_pools(FakePool)
    made.use_pools(lambda endpoint: None)
    one = made.endpoints[0]
    made.update(specs(2, 3))
    assert [endpoint.pool.endpoint for endpoint in made.endpoints] == list(made.endpoints)
    assert one.pool.retired == 1
    assert [endpoint.pool.retired for endpoint in made.endpoints] == [0, 0]
    assert len(errors) == 1


def test_limits_of_endpoints() -> None:
    """Each new endpoint has its own; one that is gone has none that keep it."""
    limits = {"concurrency": 3, "rate": {"requests": 2, "per": "1s"}}
    made = cluster(specs(1, 2), endpoint_limits=limits)
    one, two = made.endpoints
    assert made.limited
    assert (one.max_active, two.max_active) == (3, 3)
    assert one.bucket is not two.bucket
    made = cluster(specs(1), endpoint_limits={"adaptive": {}})
    (one,) = made.endpoints
    assert one.max_active == 20
    made.update([])
    assert (one.adaptive, one.bucket) == (None, None)
    assert not cluster().limited


# Sticky.


def test_a_token_of_another_subset() -> None:
    """A token leads to nobody outside the labels asked for, and costs that endpoint no turn."""
    made = cluster(
        [spec(1, labels={"version": "v1"}), spec(2, labels={"version": "v2"})],
        endpoint_limits={"rate": {"requests": 1, "per": "1h"}},
    )
    one, _ = made.endpoints
    assert made.by_token(one.token, made.group({"version": "v2"})) is None
    assert made.by_token(one.token, made.group({"version": "v1"})) is one


def test_tokens() -> None:
    """A token finds its endpoint while that is usable, known, and has room."""
    made = cluster(specs(1, 2), endpoint_limits={"concurrency": 1})
    one, two = made.endpoints
    assert made.by_token(one.token, made.group()) is one
    assert made.by_token(two.token, made.group()) is two
    assert made.by_token(b"0123456789abcdef", made.group()) is None
    assert made.by_token(b"", made.group()) is None
    one.active = 1
    assert made.by_token(one.token, made.group()) is None
    one.active, one.breaker = 0, OPEN
    # Even before anybody chose anew.
    assert made.by_token(one.token, made.group()) is None
    one.breaker, two.healthy = CLOSED, False
    made.endpoints[0].healthy = True
    made.update(specs(1, 2, 3, 4))
    assert made.by_token(two.token, made.group()) is None
    assert made.by_token(one.token, made.group()) is one
    made.update(specs(2, 3))
    assert made.by_token(one.token, made.group()) is None


def test_a_token_takes_of_the_rate() -> None:
    """A client that stays is counted, too."""
    made = cluster(specs(1), endpoint_limits={"rate": {"requests": 1}})
    token = made.endpoints[0].token
    assert made.by_token(token, made.group()) is not None
    assert made.by_token(token, made.group()) is None


# Slow start.


class Slow:
    """A cluster with slow start over ten seconds, on a clock."""

    def __init__(self, **config: Any) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.made = cluster(
            clock=self.clock, slow_start="10s", panic_threshold=0,
            endpoints=["127.0.0.1:1", "127.0.0.1:2"], **config,
        )  # fmt: skip
        self.group = self.made.group()

    def later(self, seconds: float) -> None:
        """Time passes."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def part(self, number: int, picks: int = 1000) -> float:
        """Its part of the next picks."""
        chosen = self.made.endpoints[number]
        return sum(self.group.pick() is chosen for _ in range(picks)) / picks


def test_a_new_endpoint_starts_slowly() -> None:
    """Those of the very first update do not; then its part grows; at the end no timer is left."""
    slow = Slow()
    assert slow.part(0) == 0.5
    assert len(slow.made.wheel) == 0
    slow.made.update(specs(1, 2, 3))
    assert slow.part(2) == pytest.approx(0.1 / 2.1, abs=0.01)
    slow.later(5.2)
    # A step is about a second old at most.
    assert 0.39 / 2.39 < slow.part(2) < 0.53 / 2.53
    slow.later(6)
    assert slow.part(2) == pytest.approx(1 / 3, abs=0.01)
    assert len(slow.made.wheel) == 0


def test_a_weight_told_in_the_window() -> None:
    """An update meanwhile does not end the slow start."""
    slow = Slow()
    slow.made.update(specs(1, 2, 3))
    slow.made.update([spec(1), spec(2), spec(3, 10)])
    assert slow.part(2) == pytest.approx(1 / 3, abs=0.02)


def test_one_that_became_healthy_starts_slowly() -> None:
    """From the moment that the cluster is told."""
    slow = Slow()
    two = slow.made.endpoints[1]
    two.healthy = False
    slow.made.changed()
    slow.later(3)
    two.healthy = True
    slow.made.changed()
    assert two.share == pytest.approx(0.1)
    slow.later(11)
    assert two.share == 1


@pytest.mark.parametrize(("half_open", "share"), [("slow_start", 0.1), ("probe", 1)])
def test_one_whose_breaker_closed(half_open: str, share: float) -> None:
    """Starts slowly where that is how it returns; a probe that succeeded is enough otherwise."""
    slow = Slow(circuit_breaker={"half_open": half_open})
    two = slow.made.endpoints[1]
    for state in (OPEN, HALF_OPEN, CLOSED):
        two.breaker = state
        slow.made.changed()
    assert two.share == pytest.approx(share)


# Breakers.


def test_the_whole_way_of_a_breaker() -> None:
    """Failures open it, time half-opens it, one probe closes it: with the real one."""
    clock = Clock()
    made = cluster(
        specs(1, 2),
        clock=clock,
        circuit_breaker={"failure_threshold": 2, "base_ejection_time": "3s"},
    )
    group, breaker = made.group(), made.breaker
    assert breaker is not None
    one, two = made.endpoints
    for _ in range(2):
        one.failed += 1
        breaker.failed(one, False)
    assert {group.pick() for _ in range(10)} == {two}
    assert made.by_token(one.token, made.group()) is None
    for _ in range(65):
        clock.advance(0.05)
    assert group.pick() is one
    one.active += 1
    assert {group.pick() for _ in range(10)} == {two}
    one.active -= 1
    one.answered += 1
    breaker.succeeded(one)
    assert {group.pick() for _ in range(10)} == {one, two}


# Many changes in a large cluster.


def test_many_changes_at_once_are_put_together() -> None:
    """A large cluster is not chosen anew for each of them, yet nobody ejected is chosen."""
    clock = Clock()
    clock.advance(50)
    made = cluster([spec(n) for n in range(1, 1001)], clock=clock, panic_threshold=0)
    group = made.group()
    made.changed()
    refreshed: list[int] = []
    rebuild = type(group).rebuild

    def counted(self: Any) -> None:
        refreshed.append(1)
        rebuild(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(group), "rebuild", counted)
        for endpoint in made.endpoints[:900]:
            endpoint.breaker = OPEN
            made.changed()
        assert not refreshed
        picked = [group.pick() for _ in range(500)]
        assert all(endpoint is not None and endpoint.breaker == CLOSED for endpoint in picked)
        assert group.pick_other([]) not in made.endpoints[:900]
        for _ in range(20):
            clock.advance(0.05)
        assert len(refreshed) == 1
    assert {group.pick() for _ in range(200)} == set(made.endpoints[900:])
    # The wary way is left again.
    assert group.pick == group._raw
    assert not clock.getDelayedCalls()


def test_a_small_cluster_is_never_put_off() -> None:
    """Each change counts at once."""
    made = cluster(specs(1, 2, 3), panic_threshold=0)
    group = made.group()
    for endpoint in made.endpoints:
        endpoint.healthy = False
        made.changed()
        assert endpoint not in {group.pick() for _ in range(10)}


def test_an_update_is_never_put_off() -> None:
    """Who came and who is gone counts at once, however large the cluster."""
    made = cluster([spec(n) for n in range(1, 1001)])
    group = made.group()
    made.changed()
    made.endpoints[5].healthy = False
    made.changed()
    assert len(made.wheel) == 1
    made.update([spec(n) for n in range(2, 1002)])
    assert len(made.wheel) == 0
    well = {endpoint for endpoint in made.endpoints if endpoint.healthy}
    assert {group.pick() for _ in range(1000)} == well
    assert group.describe()["choosing_from"] == 999


def test_stop() -> None:
    """Nothing is left on the wheel, whatever was going on."""
    clock = Clock()
    made = cluster(
        specs(1, 2, 3), clock=clock, balance="maglev", circuit_breaker={"failure_threshold": 1}
    )
    made.group()
    made.update(specs(1, 2, 3, 4))
    assert made.breaker is not None
    made.breaker.failed(made.endpoints[0], True)
    assert len(made.wheel) == 2
    made.stop()
    assert len(made.wheel) == 0
    slow = Slow()
    slow.made.update(specs(1, 2, 3))
    slow.made.stop()
    assert len(slow.made.wheel) == 0


def test_endpoint_metrics() -> None:
    """Asked for, each endpoint has its own, under its key; otherwise none has."""
    registry = Registry()
    made = cluster(specs(1, 2), registry=registry, endpoint_metrics=True)
    made.endpoints[1].active = 4
    registry.refresh()
    family = next(f for f in registry.families if f.name == "meshproxy_endpoint_active")
    assert family.label_names == ("cluster", "endpoint")
    assert registry.values[family.series["api", "127.0.0.1:2"]] == 4
    made.update([])
    registry.refresh()
    assert registry.values[family.series["api", "127.0.0.1:2"]] == 0
    registry = Registry()
    cluster(specs(1), registry=registry)
    assert not [f for f in registry.families if f.name.startswith("meshproxy_endpoint_")]

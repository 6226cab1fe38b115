"""Clusters: their endpoints, their statistics, and the weighted choice among them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from twisted.internet.task import Clock

from meshproxy.config import load
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.upstream import cluster as module
from meshproxy.upstream.cluster import LATENCY_BOUNDS, Cluster, weighted_pick

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

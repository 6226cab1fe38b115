"""The slots of a cluster, and what is read when somebody looks."""

from __future__ import annotations

import pytest

from meshproxy.observe.registry import Registry
from meshproxy.upstream.endpoint import OPEN
from meshproxy.upstream.stats import LATENCY_BOUNDS, REASONS, ClusterStats
from tests.upstream.made import cluster, spec


def sampled(registry: Registry) -> dict[str, float]:
    """The cluster's gauges: name and labels but for the cluster's."""
    registry.refresh()
    return {
        " ".join([family.name.removeprefix("meshproxy_cluster_"), *labels[1:]]): (
            registry.values[slot]
        )
        for family in registry.families
        if family.kind == "gauge"
        for labels, slot in family.series.items()
    }


def test_every_slot_is_its_own() -> None:
    """No two numbers share one, and asking again gives the same."""
    registry = Registry()
    stats = ClusterStats(registry, "api")
    slots = [value for value in vars(stats).values() if isinstance(value, int)]
    slots += [*stats.responses[1:], *stats.ejections.values()]
    # A histogram's slots are among them by other names.
    held = {stats.duration_base, stats.duration_sum, stats.first_byte_base, stats.first_byte_sum}
    assert len(slots) == len(set(slots)) >= len(held)
    again = ClusterStats(registry, "api")
    assert again.connections == stats.connections
    assert set(stats.ejections) == set(REASONS)
    assert list(LATENCY_BOUNDS) == sorted(set(LATENCY_BOUNDS))


def test_the_states_of_endpoints() -> None:
    """How many are in each, also when those that were known are gone."""
    registry = Registry()
    made = cluster([spec(n) for n in range(1, 5)], registry=registry)
    made.endpoints[0].healthy = False
    made.endpoints[1].breaker = OPEN
    made.changed()
    shown = sampled(registry)
    states = [shown[f"endpoints {s}"] for s in ("healthy", "unhealthy", "ejected", "half_open")]
    assert states == [2, 1, 1, 0]
    made.update([])
    shown = sampled(registry)
    assert not any(value for key, value in shown.items() if key.startswith("endpoints"))


def test_what_counts_for_limits() -> None:
    """Connections, and what each priority that has limits of its own has under way."""
    registry = Registry()
    made = cluster(registry=registry, limits={"high": {"requests": 5}})
    made.limits.connections = 1
    made.limits.default.requests, made.limits.default.pending = 2, 3
    made.limits.high.retries = 4
    made.endpoints[0].active = 6
    shown = sampled(registry)
    assert shown["active"] == 6
    assert shown["limited_connections"] == 1
    assert (shown["limited_requests default"], shown["limited_pending default"]) == (2, 3)
    assert (shown["limited_retries high"], shown["limited_requests high"]) == (4, 0)


def test_no_high_priority_no_series() -> None:
    """What is not configured is not shown."""
    registry = Registry()
    cluster(registry=registry)
    assert "limited_requests default" in sampled(registry)
    assert "limited_requests high" not in sampled(registry)


def test_averages() -> None:
    """Of what was observed since the start, 0 of nothing; the admin and the gauges agree."""
    registry = Registry()
    made = cluster(registry=registry)
    assert sampled(registry)["connect_average_seconds"] == 0.0
    stats = made.stats
    for seconds in (0.1, 0.2, 100.0):
        stats.connect_duration.observe(stats.values, seconds)
    stats.first_byte.observe(stats.values, 0.25)
    shown = sampled(registry)
    assert shown["connect_average_seconds"] == pytest.approx(100.3 / 3)
    assert shown["first_byte_average_seconds"] == 0.25
    said = made.describe()["average_seconds"]
    assert said["connect"] == pytest.approx(100.3 / 3, abs=1e-6)
    assert said["first_byte"] == 0.25

"""A cluster in words: why an endpoint gets traffic or gets none."""

from __future__ import annotations

import json

from meshproxy.upstream.endpoint import HALF_OPEN, OPEN
from tests.upstream.made import cluster, spec


def test_an_endpoint() -> None:
    """Everything that decides on its traffic."""
    made = cluster([spec(1, 3, priority=1, labels={"version": "v2"}, zone="a", name="api.test")])
    endpoint = made.endpoints[0]
    endpoint.active, endpoint.connections, endpoint.answered, endpoint.failed = 1, 2, 3, 4
    (said,) = made.describe()["endpoints"]
    assert said == {
        "address": "127.0.0.1:1", "name": "api.test", "weight": 3, "share": 3, "priority": 1,
        "labels": {"version": "v2"}, "zone": "a", "healthy": True, "breaker": "closed",
        "usable": True, "offered": False, "active": 1, "connections": 2, "answered": 3,
        "failed": 4, "max_active": None,
    }  # fmt: skip


def test_limits_of_endpoints() -> None:
    """The concurrency, what the rate has left, and what the gradient found."""
    made = cluster([spec(1)], endpoint_limits={"concurrency": 7, "rate": {"requests": 5}})
    (said,) = made.describe()["endpoints"]
    assert (said["max_active"], said["rate_left"]) == (7, 5)
    made = cluster([spec(1)], endpoint_limits={"adaptive": {"initial": 9}})
    (said,) = made.describe()["endpoints"]
    assert (said["max_active"], said["adaptive"]["limit"]) == (9, 9)


def test_breakers() -> None:
    """Its state, and whether the next request is a probe."""
    made = cluster([spec(1), spec(2)])
    first, second = made.endpoints
    first.breaker, second.breaker = OPEN, HALF_OPEN
    made.changed()
    made.offer(second)
    one, two = made.describe()["endpoints"]
    assert (one["breaker"], one["usable"], one["offered"]) == ("open", False, False)
    assert (two["breaker"], two["usable"], two["offered"]) == ("half_open", False, True)


def test_why_it_was_ejected() -> None:
    """What the breaker says is there."""
    made = cluster([spec(1), spec(2)], circuit_breaker={"failure_threshold": 1})
    assert made.breaker is not None
    made.breaker.failed(made.endpoints[0], False)
    one, two = made.describe()["endpoints"]
    assert one["ejection"]["reason"] == "consecutive"
    assert "ejection" not in two


def test_groups_and_limits() -> None:
    """Loads, panic, fallback, and limits with what is used."""
    made = cluster(
        [spec(1), spec(2), spec(3, priority=1)],
        limits={"requests": 10, "high": {"requests": 20}},
        subsets={"fallback": "any"},
    )
    made.group({"version": "v9"})
    made.group(priority="high")
    for endpoint in made.endpoints:
        endpoint.healthy = False
    made.changed()
    made.limits.default.requests = 4
    said = made.describe()
    assert said["limits"]["default"]["requests"] == [4, 10]
    assert said["limits"]["high"]["requests"] == [0, 20]
    assert said["states"] == {"healthy": 0, "unhealthy": 3, "ejected": 0, "half_open": 0}
    subset, whole = said["groups"]
    assert (subset["labels"], subset["fallback"]) == ({"version": "v9"}, True)
    assert (whole["fallback"], whole["endpoints"], whole["choosing_from"]) == (False, 3, 3)
    assert [p["panic"] for p in whole["priorities"]] == [True, True]
    assert [p["load"] for p in whole["priorities"]] == [0.6667, 0.3333]
    assert json.loads(json.dumps(said)) == said


def test_tables() -> None:
    """Whether a table of hashes is being rebuilt."""
    made = cluster([spec(1), spec(2)], balance="ring_hash")
    made.group()
    made.update([spec(1), spec(2), spec(3)])
    (group,) = made.describe()["groups"]
    assert group["priorities"][0]["table"] == "rebuilding"

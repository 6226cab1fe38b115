"""What a client gets when a cluster or an endpoint has enough, and what is measured meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.observe.registry import Histogram
from meshproxy.upstream.adaptive import Adaptive
from tests.http.tries import config, stats
from tests.http.world import World, get, head, ok, status

Make = Callable[..., World]


def count(made: World, histogram: Histogram) -> float:
    """How much was observed."""
    return sum(made.registry.values[histogram.base : histogram.sum_slot])


def refused(made: World) -> None:
    """One request more gets an overflow at once."""
    data = made.client(get()).take()
    assert status(data) == 503
    assert head(data)[b"x-envoy-overloaded"] == b"true"
    assert made.records[-1].flags == b"UO"


def test_requests_at_a_time(world: Make) -> None:
    """Over ``limits.requests`` a request is refused; when one ends there is room again."""
    made = world(config("", cluster="limits: { requests: 2 }"))
    made.client(get())
    made.client(get())
    refused(made)
    assert stats(made, "overflow_requests") == (1,)
    made.upstreams[0].receive(ok())
    assert made.client(get()).take() == b""
    made.settle()


def test_the_high_priority_has_its_own_requests(world: Make) -> None:
    """A route of high priority is judged by ``limits.high``, and takes nothing of the others."""
    made = world(
        config(
            "",
            route="priority: high",
            cluster="limits: { requests: 1, high: { requests: 2 } }",
        )
    )
    limits = made.clusters["site"].limits
    made.client(get())
    made.client(get())
    assert (limits.high.requests, limits.default.requests) == (2, 0)
    refused(made)
    made.settle()


def test_waiting_requests_count_for_their_priority(world: Make) -> None:
    """Who waits for a connection is pending for the priority of its route, and bounded by it."""
    made = world(
        config(
            "",
            route="priority: high",
            cluster="limits: { pending: 0, high: { pending: 1 } }\n    balance: round_robin",
        )
    )
    made.instant = None
    limits = made.clusters["site"].limits
    made.client(get())
    assert (limits.high.pending, limits.default.pending) == (1, 0)
    refused(made)
    assert stats(made, "overflow_pending") == (1,)
    made.attempts[0].succeed()
    made.settle()


@pytest.mark.parametrize(
    "limit", ["{ concurrency: 1 }", "{ rate: { requests: 1, per: 1h } }", "{ adaptive: %s }"]
)
def test_every_endpoint_has_enough(world: Make, limit: str) -> None:
    """Each of the three takes one; the fourth is refused, not sent to a full endpoint."""
    if "%s" in limit:
        limit %= "{ initial: 1, min: 1, max: 1 }"
    made = world(config("", cluster=f"endpoint_limits: {limit}"))
    for _ in range(3):
        made.client(get())
    assert [endpoint.active for endpoint in made.clusters["site"].endpoints] == [1, 1, 1]
    refused(made)
    assert stats(made, "overflow_endpoints") == (1,)
    made.settle()


def test_latencies_reach_the_adaptive_limit(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every response tells the endpoint's limit how long it took."""
    told: list[float] = []
    monkeypatch.setattr(Adaptive, "sample", lambda _, seconds: told.append(seconds))
    made = world(config("", cluster="endpoint_limits: { adaptive: {} }"))
    made.client(get())
    made.turn(0.25)
    made.upstream.receive(ok())
    assert told == [pytest.approx(0.25)]
    made.settle()


def test_connect_and_first_byte_are_measured(world: Make) -> None:
    """Time to connect, and from the try's beginning to the response's head."""
    made = world(config(""))
    made.instant = None
    made.client(get())
    made.turn(0.1)
    upstream = made.attempts[0].succeed()
    made.turn(0.2)
    upstream.receive(ok())
    held = made.clusters["site"].stats
    assert (count(made, held.connect_duration), count(made, held.first_byte)) == (1, 1)
    assert held.mean(held.connect_duration) == pytest.approx(0.1)
    assert held.mean(held.first_byte) == pytest.approx(0.3)
    made.settle()

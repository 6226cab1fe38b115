"""Connections kept ready: when they are opened, how often, and for whom not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone

from meshproxy.http.share import BURST
from meshproxy.http.warmth import warm_up
from meshproxy.upstream.endpoint import OPEN, EndpointSpec
from tests.http.world import PLAIN, World, get, ok

Make = Callable[..., World]


def warmed(count: int, rest: str = "", more: str = "") -> str:
    """The plain configuration with so many warm connections."""
    return PLAIN + f"    pool: {{ warm: {count}{rest} }}\n{more}"


def end(made: World) -> None:
    """Close the pools, without which warm connections are opened for ever, and check all."""
    for endpoint in made.clusters["site"].endpoints:
        endpoint.pool.close()
    made.settle()


def alive(made: World) -> int:
    """Connections that the endpoint has."""
    return sum(not upstream.gone for upstream in made.upstreams)


def test_nothing_before_the_start(world: Make) -> None:
    """Making the pool opens nothing, nor does time; the start does, and not from inside."""
    made = world(warmed(3))
    made.turn(5.0)
    assert made.attempts == []
    warm_up(made.clusters["site"])
    assert made.attempts == []
    made.turn(0.1)
    assert alive(made) == 3
    made.check()
    end(made)


def test_without_warm_the_start_does_nothing(world: Make) -> None:
    """A cluster that asks for none gets none."""
    made = world()
    warm_up(made.clusters["site"])
    made.turn(5.0)
    assert made.attempts == []
    made.settle()


def test_endpoints_that_come_later(world: Make) -> None:
    """After the start they get theirs by themselves; one that goes loses them."""
    made = world(warmed(2))
    cluster = made.clusters["site"]
    (first,) = cluster.endpoints
    warm_up(cluster)
    made.turn(0.1)
    specs = [EndpointSpec(f"127.0.0.1:{port}", 2, ("127.0.0.1", port), "x") for port in (1, 2)]
    cluster.update([first.spec, *specs])
    made.turn(0.1)
    assert [endpoint.pool.total for endpoint in cluster.endpoints] == [2, 2, 2]
    cluster.update(specs)
    made.turn(5.0)
    assert first.pool.total == 0
    assert alive(made) == 4
    end(made)


def test_a_request_takes_a_warm_one(world: Make) -> None:
    """No connection is opened for it, and the number stays what it is."""
    made = world(warmed(2))
    warm_up(made.clusters["site"])
    made.turn(0.1)
    made.client(get())
    made.upstream.receive(ok())
    made.turn(5.0)
    assert len(made.attempts) == 2
    assert made.records[0].attempts == 1
    end(made)


def test_warm_ones_outlive_the_idle_timeout(world: Make) -> None:
    """What is open beyond their number shrinks to it."""
    made = world(warmed(2, ", idle_timeout: 10s"))
    warm_up(made.clusters["site"])
    made.turn(0.1)
    for _ in range(5):
        made.client(get())
    assert alive(made) == 5
    for upstream in made.upstreams:
        upstream.receive(ok())
    made.turn(60.0)
    assert alive(made) == 2
    assert made.value(made.clusters["site"].stats.idle_closed) == 3
    assert len(made.attempts) == 5
    # The same a second time: nothing was forgotten when the wheel had nothing to do.
    for _ in range(3):
        made.client(get())
    assert alive(made) == 3
    for upstream in made.upstreams:
        if not upstream.gone:
            upstream.receive(ok())
    made.turn(60.0)
    assert alive(made) == 2
    end(made)


def test_not_the_lifetime(world: Make) -> None:
    """Warm ones that are too old are replaced."""
    made = world(warmed(2, ", max_lifetime: 100s"))
    warm_up(made.clusters["site"])
    made.turn(102.0)
    assert alive(made) == 2
    assert len(made.attempts) == 4
    assert made.value(made.clusters["site"].stats.aged_closed) == 2
    end(made)


def test_a_lifetime_shorter_than_the_idle_timeout(world: Make) -> None:
    """It is kept though nothing else makes the pool look."""
    made = world(warmed(1, ", max_lifetime: 10s, idle_timeout: 1h"))
    warm_up(made.clusters["site"])
    made.turn(8.0)
    assert len(made.attempts) == 1
    made.turn(3.5)
    assert len(made.attempts) == 2
    assert alive(made) == 1
    end(made)


def test_losses_are_made_good(world: Make) -> None:
    """One that the endpoint closes after a while is opened again within a second."""
    made = world(warmed(2))
    warm_up(made.clusters["site"])
    made.turn(10.0)
    made.client(get())
    made.upstream.receive(ok())
    made.upstream.end()
    made.turn(1.1)
    assert alive(made) == 2
    end(made)


def test_back_off(world: Make) -> None:
    """Refused: after 1 s, 2 s, 4 s, up to 30 s; once it works all of them, and 1 s again."""
    made = world(warmed(3))
    made.instant = "refused"
    start = made.clock.seconds()
    warm_up(made.clusters["site"])
    times: list[float] = []
    while len(times) < 8:
        before = len(made.attempts)
        made.turn(0.05)
        assert len(made.attempts) - before <= 1
        if len(made.attempts) > before:
            times.append(made.clock.seconds() - start)
    gaps = [round(b - a, 1) for a, b in pairwise(times)]
    for gap, wanted in zip(gaps, (1, 2, 4, 8, 16, 30, 30), strict=True):
        assert wanted <= gap <= wanted + 0.2
    made.instant = True
    made.turn(31.0)
    assert alive(made) == 3
    made.turn(60.0)
    made.instant = "refused"
    for upstream in made.upstreams:
        upstream.end()
    before = len(made.attempts)
    made.turn(1.2)
    assert len(made.attempts) - before <= 2
    end(made)


@pytest.mark.parametrize("how", ["closes", "speaks"])
def test_an_endpoint_that_accepts_and_closes(world: Make, how: str) -> None:
    """Connections that end unused are failures too: they are not opened in a loop."""
    made = world(warmed(1))
    warm_up(made.clusters["site"])
    for _ in range(2000):
        made.turn(0.05)
        for upstream in made.upstreams:
            if not upstream.gone and not upstream.disconnecting:
                if how == "closes":
                    upstream.end(ConnectionDone)
                else:
                    upstream.receive(b"220 hello\r\n")
    # At 0, 1, 3, 7, 15, 31, 61 and 91 s.
    assert len(made.attempts) == 8
    end(made)


def test_failures_in_flight_count_once(world: Make) -> None:
    """All of a round that fail together make the back-off longer by one step only."""
    made = world(warmed(4))
    made.instant = None
    warm_up(made.clusters["site"])
    made.turn(0.1)
    made.turn(3.0)
    assert len(made.waiting) == 4
    for attempt in made.waiting:
        attempt.fail("timeout")
    made.turn(0.5)
    assert len(made.waiting) == 0
    made.turn(0.7)
    assert len(made.waiting) == 4
    end(made)


def test_slow_failures_back_off_too(world: Make) -> None:
    """As long as nobody knows how an attempt ends, it does not count as a success."""
    made = world(warmed(1))
    made.instant = None
    warm_up(made.clusters["site"])
    made.turn(0.1)
    for pause in (1.0, 2.0, 4.0, 8.0):
        made.turn(5.0)
        made.waiting[0].fail("timeout")
        made.turn(pause - 0.1)
        assert made.waiting == []
        made.turn(0.3)
        assert len(made.waiting) == 1
    end(made)


@pytest.mark.parametrize("what", ["unhealthy", "breaker"])
def test_an_endpoint_that_is_not_well(world: Make, what: str) -> None:
    """It is left alone; when it is well again it gets its connections."""
    made = world(warmed(2))
    endpoint: Any = made.clusters["site"].endpoints[0]
    if what == "unhealthy":
        endpoint.healthy = False
    else:
        endpoint.breaker = OPEN
    warm_up(made.clusters["site"])
    made.turn(30.0)
    assert made.attempts == []
    endpoint.healthy, endpoint.breaker = True, 0
    made.turn(1.1)
    assert alive(made) == 2
    end(made)


def test_many_in_bursts(world: Make) -> None:
    """A sweep opens so many at most; the next ones go on without waiting a second."""
    made = world(warmed(3 * BURST, "", "    limits: { connections: 100000 }\n"))
    warm_up(made.clusters["site"])
    made.turn(0.06)
    assert len(made.attempts) == BURST
    made.turn(0.1)
    assert len(made.attempts) == 3 * BURST
    end(made)


def test_the_clusters_limit(world: Make) -> None:
    """Nothing is closed, and nobody refused, to keep connections warm."""
    made = world(warmed(5, "", "    limits: { connections: 3 }\n"))
    warm_up(made.clusters["site"])
    made.turn(10.0)
    assert len(made.attempts) == 3
    end(made)


def test_failures_are_verdicts(world: Make) -> None:
    """A breaker opens on them, and the endpoint is left alone then."""
    made = world(warmed(2, "", "    circuit_breaker: { failure_threshold: 2 }\n"))
    made.instant = "refused"
    endpoint = made.clusters["site"].endpoints[0]
    warm_up(made.clusters["site"])
    made.turn(20.0)
    assert len(made.attempts) == 2
    assert endpoint.failed == 2
    assert endpoint.breaker == OPEN
    end(made)


def test_proxy_protocol_has_none(world: Make) -> None:
    """Their header would have to name a client that is not there yet."""
    made = world(warmed(2, "", "    proxy_protocol: v1\n"))
    warm_up(made.clusters["site"])
    made.turn(5.0)
    assert made.attempts == []
    made.settle()

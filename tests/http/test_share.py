"""The connections of a cluster, shared by its endpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http.share import BURST, share_of
from meshproxy.http.warmth import warm_up
from tests.http.world import Transport, World, get, ok, status

Make = Callable[..., World]

ENDPOINTS = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
{routes}
clusters:
  site:
    endpoints:
{endpoints}
    limits: {{ connections: {connections}, requests: 100000, pending: 100000{more} }}
    pool: {{ pending_timeout: 30s, {pool} }}
"""


def several(connections: int, count: int = 3, pool: str = "", more: str = "") -> str:
    """Endpoints ``/0`` and so on, of one cluster that may have so many connections."""
    routes = "".join(
        f"        - {{ match: {{ prefix: /{n} }}, to: site, subset: {{ n: e{n} }} }}\n"
        for n in range(count)
    )
    endpoints = "".join(
        f"      - {{ address: '127.0.0.1:{9000 + n}', labels: {{ n: e{n} }} }}\n"
        for n in range(count)
    )
    return ENDPOINTS.format(
        routes=routes, endpoints=endpoints, connections=connections, pool=pool, more=more
    )


def answer(upstream: Transport) -> None:
    """The endpoint answers, and what it got is taken."""
    upstream.take()
    upstream.receive(ok())


def test_one_for_a_cluster(world: Make) -> None:
    """Every endpoint's pool has the same."""
    made = world(several(5))
    cluster = made.clusters["site"]
    assert share_of(cluster) is share_of(cluster)
    made.settle()


def test_the_longest_idle_makes_room(world: Make) -> None:
    """At the limit, a connection of another endpoint is closed, and a new one opened."""
    made = world(several(2))
    for number in (0, 1):
        made.client(get(b"/%d" % number))
    zero, one = made.upstreams
    answer(one)
    made.turn(1.0)
    answer(zero)
    client = made.client(get(b"/2"))
    assert client.take() == b""
    made.turn()
    assert (zero.gone, one.gone) == (False, True)
    assert made.upstream.take().startswith(b"GET /2 ")
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert made.value(made.clusters["site"].stats.idle_closed) == 1
    made.settle()


def test_nothing_to_wait_for(world: Make) -> None:
    """No endpoint's connection is idle, and this one has none: 503 at once, and counted."""
    made = world(several(2))
    made.client(get(b"/0"))
    made.client(get(b"/0"))
    client = made.client(get(b"/1"))
    assert status(client.take()) == 503
    assert made.records[0].flags == b"UO"
    assert made.value(made.clusters["site"].stats.overflow_connections) == 1
    assert made.clusters["site"].limits.connections == 2
    made.settle()


def test_in_line_for_an_own_connection(world: Make) -> None:
    """An endpoint that has one is waited for."""
    made = world(several(2))
    made.client(get(b"/0"))
    made.client(get(b"/1"))
    client = made.client(get(b"/1/next"))
    assert client.take() == b""
    answer(made.upstreams[1])
    assert made.upstreams[1].take().startswith(b"GET /1/next ")
    made.settle()


def test_in_line_for_an_opening(world: Make) -> None:
    """One that is being opened is waited for, too."""
    made = world(several(1))
    made.instant = None
    clients = [made.client(get(b"/0")) for _ in range(2)]
    assert len(made.waiting) == 1
    made.waiting[0].succeed()
    answer(made.upstream)
    answer(made.upstream)
    assert [status(client.take()) for client in clients] == [200, 200]
    made.settle()


def test_openings_count(world: Make) -> None:
    """From the first SYN; one that is given up or fails gives its place back."""
    made = world(several(1))
    made.instant = None
    limits = made.clusters["site"].limits
    made.client(get(b"/0"))
    assert limits.connections == 1
    made.waiting[0].fail()
    assert limits.connections == 0
    made.client(get(b"/0"))
    made.client(get(b"/1"))
    assert made.records[-1].flags == b"UO"
    made.settle()


def test_a_place_that_falls_free(world: Make) -> None:
    """Whoever waits at the limit gets the place of any connection that ends, in turn."""
    made = world(several(5))
    for number in (0, 0, 0, 1, 2):
        made.client(get(b"/%d" % number))
    for number in (1, 1, 2, 2):
        made.client(get(b"/%d/more" % number))
    assert len(made.upstreams) == 5
    heads = []
    for upstream in made.upstreams[:3]:
        upstream.receive(ok(b"", b"Connection: close"))
        made.turn()
        heads.append(made.upstream.take()[4:6])
    assert heads == [b"/1", b"/2", b"/1"]
    made.settle()


def test_those_who_wait_look_again(world: Make) -> None:
    """Connections of others that become idle later are taken, without another request."""
    made = world(several(3, pool="idle_timeout: 1h"))
    for number in (0, 0, 1, 1):
        made.client(get(b"/%d" % number))
    assert len(made.upstreams) == 3
    answer(made.upstreams[0])
    assert len(made.upstreams) == 3
    made.turn(0.2)
    assert len(made.upstreams) == 4
    assert made.upstream.take().startswith(b"GET /1 ")
    made.turn(10.0)
    assert len(made.upstreams) == 4
    made.settle()


def test_no_more_is_closed_than_needed(world: Make) -> None:
    """Two requests take the places of two of five idle connections, whoever leaves meanwhile."""
    made = world(several(5))
    for _ in range(5):
        made.client(get(b"/0"))
    for upstream in made.upstreams:
        answer(upstream)
    clients = [made.client(get(b"/1")) for _ in range(2)]
    clients[0].end()
    made.turn()
    assert sum(upstream.gone for upstream in made.upstreams[:5]) == 2
    assert len(made.upstreams) == 6
    answer(made.upstream)
    made.client(get(b"/1"))
    made.turn()
    assert len(made.upstreams) == 6
    made.settle()


def test_the_high_priority_has_a_limit_of_its_own(world: Make) -> None:
    """Connections are counted together; each compares with what its route may have."""
    text = several(1, more=", high: { connections: 2 }").replace(
        "subset: { n: e1 } }", "subset: { n: e1 }, priority: high }"
    )
    made = world(text)
    made.client(get(b"/0"))
    refused = made.client(get(b"/2"))
    assert status(refused.take()) == 503
    made.client(get(b"/1"))
    assert made.upstream.take().startswith(b"GET /1 ")
    assert made.clusters["site"].limits.connections == 2
    made.settle()


def test_what_comes_too_late_for_its_pool(world: Make) -> None:
    """A place made for requests that are answered meanwhile goes to nobody, or to others."""
    made = world(several(2))
    made.client(get(b"/0"))
    made.client(get(b"/1"))
    answer(made.upstreams[0])
    made.client(get(b"/1/second"))
    answer(made.upstreams[1])
    made.turn()
    assert made.upstreams[0].gone
    assert made.clusters["site"].limits.connections == 1
    made.client(get(b"/2"))
    assert len(made.upstreams) == 3
    made.settle()


@pytest.mark.parametrize("count", [2, 40])
def test_failures_never_call_deeper(world: Make, count: int) -> None:
    """Many endpoints with long lines that all refuse at once: bounded turns, no recursion."""
    routes = "        - { to: site, retry: { on: [connect-failure], attempts: 5 } }\n"
    text = several(100000, count, "max_connections: 1")
    begin, end = text.index("        - {"), text.index("clusters:")
    made = world(text[:begin] + routes + text[end:])
    for _ in range(count * 20):
        made.client(get())
    assert len(made.upstreams) == count
    made.instant = "refused"
    for upstream in list(made.upstreams):
        upstream.end(ConnectionLost)
        before = len(made.attempts)
        made.turn(0.0)
        assert len(made.attempts) - before <= 30 * BURST
    made.turn(5.0)
    assert {record.flags[-2:] for record in made.records} <= {b"UF", b"UC"}
    assert len(made.records) == count * 20
    made.settle()


def whole(made: World, most: int) -> None:
    """What must be true of pools at any time."""
    made.check()
    cluster = made.clusters["site"]
    share = share_of(cluster)
    assert cluster.limits.connections <= most
    pools = [endpoint.pool for endpoint in cluster.endpoints]
    assert sum(pool.promised for pool in pools) == len(share._leaving)
    for pool in pools:
        assert len(pool._bound) <= len(pool._openings)
        if pool._waiting:
            # Nobody waits for what will never come.
            assert pool.total or pool.promised or pool in share._due
            assert pool.slot
        assert not (pool._idle and any(e not in pool._bound for e in pool._waiting))
        assert all(connection.exchange is None for connection in pool._idle)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ("ask", "ask", "ask", "answer", "answer", "close", "up", "up", "down", "leave", "time")
        ),
        st.integers(0, 50),
    ),
    max_size=60,
)


@pytest.mark.parametrize(
    ("most", "pool", "instant"),
    [
        (2, "preconnect: 1.0", True),
        (3, "preconnect: 3.0, max_requests: 2", None),
        (4, "max_connections: 2, idle_timeout: 1s, max_lifetime: 2s", None),
        (3, "max_connections: 2, preconnect: 1.5, pending_timeout: 1s", "refused"),
        (5, "warm: 2, idle_timeout: 1s", None),
    ],
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_any_order_of_events(
    world: Make, most: int, pool: str, instant: bool | str | None, events: list[tuple[str, int]]
) -> None:
    """Counts are exact, limits hold, and nobody waits in vain, whatever happens in what order."""
    text = several(most, pool=pool)
    if "pending_timeout" in pool:
        text = text.replace("pending_timeout: 30s, ", "")
    made = world(text)
    made.instant = instant
    warm_up(made.clusters["site"])
    for event, number in events:
        busy = [upstream for upstream in made.upstreams if not upstream.disconnecting]
        clients = [client for client in made.downstreams if not client.gone]
        if event == "ask":
            made.client(get(b"/%d" % (number % 3)))
        elif event in ("answer", "close") and busy:
            upstream = busy[number % len(busy)]
            if event == "close":
                upstream.end(ConnectionLost if number % 2 else ConnectionDone)
            else:
                upstream.receive(ok())
        elif event in ("up", "down") and made.waiting:
            attempt = made.waiting[number % len(made.waiting)]
            if event == "up":
                attempt.succeed()
            else:
                attempt.fail()
        elif event == "leave" and clients:
            clients[number % len(clients)].end()
        elif event == "time":
            made.turn(number / 20)
        made.turn()
        whole(made, most)
    for endpoint in made.clusters["site"].endpoints:
        endpoint.pool.close()
    made.settle()

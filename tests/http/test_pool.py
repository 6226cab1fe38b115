"""The connections to an endpoint: reuse, growth, bounds, the line, and time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from meshproxy.http.share import BURST, share_of
from meshproxy.net.connect import EXHAUSTED
from meshproxy.upstream.endpoint import CLOSED, OPEN
from tests.http.world import PLAIN, World, body, get, head, ok, pooled, status

Make = Callable[..., World]


def test_the_connection_used_last_is_taken(world: Make) -> None:
    """So that the others grow old."""
    made = world()
    clients = [made.client(get()) for _ in range(3)]
    one, two, three = made.upstreams
    for upstream in (two, three, one):
        upstream.receive(ok())
        upstream.take()
    clients[0].receive(get(b"/last"))
    assert one.take().startswith(b"GET /last ")
    clients[1].receive(get(b"/before"))
    assert three.take().startswith(b"GET /before ")
    made.settle()


def test_max_connections(world: Make) -> None:
    """No more are opened; who waits is served in order as they become free."""
    made = world(pooled(max_connections=2))
    clients = [made.client(get(b"/%d" % number)) for number in range(6)]
    assert len(made.upstreams) == 2
    assert made.clusters["site"].limits.default.pending == 4
    one, two = made.upstreams
    order = []
    for upstream in (one, two, one, one, two, one):
        order.append(upstream.take()[5:6])
        upstream.receive(ok())
    assert order == [b"0", b"1", b"2", b"4", b"3", b"5"]
    assert {status(client.take()) for client in clients} == {200}
    made.settle()


def test_max_pending(world: Make) -> None:
    """One more is refused at once, with Envoy's words and its header for overload."""
    made = world(pooled(max_connections=1, max_pending=2))
    clients = [made.client(get()) for _ in range(4)]
    answer = clients[3].take()
    assert status(answer) == 503
    assert body(answer).endswith(b"reset reason: overflow")
    assert head(answer)[b"x-envoy-overloaded"] == b"true"
    assert made.records[0].flags == b"UO"
    assert made.value(made.clusters["site"].stats.overflow_pending) == 1
    for _ in range(3):
        made.upstream.receive(ok())
    assert [status(client.take()) for client in clients[:3]] == [200] * 3
    made.settle()


@pytest.mark.parametrize("single", [False, True])
def test_pending_timeout(world: Make, single: bool) -> None:
    """Who waits too long is refused, the first alone if the others came later."""
    text = pooled(max_connections=1, pending_timeout="3s")
    made = world(text + ("    proxy_protocol: v1\n" if single else ""))
    made.instant = None
    first = made.client(get())
    made.turn(2.0)
    second = made.client(get())
    made.turn(1.1)
    assert status(first.take()) == 503
    assert second.take() == b""
    # Something is being opened for the second.
    (attempt,) = made.waiting
    attempt.succeed()
    made.upstream.receive(ok())
    assert status(second.take()) == 200
    made.settle()


def test_idle_connections_are_closed(world: Make) -> None:
    """After idle_timeout, each by its own time, also while requests have waited meanwhile."""
    made = world(pooled(idle_timeout="10s", max_connections=2, pending_timeout="1h"))
    clients = [made.client(get()) for _ in range(3)]
    one, two = made.upstreams
    one.receive(ok())
    one.receive(ok())
    made.turn(5.0)
    two.receive(ok())
    made.turn(5.2)
    assert one.gone
    assert not two.gone
    made.turn(5.0)
    assert two.gone
    assert len(clients) == 3
    made.settle()


def test_an_idle_connection_that_the_endpoint_closes(world: Make) -> None:
    """It is forgotten at once, and nobody is given it."""
    made = world()
    client = made.client(get())
    made.upstream.receive(ok())
    made.upstream.end()
    client.take()
    client.receive(get())
    assert len(made.upstreams) == 2
    assert made.records[-1].attempts == 1
    made.settle()


def test_many_fail_at_once(world: Make) -> None:
    """
    A long line whose connections fail before connect returns is refused without recursion, and
    so many in a turn at most that others get theirs.
    """
    made = world(pooled(max_connections=1, max_pending=5000))
    clients = [made.client(get()) for _ in range(2000)]
    made.instant = "refused"
    made.upstream.end(ConnectionLost)
    assert len(made.attempts) == 1 + BURST
    made.turn()
    assert len(made.attempts) == 2000
    assert {status(client.take()) for client in clients} == {503}
    assert made.value(made.clusters["site"].stats.connect_failures) == 1999
    made.settle()


def test_room_is_used_when_a_connection_is_lost(world: Make) -> None:
    """Those in line get a new one."""
    made = world(pooled(max_connections=1))
    made.client(get())
    waiting = made.client(get(b"/next"))
    made.upstream.end()
    assert made.upstream.take().startswith(b"GET /next ")
    made.upstream.receive(ok())
    assert status(waiting.take()) == 200
    made.settle()


def test_a_failure_costs_the_first_in_line(world: Make) -> None:
    """Of two that wait for two attempts, the older is refused by the first failure."""
    made = world()
    made.instant = None
    first, second = made.client(get()), made.client(get())
    made.waiting[1].fail()
    assert status(first.take()) == 503
    made.waiting[0].succeed()
    made.upstream.receive(ok())
    assert status(second.take()) == 200
    made.settle()


def test_close(world: Make) -> None:
    """Idle connections end in order, others at once; who waits is answered, and who comes."""
    made = world(pooled(max_connections=3))
    clients = [made.client(get()) for _ in range(2)]
    made.upstreams[0].receive(ok())
    assert status(clients[0].take()) == 200
    made.instant = None
    made.client(get())
    waiting = made.client(get())
    made.client(get())
    pool: Any = made.clusters["site"].endpoints[0].pool
    pool.close()
    made.turn()
    assert all(upstream.gone for upstream in made.upstreams)
    assert status(waiting.take()) == 503
    late = made.client(get())
    assert status(late.take()) == 503
    assert made.waiting == []
    made.settle()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_protocol(world: Make, version: str) -> None:
    """Each connection opens with the client's address, and serves that client's request alone."""
    made = world(PLAIN + f"    proxy_protocol: {version}\n")
    client = made.client(get(b"/a"), b"198.51.100.7")
    sent = made.upstream.take()
    if version == "v1":
        assert sent.startswith(b"PROXY TCP4 198.51.100.7 127.0.0.1 40000 8080\r\nGET /a ")
    else:
        assert sent.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07")
    made.upstream.receive(ok())
    made.turn()
    assert made.upstream.gone
    client.receive(get(b"/b"))
    assert len(made.upstreams) == 2
    made.settle()


def test_a_trusted_hops_client_in_the_proxy_header(world: Make) -> None:
    """An IPv6 client reported by a trusted hop reaches the endpoint's header."""
    text = PLAIN.replace("routes:", "trusted_hops: 1\n      routes:") + "    proxy_protocol: v1\n"
    for reported in (b"2001:db8::7", b"unknown", b"caf\xe9:1"):
        made = world(text)
        made.client(get(b"/", b"X-Forwarded-For: " + reported))
        assert made.upstream.take().startswith(b"PROXY UNKNOWN\r\nGET / ")
        made.settle()


# Growth ahead of need


@pytest.mark.parametrize(
    ("ratio", "totals"),
    [("1.0", [1, 2, 3, 4, 5]), ("1.5", [2, 2, 5, 5, 5]), ("3.0", [3, 3, 3, 12, 12])],
)
def test_preconnect(world: Make, ratio: str, totals: list[int]) -> None:
    """
    Whenever a request needs a new connection there are so many times as many as requests,
    rounded up; a request that finds one of those opens none.
    """
    made = world(pooled(preconnect=ratio))
    opened = []
    for _ in totals:
        made.client(get())
        opened.append(len(made.upstreams))
    assert opened == totals
    made.check()
    made.settle()


def test_preconnect_is_exact(world: Make) -> None:
    """1.1 times 10 is 11, whatever binary fractions say."""
    made = world(pooled(preconnect="1.1"))
    made.instant = None
    for _ in range(10):
        made.client(get())
    assert len(made.waiting) == 11
    made.settle()


def test_preconnect_is_bounded(world: Make) -> None:
    """By the pool and by the cluster; the requests themselves come first."""
    for text in (
        pooled(preconnect="3.0", max_connections=4),
        pooled(preconnect="3.0").replace("pending: 1024", "connections: 4"),
    ):
        made = world(text)
        made.instant = None
        for _ in range(6):
            made.client(get())
        assert len(made.waiting) == 4
        made.settle()


def test_preconnect_to_an_endpoint_that_refuses(world: Make) -> None:
    """One attempt for the request: none ahead of need while nothing comes of it."""
    made = world(pooled(preconnect="3.0"))
    made.instant = "refused"
    made.client(get())
    assert len(made.attempts) == 1
    made.settle()


def test_preconnect_names_no_client(world: Make) -> None:
    """Connections with a PROXY header are opened for their client alone."""
    made = world(pooled(preconnect="3.0") + "    proxy_protocol: v1\n")
    made.client(get())
    assert len(made.attempts) == 1
    made.settle()


def test_a_failure_costs_nobody_while_others_are_opened(world: Make) -> None:
    """Only when fewer openings are left than requests does one of them pay."""
    made = world(pooled(preconnect="3.0"))
    made.instant = None
    client = made.client(get())
    assert len(made.waiting) == 3
    made.waiting[0].fail()
    made.waiting[0].fail()
    assert client.take() == b""
    made.waiting[0].succeed()
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert made.clusters["site"].endpoints[0].failed == 2
    made.settle()


# Replays, verdicts, and the end


def test_a_replay_over_the_limits(world: Make) -> None:
    """A request that is sent again obeys them, too: pending is never more than it may be."""
    made = world(pooled(max_connections=1, max_pending=1))
    client = made.client(get())
    made.upstream.receive(ok())
    client.take()
    client.receive(get())
    waiting = made.client(get())
    made.upstream.end()
    assert status(client.take()) == 503
    stats = made.clusters["site"].stats
    assert made.value(stats.overflow_pending) == 1
    assert made.value(stats.pending_active) == 0
    made.upstream.receive(ok())
    assert status(waiting.take()) == 200
    made.settle()


def test_a_replay_without_a_place(world: Make) -> None:
    """When there are as many connections as may be, it is refused as well."""
    made = world(pooled(max_connections=1))
    pool: Any = made.clusters["site"].endpoints[0].pool
    made.client(get())
    refused: list[Any] = []
    requester = SimpleNamespace(
        group=made.listener._connections.copy().pop().exchange.group,  # type: ignore[union-attr]
        pool_failed=refused.append,
    )
    pool.request_fresh(requester)
    assert [reply.flags for reply in refused] == [b"UO"]
    assert made.value(made.clusters["site"].stats.overflow_connections) == 1
    made.settle()


def test_a_stale_connection_that_never_served(world: Make) -> None:
    """One opened ahead of need may be closed by the endpoint like any idle one: a replay."""
    made = world(pooled(preconnect="2.0"))
    client = made.client(get())
    ahead = made.upstreams[1]
    ahead.sock.acknowledged = 0
    second = made.client(get())
    assert ahead.take().startswith(b"GET / ")
    ahead.end()
    assert made.upstream.take().startswith(b"GET / ")
    made.upstream.receive(ok())
    assert status(second.take()) == 200
    assert made.value(made.clusters["site"].stats.replays) == 1
    assert client.take() == b""
    made.settle()


def test_a_replay_takes_what_comes_up_first(world: Make) -> None:
    """Any new connection will do; the one that was opened for it is kept for others."""
    made = world(pooled(max_connections=3))
    made.instant = None
    client, other = made.client(get()), made.client(get())
    made.waiting[0].succeed()
    made.upstream.receive(ok())
    made.upstream.receive(ok())
    assert [status(c.take()) for c in (client, other)] == [200, 200]
    client.receive(get(b"/again"))
    made.upstream.end()
    assert len(made.waiting) == 2
    made.waiting[0].succeed()
    assert made.upstream.take().startswith(b"GET /again ")
    made.waiting[0].succeed()
    other.receive(get(b"/other"))
    assert made.upstream.take().startswith(b"GET /other ")
    made.settle()


BREAKER = "    circuit_breaker: { local_failure_threshold: 3 }\n"


def test_failures_are_verdicts(world: Make) -> None:
    """Every attempt that fails is told to the breaker once; one that succeeds ends the row."""
    made = world(PLAIN + BREAKER)
    endpoint = made.clusters["site"].endpoints[0]
    made.instant = "timeout"
    for _ in range(2):
        made.client(get())
    assert (endpoint.failed, endpoint.local_failures, endpoint.breaker) == (2, 2, CLOSED)
    made.instant = None
    made.client(get()).end()
    made.waiting[0].succeed()
    assert endpoint.local_failures == 0
    made.upstream.end()
    made.instant = "refused"
    for _ in range(3):
        made.client(get())
    assert (endpoint.failed, endpoint.breaker) == (5, OPEN)
    assert made.records[-1].flags == b"UF"
    made.client(get())
    assert made.records[-1].flags == b"UH"
    assert endpoint.failed == 5
    made.turn(400.0)
    made.settle()


def test_no_descriptors_is_no_verdict(world: Make) -> None:
    """That the proxy can open nothing says nothing of the endpoint."""
    made = world(PLAIN + BREAKER)
    endpoint = made.clusters["site"].endpoints[0]
    made.instant = EXHAUSTED
    for _ in range(5):
        made.client(get())
    assert (endpoint.failed, endpoint.local_failures, endpoint.breaker) == (0, 0, CLOSED)
    assert {record.flags for record in made.records} == {b"UF"}
    made.settle()


def test_a_defect_while_opening(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs its request: what was counted for it is not counted for ever."""
    made = world(pooled(pending_timeout="3s"))
    connect = made._connect

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("meshproxy.http.opening.connect", broken)
    with pytest.raises(ZeroDivisionError):
        made.client(get())
    assert made.clusters["site"].limits.connections == 0
    monkeypatch.setattr("meshproxy.http.opening.connect", connect)
    client = made.client(get())
    assert len(made.upstreams) == 2  # the next request opens for the first, too
    made.upstreams[1].receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_retire(world: Make) -> None:
    """Idle connections end, those in flight and in line are served, then nothing is left."""
    made = world(pooled(max_connections=2))
    clients = [made.client(get(b"/%d" % number)) for number in range(2)]
    pool: Any = made.clusters["site"].endpoints[0].pool
    made.upstreams[1].receive(ok())
    pool.retire()
    made.turn()
    assert [upstream.gone for upstream in made.upstreams] == [False, True]
    clients += [made.client(get()) for _ in range(3)]
    for _ in range(2):
        for upstream in made.upstreams:
            if not upstream.gone:
                upstream.receive(ok())
        made.turn()
    assert {status(client.take()) for client in clients} == {200}
    assert all(upstream.gone for upstream in made.upstreams)
    assert pool.total == 0
    assert pool.slot == 0
    made.settle()


def test_retire_while_opening(world: Make) -> None:
    """What is being opened for somebody still is; what nobody waits for is given up."""
    made = world(pooled(preconnect="2.0"))
    made.instant = None
    client = made.client(get())
    pool: Any = made.clusters["site"].endpoints[0].pool
    pool.retire()
    assert pool.slot
    made.waiting[0].succeed()
    assert pool.slot == 0
    assert [attempt.cancelled for attempt in made.attempts] == [False, True]
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.turn()
    assert made.upstream.gone
    made.settle()


def test_close_in_the_middle_of_a_long_line(world: Make) -> None:
    """No call is left behind that would open for those who are answered already."""
    made = world(pooled(max_connections=1, max_pending=5000))
    clients = [made.client(get()) for _ in range(500)]
    made.instant = "refused"
    made.upstream.end(ConnectionLost)
    pool: Any = made.clusters["site"].endpoints[0].pool
    share = share_of(made.clusters["site"])
    assert share._call is not None
    pool.close()
    assert share._call is None
    attempts = len(made.attempts)
    assert {status(client.take()) for client in clients} == {503}
    made.turn(1.0)
    assert len(made.attempts) == attempts
    made.settle()

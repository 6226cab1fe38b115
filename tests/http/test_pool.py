"""The connections to an endpoint: reuse, growth, bounds, the line, and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from meshproxy.http.share import BURST
from tests.http.world import PLAIN, World, body, get, head, ok, status

Make = Callable[..., World]


def pooled(**settings: object) -> str:
    """The plain configuration with these settings of the pool."""
    pending = settings.pop("max_pending", 1024)
    inside = ", ".join(f"{name}: {value}" for name, value in settings.items())
    return PLAIN + f"    limits: {{ pending: {pending}, requests: 100000 }}\n    pool: {{ {inside} }}\n"


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

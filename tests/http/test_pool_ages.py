"""How old a connection may grow, and how often it may serve."""

from __future__ import annotations

from collections.abc import Callable

from tests.http.world import World, get, ok, pooled, status

Make = Callable[..., World]


def test_max_requests(world: Make) -> None:
    """After the last of them the connection is closed, and the next request has a new one."""
    made = world(pooled(max_requests=3))
    client = made.client()
    for number in range(7):
        client.receive(get())
        assert len(made.upstreams) == 1 + number // 3
        assert b"connection" not in made.upstream.take()
        made.upstream.receive(ok())
        assert status(client.take()) == 200
        made.turn()
    assert [upstream.gone for upstream in made.upstreams] == [True, True, False]
    assert made.value(made.clusters["site"].stats.aged_closed) == 2
    made.settle()


def test_max_requests_with_others_in_line(world: Make) -> None:
    """The connection is replaced, and the line goes on."""
    made = world(pooled(max_requests=2, max_connections=1))
    clients = [made.client(get()) for _ in range(5)]
    for _ in range(5):
        made.upstream.receive(ok())
        made.turn()
    assert [status(client.take()) for client in clients] == [200] * 5
    assert len(made.upstreams) == 3
    made.settle()


def test_max_requests_counts_requests(world: Make) -> None:
    """A connection that came up when nobody wanted it any more has served none."""
    made = world(pooled(max_requests=1))
    made.instant = None
    made.client(get()).end()
    made.waiting[0].succeed()
    made.instant = True
    client = made.client(get())
    assert len(made.upstreams) == 1
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_max_lifetime_of_idle_connections(world: Make) -> None:
    """They are closed when they are too old, though they were used a moment ago."""
    made = world(pooled(max_lifetime="100s"))
    client = made.client(get())
    made.upstream.receive(ok())
    while made.clock.seconds() < 1085.0:
        client.receive(get())
        made.upstream.receive(ok())
        made.turn(4.0)
    assert len(made.upstreams) == 1
    made.turn(16.0)
    assert made.upstream.gone
    assert made.value(made.clusters["site"].stats.aged_closed) == 1
    assert made.value(made.clusters["site"].stats.idle_closed) == 0
    made.settle()


def test_max_lifetime_of_one_that_was_busy_for_long(world: Make) -> None:
    """Its age counts from its beginning, and is looked at without anything else to look at."""
    made = world(pooled(max_lifetime="20s", idle_timeout="1h"))
    client = made.client(get())
    made.turn(10.0)
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.turn(5.0)
    assert not made.upstream.gone
    made.turn(5.2)
    assert made.upstream.gone
    made.settle()


def test_max_lifetime_while_busy(world: Make) -> None:
    """The exchange goes on to its end; then the connection is closed."""
    made = world(pooled(max_lifetime="2s"))
    client = made.client(get())
    made.turn(5.0)
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    client.receive(get())
    assert len(made.upstreams) == 2
    assert made.value(made.clusters["site"].stats.aged_closed) == 1
    made.settle()


def test_max_lifetime_before_the_wheel_has_come(world: Make) -> None:
    """One that is too old is not given out, however late the sweep is."""
    made = world(pooled(max_lifetime="100s"))
    clients = [made.client(get()) for _ in range(3)]
    for upstream in made.upstreams:
        upstream.receive(ok())
    # Time that passes in one leap: nothing that is due has been called.
    made.clock.rightNow += 200.0
    clients[0].receive(get())
    assert len(made.upstreams) == 4
    assert made.value(made.clusters["site"].stats.aged_closed) == 3
    made.settle()


def test_lifetimes_differ(world: Make) -> None:
    """By up to a tenth, so that connections of one moment do not end in one."""
    made = world(pooled(max_lifetime="1000s", idle_timeout="1h"))
    for _ in range(50):
        made.client(get())
    for upstream in made.upstreams:
        upstream.receive(ok())
    made.turn(899.0)
    assert not any(upstream.gone for upstream in made.upstreams)
    made.turn(50.0)
    assert 5 < sum(upstream.gone for upstream in made.upstreams) < 45
    made.turn(52.0)
    assert all(upstream.gone for upstream in made.upstreams)
    made.settle()

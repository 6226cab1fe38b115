"""Time limits of a client's connection and of sending a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.http import retry as retry_module
from meshproxy.http.h1 import server as server_module
from tests.http.world import PLAIN, World, body, get, head, ok, post, status

Make = Callable[..., World]

WHOLE = PLAIN.replace("http:\n", "http:\n      request_timeout: 3s\n")
AGED = PLAIN.replace("http:\n", "http:\n      max_connection_age: 10s\n      idle_timeout: 60s\n")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_slow_request(world: Make, chunked: bool) -> None:
    """408 when all of it is not here in time, however steadily it drips; nobody is blamed."""
    made = world(WHOLE)
    frame = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100"
    client = made.client(get(b"/", frame, method=b"POST"))
    for _ in range(3):
        made.turn(0.95)
        client.receive(b"1\r\nx\r\n" if chunked else b"x")
    assert client.take() == b""
    made.turn(0.3)
    got = client.take()
    assert (status(got), body(got)) == (408, b"request timeout")
    assert head(got)[b"connection"] == b"close"
    (record,) = made.records
    assert (record.flags, record.details) == (b"-", b"request_overall_timeout")
    made.turn()
    assert made.upstream.gone
    (endpoint,) = made.clusters["site"].endpoints
    assert endpoint.failed == 0
    made.settle()


def test_a_request_in_time(world: Make) -> None:
    """Its response may take longer than that."""
    made = world(WHOLE)
    client = made.client(post(b"abc", length=6))
    made.turn(2.9)
    client.receive(b"def")
    made.turn(5.0)
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    client.receive(get())
    made.turn(5.0)
    assert client.take() == b""
    made.settle()


def test_a_slow_request_that_is_answered_already(world: Make) -> None:
    """A response under way is cut."""
    made = world(WHOLE)
    client = made.client(post(b"abc", length=6))
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    made.turn(3.2)
    assert client.gone
    assert body(client.take()) == b"abc"
    made.settle()


def test_a_slow_request_is_not_retried(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time holds over all tries."""
    monkeypatch.setattr(retry_module, "random", lambda: 1.0)
    made = world(WHOLE.replace("to: site", "to: site\n          retry: { on: [5xx], attempts: 9 }"))
    client = made.client(get(b"/", b"Content-Length: 6", method=b"PUT") + b"abc")
    made.turn(2.0)
    made.upstream.receive(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    made.turn(0.9)
    assert len(made.upstreams) == 2
    made.turn(0.3)
    assert status(client.take()) == 408
    made.settle()


def aged(world: Make, monkeypatch: pytest.MonkeyPatch, text: str = AGED) -> World:
    """Connections that get exactly as old as they may."""
    monkeypatch.setattr(server_module, "random", lambda: 0.0)
    return world(text)


def test_an_idle_connection_that_is_too_old(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, whether it ever served or not; until then it serves on."""
    made = aged(world, monkeypatch)
    silent, busy = made.client(), made.client()
    for _ in range(3):
        made.turn(3.0)
        busy.receive(get())
        made.upstream.receive(ok())
        assert b"connection" not in head(busy.take())
    assert not silent.gone
    made.turn(1.2)
    assert silent.gone
    assert busy.gone
    made.settle()


@pytest.mark.parametrize("begun", [False, True])
def test_an_exchange_at_that_time(
    world: Make, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """It ends as it should, and the connection with it; a head still to come says so."""
    made = aged(world, monkeypatch)
    client = made.client()
    made.turn(9.0)
    client.receive(get() + get(b"/next"))
    if begun:
        made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
    made.turn(5.0)
    assert not client.gone
    made.upstream.receive(b"def" if begun else ok(b"abcdef"))
    made.turn()
    got = client.take()
    assert body(got) == b"abcdef"
    assert (head(got).get(b"connection") == b"close") is not begun
    assert client.gone
    assert len(made.records) == 1  # the next is the next connection's
    made.settle()


def test_a_head_that_is_not_whole_at_that_time(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is served, as the last."""
    made = aged(world, monkeypatch)
    client = made.client()
    made.turn(9.5)
    client.receive(get()[:20])
    made.turn(2.0)
    assert not client.gone
    client.receive(get()[20:])
    made.upstream.receive(ok())
    assert head(client.take())[b"connection"] == b"close"
    made.turn()
    assert client.gone
    made.settle()


def test_a_tunnel_at_that_time(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on: it is an exchange."""
    made = aged(world, monkeypatch, AGED.replace("to: site", "to: site\n          upgrades: [x]"))
    client = made.client(get(b"/", b"Connection: upgrade", b"Upgrade: x"))
    made.upstream.receive(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    made.turn(20.0)
    client.receive(b"hello")
    assert made.upstream.take().endswith(b"hello")
    made.settle()


def test_ages_differ(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By up to a tenth, so that connections that came together do not leave together."""
    made = aged(world, monkeypatch)
    one = made.client()
    monkeypatch.setattr(server_module, "random", lambda: 0.99)
    other = made.client()
    made.turn(9.3)
    assert other.gone
    assert not one.gone
    made.settle()


@pytest.mark.parametrize("first", ["idle", "headers"])
def test_age_does_not_put_off_other_limits(
    world: Make, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """What ends a connection earlier still does."""
    text = AGED.replace("idle_timeout: 60s", "idle_timeout: 2s\n      headers_timeout: 2s")
    made = aged(world, monkeypatch, text)
    client = made.client(b"" if first == "idle" else b"GET / HT")
    made.turn(2.2)
    if first == "idle":
        assert client.gone
    else:
        assert status(client.take()) == 408
    made.settle()

"""How exchanges end: by which limit, with which flag, and which limits hold for whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.http.world import World, body, get, ok, post, status

Make = Callable[..., World]


def config(http: str = "", route: str = "", cluster: str = "", top: str = "") -> str:
    """One route to one endpoint, with time limits here and there."""
    return f"""
{top}
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      {http}
      routes:
        - to: site
          upgrades: [websocket]
          {route}
clusters:
  site:
    endpoints: [127.0.0.1:9001]
    {cluster}
"""


GRPC = get(b"/", b"Content-Type: application/grpc+proto")
EVENTS = get(b"/", b"Accept: text/html, text/event-stream")
SOCKET = get(b"/", b"Connection: upgrade", b"Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    ("top", "route", "cluster", "seconds"),
    [
        ("", "", "", 15.0),
        ("timeouts: { exchange: 4s }", "", "", 4.0),
        ("timeouts: { exchange: 4s }", "", "timeout: 3s", 3.0),
        ("timeouts: { exchange: 4s }", "timeout: 2s", "timeout: 3s", 2.0),
        ("timeouts: { exchange: 4s }", "timeout: 6s", "timeout: 3s", 6.0),
        ("timeouts: { exchange: 4s }", "timeout: 0", "timeout: 3s", 0.0),
        ("timeouts: { exchange: 4s }", "", "timeout: 0", 0.0),
        ("timeouts: { exchange: 0 }", "", "", 0.0),
    ],
)
def test_which_timeout_counts(
    world: Make, top: str, route: str, cluster: str, seconds: float
) -> None:
    """Route before cluster, cluster before ``timeouts``, else 15 s; 0 is none."""
    made = world(config("stream_idle_timeout: 0", route, cluster, top))
    client = made.client(get())
    if seconds:
        made.turn(seconds - 0.1)
        assert client.take() == b""
        made.turn(0.2)
        assert (status(client.take()), made.records[0].flags) == (504, b"UT")
    else:
        made.turn(100.0)
        made.upstream.receive(ok())
        assert status(client.take()) == 200
    made.settle()


def test_the_longest_of_several_clusters(world: Make) -> None:
    """One limit for the route; a cluster without one takes part with the default."""
    text = config(cluster="timeout: 2s").replace("to: site", "to: { site: 1, other: 1, third: 1 }")
    text += "  other: { endpoints: [127.0.0.1:9002], timeout: 20s }\n"
    made = world(text + "  third: { endpoints: [127.0.0.1:9003] }\n")
    client = made.client(get())
    made.turn(19.9)
    assert client.take() == b""
    made.turn(0.2)
    assert status(client.take()) == 504
    made.settle()


@pytest.mark.parametrize("request_", [GRPC, EVENTS, get()])
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    ("http", "route", "top", "strict"),
    [
        ("", "", "", False),
        ("", "", "timeouts: { exchange: 2s, stream_idle: 3s }", False),
        ("", "timeout: 2s", "", True),
        ("stream_idle_timeout: 2s", "", "", True),
        ("", "stream_idle_timeout: 2s", "", True),
    ],
)
def test_what_no_default_cuts(
    world: Make, request_: bytes, answered: bool, http: str, route: str, top: str, strict: bool
) -> None:
    """gRPC and event streams live on but for limits written for them; others do not."""
    made = world(config(http + "\n      idle_timeout: 20s", route, top=top))
    client = made.client(request_)
    if answered:
        kind = b"content-type: text/event-stream\r\n" if request_ is EVENTS else b""
        made.upstream.receive(
            b"HTTP/1.1 200 OK\r\n" + kind + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        )
    made.turn(310.0)
    if strict or request_ == get():
        assert made.records[0].flags in (b"UT", b"SI")
        assert made.upstream.gone
    else:
        assert made.records == []
        made.upstream.receive(b"0\r\n\r\n" if answered else ok())
        assert client.take().startswith(b"HTTP/1.1 200 OK")
        assert made.records[0].flags == b"-"
        # And then the connection has its own limit again.
        made.turn(330.0)
        assert client.gone
    made.settle()


def test_an_event_stream_that_did_not_say_so(world: Make) -> None:
    """What the response is counts, not what the request hoped for."""
    made = world(config())
    plain = made.client(EVENTS)
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    made.turn(16.0)
    assert plain.gone
    stream = made.client(get())
    made.upstream.receive(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; x=y\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    )
    made.turn(310.0)
    assert not stream.gone
    made.settle()


@pytest.mark.parametrize("where", ["", "listener", "route"])
def test_tunnels(world: Make, where: str) -> None:
    """No whole limit cuts one, and no limit that others share; silence does by its route."""
    written = where == "route"
    idle = "stream_idle_timeout: 10s"
    route = f"timeout: 5s\n          {idle if written else ''}"
    made = world(config(idle if where == "listener" else "", route))
    client = made.client(SOCKET)
    made.upstream.receive(SWITCH)
    for number in range(8):
        made.turn(6.0)
        if number % 2:
            client.receive(b"ping")
        else:
            made.upstream.receive(b"pong")
    assert not client.gone
    made.turn(10.2)
    assert client.gone is written
    if written:
        assert made.records[0].flags == b"SI"
    else:
        made.turn(310.0)
        assert not client.gone
    made.settle()


def test_silence_is_nobodys_verdict_but_the_endpoints(world: Make) -> None:
    """504 where it did not answer, 408 where the client did not send."""
    made = world(config("stream_idle_timeout: 2s"))
    slow = made.client(get())
    lazy = made.client(post(b"abc", length=9))
    made.turn(2.2)
    got = slow.take()
    assert (status(got), body(got)) == (504, b"stream timeout")
    assert status(lazy.take()) == 408
    (endpoint,) = made.clusters["site"].endpoints
    assert endpoint.failed == 1
    made.settle()


def test_a_connection_outlives_its_timeout(world: Make) -> None:
    """After a 504 it serves on, and its idle time holds."""
    made = world(config("idle_timeout: 30s", "timeout: 1s"))
    client = made.client(get())
    made.turn(1.1)
    assert status(client.take()) == 504
    client.receive(get())
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    client.receive(get())
    made.turn(1.1)
    assert status(client.take()) == 504
    made.turn(29.0)
    assert not client.gone
    made.turn(2.0)
    assert client.gone
    made.settle()


def test_no_limits_at_all(world: Make) -> None:
    """An exchange without any still leaves the connection its idle time."""
    made = world(config("stream_idle_timeout: 0\n      idle_timeout: 30s", "timeout: 0"))
    client = made.client(get())
    made.turn(500.0)
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.turn(61.0)
    assert client.gone
    made.settle()

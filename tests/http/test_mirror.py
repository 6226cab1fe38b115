"""Mirroring: copies that nobody notices but their cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.http import mirror as mirror_module
from meshproxy.http.mirror import LONGEST
from tests.http.world import Transport, World, body, get, head, ok, post, status

Make = Callable[..., World]

MIRRORED = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      max_body: 1000
      routes:
        - match: { prefix: /api/ }
          to: site
          rewrite: { prefix: / }
          mirror: shadow
        - to: site
          timeout: 0
          mirror: { to: shadow, max_body: 100 }
          upgrades: [websocket]
clusters:
  site: { endpoints: [127.0.0.1:9001] }
  shadow:
    endpoints: [127.0.0.1:9002]
    limits: { requests: 2, pending: 1 }
"""


def stat(made: World, name: str) -> float:
    """A counter of the cluster that gets the copies."""
    return made.value(getattr(made.clusters["shadow"].stats, name))


def of(made: World, port: int) -> list[Transport]:
    """The connections to this port that were made, in order."""
    pairs = zip(made.attempts, made.upstreams, strict=True)
    return [upstream for attempt, upstream in pairs if attempt.where[1] == port]


def test_a_copy_goes_out(world: Make) -> None:
    """The same bytes as to the cluster itself; what comes back is dropped, whatever it is."""
    made = world(MIRRORED)
    client = made.client(get(b"/api/x", b"Content-Length: 3", method=b"POST") + b"abc")
    (site,), (shadow,) = of(made, 9001), of(made, 9002)
    sent = shadow.take()
    assert sent == site.take()
    assert sent.startswith(b"POST /x HTTP/1.1\r\n")
    shadow.receive(b"HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\nbad")
    assert client.take() == b""
    site.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (1, 0)
    assert stat(made, "bytes_sent") == 0
    assert len(made.records) == 1
    made.settle()


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_body_in_pieces(world: Make, pieces: int) -> None:
    """The copy goes when the body is whole, chunked with trailers where it was so."""
    made = world(MIRRORED)
    data = b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\nx-sum: 1\r\n\r\n"
    client = made.client(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    joined = (
        [b"".join(data)] if pieces == 1 else [*data[: pieces - 1], b"".join(data[pieces - 1 :])]
    )
    for piece in joined:
        assert of(made, 9002) == []
        client.receive(piece)
    (shadow,) = of(made, 9002)
    assert body(shadow.take()) == b"6\r\nabcdef\r\n0\r\nx-sum: 1\r\n\r\n"
    made.settle()


def test_it_outlives_its_exchange_and_its_client(world: Make) -> None:
    """And ends by itself, or when its time is over."""
    made = world(MIRRORED)
    for answered in (True, False):
        client = made.client(get())
        of(made, 9001)[-1].receive(ok())
        assert status(client.take()) == 200
        client.end()
        made.turn(1.0)
        shadow = of(made, 9002)[-1]
        assert not shadow.gone
        if answered:
            shadow.receive(ok())
    made.turn(LONGEST)
    assert shadow.gone
    (endpoint,) = made.clusters["shadow"].endpoints
    assert (endpoint.answered, endpoint.failed) == (1, 1)
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (2, 1)
    made.settle()


def test_the_routes_time_is_the_copys(world: Make) -> None:
    """Where there is one."""
    made = world(MIRRORED.replace("mirror: shadow", "mirror: shadow\n          timeout: 2s"))
    made.client(get(b"/api/"))
    made.turn(1.9)
    assert not of(made, 9002)[0].gone
    made.turn(0.3)
    assert of(made, 9002)[0].gone
    made.settle()


def test_failures_cost_the_client_nothing(world: Make) -> None:
    """No connection, a reset, garbage: each is counted, and the answer comes as ever."""
    made = world(MIRRORED)
    made.instant = None
    for number in range(4):
        client = made.client(get())
        for attempt in made.waiting:
            if attempt.where[1] == 9001:
                attempt.succeed()
            elif number == 0:
                attempt.fail()
            else:
                upstream = attempt.succeed()
                if number == 1:
                    upstream.end()
                elif number == 2:
                    upstream.receive(b"garbage\r\n\r\n")
        site = next(u for u in made.upstreams if u.sent and not u.gone)
        site.receive(ok())
        assert status(client.take()) == 200
    assert stat(made, "mirrored") == 4
    assert stat(made, "mirror_failures") == 3
    made.settle()


def test_limits(world: Make) -> None:
    """Copies over the cluster's limits, or too long, are not sent, and counted."""
    made = world(MIRRORED)
    for _ in range(3):
        made.client(get())
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (2, 1)
    for upstream in of(made, 9002):
        upstream.receive(ok())
    for size in (100, 101):
        made.client(post(b"x" * size))
    made.client(get(b"/", b"Content-Length: 101", method=b"POST")).receive(b"x" * 101)
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (3, 3)
    made.settle()


def test_what_is_refused_is_not_copied(world: Make) -> None:
    """A body over ``max_body`` of the listener, an unknown upgrade, an own answer."""
    made = world(MIRRORED)
    data = b"3f0\r\n" + b"x" * 0x3F0 + b"\r\n0\r\n\r\n"
    client = made.client(get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + data)
    assert status(client.take()) == 413
    client = made.client(get(b"/", b"Connection: upgrade", b"Upgrade: other"))
    assert status(client.take()) == 403
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (0, 0)
    made.client(get())
    assert stat(made, "mirrored") == 1
    made.settle()


def test_an_upgrade_is_not_copied(world: Make) -> None:
    """A tunnel cannot be; it is counted as not sent."""
    made = world(MIRRORED)
    made.client(get(b"/", b"Connection: upgrade", b"Upgrade: websocket"))
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (0, 1)
    made.settle()


def test_percent(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """That many of a hundred; those that are not chosen are no failures."""
    made = world(MIRRORED.replace("{ to: shadow, max_body: 100 }", "{ to: shadow, percent: 25 }"))
    draws = iter((0.0, 0.2499, 0.25, 0.9))
    monkeypatch.setattr(mirror_module, "random", lambda: next(draws))
    for _ in range(4):
        made.client(get())
    assert (stat(made, "mirrored"), stat(made, "mirror_failures")) == (2, 0)
    made.settle()


def test_one_copy_of_a_retried_request(world: Make) -> None:
    """However many tries there are."""
    made = world(
        MIRRORED.replace("mirror: shadow", "mirror: shadow\n          retry: { on: [5xx] }")
    )
    client = made.client(get(b"/api/x"))
    of(made, 9001)[0].receive(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    made.turn(1.0)
    of(made, 9001)[0].receive(ok())
    assert status(client.take()) == 200
    assert stat(made, "mirrored") == 1
    made.settle()


def test_the_client_is_named_to_the_other_cluster(world: Make) -> None:
    """By the PROXY header that it wants, even when the client has left meanwhile."""
    made = world(MIRRORED + "    proxy_protocol: v1\n")
    made.instant = None
    client = made.client(get())
    client.end()
    for attempt in made.waiting:
        if attempt.where[1] == 9002:
            sent = attempt.succeed().take()
            assert sent.startswith(b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 8080\r\nGET / ")
            assert head(sent)
    assert stat(made, "mirrored") == 1
    made.settle()


def test_the_pools_close(world: Make) -> None:
    """What is under way ends with them, and no timer is left."""
    made = world(MIRRORED)
    made.client(get())
    made.instant = None
    made.client(get())
    for cluster in made.clusters.values():
        for endpoint in cluster.endpoints:
            endpoint.pool.close()
    made.turn()
    assert stat(made, "mirror_failures") == 2
    made.settle()

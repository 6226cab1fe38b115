"""Copies of a request: whole, counted while they last, judged once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http.copy import Copy
from tests.http.world import World, body, get, head, ok

Make = Callable[..., World]

TWO = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes: [{ to: site, timeout: 0 }]
clusters:
  site: { endpoints: [127.0.0.1:9001] }
  other: { endpoints: [127.0.0.1:9002] }
"""


def copied(made: World, data: bytes, held: bytes) -> Copy:
    """A copy, for ``other``, of the request ``data`` whose body is ``held``; begun."""
    client = made.client(data)
    exchange = client.protocol.exchange
    group = made.clusters["other"].group()
    endpoint = group.pick()
    assert endpoint is not None
    made_copy = Copy(exchange, group, endpoint, held)
    made_copy.begin()
    return made_copy


def verdicts(made: World) -> tuple[int, int]:
    """Of the endpoint that got the copy: failed, answered."""
    (endpoint,) = made.clusters["other"].endpoints
    return endpoint.failed, endpoint.answered


def test_the_same_request(world: Make) -> None:
    """Line, headers, body: byte by byte what the exchange sent, with the same request id."""
    made = world(TWO)
    copied(made, get(b"/x?y", b"X-A: 1", b"Content-Length: 3", method=b"PUT") + b"abc", b"abc")
    first, second = (upstream.take() for upstream in made.upstreams)
    assert first == second
    made.settle()


def test_chunks_and_trailers(world: Make) -> None:
    """A chunked body goes whole, its trailers behind it."""
    made = world(TWO)
    data = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    copied(made, data + b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", b"abc")
    sent = made.upstream.take()
    assert head(sent)[b"transfer-encoding"] == b"chunked"
    assert body(sent) == b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
    made.settle()


@pytest.mark.parametrize(
    ("answer", "end", "expected"),
    [
        (ok(b"fine"), None, (0, 1)),
        (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", None, (1, 0)),
        (b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\nabc", ConnectionDone, (1, 0)),
        (b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc", ConnectionLost, (1, 0)),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None, (0, 1)),
        (b"HTTP/1.1 103 X\r\n\r\n", ConnectionDone, (1, 0)),
        (b"", ConnectionDone, (1, 0)),
        (b"garbage\r\n\r\n", None, (1, 0)),
        (b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", None, (1, 0)),
    ],
)
def test_one_verdict(
    world: Make, answer: bytes, end: type[Exception] | None, expected: tuple[int, int]
) -> None:
    """Whatever comes of it, the endpoint failed once or answered once, and nothing is held."""
    made = world(TWO)
    copied(made, get(), b"")
    (endpoint,) = made.clusters["other"].endpoints
    assert endpoint.active == made.clusters["other"].limits.default.requests == 1
    if answer:
        made.upstream.receive(answer)
    if end is not None:
        made.upstream.end(end)
    assert verdicts(made) == expected
    assert endpoint.active == made.clusters["other"].limits.default.requests == 0
    made.settle()


@pytest.mark.parametrize("when", ["waiting", "sent", "responding"])
def test_given_up(world: Make, when: str) -> None:
    """At any time: the connection goes, and it is no verdict."""
    made = world(TWO)
    client = made.client(get())
    made.instant = None if when == "waiting" else True
    exchange = client.protocol.exchange
    group = made.clusters["other"].group()
    (endpoint,) = made.clusters["other"].endpoints
    one = Copy(exchange, group, endpoint, b"")
    one.begin()
    if when == "responding":
        made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    one.give_up()
    assert verdicts(made) == (0, 0)
    assert endpoint.active == 0
    made.settle()


@pytest.mark.parametrize(("method", "again"), [(b"GET", True), (b"POST", False)])
def test_a_stale_connection(world: Make, method: bytes, again: bool) -> None:
    """What was closed while idle costs an idempotent copy nothing, and is no verdict."""
    made = world(TWO)
    copied(made, get(), b"")
    made.upstream.receive(ok())
    stale = made.upstream
    copied(made, get(b"/", b"Content-Length: 3", method=method) + b"abc", b"abc")
    stale.sock.acknowledged = len(stale.sent)
    count = len(made.upstreams)
    stale.end()
    assert (len(made.upstreams) > count) is again
    assert verdicts(made) == (0 if again else 1, 1)
    if again:
        assert body(made.upstream.take()) == b"abc"
    made.settle()


def test_a_reused_connection_that_was_not_stale(world: Make) -> None:
    """Once it has answered, its end is the answer's end: nothing goes out again."""
    made = world(TWO)
    copied(made, get(), b"")
    made.upstream.receive(ok())
    reused = made.upstream
    copied(made, get(), b"")
    reused.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    begun = len(made.upstreams)
    reused.end(ConnectionLost)
    assert len(made.upstreams) == begun
    assert verdicts(made) == (1, 1)
    made.settle()

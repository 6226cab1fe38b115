"""What waits on a client's connection is bounded, and a slow side pauses the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.http.h1.server import PIPELINE
from tests.http.h1.test_server import LOCAL
from tests.http.world import World, body, get, ok, post, status

Make = Callable[..., World]


def test_pipelined_bytes_are_bounded(world: Make) -> None:
    """However many requests are answered, what waits never exceeds a read over the bound."""
    made = world()
    client = made.client()
    requests = get() * (65536 // len(get()))
    most = 0
    for _ in range(60):
        if client.reading:
            client.receive(requests)
        if made.upstream.take():
            made.upstream.receive(ok(b"x"))
        made.turn()
        client.take()
        most = max(most, len(client.protocol._pending))
    assert PIPELINE < most <= PIPELINE + 65536
    assert not client.reading
    made.settle()


def test_a_paused_pipeline_goes_on_when_there_is_room(world: Make) -> None:
    """Reading stops over the bound and starts again below it; every request is answered."""
    made = world()
    request_ = get(b"/", b"X: " + b"y" * 900)
    count = PIPELINE // len(request_) + 10
    client = made.client()
    for _ in range(count):
        client.receive(request_)
    assert not client.reading
    answers = 0
    while made.upstream.take():
        made.upstream.receive(ok(b"x"))
        made.turn()
        answers += client.take().count(b"HTTP/1.1 200 OK")
    assert answers == count
    assert client.reading
    made.settle()


@pytest.mark.parametrize("path", [b"/big", b"/far"])
def test_no_request_is_begun_while_the_client_does_not_read(world: Make, path: bytes) -> None:
    """Answers that the client does not take are bounded, however many requests wait."""
    made = world(LOCAL)
    client = made.client()
    client.block()
    answer = ok(b"u" * 20000)
    most = 0
    for _ in range(50):
        client.receive(get(path) * 10)
        if made.upstreams and made.upstream.take():
            made.upstream.receive(answer)
        made.turn()
        most = max(most, client.buffered)
    assert 65536 < most < 65536 + 2 * 21000
    assert not client.reading
    for _ in range(500):
        client.drain()
        made.turn()
        if made.upstreams and made.upstream.take():
            made.upstream.receive(answer)
    assert client.take().count(b"HTTP/1.1 200 OK") == 500
    made.settle()


def test_a_client_that_never_reads_is_closed(world: Make) -> None:
    """Its answer waits for the stream idle timeout, and so does its connection's end."""
    made = world(LOCAL)
    client = made.client()
    client.block()
    client.receive(get(b"/big") * 10)
    made.turn(299.0)
    assert not client.gone
    made.turn(302.0)
    assert client.gone
    assert client.aborted
    made.settle()


def test_a_slow_client_pauses_the_upstream(world: Make) -> None:
    """Backpressure from the client reaches the endpoint, and is taken off again."""
    made = world()
    client = made.client(get())
    client.block()
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    made.upstream.receive(b"x" * 65536)
    assert not made.upstream.reading
    made.upstream.receive(b"y" * 65536)
    assert client.buffered < 2 * 65536
    client.drain()
    made.turn()
    assert made.upstream.reading
    assert client.take().count(b"yy") == 32768
    made.settle()


def test_a_slow_upstream_pauses_the_client(world: Make) -> None:
    """Backpressure from the endpoint reaches the client, and is taken off again."""
    made = world()
    client = made.client(post(b"", length=1_000_000))
    made.upstream.take()
    made.upstream.block()
    client.receive(b"x" * 65536)
    client.receive(b"x" * 65536)
    assert not client.reading
    client.receive(b"y" * 65536)
    assert made.upstream.buffered == 2 * 65536
    made.upstream.drain()
    made.turn()
    assert client.reading
    assert made.upstream.take().count(b"y") == 65536
    made.settle()


def test_the_body_waits_for_its_connection(world: Make) -> None:
    """Nothing more of a body is read until there is somebody to send it to."""
    made = world()
    made.instant = None
    client = made.client(post(b"abc", length=6))
    assert not client.reading
    client.receive(b"def")
    made.waiting[0].succeed()
    made.turn()
    assert client.reading
    assert body(made.upstream.take()) == b"abcdef"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_an_answer_to_a_request_that_the_endpoint_did_not_read(world: Make) -> None:
    """The endpoint has not taken all of it: the connection is not used again."""
    made = world()
    client = made.client(post(b"", length=65536))
    upstream = made.upstream
    upstream.take()
    upstream.block()
    client.receive(b"x" * 65536)
    upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.take().endswith(b"ok")
    assert upstream.aborted
    made.turn()
    assert upstream.gone
    client.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert made.upstream is not upstream
    made.settle()

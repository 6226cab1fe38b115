"""Retries that might do harm: methods, bodies, responses of which something is here already."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.http.tries import CHUNK, PART, answer, config, fail, longest, stats
from tests.http.world import World, body, get, head, ok, post, status

Make = Callable[..., World]
pytestmark = pytest.mark.usefixtures("longest")
__all__ = ["longest"]


# Whether it does harm


@pytest.mark.parametrize(
    "method", [b"GET", b"OPTIONS", b"TRACE", b"PUT", b"DELETE", b"POST", b"PATCH"]
)
@pytest.mark.parametrize("extra", ["", "key", "allowed"])
@pytest.mark.parametrize("kind", ["refused-stream", "closed", "500", "unconnected"])
def test_idempotence(world: Make, method: bytes, extra: str, kind: str) -> None:
    """What may have had an effect is sent again by its method, by a key or by the route only."""
    made = world(config(f"{{ on: [5xx], non_idempotent: {str(extra == 'allowed').lower()} }}"))
    lines = [b"Idempotency-Key: 1"] if extra == "key" else []
    if kind == "unconnected":
        made.instant = None
    client = made.client(get(b"/", b"Content-Length: 3", *lines, method=method) + b"abc")
    if kind == "unconnected":
        made.waiting[0].fail()
        made.instant = True
    else:
        fail(made, kind)
    made.turn(1.0)
    harmless = kind in ("refused-stream", "unconnected") or extra or method in (
        b"GET", b"OPTIONS", b"TRACE", b"PUT", b"DELETE",
    )  # fmt: skip
    if harmless:
        assert body(made.upstream.take()) == b"abc"
        made.upstream.receive(ok())
        assert status(client.take()) == 200
    else:
        assert status(client.take()) >= 500
        assert len(made.upstreams) == 1
    made.settle()


def test_a_timed_out_post(world: Make) -> None:
    """It is not sent again, but the time holds; the flags say nothing of retries."""
    made = world(config("{ on: [reset], per_try_timeout: 1s }"))
    client = made.client(post(b"abc"))
    made.turn(1.1)
    assert (status(client.take()), made.records[0].flags) == (504, b"UT")
    assert len(made.upstreams) == 1
    made.settle()


@pytest.mark.parametrize(("size", "again"), [(100, True), (101, False)])
@pytest.mark.parametrize("bound", [100, 100_000])
def test_max_body(world: Make, size: int, again: bool, bound: int) -> None:
    """A body up to the bound, and no longer one, is kept, however it came."""
    size = size * bound // 100
    made = world(config(f"{{ on: [5xx], max_body: {bound} }}"))
    client = made.client(get(b"/", b"Content-Length: %d" % size, method=b"PUT"))
    sent = b"x" * size
    client.receive(sent[: size // 2])
    client.receive(sent[size // 2 :])
    made.upstream.receive(answer(500))
    made.turn(1.0)
    if again:
        assert body(made.upstream.take()) == sent
        made.upstream.receive(ok())
    assert status(client.take()) == (200 if again else 500)
    made.settle()


def test_a_long_body_of_which_nothing_was_sent(world: Make) -> None:
    """It is not bound: it still is where it was."""
    made = world(config("{ max_body: 10 }"))
    made.instant = None
    client = made.client(post(b"x" * 1000))
    made.waiting[0].fail()
    made.turn(1.0)
    made.waiting[0].succeed()
    assert len(body(made.upstream.take())) == 1000
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_still_arriving(world: Make, chunked: bool) -> None:
    """What came is sent again, the rest follows when it comes, with its trailers."""
    made = world(config("{ on: [5xx] }"))
    frame = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 9"

    def piece(data: bytes) -> bytes:
        return b"3\r\n" + data + b"\r\n" if chunked else data

    client = made.client(get(b"/", frame, method=b"PUT") + piece(b"abc"))
    client.receive(piece(b"def"))
    made.upstream.receive(answer(503))
    assert not client.reading  # until there is a connection again
    made.turn(1.0)
    assert client.reading
    client.receive(piece(b"ghi") + (b"0\r\nx-sum: 1\r\n\r\n" if chunked else b""))
    sent = body(made.upstream.take())
    if chunked:
        assert sent == b"6\r\nabcdef\r\n3\r\nghi\r\n0\r\nx-sum: 1\r\n\r\n"
    else:
        assert sent == b"abcdefghi"
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    made.settle()


def test_continue_is_said_once(world: Make) -> None:
    """A client that expects it gets it at the beginning and not with every try."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get(b"/", b"Content-Length: 3", b"Expect: 100-continue", method=b"PUT"))
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    made.upstream.receive(answer(503))
    made.turn(1.0)
    client.receive(b"abc")
    assert body(made.upstream.take()) == b"abc"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_the_client_leaves_in_a_pause(world: Make) -> None:
    """Nothing is sent for nobody."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get())
    made.upstream.receive(answer(503))
    client.end()
    made.turn(1.0)
    assert len(made.upstreams) == 1
    assert [(r.flags, r.status) for r in made.records] == [(b"DC", 0)]
    made.settle()


def test_the_listener_stops_in_a_pause(world: Make) -> None:
    """No call is left behind; while it drains, retries go on."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get())
    gone = made.client(get())
    for upstream in list(made.upstreams):
        upstream.receive(answer(503))
    gone.end()
    made.listener.drain()
    made.turn(0.03)
    made.upstream.receive(ok(b"fine"))
    assert body(got := client.take()) == b"fine"
    assert head(got)[b"connection"] == b"close"
    stopped = made.client(get())
    made.upstream.receive(answer(503))
    made.listener.stop()
    made.turn(0.03)
    assert stopped.gone
    made.settle()


def test_pipelined_requests_keep_their_order(world: Make) -> None:
    """The second waits for the first one's retry."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get(b"/1") + get(b"/2"))
    made.upstream.receive(answer(500))
    made.turn(1.0)
    assert made.upstream.take().startswith(b"GET /1 ")
    made.upstream.receive(ok(b"one"))
    busy = next(u for u in made.upstreams if u.take().startswith(b"GET /2 "))
    busy.receive(ok(b"two"))
    got = client.take()
    assert got.index(b"one") < got.index(b"two")
    made.settle()


def test_interim_responses_pass(world: Make) -> None:
    """A 103 is no response: a retry may follow it."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get())
    made.upstream.receive(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    made.upstream.receive(answer(500))
    made.turn(1.0)
    made.upstream.receive(ok(b"fine"))
    got = client.take()
    assert got.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert got.count(b"HTTP/1.1 200 OK") == 1
    made.settle()


def test_an_upgrade_that_was_refused_first(world: Make) -> None:
    """A 503 is retried; the tunnel holds no place among the retries."""
    made = world(config("{ on: [5xx], per_try_timeout: 1s }", "upgrades: [websocket]"))
    client = made.client(get(b"/", b"Connection: upgrade", b"Upgrade: websocket"))
    made.upstream.receive(answer(503))
    made.turn(0.1)
    made.upstream.receive(
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi"
    )
    assert client.take().endswith(b"\r\n\r\nhi")
    assert made.clusters["site"].limits.default.retries == 0
    made.turn(30.0)
    client.receive(b"still here")
    assert made.upstream.take().endswith(b"still here")
    assert stats(made, "retries_succeeded") == (1,)
    made.settle()


def test_head_and_bodiless_responses(world: Make) -> None:
    """Their retried responses have no body either."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get(method=b"HEAD"))
    made.upstream.receive(b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n")
    made.turn(1.0)
    made.upstream.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert status(client.take()) == 204
    client.receive(get())
    busy = next(u for u in made.upstreams if b"GET" in u.take())
    busy.receive(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n")
    assert status(client.take()) == 304
    made.settle()


# Responses held back


@pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
def test_a_held_response_that_breaks_off(world: Make, reason: type[Exception]) -> None:
    """The client gets the whole one, and not a byte of the broken one."""
    made = world(config("{ on: [reset] }"))
    client = made.client(get())
    made.upstream.receive(PART)
    assert client.take() == b""
    made.upstream.end(reason)
    made.turn(1.0)
    made.upstream.receive(ok(b"fine"))
    got = client.take()
    assert (status(got), body(got)) == (200, b"fine")
    assert sum(e.failed for e in made.clusters["site"].endpoints) == 1
    made.settle()


@pytest.mark.parametrize(("bound", "held"), [(9, True), (8, False), (0, False)])
def test_the_bound_of_what_is_held(world: Make, bound: int, held: bool) -> None:
    """A length over it passes at once, and so does everything with 0."""
    made = world(config(f"{{ response_buffer: {bound} }}"))
    client = made.client(get())
    made.upstream.receive(PART)
    assert (client.take() == b"") is held
    made.upstream.receive(b"defghi")
    assert client.take().endswith(b"abcdefghi" if held else b"defghi")
    made.settle()


def test_held_responses_end_when_they_end(world: Make) -> None:
    """The time until the last byte counts, not that until the first."""
    made = world(config())
    made.client(get())
    made.turn(0.5)
    made.upstream.receive(PART)
    made.turn(1.0)
    made.upstream.receive(b"defghi")
    (record,) = made.records
    assert (record.response_start, record.end) == (1000.5, 1001.5)
    assert record.bytes_sent == 9
    made.settle()


def test_chunked_responses_pass(world: Make) -> None:
    """Unless it is asked for they are not held."""
    made = world(config())
    client = made.client(get())
    made.upstream.receive(CHUNK)
    assert body(client.take()) == b"3\r\nabc\r\n"
    made.upstream.receive(b"0\r\n\r\n")
    assert client.take() == b"0\r\n\r\n"
    made.settle()


def test_held_chunks_and_trailers(world: Make) -> None:
    """With ``buffer_streams`` they are held up to the bound; trailers follow the body."""
    made = world(config("{ buffer_streams: true, response_buffer: 6 }"))
    client = made.client(get())
    made.upstream.receive(CHUNK)
    made.upstream.receive(b"3\r\ndef\r\n")
    assert client.take() == b""
    made.upstream.receive(b"0\r\nx-sum: 1\r\n\r\n")
    assert body(client.take()) == b"6\r\nabcdef\r\n0\r\nx-sum: 1\r\n\r\n"
    client.receive(get())
    made.upstreams[-1].receive(CHUNK)
    made.upstreams[-1].receive(b"4\r\ndefg\r\n")
    assert body(client.take()) == b"7\r\nabcdefg\r\n"
    made.upstreams[-1].receive(b"1\r\nh\r\n0\r\n\r\n")
    assert client.take() == b"1\r\nh\r\n0\r\n\r\n"
    client.receive(get())
    made.upstreams[-1].receive(CHUNK.replace(b"3\r\nabc", b"7\r\nabcdefg"))
    assert body(client.take()) == b"7\r\nabcdefg\r\n"  # too much from the beginning
    made.settle()


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (b"X-Nothing: 1", b"Content-Type: text/event-stream"),
        (b"Content-Type: application/grpc", b"X-Nothing: 1"),
    ],
)
def test_event_streams_are_never_held(world: Make, ask: bytes, line: bytes) -> None:
    """By what the response says, whatever the request did; gRPC by its request."""
    made = world(config("{ buffer_streams: true }"))
    client = made.client(get(b"/", ask))
    made.upstream.receive(CHUNK.replace(b"OK\r\n", b"OK\r\n" + line + b"\r\n"))
    assert b"abc" in client.take()
    made.settle()


def test_nothing_is_held_in_vain(world: Make) -> None:
    """When it could not be retried, by its method or for want of attempts, it passes."""
    made = world(config())
    client = made.client(post(b"abc"))
    made.upstream.receive(PART)
    assert body(client.take()) == b"abc"
    made.upstream.end()
    made.turn()
    client = made.client(get())
    made.upstream.end()
    made.turn(1.0)
    made.upstream.receive(PART)  # the only retry
    assert body(client.take()) == b"abc"
    made.settle()


@pytest.mark.parametrize("how", ["client", "timeout"])
def test_a_held_response_is_given_up(world: Make, how: str) -> None:
    """By a client that leaves, or by the route's time, with a whole answer then."""
    made = world(config(route="timeout: 2s"))
    client = made.client(get())
    made.upstream.receive(PART)
    if how == "client":
        client.end()
    else:
        made.turn(2.1)
        assert status(client.take()) == 504
    made.turn()
    assert made.upstream.gone
    assert len(made.records) == 1
    made.settle()


def test_held_while_the_request_still_comes(world: Make) -> None:
    """The rest of the body goes to the endpoint; the answer closes when it comes first."""
    made = world(config())
    client = made.client(get(b"/", b"Content-Length: 6", method=b"PUT") + b"abc")
    made.upstream.receive(PART)
    client.receive(b"de")
    assert made.upstream.take().endswith(b"abcde")
    made.upstream.receive(b"defghi")
    got = client.take()
    assert body(got) == b"abcdefghi"
    assert head(got)[b"connection"] == b"close"
    made.settle()


def test_a_bad_response_need_not_be_complete(world: Make) -> None:
    """Its head is enough for a retry; the rest is not waited for."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get())
    made.upstream.receive(PART.replace(b"200", b"500"))
    made.turn(1.0)
    assert made.upstreams[0].aborted
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    made.settle()

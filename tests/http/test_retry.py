"""Retries: what is retried, how often, when, where; and what the client and the log see of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http import retry as retry_module
from meshproxy.http.headers import Headers
from meshproxy.http.retry import RetryPolicy, status_table
from tests.http.world import World, body, get, head, ok, post, status

Make = Callable[..., World]

BEFORE = b"upstream connect error or disconnect/reset before headers. "
RETRIED = BEFORE + b"retried and the latest reset reason: "


def answer(code: int, *lines: bytes, text: bytes = b"sorry") -> bytes:
    """A whole response with this status."""
    return b"\r\n".join(
        (b"HTTP/1.1 %d X" % code, b"Content-Length: %d" % len(text), *lines, b"", text)
    )


def config(
    retry: str = "{}", route: str = "", cluster: str = "", http: str = "", top: str = ""
) -> str:
    """A listener whose only route has this ``retry``, to three endpoints."""
    return f"""
{top}
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      {http}
      routes:
        - to: site
          {f"retry: {retry}" if retry else ""}
          {route}
clusters:
  site:
    endpoints: [127.0.0.1:9001, 127.0.0.1:9002, 127.0.0.1:9003]
    {cluster}
"""


@pytest.fixture(autouse=True)
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pause is as long as it may be."""
    monkeypatch.setattr(retry_module, "random", lambda: 1.0)


def stats(made: World, *names: str) -> tuple[float, ...]:
    """Counters of the cluster ``site``."""
    held = made.clusters["site"].stats
    return tuple(made.value(getattr(held, name)) for name in names)


def where(made: World) -> list[int]:
    """The ports that were connected to, in order."""
    return [attempt.where[1] for attempt in made.attempts]


def fail(made: World, kind: str) -> None:
    """The try under way at the endpoint connected to last goes wrong in this way."""
    upstream = made.upstream
    if kind == "closed":
        upstream.end(ConnectionDone)
    elif kind == "reset":
        upstream.end(ConnectionLost)
    elif kind == "garbage":
        upstream.receive(b"SSH-2.0\r\n\r\n")
    elif kind == "refused-stream":
        upstream.sock.acknowledged = 0
        upstream.end(ConnectionDone)
    else:
        upstream.receive(answer(int(kind)))


# What is retried


@pytest.mark.parametrize("kind", ["closed", "reset", "garbage", "refused-stream", "500", "503"])
@pytest.mark.parametrize(
    ("on", "kinds"),
    [
        ("[connect-failure]", ()),
        ("[refused-stream]", ("refused-stream",)),
        ("[reset]", ("closed", "reset", "garbage", "refused-stream")),
        ("[gateway-error]", ("closed", "reset", "garbage", "refused-stream", "503")),
        ("[5xx]", ("closed", "reset", "garbage", "refused-stream", "500", "503")),
        ("[retriable-4xx]", ("409",)),
    ],
)
def test_what_each_condition_retries(
    world: Make, on: str, kinds: tuple[str, ...], kind: str
) -> None:
    """A GET that fails in this way is sent again if, and only if, the condition covers it."""
    made = world(config(f"{{ on: {on} }}"))
    client = made.client(get())
    if "409" in kinds:
        made.upstream.receive(answer(409))
        made.turn(1.0)
        assert len(made.upstreams) == 2
        made.upstream.receive(ok())
        assert status(client.take()) == 200
        client.receive(get())
    begun = len(made.upstreams)
    fail(made, kind)
    made.turn(1.0)
    if kind in kinds:
        assert len(made.upstreams) == begun + 1
        made.upstream.receive(ok(b"fine"))
        assert body(client.take()) == b"fine"
        assert made.records[-1].attempts == 2
        assert made.records[-1].flags == b"-"
        assert stats(made, "retries", "retries_succeeded", "retries_exhausted") == (1, 1, 0)
    else:
        assert len(made.upstreams) == begun
        assert status(client.take()) != 200
        assert made.records[-1].attempts == 1
    made.settle()


@pytest.mark.parametrize("on", ["[connect-failure]", "[reset]", "[5xx]", "[gateway-error]"])
@pytest.mark.parametrize("reason", ["refused", "timeout"])
def test_connect_failures(world: Make, on: str, reason: str) -> None:
    """Any method is retried when there was no connection, and at another endpoint."""
    made = world(config(f"{{ on: {on} }}"))
    made.instant = None
    client = made.client(post(b"hello"))
    made.waiting[0].fail(reason)
    made.turn(1.0)
    made.waiting[0].succeed()
    assert body(made.upstream.take()) == b"hello"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert len(set(where(made))) == 2
    made.settle()


def test_connect_failures_are_not_refused_streams(world: Make) -> None:
    """What is not listed is not retried."""
    made = world(config("{ on: [refused-stream, retriable-4xx] }"))
    made.instant = "refused"
    answered = made.client(get()).take()
    assert status(answered) == 503
    assert len(made.attempts) == 1
    made.settle()


def test_named_statuses_and_headers(world: Make) -> None:
    """They are retried besides ``on``."""
    made = world(config("{ on: [], statuses: [418, 520-529], headers: [X-Again] }"))
    for bad in (answer(418), answer(525), answer(200, b"x-again: yes")):
        client = made.client(get())
        busy = next(u for u in made.upstreams if not u.gone and u.take())
        busy.receive(bad)
        made.turn(1.0)
        next(u for u in made.upstreams if not u.gone and u.take()).receive(ok(b"fine"))
        assert body(client.take()) == b"fine"
    client = made.client(get())
    next(u for u in made.upstreams if not u.gone and u.take()).receive(answer(519))
    assert status(client.take()) == 519
    made.settle()


def test_a_table_of_statuses() -> None:
    """Every bound is inside."""
    table = status_table(["409", "500-502"])
    assert [number for number in range(1000) if table[number]] == [409, 500, 501, 502]


# How often


@pytest.mark.parametrize("attempts", [0, 1, 2, 5])
def test_attempts(world: Make, attempts: int) -> None:
    """So many retries and no more; the last answer is passed on, and the log says URX."""
    made = world(config(f"{{ on: [5xx], attempts: {attempts} }}"))
    client = made.client(get())
    for _ in range(attempts + 1):
        assert client.take() == b""
        busy = next(upstream for upstream in made.upstreams if upstream.take())
        busy.receive(answer(500, text=b"last words"))
        made.turn(1.0)
    got = client.take()
    assert (status(got), body(got)) == (500, b"last words")
    (record,) = made.records
    assert record.attempts == attempts + 1
    assert record.flags == (b"URX" if attempts else b"-")
    exhausted = 1 if attempts else 0
    assert stats(made, "retries", "retries_succeeded", "retries_exhausted") == (
        attempts,
        0,
        exhausted,
    )
    made.settle()


@pytest.mark.parametrize(
    ("kind", "code", "text", "flags"),
    [
        ("refused", 503, RETRIED + b"remote connection failure", b"URX,UF"),
        ("timeout", 503, RETRIED + b"connection timeout", b"URX,UF"),
        ("closed", 503, RETRIED + b"connection termination", b"URX,UC"),
        ("garbage", 502, RETRIED + b"protocol error", b"URX,UPE"),
    ],
)
def test_the_last_words(world: Make, kind: str, code: int, text: bytes, flags: bytes) -> None:
    """Envoy's words and flags when the last of several tries failed."""
    made = world(config("{ attempts: 2 }"))
    if kind in ("refused", "timeout"):
        made.instant = kind
    client = made.client(get())
    for _ in range(3):
        if made.upstreams:
            fail(made, kind)
        made.turn(1.0)
    got = client.take()
    assert (status(got), body(got)) == (code, text)
    assert [(r.flags, r.attempts) for r in made.records] == [(flags, 3)]
    assert stats(made, "retries", "retries_exhausted") == (2, 1)
    made.settle()


def test_a_per_try_timeout_exhausted(world: Make) -> None:
    """504 with URX,UT."""
    made = world(config("{ on: [reset], per_try_timeout: 1s }"))
    client = made.client(get())
    made.turn(3.0)
    got = client.take()
    assert (status(got), body(got)) == (504, b"upstream request timeout")
    assert made.records[0].flags == b"URX,UT"
    assert stats(made, "per_try_timeouts", "retries", "retries_exhausted") == (2, 1, 1)
    assert sum(endpoint.failed for endpoint in made.clusters["site"].endpoints) == 2
    made.settle()


def test_a_retriable_4xx_exhausted(world: Make) -> None:
    """A 409 after the last retry is no success."""
    made = world(config("{ on: [retriable-4xx] }"))
    client = made.client(get())
    for _ in range(2):
        made.upstream.receive(answer(409))
        made.turn(1.0)
    assert status(client.take()) == 409
    assert made.records[0].flags == b"URX"
    assert stats(made, "retries_succeeded", "retries_exhausted") == (0, 1)
    made.settle()


# When


def test_back_off(world: Make) -> None:
    """1, 3, 7 … times the base, at most ten times; by chance between that and 0."""
    made = world(config("{ attempts: 5, backoff: { base: 100ms } }"))
    made.instant = "refused"
    made.client(get())
    for number, pause in enumerate((0.1, 0.3, 0.7, 1.0, 1.0), 1):
        assert len(made.attempts) == number
        made.turn(pause - 0.001)
        assert len(made.attempts) == number
        made.turn(0.0011)
    assert len(made.attempts) == 6
    made.settle()


def test_the_longest_back_off(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """``max`` bounds it; chance may make it nothing."""
    made = world(config("{ attempts: 3, backoff: { base: 1s, max: 1500ms } }"))
    made.instant = "refused"
    made.client(get())
    made.turn(1.0)
    made.turn(1.5)
    assert len(made.attempts) == 3
    monkeypatch.setattr(retry_module, "random", lambda: 0.0)
    made.client(get())
    made.turn(0.0)
    assert len(made.attempts) == 7
    made.settle()


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        (b"2", 2.0),
        (b"0", 0.0),
        (b"5", 5.0),
        (b"garbage", 0.025),
        (b"-3", 0.025),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after(world: Make, value: bytes, pause: float) -> None:
    """A response's own wish is obeyed; what says nothing is as if it were not there."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get())
    made.upstream.receive(answer(503, b"Retry-After: " + value))
    if pause:
        made.turn(pause - 0.001)
        assert len(made.upstreams) == 1
    made.turn(0.002)
    assert len(made.upstreams) == 2
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_retry_after_as_a_date(world: Make) -> None:
    """Seconds from now; rounding costs less than one."""
    made = world(config("{ on: [5xx] }"))
    made.client(get())
    later = formatdate(time.time() + 4, usegmt=True).encode()
    made.upstream.receive(answer(503, b"Retry-After: " + later))
    made.turn(1.0)
    assert len(made.upstreams) == 1
    made.turn(3.0)
    assert len(made.upstreams) == 2
    made.settle()


def test_a_retry_after_that_is_too_long(world: Make) -> None:
    """It ends the retries: the response goes to the client, complete or not yet."""
    made = world(config("{ on: [5xx, reset], max_retry_after: 5s }"))
    client = made.client(get())
    made.upstream.receive(answer(503, b"Retry-After: 6"))
    assert status(client.take()) == 503
    client.receive(get())
    made.upstreams[-1].receive(answer(503, b"Retry-After: 6", text=b"abcdef")[:-1])
    assert status(client.take()) == 503
    assert stats(made, "retries") == (0,)
    made.settle()


def test_retry_after_ignored(world: Make) -> None:
    """``max_retry_after: 0`` means that nobody looks."""
    made = world(config("{ on: [5xx], max_retry_after: 0 }"))
    made.client(get())
    made.upstream.receive(answer(503, b"Retry-After: 100"))
    made.turn(0.03)
    assert len(made.upstreams) == 2
    made.settle()


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@example(b"Mon, 99 Foo 99999 99:99:99 +9999")
@example(b"1 Jan 1")
@example(b"9" * 30)
def test_any_retry_after(value: bytes) -> None:
    """Whatever an endpoint writes is a number of seconds from 0, or nothing."""
    from meshproxy.config import Retry

    policy = RetryPolicy(Retry(), None)
    headers = Headers([(b"retry-after", value, b"", 0)])
    seconds = policy._wait_for(headers)
    assert seconds is None or seconds >= 0.0


def test_no_retry_without_time_for_it(world: Make) -> None:
    """A pause that would end after the route's time is not begun."""
    made = world(config("{ on: [5xx] }", "timeout: 2s"))
    client = made.client(get())
    made.upstream.receive(answer(503, b"Retry-After: 2"))
    assert status(client.take()) == 503
    assert made.records[0].flags == b"-"
    made.settle()


def test_the_route_timeout_in_a_pause(world: Make) -> None:
    """504 even though no try is under way; a pause that was begun ends with it."""
    made = world(config("{ on: [5xx], attempts: 9, backoff: { base: 900ms } }", "timeout: 3s"))
    client = made.client(get())
    made.upstream.receive(answer(503))
    made.turn(1.0)
    assert len(made.upstreams) == 2
    made.turn(2.1)
    assert status(client.take()) == 504
    assert made.records[0].flags == b"UT"
    made.settle()


def test_a_limit_that_does_not_hold_in_a_pause(world: Make) -> None:
    """The default timeout passes over an event stream's pause, and there is one retry, not two."""
    text = config(
        "{ on: [5xx], attempts: 5, max_retry_after: 60s, per_try_timeout: 5s }",
        top="timeouts: { exchange: 10s }",
    )
    made = world(text)
    client = made.client(get(b"/", b"Accept: text/event-stream"))
    made.upstream.receive(answer(503, b"Retry-After: 9"))
    made.turn(9.0)
    assert len(made.upstreams) == 2
    made.upstream.receive(answer(503, b"Retry-After: 0"))
    made.turn(0.5)
    assert len(made.upstreams) == 3
    made.turn(0.6)
    assert len(made.upstreams) == 3  # the limit passed
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    assert stats(made, "per_try_timeouts") == (0,)
    made.settle()


# Where


def test_another_endpoint_is_preferred(world: Make) -> None:
    """None is asked twice while there are others."""
    made = world(config("{ on: [reset], attempts: 5 }"))
    made.client(get())
    for _ in range(2):
        made.upstream.end()
        made.turn(1.0)
    assert sorted(where(made)) == [9001, 9002, 9003]
    made.upstream.end()
    made.turn(1.0)
    assert len(made.upstreams) == 4
    assert made.records == []
    made.settle()


def test_nobody_left(world: Make) -> None:
    """503 UH when the pause ends and no endpoint is well."""
    text = config(
        "{ on: [5xx] }",
        cluster="circuit_breaker: { failure_threshold: 1, max_ejection_percent: 100 }",
    ).replace(", 127.0.0.1:9002, 127.0.0.1:9003", "")
    made = world(text)
    client = made.client(get())
    made.upstream.receive(answer(500))
    made.turn(0.1)
    assert (status(client.take()), made.records[0].flags) == (503, b"UH")
    made.settle()


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

PART = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


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


# Limits and verdicts


def test_the_limit_of_retries(world: Make) -> None:
    """Over ``limits.retries`` at a time the failure is passed on; the next may retry again."""
    made = world(config("{ on: [5xx] }", cluster="limits: { retries: 1 }"))
    one = made.client(get())
    two = made.client(get())
    for upstream in list(made.upstreams):
        upstream.receive(answer(503))
    assert (one.take(), status(two.take())) == (b"", 503)
    assert made.records[0].flags == b"-"
    assert stats(made, "overflow_retries", "retries") == (1, 1)
    made.turn(1.0)
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nabc")
    assert status(one.take()) == 200
    # A long response is no retry under way any more.
    assert made.clusters["site"].limits.default.retries == 0
    made.settle()


def test_the_budget_of_retries(world: Make) -> None:
    """A share of what is under way, and never less than the least."""
    made = world(
        config("{ on: [5xx] }", cluster="retry_budget: { percent: 50, min_concurrent: 0 }")
    )
    for _ in range(4):
        made.client(get())
    for upstream in list(made.upstreams):
        upstream.receive(answer(503))
    # 4 under way: 2 allowed; then 3 (one of them has ended its try): 1; and so on.
    retries, overflow = stats(made, "retries", "overflow_retries")
    assert retries + overflow == 4
    assert 1 <= retries <= 2
    made.settle()


def test_a_retry_keeps_within_max_requests(world: Make) -> None:
    """When others have taken the place meanwhile, 503 UO."""
    made = world(config("{ on: [5xx] }", cluster="limits: { requests: 1 }"))
    client = made.client(get())
    made.upstream.receive(answer(503))
    other = made.client(get())
    made.turn(1.0)
    assert (status(client.take()), made.records[0].flags) == (503, b"UO")
    made.upstream.receive(ok())
    next(u for u in made.upstreams if not u.gone).receive(ok())
    assert status(other.take()) == 200
    made.settle()


@pytest.mark.parametrize("kind", ["closed", "garbage", "500", "500 cut", "held"])
def test_one_verdict_a_try(world: Make, kind: str) -> None:
    """However a try goes wrong, its endpoint failed once; the good one answered once."""
    made = world(config("{ on: [5xx] }"))
    made.client(get())
    if kind == "500 cut":
        made.upstream.receive(PART.replace(b"200", b"500"))
        made.upstream.end()
    elif kind == "held":
        made.upstream.receive(PART)
        made.upstream.end()
    else:
        fail(made, kind)
    made.turn(1.0)
    made.upstream.receive(ok())
    endpoints = made.clusters["site"].endpoints
    assert sorted((e.failed, e.answered) for e in endpoints) == [(0, 0), (0, 1), (1, 0)]
    made.settle()


@pytest.mark.parametrize("how", ["closed", "timeout"])
def test_a_cut_error_is_one_failure(world: Make, how: str) -> None:
    """A 500 whose body breaks off or takes too long is judged by its status alone."""
    made = world(config("", "timeout: 2s"))
    made.client(get())
    made.upstream.receive(PART.replace(b"200", b"500"))
    if how == "closed":
        made.upstream.end()
    made.turn(2.5)
    assert sum(e.failed for e in made.clusters["site"].endpoints) == 1
    made.settle()


def test_the_breaker_sees_every_try(world: Make) -> None:
    """One request with two bad tries opens two breakers."""
    text = config(
        "{ on: [5xx], attempts: 2 }",
        cluster="circuit_breaker: { failure_threshold: 1, max_ejection_percent: 100 }",
    )
    made = world(text)
    client = made.client(get())
    for _ in range(2):
        made.upstream.receive(answer(500))
        made.turn(0.2)
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert [e.breaker != 0 for e in made.clusters["site"].endpoints].count(True) == 2
    made.settle()


# Time for a try


def test_each_try_has_its_time(world: Make) -> None:
    """The slow one is given up, the next has the same time again."""
    made = world(config("{ on: [reset], attempts: 2, per_try_timeout: 1s }"))
    client = made.client(get())
    made.turn(1.1)
    assert made.upstreams[0].gone
    assert len(made.upstreams) == 2
    made.turn(0.9)
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    assert stats(made, "per_try_timeouts", "retries_succeeded") == (1, 1)
    made.settle()


def test_a_try_that_waits_for_its_connection(world: Make) -> None:
    """It is withdrawn, POST or not, and its endpoint is not blamed."""
    made = world(config("{ on: [reset], per_try_timeout: 1s }"))
    made.instant = None
    client = made.client(post(b"abc"))
    made.turn(1.1)
    assert len(made.waiting) == 2  # the first opening goes on, for whoever comes
    made.waiting[1].succeed()
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert sum(e.failed for e in made.clusters["site"].endpoints) == 0
    made.settle()


def test_no_time_for_a_try_does_not_end_a_response(world: Make) -> None:
    """Once a response passes on, only the route's time counts."""
    made = world(config("{ on: [reset], per_try_timeout: 1s, response_buffer: 0 }"))
    client = made.client(get())
    made.upstream.receive(PART)
    made.turn(5.0)
    made.upstream.receive(b"defghi")
    assert body(client.take()) == b"abcdefghi"
    made.settle()


def test_without_reset_a_slow_try_is_the_end(world: Make) -> None:
    """504 at once, as the configuration says."""
    made = world(config("{ on: [retriable-4xx], per_try_timeout: 1s }"))
    client = made.client(get())
    made.turn(1.1)
    assert (status(client.take()), made.records[0].flags) == (504, b"UT")
    made.settle()


@pytest.mark.parametrize("line", [b"Content-Type: application/grpc", b"Accept: text/event-stream"])
@pytest.mark.parametrize("written", [False, True])
def test_a_time_for_everybodys_tries_spares_the_endless(
    world: Make, line: bytes, written: bool
) -> None:
    """``timeouts.per_try`` cuts no gRPC and no event stream; what the route says does."""
    retry = "{ per_try_timeout: 1s }" if written else "{ on: [reset] }"
    made = world(config(retry, "timeout: 0", top="timeouts: { per_try: 1s }"))
    client = made.client(get(b"/", line))
    plain = made.client(get())
    made.turn(2.5)
    assert status(plain.take()) == 504
    if written:
        assert status(client.take()) == 504
    else:
        made.upstreams[0].receive(ok())
        assert status(client.take()) == 200
    made.settle()


def test_the_time_of_a_try_after_a_limit_that_does_not_hold(world: Make) -> None:
    """A default limit that passes over gRPC does not bring the try's end forward."""
    text = config("{ per_try_timeout: 5s }", top="timeouts: { exchange: 2s }")
    made = world(text)
    client = made.client(get(b"/", b"Content-Type: application/grpc"))
    made.turn(4.9)
    assert len(made.upstreams) == 1
    made.turn(0.3)
    assert len(made.upstreams) == 2
    made.turn(5.2)
    assert status(client.take()) == 504
    made.settle()


def test_a_retry_does_not_put_off_other_times(world: Make) -> None:
    """The stream's idle time ends an exchange even if the next try's time is later."""
    made = world(config("{ on: [5xx], per_try_timeout: 9s }", "stream_idle_timeout: 2s"))
    client = made.client(get())
    made.upstream.receive(answer(500))
    made.turn(2.2)
    assert (status(client.take()), made.records[0].flags) == (504, b"SI")
    made.settle()


# From where the policy comes


def test_the_listeners_policy(world: Make) -> None:
    """It holds where a route has none; ``attempts: 0`` switches it off."""
    for own, again in (("", True), ("{ attempts: 0 }", False)):
        made = world(config(own, http="retry: { on: [5xx] }"))
        client = made.client(get())
        made.upstream.receive(answer(500))
        made.turn(1.0)
        assert (len(made.upstreams) == 2) is again
        made.upstreams[-1].receive(ok())
        assert status(client.take()) == (200 if again else 500)
        made.settle()


def test_a_retry_counts_once_in_everything(world: Make) -> None:
    """One record, one response, one duration, however many tries."""
    made = world(config("{ on: [5xx] }"))
    client = made.client(get())
    made.upstream.receive(answer(500))
    made.turn(1.0)
    made.upstream.receive(ok(b"hello"))
    held = made.clusters["site"].stats
    assert [made.value(slot) for slot in held.responses[1:]] == [0, 1, 0, 0, 0]
    assert made.value(held.bytes_received) == 5
    assert client.take().count(b"HTTP/1.1") == 1
    (record,) = made.records
    assert record.upstream == b"127.0.0.1:%d" % where(made)[1]
    assert record.upstream_local == b"127.0.0.1:50001"
    made.settle()


def test_a_stale_connection_is_no_retry(world: Make) -> None:
    """It is replayed first, uncounted; only its fresh connection's failure is an attempt."""
    made = world(config("{ on: [reset] }").replace(", 127.0.0.1:9002, 127.0.0.1:9003", ""))
    client = made.client(get())
    made.upstream.receive(ok())
    client.take()
    client.receive(get())
    made.upstreams[0].end()
    assert stats(made, "replays", "retries") == (1, 0)
    made.upstream.end()
    made.turn(1.0)
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert stats(made, "replays", "retries") == (1, 1)
    assert made.records[-1].attempts == 3
    made.settle()


def test_a_client_that_reads_slowly_is_not_the_endpoints_fault(world: Make) -> None:
    """A response that its reader holds up until the time is over is no verdict on the endpoint."""
    made = world(config("", "timeout: 2s"))
    client = made.client(get())
    client.block()
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 80000)
    assert not made.upstream.reading
    made.turn(2.5)
    assert made.records[0].flags == b"UT"
    assert sum(e.failed for e in made.clusters["site"].endpoints) == 0
    made.settle()

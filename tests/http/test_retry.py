"""Retries: what is retried, how often, when and where; what the client and the log see of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshproxy.config import Retry
from meshproxy.http import retry as retry_module
from meshproxy.http.headers import Headers
from meshproxy.http.retry import RetryPolicy, status_table
from tests.http.tries import RETRIED, answer, config, fail, longest, stats, where
from tests.http.world import World, body, get, ok, post, status

Make = Callable[..., World]
pytestmark = pytest.mark.usefixtures("longest")
__all__ = ["longest"]


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


def test_a_request_that_ends_in_a_pause(world: Make) -> None:
    """The time of a try does not run while there is none."""
    made = world(config("{ on: [5xx], attempts: 5, per_try_timeout: 1s }"))
    client = made.client(get(b"/", b"Content-Length: 6", method=b"PUT") + b"abc")
    made.upstream.receive(answer(503, b"Retry-After: 4"))
    client.protocol.dataReceived(b"def")  # it was on its way when reading was paused
    made.turn(3.9)
    assert stats(made, "per_try_timeouts", "retries") == (0, 1)
    made.turn(0.2)
    assert len(made.upstreams) == 2
    assert body(made.upstream.take()) == b"abcdef"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
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

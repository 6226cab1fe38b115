"""What bounds retries: the limits of the cluster, one verdict a try, and the time of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.http.tries import PART, answer, config, fail, longest, stats
from tests.http.world import World, body, get, ok, post, status

Make = Callable[..., World]
pytestmark = pytest.mark.usefixtures("longest")
__all__ = ["longest"]


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


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
def test_an_upload_that_breaks_off_is_no_verdict(
    world: Make, reason: type[Exception], answered: bool
) -> None:
    """Clients that stall until the endpoint has had enough cannot open its breaker."""
    made = world(
        config("", cluster="circuit_breaker: { failure_threshold: 1, max_ejection_percent: 100 }")
    )
    client = made.client(post(b"half", length=100))
    if answered:
        made.upstream.receive(PART)
    made.upstream.end(reason)
    assert [e.failed for e in made.clusters["site"].endpoints] == [0, 0, 0]
    client.end()
    whole = made.client(post(b"whole"))
    if answered:
        made.upstream.receive(PART)
    made.upstream.end(reason)
    assert sorted(e.failed for e in made.clusters["site"].endpoints) == [0, 0, 1]
    assert sorted(e.breaker for e in made.clusters["site"].endpoints) == [0, 0, 1]
    whole.end()
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

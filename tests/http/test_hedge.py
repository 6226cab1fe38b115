"""Hedging: a try beside a slow one, of which the client never notices more than the answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http import retry as retry_module
from tests.http.world import World, body, get, head, ok, post, status

Make = Callable[..., World]

HEDGED = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - to: site
          timeout: 10s
          retry: { on: [5xx], attempts: 2, per_try_timeout: 1s, hedge: true, max_body: 100 }
          upgrades: [websocket]
clusters:
  site:
    endpoints: [127.0.0.1:9001, 127.0.0.1:9002, 127.0.0.1:9003]
"""
ONE = HEDGED.replace("attempts: 2", "attempts: 1")
BAD = b"HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\nsorry"
PART = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"


@pytest.fixture(autouse=True)
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pause is as long as it may be."""
    monkeypatch.setattr(retry_module, "random", lambda: 1.0)


def counts(made: World) -> tuple[int, int]:
    """Verdicts of all endpoints: failed, answered."""
    endpoints = made.clusters["site"].endpoints
    return sum(e.failed for e in endpoints), sum(e.answered for e in endpoints)


def stat(made: World, name: str) -> float:
    """A counter of the cluster."""
    return made.value(getattr(made.clusters["site"].stats, name))


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_good_response_wins(world: Make, winner: int) -> None:
    """The other try is given up, wherever it is."""
    made = world(HEDGED)
    client = made.client(get(b"/x"))
    made.turn(1.1)
    first, second = made.upstreams
    assert first.take().partition(b"\r\n")[0] == second.take().partition(b"\r\n")[0]
    made.check()
    made.upstreams[winner].receive(ok(b"fine", b"x-who: %d" % winner))
    got = client.take()
    assert (status(got), body(got), head(got)[b"x-who"]) == (200, b"fine", b"%d" % winner)
    assert made.upstreams[1 - winner].aborted
    (record,) = made.records
    assert (record.attempts, record.flags) == (2, b"-")
    assert record.upstream_local == b"127.0.0.1:%d" % (50000 + winner)
    assert record.connected_at == 1000.0 + (winner and record.upstream_start - 1000.0)
    assert stat(made, "hedges") == stat(made, "per_try_timeouts") == 1
    assert stat(made, "retries") == 0
    # A slow try that another had to stand in for has failed; a slow one that came through has not.
    assert counts(made) == (winner, 1)
    made.settle()


def test_a_winner_in_pieces(world: Make) -> None:
    """The rest of its response passes as if it had been the exchange's own."""
    made = world(HEDGED.replace("max_body", "response_buffer: 0, max_body"))
    client = made.client(get())
    made.turn(1.1)
    made.upstreams[1].receive(PART)
    assert body(client.take()) == b"abc"
    client.block()
    made.upstreams[1].receive(b"def")
    client.drain()
    made.upstreams[1].receive(b"ghi")
    assert client.take() == b"defghi"
    client.receive(get())
    assert made.records[0].bytes_sent == 9
    made.settle()


def test_a_winner_with_chunks_and_until_close(world: Make) -> None:
    """However its end is told."""
    for answer, end in (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", True),
    ):
        made = world(HEDGED)
        client = made.client(get())
        made.turn(1.1)
        made.upstreams[1].receive(answer)
        if end:
            made.upstreams[1].end()
        else:
            made.upstreams[1].receive(b"0\r\nx-sum: 1\r\n\r\n")
        got = client.take()
        assert body(got) == b"3\r\nabc\r\n0\r\n" + (b"\r\n" if end else b"x-sum: 1\r\n\r\n")
        made.settle()


@pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
@pytest.mark.parametrize("held", [False, True])
def test_lost_after_it_won(world: Make, reason: type[Exception], held: bool) -> None:
    """Held back, it is tried again; passed on, the client's connection ends."""
    text = HEDGED if held else HEDGED.replace("max_body", "response_buffer: 0, max_body")
    made = world(text)
    client = made.client(get())
    made.turn(1.1)
    made.upstreams[1].receive(PART)
    made.upstreams[1].end(reason)
    made.turn(0.5)
    if held:
        made.upstreams[2].receive(ok(b"fine"))
        assert body(client.take()) == b"fine"
        assert made.records[0].attempts == 3
    else:
        assert client.gone
        assert body(client.take()) == b"abc"
    made.settle()


def test_it_wins_over_a_held_response(world: Make) -> None:
    """What was held of the other is dropped, and nothing of it gets between."""
    made = world(HEDGED)
    client = made.client(get())
    made.upstreams[0].receive(PART)
    made.turn(1.1)
    made.upstreams[1].receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    assert body(client.take()) == b"1\r\nx\r\n"
    made.upstreams[1].receive(b"1\r\ny\r\n0\r\n\r\n")
    assert client.take() == b"1\r\ny\r\n0\r\n\r\n"
    made.settle()


@pytest.mark.parametrize("held", [False, True])
def test_a_held_response_completes_first(world: Make, held: bool) -> None:
    """Whether or not the other is held as well."""
    made = world(HEDGED)
    client = made.client(get())
    made.upstreams[0].receive(PART)
    made.turn(1.1)
    if held:
        made.upstreams[1].receive(PART)
        assert made.upstreams[0].aborted  # the first head wins, and waits for its body
        made.upstreams[1].receive(b"defghi")
        assert body(client.take()) == b"abcdefghi"
        made.settle()
        return
    made.upstreams[0].receive(b"defghi")
    assert body(client.take()) == b"abcdefghi"
    assert made.upstreams[1].aborted
    made.settle()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("kind", ["500", "reset", "garbage"])
def test_one_of_two_fails(world: Make, order: tuple[int, int], kind: str) -> None:
    """The other goes on, and is answered; no attempt is spent."""
    made = world(ONE)
    client = made.client(get())
    made.turn(1.1)
    loser, winner = (made.upstreams[number] for number in order)
    if kind == "500":
        loser.receive(BAD)
    elif kind == "reset":
        loser.end(ConnectionLost)
    else:
        loser.receive(b"garbage\r\n\r\n")
    made.turn(0.1)
    assert client.take() == b""
    made.check()
    winner.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    assert counts(made) == (1, 1)
    made.settle()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_fail(world: Make, order: tuple[int, int]) -> None:
    """With no attempt left, the last bad answer is the client's; with one left it is used."""
    for text, left in ((ONE, False), (HEDGED, True)):
        made = world(text)
        client = made.client(get())
        made.turn(1.1)
        made.upstreams[order[0]].receive(BAD)
        made.upstreams[order[1]].receive(BAD)
        made.turn(1.0)
        if left:
            made.upstreams[2].receive(ok(b"fine"))
            assert body(client.take()) == b"fine"
        else:
            got = client.take()
            assert (status(got), body(got)) == (500, b"sorry")
            assert made.records[0].flags == b"URX"
        made.settle()


def test_both_lost(world: Make) -> None:
    """The proxy's own words, as after any retries."""
    made = world(ONE)
    client = made.client(get())
    made.turn(1.1)
    made.upstreams[0].end()
    made.upstreams[1].end()
    got = client.take()
    assert status(got) == 503
    assert b"retried and the latest reset reason: connection termination" in got
    assert made.records[0].flags == b"URX,UC"
    assert counts(made) == (2, 0)
    made.settle()


def test_a_hedge_without_a_connection(world: Make) -> None:
    """It costs nothing but itself."""
    made = world(HEDGED)
    client = made.client(get())
    made.instant = "refused"
    made.turn(1.1)
    made.upstreams[0].receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    made.settle()


def test_it_wins_while_the_first_waits_for_a_new_connection(world: Make) -> None:
    """A replay of a stale connection is withdrawn; its body is kept for what may follow."""
    text = HEDGED.replace(", 127.0.0.1:9002, 127.0.0.1:9003", ", 127.0.0.1:9002")
    made = world(text)
    for _ in range(2):
        client = made.client(get())
        made.upstream.receive(ok())
        client.take()
    client.receive(get(b"/", b"Content-Length: 3", method=b"PUT") + b"abc")
    stale = made.upstreams[0]
    stale.take()
    made.turn(1.1)
    made.instant = None
    stale.end()
    assert len(made.waiting) == 1
    made.upstreams[1].receive(PART)
    assert client.take() == b""
    made.upstreams[1].end(ConnectionLost)
    made.turn(0.1)
    for attempt in made.waiting:
        attempt.succeed()
    assert body(made.upstream.take()) == b"abc"
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    made.settle()


def test_a_hedge_on_a_stale_connection(world: Make) -> None:
    """Nobody's fault: it goes out once more on a fresh one."""
    text = HEDGED.replace(", 127.0.0.1:9002, 127.0.0.1:9003", ", 127.0.0.1:9002")
    made = world(text)
    clients = [made.client(get()) for _ in range(2)]
    for upstream in made.upstreams:
        upstream.receive(ok())
    failed, _ = counts(made)
    clients[0].take()
    clients[0].receive(get(b"/", b"Content-Length: 3", method=b"PUT") + b"abc")
    made.turn(1.1)
    made.upstreams[1].end()
    assert len(made.upstreams) == 3
    assert body(made.upstream.take()) == b"abc"
    assert counts(made)[0] == failed
    made.upstream.receive(ok(b"fine"))
    assert body(clients[0].take()) == b"fine"
    made.settle()


@pytest.mark.parametrize("who", ["client", "limit"])
def test_all_are_given_up(world: Make, who: str) -> None:
    """With the client, or with the route's time, which is a verdict on each that was asked."""
    made = world(HEDGED)
    client = made.client(get())
    made.turn(3.5)
    assert len(made.upstreams) == 3  # a hedge each second, as long as attempts are left
    if who == "client":
        client.end()
        assert counts(made) == (0, 0)
    else:
        made.turn(7.0)
        assert status(client.take()) == 504
        assert made.records[0].flags == b"UT"
        assert counts(made) == (3, 0)
    made.turn()
    assert all(upstream.gone for upstream in made.upstreams)
    made.settle()


@pytest.mark.parametrize(
    "data",
    [
        post(b"abc"),
        get(b"/", b"Content-Length: 101", method=b"PUT") + b"x" * 101,
        get(b"/", b"Connection: upgrade", b"Upgrade: websocket"),
    ],
)
def test_what_is_not_hedged(world: Make, data: bytes) -> None:
    """What must not be repeated, or cannot be: its try's time holds as without hedging."""
    made = world(HEDGED)
    client = made.client(data)
    made.turn(1.2)
    assert stat(made, "hedges") == 0
    assert made.upstreams[0].gone
    if b"Upgrade" in data:
        made.upstream.receive(ok())
        assert status(client.take()) == 200
    else:
        assert status(client.take()) == 504
    made.settle()


@pytest.mark.parametrize("limit", ["retries: 0", "requests: 1"])
def test_no_room_for_a_hedge(world: Make, limit: str) -> None:
    """The slow try is left alone, for as long as the route allows."""
    made = world(HEDGED + f"    limits: {{ {limit} }}\n")
    client = made.client(get())
    made.turn(5.0)
    assert len(made.upstreams) == 1
    assert stat(made, "hedges") == 0
    made.upstream.receive(ok(b"slow"))
    assert body(client.take()) == b"slow"
    assert made.records[0].attempts == 1
    made.settle()


def test_nobody_for_a_hedge(world: Make) -> None:
    """No endpoint is well any more: the slow one still may be, and no retry is counted."""
    made = world(HEDGED)
    client = made.client(get())
    cluster = made.clusters["site"]
    cluster.update([])
    made.turn(1.5)
    assert cluster.limits.default.retries == 0
    made.upstream.receive(ok(b"slow"))
    assert body(client.take()) == b"slow"
    made.settle()

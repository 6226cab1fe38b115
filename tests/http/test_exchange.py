"""Exchanges: one response, one record, nothing counted twice, whatever happens in what order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http.outcome import IDEMPOTENT
from meshproxy.http.router import REPLAY_LIMIT
from tests.http.world import PLAIN, Transport, World, body, get, head, ok, post, status

Make = Callable[..., World]

BEFORE = b"upstream connect error or disconnect/reset before headers. reset reason: "

SMALL = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      max_body: 1KiB
      routes:
        - match: { path: /none }
          respond: { status: 204 }
        - match: { prefix: /only }
          to: site
          timeout: 2s
clusters:
  site:
    endpoints: [127.0.0.1:9001]
"""


def idle_upstream(made: World) -> tuple[Transport, Transport]:
    """A client, and an endpoint's connection that has served it once."""
    client = made.client(get(b"/first"))
    made.upstream.receive(ok(b"first"))
    made.upstream.take()
    client.take()
    return client, made.upstream


def test_no_route(world: Make) -> None:
    """404 with an empty body, flag NR."""
    made = world(SMALL)
    answer = made.client(get(b"/other")).take()
    assert (status(answer), body(answer)) == (404, b"")
    assert (made.records[0].flags, made.records[0].route_name) == (b"NR", b"")
    made.settle()


@pytest.mark.parametrize(
    ("reason", "code", "text", "flags"),
    [
        ("refused", 503, BEFORE + b"remote connection failure", b"UF"),
        ("timeout", 503, BEFORE + b"connection timeout", b"UF"),
    ],
)
def test_no_connection(world: Make, reason: str, code: int, text: bytes, flags: bytes) -> None:
    """Envoy's words and flags when the endpoint cannot be reached."""
    made = world()
    made.instant = reason
    client = made.client(get() + get())
    first, second = client.take().split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"%d" % code, b"%d" % code)
    assert body(first) == text
    assert {record.flags for record in made.records} == {flags}
    stats = made.clusters["site"].stats
    assert made.value(stats.connect_failures) == 2
    assert made.value(stats.connect_timeouts) == (2 if reason == "timeout" else 0)
    made.settle()


@pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
def test_terminated_before_the_head(world: Make, reason: type[Exception]) -> None:
    """503 UC when a fresh connection ends without an answer: nothing is sent again."""
    made = world()
    client = made.client(get())
    made.upstream.end(reason)
    answer = client.take()
    assert (status(answer), body(answer)) == (503, BEFORE + b"connection termination")
    assert made.records[0].flags == b"UC"
    assert len(made.upstreams) == 1
    made.settle()


def test_protocol_error(world: Make) -> None:
    """502 UPE when what comes is no response; the connection is given up."""
    made = world()
    client = made.client(get())
    made.upstream.receive(b"SSH-2.0-OpenSSH\r\n\r\n")
    answer = client.take()
    assert (status(answer), body(answer)) == (502, BEFORE + b"protocol error")
    assert made.records[0].flags == b"UPE"
    assert made.upstream.aborted
    made.settle()


@pytest.mark.parametrize(("reason", "flags"), [(ConnectionDone, b"UPE"), (ConnectionLost, b"UC")])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_body_cut_short(
    world: Make, answer: bytes, reason: type[Exception], flags: bytes
) -> None:
    """What came passes, and the client's connection ends so that it notices."""
    made = world()
    client = made.client(get())
    made.upstream.receive(answer)
    made.upstream.end(reason)
    made.turn()
    assert client.gone
    got = client.take()
    assert b"abc" in got
    assert not got.endswith(b"0\r\n\r\n")
    assert [(record.status, record.flags) for record in made.records] == [(200, flags)]
    made.settle()


def test_until_close(world: Make) -> None:
    """An orderly end completes a body without a length; a reset does not."""
    for reason, complete in ((ConnectionDone, True), (ConnectionLost, False)):
        made = world()
        client = made.client(get())
        made.upstream.receive(b"HTTP/1.0 200 OK\r\n\r\nabc")
        made.upstream.end(reason)
        made.turn()
        assert client.take().endswith(b"0\r\n\r\n") is complete
        assert client.gone is not complete
        assert (made.records[0].flags == b"-") is complete
        made.settle()


def test_route_timeout(world: Make) -> None:
    """504 when the whole exchange takes too long; a response under way is reset."""
    made = world(SMALL)
    waiting = made.client(get(b"/only"))
    made.turn(1.0)
    cut = made.client(get(b"/only"))
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    made.turn(1.1)
    answer = waiting.take()
    assert (status(answer), body(answer)) == (504, b"upstream request timeout")
    assert not cut.gone
    made.turn(1.0)
    assert cut.aborted
    assert [record.flags for record in made.records] == [b"UT", b"UT"]
    made.settle()


def test_the_route_timeout_begins_with_the_requests_end(world: Make) -> None:
    """A slow client's time is not the route's."""
    made = world(SMALL)
    client = made.client(get(b"/only", b"Content-Length: 3", method=b"POST"))
    made.turn(10.0)
    client.receive(b"abc")
    made.turn(1.9)
    assert client.take() == b""
    made.turn(0.3)
    assert status(client.take()) == 504
    made.settle()


@pytest.mark.parametrize(
    "data",
    [
        get(b"/only", b"Content-Length: 1025", method=b"POST"),
        get(b"/only", b"Transfer-Encoding: chunked", method=b"POST")
        + b"401\r\n" + b"x" * 1025 + b"\r\n0\r\n\r\n",
        get(b"/only", b"Transfer-Encoding: chunked", method=b"POST")
        + b"300\r\n" + b"x" * 0x300 + b"\r\n",
    ],
)  # fmt: skip
def test_a_body_over_the_limit(world: Make, data: bytes) -> None:
    """413, by its length or by its bytes, and nobody keeps the upstream's connection."""
    made = world(SMALL)
    client = made.client(data)
    client.receive(b"300\r\n" + b"x" * 0x300 + b"\r\n")
    answer = client.take()
    assert (status(answer), body(answer)) == (413, b"Payload Too Large")
    made.turn()
    assert all(upstream.gone for upstream in made.upstreams)
    made.settle()


def test_a_body_over_the_limit_while_the_response_runs(world: Make) -> None:
    """The exchange is cut, as nothing else can be said any more."""
    made = world(SMALL)
    client = made.client(get(b"/only", b"Transfer-Encoding: chunked", method=b"POST"))
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    client.receive(b"500\r\n" + b"x" * 0x500 + b"\r\n")
    made.turn()
    assert client.gone
    assert made.upstream.aborted
    assert made.records[0].flags == b"DPE"
    made.settle()


def test_the_response_may_end_before_the_request(world: Make) -> None:
    """It passes, both connections are given up, and the client may go on sending for a while."""
    made = world()
    client = made.client(post(b"abc", length=1000))
    made.upstream.block()
    client.receive(b"d" * 100)
    made.upstream.receive(ok(b"enough"))
    answer = client.take()
    assert (status(answer), body(answer)) == (200, b"enough")
    assert head(answer)[b"connection"] == b"close"
    client.receive(b"e" * 100)
    made.turn()
    assert made.upstream.gone  # it never read: nobody waits for that
    assert not client.gone
    made.settle()


# Replays


@pytest.mark.parametrize("method", sorted(IDEMPOTENT - {b"HEAD"}))
@pytest.mark.parametrize("reason", [ConnectionDone, ConnectionLost])
def test_a_stale_connection_is_nobodys_error(
    world: Make, method: bytes, reason: type[Exception]
) -> None:
    """An idempotent request on a connection that was closed while idle is sent once more."""
    made = world()
    client, stale = idle_upstream(made)
    client.receive(get(b"/again", method=method))
    sent = stale.take()
    stale.end(reason)
    assert made.upstream is not stale
    assert made.upstream.take() == sent
    made.upstream.receive(ok(b"fine"))
    assert body(client.take()) == b"fine"
    assert made.records[-1].attempts == 2
    assert made.value(made.clusters["site"].stats.replays) == 1
    made.settle()


@pytest.mark.parametrize(
    ("acknowledged", "reason", "code"),
    [
        (0, ConnectionDone, 200),
        (1, ConnectionDone, 503),
        (None, ConnectionDone, 503),
    ],
)
def test_post_is_replayed_only_unacknowledged(
    world: Make, acknowledged: int | None, reason: type[Exception], code: int
) -> None:
    """Only when the kernel says that no byte of it was taken."""
    made = world()
    client = made.client(get(b"/first"))
    made.upstream.receive(ok())
    stale = made.upstream
    before = len(stale.sent)
    client.take()
    if acknowledged is not None:
        stale.sock.acknowledged = before + acknowledged
    client.receive(post(b"hello"))
    stale.end(reason)
    if code == 200:
        assert body(made.upstream.take()) == b"hello"
        made.upstream.receive(ok())
    assert status(client.take()) == code
    made.settle()


def test_post_is_replayed_when_nothing_of_it_left(world: Make) -> None:
    """What the transport still holds was read by nobody, even when the connection was reset."""
    made = world()
    client, stale = idle_upstream(made)
    stale.block()
    client.receive(post(b"hello"))
    stale.end(ConnectionLost)
    assert body(made.upstream.take()) == b"hello"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_a_replay_is_never_replayed(world: Make) -> None:
    """The second connection is fresh: its end is the request's."""
    made = world()
    client, stale = idle_upstream(made)
    client.receive(get(b"/again"))
    stale.end()
    made.upstream.end()
    assert status(client.take()) == 503
    assert len(made.upstreams) == 2
    made.settle()


@pytest.mark.parametrize("seen", [b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_no_replay_once_a_byte_came(world: Make, seen: bytes) -> None:
    """A connection that answered anything was not closed while idle."""
    made = world()
    client, stale = idle_upstream(made)
    client.receive(get(b"/again"))
    stale.receive(seen)
    stale.end()
    assert client.take().count(b"503 Service") == 1
    assert len(made.upstreams) == 1
    made.settle()


def test_a_replayed_body_under_way(world: Make) -> None:
    """What was sent of a body is sent again, and the rest follows."""
    made = world()
    client, stale = idle_upstream(made)
    made.instant = None
    client.receive(get(b"/", b"Content-Length: 9", method=b"PUT") + b"abc")
    client.receive(b"def")
    stale.end()
    assert not client.reading
    made.waiting[0].succeed()
    made.turn()
    client.receive(b"ghi")
    assert body(made.upstream.take()) == b"abcdefghi"
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    assert made.records[-1].bytes_received == 9
    made.settle()


def test_a_long_body_is_not_kept_for_a_replay(world: Make) -> None:
    """Over the limit the request is an error as any other."""
    made = world()
    client, stale = idle_upstream(made)
    client.receive(get(b"/", b"Content-Length: 100000", method=b"PUT"))
    client.receive(b"x" * (REPLAY_LIMIT + 1))
    stale.end()
    assert status(client.take()) == 503
    made.settle()


def test_a_replay_takes_the_place_of_what_was_lost(world: Make) -> None:
    """At max_connections, with others in line, a stale connection is still nobody's error."""
    made = world(PLAIN + "    pool: { max_connections: 1 }\n")
    client, stale = idle_upstream(made)
    client.receive(get(b"/again"))
    others = [made.client(get(b"/other")) for _ in range(3)]
    stale.end()
    assert made.upstream.take().startswith(b"GET /again ")
    for _ in range(4):
        made.upstream.receive(ok())
    assert {status(one.take()) for one in [client, *others]} == {200}
    made.settle()


def test_withdrawn_while_waiting(world: Make) -> None:
    """A client that goes while its connection is opened leaves nothing behind."""
    made = world()
    made.instant = None
    client = made.client(get())
    client.end()
    (attempt,) = made.waiting
    attempt.succeed()  # kept for whoever comes next
    made.check()
    made.client(get(b"/next"))
    assert made.upstream.take().startswith(b"GET /next ")
    made.settle()


def test_trailers_of_a_request(world: Make) -> None:
    """They pass whether the connection was there before the body's end or not."""
    data = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    data += b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    for instant in (True, None):
        made = world()
        made.instant = instant
        made.client(data)
        for attempt in made.waiting:
            attempt.succeed()
        sent = made.upstream.take()
        assert head(sent)[b"transfer-encoding"] == b"chunked"
        assert body(sent) == b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        made.settle()


def test_a_chunked_request_that_is_here_already_has_a_length(world: Make) -> None:
    """Nothing is chunked that need not be."""
    made = world()
    data = get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n"
    made.client(data)
    sent = made.upstream.take()
    assert head(sent)[b"content-length"] == b"3"
    assert body(sent) == b"abc"
    made.settle()


def test_what_the_log_asks_for(world: Make) -> None:
    """The attributes of a record, with their times in order."""
    made = world()
    client = made.client(get(b"/x?y"))
    made.turn(0.5)
    made.upstream.receive(ok(b"hello"))
    (record,) = made.records
    assert (record.method, record.path, record.authority) == (b"GET", b"/x?y", b"a.example")
    assert (record.scheme, record.protocol, record.status) == (b"http", b"HTTP/1.1", 200)
    assert (record.client, record.client_ip) == (b"192.0.2.1:40000", b"192.0.2.1")
    assert (record.local, record.upstream) == (b"127.0.0.1:8080", b"127.0.0.1:9001")
    assert record.upstream_local == b"127.0.0.1:50000"
    assert (record.listener_name, record.cluster_name) == (b"web", b"site")
    assert (record.route_name, record.attempts) == (b"0", 1)
    assert (record.flags, record.details) == (b"-", b"via_upstream")
    assert (record.bytes_received, record.bytes_sent) == (0, 5)
    assert record.response_headers is not None
    assert record.response_headers.get(b"content-length") == b"5"
    assert len(record.request_id) == 36
    assert record.start == record.request_end == record.connected_at == 1000.0
    assert record.response_start == record.end == 1000.5
    assert status(client.take()) == 200
    made.settle()


# Anything in any order

RANDOM = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      max_body: 2KiB
      routes:
        - match: { path: /local }
          respond: { status: 200, body: "here" }
        - to: site
          timeout: 5s
          upgrades: [websocket]
clusters:
  site:
    endpoints: [127.0.0.1:9001, 127.0.0.1:9002]
    balance: round_robin
    limits: { pending: 3 }
    pool: { max_connections: 2, pending_timeout: 3s, idle_timeout: 4s }
"""
SINGLE = RANDOM + "    proxy_protocol: v1\n"
NARROW = RANDOM.replace(", 127.0.0.1:9002]", "]")

REQUESTS = [
    get(),
    get(b"/local"),
    get(method=b"HEAD"),
    get(b"/", b"Connection: close"),
    b"GET / HTTP/1.0\r\n\r\n",
    post(b"hello"),
    post(b"he", length=5),
    post(b"", b"Expect: 100-continue", length=3000),
    get(b"/", b"Transfer-Encoding: chunked", method=b"PUT") + b"3\r\nabc\r\n",
    get(b"/", b"Transfer-Encoding: chunked", method=b"PUT") + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",
    get(b"/", b"Connection: upgrade", b"Upgrade: websocket"),
    b"llo",
    b"0\r\n\r\n",
    b"garbage\r\n\r\n",
    get()[:10],
    get() * 5,
    b"x" * 1000,
]
RESPONSES = [
    ok(b"hello"),
    ok(),
    ok(b"hello", b"Connection: close"),
    ok(b"hello")[:20],
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    b"def",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nabc",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi",
    b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
    b"garbage\r\n\r\n",
    ok(b"x" * 70000),
]
ACTIONS = ["client", "request", "respond", "client end", "client reset", "upstream end"]
ACTIONS += ["upstream reset", "connected", "failed", "time", "block", "block upstream", "drain"]
ACTIONS += ["turn", "instant", "refuse", "respond", "connected", "request"]

steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 50), st.integers(0, 50)), max_size=50
)


def act(made: World, action: str, one: int, two: int) -> None:
    """One event; which connection and which bytes are the numbers' choice."""

    def choose(transports: list[Transport]) -> Transport | None:
        alive = [transport for transport in transports if not transport.gone]
        return alive[one % len(alive)] if alive else None

    waiting = made.waiting
    target = choose(made.upstreams if "upstream" in action else made.downstreams)
    if action == "client":
        made.client(REQUESTS[two % len(REQUESTS)])
    elif action == "request" and target is not None:
        target.receive(REQUESTS[two % len(REQUESTS)])
    elif action == "respond":
        target = choose(made.upstreams)
        if target is not None:
            target.receive(RESPONSES[two % len(RESPONSES)])
    elif action.endswith(" end") and target is not None:
        target.end()
    elif action.endswith(" reset") and target is not None:
        target.end(ConnectionLost)
    elif action == "connected" and waiting:
        waiting[one % len(waiting)].succeed()
    elif action == "failed" and waiting:
        waiting[one % len(waiting)].fail("timeout" if two % 2 else "refused")
    elif action == "time":
        made.turn(one / 10)
    elif action.startswith("block") and target is not None:
        target.block()
    elif action == "drain":
        for transport in (*made.downstreams, *made.upstreams):
            if not transport.gone:
                transport.drain()
    elif action == "turn":
        made.turn()
    elif action == "instant":
        made.instant = None if made.instant else True
    elif action == "refuse":
        made.instant = "refused"


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps, text=st.sampled_from([RANDOM, SINGLE, NARROW]))
@example(steps=[("client", 0, 0), ("respond", 0, 3), ("upstream end", 0, 0)], text=RANDOM)
def test_any_events_in_any_order(world: Make, steps: list[tuple[str, int, int]], text: str) -> None:
    """Nothing raises, every bound and gauge holds all the time, and in the end all are zero."""
    made = world(text)
    begun: list[Any] = []
    made.instant = None
    for action, one, two in steps:
        act(made, action, one, two)
        made.check()
        for connection in made.listener._connections:
            exchange = connection.exchange
            if exchange is not None and all(exchange is not other for other in begun):
                begun.append(exchange)
        assert made.clusters["site"].limits.default.pending <= 3 + made.value(
            made.clusters["site"].stats.replays
        )
    made.settle()
    recorded = {id(record) for record in made.records}
    assert all(id(exchange) in recorded for exchange in begun)

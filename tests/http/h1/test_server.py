"""A client's connection: order, keeping alive, refusing, lingering, time limits, backpressure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from meshproxy.http.h1.responder import LINGER, LINGER_BYTES
from tests.http.world import PLAIN, Transport, World, body, get, head, ok, post, status

Make = Callable[..., World]

LOCAL = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      max_header_size: 8KiB
      routes:
        - match: { path: /local }
          respond: { status: 200, body: "here\\n" }
        - match: { path: /big }
          respond: { status: 200, body: BIG }
        - to: site
          upgrades: [websocket]
clusters:
  site:
    endpoints: [127.0.0.1:9001]
""".replace("BIG", "b" * 20000)


def test_a_request_and_its_response(world: Make) -> None:
    """Both pass, with what a proxy adds; the connection stays for more."""
    made = world()
    client = made.client(get(b"/x?y", b"X-One: 1", b"Connection: x-two", b"X-Two: 2"))
    sent = made.upstream.take()
    assert sent.startswith(b"GET /x?y HTTP/1.1\r\nhost: a.example\r\nx-one: 1\r\n")
    assert b"x-two" not in sent
    assert head(sent)[b"x-forwarded-for"] == b"192.0.2.1"
    made.upstream.receive(ok(b"hello", b"Server: theirs", b"Connection: keep-alive"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: meshproxy\r\n")
    assert body(answer) == b"hello"
    assert b"connection" not in answer
    client.receive(get())
    made.upstream.receive(ok(b"again"))
    assert body(client.take()) == b"again"
    assert len(made.upstreams) == 1
    made.settle()


def test_pipelined_requests_are_answered_in_order(world: Make) -> None:
    """One goes upstream at a time; local answers among them keep their place."""
    made = world(LOCAL)
    client = made.client(get(b"/1") + get(b"/local") + get(b"/2") + get(b"/local") + get(b"/3"))
    assert made.upstream.take().startswith(b"GET /1 ")
    assert client.take() == b""
    made.upstream.receive(ok(b"one"))
    assert [part[-5:] for part in client.take().split(b"HTTP/1.1")[1:]] == [b"\r\none", b"here\n"]
    assert made.upstream.take().startswith(b"GET /2 ")
    made.upstream.receive(ok(b"two"))
    assert made.upstream.take().startswith(b"GET /3 ")
    made.upstream.receive(ok(b"three"))
    assert body(client.take().split(b"HTTP/1.1")[-1]) == b"three"
    made.settle()


def test_any_split_of_the_bytes_is_the_same(world: Make) -> None:
    """Byte by byte, with empty lines before the requests."""
    made = world(LOCAL)
    data = b"\r\n\r\n" + get(b"/local") + b"\r\n" + post(b"hello") + get(b"/local")
    client = made.client()
    for number in range(len(data)):
        client.receive(data[number : number + 1])
        made.turn()
    assert body(made.upstream.take()) == b"hello"
    made.upstream.receive(ok(b"up"))
    answers = client.take().split(b"HTTP/1.1")[1:]
    assert [body(part) for part in answers] == [b"here\n", b"up", b"here\n"]
    made.settle()


@pytest.mark.parametrize(
    ("request_", "closes", "said"),
    [
        (b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n", False, None),
        (b"GET /local HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True, b"close"),
        (b"GET /local HTTP/1.0\r\n\r\n", True, b"close"),
        (b"GET /local HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, b"keep-alive"),
    ],
)
def test_keep_alive(world: Make, request_: bytes, closes: bool, said: bytes | None) -> None:
    """The connection stays or ends as the version and Connection say, and says so."""
    made = world(LOCAL)
    client = made.client(request_)
    assert head(client.take()).get(b"connection") == said
    made.turn()
    assert client.gone is closes
    made.settle()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 426),
        (get(b"/", b"Transfer-Encoding: gzip"), 501),
        (get(b"/" + b"x" * 9000), 431),
        (b"GET /" + b"x" * 9000, 431),
        (get(b"/", *[b"X: y"] * 100), 431),
        (get(b"/", b"Expect: more"), 417),
        (get(b"/", b"Transfer-Encoding: chunked") + b"xyz\r\n", 400),
    ],
)
def test_a_refusal_is_the_last_answer(world: Make, data: bytes, code: int) -> None:
    """4xx or 501, ``connection: close``; what follows is thrown away, then the end."""
    made = world(LOCAL)
    client = made.client(data)
    answer = client.take()
    assert status(answer) == code
    assert head(answer)[b"connection"] == b"close"
    assert client.half_closed
    client.receive(get(b"/local"))
    assert client.take() == b""
    assert not client.gone
    made.turn(LINGER + 0.2)
    assert client.gone
    assert [record.status for record in made.records] == [code]
    made.settle()


def test_lingering_is_bounded(world: Make) -> None:
    """A client that goes on sending is reset after a mebibyte."""
    made = world(LOCAL)
    client = made.client(b"garbage\r\n\r\n")
    for _ in range(LINGER_BYTES // 65536):
        client.receive(b"x" * 65536)
    assert not client.aborted
    client.receive(b"x")
    assert client.aborted
    made.settle()


def test_lingering_ends_with_the_client(world: Make) -> None:
    """A client that closes after its answer is not waited for."""
    made = world(LOCAL)
    client = made.client(b"garbage\r\n\r\n")
    client.end()
    assert client.gone
    made.settle()


def test_the_head_limit_is_the_same_in_pieces(world: Make) -> None:
    """A head of exactly the limit is served, wherever it is cut; one byte more is not."""
    room = 8192 - len(get(b"/", b"X: ")) + 4
    good, bad = (
        get(b"/local", b"X: " + b"y" * (room - 5)),
        get(b"/local", b"X: " + b"y" * (room - 4)),
    )
    assert len(good) == 8192 + 4
    for cut in range(len(good) - 6, len(good)):
        for data, code in ((good, 200), (bad, 431)):
            made = world(LOCAL)
            client = made.client(data[:cut])
            client.receive(data[cut:])
            assert status(client.take()) == code


def test_a_slow_head(world: Make) -> None:
    """408 when a head takes longer than its time, counted from its first byte."""
    made = world(LOCAL)
    client = made.client(get(b"/local"))
    client.take()
    made.turn(100.0)
    for _ in range(3):
        client.receive(b"G")
        made.turn(4.0)
    assert client.take() == b""
    made.turn(4.0)
    answer = client.take()
    assert (status(answer), body(answer)) == (408, b"request header timeout")
    assert made.records[-1].details == b"request_header_timeout"
    made.settle()


def test_empty_lines_do_not_keep_a_connection(world: Make) -> None:
    """A client that sends nothing but empty lines is idle."""
    made = world(LOCAL)
    client = made.client()
    for _ in range(70):
        client.receive(b"\r\n" * 30000)
        made.turn(60.0)
    assert client.gone
    assert made.records == []


def test_an_idle_connection_is_closed(world: Make) -> None:
    """After idle_timeout without a request, before the first or after another."""
    made = world(LOCAL)
    silent = made.client()
    client = made.client(get(b"/local"))
    made.turn(3000.0)
    client.receive(get(b"/local"))
    made.turn(700.0)
    assert silent.gone
    assert not client.gone
    made.turn(3000.0)
    assert client.gone
    made.settle()


def test_idle_timeouts_can_be_off(world: Make) -> None:
    """Zero keeps a silent client for ever."""
    made = world(LOCAL.replace("max_header_size", "idle_timeout: 0s\n      max_header_size"))
    client = made.client(get(b"/local"))
    made.turn(100_000.0)
    assert not client.gone
    assert made.clock.calls == []
    made.settle()


def test_expect_continue(world: Make) -> None:
    """100 at once when the body is not here yet, never to the upstream."""
    made = world()
    client = made.client(post(b"", b"Expect: 100-continue", length=5))
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.receive(b"hello")
    sent = made.upstream.take()
    assert b"expect" not in sent
    assert body(sent) == b"hello"
    made.upstream.receive(b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"done"))
    assert body(client.take()) == b"done"
    client.receive(post(b"hello", b"Expect: 100-continue"))
    assert client.take() == b""
    made.settle()


def test_interim_responses(world: Make) -> None:
    """Passed on in order to HTTP/1.1, never to HTTP/1.0."""
    made = world()
    client = made.client(get())
    made.upstream.receive(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    assert client.take() == b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    made.upstream.receive(b"HTTP/1.1 102 Processing\r\n\r\n" + ok(b"x"))
    first, second = client.take().split(b"HTTP/1.1")[1:]
    assert first.startswith(b" 102")
    assert body(second) == b"x"
    old = made.client(b"GET / HTTP/1.0\r\n\r\n")
    made.upstream.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"x"))
    assert status(old.take()) == 200
    made.settle()


@pytest.mark.parametrize(
    "answer", [ok(b""), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_head(world: Make, answer: bytes) -> None:
    """HEAD has no body whatever the head says, and the connection goes on."""
    made = world(LOCAL)
    client = made.client(get(method=b"HEAD") + get(b"/local", method=b"HEAD") + get(b"/local"))
    made.upstream.receive(answer.replace(b"Length: 0", b"Length: 1234"))
    first, second, third = client.take().split(b"HTTP/1.1 ")[1:]
    assert body(first) == b""
    assert b"transfer-encoding" not in first
    assert head(second)[b"content-length"] == b"5"
    assert body(second) == b""
    assert body(third) == b"here\n"
    made.settle()


@pytest.mark.parametrize("code", [204, 304])
def test_statuses_without_a_body(world: Make, code: int) -> None:
    """204 and 304 end with their head."""
    made = world()
    client = made.client(get() + get())
    made.upstream.receive(b"HTTP/1.1 %d X\r\nETag: x\r\n\r\n" % code)
    answer = client.take()
    assert status(answer) == code
    assert body(answer) == b""
    assert b"transfer-encoding" not in answer
    made.upstream.receive(ok(b"next"))
    assert body(client.take()) == b"next"
    made.settle()


def test_chunked_out(world: Make) -> None:
    """A body of unknown length is chunked for HTTP/1.1, with its trailers."""
    made = world()
    client = made.client(get())
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    made.upstream.receive(b"2;x=y\r\nde\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n")
    answer = client.take()
    assert head(answer)[b"transfer-encoding"] == b"chunked"
    assert body(answer) == b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n"
    client.receive(get())
    made.upstream.receive(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    assert body(client.take()) == b"3\r\nabc\r\n0\r\n\r\n"
    assert len(made.upstreams) == 1
    made.settle()


def test_until_close_to_http_1_0(world: Make) -> None:
    """HTTP/1.0 gets the body alone, and the connection ends with it."""
    made = world()
    client = made.client(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    made.upstream.receive(b"0\r\n\r\n")
    answer = client.take()
    assert head(answer)[b"connection"] == b"close"
    assert body(answer) == b"abc"
    made.turn()
    assert client.gone
    assert not client.aborted
    made.settle()


def test_a_truncated_body_to_http_1_0_is_a_reset(world: Make) -> None:
    """An orderly end would look like the end of the body."""
    made = world()
    client = made.client(b"GET / HTTP/1.0\r\n\r\n")
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    made.upstream.end()
    made.turn()
    assert client.aborted
    made.settle()


def test_a_body_behind_the_answer(world: Make) -> None:
    """A route that answers before the body came closes behind its answer."""
    made = world(LOCAL)
    client = made.client(b"POST /local HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    answer = client.take()
    assert (status(answer), head(answer)[b"connection"]) == (200, b"close")
    assert client.half_closed
    made.settle()


@pytest.mark.parametrize("after", [False, True])
def test_a_broken_chunk(world: Make, after: bool) -> None:
    """400 before the response began; after it, the connection is reset. Upstream is let go."""
    made = world()
    client = made.client(get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\nabc\r\n")
    if after:
        made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        client.take()
    client.receive(b"nonsense\r\n")
    made.turn()
    if after:
        assert client.aborted
    else:
        assert status(client.take()) == 400
    assert made.upstream.aborted
    assert made.records[0].flags == b"DPE"
    made.settle()


def test_stream_idle(world: Make) -> None:
    """504 when the upstream is silent, 408 when the client is; a response is cut."""
    made = world(PLAIN.replace("- to: site", "- { to: site, timeout: 0s }"))
    silent = made.client(get())
    slow = made.client(post(b"abc", length=6))
    cut = made.client(get())
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    made.turn(301.0)
    answer, other = silent.take(), slow.take()
    assert (status(answer), body(answer)) == (504, b"stream timeout")
    assert (status(other), body(other)) == (408, b"stream timeout")
    assert cut.aborted
    assert {record.flags for record in made.records} == {b"SI"}
    made.settle()


def test_stream_idle_counts_from_the_last_byte(world: Make) -> None:
    """Bytes in either direction put it off."""
    made = world(PLAIN.replace("- to: site", "- { to: site, timeout: 0s }"))
    client = made.client(post(b"", length=10))
    for _ in range(10):
        made.turn(200.0)
        client.receive(b"x")
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    for _ in range(10):
        made.upstream.receive(b"x")
        made.turn(200.0)
    assert body(client.take()) == b"x" * 10
    made.settle()


WEBSOCKET = get(b"/chat", b"Connection: Upgrade", b"Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def tunnel(made: World) -> Transport:
    """A client whose connection was upgraded."""
    client = made.client(WEBSOCKET + b"early")
    assert b"connection: upgrade\r\nupgrade: websocket\r\n" in made.upstream.take()
    made.upstream.receive(SWITCH + b"hello")
    answer = client.take()
    assert status(answer) == 101
    assert body(answer) == b"hello"
    assert made.upstream.take() == b"early"
    return client


def test_a_tunnel(world: Make) -> None:
    """Bytes pass both ways, early ones too, and no time limit of the route cuts them."""
    made = world(LOCAL)
    client = tunnel(made)
    made.turn(1000.0)
    client.receive(b"ping")
    made.upstream.receive(b"pong")
    assert (made.upstream.take(), client.take()) == (b"ping", b"pong")
    client.block()
    made.upstream.receive(b"x" * 70000)
    assert not made.upstream.reading
    client.drain()
    made.turn()
    made.upstream.receive(b"last")
    made.upstream.end()
    made.turn()
    assert client.take().endswith(b"last")
    assert client.gone
    assert made.records[0].bytes_sent == 5 + 4 + 70000 + 4
    made.settle()


def test_a_tunnels_client_goes(world: Make) -> None:
    """The endpoint's connection ends with the client's."""
    made = world(LOCAL)
    tunnel(made).end()
    made.turn()
    assert made.upstream.gone
    made.settle()


def test_upgrades_that_are_not_allowed(world: Make) -> None:
    """403 where the route does not name the protocol."""
    made = world(LOCAL)
    client = made.client(WEBSOCKET.replace(b"websocket", b"other"))
    assert status(client.take()) == 403
    assert made.records[0].details == b"upgrade_failed"
    made.settle()


def test_drain(world: Make) -> None:
    """Idle connections close at once, busy ones after their response, which says so."""
    made = world(LOCAL)
    idle = made.client(get(b"/local"))
    busy = made.client(get() + get(b"/local"))
    made.listener.drain()
    made.turn()
    assert idle.gone
    made.upstream.receive(ok(b"x"))
    assert head(busy.take())[b"connection"] == b"close"
    made.turn()
    assert busy.gone
    made.settle()


def test_stop(world: Make) -> None:
    """Every connection ends at once."""
    made = world()
    clients = [made.client(get()), made.client()]
    made.listener.stop()
    made.turn()
    assert all(client.aborted for client in clients)
    made.settle()


def test_the_client_goes(world: Make) -> None:
    """Its request is given up, upstream too, and recorded as DC."""
    made = world()
    client = made.client(get())
    client.end(ConnectionLost)
    made.turn()
    assert made.upstream.aborted
    assert [(r.flags, r.status) for r in made.records] == [(b"DC", 0)]
    made.settle()


PROXIED = PLAIN.replace("http:", "proxy_protocol: true\n    http:")


@pytest.mark.parametrize(
    ("source", "client_", "ip"),
    [
        (b"TCP4 198.51.100.7 127.0.0.1 5555 80", b"198.51.100.7:5555", b"198.51.100.7"),
        (b"TCP6 2001:db8::7 ::1 5555 80", b"[2001:db8::7]:5555", b"2001:db8::7"),
        (b"UNKNOWN", b"192.0.2.1:40000", b"192.0.2.1"),
    ],
)
def test_proxy_protocol(world: Make, source: bytes, client_: bytes, ip: bytes) -> None:
    """The header names the client, wherever it is split, and the request follows."""
    data = b"PROXY " + source + b"\r\n" + get()
    for cut in range(1, len(data), 7):
        made = world(PROXIED)
        client = made.client(data[:cut])
        client.receive(data[cut:])
        assert head(made.upstream.take())[b"x-forwarded-for"] == ip
        made.upstream.receive(ok())
        assert made.records[0].client == client_
        made.settle()


@pytest.mark.parametrize("data", [get(), b"PROXY nonsense\r\n", b""])
def test_no_proxy_header(world: Make, data: bytes) -> None:
    """A connection without a good header ends without an answer, also when it is silent."""
    made = world(PROXIED)
    client = made.client(data)
    made.turn(20.0)
    assert client.aborted
    assert client.take() == b""
    assert made.records == []
    made.settle()


def test_what_the_protocol_is_to_twisted(world: Make) -> None:
    """It provides the interfaces; connectionMade and stopProducing have nothing to do."""
    from twisted.internet.interfaces import IProtocol, IPushProducer
    from zope.interface.verify import verifyObject

    made = world()
    protocol: Any = made.client().protocol
    assert verifyObject(IProtocol, protocol)
    assert verifyObject(IPushProducer, protocol)
    protocol.connectionMade()
    protocol.stopProducing()
    assert protocol.local == b"127.0.0.1:8080"
    made.settle()

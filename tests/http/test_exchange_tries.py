"""
Any events in any order, with retries, hedges and mirrors: what clients get and endpoints see.

A client gets one well-formed response for each request, or a closed connection; never a byte of
two responses for one, and nothing that no endpoint sent whole unless it can see that it was cut.
An endpoint sees no request twice that may do harm twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http import retry as retry_module
from tests.http.world import Transport, World, get

Make = Callable[..., World]

TEXT = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      stream_idle_timeout: 8s
      request_timeout: 9s
      routes:
        - to: site
          timeout: 5s
          MIRROR
          retry: { RETRY }
clusters:
  site:
    endpoints: [127.0.0.1:9001, 127.0.0.1:9002]
    circuit_breaker: { failure_threshold: 4, base_ejection_time: 1s }
    LIMITS
  shadow: { endpoints: [127.0.0.1:9101] }
"""

retries = st.tuples(
    st.sampled_from(["[reset]", "[5xx]", "[connect-failure, retriable-4xx]"]),
    st.integers(0, 3),
    st.sampled_from(["", ", per_try_timeout: 1s", ", per_try_timeout: 1s, hedge: true"]),
    st.sampled_from(["", ", response_buffer: 8", ", buffer_streams: true", ", response_buffer: 0"]),
    st.sampled_from(["", ", non_idempotent: true", ", max_body: 4"]),
).map(lambda t: f"on: {t[0]}, attempts: {t[1]}{t[2]}{t[3]}{t[4]}")
retries = retries.filter(
    lambda text: "hedge" not in text or not ("attempts: 0" in text or "retriable" in text)
)
mirrors = st.sampled_from(["", "mirror: shadow"])
limits = st.sampled_from(
    ["", "limits: { requests: 2 }", "limits: { retries: 1, pending: 1 }", "proxy_protocol: v1"]
)

_REQUEST = re.compile(rb"(GET|PUT|POST) /(\d+) HTTP/1\.1\r\n")


class Drive:
    """What was asked, what was answered, and by whom."""

    def __init__(self, made: World) -> None:
        self.made = made
        self.numbers = count(1)
        self.tokens = count(1)
        # Of clients: the requests in order, and what is missing of the last one's body.
        self.asked: dict[Transport, list[int]] = {}
        self.rest: dict[Transport, bytes] = {}
        self.whole_requests: set[int] = set()
        self.guarded: set[int] = set()
        # Of requests: bodies that were sent whole, and all that were begun.
        self.sent: dict[int, list[bytes]] = {}
        self.begun: dict[int, list[bytes]] = {}
        # Of endpoints' connections: requests answered, and what is missing of the last answer.
        self.answered: dict[Transport, int] = {}
        self.missing: dict[Transport, tuple[int, bytes, bytes]] = {}

    # Clients

    def request(self, client: Transport | None, kind: int) -> None:
        """A request on this connection, or a new one."""
        number = next(self.numbers)
        path = b"/%d" % number
        body = b"abcdefgh"
        rest = b""
        key = [b"Idempotency-Key: 1"] if kind == 5 else []
        kind %= 6
        if kind == 0:
            data = get(path)
        elif kind < 4:
            method = b"PUT" if kind == 1 else b"POST"
            data = get(path, b"Content-Length: 8", *key, method=method)
            data, rest = (data + body, b"") if kind != 3 else (data + body[:3], body[3:])
        else:
            data = get(path, b"Transfer-Encoding: chunked", *key, method=b"POST" if key else b"PUT")
            data += b"3\r\nabc\r\n"
            rest = b"5\r\ndefgh\r\n0\r\nx-sum: 1\r\n\r\n"
        if kind in (2, 3):
            self.guarded.add(number)
        if client is None:
            client = self.made.client()
            self.asked[client] = []
        self.asked[client].append(number)
        if rest:
            self.rest[client] = rest
        else:
            self.whole_requests.add(number)
        client.receive(data)

    def more(self, client: Transport) -> None:
        """The rest of a body."""
        rest = self.rest.pop(client)
        self.whole_requests.add(self.asked[client][-1])
        client.receive(rest)

    # Endpoints

    def current(self, upstream: Transport) -> int | None:
        """The request on this connection that waits for an answer."""
        seen = _REQUEST.findall(upstream.sent)
        if len(seen) <= self.answered.get(upstream, 0):
            return None
        return int(seen[-1][1])

    def respond(self, upstream: Transport, kind: int) -> None:
        """Begin an answer, or go on with the one that was begun."""
        if upstream in self.missing:
            number, body, rest = self.missing.pop(upstream)
            if rest:
                self.sent[number].append(body)
                upstream.receive(rest)
            else:  # the end of the connection is its end
                self.sent[number].append(body)
                upstream.end()
            return
        found = self.current(upstream)
        if found is None:
            return
        self.answered[upstream] = len(_REQUEST.findall(upstream.sent))
        number = found
        self.sent.setdefault(number, [])
        self.begun.setdefault(number, [])
        body = b"<%d.%d>" % (number, next(self.tokens)) + b"x" * (70_000 if kind == 11 else 5)
        code = {1: 500, 2: 503, 3: 409, 12: 500}.get(kind, 200)
        line = b"retry-after: 1\r\n" if kind == 2 else b""
        lead = b"HTTP/1.1 %d X\r\nx-for: %d\r\n%b" % (code, number, line)
        if kind in (8, 14, 15):
            if kind == 8:
                upstream.receive(b"garbage\r\n\r\n")
            else:
                upstream.end(ConnectionDone if kind == 14 else ConnectionLost)
            return
        if kind == 10:
            self.answered[upstream] -= 1
            upstream.receive(b"HTTP/1.1 103 X\r\nlink: x\r\n\r\n")
            return
        self.begun[number].append(body)
        if kind == 9:
            body = b""
            data = lead.replace(b"200", b"204") + b"\r\n"
        elif kind in (5, 6, 13):
            trailer = b"x-sum: 1\r\n" if kind == 13 else b""
            chunks = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)
            data = lead + b"transfer-encoding: chunked\r\n\r\n" + chunks
        elif kind == 7:
            self.missing[upstream] = (number, body, b"")
            upstream.receive(lead.replace(b"1.1", b"1.0") + b"\r\n" + body)
            return
        else:
            data = lead + b"content-length: %d\r\n\r\n" % len(body) + body
        cut = len(data) - 7 if kind in (4, 6, 12, 13) else len(data)
        if cut < len(data):
            self.missing[upstream] = (number, body, data[cut:])
        else:
            self.sent[number].append(body)
        upstream.receive(data[:cut])

    # What must be true

    def check_clients(self) -> None:
        """Every client has what it asked for, in order, or its connection is closed."""
        for client, numbers in self.asked.items():
            answers = list(responses(client.sent))
            assert len(answers) <= len(numbers)
            for place, (number, answer) in enumerate(zip(numbers, answers, strict=False)):
                self.check_answer(client, number, answer, place == len(answers) - 1)
            if not (client.gone or client.disconnecting or client.half_closed):
                done = [number for number in numbers if number in self.whole_requests]
                assert len(answers) == len(done), (numbers, answers)

    def check_answer(
        self, client: Transport, number: int, answer: tuple[int, bytes, bytes, bool], last: bool
    ) -> None:
        """One response to the request ``number``."""
        code, asked, body, complete = answer
        if not complete:
            assert last
            assert client.gone or client.disconnecting
        if not asked:
            assert code >= 400
            assert complete
            return
        assert int(asked) == number
        if code == 204:
            return
        if complete:
            assert body in self.sent[number]
        else:
            assert any(whole.startswith(body) for whole in self.begun[number])

    def check_endpoints(self, non_idempotent: bool) -> None:
        """What may do harm reaches an endpoint of the cluster once."""
        site = Counter(
            int(match[1])
            for attempt, upstream in self.made.connections
            if attempt.where[1] < 9100
            for match in _REQUEST.findall(upstream.sent)
        )
        if not non_idempotent:
            assert all(site[number] <= 1 for number in self.guarded)
        # Each of at most 4 tries may be replayed once.
        assert all(times <= 8 for times in site.values())


def responses(data: bytes) -> list[tuple[int, bytes, bytes, bool]]:
    """Responses as a strict client reads them: status, ``x-for``, body, whether it is complete."""
    found = []
    while data:
        match = re.match(
            rb"HTTP/1\.1 (\d{3}) [^\r\n]+\r\n((?:[a-z0-9-]+: [^\r\n]*\r\n)*)\r\n", data
        )
        assert match is not None, data[:200]
        code = int(match[1])
        fields = [line.partition(b": ") for line in match[2].split(b"\r\n") if line]
        headers = {name: value for name, _, value in fields}
        assert len(headers) == len(fields), "a field came twice"
        data = data[match.end() :]
        if code < 200:
            continue
        complete = True
        body = b""
        if headers.get(b"transfer-encoding") == b"chunked":
            assert b"content-length" not in headers
            while True:
                size = re.match(rb"([0-9a-f]+)\r\n", data)
                if size is None:
                    assert not data
                    complete = False
                    break
                length = int(size[1], 16)
                data = data[size.end() :]
                if not length:
                    end = re.match(rb"(?:[a-z0-9-]+: [^\r\n]*\r\n)*\r\n", data)
                    assert end is not None
                    data = data[end.end() :]
                    break
                body += data[:length]
                assert data[length : length + 2] == b"\r\n"
                data = data[length + 2 :]
        elif code != 204:
            length = int(headers[b"content-length"])
            body, data = data[:length], data[length:]
            complete = len(body) == length
        found.append((code, headers.get(b"x-for", b""), body, complete))
    return found


ACTIONS = ["client", "client", "again", "more", *["respond"] * 8]
ACTIONS += ["client end", "client reset", "upstream end", "upstream reset", "connected", "failed"]
ACTIONS += ["connected", "time", "time", "long", "block", "drain", "turn", "instant", "refuse"]

steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30), st.integers(0, 18)),
    min_size=5,
    max_size=60,
)


def act(drive: Drive, action: str, one: int, two: int) -> None:
    """One event; the numbers choose what it happens to and how."""
    made = drive.made

    def choose(transports: list[Transport]) -> Transport | None:
        alive = [transport for transport in transports if not transport.gone]
        return alive[one % len(alive)] if alive else None

    client = choose(made.downstreams)
    upstream = choose(made.upstreams)
    waiting = made.waiting
    if action == "client":
        drive.request(None, two)
    elif action == "again" and client is not None and client not in drive.rest:
        drive.request(client, two)
    elif action == "more" and client in drive.rest:
        drive.more(client)
    elif action == "respond":
        busy = choose([u for u in made.upstreams if u in drive.missing or drive.current(u)])
        if busy is not None:
            drive.respond(busy, two)
    elif action == "upstream end" and upstream is not None:
        held = drive.missing.pop(upstream, None)
        if held is not None and not held[2]:
            drive.sent[held[0]].append(held[1])
        upstream.end()
    elif action == "upstream reset" and upstream is not None:
        drive.missing.pop(upstream, None)
        upstream.end(ConnectionLost)
    elif action == "client end" and client is not None:
        drive.rest.pop(client, None)
        client.end()
    elif action == "client reset" and client is not None:
        drive.rest.pop(client, None)
        client.end(ConnectionLost)
    elif action == "connected" and waiting:
        waiting[one % len(waiting)].succeed()
    elif action == "failed" and waiting:
        waiting[one % len(waiting)].fail("timeout" if two % 2 else "refused")
    elif action == "time":
        made.turn(one / 10)
    elif action == "long":
        made.turn(one / 2)
    elif action == "block" and client is not None:
        client.block()
    elif action == "drain":
        for transport in made.downstreams:
            if not transport.gone:
                transport.drain()
    elif action == "turn":
        made.turn()
    elif action == "instant":
        made.instant = None if made.instant else True
    elif action == "refuse":
        made.instant = "refused"


@settings(
    deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps, retry=retries, mirror=mirrors, limit=limits)
@example(
    steps=[("client", 0, 0), ("time", 12, 0), ("respond", 1, 4), ("upstream reset", 1, 0)],
    retry="on: [5xx], attempts: 2, per_try_timeout: 1s, hedge: true",
    mirror="",
    limit="",
)
def test_any_tries_in_any_order(
    world: Make,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[str, int, int]],
    retry: str,
    mirror: str,
    limit: str,
) -> None:
    """Whatever happens: see the module."""
    monkeypatch.setattr(retry_module, "random", lambda: 0.5)
    text = TEXT.replace("MIRROR", mirror).replace("RETRY", retry).replace("LIMITS", limit)
    made = world(text)
    drive = Drive(made)
    drive.request(None, 0)
    for action, one, two in steps:
        act(drive, action, one, two)
        made.check()
    for transport in made.downstreams:
        if not transport.gone:
            transport.drain()
    # Requests in a pipeline time out one after another, five seconds each.
    made.turn(5.0 * max(map(len, drive.asked.values())) + 30.0)
    drive.check_clients()
    drive.check_endpoints("non_idempotent" in retry)
    made.settle()
    times = Counter(record.path for record in made.records)
    assert not times or times.most_common(1)[0][1] == 1

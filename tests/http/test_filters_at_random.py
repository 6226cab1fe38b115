"""
Whatever filters do, and whatever happens meanwhile: the laws of an exchange hold.

Filters with random ways, over real codecs, and random events; all bodies leave the filters as
they came, so that every byte can be checked at both ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshproxy.api import AlreadyAnswered, BodyTooLarge, Response
from meshproxy.http.chain import Chain
from meshproxy.http.outcome import OVER
from meshproxy.observe.fitted import Fitted
from tests.http.filters import Made
from tests.http.world import World

TEXT = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      max_body: 200KiB
      routes:
        - { to: site, timeout: 30s, retry: { attempts: 2, per_try_timeout: 5s } }
        - { name: other, match: { path: /none }, respond: { status: 404 } }
clusters:
  site:
    endpoints: [127.0.0.1:9001, 127.0.0.1:9002]
"""

CALM = ["", "", "", "", "", "go", "go", "wait", "wait", "read", "set", "skip"]
HEADS = [*CALM, *CALM, "answer", "later", "respond", "raise", "small", "cut", "broken", "reroute"]
PIECES = ["", "", "pass", "same", "wait", "pieces", "slow pieces"]
BODIES = [*PIECES, *PIECES, *PIECES, "raise", "answer", "respond"]
TRAILERS = ["", "", "", "", "wait", "wait", "raise"]
PHASES = {
    "request": HEADS,
    "request_data": BODIES,
    "request_trailers": TRAILERS,
    "response": HEADS,
    "response_data": BODIES,
    "response_trailers": TRAILERS,
}

CALM_WAYS = {
    "request": CALM,
    "request_data": PIECES,
    "request_trailers": ["", "wait"],
    "response": CALM,
    "response_data": PIECES,
    "response_trailers": ["", "wait"],
}


class Wild:
    """A filter whose ways are drawn, one for each phase, and which writes down what it sees."""

    def __init__(self, ways: dict[str, str], play: Play) -> None:
        self.ways = ways
        self.play = play
        self.heads: Counter[tuple[int, str]] = Counter()
        self.ended: Counter[int] = Counter()
        self.seen: dict[tuple[int, str], bytes] = {}
        methods: dict[str, Any] = {"finished": self.finished}
        for phase, way in ways.items():
            if way:
                step: Any = self.trailers if "trailers" in phase else self.data
                if phase in ("request", "response"):
                    step = self.head
                methods[phase] = self._called(step, phase, way)
        self.filter = Made(**methods)

    def _called(self, step: Any, phase: str, way: str) -> Any:
        def called(exchange: Any, *more: Any) -> Any:
            self.play.alive(exchange)
            return step(exchange, phase, way, *more)

        return called

    def finished(self, exchange: Any) -> None:
        """Once."""
        self.play.exchanges[id(exchange)] = exchange
        self.ended[id(exchange)] += 1

    def head(self, exchange: Any, phase: str, way: str) -> Any:
        """A head, once for each exchange."""
        self.play.exchanges[id(exchange)] = exchange
        self.heads[id(exchange), phase] += 1
        message = exchange.request if phase == "request" else exchange.response
        if way == "wait":
            return self.play.gate()
        if way == "later":
            return self.play.gate().addCallback(lambda _: Response(403, b"later"))
        if way == "answer":
            return Response(403, b"answer")
        if way == "respond":
            exchange.respond(Response(403, b"respond"))
        elif way in ("raise", "broken"):
            if way == "broken" and (message.length == 0 or exchange.response is None):
                message.read(10).addErrback(lambda _: None)
            raise ZeroDivisionError("a defect")
        elif way == "cut":
            exchange.cut(b"cut")
        elif way == "skip":
            exchange.skip_body(self.filter)
        elif way == "reroute" and phase == "request":
            exchange.clear_route()
        elif way in ("read", "small", "set"):
            return self.read(message, way)
        return None

    async def read(self, message: Any, way: str) -> None:
        """Read, and put the same back."""
        try:
            body = await message.read(4 if way == "small" else 150_000)
        except BodyTooLarge:
            await self.play.gate()
            return
        if way == "set" and not getattr(message, "bodiless", False):
            message.set_body(body)

    def data(self, exchange: Any, phase: str, way: str, data: bytes, end: bool) -> Any:
        """Bytes, which leave as they came."""
        key = (id(exchange), phase)
        self.seen[key] = self.seen.get(key, b"") + data
        assert data or end, "a call with nothing"
        if way == "same":
            return data
        if way == "wait":
            return self.play.gate().addCallback(lambda _: data)
        if way == "raise" and end:
            raise ZeroDivisionError("a defect")
        if way == "answer" and end:
            return Response(403, b"answer")
        if way == "respond" and end:
            try:
                exchange.respond(Response(403, b"respond"))
            except AlreadyAnswered:
                return None
        if "pieces" in way:
            return self.pieces(data, "slow" in way)
        return None

    async def pieces(self, data: bytes, slow: bool) -> AsyncIterator[bytes]:
        """Halves."""
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            if slow:
                await self.play.gate()
            yield piece

    def trailers(self, exchange: Any, phase: str, way: str, trailers: Any) -> Any:
        """Trailers."""
        if way == "raise":
            raise ZeroDivisionError("a defect")
        return self.play.gate()


class Watched(Fitted):
    """A place in the chain that knows which errors its filter makes on purpose."""

    def failed(self, failure: Failure | None = None) -> None:
        """Anything else is an error of the chain, or of this test."""
        failure = failure or Failure()
        if failure.check(ZeroDivisionError, AlreadyAnswered) is None:
            self.filter.finished.__self__.play.late.append(failure.getTraceback())
        super().failed(failure)


class Play:
    """A world with wild filters, and what happens in it."""

    def __init__(self, ways: list[dict[str, str]], patch: pytest.MonkeyPatch) -> None:
        self.world = world = World(TEXT, patch)
        self.gates: list[Deferred[Any]] = []
        self.exchanges: dict[int, Any] = {}
        self.late: list[str] = []
        self.wild = [Wild(held, self) for held in ways]
        fitted = [
            Watched(held.filter, f"wild{at}", "web", world.registry, world.clock.seconds)
            for at, held in enumerate(self.wild)
        ]
        chain = Chain(fitted)
        for route in world.listener.routes:
            route.chain = chain
        self.client = world.client()
        self.got = b""
        self.bodies: list[bytes] = []
        self.answers: dict[int, bytes] = {}
        self.pending: list[bytes] = []
        self.answered: dict[int, list[bytes]] = {}

    def alive(self, exchange: Any) -> None:
        """Whether a step may be called for it."""
        if exchange.state == OVER:
            self.late.append("a step was called after the end")

    def gate(self) -> Deferred[Any]:
        """Something to wait for."""
        gate: Deferred[Any] = Deferred()
        self.gates.append(gate)
        return gate

    # Events

    def ask(self, kind: str, size: int) -> None:
        """A request, whose bytes are to be sent."""
        number = len(self.bodies)
        body = b"%d:" % number + bytes(33 + at % 90 for at in range(size))
        lines = [b"Host: a.example", b"x-n: %d" % number]
        method, version = b"GET", b"1.1"
        if kind == "head":
            method = b"HEAD"
        elif kind == "old":
            version = b"1.0"
        elif kind in ("post", "expect"):
            method = b"PUT"
            lines.append(b"Content-Length: %d" % len(body))
            if kind == "expect":
                lines.append(b"Expect: 100-continue")
        elif kind in ("chunked", "trailers"):
            method = b"PUT"
            lines.append(b"Transfer-Encoding: chunked")
        data = b"\r\n".join([b"%b / HTTP/%b" % (method, version), *lines, b"", b""])
        self.bodies.append(body if method == b"PUT" else b"")
        self.pending.append(data)
        if method == b"PUT":
            half = len(body) // 2
            if kind in ("chunked", "trailers"):
                self.pending += [
                    b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:])
                ]
                self.pending.append(b"0\r\nx-t: 1\r\n\r\n" if kind == "trailers" else b"0\r\n\r\n")
            else:
                self.pending += [body[:half], body[half:]]

    def send(self, count: int) -> None:
        """The client sends so much of it, at once."""
        data, self.pending = b"".join(self.pending[:count]), self.pending[count:]
        if data and not self.client.gone:
            self.client.receive(data)

    def answer(self, kind: str, size: int) -> None:
        """An endpoint begins, or goes on with, a response to the request it has got."""
        for upstream in self.world.upstreams:
            if upstream.gone or upstream.aborted:
                continue
            parts = self.answered.get(id(upstream))
            if parts:
                upstream.receive(parts.pop(0))
                return
            found = re.findall(rb"x-n: (\d+)\r\n", upstream.sent)
            if not found:
                continue
            upstream.take()
            number = int(found[-1])
            body = b"%d=" % number + bytes(33 + at % 90 for at in range(size))
            head = b"HTTP/1.1 %d OK\r\nx-n: %d\r\n" % (502 if kind == "bad" else 200, number)
            half = len(body) // 2
            if kind == "bare":
                parts = [b"HTTP/1.1 304 OK\r\nx-n: %d\r\n\r\n" % number]
            elif kind in ("chunked", "trailers"):
                parts = [head + b"transfer-encoding: chunked\r\n\r\n"]
                parts += [b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:half], body[half:])]
                parts.append(b"0\r\nx-t: 1\r\n\r\n" if kind == "trailers" else b"0\r\n\r\n")
            else:
                parts = [head + b"content-length: %d\r\n\r\n" % len(body)]
                parts += [body[:half], body[half:]]
            self.answers[number] = body
            first, *rest = parts
            self.answered[id(upstream)] = rest
            upstream.receive(first)
            return

    def fire(self, which: int) -> None:
        """What a filter waits for is there."""
        waiting = [gate for gate in self.gates if not gate.called]
        if waiting:
            waiting[which % len(waiting)].callback(None)

    def fail(self, which: int) -> None:
        """It never will be."""
        waiting = [gate for gate in self.gates if not gate.called]
        if waiting:
            waiting[which % len(waiting)].errback(ZeroDivisionError("a defect"))

    def happen(self, event: tuple[Any, ...]) -> None:
        """Let it."""
        what, *more = event
        if what == "break":
            for upstream in self.world.upstreams[-1:]:
                upstream.end()
        elif what == "leave":
            self.client.end()
        elif what == "stall":
            self.client.block()
        elif what == "take":
            self.client.drain()
        elif what == "stall upstream":
            for upstream in self.world.upstreams[-1:]:
                upstream.block()
        elif what == "take upstream":
            for upstream in self.world.upstreams:
                upstream.drain()
        elif what == "turn":
            self.world.turn(*more)
        else:
            getattr(self, what)(*more)
        self.world.check()

    # What must hold in the end

    def settle(self) -> None:
        """End everything."""
        self.world.turn()
        self.world.settle()
        assert not self.late, self.late[0]
        assert all(gate.called for gate in self.gates), "a wait was left behind"
        over = {id(record) for record in self.world.records}
        assert all(exchange.state == OVER for exchange in self.exchanges.values())
        for wild in self.wild:
            assert set(wild.ended.values()) <= {1}
            assert over == set(wild.ended)
            assert set(wild.heads.values()) <= {1}
            for (key, phase), seen in wild.seen.items():
                if phase == "request_data":
                    number = int(self.exchanges[key].request_headers.get(b"x-n"))
                    assert self.bodies[number].startswith(seen)
        self.read(self.client.take())

    def read(self, data: bytes) -> None:
        """What the client got: well-framed responses in order, the last one perhaps cut."""
        records = [record for record in self.world.records if record.status]
        number = -1
        count = 0
        while data:
            head, mark, rest = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 "), data[:80]
            if not mark:
                return
            if head.startswith(b"HTTP/1.1 100"):
                data = rest
                continue
            record = records[count]
            count += 1
            assert int(head[9:12]) == record.status
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            told = fields.get(b"x-n")
            if told is not None:
                assert int(told) > number
                number = int(told)
            body = b""
            if record.method == b"HEAD" or record.status in (204, 304):
                data = rest
                assert b"transfer-encoding" not in fields
                continue
            if b"content-length" in fields:
                assert b"transfer-encoding" not in fields
                length = int(fields[b"content-length"])
                body, data = rest[:length], rest[length:]
                whole = len(body) == length
            elif b"transfer-encoding" in fields:
                body, data, whole = unchunked(rest)
            else:
                assert record.protocol == b"HTTP/1.0"
                body, data, whole = rest, b"", False
            if told is not None and record.details == b"via_upstream":
                sent = self.answers[number]
                assert body == sent if whole else sent.startswith(body)
            if not whole:
                assert not data
                return
        assert count <= len(records)


def unchunked(data: bytes) -> tuple[bytes, bytes, bool]:
    """The body, what follows, and whether the body is whole."""
    body = b""
    while True:
        line, mark, rest = data.partition(b"\r\n")
        if not mark:
            return body, b"", False
        size = int(line, 16)
        if not size:
            _, mark, after = (b"\r\n" + rest).partition(b"\r\n\r\n")
            return body, after, bool(mark)
        body += rest[:size]
        if len(rest) < size + 2:
            return body, b"", False
        assert rest[size : size + 2] == b"\r\n"
        data = rest[size + 2 :]


SIZES = [0, 1, 40, 40, 3000, 70_000, 140_000]
KINDS = ["get", "head", "old", "post", "post", "post", "expect", "chunked", "trailers"]
ANSWERS = ["length", "length", "length", "chunked", "trailers", "bare", "bad"]
WHAT = [*["ask"] * 2, *["send"] * 5, *["answer"] * 7, *["fire"] * 8, *["turn"] * 3, "take"]
WHAT += ["stall", "take", "stall upstream", "take upstream", "take upstream"]


def drawn(random: Random) -> tuple[list[dict[str, str]], list[tuple[Any, ...]]]:
    """Filters, and what happens."""
    wild = random.random() < 0.5
    ways = [
        {phase: random.choice(ways if wild else CALM_WAYS[phase]) for phase, ways in PHASES.items()}
        for _ in range(random.randint(1, 3))
    ]
    events: list[tuple[Any, ...]] = []
    for _ in range(random.randint(10, 80)):
        what = random.choice(WHAT if random.random() < 0.97 else ["fail", "break", "leave"])
        more: tuple[Any, ...] = ()
        if what == "ask":
            more = random.choice(KINDS), random.choice(SIZES)
        elif what == "answer":
            more = random.choice(ANSWERS), random.choice(SIZES)
        elif what in ("send", "fire", "fail"):
            more = (random.randint(1, 4),)
        elif what == "turn":
            more = (random.choice([0.0, 0.1, 0.1, 0.1, 2.0, 6.0, 31.0]),)
        events.append((what, *more))
    return ways, events


@pytest.mark.parametrize("seed", range(20))
def test_the_laws_hold_whatever_happens(seed: int) -> None:
    """One response or none, in its frame; every observer told once; nothing left behind."""
    random = Random(seed)
    for _ in range(15):
        ways, events = drawn(random)
        with pytest.MonkeyPatch.context() as patch:
            play = Play(ways, patch)
            play.happen(("ask", "post", 40))
            for event in events:
                play.happen(event)
            play.settle()

"""
A response's way through the chain in reverse: from an endpoint, or the proxy itself, to the client.

The law it keeps: it passes the filters that the request has passed, and no others; a response that
can have no body gets none, whatever a filter sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.http import replies
from meshproxy.http.headers import Headers, make_field
from meshproxy.http.outcome import RESPONDING
from meshproxy.http.passage import Passage

if TYPE_CHECKING:
    from meshproxy.http.chain import Chain
    from meshproxy.http.exchange import Exchange


class Outflow(Passage):
    """The response's way through the chain in reverse: from an endpoint or the proxy itself."""

    __slots__ = ("_early", "_first", "_first_end", "_length")

    too_large = replies.Reply(500, b"", b"-", b"response_payload_too_large")

    def __init__(
        self, exchange: Exchange, chain: Chain, position: int, length: int, data: bytes, end: bool
    ) -> None:
        filtering = exchange.kept()
        count = len(chain.fitted)
        passed = count if filtering.passed < 0 else filtering.passed
        super().__init__(exchange, chain, position, count - passed)
        self._reach = max(count - passed, count - 1 - position)
        self._length = length
        self._first = data
        self._first_end = end
        # What an upgraded upstream sends before the client knows that it may speak.
        self._early: list[bytes] = []
        if filtering.outflow is not None:
            filtering.outflow.stop()
        filtering.outflow = self
        self.choose_steps()

    def enter(self) -> None:
        exchange = self.subject
        data, end = self._first, self._first_end
        self._first = b""
        if end:
            exchange.upstream_done()
        status = exchange.status
        if (
            exchange.method == b"HEAD"
            or status in (101, 204, 304)
            or (end and not data and self._length >= 0)
        ):
            self.bodiless = True
            self.choose_steps()
            self.hold(data, end)
        elif data or end:
            self.push(data, end)

    def pass_body(self) -> None:
        self.position = -1
        super().pass_body()

    def choose_steps(self) -> None:
        skipped = -1 if self.bodiless else self.subject.kept().skipped_responses
        bodies = enumerate(self.chain.response_bodies)
        steps = [None if skipped >> at & 1 else step for at, step in bodies]
        steps.reverse()
        self.steps = steps

    def step_at(self, position: int) -> Any:
        return self.chain.response_steps[position]

    def trailer_steps(self) -> list[tuple[int, Any]]:
        # Only an endpoint's response has trailers, and all filters see that.
        steps = list(enumerate(self.chain.response_trailers))
        return [(at, step) for at, step in reversed(steps) if step is not None]

    def after(self, position: int) -> int:
        return position - 1

    def index(self, position: int) -> int:
        return len(self.chain.fitted) - 1 - position

    def changing(self) -> bool:
        changing = self.chain.changing_responses & ~self.subject.kept().skipped_responses
        return bool(changing & ((1 << self._seeing) - 1))

    @property
    def _seeing(self) -> int:
        """How many filters see the response: those before this position."""
        return len(self.chain.fitted) - self._start

    def all_here(self) -> bool:
        return self.subject.upstream_stream is None

    def announced(self) -> int:
        return self._length

    def hand_on(self) -> None:
        exchange = self.subject
        self.position = -1
        if exchange.status == 101:
            self.sent = True
            self.over = True
            exchange.enter_tunnel()
            for data in self._early:
                exchange.upstream_tunnel_data(data)
            self.resume()
            return
        headers = exchange.response_headers
        assert headers is not None
        data, end = self.collected()
        head = exchange.method == b"HEAD"
        empty = exchange.status in (204, 304)
        if self.rewritten or (self.changing() and (head or not self.bodiless)):
            headers.drop(b"content-length")
            self._length = -1
            if end and not empty and (self.rewritten or not head):
                self._length = len(data)
                headers.fields.append(make_field(b"content-length", b"%d" % len(data)))
        if head or empty:
            self.bodiless = True
            data = b""
        if self.wrong_length(end):
            return
        trailers = self.trailers if end else None
        if end and trailers is None:
            self.over = True
        exchange.deliver(self._length, data, end and trailers is None, exchange.listener.now())
        if trailers is not None and not self.over and exchange.state == RESPONDING:
            self._pass_trailers(self.trailer_steps())

    def unanswered(self, position: int) -> int:
        # A filter that waits with the head has seen the response that is given up.
        return max(0, min(position, self.position))

    def taken(self) -> bool:
        return not self.subject.stream.stalled

    def emit(self, data: bytes, end: bool, trailers: Headers | None) -> None:
        self.subject.emit(data, end, trailers)

    def early(self, data: bytes) -> None:
        """The upstream of an upgraded connection speaks before its head has passed."""
        self._early.append(data)
        self.pause()

    def pause(self) -> None:
        upstream = self.subject.upstream_stream
        if upstream is not None:
            upstream.pause()

    def resume(self) -> None:
        exchange = self.subject
        upstream = exchange.upstream_stream
        if upstream is not None and not exchange.stream.stalled:
            upstream.resume()

"""
A request's way through the chain: from the client to where it is routed.

The law it keeps: the client is read no faster than filters and upstream take what it sends; one
that waits for leave to send its body (``expect: 100-continue``) gets it when somebody wants it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from meshproxy.http.headers import Headers
from meshproxy.http.outcome import OVER
from meshproxy.http.passage import Passage

if TYPE_CHECKING:
    from meshproxy.http.chain import Chain
    from meshproxy.http.exchange import Exchange


class Inflow(Passage):
    """The request's way through the chain: from the client, to where it is routed."""

    __slots__ = ("_first", "_first_end", "blocked")

    def __init__(
        self, exchange: Exchange, chain: Chain, position: int, data: bytes, end: bool
    ) -> None:
        super().__init__(exchange, chain, position, 0)
        #: The upstream is not there yet, or takes no more.
        self.blocked = False
        self._reach = position
        self._first = data
        self._first_end = end
        exchange.kept().inflow = self
        self.choose_steps()

    def enter(self) -> None:
        data, end = self._first, self._first_end
        self._first = b""
        if end and not data:
            self.bodiless = True
            self.choose_steps()
            self.hold(b"", True)
        elif data:
            self.push(data, end)

    def choose_steps(self) -> None:
        skipped = -1 if self.bodiless else self.subject.kept().skipped_requests
        bodies = self.chain.request_bodies
        self.steps = [None if skipped >> at & 1 else step for at, step in enumerate(bodies)]

    def step_at(self, position: int) -> Any:
        return self.chain.request_steps[position]

    def trailer_steps(self) -> list[tuple[int, Any]]:
        steps = enumerate(self.chain.request_trailers)
        return [(at, step) for at, step in steps if step is not None]

    def after(self, position: int) -> int:
        return position + 1

    def index(self, position: int) -> int:
        return position

    def changing(self) -> bool:
        skipped = self.subject.kept().skipped_requests
        return bool(self.chain.changing_requests & ~skipped)

    def all_here(self) -> bool:
        return self.subject.request_complete

    def announced(self) -> int:
        return self.subject.request_length

    def hand_on(self) -> None:
        exchange = self.subject
        self.position = len(self.chain.fitted)
        if self.rewritten or (self.changing() and not self.bodiless):
            # The codec says how long it is, if it is all here, or sends it in chunks.
            exchange.request_headers.drop(b"content-length")
            exchange.request_length = -1
            self.bodiless = False
        data, end = self.collected()
        if self.wrong_length(end):
            return
        trailers = self.trailers if end else None
        if end and trailers is None:
            self.over = True
            self._let_go()
        exchange.proceed(data, end and trailers is None)
        if trailers is not None and not self.over:
            self._pass_trailers(self.trailer_steps())
        elif exchange.deadline and exchange.state != OVER:
            exchange.stream.wake(exchange.deadline)

    def emit(self, data: bytes, end: bool, trailers: Headers | None) -> None:
        exchange = self.subject
        if data:
            exchange.take_data(data)
        if end and exchange.state != OVER:
            self._let_go()
            exchange.take_end(trailers)
            if exchange.deadline and exchange.state != OVER:
                exchange.stream.wake(exchange.deadline)

    def pause(self) -> None:
        self.subject.stream.pause()

    def resume(self) -> None:
        if not self.blocked:
            self.subject.stream.resume()

    def _let_go(self) -> None:
        """Nothing is held here any more: the client is listened to again, if only to its end."""
        if self.full:
            self.full = False
            self.resume()

    def taken(self) -> bool:
        return not self.blocked

    def read(self, limit: int) -> Deferred[bytes]:
        exchange = self.subject
        reader = super().read(limit)
        if not reader.called and exchange.expect_continue:
            exchange.expect_continue = False
            exchange.stream.inform(100, Headers())
        return reader

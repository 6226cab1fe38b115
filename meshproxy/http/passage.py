"""
One direction of an exchange through its chain: head, body and trailers.

The law it keeps:

- A filter that waits holds up its exchange and nothing else; what it says after the exchange has
  ended changes nothing.
- A head goes on when the filter in front of it does; a body follows its head, through the filters
  that the head has passed. What waits in between is bounded (:mod:`meshproxy.net.flow`).
- An exchange is answered once. The second answer, an exception, a result of the wrong kind and a
  body that is not as long as was said are the filter's fault, counted and logged as such.
- A body leaves with the length that its head told.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from meshproxy.errors import AlreadyAnswered, BodyTooLarge
from meshproxy.http import replies
from meshproxy.http.message import Response
from meshproxy.http.outcome import OVER, RESPONDING, TUNNEL
from meshproxy.net.flow import Flow, deferred_of, drop, give_up, has_fired

if TYPE_CHECKING:
    from meshproxy.http.chain import Chain
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.headers import Headers


class Passage(Flow):
    """
    What both directions have in common. ``position`` is the filter at which the head is,
    ``waited_for`` the one that is being waited for, or -1. ``trailers`` come behind the body.
    """

    __slots__ = (
        "_again",
        "_body_waits",
        "_collected",
        "_delivered",
        "_end",
        "_head_waits",
        "_passed",
        "_waiting",
        "bodiless",
        "chain",
        "position",
        "rewritten",
        "sent",
        "trailers",
    )

    subject: Exchange

    def __init__(self, exchange: Exchange, chain: Chain, position: int, start: int) -> None:
        super().__init__(exchange, (), start)
        self.chain = chain
        self.position = position
        self._head_waits = -1
        self._body_waits = -1
        self.trailers: Headers | None = None
        self.bodiless = False
        #: The head was handed on.
        self.sent = False
        #: A filter put another body in the place of what came.
        self.rewritten = False
        self._waiting: Deferred[Any] | None = None
        # Where the head goes on when nothing waits for a body any more.
        self._again: int | None = None
        # The filter that the head has passed when nothing waits for a body any more.
        self._passed: int | None = None
        self._collected: list[bytes] | None = None
        self._end = False
        self._delivered = 0

    # What differs between the directions.

    def enter(self) -> None:
        """Take in what has come with the head."""
        raise NotImplementedError

    def step_at(self, position: int) -> Any:
        """The head's step of a filter, or None."""
        raise NotImplementedError

    def trailer_steps(self) -> list[tuple[int, Any]]:
        """The trailers' steps, in order, with their positions."""
        raise NotImplementedError

    def after(self, position: int) -> int:
        """The position that comes next."""
        raise NotImplementedError

    def index(self, position: int) -> int:
        """Where a filter stands in the order of this direction, and the other way round."""
        raise NotImplementedError

    def hand_on(self) -> None:
        """The head has passed all filters."""
        raise NotImplementedError

    def emit(self, data: bytes, end: bool, trailers: Headers | None) -> None:
        """Bytes that have passed all filters, after the head."""
        raise NotImplementedError

    def announced(self) -> int:
        """The length that was told, or -1."""
        raise NotImplementedError

    @property
    def waited_for(self) -> int:
        """The filter that is being waited for, or -1."""
        return self._head_waits if self._head_waits >= 0 else self._body_waits

    @property
    def through(self) -> bool:
        """Whether the head has passed all filters, and none is waited for."""
        return self.waited_for < 0 and not 0 <= self.position < len(self.chain.fitted)

    # The head.

    def head_done(self, position: int, outcome: Any) -> None:
        """The head's step at ``position`` returned ``outcome``."""
        filtering = self.subject.filtering
        assert filtering is not None
        self.position = position
        self.enter()
        if self.over:
            drop(outcome)
            return
        if filtering.body is not None:
            self.replace(filtering.body)
            filtering.body = None
        if filtering.reading is not None:
            reader, limit = filtering.reading
            filtering.reading = None
            if not reader.called:  # cancelled
                held = filtering.read = self.read(limit)
                held.chainDeferred(reader)
        if self.over:
            drop(outcome)
        else:
            self._judge(outcome)

    def pass_body(self) -> None:
        """All heads' steps went on; the body has to pass still."""
        self.enter()
        if not self.over:
            self._finish()

    def replace(self, data: bytes) -> None:
        super().replace(data)
        self.rewritten = True
        if self.bodiless:
            self.bodiless = False
            self.choose_steps()

    def _judge(self, outcome: Any) -> None:
        exchange = self.subject
        filtering = exchange.filtering
        assert filtering is not None
        given, filtering.given = filtering.given, None
        if given is not None:
            if isinstance(outcome, Response):
                self._fitted(self.position).failed(Failure(AlreadyAnswered("answered twice")))
            else:
                drop(outcome)
            outcome = given
        if outcome is None:
            self._advance(self.position)
        elif isinstance(outcome, Response):
            self.answer(self.position, outcome)
        else:
            self._wait(outcome)

    def _wait(self, outcome: Any) -> None:
        # A coroutine runs as far as it can here, and may end everything.
        self.running = True
        deferred = deferred_of(outcome)
        self.running = False
        if self.over:
            drop(outcome if deferred is None else deferred)
            return
        if deferred is None:
            drop(outcome)
            self._wrong(self.position, "a filter returns None, a Response or an awaitable", outcome)
            return
        given = self.subject.filtering.given  # type: ignore[union-attr]
        if given is not None and not has_fired(deferred):
            self._judge(deferred)
            return
        self._head_waits = self.position
        self._waiting = deferred
        deferred.addCallbacks(self._head_fired, self._wait_broke)
        if self._waiting is deferred:
            self._fitted(self.position).waited()
            self.subject.held_up()

    def _head_fired(self, outcome: Any) -> None:
        self._waiting = None
        self._head_waits = -1
        if self.over:
            return
        if outcome is None or isinstance(outcome, Response):
            self._judge(outcome)
        else:
            self._wrong(self.position, "what a filter waits for is None or a Response", outcome)

    def _wait_broke(self, failure: Failure) -> None:
        """What was waited for, with the head or the trailers, has failed."""
        self._waiting = None
        position, self._head_waits = self._head_waits, -1
        if not self.over:
            self.failed(self.index(position), failure)

    def _wrong(self, position: int, right: str, outcome: Any) -> None:
        """A filter's result is of another kind than it may be; ``right`` says what it may be."""
        wrong = TypeError(f"{right}, not {type(outcome).__name__}")
        self.failed(self.index(position), Failure(wrong))

    def _advance(self, position: int) -> None:
        """The filter at ``position`` went on: the next."""
        exchange = self.subject
        filtering = exchange.filtering
        assert filtering is not None
        while True:
            if self.busy:
                # What waits at the gate must not overtake what is in front of it, or meet it in
                # one step: the head waits until all of it is here.
                self._passed = position
                return
            other, filtering.next_chain = filtering.next_chain, None
            if other is not None:
                self.chain = exchange.chain = self.chain.merged(position, other)
                self.choose_steps()
            position = self.after(position)
            if not 0 <= position < len(self.chain.fitted):
                self.position = position
                self._finish()
                return
            self.position = position
            self.open(self.index(position))
            if self.over:
                return
            if self.busy:
                self._again = position
                return
            if not self._call(position):
                return

    def _call(self, position: int) -> bool:
        """Call the head's step; whether it went on at once."""
        exchange = self.subject
        step = self.step_at(position)
        if step is None:
            return True
        self.running = True
        try:
            outcome = step(exchange)
        except Exception:
            self.running = False
            if not self.over:
                self.failed(self.index(position), None)
            return False
        self.running = False
        if self.over:
            return False
        if outcome is not None or exchange.filtering.given is not None:  # type: ignore[union-attr]
            self._judge(outcome)
            return False
        return True

    def idle(self) -> None:
        passed, self._passed = self._passed, None
        if passed is not None:
            self._advance(passed)
            return
        again, self._again = self._again, None
        if again is None:
            return
        if again < 0:
            self._finish()
        elif self._call(again):
            self._advance(again)

    def choose_steps(self) -> None:
        """The bodies' steps of this chain, without those that are skipped."""
        raise NotImplementedError

    def _finish(self) -> None:
        """The head has passed all filters: it leaves with what there is of the body."""
        if self._collected is None:
            self._collected = []
            self.open(-1)
        if self.over:
            return
        if self._busy is not None and not self._pumps and self.all_here() and self.changing():
            self._again = -1  # it is all here: its length will be known
            return
        self.hand_on()

    def changing(self) -> bool:
        """Whether the body may come out with another length than it came with."""
        raise NotImplementedError

    def all_here(self) -> bool:
        """Whether nothing more has to come for the body to be complete."""
        raise NotImplementedError

    def collected(self) -> tuple[bytes, bool]:
        """What has passed all steps so far, and whether it is all."""
        held, self._collected = self._collected or [], None
        self.sent = True
        return b"".join(held), self._end

    # The body.

    def read(self, limit: int) -> Deferred[bytes]:
        if self.announced() > limit and not self.bodiless:
            return fail(BodyTooLarge(f"more than {limit} bytes"))
        return super().read(limit)

    def deliver(self, data: bytes, end: bool) -> None:
        self._delivered += len(data)
        if self._collected is not None:
            self._collected.append(data)
            self._end = self._end or end
            return
        if self.wrong_length(end):
            return
        if end and self.trailers is not None:
            if data:
                self.emit(data, False, None)
            if not self.over:
                self._pass_trailers(self.trailer_steps())
            return
        if end:
            # Nothing is called any more.
            self.over = True
        self.emit(data, end, None)

    def wrong_length(self, end: bool) -> bool:
        """Whether more or less has come out than was announced; the exchange ends then."""
        length = self.announced()
        if length < 0 or self.bodiless:
            return False
        if self._delivered > length or (end and self._delivered != length):
            wrong = ValueError(
                f"a filter with keeps_length changed a body's length: {self._delivered} bytes "
                f"in place of {length}"
            )
            changed = next((at for at, step in enumerate(self.steps) if step is not None), 0)
            self.failed(changed, Failure(wrong))
            return True
        return False

    def _pass_trailers(self, steps: list[tuple[int, Any]]) -> None:
        while steps:
            position, step = steps.pop(0)
            self.running = True
            try:
                outcome = step(self.subject, self.trailers)
            except Exception:
                self.running = False
                if not self.over:
                    self.failed(self.index(position), None)
                return
            deferred = deferred_of(outcome)
            self.running = False
            if self.over or not self.stepped(self.index(position)):
                drop(outcome if deferred is None else deferred)
                return
            if outcome is not None:
                if deferred is None:
                    wrong = TypeError("a filter returns None for trailers, or an awaitable")
                    self.failed(self.index(position), Failure(wrong))
                    return
                self._waiting = deferred
                self._head_waits = position
                deferred.addCallbacks(
                    self._trailers_passed, self._wait_broke, callbackArgs=(steps,)
                )
                if self._waiting is deferred:
                    self._fitted(position).waited()
                    self.subject.held_up()
                return
        self.over = True
        self.emit(b"", True, self.trailers)

    def _trailers_passed(self, _: Any, steps: list[tuple[int, Any]]) -> None:
        self._waiting = None
        position, self._head_waits = self._head_waits, -1
        if not self.over and self.stepped(self.index(position)):
            self._pass_trailers(steps)

    def stepped(self, position: int) -> bool:
        filtering = self.subject.filtering
        if filtering is None or filtering.given is None:
            return True
        given, filtering.given = filtering.given, None
        self.answer(self.index(position), given)
        return False

    def waits(self, position: int) -> None:
        self._body_waits = at = self.index(position)
        self._fitted(at).waited()
        self.subject.held_up()

    def _fired(self, outcome: Any, position: int, data: bytes, end: bool) -> None:
        self._body_waits = -1
        super()._fired(outcome, position, data, end)

    def _pumped(self, piece: Any) -> None:
        self._body_waits = -1
        super()._pumped(piece)

    # Endings.

    def answered(self, position: int, outcome: Any) -> None:
        at = self.index(position)
        if isinstance(outcome, Response):
            self.answer(at, outcome)
            return
        self._wrong(at, "a filter returns bytes, None or a Response for a body", outcome)

    def answer(self, position: int, response: Response) -> None:
        """The filter at ``position`` answers."""
        exchange = self.subject
        fitted = self._fitted(position)
        if exchange.state in (RESPONDING, TUNNEL, OVER):
            wrong = AlreadyAnswered("a response is on its way to the client already")
            self.failed(self.index(position), Failure(wrong))
            return
        fitted.answered()
        self._give_up(position)
        exchange.give(response, fitted)

    def _give_up(self, passed: int) -> None:
        """Another response follows: for those before ``passed``, none of whom has seen one."""
        filtering = self.subject.filtering
        assert filtering is not None
        filtering.passed = self.unanswered(passed)
        filtering.closing = True
        filtering.forget()
        self.stop()
        filtering.closing = False

    def unanswered(self, position: int) -> int:
        """The filter behind the last one that another response is for."""
        return position

    def failed(self, position: int, failure: Failure | None) -> None:
        exchange = self.subject
        at = self.index(position)
        fitted = self._fitted(at)
        error = failure.value if failure is not None else sys.exc_info()[1]
        too_large = isinstance(error, BodyTooLarge)
        if not too_large:
            fitted.failed(failure)
        begun = exchange.state in (RESPONDING, TUNNEL)
        if not begun:
            self._give_up(at)
        if begun:
            exchange.cut(b"filter_error[%b]" % fitted.label_bytes)
        elif exchange.state != OVER:
            reply = self.too_large if too_large else replies.FILTER_ERROR
            if not too_large:
                reply = reply._replace(details=b"filter_error[%b]" % fitted.label_bytes)
            exchange.reply(reply)

    too_large = replies.TOO_LARGE

    def stop(self) -> None:
        if self.over and self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        super().stop()
        if waiting is not None:
            give_up(waiting)

    def _fitted(self, position: int) -> Any:
        return self.chain.fitted[position]

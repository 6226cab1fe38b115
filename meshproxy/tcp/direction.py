"""
One direction of a connection whose bytes go through filters.

The laws kept here:

* Bytes pass the steps one read at a time, in order; a step that waits stops its direction, and
  nobody else.  What is read meanwhile is bounded: :data:`HELD` bytes and one read more, and a
  client that leaves is noticed.
* The end of the stream passes the steps once, after the last byte.
* What the far side cannot take stops the near side (a direction is the far transport's producer).
* A filter that raises, or answers with what is no answer, costs its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet import defer
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.net.flow import deferred_of, give_up
from meshproxy.net.refuse import Refuse
from meshproxy.tcp.chain import unknown
from meshproxy.tcp.judged import CANCELLED

if TYPE_CHECKING:
    from meshproxy.net.relay_stock import Side
    from meshproxy.observe.fitted import Fitted
    from meshproxy.tcp.chain import Step
    from meshproxy.tcp.filtered import FilteredRelay

HELD: Final = 65536
"""Bytes: what is read on while a step waits, before the sender is stopped."""

FAR: Final = 1
"""The far side cannot take more."""

ANSWERS: Final = 2
"""The near side does not take what filters write to it."""

_NOT_YET: Final = object()


@implementer(IPushProducer)
class Direction:
    """
    From ``side`` through ``steps`` to ``relay.put``.

    ``asked`` is the filter that is waited for, None when none is; ``passed``: the end went through.
    """

    __slots__ = (
        "_at",
        "_blocked",
        "_busy",
        "_data",
        "_end",
        "_ending",
        "_held",
        "_relay",
        "_size",
        "_steps",
        "_waiting",
        "asked",
        "passed",
        "side",
    )

    def __init__(self, relay: FilteredRelay, side: Side, steps: tuple[Step, ...]) -> None:
        self._relay = relay
        self._steps = steps
        self.side = side
        self.passed = False
        self.asked: Fitted | None = None
        self._waiting: defer.Deferred[Any] | None = None
        self._at = self._blocked = self._size = 0
        self._busy = self._end = self._ending = False
        self._data = b""
        self._held: list[bytes] = []

    @property
    def held(self) -> int:
        """Bytes that wait for a filter."""
        return self._size + len(self._data)

    @property
    def full(self) -> bool:
        """Whether the side is not to be read."""
        return bool(self._blocked) or self._size >= HELD

    def feed(self, data: bytes, end: bool) -> None:
        """Bytes came from the side, or its ``end``."""
        if self._busy or self._waiting is not None:
            if data:
                self._held.append(data)
                self._size += len(data)
            self._ending = self._ending or end
            if self._size >= HELD:
                self._pause()
            return
        self._busy = True
        self._run(0, data, end, _NOT_YET)
        self._go_on()

    def stop(self) -> None:
        """The connection is over: forget what is held, cancel what is waited for."""
        self._held.clear()
        self._size = 0
        self._data = b""
        self._ending = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            give_up(waiting)

    def flow(self) -> None:
        """Read on, if nothing speaks against it."""
        side = self.side
        if not self._blocked and self._size < HELD and side.connected and not side.ended:
            side.transport.resumeProducing()

    def block(self, why: int) -> None:
        """Read no more, for the reason ``why``."""
        self._blocked |= why
        self._pause()

    def unblock(self, why: int) -> None:
        """The reason ``why`` is gone."""
        self._blocked &= ~why
        self.flow()

    def pauseProducing(self) -> None:
        """The far transport has enough."""
        self.block(FAR)
        if self is self._relay.sent and self._relay.answers:
            self._relay.received.block(ANSWERS)

    def resumeProducing(self) -> None:
        """The far transport can take more."""
        self.unblock(FAR)
        if self is self._relay.sent and self._relay.answers:
            self._relay.received.unblock(ANSWERS)

    def stopProducing(self) -> None:
        """The far transport is gone; the relay hears of it too."""

    def _pause(self) -> None:
        if self.side.connected:
            self.side.transport.pauseProducing()

    def _run(self, at: int, data: bytes, end: bool, answer: Any) -> None:
        """Pass the steps from ``at`` on; ``answer``: that of the step before, if it is here."""
        relay, steps = self._relay, self._steps
        connection = relay.connection
        while True:
            if answer is _NOT_YET:
                if at == len(steps):
                    break
                try:
                    answer = steps[at][1](connection, data, end)
                except Exception:
                    relay.broke(steps[at][0])
                    return
                at += 1
            if answer is None:
                pass
            elif isinstance(answer, (bytes, bytearray, memoryview)):
                data = bytes(answer)
                if not data and not end:
                    return
            else:
                self._other(steps[at - 1][0], answer, at, data, end)
                return
            if relay.over:
                return
            answer = _NOT_YET
        relay.put(self, data, end)

    def _other(self, fitted: Fitted, answer: Any, at: int, data: bytes, end: bool) -> None:
        """The filter answered with neither None nor bytes."""
        relay = self._relay
        if isinstance(answer, Refuse):
            fitted.answered()
            relay.connection.refuse(answer)
            return
        waiting = deferred_of(answer)
        if waiting is None:
            relay.broke(fitted, Failure(unknown(answer)))
            return
        self.asked = fitted
        self._at, self._data, self._end = at, data, end
        self._waiting = waiting
        waiting.addCallbacks(self._answered, self._failed)
        if relay.over:
            self.stop()
        elif self._waiting is waiting:
            fitted.waited()

    def _answered(self, answer: Any) -> None:
        if self._waiting is None:
            return
        self._waiting = None
        data, self._data = self._data, b""
        busy, self._busy = self._busy, True
        self._run(self._at, data, self._end, answer)
        if not busy:
            self._go_on()

    def _failed(self, failure: Failure) -> None:
        fitted = self.asked
        if fitted is None:
            return
        if self._waiting is not None:
            self._waiting = None
            self._relay.broke(fitted, failure)
        elif not failure.check(*CANCELLED):
            fitted.failed(failure)

    def _go_on(self) -> None:
        """A read is dealt with, or waits: take what came meanwhile."""
        while self._waiting is None and not self._relay.over and (self._held or self._ending):
            data = b"".join(self._held)
            end, self._ending = self._ending, False
            self._held.clear()
            full, self._size = self._size >= HELD, 0
            self._run(0, data, end, _NOT_YET)
            if full and not self._relay.over:
                self.flow()
        self._busy = False
        if self._waiting is None:
            self.asked = None

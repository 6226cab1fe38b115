"""
Bytes on their way through the steps of a chain, one direction of one body or connection.

The law it keeps:

- Pieces pass every step in order, and leave in the order in which they came. A step that waits
  (a Deferred, a coroutine) holds up what comes behind it, and the source is paused meanwhile. A
  step may make several pieces of one, each in its time (an asynchronous generator).
- What waits is bounded: a source is paused when more than :data:`HIGH` bytes are here, and what
  a reader wants whole has the reader's bound.
- A gate stands where the head of the message is: pieces wait there until the head has passed the
  next step, so that no step gets bytes of a message whose head it has not seen.
- After :meth:`stop` no step is called, nothing leaves, and what was waited for is cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python import log
from twisted.python.failure import Failure

from meshproxy.errors import BodyTooLarge

#: Bytes that wait before the source is paused.
HIGH = 65536

#: step(subject, data, end): bytes, None, an awaitable of these, an asynchronous iterator of bytes,
#: or something else that :meth:`Flow.answered` judges.
Step = Callable[[Any, bytes, bool], Any]


def deferred_of(outcome: Any) -> Deferred[Any] | None:
    """The Deferred of an outcome that is to be waited for; None for any other."""
    if isinstance(outcome, Deferred):
        return outcome
    if isawaitable(outcome):
        return Deferred.fromCoroutine(_awaited(outcome))
    return None


def has_fired(deferred: Deferred[Any]) -> bool:
    """Whether what is added to a Deferred is called at once: it waits for no other."""
    return deferred.called and not deferred.paused


def drop(outcome: Any) -> None:
    """Nobody wants what this outcome would bring: what it waits for is given up."""
    if isinstance(outcome, AsyncGenerator):
        # What it holds is let go of; that it does not want to end is its own affair.
        Deferred.fromCoroutine(_awaited(outcome.aclose())).addErrback(_nothing)
    elif isinstance(outcome, Coroutine):
        outcome.close()
    elif isinstance(outcome, Deferred):
        outcome.addErrback(_nothing)
        give_up(outcome)


def give_up(waiting: Deferred[Any]) -> None:
    """Cancel what a filter waits for; a canceller that raises is logged, and harms nobody else."""
    try:
        waiting.cancel()
    except Exception:
        log.err(None, "giving up what a filter waits for")


def _nothing(_: Failure) -> None:
    """Nobody is there to be told."""


async def _awaited(outcome: Any) -> Any:
    return await outcome


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    """The next piece; None when there is none."""
    async for piece in pieces:
        return piece
    return None


class Flow:
    """
    ``steps`` in the order in which bytes pass them, None where one takes no bytes; they are
    called with ``subject`` first. Bytes enter at step ``start``.

    Subclasses say where bytes come from and go to.
    """

    __slots__ = (
        "_busy",
        "_gate",
        "_gate_end",
        "_gate_size",
        "_limit",
        "_pumps",
        "_queue",
        "_queued",
        "_reach",
        "_reader",
        "_start",
        "full",
        "over",
        "passing",
        "running",
        "steps",
        "subject",
    )

    def __init__(self, subject: Any, steps: Sequence[Step | None], start: int = 0) -> None:
        self.subject = subject
        self.steps = steps
        self._start = start
        #: Steps before this one are open; -1 when all are, and what passed them leaves.
        self._reach = start
        self._busy: Deferred[Any] | None = None
        # Generators that have pieces to come, with their steps; the last is the farthest along.
        self._pumps: list[tuple[int, AsyncIterator[bytes], bool]] = []
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._queued = 0
        self._gate: list[bytes] = []
        self._gate_size = 0
        self._gate_end = False
        self._reader: Deferred[bytes] | None = None
        self._limit = 0
        #: The source is paused.
        self.full = False
        #: A step is being called.
        self.running = False
        #: Bytes are between two steps, or leaving: what comes now waits.
        self.passing = False
        # Any: a type checker takes what was asked once to be so for ever.
        self.over: Any = False

    # What a subclass does.

    def deliver(self, data: bytes, end: bool) -> None:
        """Bytes that passed all steps."""
        raise NotImplementedError

    def pause(self) -> None:
        """The source is to stop."""
        raise NotImplementedError

    def resume(self) -> None:
        """The source may go on."""
        raise NotImplementedError

    def answered(self, position: int, outcome: Any) -> None:
        """A step returned neither bytes nor None: the flow is to be stopped."""
        raise NotImplementedError

    def failed(self, position: int, failure: Failure | None) -> None:
        """A step raised (None: while an exception is handled): the flow is to be stopped."""
        raise NotImplementedError

    def waits(self, position: int) -> None:
        """A step waits."""

    def idle(self) -> None:
        """Nothing waits for a step any more."""

    def taken(self) -> bool:
        """Whether what leaves is taken: no piece is asked for that would only wait."""
        return True

    def go_on(self) -> None:
        """What leaves is taken again."""
        if self._pumps and self._busy is None and not self.passing and not self.over:
            self.passing = True
            self._go_on()

    # Bytes.

    @property
    def busy(self) -> Any:  # as for `over`
        """Whether a step has bytes and did not give them back yet."""
        return self._busy is not None or self.passing or bool(self._pumps)

    def push(self, data: bytes, end: bool) -> None:
        """Bytes from the source."""
        if self.over:
            return
        if self._busy is not None or self.passing or self._pumps:
            self._queue.append((data, end))
            self._queued += len(data)
            if self._queued > HIGH and not self.full:
                self.full = True
                self.pause()
            return
        self.passing = True
        self._run(self._start, data, end)
        self._go_on()

    def hold(self, data: bytes, end: bool) -> None:
        """Bytes that no step looks at: they wait at the gate with the others."""
        self._arrive(data, end)

    def _run(self, position: int, data: bytes, end: bool) -> None:
        """On from the step at ``position``."""
        steps = self.steps
        while True:
            reach = self._reach
            if position == (reach if reach >= 0 else len(steps)):
                if reach >= 0:
                    self._arrive(data, end)
                else:
                    self.deliver(data, end)
                return
            step = steps[position]
            if step is not None:
                self.running = True
                try:
                    outcome = step(self.subject, data, end)
                except Exception:
                    self.running = False
                    if not self.over:
                        self.failed(position, None)
                    return
                self.running = False
                if self.over:
                    return
                if outcome is not None:
                    if type(outcome) is not bytes:
                        self._await(position, data, end, outcome)
                        return
                    data = outcome
                if not self.stepped(position):
                    return
                if not data and not end:
                    return
            position += 1

    def stepped(self, position: int) -> bool:
        """Whether to go on after a step that gave bytes; a subclass may know otherwise."""
        return True

    def _await(self, position: int, data: bytes, end: bool, outcome: Any) -> None:
        if isinstance(outcome, AsyncIterator):
            # Its first piece is asked for when this call has come back.
            self._pumps.append((position, outcome, end))
            return
        # A coroutine runs as far as it can here, and may end everything.
        self.running = True
        deferred = deferred_of(outcome)
        self.running = False
        if self.over:
            drop(outcome if deferred is None else deferred)
            return
        if deferred is None:
            self.answered(position, outcome)
            return
        if not has_fired(deferred) and not self.stepped(position):
            drop(deferred)
            return
        self._busy = deferred
        deferred.addCallbacks(
            self._fired, self._broke, callbackArgs=(position, data, end), errbackArgs=(position,)
        )
        if self._busy is deferred:
            self._wait_for(position)

    def _fired(self, outcome: Any, position: int, data: bytes, end: bool) -> None:
        self._busy = None
        if self.over:
            return
        if outcome is not None:
            if not isinstance(outcome, bytes):
                self.answered(position, outcome)
                return
            data = outcome
        # A step that answers at once is still inside the call that brought the bytes.
        inside = self.passing
        self.passing = True
        if self.stepped(position) and (data or end):
            self._run(position + 1, data, end)
        if not inside:
            self._go_on()

    def _pump(self) -> None:
        """Ask the generator that is farthest along for its next piece."""
        position, pieces, _ = self._pumps[-1]
        self.running = True
        deferred = Deferred.fromCoroutine(_next(pieces))
        self.running = False
        if self.over or (not has_fired(deferred) and not self.stepped(position)):
            drop(deferred)
            return
        self._busy = deferred
        deferred.addCallbacks(self._pumped, self._pump_broke, errbackArgs=(position,))
        if self._busy is deferred:
            self._wait_for(position)

    def _wait_for(self, position: int) -> None:
        self.waits(position)
        if not self.full:
            self.full = True
            self.pause()

    def _pumped(self, piece: Any) -> None:
        self._busy = None
        if self.over:
            return
        position, _, end = self._pumps[-1]
        inside = self.passing
        self.passing = True
        if piece is None:
            self._pumps.pop()
            if end and self.stepped(position):
                self._run(position + 1, b"", True)
        elif not isinstance(piece, bytes):
            self._pumps.pop()
            self.answered(position, piece)
        elif self.stepped(position) and piece:
            self._run(position + 1, piece, False)
        if not inside:
            self._go_on()

    def _pump_broke(self, failure: Failure, position: int) -> None:
        self._busy = None
        if not self.over:
            self._pumps.pop()
            self.failed(position, failure)

    def _broke(self, failure: Failure, position: int) -> None:
        self._busy = None
        if not self.over:
            self.failed(position, failure)

    def _go_on(self) -> None:
        """What was brought is where it can be: the next, until one has to wait."""
        queue = self._queue
        while self._busy is None and not self.over:
            if self._pumps:
                if not self.taken():
                    break
                self._pump()
                continue
            if not queue:
                break
            data, end = queue.popleft()
            self._queued -= len(data)
            self._run(self._start, data, end)
        self.passing = False
        if self.over or self._busy is not None:
            return
        if self._pumps:
            if not self.full:
                self.full = True
                self.pause()
            return
        self.idle()
        self._relieve()

    def _relieve(self) -> None:
        if self.full and self._busy is None and not self.over and not self._gate_full():
            self.full = False
            self.resume()

    # The gate.

    def _gate_full(self) -> bool:
        return self._gate_size > HIGH and self._reader is None

    def _arrive(self, data: bytes, end: bool) -> None:
        if data:
            self._gate.append(data)
            self._gate_size += len(data)
        if end:
            self._gate_end = True
        reader = self._reader
        if reader is not None:
            if self._gate_size > self._limit:
                self._reader = None
                reader.errback(BodyTooLarge(f"more than {self._limit} bytes"))
            elif self._gate_end:
                self._reader = None
                reader.callback(self.gathered())
        if self._gate_full() and not self.full and not self.over:
            self.full = True
            self.pause()

    def gathered(self) -> bytes:
        """What waits at the gate."""
        data = b"".join(self._gate)
        self._gate = [data] if data else []
        return data

    def replace(self, data: bytes) -> None:
        """Let this wait at the gate instead, and nothing after it."""
        self._gate = [data] if data else []
        self._gate_size = len(data)
        self._gate_end = True

    @property
    def wanting(self) -> bool:
        """Whether a reader waits, and no step: for what has not come."""
        return self._reader is not None and self._busy is None

    @property
    def whole(self) -> bool:
        """Whether everything is at the gate."""
        return self._gate_end

    def read(self, limit: int) -> Deferred[bytes]:
        """Everything, when it is at the gate. Fails with :class:`BodyTooLarge`."""
        reader: Deferred[bytes] = Deferred(self._unread)
        if self._reader is not None:
            reader.errback(RuntimeError("the body is being read already"))
        elif self.over or self._reach < 0:
            reader.errback(RuntimeError("the body is on its way already"))
        elif self._gate_size > limit:
            reader.errback(BodyTooLarge(f"more than {limit} bytes"))
        elif self._gate_end:
            reader.callback(self.gathered())
        else:
            self._reader = reader
            self._limit = limit
            self._relieve()
        return reader

    def _unread(self, reader: Deferred[bytes]) -> None:
        if self._reader is reader:
            self._reader = None
            if self._gate_full() and not self.full and not self.over:
                self.full = True
                self.pause()

    def open(self, reach: int) -> None:
        """Let what waits at the gate pass the steps before ``reach`` (-1: all, and leave)."""
        before, self._reach = self._reach, reach
        if before == reach or before < 0:
            return
        data = b"".join(self._gate)
        end = self._gate_end
        self._gate = []
        self._gate_size = 0
        self._gate_end = False
        if not data and not end:
            self._relieve()
            return
        self.passing = True
        self._run(before, data, end)
        self._go_on()

    def stop(self) -> None:
        """It is over."""
        if self.over:
            return
        self.over = True
        self._queue.clear()
        self._gate.clear()
        pumps, self._pumps = self._pumps, []
        busy, self._busy = self._busy, None
        reader, self._reader = self._reader, None
        if busy is not None:
            give_up(busy)
        if reader is not None:
            give_up(reader)
        for _, pieces, _ in reversed(pumps):
            drop(pieces)

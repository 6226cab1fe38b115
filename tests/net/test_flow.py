"""Bytes through steps: order, bounds, waiting, the gate."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from meshproxy.errors import BodyTooLarge
from meshproxy.net.flow import HIGH, Flow, deferred_of, drop


class Pipe(Flow):
    """A flow that writes down what happens to it."""

    def __init__(self, *steps: Any, start: int = 0) -> None:
        super().__init__("subject", steps, start)
        self.out: list[tuple[bytes, bool]] = []
        self.paused: Any = False
        self.pauses = 0
        self.answers: list[tuple[int, Any]] = []
        self.failures: list[tuple[int, Any]] = []
        self.idles = 0

    def deliver(self, data: bytes, end: bool) -> None:
        """Collect."""
        self.out.append((data, end))

    def pause(self) -> None:
        """Note it."""
        assert not self.paused
        self.paused = True
        self.pauses += 1

    def resume(self) -> None:
        """Note it."""
        assert self.paused
        self.paused = False

    def answered(self, position: int, outcome: Any) -> None:
        """Note it, and stop."""
        self.answers.append((position, outcome))
        self.stop()

    def failed(self, position: int, failure: Failure | None) -> None:
        """Note it, and stop."""
        self.failures.append((position, failure))
        self.stop()

    def idle(self) -> None:
        """Count."""
        self.idles += 1

    @property
    def body(self) -> bytes:
        """All that left."""
        return b"".join(data for data, _ in self.out)


def upper(subject: Any, data: bytes, end: bool) -> bytes:
    """A step that answers at once."""
    return data.upper()


def test_steps_in_order() -> None:
    """Each gets what the one before returned; None lets bytes pass; the end passes once."""
    pipe = Pipe(upper, None, lambda s, data, end: None, lambda s, data, end: data + b"!")
    pipe.open(-1)
    pipe.push(b"a", False)
    pipe.push(b"b", True)
    assert pipe.out == [(b"A!", False), (b"B!", True)]


def test_swallowed_bytes_stop_there() -> None:
    """A step that returns nothing yet is not followed by an empty call; at the end it is."""
    calls: list[tuple[bytes, bool]] = []
    kept: list[bytes] = []

    def hold(subject: Any, data: bytes, end: bool) -> bytes:
        kept.append(data)
        return b"".join(kept) if end else b""

    pipe = Pipe(hold, lambda s, data, end: calls.append((data, end)))
    pipe.open(-1)
    pipe.push(b"a", False)
    assert calls == []
    pipe.push(b"b", True)
    assert calls == [(b"ab", True)]
    assert pipe.out == [(b"ab", True)]


def test_a_step_that_waits_holds_up_what_is_behind() -> None:
    """In order, with the source paused, and resumed when the last has passed."""
    gates: list[Deferred[Any]] = []

    def wait(subject: Any, data: bytes, end: bool) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1]

    pipe = Pipe(wait, upper)
    pipe.open(-1)
    pipe.push(b"a", False)
    assert pipe.busy
    assert pipe.paused
    pipe.push(b"b", False)
    pipe.push(b"c", True)
    gates[0].callback(b"x")
    assert pipe.out == [(b"X", False)]
    assert pipe.paused
    gates[1].callback(None)
    gates[2].callback(None)
    assert pipe.out == [(b"X", False), (b"B", False), (b"C", True)]
    assert not pipe.paused
    assert not pipe.busy


def test_a_coroutine_that_does_not_wait_goes_on_at_once() -> None:
    """``async def`` without an await delays nothing and pauses nobody."""

    async def step(subject: Any, data: bytes, end: bool) -> bytes:
        return data + data

    pipe = Pipe(step, step)
    pipe.open(-1)
    pipe.push(b"a", False)
    pipe.push(b"b", True)
    assert pipe.out == [(b"aaaa", False), (b"bbbb", True)]
    assert not pipe.paused


def test_the_gate_keeps_bytes_until_it_opens() -> None:
    """Bytes pass the steps in front of the gate, wait, and pass the others when it opens."""
    pipe = Pipe(upper, lambda s, data, end: b"<" + data + b">")
    pipe.open(1)
    pipe.push(b"a", False)
    pipe.push(b"b", False)
    assert pipe.out == []
    pipe.open(-1)
    assert pipe.out == [(b"<AB>", False)]
    pipe.push(b"c", True)
    assert pipe.out[1:] == [(b"<C>", True)]


def test_the_gate_is_bounded() -> None:
    """Above the bound the source is paused until the gate opens."""
    pipe = Pipe()
    pipe.push(b"x" * HIGH, False)
    assert not pipe.paused
    pipe.push(b"y", False)
    assert pipe.paused
    pipe.open(-1)
    assert not pipe.paused
    assert len(pipe.body) == HIGH + 1


def test_the_queue_is_bounded() -> None:
    """The same for what waits behind a step."""
    gate: Deferred[Any] = Deferred()
    pipe = Pipe(lambda s, data, end: gate if data == b"first" else None)
    pipe.open(-1)
    pipe.push(b"first", False)
    assert pipe.paused
    pipe.push(b"x" * (HIGH * 2), False)
    assert pipe.pauses == 1
    gate.callback(None)
    assert not pipe.paused
    assert pipe.body == b"first" + b"x" * (HIGH * 2)


def test_reading_it_whole() -> None:
    """A reader gets everything at the end, with the source running up to the reader's bound."""
    pipe = Pipe()
    pipe.push(b"x" * (HIGH + 1), False)
    assert pipe.paused
    whole = pipe.read(HIGH * 2)
    assert not pipe.paused
    pipe.push(b"y", True)
    got: list[bytes] = []
    whole.addCallback(got.append)
    assert got == [b"x" * (HIGH + 1) + b"y"]
    assert pipe.whole
    pipe.replace(b"other")
    pipe.open(-1)
    assert pipe.out == [(b"other", True)]


def test_reading_too_much() -> None:
    """Over its bound a reader fails, at once if it is there already; two readers are an error."""
    failures: list[Any] = []
    pipe = Pipe()
    pipe.push(b"four", False)
    pipe.read(3).addErrback(failures.append)
    pipe.read(5).addErrback(failures.append)
    pipe.read(5).addErrback(failures.append)
    pipe.push(b"xx", False)
    assert [type(failure.value) for failure in failures] == [
        BodyTooLarge,
        RuntimeError,
        BodyTooLarge,
    ]


def test_giving_up_reading() -> None:
    """A cancelled reader bounds the gate again."""
    pipe = Pipe()
    reader = pipe.read(HIGH * 4)
    pipe.push(b"x" * (HIGH + 1), False)
    assert not pipe.paused
    reader.addErrback(lambda failure: failure.trap(CancelledError))
    reader.cancel()
    assert pipe.paused


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_raises(late: bool) -> None:
    """It is told with its position, and nothing leaves after it."""
    gate: Deferred[Any] = Deferred()

    def step(subject: Any, data: bytes, end: bool) -> Any:
        if late:
            return gate
        raise ZeroDivisionError

    pipe = Pipe(None, step)
    pipe.open(-1)
    pipe.push(b"a", False)
    if late:
        gate.errback(ZeroDivisionError())
    assert [position for position, _ in pipe.failures] == [1]
    pipe.push(b"b", True)
    assert pipe.out == []


def test_another_result_is_an_answer() -> None:
    """What is neither bytes nor None nor waited for is given to the owner."""
    pipe = Pipe(lambda s, data, end: "answer")
    pipe.open(-1)
    pipe.push(b"a", False)
    assert pipe.answers == [(0, "answer")]


def test_stopping_cancels() -> None:
    """What is waited for is cancelled, and what it says then is not heard."""
    cancelled: list[bool] = []
    gate: Deferred[Any] = Deferred(lambda _: cancelled.append(True))
    pipe = Pipe(lambda s, data, end: gate)
    pipe.open(-1)
    pipe.push(b"a", False)
    pipe.push(b"b", False)
    pipe.stop()
    assert cancelled == [True]
    assert (pipe.out, pipe.failures) == ([], [])


def test_bytes_that_come_while_bytes_leave() -> None:
    """A sink that causes more bytes to come gets them afterwards, in order."""
    pipe = Pipe(upper)
    pipe.open(-1)
    seen: list[bytes] = []

    def deliver(data: bytes, end: bool) -> None:
        seen.append(data)
        if data == b"A":
            pipe.push(b"b", False)
            assert seen == [b"A"]

    pipe.deliver = deliver
    pipe.push(b"a", False)
    assert seen == [b"A", b"B"]


def test_what_is_waited_for() -> None:
    """Deferreds, coroutines and other awaitables; nothing else."""

    class Awaitable:
        def __await__(self) -> Any:
            return iter(())

    assert deferred_of(None) is None
    assert deferred_of(b"x") is None
    made: Deferred[Any] = Deferred()
    assert deferred_of(made) is made
    assert isinstance(deferred_of(Awaitable()), Deferred)


def test_a_step_may_make_many_pieces_of_one() -> None:
    """An asynchronous generator: each piece passes on when it is there, in order, then the rest."""
    gates: list[Deferred[Any]] = []

    async def cut(subject: Any, data: bytes, end: bool) -> Any:
        for byte in data:
            gates.append(Deferred())
            await gates[-1]
            yield bytes((byte,))

    pipe = Pipe(cut, upper)
    pipe.open(-1)
    pipe.push(b"ab", False)
    pipe.push(b"c", True)
    assert pipe.paused
    assert pipe.out == []
    gates[0].callback(None)
    assert pipe.out == [(b"A", False)]
    gates[1].callback(None)
    gates[2].callback(None)
    assert pipe.out == [(b"A", False), (b"B", False), (b"C", False), (b"", True)]
    assert not pipe.paused


def test_pieces_wait_for_the_steps_behind() -> None:
    """Two generators in a row, and a step that waits: nothing overtakes."""
    gates: list[Deferred[Any]] = []

    async def double(subject: Any, data: bytes, end: bool) -> Any:
        yield data
        yield data.upper()

    def wait(subject: Any, data: bytes, end: bool) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1]

    pipe = Pipe(double, double, wait)
    pipe.open(-1)
    pipe.push(b"a", False)
    pipe.push(b"b", True)
    for number in range(9):
        assert len(gates) == number + 1
        gates[number].callback(None)
    assert pipe.body == b"aAAAbBBB"
    assert pipe.out[-1] == (b"", True)


def test_a_generator_is_closed_when_it_is_over() -> None:
    """Whether it waits or has pieces to come; one that raises is a step that raises."""
    ended: list[str] = []

    async def endless(subject: Any, data: bytes, end: bool) -> Any:
        try:
            yield b"x"
            await Deferred()
        finally:
            ended.append("closed")

    pipe = Pipe(endless)
    pipe.open(-1)
    pipe.push(b"a", False)
    assert pipe.out == [(b"x", False)]
    pipe.stop()
    assert ended == ["closed"]

    gate: Deferred[Any] = Deferred()
    pipe = Pipe(endless, lambda s, data, end: gate)
    pipe.open(-1)
    pipe.push(b"a", False)
    pipe.stop()
    assert ended == ["closed", "closed"]

    async def broken(subject: Any, data: bytes, end: bool) -> Any:
        yield b"x"
        raise ZeroDivisionError

    pipe = Pipe(None, broken)
    pipe.open(-1)
    pipe.push(b"a", False)
    assert [position for position, _ in pipe.failures] == [1]

    async def wrong(subject: Any, data: bytes, end: bool) -> Any:
        yield "text"

    pipe = Pipe(wrong)
    pipe.open(-1)
    pipe.push(b"a", False)
    assert pipe.answers == [(0, "text")]


pieces = st.lists(st.binary(min_size=1, max_size=9), max_size=8)


@given(pieces, st.data())
def test_whatever_happens_bytes_arrive_whole_and_in_order(sent: list[bytes], data: Any) -> None:
    """Steps that wait or not, a gate that opens late or early: what left is what came."""
    gates: list[Deferred[Any]] = []
    slow = data.draw(st.lists(st.booleans(), min_size=64, max_size=64))

    def step(subject: Any, piece: bytes, end: bool) -> Any:
        if slow[len(gates) % 64]:
            gates.append(Deferred())
            return gates[-1]
        gates.append(Deferred())
        gates[-1].callback(None)
        return None

    async def cut(subject: Any, piece: bytes, end: bool) -> Any:
        for number in range(len(piece)):
            if slow[len(gates) % 64]:
                gates.append(Deferred())
                await gates[-1]
            yield piece[number : number + 1]

    pipe = Pipe(step, None, cut, step)
    moves = data.draw(st.lists(st.sampled_from(["push", "fire", "open"]), max_size=40))
    left = [*((piece, False) for piece in sent), (b"", True)]
    reach = 0

    def fire() -> None:
        for gate in gates:
            if not gate.called:
                gate.callback(None)
                return

    def open_more() -> None:
        nonlocal reach
        if not pipe.busy and reach >= 0:
            reach = reach + 1 if reach < 4 else -1
            pipe.open(reach)

    for move in moves:
        if move == "push" and left:
            pipe.push(*left.pop(0))
        elif move == "fire":
            fire()
        else:
            open_more()
    for piece in left:
        pipe.push(*piece)
    for _ in range(200):
        fire()
        open_more()
    assert pipe.body == b"".join(sent)
    assert [end for _, end in pipe.out] == [False] * (len(pipe.out) - 1) + [True]
    assert not pipe.paused


def test_a_canceller_that_raises_harms_nobody() -> None:
    """The end of a flow goes on to its end."""

    def boom(_: Deferred[Any]) -> None:
        raise ZeroDivisionError("a canceller")

    closed: list[bool] = []

    async def pieces(subject: Any, data: bytes, end: bool) -> Any:
        try:
            yield data
        finally:
            closed.append(True)

    gate: Deferred[Any] = Deferred(boom)
    pipe = Pipe(pieces, lambda s, data, end: gate)
    pipe.open(-1)
    pipe.push(b"a", False)
    pipe.stop()
    assert closed == [True]
    drop(Deferred(boom))

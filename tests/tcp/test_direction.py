"""One direction through filters, step by step, over fake transports."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer
from twisted.internet.error import ConnectionDone

from meshproxy.tcp.direction import HELD
from meshproxy.tcp.kit import drive_connection
from tests.tcp.filters import Rewrite


def test_bytes_that_are_kept_back_go_no_further() -> None:
    """A step that returns nothing is the last that its bytes see; at the end it may give them."""
    kept: list[bytes] = []

    def keep(connection: Any, data: bytes, end: bool) -> bytes:
        kept.append(data)
        return b"".join(kept) if end else b""

    behind = Rewrite()
    driven = drive_connection(Rewrite(keep), behind, received=[b"a", b"b"])
    assert driven.upstream == b""
    assert behind.seen == []
    driven.end()
    assert driven.upstream == b"ab"
    assert behind.seen == [("received", b"ab", True)]
    assert driven.upstream_ended


def test_what_comes_while_a_step_waits_comes_next_and_once() -> None:
    """Pieces that came meanwhile are one, with the end where it came too."""
    gate: defer.Deferred[bytes] = defer.Deferred()
    gates = [gate]

    def wait(connection: Any, data: bytes, end: bool) -> Any:
        return gates.pop() if gates else None

    rewrite = Rewrite(wait)
    driven = drive_connection(rewrite, received=[b"a", b"b", b"c"])
    driven.end()
    assert (driven.upstream, driven.waiting) == (b"", True)
    gate.callback(b"A")
    driven.advance(0)
    assert (driven.upstream, driven.waiting) == (b"Abc", False)
    assert rewrite.seen == [("received", b"a", False), ("received", b"bc", True)]
    assert driven.upstream_ended


def test_a_waits_none_lets_the_bytes_pass() -> None:
    """A Deferred that fires with None is as None at once."""
    gate: defer.Deferred[None] = defer.Deferred()
    driven = drive_connection(Rewrite(lambda c, data, end: gate), received=[b"a"])
    gate.callback(None)
    assert driven.upstream == b"a"


def test_fired_deferreds_are_no_wait() -> None:
    """A thousand of them one after the other neither wait nor pile up."""
    driven = drive_connection(Rewrite(lambda c, data, end: defer.succeed(data)))
    for _ in range(1000):
        driven.send(b"x")
    assert driven.upstream == b"x" * 1000
    assert not driven.waiting


def test_a_bytearray_is_bytes() -> None:
    """What is like bytes may be returned."""
    driven = drive_connection(Rewrite(lambda c, data, end: bytearray(data)), received=[b"a"])
    assert driven.upstream == b"a"


def test_held_is_bounded() -> None:
    """While a step waits the sender is stopped as soon as enough is held."""
    driven = drive_connection(Rewrite(lambda c, data, end: defer.Deferred()))
    for _ in range(100):
        driven.send(bytes(10000))
    relay: Any = driven.connection.relay
    assert relay.received.held <= HELD + 2 * 10000
    assert driven.client_end.unread >= 1_000_000 - HELD - 2 * 10000


def test_answers_that_the_client_does_not_take_stop_it() -> None:
    """A filter that answers each byte with many does not fill the memory."""

    def answer(connection: Any, data: bytes, end: bool) -> bytes:
        connection.write(bytes(20000))
        return b""

    driven = drive_connection(Rewrite(answer))
    driven.client_end.reads = False
    for _ in range(100):
        driven.send(b"x")
    assert driven.client_end.buffered <= 100_000
    driven.client_end.reads = True
    driven.advance(0)
    assert len(driven.client_got) == 100 * 20000


def test_cancelled_when_over() -> None:
    """The end of the connection cancels what each direction waits for, once."""
    cancelled: list[str] = []

    def wait(name: str) -> Any:
        return lambda c, data, end: defer.Deferred(lambda _: cancelled.append(name))

    driven = drive_connection(Rewrite(wait("received"), wait("sent")), received=[b"a"], sent=[b"b"])
    driven.disconnect()
    assert sorted(cancelled) == ["received", "sent"]
    assert driven.errors == 0


def test_a_step_that_closes() -> None:
    """close() from inside a step ends the connection; what it returns goes nowhere."""

    def end(connection: Any, data: bytes, last: bool) -> bytes:
        connection.close()
        return b"not any more"

    driven = drive_connection(Rewrite(end), received=[b"a"])
    assert driven.closed
    assert driven.upstream == b""
    assert driven.details == b"ended_by_a_filter"


def test_a_side_that_can_only_close_is_heard_to_the_end() -> None:
    """What a peer said before it closed both ways at once passes a step that waits."""
    gate: defer.Deferred[bytes] = defer.Deferred()
    driven = drive_connection(Rewrite(lambda c, data, end: gate if data else None))
    driven.send(b"last words")
    driven.client_end._lose(ConnectionDone())
    assert (driven.upstream, driven.upstream_ended) == (b"", False)
    gate.callback(b"LAST WORDS")
    driven.advance(0)
    assert (driven.upstream, driven.upstream_ended) == (b"LAST WORDS", True)
    assert driven.record is not None
    assert driven.record.flags == b"-"


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=20),
    st.lists(st.sampled_from(["pass", "hold", "flip", "wait", "fired"]), max_size=60),
    st.lists(st.integers(0, 3), max_size=20),
)
def test_any_mixture_of_answers(pieces: list[bytes], answers: list[str], pauses: list[int]) -> None:
    """
    Whatever two steps do with pieces (pass, keep back, change, wait, answer by a fired Deferred),
    in whatever order time goes by, all bytes arrive in order, the end after them and once.
    """
    plan = iter(answers)
    gates: list[tuple[defer.Deferred[bytes], bytes]] = []

    class Step:
        def __init__(self) -> None:
            self.kept = b""

        def __call__(self, connection: Any, data: bytes, end: bool) -> Any:
            data, self.kept = self.kept + data, b""
            what = next(plan, "flip")
            if what == "hold" and not end:
                self.kept = data
                return b""
            if what == "wait":
                gates.append((defer.Deferred(), data))
                return gates[-1][0]
            return defer.succeed(data) if what == "fired" else data

    first, second = Rewrite(Step()), Rewrite(Step())
    driven = drive_connection(first, second)
    for number, piece in enumerate(pieces):
        driven.send(piece)
        for _ in range(pauses[number] if number < len(pauses) else 1):
            if gates:
                gate, data = gates.pop(0)
                gate.callback(data)
                driven.advance(0)
    driven.end()
    while gates:
        gate, data = gates.pop(0)
        gate.callback(data)
        driven.advance(0)
    assert driven.upstream == b"".join(pieces)
    assert driven.upstream_ended
    assert driven.errors == 0
    for rewrite in (first, second):
        assert [end for _, _, end in rewrite.seen].count(True) == 1
        assert rewrite.seen[-1][2]

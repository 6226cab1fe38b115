"""Outgoing connections: exactly one answer, whatever the network does."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from twisted.internet.task import Clock

from meshproxy.net.connect import EXHAUSTED, REFUSED, TIMEOUT, UNREACHABLE, connect
from meshproxy.net.reactor import MeshReactor
from tests.net import live


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own."""
    made = MeshReactor()
    yield made
    live.close(made)


class Answer:
    """Takes the answers of an attempt."""

    def __init__(self) -> None:
        self.socks: list[socket.socket] = []
        self.reasons: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.socks:
            sock.close()

    def done(self, sock: socket.socket) -> None:
        """It is up."""
        self.socks.append(sock)

    def failed(self, reason: str) -> None:
        """It is not."""
        self.reasons.append(reason)

    @property
    def count(self) -> int:
        """Answers so far."""
        return len(self.socks) + len(self.reasons)


class ClockReactor(Clock):
    """A clock that registers descriptors and never tells them anything."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[Any] = set()

    def addWriter(self, writer: Any) -> None:
        """Register it."""
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        """Forget it."""
        self.writers.discard(writer)


class Unanswered:
    """A socket whose connection neither comes up nor fails."""

    def __init__(self, number: int = errno.EINPROGRESS) -> None:
        self.number = number
        self.closed = 0

    def __call__(self, *_: Any) -> Unanswered:
        return self

    def fileno(self) -> int:
        """Never used by the fake reactor."""
        return 7

    def setsockopt(self, *_: Any) -> None:
        """Ignore it."""

    def getsockopt(self, *_: Any) -> int:
        """No error."""
        return 0

    def connect_ex(self, _: Any) -> int:
        """What the kernel says."""
        return self.number

    def close(self) -> None:
        """Count it."""
        self.closed += 1


def test_a_connection_comes_up(reactor: MeshReactor) -> None:
    """done gets a connected, non-blocking, unregistered socket; the timer is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server, Answer() as answer:
        connect(reactor, socket.AF_INET, server.getsockname(), 5.0, answer.done, answer.failed)
        live.turn_until(reactor, lambda: answer.count)
        (sock,) = answer.socks
        assert answer.reasons == []
        assert not sock.getblocking()
        assert sock.getpeername() == server.getsockname()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert reactor.getWriters() == []
        assert reactor.getDelayedCalls() == []


def test_nodelay_can_be_left_off(reactor: MeshReactor) -> None:
    """Nagle's algorithm stays on when told so."""
    with socket.create_server(("127.0.0.1", 0)) as server, Answer() as answer:
        where = server.getsockname()
        connect(reactor, socket.AF_INET, where, 5.0, answer.done, answer.failed, nodelay=False)
        live.turn_until(reactor, lambda: answer.count)
        assert not answer.socks[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_refused(reactor: MeshReactor) -> None:
    """Nobody listens: failed, once, and nothing stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()
    before = len(os.listdir("/proc/self/fd"))
    with Answer() as answer:
        connect(reactor, socket.AF_INET, where, 5.0, answer.done, answer.failed)
        live.turn_until(reactor, lambda: answer.count)
        live.turn(reactor)
        assert (answer.reasons, answer.socks) == ([REFUSED], [])
    assert reactor.getDelayedCalls() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_unix(reactor: MeshReactor, tmp_path: Path) -> None:
    """A UNIX path answers before connect returns, for better or worse."""
    path = str(tmp_path / "s")
    with Answer() as answer:
        assert connect(reactor, socket.AF_UNIX, path, 5.0, answer.done, answer.failed) is None
        assert answer.reasons == [REFUSED]
    with socket.socket(socket.AF_UNIX) as server, Answer() as answer:
        server.bind(path)
        server.listen()
        assert connect(reactor, socket.AF_UNIX, path, 5.0, answer.done, answer.failed) is None
        assert len(answer.socks) == 1


def test_an_address_that_the_family_cannot_express(reactor: MeshReactor) -> None:
    """It is a failure as any other, never an exception."""
    with Answer() as answer:
        path = "/" + "x" * 200
        assert connect(reactor, socket.AF_UNIX, path, 5.0, answer.done, answer.failed) is None
        assert answer.count == 1


def test_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its seconds the attempt is given up, and a late answer of the kernel is ignored."""
    clock, sock, answer = ClockReactor(), Unanswered(), Answer()
    monkeypatch.setattr(socket, "socket", sock)
    attempt = connect(clock, socket.AF_INET, ("x", 1), 5.0, answer.done, answer.failed)
    assert attempt is not None
    clock.advance(4.9)
    assert answer.count == 0
    clock.advance(0.2)
    assert answer.reasons == [TIMEOUT]
    assert (sock.closed, clock.writers) == (1, set())
    attempt.doWrite()
    attempt.doRead()
    attempt.connectionLost(None)  # type: ignore[arg-type]
    attempt.cancel()
    assert (answer.count, sock.closed) == (1, 1)


def test_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled attempt answers never, and closes its socket once."""
    clock, sock, answer = ClockReactor(), Unanswered(), Answer()
    monkeypatch.setattr(socket, "socket", sock)
    attempt = connect(clock, socket.AF_INET, ("x", 1), 5.0, answer.done, answer.failed)
    assert attempt is not None
    attempt.cancel()
    attempt.cancel()
    attempt.doWrite()
    clock.advance(10.0)
    assert (answer.count, sock.closed, clock.writers, clock.calls) == (0, 1, set(), [])
    assert attempt.logPrefix()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, REFUSED),
        (errno.ENOENT, REFUSED),
        (errno.EAGAIN, REFUSED),
        (errno.ETIMEDOUT, TIMEOUT),
        (errno.ENETUNREACH, UNREACHABLE),
        (errno.EHOSTUNREACH, UNREACHABLE),
        (errno.EADDRNOTAVAIL, EXHAUSTED),
        (errno.ENOBUFS, EXHAUSTED),
        (errno.ENOMEM, EXHAUSTED),
        (errno.EACCES, os.strerror(errno.EACCES)),
    ],
)
def test_reasons(monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    """The kernel's numbers become the words that statistics and replies go by."""
    sock, answer = Unanswered(number), Answer()
    monkeypatch.setattr(socket, "socket", sock)
    assert (
        connect(ClockReactor(), socket.AF_INET, ("x", 1), 5.0, answer.done, answer.failed) is None
    )
    assert (answer.reasons, sock.closed) == ([reason], 1)


def test_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at its limit fails the attempt instead of raising."""

    def full(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    answer = Answer()
    monkeypatch.setattr(socket, "socket", full)
    connect(ClockReactor(), socket.AF_INET, ("x", 1), 5.0, answer.done, answer.failed)
    assert answer.reasons == [EXHAUSTED]

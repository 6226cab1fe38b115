"""Questions by datagram: only what answers counts, and the socket is closed with the verdict."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshproxy.errors import CheckFailed
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks.datagram import ask
from tests.net.live import turn, turn_until
from tests.upstream.checks.asking import CANCELLED, PASSED, Verdict, left


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """Whoever is asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


def udp() -> socket.socket:
    """What asks."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def question(
    reactor: MeshReactor, peer: socket.socket, answers: Callable[[bytes], bool]
) -> Verdict:
    """A question to ``peer``."""
    return Verdict(ask(reactor, udp, peer.getsockname(), b"well?", answers))


def test_only_an_answer_ends_it(reactor: MeshReactor, peer: socket.socket) -> None:
    """Whatever else comes, from there or from elsewhere, is passed over."""
    seen: list[bytes] = []

    def answers(data: bytes) -> bool:
        seen.append(data)
        return data == b"yes"

    verdict = question(reactor, peer, answers)
    data, back = peer.recvfrom(100)
    assert data == b"well?"
    with udp() as stranger:
        stranger.sendto(b"yes", back)
    for reply in (b"", b"no", b"x" * 60000):
        peer.sendto(reply, back)
    turn_until(reactor, lambda: len(seen) == 3)
    assert verdict.results == []
    peer.sendto(b"yes", back)
    assert verdict.wait(reactor) is PASSED
    assert seen == [b"", b"no", b"x" * 60000, b"yes"]


def test_what_the_judge_raises_is_the_result(reactor: MeshReactor, peer: socket.socket) -> None:
    """A failure of the check, or a defect."""

    def refuse(data: bytes) -> bool:
        raise CheckFailed("garbage")

    def broken(data: bytes) -> bool:
        raise KeyError("a defect")

    verdict = question(reactor, peer, refuse)
    peer.sendto(b"x", peer.recvfrom(100)[1])
    assert verdict.wait(reactor) == "garbage"
    failed: list[Any] = []
    ask(reactor, udp, peer.getsockname(), b"", broken).addErrback(failed.append)
    peer.sendto(b"x", peer.recvfrom(100)[1])
    turn_until(reactor, lambda: failed)
    assert failed[0].type is KeyError


def test_nobody_is_there(reactor: MeshReactor, peer: socket.socket) -> None:
    """The kernel is told so by ICMP, and tells the socket."""
    address = peer.getsockname()
    peer.close()
    verdict = Verdict(ask(reactor, udp, address, b"well?", lambda data: True))
    assert verdict.wait(reactor) == "refused"


def test_what_cannot_be_sent(reactor: MeshReactor) -> None:
    """No socket, no such address: failures of the check, in the system's words."""

    def none() -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    there = ("127.0.0.1", 9)
    verdict = Verdict(ask(reactor, none, there, b"", lambda data: True))
    assert verdict.results == ["too many open files"]
    made: list[socket.socket] = []

    def kept() -> socket.socket:
        made.append(udp())
        return made[0]

    verdict = Verdict(ask(reactor, kept, there, bytes(70_000), lambda data: True))
    assert verdict.results == ["message too long"]
    assert made[0].fileno() == -1


def test_cancelling_closes(reactor: MeshReactor, peer: socket.socket) -> None:
    """A peer that never answers costs nothing afterwards."""
    made: list[socket.socket] = []

    def kept() -> socket.socket:
        made.append(udp())
        return made[0]

    verdict = Verdict(ask(reactor, kept, peer.getsockname(), b"", lambda data: True))
    turn(reactor)
    kept_readers = [each for each in reactor.getReaders() if each not in reactor._internalReaders]
    verdict.cancel()
    assert verdict.results == [CANCELLED]
    assert made[0].fileno() == -1
    assert left(reactor) == []
    # What the reactor had collected before does nothing any more.
    (descriptor,) = kept_readers
    descriptor.doRead()
    descriptor.connectionLost(None)
    assert descriptor.fileno() == -1
    assert verdict.results == [CANCELLED]


def test_an_error_without_anything_to_read(reactor: MeshReactor, peer: socket.socket) -> None:
    """The reactor calls ``connectionLost`` then; the socket knows why."""
    verdict = question(reactor, peer, lambda data: True)
    (descriptor,) = [each for each in reactor.getReaders() if each not in reactor._internalReaders]
    descriptor.connectionLost(None)
    assert verdict.results == ["input/output error"]

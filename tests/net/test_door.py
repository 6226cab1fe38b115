"""The door of a listener: who comes in, who does not, and who waits for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import defer, task
from zope.interface import implementer

from meshproxy.api import Refuse
from meshproxy.interfaces import IConnectionObserver, IListenerFilter
from meshproxy.net import door as module
from meshproxy.net.door import PATIENCE, Door
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry


@implementer(IListenerFilter)
class Guard:
    """Answers by a function."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.accepted = answer


@implementer(IListenerFilter, IConnectionObserver)
class Counting:
    """Counts those inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.gone: list[Any] = []

    def accepted(self, connection: Any) -> None:
        """One more."""
        self.inside += 1

    def closed(self, connection: Any) -> None:
        """One less."""
        self.inside -= 1
        self.gone.append(connection.client)


class World:
    """A door, and connections that come to it."""

    def __init__(self) -> None:
        self.clock = task.Clock()
        self.wheel = TimerWheel(self.clock)
        self.registry = Registry()
        self.inside: list[tuple[Any, Any]] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.clients: list[socket.socket] = []
        self.door: Any = None

    def hang(self, *filters: Any, accept: Any = None) -> Door:
        """A door with filters."""
        fitted = [
            Fitted(one, f"f{number}", "in", self.registry, self.clock.seconds)
            for number, one in enumerate(filters)
        ]
        taken = accept or (lambda sock, peer: self.inside.append((sock, peer)))
        door = self.door = Door(fitted, self.wheel, "in", taken)
        return door

    def knock(self) -> socket.socket:
        """A client comes."""
        client = socket.create_connection(self.server.getsockname())
        client.settimeout(5)
        self.clients.append(client)
        number, peer = self.server._accept()  # type: ignore[attr-defined]
        # As the port makes it: the C type, not Python's.
        made = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)
        made.setblocking(False)
        self.door.accept(made, peer)
        return client

    def errors(self, number: int = 0) -> float:
        """What a filter did wrong."""
        labels = {"listener": "in", "filter": f"f{number}"}
        return self.registry.values[
            self.registry.counter("meshproxy_filter_errors_total", "", labels)
        ]


@pytest.fixture
def world() -> Iterator[World]:
    """A world that is found clean afterwards."""
    made = World()
    yield made
    made.door.close()
    assert not made.door.waiting
    assert len(made.wheel) == 0
    made.wheel.stop()
    for sock, _ in made.inside:
        sock.close()
    for client in made.clients:
        client.close()
    made.server.close()


def was_reset(client: socket.socket) -> bool:
    """Whether the client's connection ended by RST."""
    try:
        return client.recv(1) != b""
    except ConnectionResetError:
        return True


def test_who_passes_comes_in(world: World) -> None:
    """The room gets the socket and the peer; the filter saw the connection's facts."""
    facts: list[Any] = []

    def look(connection: Any) -> None:
        connection.metadata["a"] = 1
        connection.notes[look] = connection.metadata
        facts.append((connection.client_ip, connection.local, connection.listener_name))

    world.hang(Guard(look))
    client = world.knock()
    ((sock, peer),) = world.inside
    assert peer == client.getsockname()
    client.sendall(b"x")
    sock.setblocking(True)
    assert sock.recv(1) == b"x"
    assert facts == [(b"127.0.0.1", b"127.0.0.1:%d" % world.server.getsockname()[1], b"in")]


def test_without_observers_the_socket_is_what_was_accepted(world: World) -> None:
    """Nothing is paid for by who does not need it."""
    world.hang(Guard(lambda connection: None))
    world.knock()
    assert type(world.inside[0][0]) is socket.SocketType


@pytest.mark.parametrize("reset", [False, True])
def test_a_refusal(world: World, reset: bool) -> None:
    """The connection is closed, or reset, and later filters are not asked."""
    later: list[Any] = []
    world.hang(Guard(lambda c: Refuse(reset=reset, data=b"unsaid")), Guard(later.append))
    client = world.knock()
    assert was_reset(client) is reset
    assert world.inside == later == []


def test_one_that_raises(world: World) -> None:
    """It costs the connection, is counted, and the next one comes in."""
    answers: list[Any] = [ZeroDivisionError("mine")]

    def guard(connection: Any) -> None:
        if answers:
            raise answers.pop()

    world.hang(Guard(guard))
    assert was_reset(world.knock())
    assert world.errors() == 1
    world.knock()
    assert len(world.inside) == 1


def test_an_answer_that_is_none(world: World) -> None:
    """False is no answer."""
    world.hang(Guard(lambda connection: False))
    assert was_reset(world.knock())
    assert world.errors() == 1


def test_who_waits_comes_in_later(world: World) -> None:
    """The room sees it when the filter says so, with what the client said meanwhile unread."""
    gate: defer.Deferred[None] = defer.Deferred()
    world.hang(Guard(lambda connection: gate))
    client = world.knock()
    client.sendall(b"early")
    assert world.inside == []
    assert len(world.door.waiting) == 1
    gate.callback(None)
    sock = world.inside[0][0]
    sock.setblocking(True)
    assert sock.recv(10) == b"early"


def test_a_coroutine_that_refuses(world: World) -> None:
    """async def is waited for."""
    gate: defer.Deferred[None] = defer.Deferred()

    async def guard(connection: Any) -> Refuse:
        await gate
        return Refuse(reset=True)

    world.hang(Guard(guard))
    client = world.knock()
    gate.callback(None)
    assert was_reset(client)


def test_a_failure_that_comes_late(world: World) -> None:
    """A Deferred that fails is an exception."""
    gate: defer.Deferred[None] = defer.Deferred()
    world.hang(Guard(lambda connection: gate))
    client = world.knock()
    gate.errback(ValueError("mine"))
    assert was_reset(client)
    assert world.errors() == 1


def test_nobody_waits_for_ever(world: World) -> None:
    """After 15 seconds the wait is cancelled and the client reset."""
    cancelled: list[int] = []
    world.hang(Guard(lambda c: defer.Deferred(lambda _: cancelled.append(1))))
    client = world.knock()
    world.clock.advance(PATIENCE - 1)
    assert cancelled == []
    world.clock.advance(1.1)
    assert cancelled == [1]
    assert was_reset(client)
    assert world.errors() == 1


def test_few_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would wait over the bound is closed and counted; its wait is cancelled."""
    monkeypatch.setattr(module, "WAITING", 2)
    cancelled: list[int] = []
    world.hang(Guard(lambda c: defer.Deferred(lambda _: cancelled.append(1))))
    world.knock()
    world.knock()
    third = world.knock()
    assert third.recv(1) == b""
    assert (world.door.turned_away, cancelled, len(world.door.waiting)) == (1, [1], 2)
    assert world.errors() == 1


def test_closing_the_door(world: World) -> None:
    """Those who wait are closed, what they wait for is cancelled, and nobody comes in any more."""
    seen: list[str] = []

    async def guard(connection: Any) -> None:
        try:
            await defer.Deferred()
        except (defer.CancelledError, asyncio.CancelledError):
            seen.append("cancelled")
            raise

    world.hang(Guard(guard))
    client = world.knock()
    world.door.close()
    assert client.recv(1) == b""
    assert seen == ["cancelled"]
    assert world.errors() == 0
    assert world.knock().recv(1) == b""


def test_a_filter_may_close(world: World) -> None:
    """close() at the door ends it; afterwards, inside, it is the room's."""
    held: list[Any] = []

    def guard(connection: Any) -> None:
        held.append(connection)
        if len(held) == 1:
            connection.close(reset=True)
            connection.close()

    world.hang(Guard(guard))
    assert was_reset(world.knock())
    assert world.inside == []
    world.knock()
    held[1].close()
    assert world.inside[0][0].fileno() >= 0


def test_nothing_can_be_written(world: World) -> None:
    """What the client speaks is not known yet."""
    world.hang(Guard(lambda connection: connection.write(b"x")))
    assert was_reset(world.knock())
    assert world.errors() == 1


def test_observers_know_when_a_connection_is_gone(world: World) -> None:
    """Once for each, when its socket is closed, refused ones too; closing twice is once."""
    counting = Counting()
    refuse: list[Any] = []
    world.hang(counting, Guard(lambda connection: refuse[0] if refuse else None))
    world.knock()
    world.knock()
    assert counting.inside == 2
    sock = world.inside[0][0]
    sock.close()
    sock.close()
    assert counting.inside == 1
    refuse.append(Refuse())
    world.knock()
    assert counting.inside == 1
    assert len(counting.gone) == 2


def test_an_observer_that_raises(world: World) -> None:
    """Others are told all the same."""
    bad, good = Counting(), Counting()

    def fail(connection: Any) -> None:
        raise ValueError("mine")

    bad.closed = fail
    world.hang(bad, good)
    world.knock()
    world.inside[0][0].close()
    assert good.inside == 0
    assert world.errors() == 1


def test_a_room_that_raises(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The socket is closed, so that observers do not count it for ever."""
    counting = Counting()
    errors: list[Any] = []

    def accept(sock: Any, peer: Any) -> None:
        raise OSError("no room")

    from twisted.python import log

    def observe(event: dict[str, Any]) -> None:
        if event["isError"]:
            errors.append(event["failure"].value)

    world.hang(counting, accept=accept)
    log.addObserver(observe)
    try:
        client = world.knock()
    finally:
        log.removeObserver(observe)
    assert client.recv(1) == b""
    assert counting.inside == 0
    assert [type(error) for error in errors] == [OSError]

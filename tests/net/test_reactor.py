"""The reactor: direct dispatch, edge-triggered watching, and batches in which things close."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone

from meshproxy.net import reactor as module
from meshproxy.net.reactor import MeshReactor, take_over
from tests.net import live
from tests.net.logged import errors

IN, OUT = select.EPOLLIN, select.EPOLLOUT


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own, which is never the global one."""
    made = MeshReactor()
    yield made
    live.close(made)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, non-blocking."""
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    return one, two


class Reader(FileDescriptor):
    """A descriptor that notes what is asked of it; ``on_read`` decides what doRead returns."""

    def __init__(
        self, reactor: Any, sock: socket.socket, on_read: Callable[[], Any] | None = None
    ) -> None:
        super().__init__(reactor)
        self.sock = sock
        self.fileno = sock.fileno
        self.on_read = on_read
        self.reads = 0
        self.lost: list[Any] = []
        self.connected = 1

    def doRead(self) -> Any:
        self.reads += 1
        return self.on_read() if self.on_read is not None else None

    def connectionLost(self, reason: Any) -> None:
        self.lost.append(reason)
        super().connectionLost(reason)


class Watching:
    """A watcher that notes its events."""

    def __init__(self, on_ready: Callable[[int], None] | None = None) -> None:
        self.events: list[int] = []
        self.aborted = 0
        self.on_ready = on_ready

    def ready(self, events: int) -> None:
        """Note them."""
        self.events.append(events)
        if self.on_ready is not None:
            self.on_ready(events)

    def abort(self) -> None:
        """Note it."""
        self.aborted += 1


class Batch:
    """A poller that returns one batch, whatever the kernel says, and passes the rest on."""

    def __init__(self, poller: Any, events: list[tuple[int, int]]) -> None:
        self._poller = poller
        self._events = events

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        """The batch."""
        events, self._events = self._events, []
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


def test_level_triggered_reading(reactor: MeshReactor) -> None:
    """A reader is called at every poll while there is something to read, and not otherwise."""
    one, two = pair()
    with one, two:
        reader = Reader(reactor, one)
        reactor.addReader(reader)
        reactor.doIteration(0)
        assert reader.reads == 0
        two.send(b"x")
        reactor.doIteration(1)
        reactor.doIteration(1)
        assert reader.reads == 2
        reactor.removeReader(reader)
        reactor.doIteration(0)
        assert reader.reads == 2


def test_writing(reactor: MeshReactor) -> None:
    """A writer is called when the descriptor can be written, until it is removed."""
    one, two = pair()
    with one, two:
        writes = []

        class Writer(Reader):
            def doWrite(self) -> None:
                writes.append(1)
                reactor.removeWriter(self)

        reactor.addWriter(Writer(reactor, one))
        reactor.doIteration(1)
        reactor.doIteration(0)
        assert len(writes) == 1


def test_an_end_is_reported_as_the_stock_reactor_does(reactor: MeshReactor) -> None:
    """What doRead returns ends the descriptor with that reason."""
    one, two = pair()
    with one, two:
        reader = Reader(reactor, one, lambda: main.CONNECTION_DONE)
        reactor.addReader(reader)
        two.send(b"x")
        reactor.doIteration(1)
        assert [reason.type for reason in reader.lost] == [ConnectionDone]
        assert reader not in reactor.getReaders()


def test_an_exception_of_doread_costs_that_descriptor_alone(reactor: MeshReactor) -> None:
    """doRead that raises is logged and disconnected; the other descriptors are served."""
    one, two = pair()
    three, four = pair()
    with one, two, three, four:

        def broken() -> None:
            raise RuntimeError("broken on purpose")

        bad, good = Reader(reactor, one, broken), Reader(reactor, three)
        reactor.addReader(bad)
        reactor.addReader(good)
        two.send(b"x")
        four.send(b"x")
        with errors() as logged:
            reactor.doIteration(1)
        assert [failure.type for failure in logged] == [RuntimeError]
        assert len(bad.lost) == 1
        assert good.reads == 1


def test_a_raising_connection_lost_costs_no_other_event(reactor: MeshReactor) -> None:
    """The batch goes on behind a connectionLost that raises: an edge is never told twice."""
    one, two = pair()
    three, four = pair()
    with one, two, three, four:

        class Broken(Reader):
            def connectionLost(self, reason: Any) -> None:
                raise RuntimeError("broken on purpose")

        bad = Broken(reactor, one, lambda: main.CONNECTION_DONE)
        reactor.addReader(bad)
        watching = Watching()
        reactor.watch(three.fileno(), watching)
        reactor._poller = Batch(reactor._poller, [(one.fileno(), IN), (three.fileno(), IN)])
        with errors() as logged:
            reactor.doIteration(0)
        assert [failure.type for failure in logged] == [RuntimeError]
        assert watching.events == [IN]
        reactor.unwatch(three.fileno())


def test_a_watched_descriptor_is_told_of_edges_only(reactor: MeshReactor) -> None:
    """Registered once: told what is true already, then of changes, never of the same again."""
    one, two = pair()
    with one, two:
        watching = Watching()
        reactor.watch(one.fileno(), watching)
        reactor.doIteration(1)
        assert watching.events == [OUT]
        reactor.doIteration(0)
        assert watching.events == [OUT]
        two.send(b"x")
        reactor.doIteration(1)
        assert watching.events[-1] & IN
        count = len(watching.events)
        reactor.doIteration(0)
        assert len(watching.events) == count
        two.shutdown(socket.SHUT_WR)
        reactor.doIteration(1)
        assert watching.events[-1] & select.EPOLLRDHUP
        reactor.unwatch(one.fileno())
        reactor.unwatch(one.fileno())
        two.close()
        count = len(watching.events)
        reactor.doIteration(0)
        assert len(watching.events) == count


def test_watching_twice_is_an_error(reactor: MeshReactor) -> None:
    """The kernel refuses a second registration, and the first stays."""
    one, two = pair()
    with one, two:
        watching = Watching()
        reactor.watch(one.fileno(), watching)
        with pytest.raises(FileExistsError):
            reactor.watch(one.fileno(), Watching())
        reactor.doIteration(1)
        assert watching.events
        reactor.unwatch(one.fileno())


def test_a_watcher_that_raises_is_aborted(reactor: MeshReactor) -> None:
    """The exception is logged, abort is called, and the other watchers hear their events."""
    one, two = pair()
    three, four = pair()
    with one, two, three, four:

        def broken(events: int) -> None:
            raise RuntimeError("broken on purpose")

        bad, good = Watching(broken), Watching()
        reactor.watch(one.fileno(), bad)
        reactor.watch(three.fileno(), good)
        with errors() as logged:
            reactor.doIteration(1)
        assert [failure.type for failure in logged] == [RuntimeError]
        assert bad.aborted == 1
        assert (len(good.events), good.aborted) == (1, 0)
        reactor.unwatch(one.fileno())
        reactor.unwatch(three.fileno())


def test_unwatch_after_close_is_harmless(reactor: MeshReactor) -> None:
    """Both ends of a teardown may unwatch, even when the descriptor is closed already."""
    one, two = pair()
    two.close()
    number = one.fileno()
    reactor.watch(number, Watching())
    one.close()
    reactor.unwatch(number)
    reactor.forget_closed(number)


@pytest.mark.parametrize("event", [IN, select.EPOLLHUP | select.EPOLLERR])
def test_a_descriptor_closed_earlier_in_the_batch(reactor: MeshReactor, event: int) -> None:
    """An event of a descriptor that is gone, or of its successor's number, is dropped."""
    one, two = pair()
    three, four = pair()
    number = three.fileno()
    with one, two, four:
        stale = Reader(reactor, three)
        fresh: list[Reader] = []

        def replace() -> None:
            reactor.removeReader(stale)
            three.close()
            successor = Reader(reactor, socket.socket(socket.AF_UNIX))
            assert successor.fileno() == number
            reactor.addReader(successor)
            fresh.append(successor)

        first = Reader(reactor, one, replace)
        reactor.addReader(first)
        reactor.addReader(stale)
        reactor._poller = Batch(reactor._poller, [(one.fileno(), IN), (number, event)])
        reactor.doIteration(0)
        (successor,) = fresh
        assert (stale.reads, successor.reads, successor.lost) == (0, 0, [])
        reactor.removeReader(successor)
        successor.sock.close()


def test_a_watched_number_reused_in_the_batch(reactor: MeshReactor) -> None:
    """As above for watched descriptors: the successor hears its own events, at the next poll."""
    one, two = pair()
    three, four = pair()
    number = three.fileno()
    with one, two, four:
        stale, fresh = Watching(), Watching()

        def replace() -> None:
            reactor.forget_closed(number)
            three.close()
            kept.extend(pair())
            assert kept[0].fileno() == number
            reactor.watch(number, fresh)

        kept: list[socket.socket] = []
        reactor.addReader(Reader(reactor, one, replace))
        reactor.watch(number, stale)
        reactor._poller = Batch(
            reactor._poller, [(one.fileno(), IN), (number, IN | select.EPOLLHUP)]
        )
        reactor.doIteration(0)
        assert (stale.events, fresh.events) == ([], [])
        reactor._poller = reactor._poller._poller
        reactor.doIteration(1)
        assert fresh.events == [OUT]
        reactor.unwatch(number)
        for sock in kept:
            sock.close()


def test_a_batch_is_bounded(reactor: MeshReactor) -> None:
    """One poll asks the kernel for at most BATCH events."""
    asked = []

    class Poller(Batch):
        def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
            asked.append((timeout, most))
            return []

    reactor._poller = Poller(reactor._poller, [])
    reactor.doIteration(None)
    reactor.doIteration(0.5)
    assert asked == [(-1, module.BATCH), (0.5, module.BATCH)]


def test_an_interrupted_poll_is_an_empty_one(reactor: MeshReactor) -> None:
    """EINTR is no error."""

    class Poller(Batch):
        def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
            raise InterruptedError

    reactor._poller = Poller(reactor._poller, [])
    reactor.doIteration(0)


def test_install() -> None:
    """install() makes it the global reactor, in which timers, threads and sockets work."""
    script = """
from meshproxy.net.reactor import MeshReactor, install
made = install()
from twisted.internet import reactor, protocol, endpoints, threads
assert made is reactor and isinstance(reactor, MeshReactor)
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)
class Asks(protocol.Protocol):
    got = b""
    def connectionMade(self):
        self.transport.write(b"x" * 1000000)
    def dataReceived(self, data):
        self.got += data
        if len(self.got) == 1000000:
            self.transport.loseConnection()
    def connectionLost(self, reason):
        threads.deferToThread(lambda: print("done")).addBoth(lambda _: reactor.stop())
port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
reactor.connectTCP("127.0.0.1", port.getHost().port, protocol.ClientFactory.forProtocol(Asks))
reactor.callLater(30, reactor.stop)
reactor.run()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "done\n", done.stderr


def test_what_is_held_is_released_once_in_order(reactor: MeshReactor) -> None:
    """Before the reactor waits, each held transport is released; one that raises costs itself."""
    released: list[int] = []

    class Held:
        def __init__(self, number: int) -> None:
            self.number = number

        def release(self) -> None:
            released.append(self.number)
            if self.number == 1:
                raise RuntimeError("broken")
            if self.number == 2:
                reactor.hold(Held(3))

    reactor.hold(Held(1))
    reactor.hold(Held(2))
    with errors() as logged:
        live.turn(reactor)
    assert released == [1, 2, 3]
    assert [failure.type for failure in logged] == [RuntimeError]


def test_a_reader_takes_over_without_the_kernel_hearing_of_it() -> None:
    """The new reader is called for the descriptor, the old one never again."""
    reactor = MeshReactor()
    ours, theirs = socket.socketpair()
    calls: list[str] = []

    class Reader:
        def __init__(self, name: str) -> None:
            self.name = name

        def fileno(self) -> int:
            return ours.fileno()

        def doRead(self) -> None:
            calls.append(self.name)
            ours.recv(16)

        def logPrefix(self) -> str:
            return self.name

        def connectionLost(self, reason: Any) -> None:
            calls.append("lost")

    first: Any = Reader("first")
    second: Any = Reader("second")
    third: Any = Reader("third")
    reactor.addReader(first)
    take_over(reactor, first, second)
    theirs.send(b"x")
    reactor.doIteration(1)
    # Somebody who reads nothing is taken over from all the same.
    take_over(reactor, first, second)
    take_over(reactor, second, third)
    theirs.send(b"x")
    reactor.doIteration(1)
    assert calls == ["second", "third"]
    reactor.forget(third)
    assert third not in reactor.getReaders()
    ours.close()
    theirs.close()
    reactor.doIteration(0)
    assert calls == ["second", "third"]


def test_a_reader_takes_over_on_any_reactor() -> None:
    """Where the reactor knows nothing of it, one leaves and the other comes."""

    class Other:
        def __init__(self) -> None:
            self.calls: list[tuple[str, str]] = []

        def removeReader(self, reader: Any) -> None:
            self.calls.append(("remove", reader))

        def addReader(self, reader: Any) -> None:
            self.calls.append(("add", reader))

    other = Other()
    take_over(other, "old", "new")
    assert other.calls == [("remove", "old"), ("add", "new")]

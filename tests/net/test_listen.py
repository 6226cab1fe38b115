"""Listening sockets: what they hand over, what they set, and what they survive."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshproxy.net import listen as module
from meshproxy.net.listen import Port, listen
from meshproxy.net.reactor import MeshReactor
from tests.net import live
from tests.net.logged import errors

LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own."""
    made = MeshReactor()
    yield made
    live.close(made)


@pytest.fixture
def accepted() -> Iterator[list[tuple[socket.socket, Any]]]:
    """What was accepted; closed afterwards."""
    held: list[tuple[socket.socket, Any]] = []
    yield held
    for sock, _ in held:
        sock.close()


def collect(held: list[tuple[socket.socket, Any]]) -> Callable[[socket.socket, Any], None]:
    """An accept function that keeps everything."""
    return lambda sock, peer: held.append((sock, peer))


def dial(port: Port) -> socket.socket:
    """A blocking connection to it."""
    return socket.create_connection(port.socket.getsockname()[:2], timeout=20)


def test_accept_gets_a_nonblocking_socket_that_is_not_inherited(
    reactor: MeshReactor, accepted: list[Any]
) -> None:
    """The socket is connected, non-blocking, close-on-exec, and its peer is told."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted))
    with dial(port) as client:
        live.turn_until(reactor, lambda: accepted)
        sock, peer = accepted[0]
        assert peer == client.getsockname()
        assert sock.gettimeout() == 0.0
        assert not os.get_inheritable(sock.fileno())
        assert port.bound == f"127.0.0.1:{sock.getsockname()[1]}"
        assert port.getHost().port == sock.getsockname()[1]
    port.stopListening()


def test_accepting_can_begin_later(reactor: MeshReactor, accepted: list[Any]) -> None:
    """Until then the kernel holds what comes; the port can also end without ever accepting."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted), begin=False)
    with dial(port) as client:
        live.turn(reactor, 5)
        assert accepted == []
        port.startReading()
        live.turn_until(reactor, lambda: accepted)
        assert accepted[0][1] == client.getsockname()
    port.stopListening()
    never = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted), begin=False)
    where = never.socket.getsockname()
    never.stopListening()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


def test_options_are_inherited_from_the_listening_socket(
    reactor: MeshReactor, accepted: list[Any]
) -> None:
    """nodelay and keepalive are set before accept, at no cost for each connection."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted), keepalive=30.0)
    plain = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted), nodelay=False)
    with dial(port), dial(plain):
        live.turn_until(reactor, lambda: len(accepted) == 2)
        by_port = {sock.getsockname()[1]: sock for sock, _ in accepted}
        tuned = by_port[port.getHost().port]
        assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert tuned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        stock = by_port[plain.getHost().port]
        assert not stock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not stock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    ("keepalive", "on", "idle"), [(False, False, None), (True, True, None), (0.2, True, 1)]
)
def test_set_keepalive(keepalive: bool | float, on: bool, idle: int | None) -> None:
    """False leaves it off, True takes the system's times, a number is the idle time."""
    with socket.socket() as sock:
        before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        module.set_keepalive(sock, keepalive)
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is on
        after = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        assert after == (before if idle is None else idle)


def test_at_most_accepts_in_one_turn(reactor: MeshReactor, accepted: list[Any]) -> None:
    """A flood of connections leaves the other descriptors their turn."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted), backlog=200)
    clients = [dial(port) for _ in range(module.ACCEPTS + 10)]
    port.doRead()
    assert len(accepted) == module.ACCEPTS
    port.doRead()
    assert len(accepted) == module.ACCEPTS + 10
    for client in clients:
        client.close()


def test_accept_that_raises_costs_that_connection(
    reactor: MeshReactor, accepted: list[Any]
) -> None:
    """It is logged and closed; the next connection is served."""
    broken = [True]

    def accept(sock: socket.socket, peer: Any) -> None:
        if broken.pop():
            broken.append(False)
            raise RuntimeError("broken on purpose")
        broken.append(False)
        accepted.append((sock, peer))

    port = listen(reactor, socket.AF_INET, LOOPBACK, accept)
    with errors() as logged, dial(port) as one, dial(port):
        live.turn_until(reactor, lambda: accepted)
        assert one.recv(1) == b""
    assert [failure.type for failure in logged] == [RuntimeError]


def test_accept_may_stop_the_port(reactor: MeshReactor, accepted: list[Any]) -> None:
    """stopListening from inside accept ends the loop without an error."""
    ports: list[Port] = []

    def accept(sock: socket.socket, peer: Any) -> None:
        accepted.append((sock, peer))
        ports[0].stopListening()

    ports.append(listen(reactor, socket.AF_INET, LOOPBACK, accept))
    with dial(ports[0]), dial(ports[0]):
        live.turn_until(reactor, lambda: accepted)
    assert len(accepted) == 1


def test_stop_listening(reactor: MeshReactor, accepted: list[Any]) -> None:
    """Established connections live on, new ones are refused; stopping twice is nothing."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted))
    where = port.socket.getsockname()
    with dial(port) as client:
        live.turn_until(reactor, lambda: accepted)
        results: list[object] = []
        port.stopListening().addCallback(results.append)
        port.loseConnection()
        assert results == [None]
        assert port not in reactor.getReaders()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where, timeout=20)
        accepted[0][0].send(b"alive")
        assert client.recv(10) == b"alive"


def test_without_descriptors(
    reactor: MeshReactor, accepted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest connection is closed at once instead of spinning, and the port lives on."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted))
    genuine = port.socket

    class Exhausted:
        """Refuses one accept as the kernel does at the process's limit."""

        def __init__(self) -> None:
            self.left = 1

        def _accept(self) -> Any:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return genuine._accept()  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> Any:
            return getattr(genuine, name)

    port.socket = Exhausted()  # type: ignore[assignment]
    reserve = port._reserve
    with dial(port) as client:
        live.turn_until(reactor, lambda: port.exhausted)
        assert client.recv(1) == b""
        assert accepted == []
        assert port._reserve is not None
    with dial(port):
        live.turn_until(reactor, lambda: accepted)
    assert reserve is not None
    port.stopListening()
    assert port._reserve is None


def test_transient_errors_are_passed_over(reactor: MeshReactor, accepted: list[Any]) -> None:
    """A connection that its client gave up before accept does not hide the next."""
    port = listen(reactor, socket.AF_INET, LOOPBACK, collect(accepted))
    genuine = port.socket
    raised: list[int] = []

    class Aborted:
        """Fails one accept as the kernel does when the client gave up."""

        def _accept(self) -> Any:
            if not raised:
                raised.append(1)
                raise OSError(errno.ECONNABORTED, "aborted")
            return genuine._accept()  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> Any:
            return getattr(genuine, name)

    port.socket = Aborted()  # type: ignore[assignment]
    with dial(port):
        live.turn_until(reactor, lambda: accepted)
    assert raised


def test_a_busy_address(reactor: MeshReactor) -> None:
    """The system's reason is raised and nothing stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use") as caught:
            listen(reactor, socket.AF_INET, taken.getsockname(), lambda *_: None)
        assert caught.value.errno == errno.EADDRINUSE
        assert len(os.listdir("/proc/self/fd")) == before
    assert reactor.getReaders() == [reactor.waker]


def test_reuse_port(reactor: MeshReactor) -> None:
    """Two ports may share an address when both ask for it."""
    one = listen(reactor, socket.AF_INET, LOOPBACK, lambda *_: None, reuse_port=True)
    two = listen(
        reactor, socket.AF_INET, one.socket.getsockname(), lambda *_: None, reuse_port=True
    )
    assert one.bound == two.bound


def test_ipv6(reactor: MeshReactor, accepted: list[Any]) -> None:
    """An IPv6 address is shown in brackets."""
    try:
        port = listen(reactor, socket.AF_INET6, ("::1", 0), collect(accepted))
    except OSError:
        pytest.skip("no IPv6 here")
    with dial(port):
        live.turn_until(reactor, lambda: accepted)
    assert port.bound.startswith("[::1]:")


def test_unix(reactor: MeshReactor, accepted: list[Any], tmp_path: Path) -> None:
    """A UNIX socket is made, served, and unlinked at the end."""
    path = str(tmp_path / "s")
    port = listen(reactor, socket.AF_UNIX, path, collect(accepted), nodelay=True, keepalive=True)
    assert port.bound == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        live.turn_until(reactor, lambda: accepted)
    port.stopListening()
    assert not os.path.exists(path)


def test_a_stale_unix_socket_is_replaced(reactor: MeshReactor, tmp_path: Path) -> None:
    """What a dead process left is removed; a socket in use and a file are left alone."""
    path = str(tmp_path / "stale")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    port = listen(reactor, socket.AF_UNIX, path, lambda *_: None)
    with pytest.raises(OSError, match="in use"):
        listen(reactor, socket.AF_UNIX, path, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    port.stopListening()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen(reactor, socket.AF_UNIX, str(file), lambda *_: None)
    assert file.read_text() == "precious"


def test_a_unix_path_that_is_gone_already(reactor: MeshReactor, tmp_path: Path) -> None:
    """Somebody else unlinked it: stopping is no error."""
    path = str(tmp_path / "s")
    port = listen(reactor, socket.AF_UNIX, path, lambda *_: None)
    os.unlink(path)
    port.stopListening()

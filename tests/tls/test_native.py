"""Reads and writes without a layer between: by both ways, the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls import native
from meshproxy.tls.native import AGAIN, BROKEN, ENDED
from tests.net import live
from tests.tls.wire import Client, client_context, tls_pair

WAYS: dict[str, tuple[Any, Any, Any]] = {
    "direct": (native._handle, native._read, native._write),
    "slow": (native._slow_handle, native._slow_read, native._slow_write),
}


class Scene:
    """A connection by one of the two ways, and its client."""

    def __init__(self, way: str, **options: Any) -> None:
        self.reactor = MeshReactor()
        self.sock, self.connection, self.client = tls_pair(self.reactor, **options)
        handle, self._read, self._write = WAYS[way]
        self.handle = handle(self.connection)

    def read(self) -> tuple[bytes, int]:
        """Bytes, and why there is no more."""
        got = self._read(self.handle)
        return (got, AGAIN) if isinstance(got, bytes) else got

    def write(self, data: Any) -> int:
        """As the module's."""
        return self._write(self.handle, data)  # type: ignore[no-any-return]

    def until(self, size: int) -> bytes:
        """So many bytes of the client's."""
        got = b""
        while len(got) < size:
            self.client.pump()
            got += self.read()[0]
        return got


@pytest.fixture
def scene() -> Iterator[Any]:
    """Makes scenes."""
    made: list[Scene] = []

    def make(way: str, **options: Any) -> Scene:
        made.append(Scene(way, **options))
        return made[-1]

    yield make
    for one in made:
        one.sock.close()
        live.close(one.reactor)


def test_the_binding_has_what_is_needed() -> None:
    """With the pyOpenSSL that the tests run with, the direct way is taken."""
    assert native.DIRECT
    assert native.read is native._read


@pytest.mark.parametrize("way", WAYS)
def test_bytes(scene: Any, way: str) -> None:
    """Of any kind and size; nothing there is AGAIN."""
    made = scene(way)
    assert made.read() == (b"", AGAIN)
    made.client.write(b"x" * 1_000_000)
    assert made.until(1_000_000) == b"x" * 1_000_000
    for data in (b"bytes", bytearray(b"array"), memoryview(b"views")):
        assert made.write(data) == 5
    assert made.client.reply(15) == b"bytesarrayviews"


@pytest.mark.parametrize("way", WAYS)
def test_a_full_socket(scene: Any, way: str) -> None:
    """AGAIN until there is room; the same bytes, from another place in memory, go on."""
    made = scene(way)
    sent = 0
    while (count := made.write(b"z" * 16384)) > 0:
        sent += count
    assert count == AGAIN
    made.client.until(lambda: len(made.client.got) == sent)
    assert made.write(bytearray(b"z" * 16384)) == 16384
    made.client.reply(sent + 16384)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("last", [b"", b"bye"])
def test_ends(scene: Any, way: str, last: bytes) -> None:
    """close_notify is ENDED, once and again; the end without it BROKEN."""
    made = scene(way)
    if last:
        made.client.write(last)
    made.client.notify()
    assert _to_the_end(made) == (last, ENDED)
    assert made.read() == (b"", ENDED)
    cut = scene(way)
    if last:
        cut.client.write(last)
    cut.client.sock.close()
    assert _to_the_end(cut) == (last, BROKEN)
    assert SSL._lib.ERR_peek_error() == 0  # type: ignore[attr-defined]


def _to_the_end(made: Scene) -> tuple[bytes, int]:
    got = b""
    while True:
        data, why = made.read()
        got += data
        if why != AGAIN:
            return got, why


@pytest.mark.parametrize("way", WAYS)
def test_garbage_and_resets(scene: Any, way: str) -> None:
    """BROKEN, with nothing left in OpenSSL's queue."""
    made = scene(way)
    made.client.sock.send(b"\x17\x03\x03\x00\x10" + b"g" * 16)
    assert _to_the_end(made) == (b"", BROKEN)
    reset = scene(way)
    reset.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    reset.client.sock.close()
    while (sent := reset.write(b"x" * 16384)) > 0:
        pass
    assert sent == BROKEN
    assert SSL._lib.ERR_peek_error() == 0  # type: ignore[attr-defined]


def test_shutdown(scene: Any) -> None:
    """close_notify goes out; on a connection that is broken nothing happens."""
    made = scene("direct")
    native.shutdown(made.connection)
    made.client.until(lambda: made.client.ended)
    broken = scene("direct")
    broken.client.sock.send(b"garbage, a whole record of it")
    _to_the_end(broken)
    native.shutdown(broken.connection)
    assert SSL._lib.ERR_peek_error() == 0  # type: ignore[attr-defined]


def test_resumption(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told where the binding tells."""
    made = scene("direct")
    assert not native.reused(made.connection)
    context = client_context(version="1.2")
    first = scene("direct", client=context)
    session = first.client.tls.session
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    connection = SSL.Connection(first.connection.get_context(), ours)
    connection.set_accept_state()
    client = Client(first.reactor, theirs, context, session=session)
    done = False
    while not (done and client.done):
        client.pump()
        try:
            connection.do_handshake()
            done = True
        except SSL.WantReadError:
            pass
    assert native.reused(connection)
    monkeypatch.delattr(native._lib, "SSL_session_reused")
    assert not native.reused(connection)
    ours.close()

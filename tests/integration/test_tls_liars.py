"""
Endpoints that lie to TLS as a client: each costs its own connection, at once or when the time for
connecting is over; the client of the proxy hears of it, the others are served, nothing is left.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import HOST, PATIENCE, Proxy, Server
from tests.integration.tls_raw import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    DATA,
    HANDSHAKE,
    RawServer,
    key_update,
    record,
)
from tests.integration.wire import ask, eventually, linger_reset, metric
from tests.tls.authority import Authority

Lie = Callable[[socket.socket, Path], None]

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

# Of TLS 1.2, with ECDHE-ECDSA-AES128-GCM-SHA256 and the empty renegotiation_info.
SERVER_HELLO = (
    b"\x02\x00\x00\x2d\x03\x03" + bytes(range(32)) + b"\x00\xc0\x2b\x00\x00\x05\xff\x01\x00\x01\x00"
)


def _endless(*content: bytes, first: bytes = SERVER_HELLO) -> Lie:
    """A hello, and then the same for ever."""

    def lie(sock: socket.socket, _: Path) -> None:
        sock.recv(65536)
        sock.sendall(record(HANDSHAKE, first))
        many = b"".join(content) * max(1, 262144 // len(b"".join(content)))
        while True:
            sock.sendall(many)

    return lie


def _once(data: bytes) -> Lie:
    """It says something in place of its hello, and waits for the end."""

    def lie(sock: socket.socket, _: Path) -> None:
        sock.recv(65536)
        sock.sendall(data)
        while sock.recv(65536):
            pass

    return lie


def _cut(version: str, bend: Callable[[bytes], bytes], wait: bool) -> Lie:
    """A whole first flight, changed."""

    def lie(sock: socket.socket, folder: Path) -> None:
        with RawServer(sock, folder, version) as server:
            sock.sendall(bend(server.first()))
            while wait and server.hear():
                pass

    return lie


def _leaves(sock: socket.socket, _: Path) -> None:
    """It closes at once."""


def _leaves_behind_the_hello(sock: socket.socket, _: Path) -> None:
    sock.recv(65536)


def _resets(sock: socket.socket, _: Path) -> None:
    sock.recv(100)
    linger_reset(sock)


def _silent(sock: socket.socket, _: Path) -> None:
    while sock.recv(65536):
        pass


def _bent(data: bytes) -> bytes:
    at = len(data) - 30
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


LIES: dict[str, tuple[Lie, str]] = {
    "noise": (_once(b"\xff" * 1000), "not TLS"),
    "plain": (_once(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), "not TLS"),
    "zeros": (_once(bytes(70000)), "not TLS"),
    "alert": (_once(record(ALERT, b"\x02\x28")), "alert: handshake failure"),
    "data": (_once(record(DATA, bytes(100))), ""),
    "long": (_once(record(HANDSHAKE, b"", length=0x4801) + bytes(0x4801)), ""),
    "client-hello": (_once(record(HANDSHAKE, b"\x01\x00\x00\x00")), ""),
    "half-hello": (_once(record(HANDSHAKE, SERVER_HELLO[:20], length=20)), "handshake timeout"),
    "leaves": (_leaves, ""),
    "leaves-then": (_leaves_behind_the_hello, "connection closed"),
    "resets": (_resets, ""),
    "silent": (_silent, "handshake timeout"),
    **{
        f"{name}-{version[-1]}": (_cut(version, bend, wait), reason)
        for version in ("1.2", "1.3")
        for name, bend, wait, reason in (
            ("half-stalls", lambda flight: flight[: len(flight) // 2], True, "handshake timeout"),
            ("half-ends", lambda flight: flight[: len(flight) // 2], False, "connection closed"),
            ("bent", _bent, True, ""),
        )
    },
    "huge": (_endless(bytes(16384)), ""),
    "certificates": (
        # Of 16 MiB in all, of which the first says that it is that long.
        _endless(
            record(HANDSHAKE, bytes(16384)), first=SERVER_HELLO + b"\x0b\xff\xff\xff\xff\xff\xfc"
        ),
        "excessive message size",
    ),
    "requests": (_endless(record(HANDSHAKE, bytes(16384))), "handshake timeout"),
    "small-requests": (_endless(record(HANDSHAKE, bytes(4))), "handshake timeout"),
    "warnings": (_endless(record(ALERT, b"\x01\x5a")), ""),
    "nothing": (_endless(record(HANDSHAKE, b"")), ""),
    "ciphers": (_endless(record(CHANGE_CIPHER_SPEC, b"\x01")), ""),
}


def _answers(say: Callable[[RawServer], bytes], *, asked: bool = True) -> Lie:
    """A good handshake; what follows (behind a request, or at once) is not."""

    def lie(sock: socket.socket, folder: Path) -> None:
        with RawServer(sock, folder) as server:
            server.shake()
            if asked:
                server.asked()
            sock.sendall(say(server))
            while server.hear():
                pass

    return lie


def _updates(server: RawServer) -> bytes:
    seal = server.writer()
    made = []
    for _ in range(2000):
        made.append(seal.record(HANDSHAKE, key_update(True)))
        seal.renew()
    return b"".join(made) + seal.record(99, b"")


def _tickets(server: RawServer) -> bytes:
    seal = server.writer()
    body = bytes(4) + bytes(4) + b"\x01\x00" + b"\x00\x10" + os.urandom(16) + b"\x00\x00"
    ticket = b"\x04" + len(body).to_bytes(3, "big") + body
    return b"".join(seal.record(HANDSHAKE, ticket) for _ in range(2000)) + seal.record(99, b"")


LATER: dict[str, Lie] = {
    "plain-answer": _answers(lambda _: ANSWER),
    "bent-answer": _answers(lambda server: _bent(server.sealed(ANSWER * 2))),
    "noise-later": _answers(lambda _: bytes(1000)),
    "alert-later": _answers(lambda server: server.writer().record(ALERT, b"\x02\x50")),
    "empty-data": _answers(
        lambda server: b"".join(map(server.writer().record, [DATA] * 1000, [b""] * 1000))
    ),
    "updates": _answers(_updates),
    "tickets": _answers(_tickets),
    "hello-later": _answers(
        lambda server: server.writer().record(HANDSHAKE, b"\x00\x00\x00\x00") * 2
    ),
    "updates-first": _answers(_updates, asked=False),
    "noise-first": _answers(lambda _: bytes(1000), asked=False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates."""
    folder = tmp_path_factory.mktemp("liars")
    authority = Authority()
    authority.write(folder)
    authority.issue("a.example").write(folder, "server")
    return folder


def _honest(sock: socket.socket, folder: Path) -> None:
    with RawServer(sock, folder) as server:
        server.shake()
        while True:
            server.asked()
            sock.sendall(server.sealed(ANSWER))


def _bind(lie: Lie, folder: Path) -> Callable[[socket.socket], None]:
    return lambda sock: lie(sock, folder)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Proxy]:
    """A proxy with a cluster and a TCP listener for each of them."""
    lies = {name: lie for name, (lie, _) in LIES.items()} | LATER | {"honest": _honest}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(Server(_bind(lie, folder))) for name, lie in lies.items()
        }
        # Only where time is what ends it there is little of it.
        slow = {name for name, (_, reason) in LIES.items() if reason == "handshake timeout"}
        clusters = "".join(
            f"  {name}:\n"
            f"    endpoints: [ {{ address: '{server.address}', server_name: a.example }} ]\n"
            f"    tls: {{ ca: {folder}/ca.pem }}\n"
            f"    connect_timeout: {'200ms' if name in slow else '20s'}\n"
            for name, server in servers.items()
        )
        routes = "".join(
            f"        - {{ match: {{ path: /{name} }}, to: {name} }}\n" for name in servers
        )
        tcp = "".join(
            f"  tcp-{name}: {{ listen: '{HOST}:${{{name.replace('-', '_')}}}',"
            f" tcp: {{ to: {name}, idle_timeout: 10s }} }}\n"
            for name in servers
        ).replace("${1", "${x1")
        yield stack.enter_context(
            Proxy(
                f"listeners:\n  web:\n    listen: '{HOST}:$web'\n    http:\n"
                f"      routes:\n{routes}{tcp}clusters:\n{clusters}"
            )
        )


def _descriptors(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{proxy.process.pid}/fd"))


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    """The same, and nothing is left afterwards but the honest endpoint's connection."""
    assert ask(running, "/honest").body == b"hello"
    before = _descriptors(running)
    yield running
    assert ask(running, "/honest").body == b"hello"
    eventually(lambda: _descriptors(running) <= before, "all to be closed")
    names = ("meshproxy_cluster_active", "meshproxy_listener_connections_active")
    eventually(lambda: not any(metric(running, name) for name in names), "nothing to be active")
    assert "Traceback" not in running.output


@pytest.mark.parametrize("lie", LIES)
def test_in_the_handshake(proxy: Proxy, lie: str) -> None:
    """A request gets a 503 that says what was wrong."""
    response = ask(proxy, f"/{lie}")
    assert response.status == 503
    assert f"TLS_error: {LIES[lie][1]}".encode() in response.body


@pytest.mark.parametrize("lie", LIES)
def test_in_the_handshake_of_tcp(proxy: Proxy, lie: str) -> None:
    """A TCP client's connection ends."""
    _ends(proxy, lie)


@pytest.mark.parametrize("lie", LATER)
def test_behind_the_handshake(proxy: Proxy, lie: str) -> None:
    """A request gets a 502 or 503, never what the endpoint did not say in TLS."""
    response = ask(proxy, f"/{lie}")
    assert response.status in (502, 503)
    assert b"hello" not in response.body


@pytest.mark.parametrize("lie", LATER)
def test_behind_the_handshake_of_tcp(proxy: Proxy, lie: str) -> None:
    """A TCP client's connection ends, and nothing comes."""
    _ends(proxy, lie)


def _ends(proxy: Proxy, lie: str) -> None:
    # It may be over before we know that we are connected.
    try:
        with proxy.connect(lie.replace("-", "_")) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert sock.recv(65536) == b""
    except ConnectionError:
        pass

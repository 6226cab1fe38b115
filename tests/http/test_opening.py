"""A connection being opened: what is told of it, and the header that names a client."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.http.opening import Opening, proxy_header, socket_address
from meshproxy.net.reactor import MeshReactor
from tests.http.world import PLAIN, World, get
from tests.net import live

Make = Callable[..., World]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"192.0.2.1:80", ("192.0.2.1", 80)),
        (b"[2001:db8::1]:80", ("2001:db8::1", 80)),
        (b"2001:db8::1", ("2001:db8::1", 0)),
        (b"[2001:db8::1]", ("2001:db8::1", 0)),
        (b"192.0.2.1", ("192.0.2.1", 0)),
        (b"unix:", None),
        (b"unknown", None),
        (b"_hidden:99", None),
        (b"192.0.2.1:port", None),
        (b"192.0.2.1:99999", None),
        (b"caf\xe9", None),
        (b"", None),
    ],
)
def test_addresses_for_the_proxy_header(text: bytes, address: Any) -> None:
    """A connection's own, or whatever a trusted hop reported: never an error."""
    assert socket_address(text) == address


class Pool:
    """Notes what an opening says."""

    def __init__(self, reactor: Any, address: Any) -> None:
        self.reactor = reactor
        self.cluster = SimpleNamespace(connect_timeout=20.0, nodelay=True, tls=None)
        self.endpoint = SimpleNamespace(family=socket.AF_INET, sockaddr=address)
        self.told: list[Any] = []

    def opened(self, _: Opening, sock: socket.socket) -> None:
        """It is up."""
        self.told.append(sock.getpeername())
        sock.close()

    def failed(self, _: Opening, reason: str) -> None:
        """It is not."""
        self.told.append(reason)


@pytest.mark.parametrize("how", ["up", "refused", "cancelled"])
def test_what_the_pool_is_told(how: str) -> None:
    """One thing, once, by real sockets; nothing after it was cancelled."""
    reactor = MeshReactor()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        if how == "refused":
            server.close()
        pool: Any = Pool(reactor, address)
        opening = Opening(pool, None, 0.0)
        opening.cancel()  # not begun: there is nothing to give up
        try:
            opening.begin()
            if how == "cancelled":
                opening.cancel()
                live.turn(reactor)
            else:
                live.turn_until(reactor, lambda: pool.told)
                live.turn(reactor)
        finally:
            live.close(reactor)
    assert pool.told == {"up": [address], "refused": ["refused"], "cancelled": []}[how]


@pytest.mark.parametrize(("version", "first"), [("v1", b"PROXY TCP4 "), ("v2", b"\r\n\r\n\0")])
def test_versions_of_the_header(version: str, first: bytes) -> None:
    """Each begins as its specification says."""
    exchange: Any = SimpleNamespace(client=b"192.0.2.1:80", local=b"192.0.2.2:81")
    assert proxy_header(version, exchange).startswith(first)


@pytest.mark.parametrize("keepalive", ["true", "90s", "false"])
def test_keepalive(world: Make, monkeypatch: pytest.MonkeyPatch, keepalive: str) -> None:
    """Sockets probe the endpoint as the cluster says."""
    told: list[Any] = []
    monkeypatch.setattr(
        "meshproxy.http.opening.set_keepalive", lambda _, setting: told.append(setting)
    )
    made = world(PLAIN + f"    keepalive: {keepalive}\n")
    made.client(get())
    assert told == {"true": [True], "90s": [90.0], "false": []}[keepalive]
    made.settle()


class Tls:
    """Says at once, or never, what becomes of TLS."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.left = 0.0
        self.came = b""
        self.peer: socket.socket | None = None
        self.cancelled = 0

    def secure(
        self, _: Any, sock: Any, peer: Any, endpoint: Any, left: float, done: Any, failed: Any
    ) -> Any:
        """As ClientTls.secure."""
        self.left = left
        assert peer == endpoint.sockaddr
        if self.outcome is None:
            return self
        if isinstance(self.outcome, str):
            sock.close()
            failed(self.outcome)
        else:
            done(SimpleNamespace(socket=sock))
        return None

    def cancel(self) -> None:
        """Nobody wants it."""
        self.cancelled += 1


@pytest.mark.parametrize("outcome", [True, "certificate has expired", None])
@pytest.mark.parametrize("proxy_protocol", [None, "v1"])
def test_what_the_pool_is_told_of_tls(outcome: Any, proxy_protocol: str | None) -> None:
    """
    One thing, once, with the time that connecting left; before it the client is named, in the
    open; what is cancelled meanwhile is cancelled there.
    """
    reactor = MeshReactor()
    told: list[Any] = []
    tls = Tls(outcome)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool: Any = Pool(reactor, server.getsockname())
        pool.cluster.tls = tls
        pool.cluster.proxy_protocol = proxy_protocol
        pool.opened = lambda _, sock, transport: told.append((sock, transport.socket))
        pool.failed = lambda _, reason, secure: told.append((reason, secure))
        exchange: Any = SimpleNamespace(client=b"192.0.2.1:80", local=b"192.0.2.2:81")
        opening = Opening(pool, exchange, 0.0)
        try:
            opening.begin()
            live.turn_until(reactor, lambda: tls.left)
            assert 0 < tls.left <= 20
            opening.cancel()
        finally:
            live.close(reactor)
        if outcome is not None:
            ((one, other),) = told
            expected = (outcome, True) if isinstance(outcome, str) else (one, one)
            assert (one, other) == expected
        assert (tls.cancelled, len(told)) == ((1, 0) if outcome is None else (0, 1))
        if proxy_protocol is not None:
            peer, _ = server.accept()
            with peer:
                assert peer.recv(100) == b"PROXY TCP4 192.0.2.1 192.0.2.2 80 81\r\n"
        if outcome is True:
            one.close()

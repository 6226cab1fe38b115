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

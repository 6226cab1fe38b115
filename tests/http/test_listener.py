"""An HTTP listener: connections counted and bounded, exchanges counted once."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IProtocolFactory
from zope.interface.verify import verifyObject

from meshproxy.config import load
from meshproxy.http import listener as module
from meshproxy.http.listener import HttpListener
from meshproxy.net.proxy_protocol import Header
from tests.http.world import PLAIN, Transport, World, get, head, ok, post, status

Make = Callable[..., World]
FEW = PLAIN.replace("http:", "max_connections: 2\n    http:")


class Sock:
    """An accepted socket that only closes."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Note it."""
        self.closed = True


def numbers(made: World) -> dict[str, float]:
    """The listener's counters, without their prefix."""
    listener: Any = made.listener
    slots = {
        "connections": listener._connections_total,
        "refused": listener._connections_refused,
        "open": listener._connections_active,
        "aborted": listener._aborted,
        "received": listener._bytes_received,
        "sent": listener._bytes_sent,
    }
    found = {name: made.value(slot) for name, slot in slots.items()}
    for number in range(1, 6):
        found[f"{number}xx"] = made.value(listener._responses[number])
    return found


def test_accepting(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets become connections up to the bound; one more is closed and counted."""
    made = world(FEW)
    socks = [Sock() for _ in range(3)]

    def transport(_reactor: Any, _sock: Any, _peer: Any) -> Transport:
        one = Transport(made.clock)
        made.downstreams.append(one)
        return one

    monkeypatch.setattr(module, "StreamTransport", transport)
    for number, sock in enumerate(socks):
        made.listener.accept(sock, ("192.0.2.9", 1000 + number))  # type: ignore[arg-type]
    assert [sock.closed for sock in socks] == [False, False, True]
    assert made.listener.active == 2
    assert made.downstreams[0].protocol.client == b"192.0.2.9:1000"
    made.downstreams[0].end()
    made.listener.accept(socks[0], ("192.0.2.9", 2000))  # type: ignore[arg-type]
    found = numbers(made)
    assert (found["connections"], found["refused"], found["open"]) == (3, 1, 2)
    made.settle()
    assert numbers(made)["open"] == 0


def test_counting(world: Make) -> None:
    """Responses by class, bodies by bytes, clients that went, durations; each once."""
    made = world()
    client = made.client(post(b"hello"))
    made.turn(0.3)
    made.upstream.receive(ok(b"world!"))
    client.receive(get())
    made.upstream.receive(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    client.receive(get())
    made.upstream.receive(b"garbage\r\n\r\n")
    client.receive(get())
    client.end()
    made.turn()
    found = numbers(made)
    text = b"upstream connect error or disconnect/reset before headers. reset reason: "
    assert found["received"] == 5
    assert found["sent"] == 6 + 2 + len(text + b"protocol error")
    assert [found[f"{n}xx"] for n in range(1, 6)] == [0, 1, 0, 1, 1]
    assert found["aborted"] == 1
    listener: Any = made.listener
    base, total = listener._duration_base, listener._duration_sum
    assert sum(made.registry.values[base:total]) == 4
    assert made.value(total) == pytest.approx(0.3)
    stats = made.clusters["site"].stats
    assert (made.value(stats.bytes_sent), made.value(stats.bytes_received)) == (5, found["sent"])
    assert made.value(stats.responses[2]) == 1
    made.settle()


def test_the_local_address(world: Make) -> None:
    """That of the listener when every connection came to the same, else the socket's."""
    made = world()
    made.listener.set_local(b"192.0.2.80:80")
    assert made.client().protocol.local == b"127.0.0.1:8080"
    made.settle()


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (IPv4Address("TCP", "192.0.2.1", 5), b"192.0.2.1:5"),
        (IPv6Address("TCP", "2001:db8::1", 5), b"[2001:db8::1]:5"),
        (UNIXAddress("/x"), b"unix:"),
    ],
)
def test_the_factory(world: Make, address: Any, client: bytes) -> None:
    """For transports that are not ours: Twisted's interface, addresses and the bound."""
    made = world(FEW)
    factory: Any = made.listener.factory()
    assert verifyObject(IProtocolFactory, factory)
    factory.doStart()
    for _ in range(2):
        protocol = factory.buildProtocol(address)
        assert protocol.client == client
        transport = Transport(made.clock)
        transport.getPeer = lambda: address  # type: ignore[attr-defined]
        made.downstreams.append(transport)
        transport.start(protocol)
    assert factory.buildProtocol(address) is None
    assert numbers(made)["refused"] == 1
    transport.receive(get())
    made.upstream.receive(ok())
    assert status(transport.take()) == 200
    assert made.records[0].client == client
    factory.doStop()
    made.settle()


def test_without_a_log(world: Make) -> None:
    """Nothing is written, everything works."""
    made = world()
    made.listener._log = None
    client = made.client(get())
    made.upstream.receive(ok())
    assert status(client.take()) == 200
    made.settle()


def test_a_route_counts_what_it_takes(world: Any) -> None:
    """Requests in flight, their duration and their answers, each under the route's name."""
    made = world()
    client = made.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    def route(name: str) -> tuple[int, Any]:
        (family,) = [f for f in made.registry.families if f.name == f"meshproxy_route_{name}"]
        return next(iter(family.series.values())), family

    active, _ = route("requests_active")
    assert made.value(active) == 1
    made.clock.advance(0.2)
    made.upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 200")
    assert made.value(active) == 0
    base, family = route("request_duration_seconds")
    buckets = [made.value(base + n) for n in range(len(family.bounds) + 1)]
    assert sum(buckets) == 1
    assert buckets[family.bounds.index(0.25)] == 1
    made.settle()


class FakeTls:
    """What a listener needs of a ServerTls."""

    def __init__(self) -> None:
        self.under_way: dict[Any, None] = {}
        self.accepted: list[Any] = []
        self.calls: list[str] = []
        self.secured: Any = None

    def accept(self, sock: Any, peer: Any) -> None:
        """A client comes."""
        self.accepted.append((sock, peer))
        self.under_way[sock] = None

    def drain(self) -> None:
        """Noted."""
        self.calls.append("drain")

    def stop(self) -> None:
        """Noted."""
        self.calls.append("stop")


class Secured(Transport):
    """A transport whose handshake is over."""

    def __init__(self, clock: Any, peer: tuple[str, int], facts: Any) -> None:
        super().__init__(clock)
        self.socket = Sock()
        self.peer = peer
        self.facts = facts


def secure(made: World, text: str = PLAIN) -> FakeTls:
    """Give the world a listener with TLS in place of its own."""
    tls: Any = FakeTls()
    model = load(text, "test.yaml").configuration.listeners["web"]
    made.listener = HttpListener(
        made.clock,
        made.wheel,
        made.registry,
        "secure",
        model,
        made.clusters,
        made.records.append,
        tls=tls,
    )
    return tls  # type: ignore[no-any-return]


def test_clients_with_tls(world: Make) -> None:
    """TLS gets the socket; the connection knows its facts, and everything says https."""
    made = world()
    tls = secure(made)
    sock: Any = Sock()
    made.listener.accept(sock, ("192.0.2.9", 7))
    assert tls.accepted == [(sock, ("192.0.2.9", 7))]
    facts = object()
    transport = Secured(made.clock, ("192.0.2.9", 7), facts)
    tls.under_way.clear()
    made.downstreams.append(transport)
    tls.secured(transport, None)
    transport.receive(get())
    made.upstream.receive(ok())
    (record,) = made.records
    assert (record.client, record.client_ip) == (b"192.0.2.9:7", b"192.0.2.9")
    assert (record.tls, record.scheme) == (facts, b"https")
    assert b"x-forwarded-proto: https\r\n" in made.upstream.sent


@pytest.mark.parametrize(
    ("source", "client"),
    [
        (("198.51.100.7", 9), (b"198.51.100.7:9", b"198.51.100.7")),
        (("2001:db8::7", 9), (b"[2001:db8::7]:9", b"2001:db8::7")),
        (None, (b"192.0.2.9:7", b"192.0.2.9")),
        ("/a/path", (b"192.0.2.9:7", b"192.0.2.9")),
    ],
)
def test_a_proxy_header_before_tls(world: Make, source: Any, client: Any) -> None:
    """It was read with the hello: the client is known, and no second one is awaited."""
    made = world()
    tls = secure(made, PLAIN.replace("http:", "proxy_protocol: true\n    http:"))
    transport = Secured(made.clock, ("192.0.2.9", 7), None)
    made.downstreams.append(transport)
    tls.secured(transport, Header(2, 0, source, None, 0))
    transport.receive(get())
    made.upstream.receive(ok())
    assert status(transport.take()) == 200
    assert (made.records[0].client, made.records[0].client_ip) == client


def test_handshakes_are_connections_too(world: Make) -> None:
    """They count for ``max_connections`` and for whether the listener is empty."""
    made = world()
    tls = secure(made, FEW)
    socks: list[Any] = [Sock() for _ in range(3)]
    for sock in socks:
        made.listener.accept(sock, ("192.0.2.9", 7))
    assert [sock.closed for sock in socks] == [False, False, True]
    assert made.listener.active == 2
    made.listener.drain()
    made.listener.stop()
    assert tls.calls == ["drain", "stop"]


def test_a_handshake_that_ends_after_draining_began(world: Make) -> None:
    """Its client is served, once."""
    made = world()
    tls = secure(made)
    made.listener.drain()
    transport = Secured(made.clock, ("192.0.2.9", 7), None)
    made.downstreams.append(transport)
    tls.secured(transport, None)
    transport.receive(get())
    made.upstream.receive(ok())
    assert head(transport.take())[b"connection"] == b"close"
    made.turn()
    assert transport.gone


def test_without_tls_there_are_no_facts(world: Make) -> None:
    """None, and the scheme is http."""
    made = world()
    made.client(get())
    made.upstream.receive(ok())
    assert made.records[0].tls is None
    assert made.records[0].scheme == b"http"
    made.settle()

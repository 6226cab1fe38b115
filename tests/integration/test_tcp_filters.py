"""
Filters of connections in the running proxy: each built-in once, on TCP and at the door, and what a
filter of one's own that raises, hangs, waits or rewrites does to connections.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Proxy, Server, echo, read_to_end
from tests.integration.wire import eventually, linger_reset, log_lines, metric

MIB = 1 << 20

CONFIG = """
listeners:
  limited:
    listen: '127.0.0.1:$limited'
    tcp: { filters: [{ connection_limit: { connections: 1 } }], to: echo }
  rated:
    listen: '127.0.0.1:$rated'
    tcp: { filters: [{ connection_rate: { connections: 2, per: 1h } }], to: echo }
  denied:
    listen: '127.0.0.1:$denied'
    tcp:
      filters: [{ access: { deny: 127.0.0.0/8, reset: true } }]
      to: echo
      access_log: { path: access.log, format: json }
  allowed:
    listen: '127.0.0.1:$allowed'
    tcp: { filters: [{ access: { allow: 127.0.0.1 } }], to: echo }
  paced:
    listen: '127.0.0.1:$paced'
    tcp: { filters: [{ bandwidth: { up: { rate: 8MiB, burst: 64KiB } } }], to: echo }
  echo:
    listen: '127.0.0.1:$echo'
    tcp: { filters: [echo] }
  text:
    listen: '127.0.0.1:$text'
    tcp: { filters: [{ respond: { text: "closed for today\\n" } }] }
  faulty:
    listen: '127.0.0.1:$faulty'
    tcp: { filters: [{ fault: { reset: { after: 100 } } }], to: echo }
  tapped:
    listen: '127.0.0.1:$tapped'
    tcp: { filters: [{ tap: { bytes: 64, file: tap.jsonl } }], to: echo }
  door:
    listen: '127.0.0.1:$door'
    listener_filters: [{ connection_limit: { connections: 1 } }]
    tcp: { to: echo }
  web:
    listen: '127.0.0.1:$web'
    listener_filters: [{ connection_limit: { connections: 1 } }, { access: { allow: 127.0.0.1 } }]
    http: { routes: [{ respond: { status: 200, body: hello } }] }
clusters:
  echo: { endpoints: ['127.0.0.1:$upstream'] }
"""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy before an echo."""
    with (
        Server(echo) as upstream,
        Proxy(CONFIG, ports={"upstream": upstream.port}) as running,
    ):
        yield running


def talks(sock: socket.socket, data: bytes = b"hello") -> bool:
    """Whether what is sent comes back."""
    try:
        sock.sendall(data)
        return sock.recv(len(data), socket.MSG_WAITALL) == data
    except ConnectionError:
        return False


def admitted(proxy: Proxy, listener: str) -> bool:
    """Whether a new connection talks; a reset may come as early as connect."""
    try:
        with proxy.connect(listener) as sock:
            return talks(sock)
    except ConnectionError:
        return False


def both_ways(sock: socket.socket, data: bytes) -> bytes:
    """Send all of ``data`` and the end; what came back meanwhile, until its end."""

    def send() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    got = read_to_end(sock)
    thread.join()
    return got


def digest(data: bytes) -> bytes:
    """What is shown of bytes that differ."""
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("listener", ["limited", "door"])
def test_connection_limit(proxy: Proxy, listener: str) -> None:
    """One at a time, as a filter of TCP and at the door; when it leaves, the next may come."""
    with proxy.connect(listener) as first:
        assert talks(first)
        assert not admitted(proxy, listener)

    def comes_in() -> bool:
        with proxy.connect(listener) as sock:
            return talks(sock)

    eventually(comes_in, "the place to be free")
    labels = {"listener": listener, "filter": "connection_limit", "limit": "connections"}
    assert metric(proxy, "meshproxy_filter_connection_limit_refused_total", **labels) >= 1
    eventually(
        lambda: (
            metric(
                proxy,
                "meshproxy_filter_connection_limit_open",
                listener=listener,
                filter="connection_limit",
            )
            == 0
        ),
        "the count to be right",
    )


def test_the_door_of_an_http_listener(proxy: Proxy) -> None:
    """It counts keep-alive connections, and gives the place back when one is closed."""
    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    with proxy.connect("web") as first:
        first.sendall(request)
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        with proxy.connect("web") as second:
            try:
                second.sendall(request)
                assert second.recv(1000) == b""
            except ConnectionError:
                pass

    def comes_in() -> bool:
        with proxy.connect("web") as sock:
            try:
                sock.sendall(request)
                return sock.recv(1000).startswith(b"HTTP/1.1 200")
            except ConnectionError:
                return False

    eventually(comes_in, "the place to be free")


def test_connection_rate(proxy: Proxy) -> None:
    """The third within the hour is closed."""
    outcomes = []
    for _ in range(3):
        with proxy.connect("rated") as sock:
            outcomes.append(talks(sock))
    assert outcomes == [True, True, False]


def test_access(proxy: Proxy) -> None:
    """Who is denied is reset, and the log says why; who is allowed passes."""
    with proxy.connect("allowed") as sock:
        assert talks(sock)
    with pytest.raises(ConnectionResetError), proxy.connect("denied") as sock:
        sock.recv(1)
    line = log_lines(proxy, listener="denied")[0]
    assert line["details"] == "access_denied"


def test_bandwidth(proxy: Proxy) -> None:
    """Whatever has to wait, every byte arrives."""
    data = os.urandom(2 * MIB)
    with proxy.connect("paced") as sock:
        assert digest(both_ways(sock, data)) == digest(data)
    name = "meshproxy_filter_bandwidth_delayed_total"
    labels = {"listener": "paced", "filter": "bandwidth", "direction": "up"}
    assert metric(proxy, name, **labels) > 0


def test_echo(proxy: Proxy) -> None:
    """10 MiB come back, and then the end, from the proxy itself."""
    data = os.urandom(10 * MIB)
    with proxy.connect("echo") as sock:
        assert digest(both_ways(sock, data)) == digest(data)


def test_respond(proxy: Proxy) -> None:
    """Who connects gets the text and the end, also who spoke first."""
    for said in (b"", b"GET / HTTP/1.0\r\n\r\n" * 1000):
        with proxy.connect("text") as sock:
            sock.sendall(said)
            assert read_to_end(sock) == b"closed for today\n"


def test_fault(proxy: Proxy) -> None:
    """Reset after a hundred bytes of both directions, and not before."""
    with proxy.connect("faulty") as sock:
        assert talks(sock, b"x" * 40)
        assert not talks(sock, b"x" * 40)


def test_tap(proxy: Proxy) -> None:
    """A line of JSON a connection."""
    with proxy.connect("tapped") as sock:
        assert talks(sock, b"something")
    path = Path(proxy.directory) / "tap.jsonl"
    eventually(lambda: path.exists() and path.read_text().endswith("\n"), "the line")
    entry = json.loads(path.read_text().splitlines()[0])
    assert (entry["listener"], entry["bytes_received"], entry["received"]) == (
        "tapped",
        9,
        "c29tZXRoaW5n",
    )


EVERYWHERE = """
listeners:
  limited:
    listen: '$listen:$limited$where'
    tcp:
      filters: [{ connection_limit: { connections: 1 } }, { access: { allow: 127.0.0.1 } }]
      to: echo
  tapped: { listen: '$listen:$tapped$where', tcp: { filters: [{ tap: { bytes: 64 } }], to: echo } }
  text: { listen: '$listen:$text$where', tcp: { filters: [{ respond: { text: closed } }] } }
  echo: { listen: '$listen:$echo$where', tcp: { filters: [echo] } }
clusters:
  echo: { endpoints: ['127.0.0.1:$upstream'] }
"""


@pytest.mark.parametrize(
    ("listen", "where", "reactor"),
    [("tcp", ":interface=127.0.0.1", None), ("127.0.0.1", "", "epoll"), ("127.0.0.1", "", "poll")],
)
def test_other_listeners_and_reactors(listen: str, where: str, reactor: str | None) -> None:
    """Filters do the same where Twisted listens by a description, and on Twisted's own reactors."""
    config = EVERYWHERE.replace("$listen", listen).replace("$where", where)
    data = os.urandom(2 * MIB)
    with (
        Server(echo) as upstream,
        Proxy(config, ports={"upstream": upstream.port}, reactor=reactor) as proxy,
    ):
        with proxy.connect("limited") as first:
            assert talks(first)
            assert not admitted(proxy, "limited")
        with proxy.connect("text") as sock:
            sock.sendall(b"x" * 10000)
            assert read_to_end(sock) == b"closed"
        for name in ("tapped", "echo"):
            with proxy.connect(name) as sock:
                assert digest(both_ways(sock, data)) == digest(data)


# Filters of one's own.

PLUGINS = """
from twisted.internet import defer
from zope.interface import implementer

from meshproxy.api import FilterPlugin, Refuse
from meshproxy.interfaces import *


@implementer(IConnectionFilter)
class Raises:
    def connected(self, connection):
        raise RuntimeError("on purpose")


@implementer(IConnectionFilter, IConnectionObserver, IContextFilter)
class Hangs:
    def attach(self, context):
        self.counter = context.counter("cancelled", "Cancelled")

    async def connected(self, connection):
        try:
            await defer.Deferred()
        except defer.CancelledError:
            self.counter.inc()
            raise

    def closed(self, connection):
        connection.metadata["told"] = True


@implementer(IConnectionFilter, IContextFilter)
class Late:
    def attach(self, context):
        self.context = context

    async def connected(self, connection):
        await self.context.sleep(0.2)
        return Refuse(data=b"too late\\n")


TABLE = bytes(255 - n for n in range(256))


@implementer(IBytesFilter, IContextFilter)
class Flip:
    def attach(self, context):
        self.context = context
        self.calls = 0

    def received(self, connection, data, end):
        return data.translate(TABLE)

    def sent(self, connection, data, end):
        self.calls += 1
        if self.calls % 50 == 0:
            return self.slowly(data)
        return data.translate(TABLE)

    async def slowly(self, data):
        await self.context.sleep(0.001)
        return data.translate(TABLE)


raises = FilterPlugin("raises", "Raises.", Raises)
hangs = FilterPlugin("hangs", "Hangs.", Hangs)
late = FilterPlugin("late", "Late.", Late)
flip = FilterPlugin("flip", "Flip.", Flip)
"""

OWN = """
plugins: [$plugins]
listeners:
  raises: { listen: '127.0.0.1:$raises', tcp: { filters: [raises], to: echo } }
  hangs:
    listen: '127.0.0.1:$hangs'
    tcp:
      filters: [hangs]
      to: echo
      idle_timeout: 1h
  short: { listen: '127.0.0.1:$short', tcp: { filters: [hangs], to: echo, idle_timeout: 300ms } }
  late: { listen: '127.0.0.1:$late', tcp: { filters: [late], to: echo } }
  flip: { listen: '127.0.0.1:$flip', tcp: { filters: [flip], to: echo } }
clusters:
  echo: { endpoints: ['127.0.0.1:$upstream'] }
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The proxy with filters of one's own."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "twisted" / "plugins").mkdir(parents=True)
    (folder / "twisted" / "plugins" / "my_filters.py").write_text(PLUGINS)
    config = OWN.replace("$plugins", str(folder))
    with (
        Server(echo) as upstream,
        Proxy(config, ports={"upstream": upstream.port}) as running,
    ):
        yield running


def test_one_that_raises(own: Proxy) -> None:
    """Its connections are reset and counted; the other listeners do not notice."""
    for _ in range(3):
        with pytest.raises(ConnectionResetError), own.connect("raises") as sock:
            sock.recv(1)
    name = "meshproxy_filter_errors_total"
    assert metric(own, name, listener="raises", filter="raises") == 3
    assert "on purpose" in own.output
    with own.connect("flip") as sock:
        assert talks(sock)


def test_one_that_hangs(own: Proxy) -> None:
    """A client that leaves is noticed and the wait cancelled; else the idle timeout ends it."""
    sock = own.connect("hangs")
    sock.sendall(b"early")
    name = "meshproxy_listener_connections_active"
    eventually(lambda: metric(own, name, listener="hangs") == 1, "the connection")
    linger_reset(sock)
    eventually(lambda: metric(own, name, listener="hangs") == 0, "its end")
    cancelled = "meshproxy_filter_hangs_cancelled_total"
    assert metric(own, cancelled, listener="hangs", filter="hangs") == 1
    with pytest.raises(ConnectionResetError), own.connect("short") as sock:
        sock.recv(1)
    assert metric(own, cancelled, listener="short", filter="hangs") == 1


def test_one_that_refuses_late(own: Proxy) -> None:
    """The client that spoke meanwhile still hears why."""
    with own.connect("late") as sock:
        sock.sendall(b"x" * 10000)
        assert read_to_end(sock) == b"too late\n"


def test_ten_mebibytes_rewritten(own: Proxy) -> None:
    """Flipped there and back, through an echo, with waits between: the same bytes, and the end."""
    data = os.urandom(10 * MIB)
    with own.connect("flip") as sock:
        assert digest(both_ways(sock, data)) == digest(data)

"""Time limits over real sockets: who is cut, who is not, and what is said. No time is measured."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HOST, Proxy
from tests.integration.wire import LOG, Broken, Client, RawUpstream, ask, log_lines

CONFIG = f"""
timeouts: {{ exchange: 300ms, stream_idle: 400ms, request: 500ms }}
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      {LOG}
      routes:
        - {{ match: {{ prefix: /written }}, to: site, timeout: 300ms, upgrades: [websocket] }}
        - match: {{ prefix: /silent }}
          to: site
          stream_idle_timeout: 300ms
          upgrades: [websocket]
        - {{ match: {{ prefix: /cluster }}, to: patient }}
        - {{ to: site, upgrades: [websocket] }}
  old:
    listen: '127.0.0.1:$old'
    http:
      max_connection_age: 500ms
      routes: [{{ to: patient }}]
clusters:
  site: {{ endpoints: ['127.0.0.1:$site'] }}
  patient: {{ endpoints: ['127.0.0.1:$site'], timeout: 0 }}
"""

SWITCH = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Slow(RawUpstream):
    """An endpoint that takes its time: as long as no :meth:`go` has been said, or for ever."""

    def __init__(self) -> None:
        super().__init__(self._act)
        self.go = threading.Event()

    def _act(self, data: bytes, sock: socket.socket) -> bytes | None:
        path = data.split(b" ", 2)[1]
        if b"socket" in path:
            sock.sendall(SWITCH)
            while piece := sock.recv(1000):
                sock.sendall(piece)
            return None
        if b"events" in path:
            sock.sendall(STREAM + b"1\r\na\r\n")
            self.go.wait(20)
            return b"1\r\nb\r\n0\r\n\r\n"
        if b"slow" in path:
            self.go.wait(20)
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def site() -> Iterator[Slow]:
    """The endpoint."""
    with Slow() as server:
        yield server
        server.go.set()


@pytest.fixture
def proxy(site: Slow) -> Iterator[Proxy]:
    """A proxy with short limits."""
    with Proxy(CONFIG, ports={"site": site.port}) as running:
        yield running


def test_the_limits_that_everybody_has(proxy: Proxy, site: Slow) -> None:
    """A plain exchange is cut by the default; gRPC and an event stream that wait beside it not."""
    with Client.to(proxy) as grpc, Client.to(proxy) as events:
        grpc.send(b"GET /slow HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n\r\n")
        events.send(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        for _ in range(3):  # one after another: together longer than any limit
            response = ask(proxy, "/slow")
            assert (response.status, response.body) == (504, b"upstream request timeout")
        site.go.set()
        assert grpc.response().body == b"ok"
        assert events.response().body == b"ab"
    assert {line["flags"] for line in log_lines(proxy, status=504)} == {"UT"}


@pytest.mark.parametrize("route", ["/written", "/silent"])
def test_limits_that_are_written(proxy: Proxy, route: str) -> None:
    """They cut gRPC and event streams too; what was begun is visibly cut."""
    response = ask(proxy, f"{route}/slow", content_type="application/grpc")
    assert response.status == 504
    with Client.to(proxy) as client, pytest.raises((Broken, ConnectionError, ValueError)):
        client.ask(f"{route}/events")


def test_a_cluster_without_limit(proxy: Proxy, site: Slow) -> None:
    """The cluster's own word stands before everybody's; the idle limit still holds."""
    assert ask(proxy, "/cluster/slow").body == b"stream timeout"


@pytest.mark.parametrize("route", ["", "/written", "/silent"])
def test_tunnels(proxy: Proxy, route: str) -> None:
    """No limit on the exchange, no default idle limit; a written idle limit ends a silent one."""
    with Client.to(proxy) as client:
        response = client.ask(f"{route}/socket", connection="upgrade", upgrade="websocket")
        assert response.status == 101
        for _ in range(2):
            ask(proxy, "/slow")
            if route != "/silent":
                client.send(b"ping")
                assert client.take(4) == b"ping"
        if route == "/silent":
            assert client.ended()


def test_a_slow_client(proxy: Proxy) -> None:
    """408 when its request is not whole in time."""
    with Client.to(proxy) as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        response = client.response()
        assert response.status == 408
        assert response.get("connection") == "close"
        assert client.ended()


def test_an_old_connection(proxy: Proxy, site: Slow) -> None:
    """It is closed when idle, and after the exchange that it has, which is not cut."""
    with Client.to(proxy, "old") as idle, Client.to(proxy, "old") as busy:
        busy.send(b"GET /slow HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n\r\n")
        assert idle.ended()
        for _ in range(2):
            ask(proxy, "/slow")
        site.go.set()
        response = busy.response()
        assert (response.status, response.get("connection")) == (200, "close")
        assert busy.ended()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(proxy: Proxy, site: Slow) -> None:
    """An event stream as curl reads it, for longer than the default limits."""
    command = ["curl", "-sSN", "--max-time", "20", f"http://{HOST}:{proxy.ports['web']}/events"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        assert curl.stdout.read(1) == b"a"
        for _ in range(3):
            ask(proxy, "/slow")
        site.go.set()
        assert curl.stdout.read() == b"b"
        assert curl.wait(20) == 0

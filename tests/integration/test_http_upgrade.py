"""
Upgrades: a real WebSocket client and server through the proxy, and every way not to upgrade.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from tests.harness import HOST, HttpUpstream, Proxy, Received, Server
from tests.integration.wire import LOG, Client, ask, eventually, log_lines, metric

CONFIG = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      {LOG}
      stream_idle_timeout: 400ms
      routes:
        - {{ match: {{ prefix: /chat }}, to: chat, upgrades: [websocket], timeout: 300ms }}
        - {{ match: {{ prefix: /plain }}, to: plain, upgrades: [websocket, echo] }}
        - {{ to: chat }}
clusters:
  chat: {{ endpoints: ['127.0.0.1:$chat'] }}
  plain: {{ endpoints: ['127.0.0.1:$plain'] }}
"""


def _talk(websocket: ServerConnection) -> None:
    """Echo; ``bye`` makes the server close."""
    for message in websocket:
        if message == "bye":
            websocket.close(4001, "as you wish")
            return
        websocket.send(message)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy before a WebSocket server and a plain one."""
    with (
        serve(_talk, HOST, 0, max_size=None) as server,
        HttpUpstream() as plain,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        with Proxy(CONFIG, ports={"chat": port, "plain": plain.port}) as running:
            yield running
        server.shutdown()
        thread.join()


def _connect(proxy: Proxy, path: str = "/chat") -> ClientConnection:
    return connect(f"ws://{HOST}:{proxy.ports['web']}{path}", max_size=None)


def test_text_and_binary(proxy: Proxy) -> None:
    """Messages of both kinds and of any size come back as they were sent."""
    with _connect(proxy) as websocket:
        for message in ("grüße", "", b"\x00\xff" * 10, "x" * 70_000, bytes(range(256)) * 16_384):
            websocket.send(message)
            assert websocket.recv(10) == message
        pong = websocket.ping()
        assert pong.wait(10)


def test_the_client_closes(proxy: Proxy) -> None:
    """Its closing handshake is answered by the server, and the log has one line with 101."""
    with _connect(proxy, "/chat/closing") as websocket:
        websocket.send("one")
        assert websocket.recv(10) == "one"
        websocket.close(1000, "done")
    assert (websocket.close_code, websocket.close_reason) == (1000, "done")
    (line,) = log_lines(proxy, path="/chat/closing")
    assert line["status"] == 101
    assert line["bytes_received"] > 0
    assert line["bytes_sent"] > 0


def test_the_server_closes(proxy: Proxy) -> None:
    """Its code and reason reach the client."""
    with _connect(proxy) as websocket:
        websocket.send("bye")
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(10)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as you wish")


def test_timeouts_do_not_cut_it(proxy: Proxy) -> None:
    """Neither the route's timeout nor silence ends a WebSocket."""
    with _connect(proxy) as websocket:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                websocket.recv(0.5)
        websocket.send("still here")
        assert websocket.recv(10) == "still here"


def test_many_at_once(proxy: Proxy) -> None:
    """They do not hear each other."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(_connect(proxy)) for _ in range(20)]
        for number, websocket in enumerate(sockets):
            websocket.send(str(number))
        for number, websocket in enumerate(sockets):
            assert websocket.recv(10) == str(number)
    eventually(
        lambda: metric(proxy, "meshproxy_cluster_active", cluster="chat") == 0,
        "the tunnels to be over",
    )


def test_refused_where_the_route_does_not_allow_it(proxy: Proxy) -> None:
    """403 with an empty body, and the upstream is not asked."""
    with pytest.raises(InvalidStatus) as caught:
        _connect(proxy, "/other")
    assert caught.value.response.status_code == 403
    assert not caught.value.response.body
    response = ask(proxy, "/chat", connection="upgrade", upgrade="smtp")
    assert (response.status, response.body) == (403, b"")


def test_an_upstream_that_does_not_upgrade(proxy: Proxy) -> None:
    """Its ordinary answer is the client's, and the connection goes on as HTTP."""
    with Client.to(proxy) as client:
        response = client.ask("/plain", connection="upgrade", upgrade="websocket")
        assert (response.status, response.body) == (200, b"ok\n")
        assert client.ask("/plain").status == 200


def test_another_protocol_and_early_bytes() -> None:
    """Any token that the route names; bytes behind the request or the 101 are not lost."""

    def echo(sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, rest = data.partition(b"\r\n\r\n")
        request = Received(head, b"")
        assert request.values(b"upgrade") == [b"echo"]
        assert request.values(b"connection") == [b"upgrade"]
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhi"
        )
        while len(rest) < 5:
            rest += sock.recv(5 - len(rest))
        sock.sendall(rest)
        while more := sock.recv(65536):
            sock.sendall(more)

    with Server(echo) as upstream:
        ports = {"plain": upstream.port, "chat": upstream.port}
        with Proxy(CONFIG, ports=ports) as own, Client.to(own) as client:
            client.send(
                b"GET /plain HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\n"
                b"upgrade: echo\r\n\r\nearly"
            )
            response = client.response()
            assert (response.status, response.get("upgrade")) == (101, "echo")
            assert client.take(7) == b"hiearly"
            assert client.send(b"later").take(5) == b"later"


def test_stopping_ends_it(proxy: Proxy) -> None:
    """A proxy that is told to stop does not wait for a WebSocket for ever."""
    with (
        serve(_talk, HOST, 0) as server,
        HttpUpstream() as plain,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        ports = {"chat": server.socket.getsockname()[1], "plain": plain.port}
        with Proxy(CONFIG, ports=ports) as own, _connect(own) as websocket:
            websocket.send("x")
            assert websocket.recv(10) == "x"
            own.stop()
            with pytest.raises((ConnectionClosed, ConnectionClosedOK)):
                websocket.recv(10)
        server.shutdown()
        thread.join()

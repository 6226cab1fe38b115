"""
The same proxy on every reactor: meshproxy's own is the default, and none is needed.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy, Received, Server, echo, read_to_end
from tests.integration.wire import Client, ask, eventually, metric, refusing

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      access_log: { path: access.log }
      routes:
        - { match: { path: /refused }, to: refused }
        - { match: { path: /slow }, to: silent, timeout: 200ms }
        - { match: { path: /tunnel }, to: tunnel, upgrades: [echo] }
        - { to: site }
  tcp: { listen: '127.0.0.1:$tcp', tcp: { to: back } }
  told: { listen: '127.0.0.1:$told', proxy_protocol: true, tcp: { to: told, idle_timeout: 300ms } }
  bad: { listen: '127.0.0.1:$bad', tcp: { to: refused } }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
  back: { endpoints: ['127.0.0.1:$back'] }
  told: { endpoints: ['127.0.0.1:$back'], proxy_protocol: v1 }
  tunnel: { endpoints: ['127.0.0.1:$switch'] }
  silent: { endpoints: ['127.0.0.1:$silent'] }
  refused: { endpoints: ['$nobody'] }
"""

CLASSES = {
    None: "meshproxy.net.reactor.MeshReactor",
    "epoll": "twisted.internet.epollreactor.EPollReactor",
    "poll": "twisted.internet.pollreactor.PollReactor",
    "select": "twisted.internet.selectreactor.SelectReactor",
    "asyncio": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
}


def _swallow(sock: socket.socket) -> None:
    read_to_end(sock)


def _switch(sock: socket.socket) -> None:
    while b"\r\n\r\n" not in sock.recv(65536):
        pass
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
    )
    echo(sock)


@pytest.fixture(scope="module", params=CLASSES, ids=str)
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """The proxy on each reactor."""
    with (
        HttpUpstream(_answer) as site,
        Server(echo) as back,
        Server(_switch) as switch,
        Server(_swallow) as silent,
        refusing() as nobody,
    ):
        config = CONFIG.replace("$nobody", nobody)
        ports = {
            "site": site.port,
            "back": back.port,
            "switch": switch.port,
            "silent": silent.port,
        }
        with Proxy(config, ports=ports, reactor=request.param) as running:
            assert f"reactor class: {CLASSES[request.param]}." in running.stdout
            yield running
            assert "Traceback" not in running.output


def _answer(request: Received) -> bytes:
    body = request.body
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def test_http(proxy: Proxy) -> None:
    """Keep-alive, bodies of every size and framing, pipelining."""
    with Client.to(proxy) as client:
        for size in (0, 1, 1000, 100_000, 5_000_000):
            data = os.urandom(size)
            assert client.ask("/x", "POST", data).body == data
        client.send(
            b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        assert (client.response().body, client.response().body) == (b"abc", b"")


def test_http_errors(proxy: Proxy) -> None:
    """Refused, timed out, malformed."""
    assert ask(proxy, "/refused").status == 503
    assert ask(proxy, "/slow").status == 504
    with Client.to(proxy) as client:
        assert client.send(b"nonsense\r\n\r\n").response().status == 400
        assert client.ended()


def test_upgrade(proxy: Proxy) -> None:
    """A tunnel, and its end."""
    with Client.to(proxy) as client:
        assert client.ask("/tunnel", connection="upgrade", upgrade="echo").status == 101
        for _ in range(10):
            assert client.send(b"there and back").take(14) == b"there and back"


def test_tcp(proxy: Proxy) -> None:
    """Both ways at once, then the end of each."""
    data = os.urandom(8 << 20)
    with proxy.connect("tcp") as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = read_to_end(sock)
        sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    name = "meshproxy_listener_connections_active"
    eventually(lambda: metric(proxy, name, listener="tcp") == 0, "the connection to be gone")


def test_tcp_refused(proxy: Proxy) -> None:
    """A reset for the client."""
    with pytest.raises(ConnectionResetError), proxy.connect("bad") as sock:
        read_to_end(sock)


def test_tcp_with_the_proxy_protocol(proxy: Proxy) -> None:
    """In and out, and the idle timeout."""
    with proxy.connect("told") as sock:
        sock.sendall(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nping")
        assert read_to_end(sock) == b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nping"


def test_many_clients(proxy: Proxy) -> None:
    """HTTP and TCP, eight threads, no mistakes."""
    wrong: list[bytes] = []

    def talk(number: int) -> None:
        for turn in range(20):
            data = b"%d %d" % (number, turn)
            if ask(proxy, "/x", "POST", body=data).body != data:
                wrong.append(data)
            with proxy.connect("tcp") as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                if read_to_end(sock) != data:
                    wrong.append(data)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

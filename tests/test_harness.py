"""The harness itself: its servers answer and report, its proxy process starts, fails and ends."""

from __future__ import annotations

import http.client
import signal
import socket

import pytest

from tests import harness
from tests.harness import HOST, HttpUpstream, Proxy, ProxyError, Received, Server, echo

RESPOND = """
listeners:
  web:
    listen: 127.0.0.1:$web
    http:
      routes: [{ respond: { body: "hello\\n" } }]
"""


def test_free_ports_are_different_and_free() -> None:
    """They can all be bound at the same time."""
    ports = harness.free_ports(20)
    servers = [socket.create_server((HOST, port)) for port in ports]
    assert len({server.getsockname()[1] for server in servers}) == 20
    for server in servers:
        server.close()


def test_the_echo_sends_everything_back() -> None:
    """What is sent comes back, and the end after it."""
    with Server(echo) as server, harness.connect(server.port) as sock:
        sock.sendall(b"x" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        assert harness.read_to_end(sock) == b"x" * 100_000
        assert server.connections == 1


def test_the_upstream_answers_raw_bytes_and_remembers() -> None:
    """Requests with length and chunked bodies are read whole; each gets the scripted answer."""

    def answer(request: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (
            len(request.body),
            request.body,
        )

    with HttpUpstream(answer) as upstream:
        connection = http.client.HTTPConnection(HOST, upstream.port, timeout=harness.PATIENCE)
        connection.request("POST", "/a", b"one")
        assert connection.getresponse().read() == b"one"
        connection.request("PUT", "/b?c", iter([b"tw", b"o"]), {"X-Name": "v"})
        assert connection.getresponse().read() == b"two"
        connection.close()
    assert [request.target for request in upstream.requests] == [b"/a", b"/b?c"]
    assert upstream.requests[1].values(b"x-name") == [b"v"]
    assert upstream.connections == 1


def test_the_upstream_can_hang_up() -> None:
    """None closes the connection without a word."""
    with (
        HttpUpstream(lambda _: None) as upstream,
        harness.connect(upstream.port) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert harness.read_to_end(sock) == b""


def test_a_servers_error_is_the_tests_error() -> None:
    """An assertion that fails in a server's thread fails the test."""

    def converse() -> None:
        with (
            HttpUpstream() as upstream,
            harness.connect(upstream.port) as sock,
        ):
            sock.sendall(b"GET / HTTP/1.1\n\n")
            harness.read_to_end(sock)

    with pytest.raises(AssertionError, match="CRLF"):
        converse()


def test_a_proxy_starts_serves_and_stops() -> None:
    """The process is ready when the block begins, and SIGTERM ends it."""
    with Proxy(RESPOND) as proxy:
        reply = proxy.get("web", "/")
        assert (reply.status, reply.body) == (200, b"hello\n")
        raw = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert proxy.exchange("web", raw).endswith(b"hello\n")
        assert proxy.stop() == -signal.SIGTERM
        assert "Traceback" not in proxy.output
    assert proxy.status == -signal.SIGTERM


def test_a_proxy_that_cannot_start_says_why() -> None:
    """A bad configuration is an error that holds what the process wrote, and its status."""
    proxy = Proxy("listeners: {web: {listen: '127.0.0.1:$web', htp: {}}}")
    with pytest.raises(ProxyError, match="did you mean 'http'"), proxy:
        pass
    assert proxy.status == 1

"""
Clients that mean no good, or do no good: each costs memory within a bound that is stated here,
is cut off where it must be, and takes nothing from the others.
"""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy
from tests.integration.wire import Client, ask, eventually, metric, resident

KIB, MIB = 1 << 10, 1 << 20

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    backlog: 4096
    http:
      headers_timeout: 500ms
      stream_idle_timeout: $silence
      idle_timeout: $idle
      routes:
        - { match: { path: /big }, respond: { body: $body } }
        - { match: { path: /late }, to: dead, timeout: 100ms }
        - { to: site }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
  dead: { endpoints: ['127.0.0.1:$dead'] }
"""
BIG = "x" * (32 * KIB)


@pytest.fixture(scope="module")
def upstream() -> Iterator[HttpUpstream]:
    """A small honest upstream."""
    with HttpUpstream() as server:
        yield server


def start(upstream: HttpUpstream, idle: str = "1h", silence: str = "700ms") -> Proxy:
    """The proxy, with short timeouts."""
    config = CONFIG.replace("$body", BIG).replace("$idle", idle).replace("$silence", silence)
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
    return Proxy(config, ports={"site": upstream.port, "dead": port})


@pytest.fixture(scope="module")
def proxy(upstream: HttpUpstream) -> Iterator[Proxy]:
    """One for those tests that do not measure."""
    with start(upstream) as running:
        yield running


def connections(proxy: Proxy) -> float:
    """Clients' connections that the proxy holds."""
    return metric(proxy, "meshproxy_listener_connections_active", listener="web")


def test_heads_that_never_end(upstream: HttpUpstream) -> None:
    """Slowloris: dripping bytes buys no time; all get 408, and others are served meanwhile."""
    with start(upstream) as proxy:
        before = resident(proxy)
        clients = [Client.to(proxy) for _ in range(300)]
        over = threading.Event()

        def drip() -> None:
            while not over.wait(0.05):
                for client in clients:
                    try:
                        client.send(b"x-a: b\r\n")
                    except OSError:
                        continue

        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n")
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert ask(proxy).status == 200
            for client in clients:
                response = client.response()
                assert (response.status, response.body) == (408, b"request header timeout")
        finally:
            over.set()
            dripping.join()
        for client in clients:
            client.close()
        assert resident(proxy) - before < 300 * 64 * KIB
        eventually(lambda: connections(proxy) == 0, "the connections to be gone")


def test_bodies_that_never_end(proxy: Proxy) -> None:
    """Half a body, by length or in chunks, then silence: 408, and the end."""
    for framing in (
        b"content-length: 100\r\n\r\nhalf",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhal",
    ):
        with Client.to(proxy) as client:
            client.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + framing)
            assert client.response().status == 408
            assert client.ended()
    assert ask(proxy).status == 200


def test_a_body_that_is_cut(proxy: Proxy, upstream: HttpUpstream) -> None:
    """A client that dies in its body leaves nothing behind, here or at the upstream."""
    for _ in range(20):
        with Client.to(proxy) as client:
            client.send(b"POST /half HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf")
    eventually(lambda: connections(proxy) == 0, "the connections to be gone")
    assert metric(proxy, "meshproxy_cluster_active", cluster="site") == 0
    assert ask(proxy).status == 200


def test_idle_connections_are_closed(upstream: HttpUpstream) -> None:
    """After an answer, after the proxy's own error, and before any request."""
    with start(upstream, idle="300ms") as proxy:
        for targets in ([], ["/"], ["/late"], ["/", "/late"]):
            with Client.to(proxy) as client:
                for target in targets:
                    assert client.ask(target).status in (200, 503, 504)
                assert client.ended(), targets


def test_a_client_that_never_reads() -> None:
    """It is cut off when it has taken nothing for the stream's idle time; others go on."""
    large = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (50 * MIB) + bytes(50 * MIB)
    with HttpUpstream(large) as site, start(site) as own, Client.to(own) as client:
        client.send(b"GET /50 HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(lambda: connections(own) == 1, "the connection")
        eventually(lambda: connections(own) == 0, "it to be cut off")
        assert metric(own, "meshproxy_cluster_active", cluster="site") == 0
        assert metric(own, "meshproxy_cluster_connections_active", cluster="site") == 0


def test_header_flood(proxy: Proxy) -> None:
    """Headers without end cost 431, not memory."""
    before = resident(proxy)
    for _ in range(20):
        with Client.to(proxy) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n")
            try:
                for number in range(2000):
                    client.send(b"x-%d: " % number + b"a" * KIB + b"\r\n")
            except ConnectionError:
                continue
    assert ask(proxy).status == 200
    assert resident(proxy) - before < 8 * MIB


def test_different_lines_and_paths(proxy: Proxy) -> None:
    """What is remembered to be fast is bounded, whatever clients send."""
    with Client.to(proxy) as client:
        for number in range(12_000):
            if number == 3000:
                before = resident(proxy)
            path = f"/{number}".ljust(200, "p")
            client.send(f"GET {path} HTTP/1.1\r\nhost: h{number}\r\nx-{number}: a\r\n\r\n".encode())
            assert client.response().status == 200
    assert resident(proxy) - before < 16 * MIB


@pytest.mark.parametrize("target", ["/big", "/through"])
def test_pipelining_flood(upstream: HttpUpstream, target: str) -> None:
    """Requests by the thousand from a client that reads nothing: no more answers are made."""
    body = BIG.encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with (
        HttpUpstream(answer) as large,
        start(large, silence="5m") as proxy,
        Client.to(proxy) as client,
    ):
        assert client.ask(target).body == body
        before = resident(proxy)
        client.sock.setblocking(False)
        request = f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode() * 100
        sent = 0
        quiet = threading.Event()
        for _ in range(40):  # until the kernel has not taken more for a while
            try:
                while sent < 8 * MIB:
                    sent += client.sock.send(request)
            except BlockingIOError:
                quiet.wait(0.05)
        assert resident(proxy) - before < 8 * MIB
        assert ask(proxy, "/").status == 200


def test_a_flood_that_is_read(proxy: Proxy) -> None:
    """Pipelined requests by the thousand are all answered when the client does read."""
    count = 2000
    with Client.to(proxy) as client:
        flood = b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n" * count
        sender = threading.Thread(target=client.send, args=(flood,))
        sender.start()
        for _ in range(count):
            assert client.response().body == BIG.encode()
        sender.join()


def test_ten_thousand_idle_connections(upstream: HttpUpstream) -> None:
    """Each has done a request; each costs at most 16 KiB. A normal request works beside them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 500)
    try:
        with start(upstream) as proxy:
            held: list[socket.socket] = []
            try:
                for number in range(count + 100):
                    sock = proxy.connect("web")
                    held.append(sock)
                    sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                    answer = b""
                    while not answer.endswith(b"ok\n"):
                        answer += sock.recv(4096)
                    if number == 99:  # what every process grows by once is there now
                        before = resident(proxy)
                assert connections(proxy) == count + 100
                assert resident(proxy) - before < count * 16 * KIB
                assert ask(proxy).status == 200
                for sock in held[::97]:
                    sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                    assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
            finally:
                for sock in held:
                    sock.close()
            eventually(lambda: connections(proxy) == 0, "the connections to be gone")
            assert ask(proxy).status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_connections_than_allowed() -> None:
    """Over ``max_connections`` they are closed at once; when one leaves, there is room."""
    config = (
        "listeners: { web: { listen: '127.0.0.1:$web', max_connections: 3, "
        "http: { routes: [{ respond: { body: ok } }] } } }\n"
    )
    with Proxy(config) as proxy:
        clients = [Client.to(proxy) for _ in range(3)]
        for client in clients:
            assert client.ask().status == 200
        with Client.to(proxy) as fourth:
            assert fourth.ended()
        clients.pop().close()
        eventually(lambda: connections(proxy) == 2, "one to be gone")
        assert ask(proxy).status == 200
        for client in clients:
            assert client.ask().status == 200
            client.close()
        refused = "meshproxy_listener_connections_refused_total"
        assert metric(proxy, refused, listener="web") == 1

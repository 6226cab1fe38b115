"""
Connections to upstreams: reused, bounded, waited for in line, closed when idle, and never the
reason for a client's error when the upstream closes them.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from tests.harness import HttpUpstream, Proxy, Received, Server
from tests.integration.wire import Client, RawUpstream, eventually, linger_reset, metric

CONFIG = """
listeners: {{ web: {{ listen: '127.0.0.1:$web', http: {{ routes: [{{ to: site }}] }} }} }}
clusters: {{ site: {{ endpoints: ['127.0.0.1:$site'], pool: {{ {pool} }} }} }}
"""


def proxied(upstream: Server, pool: str = "") -> Proxy:
    """The proxy before ``upstream`` with these settings of the pool."""
    return Proxy(CONFIG.format(pool=pool), ports={"site": upstream.port})


def open_connections(proxy: Proxy) -> float:
    """Connections to the upstream that the proxy holds."""
    return metric(proxy, "meshproxy_cluster_connections_active", cluster="site")


def test_reuse() -> None:
    """A hundred requests in sequence need one connection, whoever asks."""
    with HttpUpstream() as upstream, proxied(upstream) as proxy:
        for _ in range(10):
            with Client.to(proxy) as client:
                for _ in range(10):
                    assert client.ask().status == 200
        assert upstream.connections == 1
        assert metric(proxy, "meshproxy_cluster_connections_total", cluster="site") == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["every time", "every third", "with a delay", "announced"])
def test_an_upstream_that_closes_what_is_idle(method: str, how: str) -> None:
    """Three hundred requests, closes in between: not one error, and each is done once."""
    count = 0

    def answer(data: bytes, sock: socket.socket) -> bytes | None:
        nonlocal count
        count += 1
        reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        if how == "announced":
            return reply.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
        if how == "with a delay":
            sock.sendall(reply)
            pause.wait(0.001 * (count % 4))
            return None
        if how == "every third" and count % 3:
            return reply
        # Response and FIN in one segment: the connection is closed before anybody can use it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sock.sendall(reply)
        sock.shutdown(socket.SHUT_WR)
        return None

    pause = threading.Event()
    with RawUpstream(answer) as upstream, proxied(upstream) as proxy:
        statuses: Counter[int] = Counter()
        with Client.to(proxy) as client:
            for number in range(300):
                body = b"%d" % number if method == "POST" else b""
                statuses[client.ask("/x", method, body).status] += 1
        if how == "with a delay" and method == "POST":
            # The close may cross a request that the upstream's kernel has taken: whether anybody
            # read it cannot be known, so it is not sent again.
            assert statuses.keys() <= {200, 503}
        else:
            assert statuses == {200: 300}
        assert len(upstream.received) == statuses[200]


def test_closes_under_load_with_one_connection() -> None:
    """A connection that must be replaced while others wait in line costs nobody an answer."""

    def answer(data: bytes, sock: socket.socket) -> bytes | None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        return None

    results: Counter[int] = Counter()
    lock = threading.Lock()
    with RawUpstream(answer) as upstream, proxied(upstream, "max_connections: 1") as proxy:

        def talk() -> None:
            with Client.to(proxy) as client:
                for _ in range(40):
                    status = client.ask().status
                    with lock:
                        results[status] += 1

        threads = [threading.Thread(target=talk) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {200: 240}


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_an_idle_connection_that_ends_is_not_used(how: str) -> None:
    """Once the proxy has seen it end, the next request takes a new one."""

    def answer(data: bytes, sock: socket.socket) -> bytes | None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        if how == "rst":
            sock.settimeout(0.2)
            try:
                sock.recv(1)
            except TimeoutError:
                linger_reset(sock)
        return None

    with RawUpstream(answer) as upstream, proxied(upstream) as proxy, Client.to(proxy) as client:
        for _ in range(3):
            assert client.ask("/x", "POST", b"body").status == 200
            eventually(lambda: open_connections(proxy) == 0, "the connection to be forgotten")


def _held() -> tuple[Callable[[Received], bytes], threading.Semaphore, list[int]]:
    """An answer that waits to be let go, and the most requests that it saw at a time."""
    gate = threading.Semaphore(0)
    lock = threading.Lock()
    seen = [0, 0]

    def answer(request: Received) -> bytes:
        with lock:
            seen[0] += 1
            seen[1] = max(seen)
        gate.acquire(timeout=20)
        with lock:
            seen[0] -= 1
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

    return answer, gate, seen


def test_the_bound_and_the_line() -> None:
    """No more than ``max_connections``; the others wait, and are served first come first."""
    answer, gate, seen = _held()
    with HttpUpstream(answer) as upstream, proxied(upstream, "max_connections: 2") as proxy:
        clients = [Client.to(proxy) for _ in range(6)]
        for number, client in enumerate(clients):
            client.send(f"GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            waiting, asked = max(0, number - 1), min(2, number + 1)
            eventually(
                lambda waiting=waiting, asked=asked: (  # type: ignore[misc]
                    metric(proxy, "meshproxy_cluster_pending_active", cluster="site") == waiting
                    and len(upstream.requests) == asked
                ),
                f"{waiting} in line",
            )
        assert open_connections(proxy) == 2
        for number in range(len(clients)):
            # One at a time: two threads of the upstream would note their requests in any order.
            gate.release()
            asked = min(6, number + 3)
            eventually(
                lambda asked=asked: len(upstream.requests) == asked,  # type: ignore[misc]
                f"request {asked}",
            )
        for client in clients:
            assert client.response().status == 200
            client.close()
        assert [request.target for request in upstream.requests[2:]] == [b"/2", b"/3", b"/4", b"/5"]
        assert upstream.connections == 2
        assert seen[1] == 2


def test_a_client_that_leaves_the_line() -> None:
    """Its place is taken by the next one, and the upstream never hears of it."""
    answer, gate, _ = _held()
    with HttpUpstream(answer) as upstream, proxied(upstream, "max_connections: 1") as proxy:

        def pending() -> float:
            return metric(proxy, "meshproxy_cluster_pending_active", cluster="site")

        with Client.to(proxy) as first, Client.to(proxy) as third:
            first.send(b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n")
            eventually(lambda: len(upstream.requests) == 1, "the first request")
            second = Client.to(proxy).send(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n")
            eventually(lambda: pending() == 1, "the second in line")
            third.send(b"GET /third HTTP/1.1\r\nhost: a\r\n\r\n")
            eventually(lambda: pending() == 2, "the third in line")
            second.close()
            eventually(lambda: pending() == 1, "the second to be gone")
            gate.release()
            gate.release()
            assert first.response().status == third.response().status == 200
        assert [request.target for request in upstream.requests] == [b"/first", b"/third"]


def test_it_grows_and_shrinks() -> None:
    """As many connections as requests at a time; idle ones are closed, and new ones opened."""
    answer, gate, _ = _held()
    with HttpUpstream(answer) as upstream, proxied(upstream, "idle_timeout: 300ms") as proxy:
        for _ in range(2):
            clients = [Client.to(proxy) for _ in range(5)]
            before = len(upstream.requests)
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            eventually(lambda: len(upstream.requests) == before + 5, "five requests")  # noqa: B023
            assert open_connections(proxy) == 5
            for _ in clients:
                gate.release()
            for client in clients:
                assert client.response().status == 200
                client.close()
            eventually(lambda: open_connections(proxy) == 0, "the idle ones to be closed")
        assert upstream.connections == 10

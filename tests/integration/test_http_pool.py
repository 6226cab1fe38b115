"""
Connections to upstreams: reused, bounded, waited for in line, closed when idle, and never the
reason for a client's error when the upstream closes them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from tests.harness import HOST, OK, PATIENCE, HttpUpstream, Proxy, Received, Server
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


async def _ask(port: int, requests: int) -> Counter[bytes]:
    """Requests one after the other on one connection, and how many of each status line came."""
    lines: Counter[bytes] = Counter()
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for _ in range(requests):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            lines[head.partition(b"\r\n")[0]] += 1
            assert b"\r\ncontent-length: 3\r\n" in head
            await reader.readexactly(3)
    finally:
        writer.close()
    return lines


def ask_at_once(port: int, clients: int, requests: int) -> Counter[bytes]:
    """So many clients at a time, each with so many requests."""

    async def all_of_them() -> Counter[bytes]:
        async with asyncio.timeout(4 * PATIENCE):
            counts = await asyncio.gather(*(_ask(port, requests) for _ in range(clients)))
        return sum(counts, Counter())

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(("clients", "requests"), [(1, 300), (32, 20), (256, 5)])
@pytest.mark.parametrize(("ratio", "most"), [("1.0", 1.0), ("1.5", 1.5)])
def test_no_more_connections_than_requests_at_a_time(
    clients: int, requests: int, ratio: str, most: float
) -> None:
    """However many requests come, one connection for each client is enough (times the ratio)."""
    with HttpUpstream() as upstream, proxied(upstream, f"preconnect: {ratio}") as proxy:
        answers = ask_at_once(proxy.ports["web"], clients, requests)
        assert answers == {b"HTTP/1.1 200 OK": clients * requests}
        opened = metric(proxy, "meshproxy_cluster_connections_total", cluster="site")
        assert 1 <= opened <= clients * most + 0.5
        # One that was never used may still be in the kernel's queue of a busy upstream.
        assert 1 <= upstream.connections <= opened


def test_max_requests() -> None:
    """A connection serves as many as it may, and the next one goes on without an error."""
    with HttpUpstream() as upstream, proxied(upstream, "max_requests: 10") as proxy:
        answers = ask_at_once(proxy.ports["web"], 4, 50)
        assert answers == {b"HTTP/1.1 200 OK": 200}
        # The last ones may still have requests left.
        assert 20 <= upstream.connections <= 23
        assert (
            metric(proxy, "meshproxy_cluster_connections_aged_closed_total", cluster="site") >= 17
        )


def test_max_lifetime() -> None:
    """Connections are replaced when they are old, and no request notices."""
    pool = "max_lifetime: 200ms"
    with HttpUpstream() as upstream, proxied(upstream, pool) as proxy, Client.to(proxy) as client:
        eventually(
            lambda: client.ask().status == 200 and upstream.connections >= 4, "four connections"
        )
        eventually(lambda: open_connections(proxy) == 0, "the idle one to be closed")
        assert metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="site") == 0


def test_warm_connections() -> None:
    """They are there before any request, and there again after the upstream closed some."""

    def answer(request: Received) -> bytes | None:
        return None if request.target == b"/close" else OK

    with HttpUpstream(answer) as upstream, proxied(upstream, "warm: 4") as proxy:
        eventually(lambda: upstream.connections == 4, "four connections")
        with Client.to(proxy) as client:
            assert client.ask("/").status == 200
            assert upstream.connections == 4
            assert client.ask("/close", "POST").status == 503
        eventually(lambda: upstream.connections == 5, "the fifth")
        eventually(lambda: open_connections(proxy) == 4, "four again")


def test_warm_connections_to_an_upstream_that_is_down_at_first() -> None:
    """They come when it does; the log of the proxy is not filled meanwhile."""
    with HttpUpstream() as upstream:
        port = upstream.port
    with Proxy(CONFIG.format(pool="warm: 2"), ports={"site": port}) as proxy:

        def failures() -> float:
            return metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="site")

        eventually(lambda: failures() >= 2, "two rounds")
        assert failures() <= 12
        with socket.create_server((HOST, port)) as server:
            server.settimeout(PATIENCE)
            ends = [server.accept()[0] for _ in range(2)]
            eventually(lambda: open_connections(proxy) == 2, "both")
            for end in ends:
                end.close()


def test_the_clusters_limit_starves_nobody() -> None:
    """
    Three endpoints in turn, one connection for them all: the idle one is closed for the one
    that is needed, and every request is answered.
    """
    text = CONFIG.replace("['127.0.0.1:$site']", "['127.0.0.1:$a', '127.0.0.1:$b', '127.0.0.1:$c']")
    text = text.replace("pool: {{ {pool} }}", "limits: {{ connections: 1 }}")
    with HttpUpstream() as a, HttpUpstream() as b, HttpUpstream() as c:
        ports = {"a": a.port, "b": b.port, "c": c.port}
        with Proxy(text.format(), ports=ports) as proxy, Client.to(proxy) as client:
            assert {client.ask().status for _ in range(30)} == {200}
            assert open_connections(proxy) == 1
        assert [upstream.connections for upstream in (a, b, c)] == [10, 10, 10]


def test_an_upstream_that_refuses_a_long_line() -> None:
    """It is answered at once, by 503 all of it."""
    with HttpUpstream() as upstream:
        port = upstream.port
    text = CONFIG.format(pool="max_connections: 1")
    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    with Proxy(text, ports={"site": port}) as proxy:
        clients = [Client.to(proxy) for _ in range(100)]
        for client in clients:
            client.send(request)
        assert {client.response().status for client in clients} == {503}
        for client in clients:
            client.close()

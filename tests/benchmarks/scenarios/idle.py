"""Idle keep-alive connections: the memory of one that waits for its next request.

Each round starts every proxy anew, warms it with requests on one connection, opens the
connections (each does one request, one after the other, so that few upstream connections exist),
waits for the memory to come to rest, and divides the growth of the resident memory by their
number.  With TLS each is a handshake first.  Kernel memory of the sockets is not in it.  nginx
reserves its connections' structures when it starts, so that its growth here is less than what a
connection costs it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from tests.benchmarks.bench import Bench, Settings, raise_descriptor_limit
from tests.benchmarks.figures import Column, Report, Sample, interleave
from tests.benchmarks.plan import MAX_CONNECTIONS
from tests.benchmarks.process import HOST, Running
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.benchmarks.plan import Identity

    Connect = Callable[[Running], socket.socket]

COLUMNS = (
    Column("cost", "KiB/connection", 2),
    Column("connections", "connections", 0),
    Column("before_mib", "RSS before MiB"),
    Column("after_mib", "RSS after MiB"),
)
GOALS = {"envoy": 0.3}
MOST_ROUNDS = 3
_WARM_UP_REQUESTS = 500
_REST_SECONDS = 1.2
_TIMEOUT = 10.0
_SPARE_DESCRIPTORS = 64


def run(settings: Settings) -> Report:
    """Measure every proxy in at most three rounds; raises StartError or LoadError."""
    return _run(settings, "idle", "HTTP", GOALS, tls=False)


def secured(settings: Settings) -> Report:
    """The same with TLS 1.3; raises StartError or LoadError."""
    return _run(settings, "tls-idle", "HTTPS", {}, tls=True)


def _run(
    settings: Settings, title: str, what: str, goals: Mapping[str, float], *, tls: bool
) -> Report:
    rounds = min(settings.rounds, MOST_ROUNDS)
    count = allowed(settings.idle_connections)
    with Bench(settings) as bench:
        identity = bench.identity() if tls else None
        plan = bench.http_backend(identity)
        connect = _connect(identity)
        names = bench.competitors(plan)
        prefix = plan.routes[len(plan.routes) // 2].prefix

        def measure(name: str, round_number: int) -> Sample:
            running = bench.start(name, plan)
            try:
                return growth(running, connect, prefix, count)
            finally:
                running.stop()

        return Report(
            title,
            f"{count} idle keep-alive {what} connections, each after one request, {rounds} rounds",
            names[0],
            COLUMNS,
            interleave(names, rounds, measure),
            bench.versions,
            bench.skipped,
            goals,
            {"rounds": rounds, "connections": count},
        )


def allowed(wanted: int) -> int:
    """As many of the wanted connections as this process and the proxies' own limit allow."""
    return min(
        wanted, raise_descriptor_limit() - _SPARE_DESCRIPTORS, MAX_CONNECTIONS - _SPARE_DESCRIPTORS
    )


def growth(running: Running, connect: Connect, prefix: str, count: int) -> Sample:
    """Open ``count`` connections and see what they cost; raises LoadError when one is lost."""
    with contextlib.ExitStack() as opened:
        first = opened.enter_context(connect(running))
        for number in range(_WARM_UP_REQUESTS):
            _exchange(running, first, prefix, number)
        before = _rss_at_rest(running)
        connections = []
        for number in range(count):
            connection = opened.enter_context(connect(running))
            _exchange(running, connection, prefix, number)
            connections.append(connection)
        after = _rss_at_rest(running)
        _all_open(running, connections)
    return {
        "cost": (after - before) / 1024 / count,
        "connections": count,
        "before_mib": before / 2**20,
        "after_mib": after / 2**20,
    }


def _connect(identity: Identity | None) -> Connect:
    """How a client connects: over TLS, to whom it should be, or without."""

    def plain(running: Running) -> socket.socket:
        return socket.create_connection((HOST, running.port), _TIMEOUT)

    if identity is None:
        return plain
    context = ssl.create_default_context(cafile=str(identity.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3

    def secured(running: Running) -> socket.socket:
        return context.wrap_socket(plain(running), server_hostname=identity.name)

    return secured


def _exchange(running: Running, connection: socket.socket, prefix: str, number: int) -> None:
    connection.sendall(
        f"GET {prefix}items/{number} HTTP/1.1\r\n"
        "Host: shop.example.com\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
        "Accept: application/json, text/plain;q=0.9, */*;q=0.5\r\n"
        "Accept-Encoding: gzip, deflate, br\r\n"
        "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
        "Cookie: session=5f2d8c0b9a7e4c1d8f6b3a2e1d0c9b8a; theme=dark; consent=1\r\n"
        f"X-Correlation-Id: idle-{number}\r\n\r\n".encode()
    )
    received = b""
    while not complete(received):
        data = connection.recv(65536)
        if not data:
            raise LoadError(
                f"{running.name} closed a connection within an exchange: {received[:200]!r}"
            )
        received += data
    if not received.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"{running.name} answered {received[:200]!r}")


def complete(received: bytes) -> bool:
    """Whether these bytes hold a whole response with a length (the backend's always has one)."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return len(body) >= int(value)
    raise LoadError(f"a response without a length: {head[:200]!r}")


def _rss_at_rest(running: Running) -> int:
    """The resident memory, after some time for timers and logs that follow a request."""
    time.sleep(_REST_SECONDS)
    return running.rss_bytes()


def _all_open(running: Running, connections: list[socket.socket]) -> None:
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
    if lost := len(poll.poll(0)):
        raise LoadError(f"{running.name} closed {lost} of {len(connections)} idle connections")

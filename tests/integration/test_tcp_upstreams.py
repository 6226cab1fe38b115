"""
TCP before clusters of several endpoints, of which some refuse, reset or have enough: where
connections go, and what the counters and the log say of it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.harness import HOST, PATIENCE, Proxy, Server, echo, read_to_end
from tests.integration.wire import LOG, eventually, linger_reset, log_lines, metric, refusing

TCP = """
listeners:
  tcp: {{ listen: '127.0.0.1:$tcp', {listener} tcp: {{ to: site, {tcp} {log} }} }}
clusters:
  site: {{ endpoints: [{endpoints}], {cluster} }}
"""


def start(*endpoints: str, cluster: str = "", tcp: str = "", listener: str = "") -> Proxy:
    """A proxy with the listener ``tcp`` before ``endpoints``; the rest are settings to add."""
    return Proxy(
        TCP.format(
            endpoints=", ".join(one if one.startswith("{") else f"'{one}'" for one in endpoints),
            cluster=cluster,
            tcp=f"{tcp}," if tcp else "",
            listener=f"{listener}," if listener else "",
            log=LOG,
        )
    )


def talk(proxy: Proxy, source: str = HOST, opening: bytes = b"") -> bytes:
    """
    What a connection from ``source`` is answered until its end; it says ``ping`` itself.

    Raises ConnectionError for a reset, whenever it comes.
    """
    where = (HOST, proxy.ports["tcp"])
    with socket.create_connection(where, PATIENCE, (source, 0)) as sock:
        sock.sendall(opening + b"ping")
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ConnectionResetError("before the end was sent") from error
        return read_to_end(sock)


def is_reset(proxy: Proxy) -> bool:
    """Whether a connection is reset before it hears a byte."""
    try:
        with proxy.connect("tcp") as sock:
            return read_to_end(sock) is None
    except ConnectionResetError:
        return True


@contextmanager
def named(count: int) -> Iterator[list[Server]]:
    """Servers that answer with their number, whatever they are told."""

    def serve(number: int) -> Server:
        def answer(sock: socket.socket) -> None:
            read_to_end(sock)
            sock.sendall(b"%d" % number)

        return Server(answer)

    with ExitStack() as stack:
        yield [stack.enter_context(serve(number)) for number in range(count)]


def test_the_next_endpoint_is_tried() -> None:
    """Where two of three endpoints refuse, three attempts serve every client."""
    with refusing() as one, refusing() as two, Server(echo) as server:
        with start(one, two, server.address, tcp="max_connect_attempts: 3") as proxy:
            assert [talk(proxy) for _ in range(30)] == [b"ping"] * 30
            lines = _lines(proxy, 30)
            failures = metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="site")
        assert {line["flags"] for line in lines} == {"-"}
        assert {line["upstream"] for line in lines} == {server.address}
        attempts = [line["attempts"] for line in lines]
        assert max(attempts) == 3
        assert failures == sum(attempts) - 30


def _lines(proxy: Proxy, count: int) -> list[dict[str, Any]]:
    """The log's lines, once there are so many."""

    def look() -> list[dict[str, Any]]:
        lines = log_lines(proxy, listener="tcp")
        return lines if len(lines) >= count else []

    return eventually(look, f"{count} lines")


def test_attempts_run_out() -> None:
    """When all that are tried refuse, the client is reset; the log says how many there were."""
    with refusing() as one, refusing() as two:
        with start(one, two, tcp="max_connect_attempts: 2") as proxy:
            assert is_reset(proxy)
            (line,) = log_lines(proxy, listener="tcp")
        assert (line["flags"], line["attempts"]) == ("UF,URX", 2)


def _answered(sock: socket.socket) -> bool:
    """Whether a byte comes back, and not the connection's end."""
    try:
        sock.sendall(b"x")
        return sock.recv(1) == b"x"
    except ConnectionError:
        return False


def test_max_duration() -> None:
    """A connection that talks all the time ends when its time is over."""
    with Server(echo) as server, start(server.address, tcp="max_duration: 700ms") as proxy:
        with proxy.connect("tcp") as sock:
            rounds = 0
            while _answered(sock):
                rounds += 1
                time.sleep(0.02)
        assert rounds > 0
        (line,) = log_lines(proxy, listener="tcp")
        assert (line["flags"], line["details"]) == ("DT", "max_duration")
        name = "meshproxy_listener_duration_timeouts_total"
        assert metric(proxy, name, listener="tcp") == 1


def test_connection_limit() -> None:
    """One over the cluster's limit is reset and counted; when one leaves there is room again."""
    name = "meshproxy_cluster_overflow_connections_total"
    with (
        Server(echo) as server,
        start(server.address, cluster="limits: { connections: 2 }") as proxy,
    ):
        with proxy.connect("tcp") as one, proxy.connect("tcp") as two:
            for sock in (one, two):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            for _ in range(3):
                assert is_reset(proxy)
            lines = log_lines(proxy, listener="tcp")
            assert [(line["flags"], line["attempts"]) for line in lines] == [("UO", 0)] * 3
            assert metric(proxy, name, cluster="site") == 3
        eventually(lambda: len(log_lines(proxy, flags="-")) == 2, "both to be gone")
        assert talk(proxy) == b"ping"
        assert metric(proxy, name, cluster="site") == 3


def test_endpoint_limit() -> None:
    """When every endpoint has as many connections as it may, one more is reset and counted."""
    limit = "endpoint_limits: { concurrency: 1 }"
    with named(2) as (one, two), start(one.address, two.address, cluster=limit) as proxy:
        held = [proxy.connect("tcp") for _ in range(2)]
        eventually(lambda: one.connections == two.connections == 1, "one connection each")
        assert is_reset(proxy)
        (line,) = log_lines(proxy, listener="tcp")
        assert (line["flags"], line["attempts"]) == ("UO", 0)
        assert metric(proxy, "meshproxy_cluster_overflow_endpoints_total", cluster="site") == 1
        for sock in held:
            sock.close()


BREAKER = "circuit_breaker: { failure_threshold: 3, base_ejection_time: 60s }"


def test_breaker_opens() -> None:
    """After some refusals an endpoint is asked no more, and no client noticed anything."""
    with refusing() as bad, Server(echo) as one, Server(echo) as two:
        attempts = "max_connect_attempts: 2"
        with start(bad, one.address, two.address, cluster=BREAKER, tcp=attempts) as proxy:
            assert [talk(proxy) for _ in range(60)] == [b"ping"] * 60
            lines = _lines(proxy, 60)
            failures = metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="site")
            ejections = metric(proxy, "meshproxy_cluster_ejections_total", cluster="site")
            active = metric(proxy, "meshproxy_cluster_connections_active", cluster="site")
        assert (failures, ejections, active) == (3, 1, 0)
        assert sum(line["attempts"] for line in lines) == 63
        assert {line["flags"] for line in lines} == {"-"}


def test_breaker_of_one_that_accepts_and_resets() -> None:
    """An endpoint that accepts and resets is given up too, and the others serve everybody."""

    def drop(sock: socket.socket) -> None:
        sock.recv(1)
        linger_reset(sock)

    with Server(drop) as bad, Server(echo) as good:
        with start(bad.address, good.address, cluster=BREAKER) as proxy:
            answers = []
            for _ in range(30):
                try:
                    answers.append(talk(proxy))
                except ConnectionError:
                    answers.append(b"reset")
        assert (answers.count(b"reset"), answers.count(b"ping")) == (3, 27)
        assert bad.connections == 3


def test_breaker_with_nobody_left() -> None:
    """When the only endpoint is given up a client is reset without an attempt, at once."""
    with refusing() as bad, start(bad, cluster=BREAKER) as proxy:
        for _ in range(5):
            assert is_reset(proxy)
        lines = _lines(proxy, 5)
        assert [line["flags"] for line in lines] == ["UF"] * 3 + ["UH"] * 2
        assert [line["attempts"] for line in lines] == [1] * 3 + [0] * 2
        assert metric(proxy, "meshproxy_cluster_no_endpoint_total", cluster="site") == 2


def test_an_endpoint_returns() -> None:
    """Half-open, one connection decides; when it is served, the endpoint is back."""
    well = [False]

    def serve(sock: socket.socket) -> None:
        if well[0]:
            echo(sock)
        else:
            sock.recv(1)
            linger_reset(sock)

    def served() -> bool:
        try:
            return talk(proxy) == b"ping"
        except ConnectionError:
            return False

    breaker = "circuit_breaker: { failure_threshold: 2, base_ejection_time: 2s }"
    with Server(serve) as server, start(server.address, cluster=breaker) as proxy:
        assert not any(served() for _ in range(4))
        assert [line["flags"] for line in _lines(proxy, 4)] == ["UC", "UC", "UH", "UH"]
        well[0] = True
        eventually(served, "the endpoint to be back")
        assert all(served() for _ in range(10))


@pytest.mark.parametrize("balance", ["ring_hash", "maglev"])
def test_hash_by_the_address_of_the_client(balance: str) -> None:
    """A client's address always leads to the same endpoint; different ones to different ones."""
    addresses = [f"127.0.0.{last}" for last in range(2, 18)]
    with named(3) as servers:
        where = [server.address for server in servers]
        with start(*where, cluster=f"balance: {balance}") as proxy:
            first = [talk(proxy, source) for source in addresses]
            assert [talk(proxy, source) for source in addresses] == first
    assert len(set(first)) > 1


def test_hash_by_the_address_of_a_header() -> None:
    """Where a PROXY header names the client, that address decides."""
    with named(3) as servers:
        where = [server.address for server in servers]
        with start(*where, cluster="balance: ring_hash", listener="proxy_protocol: true") as proxy:

            def ask(last: int) -> bytes:
                return talk(proxy, opening=b"PROXY TCP4 192.0.2.%d 192.0.2.99 1 2\r\n" % last)

            first = [ask(last) for last in range(1, 17)]
            assert [ask(last) for last in range(1, 17)] == first
    assert len(set(first)) > 1


def test_a_hashed_client_is_served_by_another_endpoint() -> None:
    """The endpoint that a client's address leads to refuses: the next attempt goes elsewhere."""
    addresses = [f"127.0.0.{last}" for last in range(2, 10)]
    with refusing() as bad, Server(echo) as good:
        cluster, tcp = "balance: maglev", "max_connect_attempts: 2"
        with start(bad, good.address, cluster=cluster, tcp=tcp) as proxy:
            assert [talk(proxy, source) for source in addresses] == [b"ping"] * 8


def test_subset() -> None:
    """A listener's ``subset`` is all that its connections are sent to."""
    with named(2) as (old, new):
        labelled = [
            f"{{ address: '{server.address}', labels: {{ version: {version} }} }}"
            for server, version in ((old, "v1"), (new, "v2"))
        ]
        with start(*labelled, tcp="subset: { version: v2 }") as proxy:
            assert [talk(proxy) for _ in range(6)] == [b"1"] * 6

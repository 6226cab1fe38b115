"""A connection's life: counters, times, flags and its one record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.net.proxy_protocol import encode_v1, encode_v2
from meshproxy.tcp.connection import SETTLE
from meshproxy.upstream.endpoint import OPEN

if TYPE_CHECKING:
    from tests.tcp.mesh import Mesh


def test_record_and_counters(mesh: Mesh) -> None:
    """At its end a connection has left one record and moved every counter that it should."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    name = client.getsockname()
    client.send(b"12345")
    mesh.read(upstream, 5)
    upstream.send(b"123")
    mesh.read(client, 3)
    mesh.time += 2
    near = upstream.getpeername()
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    (record,) = mesh.records
    assert record["protocol"] == b"TCP"
    assert record["client"] == b"127.0.0.1:%d" % name[1]
    assert record["client_ip"] == b"127.0.0.1"
    assert record["local"] == b"127.0.0.1:%d" % where[1]
    assert record["upstream"] == b"127.0.0.1:%d" % server.getsockname()[1]
    assert record["upstream_local"] == b"127.0.0.1:%d" % near[1]
    assert (record["bytes_received"], record["bytes_sent"]) == (5, 3)
    assert (record["flags"], record["details"], record["attempts"]) == (b"-", b"closed", 1)
    assert (record["listener_name"], record["cluster_name"]) == (b"in", b"up")
    assert record["start"] <= record["upstream_start"] <= record["connected_at"]
    assert record["end"] - record["start"] >= 2
    assert record["response_start"] == 0.0
    for kind, label in (("listener", "in"), ("cluster", "up")):
        assert mesh.value(f"{kind}_connections_total", **{kind: label}) == 1
    assert mesh.value("listener_bytes_received_total", listener="in") == 5
    assert mesh.value("listener_bytes_sent_total", listener="in") == 3
    assert mesh.value("cluster_bytes_sent_total", cluster="up") == 5
    assert mesh.value("cluster_bytes_received_total", cluster="up") == 3
    histogram = mesh.clusters["up"].stats.connect_duration
    buckets = slice(histogram.base, histogram.base + len(histogram.bounds) + 1)
    assert sum(mesh.registry.values[buckets]) == 1


def test_live_connections_are_counted(mesh: Mesh) -> None:
    """Gauges are up while a connection lives, and its bytes are seen before it ends."""
    where, server = mesh.proxy()
    client, upstream = mesh.pair(where, server)
    client.send(bytes(100))
    mesh.read(upstream, 100)
    assert mesh.value("listener_connections_active", listener="in") == 1
    assert mesh.value("cluster_connections_active", cluster="up") == 1
    endpoint = mesh.clusters["up"].endpoints[0]
    assert (endpoint.active, endpoint.connections) == (1, 1)
    assert mesh.value("listener_bytes_received_total", listener="in") == 0
    mesh.pass_time(SETTLE + 0.5)
    assert mesh.value("listener_bytes_received_total", listener="in") == 100
    client.send(bytes(11))
    mesh.read(upstream, 11)
    mesh.pass_time(SETTLE + 0.5)
    assert mesh.value("listener_bytes_received_total", listener="in") == 111


@pytest.mark.parametrize("idle", [3.0, 20.0])
def test_idle_timeout(mesh: Mesh, idle: float) -> None:
    """Silence longer than the idle timeout closes both sides; any byte starts it anew."""
    where, server = mesh.proxy(tcp={"idle_timeout": idle})
    client, upstream = mesh.pair(where, server)
    mesh.settle()
    for one, two in ((client, upstream), (upstream, client)):
        mesh.pass_time(idle - 1)
        one.send(b"x")
        mesh.read(two, 1)
    mesh.pass_time(idle - 1)
    assert not mesh.records
    mesh.pass_time(2)
    assert mesh.end(client) == mesh.end(upstream) == b""
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"SI"
    assert mesh.value("listener_idle_timeouts_total", listener="in") == 1


def test_no_idle_timeout(mesh: Mesh) -> None:
    """Zero switches it off."""
    where, server = mesh.proxy(tcp={"idle_timeout": 0.0})
    client, upstream = mesh.pair(where, server)
    mesh.settle()
    mesh.time += 1e6
    mesh.settle()
    client.send(b"still here")
    assert mesh.read(upstream, 10) == b"still here"


def test_refused(mesh: Mesh) -> None:
    """A refused upstream resets the client: UF, one failure, no reading of what was sent."""
    mesh.cluster("up", mesh.refused())
    client = mesh.connect(mesh.bind(mesh.listener()))
    client.send(b"unread")
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    (record,) = mesh.records
    assert (record["flags"], record["attempts"]) == (b"UF", 1)
    assert record["details"].startswith(b"connection_refused")
    assert record["upstream"]
    assert record["bytes_received"] == 0
    assert record["connected_at"] == 0.0
    assert mesh.value("cluster_connect_failures_total", cluster="up") == 1
    assert mesh.value("cluster_connect_timeouts_total", cluster="up") == 0
    assert mesh.value("cluster_connections_total", cluster="up") == 0
    assert mesh.value("listener_connections_failed_total", listener="in") == 1


def test_second_attempt(mesh: Mesh) -> None:
    """Where more than one attempt is allowed, the next endpoint is tried and the client stays."""
    server = mesh.server()
    mesh.cluster("up", mesh.refused(), server.getsockname())
    where = mesh.bind(mesh.listener(tcp={"max_connect_attempts": 2}))
    for number in range(1, 5):
        client, upstream = mesh.pair(where, server)
        client.send(b"x")
        assert mesh.read(upstream, 1) == b"x"
        client.close()
        upstream.close()
        mesh.turn(lambda number=number: len(mesh.records) == number)  # type: ignore[misc]
    assert {record["flags"] for record in mesh.records} == {b"-"}
    further = sum(record["attempts"] - 1 for record in mesh.records)
    assert further > 0
    assert mesh.value("cluster_connect_failures_total", cluster="up") == further


def test_attempts_run_out(mesh: Mesh) -> None:
    """When every attempt fails the client is reset: UF,URX."""
    mesh.cluster("up", mesh.refused(), mesh.refused())
    client = mesh.connect(mesh.bind(mesh.listener(tcp={"max_connect_attempts": 3})))
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["attempts"]) == (b"UF,URX", 3)
    assert mesh.value("cluster_connect_failures_total", cluster="up") == 3


@pytest.mark.parametrize("attempts", [1, 2])
def test_connect_timeout(mesh: Mesh, attempts: int) -> None:
    """An upstream that does not answer is given up after connect_timeout, each time."""
    server = mesh.server()
    server.listen(0)
    mesh.connect(server.getsockname())  # fills the queue: further SYNs are dropped
    mesh.cluster("up", server.getsockname(), connect_timeout=2.0)
    client = mesh.connect(mesh.bind(mesh.listener(tcp={"max_connect_attempts": attempts})))
    mesh.turn(lambda: mesh.clusters["up"].endpoints[0].active)
    mesh.pass_time(1.5)
    assert not mesh.records
    for _ in range(attempts):
        mesh.pass_time(2.5)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == (b"UF" if attempts == 1 else b"UF,URX")
    assert b"timeout" in mesh.records[0]["details"]
    assert mesh.value("cluster_connect_timeouts_total", cluster="up") == attempts


def test_no_endpoint(mesh: Mesh) -> None:
    """A cluster with nothing to pick resets the client: UH."""
    cluster = mesh.cluster("up", mesh.refused())
    cluster.endpoints[0].breaker = OPEN
    cluster.changed()
    client = mesh.connect(mesh.bind(mesh.listener()))
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"UH"
    assert mesh.records[0]["details"] == b"no_healthy_upstream"
    assert (mesh.records[0]["upstream"], mesh.records[0]["attempts"]) == (b"", 0)


def test_a_log_that_raises(mesh: Mesh) -> None:
    """A record that cannot be written leaves nothing behind; the next connection is served."""
    called = []

    def broken(record: Any) -> None:
        called.append(record)
        raise RuntimeError("the disk is made of cheese")

    where, server = mesh.proxy(log=broken)
    for number in range(1, 3):
        client, upstream = mesh.pair(where, server)
        client.close()
        upstream.close()
        mesh.turn(lambda number=number: len(called) == number)  # type: ignore[misc]
    mesh.turn(lambda: mesh.listeners[0].active == 0)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_header_is_sent(mesh: Mesh, version: str) -> None:
    """A cluster that wants a PROXY header gets it before the client's first byte."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname(), proxy_protocol=version)
    where = mesh.bind(mesh.listener())
    client, upstream = mesh.pair(where, server)
    client.send(b"payload")
    encode = encode_v1 if version == "v1" else encode_v2
    header = encode(client.getsockname(), where)
    assert mesh.read(upstream, len(header) + 7) == header + b"payload"
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["bytes_received"] == 7

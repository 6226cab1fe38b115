"""What overload does to a TCP listener, and that it is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshproxy.tcp.shedding import TcpShedding

if TYPE_CHECKING:
    from tests.tcp.mesh import Mesh


def test_new_connections_are_closed_and_open_ones_live_on(mesh: Mesh) -> None:
    """Without an upstream for them, and counted apart from other refusals."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    listener = mesh.listener(max_connections=1)
    where = mesh.bind(listener)
    shed = TcpShedding(listener, mesh.registry)
    client, upstream = mesh.pair(where, server)
    assert mesh.end(mesh.connect(where)) == b""  # one too many, as ever
    shed.shed(True)
    for _ in range(2):
        assert mesh.end(mesh.connect(where)) == b""
    shed.shed(True)
    shed.shed(True)
    assert mesh.end(mesh.connect(where)) == b""
    client.send(b"still")
    assert mesh.read(upstream, 5) == b"still"
    shed.shed(False)
    shed.shed(False)
    assert listener.max_connections == 1
    assert mesh.value("listener_connections_shed_total", listener="in") == 3
    assert mesh.value("listener_connections_refused_total", listener="in") == 4
    client.close()
    upstream.close()
    mesh.turn(lambda: not listener.active)
    again, upstream = mesh.pair(where, server)
    again.send(b"served")
    assert mesh.read(upstream, 6) == b"served"
    assert shed.in_flight == 0


def test_a_reload_may_change_the_limit_meanwhile(mesh: Mesh) -> None:
    """The new one is shed at the next call, and is there when shedding ends."""
    mesh.cluster("up", mesh.refused())
    listener = mesh.listener()
    shed = TcpShedding(listener, mesh.registry)
    shed.shed(True)
    listener.max_connections = 7
    shed.shed(True)
    assert listener.max_connections == 0
    shed.shed(False)
    assert listener.max_connections == 7


@pytest.mark.parametrize(("configured", "during"), [(3600.0, 5.0), (2.0, 2.0), (0.0, 5.0)], ids=str)
def test_idle_connections_are_closed_sooner(mesh: Mesh, configured: float, during: float) -> None:
    """Those that are open already, within seconds; afterwards the configured time holds again."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    listener = mesh.listener(tcp={"idle_timeout": configured})
    where = mesh.bind(listener)
    shed = TcpShedding(listener, mesh.registry)
    client, _ = mesh.pair(where, server)
    mesh.settle()
    shed.shorten_idle(5.0)
    shed.shorten_idle(5.0)
    assert listener.idle_timeout == during
    mesh.pass_time(11.0)
    assert mesh.end(client) == b""
    shed.shorten_idle(0.0)
    assert listener.idle_timeout == configured
    if configured != during:
        other, upstream = mesh.pair(where, server)
        mesh.pass_time(30.0)
        other.send(b"x")
        assert mesh.read(upstream, 1) == b"x"


def test_a_reload_may_change_the_idle_timeout_meanwhile(mesh: Mesh) -> None:
    """The new one is there when it ends."""
    mesh.cluster("up", mesh.refused())
    listener = mesh.listener()
    shed = TcpShedding(listener, mesh.registry)
    shed.shorten_idle(5.0)
    listener.idle_timeout = 60.0
    shed.shorten_idle(5.0)
    assert listener.idle_timeout == 5.0
    shed.shorten_idle(0.0)
    assert listener.idle_timeout == 60.0

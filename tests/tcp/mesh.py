"""What the tests of this room share: a listener between real sockets, on a clock that they move."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.epollreactor import EPollReactor

from meshproxy import config
from meshproxy.config.values import format_duration
from meshproxy.net.listen import listen
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.tcp.listener import TcpListener
from meshproxy.upstream.cluster import Cluster
from tests.net import live

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.upstream.endpoint import Endpoint

REACTORS = {"watching": MeshReactor, "stock": EPollReactor}


def rst(sock: socket.socket) -> None:
    """Close ``sock`` with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def family(name: Any) -> socket.AddressFamily:
    """The family of a socket's name."""
    if isinstance(name, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in name[0] else socket.AF_INET


def address(name: Any) -> str:
    """A socket's name as a configuration says it."""
    if isinstance(name, str):
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with their numbers of seconds as durations."""
    return {
        key: format_duration(value) if isinstance(value, float) else value
        for key, value in settings.items()
    }


class Mesh:
    """A reactor that a test turns, and whatever it listens and connects with."""

    def __init__(self, reactor: str) -> None:
        self.time = 1000.0
        self.reactor: Any = REACTORS[reactor]()
        self.reactor.seconds = lambda: self.time
        self.watching = reactor == "watching"
        self.wheel = TimerWheel(self.reactor)
        self.registry = Registry()
        self.records: list[dict[str, Any]] = []
        self.ports: list[Any] = []
        self.sockets: list[socket.socket] = []
        self.listeners: list[TcpListener] = []
        self.clusters: dict[str, Cluster] = {}
        #: Every endpoint that a cluster began with; it may have been removed since.
        self.endpoints: list[Endpoint] = []

    def server(self, where: Any = ("127.0.0.1", 0)) -> socket.socket:
        """An upstream's listening socket."""
        sock = socket.socket(family(where))
        sock.bind(where)
        sock.listen()
        sock.setblocking(False)
        self.sockets.append(sock)
        return sock

    def cluster(self, name: str, *names: Any, **options: Any) -> Cluster:
        """
        A cluster of the addresses ``names`` (sockets' names, or mappings of an endpoint); the
        options are those of the configuration, durations as floats.
        """
        endpoints = [one if isinstance(one, dict) else address(one) for one in names]
        model = config.Cluster.model_validate({"endpoints": endpoints, **_written(options)})
        cluster = self.clusters[name] = Cluster(name, model, self.registry, self.wheel)
        self.endpoints += cluster.endpoints
        return cluster

    def listener(
        self,
        to: dict[str, int] | str = "up",
        *,
        log: Callable[[Any], None] | None = None,
        tcp: dict[str, Any] | None = None,
        **options: Any,
    ) -> TcpListener:
        """A listener, not bound; ``tcp`` and ``options`` as the configuration's."""
        section = _written(tcp or {})
        if "routes" not in section:
            section["to"] = to
        model = config.Listener.model_validate({"listen": ":0", "tcp": section, **options})
        listener = TcpListener(
            self.reactor,
            self.wheel,
            self.registry,
            "in",
            model,
            self.clusters,
            log or self.record,
        )
        self.listeners.append(listener)
        return listener

    def bind(self, listener: TcpListener, where: Any = ("127.0.0.1", 0)) -> Any:
        """Bind ``listener``; gives the address to connect to."""
        port = listen(self.reactor, family(where), where, listener.accept)
        self.ports.append(port)
        return port.socket.getsockname()

    def proxy(self, **options: Any) -> tuple[Any, socket.socket]:
        """One listener to one upstream: where to connect, and the upstream's socket."""
        server = self.server()
        self.cluster("up", server.getsockname())
        return self.bind(self.listener(**options)), server

    def refused(self) -> Any:
        """An address where nobody listens."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            return server.getsockname()

    def connect(self, where: Any) -> socket.socket:
        """A client."""
        sock = socket.socket(family(where))
        sock.connect(where)
        sock.setblocking(False)
        self.sockets.append(sock)
        return sock

    def accept(self, server: socket.socket) -> socket.socket:
        """The upstream's end of the connection that the proxy makes."""
        taken: list[socket.socket] = []

        def came() -> bool:
            with suppress(BlockingIOError):
                taken.append(server.accept()[0])
            return bool(taken)

        self.turn(came)
        taken[0].setblocking(False)
        self.sockets.append(taken[0])
        return taken[0]

    def pair(self, where: Any, server: socket.socket) -> tuple[socket.socket, socket.socket]:
        """A client and its upstream, joined."""
        client = self.connect(where)
        return client, self.accept(server)

    def record(self, record: Any) -> None:
        """Keep what an access log would read."""
        names = (
            "protocol method path authority scheme request_headers response_headers status flags "
            "details bytes_received bytes_sent start end request_end upstream_start connected_at "
            "response_start client client_ip local upstream upstream_local cluster_name "
            "route_name listener_name request_id attempts server_name"
        )
        self.records.append({name: getattr(record, name) for name in names.split()})

    def turn(self, until: Callable[[], object]) -> None:
        """Turn the reactor until the condition holds; a test that hangs fails here."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if until():
                return
            self.reactor.iterate(0.002)
        raise AssertionError("the condition never came true")

    def settle(self) -> None:
        """Turn until nothing happens any more."""
        for _ in range(10):
            self.reactor.iterate(0.001)

    def pass_time(self, seconds: float) -> None:
        """Move the clock, in steps as the wheel's, and let what is due happen."""
        until = self.time + seconds
        while self.time < until:
            self.time = min(self.time + 0.25, until)
            self.reactor.iterate(0)
        self.settle()

    def read(self, sock: socket.socket, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        data = bytearray()

        def enough() -> bool:
            with suppress(BlockingIOError):
                data.extend(sock.recv(size - len(data)))
            return len(data) == size

        self.turn(enough)
        return bytes(data)

    def end(self, sock: socket.socket) -> bytes:
        """All until the end of the stream; raises ConnectionResetError."""
        data = bytearray()

        def ended() -> bool:
            with suppress(BlockingIOError):
                more = sock.recv(1 << 20)
                data.extend(more)
                return not more
            return False

        self.turn(ended)
        return bytes(data)

    def was_reset(self, sock: socket.socket) -> bool:
        """Whether the stream ends in RST."""
        try:
            self.end(sock)
        except ConnectionResetError:
            return True
        return False

    def value(self, name: str, **labels: str) -> float:
        """A counter or gauge."""
        slot = self.registry.counter if name.endswith("_total") else self.registry.gauge
        return self.registry.values[slot(f"meshproxy_{name}", "", labels)]

    def close(self) -> None:
        """Stop everything; what is left over fails the test."""
        gone = [listener.stop() for listener in self.listeners]
        self.turn(lambda: all(one.called for one in gone))
        for port in self.ports:
            port.stopListening()
        for cluster in self.clusters.values():
            if cluster.breaker is not None:
                cluster.breaker.stop()
        assert len(self.wheel) == 0
        self.wheel.stop()
        for sock in self.sockets:
            sock.close()
        assert all(listener.active == 0 for listener in self.listeners)
        for endpoint in self.endpoints:
            assert (endpoint.active, endpoint.connections) == (0, 0)
        for name, cluster in self.clusters.items():
            assert cluster.limits.connections == 0
            assert self.value("cluster_connections_active", cluster=name) == 0
        assert self.value("listener_connections_active", listener="in") == 0
        internal = {self.reactor.waker}
        assert {*self.reactor.getReaders(), *self.reactor.getWriters()} <= internal
        assert not self.watching or not self.reactor._watchers
        live.close(self.reactor)

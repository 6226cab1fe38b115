"""What the tests of this room share: a listener between real sockets, on a clock that they move."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from twisted.internet.epollreactor import EPollReactor

from meshproxy.config.address import Address
from meshproxy.net.listen import listen
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.tcp.listener import TcpListener
from meshproxy.upstream.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

REACTORS = {"watching": MeshReactor, "stock": EPollReactor}


def rst(sock: socket.socket) -> None:
    """Close ``sock`` with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def address(name: Any) -> Address:
    """The address of a socket, as the configuration would give it."""
    if isinstance(name, str):
        return Address(f"unix:{name}", socket.AF_UNIX, path=name)
    host, port = name[:2]
    if ":" in host:
        return Address(f"[{host}]:{port}", socket.AF_INET6, host, port)
    return Address(f"{host}:{port}", socket.AF_INET, host, port)


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

    def server(self, where: Any = ("127.0.0.1", 0)) -> socket.socket:
        """An upstream's listening socket."""
        sock = socket.socket(address(where).family)
        sock.bind(where)
        sock.listen()
        sock.setblocking(False)
        self.sockets.append(sock)
        return sock

    def cluster(self, name: str, *names: Any, **options: Any) -> None:
        """A cluster of the addresses ``names`` (sockets' names)."""
        settings: dict[str, Any] = {
            "endpoints": [SimpleNamespace(address=address(one), weight=1) for one in names],
            "balance": "round_robin",
            "connect_timeout": 5.0,
            "proxy_protocol": None,
            "nodelay": True,
            "keepalive": False,
            **options,
        }
        config: Any = SimpleNamespace(**settings)
        self.clusters[name] = Cluster(name, config, self.registry, self.wheel)

    def listener(
        self,
        to: dict[str, int] | None = None,
        *,
        idle_timeout: float = 3600.0,
        max_attempts: int = 1,
        log: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> TcpListener:
        """A listener, not bound, to the cluster ``up`` unless told otherwise."""
        config: Any = SimpleNamespace(
            tcp=SimpleNamespace(to=to or {"up": 1}, idle_timeout=idle_timeout),
            **{"max_connections": 100, "proxy_protocol": False, "nodelay": True, **options},
        )
        listener = TcpListener(
            self.reactor,
            self.wheel,
            self.registry,
            "in",
            config,
            self.clusters,
            log or self.record,
            max_attempts=max_attempts,
        )
        self.listeners.append(listener)
        return listener

    def bind(self, listener: TcpListener, where: Any = ("127.0.0.1", 0)) -> Any:
        """Bind ``listener``; gives the address to connect to."""
        parsed = address(where)
        port = listen(self.reactor, parsed.family, where, listener.accept)
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
        sock = socket.socket(address(where).family)
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
            "route_name listener_name request_id attempts"
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
        assert len(self.wheel) == 0
        self.wheel.stop()
        for sock in self.sockets:
            sock.close()
        assert all(listener.active == 0 for listener in self.listeners)
        for name, cluster in self.clusters.items():
            assert [(one.active, one.connections) for one in cluster.endpoints] == [(0, 0)] * len(
                cluster.endpoints
            )
            assert self.value("cluster_connections_active", cluster=name) == 0
        assert self.value("listener_connections_active", listener="in") == 0
        internal = {self.reactor.waker}
        assert {*self.reactor.getReaders(), *self.reactor.getWriters()} <= internal
        assert not self.watching or not self.reactor._watchers
        for descriptor in self.reactor.removeAll():
            descriptor.connectionLost(None)
        self.reactor._poller.close()

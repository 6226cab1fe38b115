"""
What is known of a connection, as an access log reads it.

The law kept here: nothing is made for the record: addresses become texts when they are asked for,
and the rest are the attributes that the connection works with.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from meshproxy.net.transport import peer_text
from meshproxy.observe.record import Facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.net.relay_stock import TransportRelay
    from meshproxy.net.splice import Relay, Socket
    from meshproxy.tcp.listener import TcpListener
    from meshproxy.tls.hello import Hello
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Record(ABC):
    """
    Satisfies :class:`meshproxy.observe.record.AccessRecord`.

    ``family`` (0: told by the form of ``peer``) and ``peer`` are the client's, as the socket module
    gives them; a PROXY header replaces them, and ``named`` is then the destination that it gave.
    ``hello`` is the client's, where it was read.
    """

    __slots__ = (
        "attempts",
        "cluster",
        "connected_at",
        "details",
        "end",
        "endpoint",
        "family",
        "flags",
        "hello",
        "listener",
        "named",
        "peer",
        "relay",
        "start",
        "upstream_start",
    )

    protocol = b"TCP"
    method = path = authority = scheme = route_name = request_id = b""
    request_headers = response_headers = None
    status = 0
    request_end = response_start = 0.0
    tls = None

    # Set by the connection's __init__: one more call for each would cost more than they do.
    listener: TcpListener
    family: int
    peer: Any
    named: Any
    cluster: Cluster | None
    endpoint: Endpoint | None
    hello: Hello | None
    relay: Relay | TransportRelay | None
    attempts: int
    flags: bytes
    details: bytes
    start: float
    upstream_start: float
    connected_at: float
    end: float

    @abstractmethod
    def _names(self) -> tuple[bytes, bytes]:
        """Our own address towards the client, and towards the upstream, as texts."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What filters said of the connection."""
        return _NOTHING

    @property
    def facts(self) -> Facts:
        """The same, as an access log reads it."""
        return Facts(self.metadata)

    @property
    def bytes_received(self) -> int:
        """Bytes read from the client."""
        return self.relay.bytes_received if self.relay is not None else 0

    @property
    def bytes_sent(self) -> int:
        """Bytes read from the upstream, for the client."""
        return self.relay.bytes_sent if self.relay is not None else 0

    @property
    def client(self) -> bytes:
        """``ip:port`` of the client."""
        return peer_text(self.family or family_of(self.peer), self.peer)[0]

    @property
    def client_ip(self) -> bytes:
        """The client's address alone."""
        return peer_text(self.family or family_of(self.peer), self.peer)[1]

    @property
    def local(self) -> bytes:
        """Our own address, where the client connected."""
        return self._names()[0]

    @property
    def upstream(self) -> bytes:
        """The endpoint's address; empty when none was reached."""
        return self.endpoint.text if self.endpoint is not None else b""

    @property
    def upstream_local(self) -> bytes:
        """Our own address towards the endpoint."""
        return self._names()[1]

    @property
    def server_name(self) -> bytes:
        """The name that the client asks for by its TLS; empty where none was read."""
        return self.hello.server_name if self.hello is not None else b""

    @property
    def cluster_name(self) -> bytes:
        """The cluster drawn; empty when it did not come to that."""
        return self.cluster.name_bytes if self.cluster is not None else b""

    @property
    def listener_name(self) -> bytes:
        """The listener."""
        return self.listener.name_bytes


def family_of(peer: Any) -> int:
    """The family of what ``accept`` returned."""
    if not isinstance(peer, tuple):
        return socket.AF_UNIX
    return socket.AF_INET if len(peer) == 2 else socket.AF_INET6


def name_text(sock: Socket | None) -> bytes:
    """The address that ``sock`` is bound to, as text; empty when it is closed."""
    if sock is None or sock.fileno() < 0:
        return b""
    return peer_text(sock.family, sock.getsockname())[0]

"""
One client's connection, from accept to its access record.

The laws kept here:

* A connection is its own entry in the timer wheel (first for the PROXY header, then for the connect
  timeout, then for idleness) and its own access record: nothing else is made for it but a relay.
* Whatever begins is ended once: the listener's and cluster's gauges and the endpoint's counts go
  down exactly as often as they went up, through :meth:`Connection.finished`.
* Bytes are counted while a connection lives, at least every :data:`SETTLE` seconds, so that a long
  one is seen before it ends.
* An attempt that fails is counted once, for the cluster; a connection without an upstream resets
  its client, with the flags that Envoy would log (UH: none to pick; UF: none that answered, with
  URX when more than one was tried; UC, DC: lost by reset; SI: idle).

How bytes move is left to the subclasses: :mod:`meshproxy.tcp.spliced`, :mod:`meshproxy.tcp.stock`.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from twisted.python import log

from meshproxy.net import proxy_protocol
from meshproxy.net.splice import CLIENT_RESET, CLOSED, UPSTREAM_RESET, Socket
from meshproxy.net.transport import peer_text

if TYPE_CHECKING:
    from meshproxy.net.relay_stock import TransportRelay
    from meshproxy.net.splice import Relay
    from meshproxy.tcp.listener import TcpListener
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

HEADER_TIMEOUT: Final = 15.0
"""Seconds for a PROXY header to arrive: Envoy's ``listener_filters_timeout``."""

SETTLE: Final = 5.0
"""Seconds between two settlings of a live connection's byte counters."""

IDLE: Final = "idle timeout"
STOPPED: Final = "stopped"
NO_ENDPOINT: Final = "no healthy upstream"
BAD_HEADER: Final = "bad PROXY header"
HEADER_TIMED_OUT: Final = "PROXY header timeout"
CLIENT_GONE: Final = "client gone"

_FLAGS: Final = {CLIENT_RESET: b"DC", CLIENT_GONE: b"DC", UPSTREAM_RESET: b"UC", IDLE: b"SI"}

# What the connection waits for.
OPENING: Final = 0
HEADER: Final = 1
CONNECTING: Final = 2
RELAYING: Final = 3
FINISHED: Final = 4


class Connection(ABC):
    """
    A client's connection; satisfies :class:`meshproxy.observe.record.AccessRecord`.

    ``family`` (0: told by the form of ``peer``) and ``peer`` are the client's, as the socket module
    gives them; a PROXY header replaces them, and ``named`` is then the destination that it gave.
    """

    __slots__ = (
        "_counted_received",
        "_counted_sent",
        "attempts",
        "cluster",
        "connected_at",
        "deadline",
        "details",
        "end",
        "endpoint",
        "family",
        "flags",
        "group",
        "listener",
        "named",
        "peer",
        "relay",
        "slot",
        "start",
        "state",
        "upstream_start",
    )

    protocol = b"TCP"
    method = path = authority = scheme = route_name = request_id = b""
    request_headers = response_headers = None
    status = 0
    request_end = response_start = 0.0

    def __init__(self, listener: TcpListener, family: int, peer: Any) -> None:
        self.listener = listener
        self.family = family
        self.peer = peer
        self.named: Any = None
        self.group: Group | None = None
        self.cluster: Cluster | None = None
        self.endpoint: Endpoint | None = None
        self.relay: Relay | TransportRelay | None = None
        self.deadline = 0.0
        self.slot = 0
        self.state = OPENING
        self.attempts = 0
        self.flags = b"-"
        self.details = b"-"
        self.start = listener.now()
        self.upstream_start = self.connected_at = self.end = 0.0
        self._counted_received = self._counted_sent = 0

    # What a subclass does.

    @abstractmethod
    def begin(self) -> None:
        """The connection was accepted and counted."""

    @abstractmethod
    def drop(self, hard: bool, reason: str) -> None:
        """Close the client, with RST if ``hard``, and what there is of an upstream."""

    @abstractmethod
    def again(self) -> bool:
        """Attempt another endpoint, if that can be tried; False when it cannot."""

    @abstractmethod
    def _names(self) -> tuple[bytes, bytes]:
        """Our own address towards the client, and towards the upstream, as texts."""

    # The way up.

    def choose(self) -> Endpoint | None:
        """Draw the cluster, once, and an endpoint for the next attempt, which is counted."""
        group = self.group
        if group is None:
            group = self.group = self.listener.pick()
            self.cluster = group.cluster
        endpoint = group.pick()
        if endpoint is not None:
            self.attempts += 1
            self.state = CONNECTING
            self.endpoint = endpoint
            endpoint.active += 1
            self.upstream_start = self.listener.now()
        return endpoint

    def opening_bytes(self, local: Any) -> bytes:
        """What the cluster wants to hear first; ``local`` is our address towards the client."""
        cluster = self.cluster
        if cluster is None or cluster.proxy_protocol is None:
            return b""
        destination = self.named if self.named is not None else local
        if cluster.proxy_protocol == "v1":
            return proxy_protocol.encode_v1(self.peer, destination)
        return proxy_protocol.encode_v2(self.peer, destination)

    def header_came(self, header: proxy_protocol.Header) -> None:
        """The client is who the PROXY header says."""
        if header.source is not None:
            self.family, self.peer, self.named = header.family, header.source, header.destination

    def attempt_failed(self, timed_out: bool, reason: str) -> None:
        """The endpoint did not answer; it stays the record's upstream unless another is tried."""
        self.state = OPENING
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is not None and endpoint is not None:
            endpoint.active -= 1
            stats = cluster.stats
            stats.values[stats.connect_failures] += 1
            if timed_out:
                stats.values[stats.connect_timeouts] += 1
        self.flags = b"UF" if self.attempts == 1 else b"UF,URX"
        self.details = reason.replace(" ", "_").encode()

    def went_up(self) -> None:
        """The upstream is connected."""
        now = self.connected_at = self.listener.now()
        self.state = RELAYING
        self.flags = self.details = b"-"
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is not None and endpoint is not None:
            endpoint.connections += 1
            stats = cluster.stats
            values = stats.values
            values[stats.connections] += 1
            values[stats.connections_active] += 1
            took = now - self.upstream_start
            histogram = stats.connect_duration
            values[histogram.base + bisect_left(histogram.bounds, took)] += 1
            values[histogram.sum_slot] += took
        self.listener.wheel.arm(self, now + self.listener.first_check)

    def failed(self, flags: bytes, reason: str) -> None:
        """No upstream will be had: reset the client."""
        self.flags = flags
        self.details = reason.replace(" ", "_").encode()
        self.drop(True, reason)

    # Time.

    def expired(self, now: float) -> float:
        """The wheel: what was waited for did not come, or it is time to settle."""
        if self.state == RELAYING and self.relay is not None:
            self.settle()
            idle = self.listener.idle_timeout
            if idle:
                due = self.relay.last_activity + idle
                if now >= due:
                    stats = self.listener.stats
                    stats.values[stats.idle_timeouts] += 1
                    self.drop(False, IDLE)
                    return 0.0
                return min(due, now + SETTLE)
            return now + SETTLE
        if self.state == CONNECTING:
            self.attempt_failed(True, "connection timeout")
            if not self.again():
                self.drop(True, "connection timeout")
        elif self.state == HEADER:
            self.failed(b"-", HEADER_TIMED_OUT)
        return 0.0

    # The end.

    def settle(self) -> None:
        """Add what moved since the last time to the counters."""
        relay = self.relay
        if relay is None:
            return
        received = relay.bytes_received
        sent = relay.bytes_sent
        new_received = received - self._counted_received
        new_sent = sent - self._counted_sent
        if not new_received and not new_sent:
            return
        self._counted_received = received
        self._counted_sent = sent
        stats = self.listener.stats
        values = stats.values
        values[stats.received] += new_received
        values[stats.sent] += new_sent
        if self.cluster is not None:
            cluster = self.cluster.stats
            values[cluster.bytes_sent] += new_received
            values[cluster.bytes_received] += new_sent

    def finished(self, reason: str) -> None:
        """Everything is closed, or about to be."""
        state = self.state
        if state == FINISHED:
            return
        self.state = FINISHED
        listener = self.listener
        self.end = listener.now()
        listener.wheel.disarm(self)
        self.settle()
        cluster, endpoint = self.cluster, self.endpoint
        stats = listener.stats
        values = stats.values
        if endpoint is not None and cluster is not None:
            if state == RELAYING:
                endpoint.active -= 1
                endpoint.connections -= 1
                values[cluster.stats.connections_active] -= 1
            elif state == CONNECTING:
                endpoint.active -= 1
        if state != RELAYING:
            values[stats.failed] += 1
        values[stats.active] -= 1
        if reason in _FLAGS:
            self.flags = _FLAGS[reason]
        if self.details == b"-":
            self.details = b"closed" if reason == CLOSED else reason.replace(" ", "_").encode()
        write = listener.log
        if write is not None:
            try:
                write(self)
            except Exception:
                # A record that cannot be written must not leave a connection half ended.
                log.err(None, f"writing an access record of listener {listener.name}")
        listener.forget(self)

    # The record.

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
        return peer_text(self.family or _family(self.peer), self.peer)[0]

    @property
    def client_ip(self) -> bytes:
        """The client's address alone."""
        return peer_text(self.family or _family(self.peer), self.peer)[1]

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
    def cluster_name(self) -> bytes:
        """The cluster drawn; empty when it did not come to that."""
        return self.cluster.name_bytes if self.cluster is not None else b""

    @property
    def listener_name(self) -> bytes:
        """The listener."""
        return self.listener.name_bytes


def _family(peer: Any) -> int:
    """The family of what ``accept`` returned."""
    if not isinstance(peer, tuple):
        return socket.AF_UNIX
    return socket.AF_INET if len(peer) == 2 else socket.AF_INET6


def name_text(sock: Socket | None) -> bytes:
    """The address that ``sock`` is bound to, as text; empty when it is closed."""
    if sock is None or sock.fileno() < 0:
        return b""
    return peer_text(sock.family, sock.getsockname())[0]

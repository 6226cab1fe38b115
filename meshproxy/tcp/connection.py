"""
One client's connection, from accept to its access record.

The laws kept here:

* A connection is its own entry in the timer wheel (first for what its client says first, then for
  the connect timeout, then for idleness, always for its duration) and its own access record
  (:mod:`meshproxy.tcp.record`): nothing else is made for it but a relay.
* Whatever begins is ended once: the listener's and cluster's gauges, the cluster's limit and the
  endpoint's counts go down exactly as often as they went up, through :meth:`Connection.finished`.
* An attempt is counted against the cluster's limit of connections from its beginning, and only one
  is under way at a time.  Over the limit nothing is tried.
* An attempt that fails is a bad verdict on its endpoint, and so is a reset by an upstream that
  never said a byte.  One that came up is a good verdict once that is settled: at its end, or when
  it is first looked at.  Were it good at once, an endpoint that accepts and resets would never fail
  twice in a row.  A client that leaves before the upstream said anything gives no verdict.
* What this process lacked (descriptors, memory) is no endpoint's fault, and no other endpoint would
  fare better: it is the last attempt.
* Bytes are counted while a connection lives, at least every :data:`SETTLE` seconds, so that a long
  one is seen before it ends.
* A filter is asked by the subclasses of :mod:`meshproxy.tcp.judged`; a connection of a listener
  without filters knows nothing of them.
* An attempt that fails is counted once, for the cluster; a connection without an upstream resets
  its client, with the flags that Envoy would log (UH: none to pick; UO: none that a limit allows;
  UF: none that answered, with URX when more than one was tried; UC, DC: lost by reset; SI: idle;
  DT: its time was over; NR: no route takes it).

How bytes move is left to the subclasses: :mod:`meshproxy.tcp.spliced`, :mod:`meshproxy.tcp.stock`
and, through filters, :mod:`meshproxy.tcp.filtered`.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from twisted.python import log

from meshproxy.net import proxy_protocol
from meshproxy.net.splice import CLIENT_RESET, CLOSED, UPSTREAM_RESET
from meshproxy.net.transport import peer_text
from meshproxy.tcp.record import Record, family_of
from meshproxy.tls.preface import CLIENT_GONE
from meshproxy.upstream.hashing import hash64

if TYPE_CHECKING:
    from meshproxy.tcp.listener import TcpListener
    from meshproxy.tls.hello import Hello
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

HEADER_TIMEOUT: Final = 15.0
"""Seconds for a PROXY header to arrive: Envoy's ``listener_filters_timeout``."""

SETTLE: Final = 5.0
"""Seconds between two settlings of a live connection's byte counters."""

PROVEN: Final = 1.0
"""Seconds after which a connection to an endpoint that failed before is first looked at."""

IDLE: Final = "idle timeout"
MAX_DURATION: Final = "max duration"
STOPPED: Final = "stopped"
NO_ENDPOINT: Final = "no healthy upstream"
HEADER_TIMED_OUT: Final = "PROXY header timeout"
HELLO_TIMED_OUT: Final = "hello timeout"
NO_ROUTE: Final = "no route"

_FLAGS: Final = {
    CLIENT_RESET: b"DC",
    CLIENT_GONE: b"DC",
    UPSTREAM_RESET: b"UC",
    IDLE: b"SI",
    MAX_DURATION: b"DT",
}

_ORDERLY: Final = frozenset({CLOSED, IDLE, MAX_DURATION})

# What the connection waits for.
OPENING: Final = 0
HEADER: Final = 1
CONNECTING: Final = 2
RELAYING: Final = 3
FINISHED: Final = 4
JUDGING: Final = 5
PARTING: Final = 6
HELLO: Final = 7


class Connection(Record):
    """
    A client's connection. ``left`` attempts are still allowed; ``tried`` are the endpoints of those
    that failed. ``judged``: the endpoint has had its good verdict.
    """

    __slots__ = (
        "_counted_received",
        "_counted_sent",
        "deadline",
        "group",
        "judged",
        "left",
        "slot",
        "state",
        "tried",
    )

    def __init__(self, listener: TcpListener, family: int, peer: Any) -> None:
        self.listener = listener
        self.family = family
        self.peer = peer
        self.named = self.hello = self.cluster = self.endpoint = self.relay = None
        self.attempts = 0
        self.flags = self.details = b"-"
        self.start = listener.now()
        self.upstream_start = self.connected_at = self.end = 0.0
        self.group: Group | None = None
        self.deadline = 0.0
        self.slot = 0
        self.state = OPENING
        self.judged = False
        self.left = listener.max_attempts
        self.tried: tuple[Endpoint, ...] = ()
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

    # The way up.

    def choose(self) -> Endpoint | None:
        """
        Draw the cluster, once, and an endpoint for the next attempt, which is counted.

        None when no attempt is left, or no endpoint; without any attempt the flags say why.
        """
        if not self.left:
            return None
        group = self.group
        if group is None:
            group = self.group = self.listener.pick()
            self.cluster = group.cluster
        cluster = group.cluster
        limits = cluster.limits
        if limits.connections >= group.limits.max_connections:
            self._nowhere(b"UO", b"overflow_connections", cluster.stats.overflow_connections)
            return None
        number = self._number() if group.by_hash else None
        if self.attempts:
            endpoint = group.pick_other(self.tried, number)
        elif number is not None:
            endpoint = group.pick_by(number)
        else:
            endpoint = group.pick()
        if endpoint is None:
            if group.full():
                self._nowhere(b"UO", b"overflow_endpoints", cluster.stats.overflow_endpoints)
            else:
                self._nowhere(b"UH", b"no_healthy_upstream", cluster.stats.no_endpoint)
            return None
        self.attempts += 1
        self.left -= 1
        self.state = CONNECTING
        self.endpoint = endpoint
        endpoint.active += 1
        limits.connections += 1
        self.upstream_start = self.listener.now()
        return endpoint

    def _number(self) -> int | None:
        """What a cluster that balances by hash goes by; None where the client has no address."""
        family = self.family or family_of(self.peer)
        return None if family == socket.AF_UNIX else hash64(peer_text(family, self.peer)[1])

    def _nowhere(self, flags: bytes, details: bytes, counter: int) -> None:
        """There is nothing to attempt; after an attempt, that one is what the record tells of."""
        if not self.attempts:
            self.flags, self.details = flags, details
            self.listener.stats.values[counter] += 1

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

    def known(
        self, header: proxy_protocol.Header | None, hello: Hello | None, group: Group | None
    ) -> None:
        """Before it begins: what somebody else has read, and where that leads if that is known."""
        if header is not None:
            self.header_came(header)
        self.hello = hello
        if group is not None:
            self.group = group
            self.cluster = group.cluster

    def routed(self, hello: Hello | None) -> bool:
        """The client said ``hello``, or something else: a route takes it, or it is reset."""
        self.hello = hello
        listener = self.listener
        pick = listener.routes.find(hello) if listener.routes is not None else listener.pick
        if pick is None:
            listener.stats.values[listener.stats.no_route] += 1
            self.failed(b"NR", NO_ROUTE)
            return False
        group = self.group = pick()
        self.cluster = group.cluster
        return True

    def attempt_failed(self, timed_out: bool, reason: str, *, ours: bool = False) -> None:
        """
        The endpoint did not answer; it stays the record's upstream unless another is tried.

        ``ours``: because this process could not ask it.
        """
        self.state = OPENING
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is not None and endpoint is not None:
            endpoint.active -= 1
            cluster.limits.connections -= 1
            stats = cluster.stats
            stats.values[stats.connect_failures] += 1
            if timed_out:
                stats.values[stats.connect_timeouts] += 1
            if ours:
                self.left = 0
            else:
                self.tried += (endpoint,)
                _blame(cluster, endpoint)
        self.flags = b"UF" if self.attempts == 1 else b"UF,URX"
        self.details = reason.replace(" ", "_").encode()

    def went_up(self) -> None:
        """The upstream is connected."""
        listener = self.listener
        now = self.connected_at = listener.now()
        due = now + listener.first_check
        self.state = RELAYING
        if self.attempts > 1:
            # What an attempt before this one left; what a filter said stays.
            self.flags = self.details = b"-"
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is not None and endpoint is not None:
            endpoint.connections += 1
            if endpoint.failures:
                due = min(due, now + PROVEN)
                breaker = cluster.breaker
                if endpoint.local_failures and breaker is not None:
                    breaker.connected(endpoint)
            stats = cluster.stats
            values = stats.values
            values[stats.connections] += 1
            values[stats.connections_active] += 1
            took = now - self.upstream_start
            histogram = stats.connect_duration
            values[histogram.base + bisect_left(histogram.bounds, took)] += 1
            values[histogram.sum_slot] += took
        over = self.start + listener.max_duration
        if over < due:
            due = over
        listener.wheel.arm(self, due)

    def failed(self, flags: bytes, reason: str) -> None:
        """No upstream will be had: reset the client."""
        self.flags = flags
        self.details = reason.replace(" ", "_").encode()
        self.drop(True, reason)

    # Time.

    def expired(self, now: float) -> float:
        """The wheel: what was waited for did not come, it is time to settle, or all is over."""
        listener = self.listener
        stats = listener.stats
        over = self.start + listener.max_duration
        if now >= over:
            stats.values[stats.duration_timeouts] += 1
            self.drop(self.state != RELAYING, MAX_DURATION)
            return 0.0
        if self.state == RELAYING and self.relay is not None:
            self.settle()
            self._praise()
            due: float = min(now + SETTLE, over)
            idle = listener.idle_timeout
            if idle:
                silent: float = self.relay.last_activity + idle
                if now >= silent:
                    stats.values[stats.idle_timeouts] += 1
                    self.drop(False, IDLE)
                    return 0.0
                return min(due, silent)
            return due
        if self.state == CONNECTING:
            self.attempt_failed(True, "connection timeout")
            if not self.again():
                self.drop(True, "connection timeout")
        elif self.state == HEADER:
            self.failed(b"-", HEADER_TIMED_OUT)
        elif self.state == HELLO:
            stats.values[stats.hello_timeouts] += 1
            self.failed(b"-", HELLO_TIMED_OUT)
        return 0.0

    def _praise(self) -> None:
        """A connection that lives has its endpoint's good verdict, once."""
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is not None and endpoint is not None and not self.judged:
            self.judged = True
            endpoint.answered += 1
            if endpoint.failures and cluster.breaker is not None:
                cluster.breaker.succeeded(endpoint)

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
                cluster.limits.connections -= 1
                values[cluster.stats.connections_active] -= 1
                if self._counted_sent or reason in _ORDERLY:
                    self._praise()
                elif reason == UPSTREAM_RESET:
                    _blame(cluster, endpoint)
            elif state == CONNECTING:
                endpoint.active -= 1
                cluster.limits.connections -= 1
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


def _blame(cluster: Cluster, endpoint: Endpoint) -> None:
    """A failure of the endpoint's that no response told of."""
    endpoint.failed += 1
    if cluster.breaker is not None:
        cluster.breaker.failed(endpoint, True)

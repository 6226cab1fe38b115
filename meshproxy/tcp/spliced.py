"""
A connection whose bytes the kernel moves: bare sockets on a reactor that watches.

The law kept here: both sockets are registered once, before the upstream has answered, and the relay
waits for it itself, so that a short connection costs no more system calls than it must.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, cast

from meshproxy.net.connect import OURS
from meshproxy.net.listen import set_keepalive
from meshproxy.net.splice import Relay, Socket, prepare, reset
from meshproxy.tcp.connection import HEADER, NO_ENDPOINT, Connection
from meshproxy.tcp.opening import HeaderReader
from meshproxy.tcp.record import name_text

if TYPE_CHECKING:
    from meshproxy.net.proxy_protocol import Header
    from meshproxy.tcp.listener import TcpListener

_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)
_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EAGAIN: "connection refused",  # a UNIX listener whose backlog is full
    errno.ETIMEDOUT: "connection timeout",
}


class SplicedConnection(Connection):
    """A client's connection over ``sock``, connected and non-blocking, which it owns."""

    __slots__ = ("_reader", "_sock", "relay")

    relay: Relay | None

    def __init__(self, listener: TcpListener, sock: Socket, peer: Any) -> None:
        super().__init__(listener, 0, peer)
        self._sock = sock
        self._reader: HeaderReader | None = None

    def begin(self) -> None:
        listener = self.listener
        if listener.expects_header:
            self.state = HEADER
            listener.wheel.arm(self, self.start + listener.header_timeout)
            self._reader = HeaderReader(listener.reactor, self._sock, self._header)
        else:
            self._connect(b"")

    def _header(self, header: Header | None, rest: bytes, reason: str) -> None:
        self._reader = None
        if header is None:
            self.failed(b"-", reason)
            return
        self.header_came(header)
        self._connect(rest)

    def _connect(self, rest: bytes) -> None:
        upstream = self._attempt()
        if upstream is None:
            self.drop(True, NO_ENDPOINT)
            return
        cluster = self.cluster
        if cluster is not None and cluster.proxy_protocol is not None:
            rest = self.opening_bytes(self._sock.getsockname()) + rest
        relay = self.relay = Relay(
            self.listener.reactor,
            self._sock,
            upstream,
            self.finished,
            from_client=rest,
            connected=self._connected,
            nodelay=self._nodelay(),
        )
        self._arm()
        relay.start()

    def _attempt(self) -> Socket | None:
        """A socket on its way to an endpoint; None when there is none left to try."""
        while True:
            endpoint = self.choose()
            cluster = self.cluster
            if endpoint is None or cluster is None:
                return None
            try:
                upstream = Socket(endpoint.family, _STREAM)
            except OSError as error:
                self._failed_with(error.errno or 0)
                continue
            if endpoint.family != socket.AF_UNIX:
                if cluster.keepalive is not False:
                    set_keepalive(cast("socket.socket", upstream), cluster.keepalive)
                prepare(upstream)
            number = upstream.connect_ex(endpoint.sockaddr)
            if number in (0, errno.EINPROGRESS):
                return upstream
            upstream.close()
            self._failed_with(number)

    def _failed_with(self, number: int) -> None:
        reason = _REASONS.get(number) or os.strerror(number)
        self.attempt_failed(number == errno.ETIMEDOUT, reason, ours=number in OURS)

    def _nodelay(self) -> bool:
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is None or endpoint is None:
            return False
        return cluster.nodelay and endpoint.family != socket.AF_UNIX

    def _arm(self) -> None:
        cluster, listener = self.cluster, self.listener
        if cluster is not None:
            due = self.upstream_start + cluster.connect_timeout
            over = self.start + listener.max_duration
            if over < due:
                due = over
            listener.wheel.arm(self, due)

    def _connected(self, number: int) -> None:
        if number:
            self._failed_with(number)
            self.again()
        else:
            self.went_up()

    def again(self) -> bool:
        relay = self.relay
        upstream = self._attempt()
        if upstream is None or relay is None:
            return False
        relay.retry(upstream, nodelay=self._nodelay())
        self._arm()
        return True

    def drop(self, hard: bool, reason: str) -> None:
        if self.relay is not None:
            if hard:
                self.relay.abort(reason)
            else:
                self.relay.close(reason)
            return
        if self._reader is not None:
            self._reader.cancel()
        try:
            self.finished(reason)
        finally:
            if hard:
                reset(self._sock)
            else:
                self._sock.close()

    def _names(self) -> tuple[bytes, bytes]:
        client, upstream = self.relay.sockets if self.relay is not None else (self._sock, None)
        return name_text(client), name_text(upstream)

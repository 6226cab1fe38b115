"""
A connection whose bytes the kernel moves: bare sockets on a reactor that watches.

The laws kept here:

* Both sockets are registered once, before the upstream has answered, and the relay waits for it
  itself, so that a short connection costs no more system calls than it must.
* Of what a client says first only a PROXY header is taken; a hello is read where it lies, so that
  the relay begins as if nobody had looked.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, cast

from twisted.python import log

from meshproxy.net.connect import OURS
from meshproxy.net.listen import set_keepalive
from meshproxy.net.splice import Relay, Socket, prepare, reset
from meshproxy.tcp.connection import HEADER, HELLO, NO_ENDPOINT, Connection
from meshproxy.tcp.record import name_text
from meshproxy.tls.preface import BAD_HELLO, NOT_TLS, PLAIN_HTTP, Preface

if TYPE_CHECKING:
    from meshproxy.net.proxy_protocol import Header
    from meshproxy.tcp.listener import TcpListener
    from meshproxy.tls.hello import Hello

_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)
_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EAGAIN: "connection refused",  # a UNIX listener whose backlog is full
    errno.ETIMEDOUT: "connection timeout",
}
# What a route without conditions takes all the same.
_NO_HELLO = frozenset({NOT_TLS, PLAIN_HTTP, BAD_HELLO})


class SplicedConnection(Connection):
    """A client's connection over ``sock``, connected and non-blocking, which it owns."""

    __slots__ = ("_preface", "_sock", "relay")

    relay: Relay | None

    def __init__(self, listener: TcpListener, sock: Socket, peer: Any) -> None:
        super().__init__(listener, 0, peer)
        self._sock = sock
        self._preface: Preface | None = None

    def begin(self) -> None:
        listener = self.listener
        if not listener.opens:
            self._connect()
            return
        self.state = HEADER if listener.expects_header else HELLO
        listener.wheel.arm(self, self.start + listener.opening_timeout)
        preface = self._preface = Preface(
            listener.reactor,
            self._sock,
            self._opened,
            proxy_protocol=listener.expects_header,
            hello=listener.routes is not None,
        )
        preface.begin()

    def _opened(self, header: Header | None, hello: Hello | None, reason: str) -> None:
        self._preface = None
        try:
            if header is not None:
                self.header_came(header)
            if reason and reason not in _NO_HELLO:
                self.failed(b"-", reason)
            elif self.listener.routes is None or self.routed(hello):
                self._connect()
        except Exception:
            log.err(None, f"a connection of listener {self.listener.name}")
            self.drop(True, "internal error")

    def expired(self, now: float) -> float:
        preface = self._preface
        if preface is not None and preface.header is not None:
            self.state = HELLO
        return super().expired(now)

    def _connect(self) -> None:
        upstream = self._attempt()
        if upstream is None:
            self.drop(True, NO_ENDPOINT)
            return
        cluster = self.cluster
        opening = b""
        if cluster is not None and cluster.proxy_protocol is not None:
            opening = self.opening_bytes(self._sock.getsockname())
        relay = self.relay = Relay(
            self.listener.reactor,
            self._sock,
            upstream,
            self.finished,
            from_client=opening,
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
        preface = self._preface
        if preface is not None:
            preface.cancel()
            if preface.header is not None:
                self.header_came(preface.header)
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

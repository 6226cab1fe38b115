"""
Outgoing connections without a Deferred, a factory or a name look-up.

The law they keep: exactly one of ``done(sock)`` and ``failed(reason)`` is called, once, unless
the attempt is cancelled first. Either may be called before :func:`connect` returns (a UNIX
socket, a refusal on loopback). The socket that ``done`` gets is connected, non-blocking and
registered nowhere; it belongs to the caller.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import interfaces
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.net.transport import SocketAddress

REFUSED = "refused"
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
EXHAUSTED = "out of resources"
#: The same for TLS, of :meth:`meshproxy.tls.client.ClientTls.secure`.
HANDSHAKE_TIMEOUT = "handshake timeout"

#: What fails an attempt for want of something of ours, and says nothing of the endpoint.
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

_REASONS = {
    **dict.fromkeys(OURS, EXHAUSTED),
    errno.ECONNREFUSED: REFUSED,
    errno.ENOENT: REFUSED,  # a UNIX path where nobody has bound
    errno.ETIMEDOUT: TIMEOUT,
    errno.ENETUNREACH: UNREACHABLE,
    errno.EHOSTUNREACH: UNREACHABLE,
}


def _reason(number: int) -> str:
    return _REASONS.get(number) or os.strerror(number)


@implementer(interfaces.IReadWriteDescriptor)
class Connecting:
    """One attempt, while it lasts. Made by :func:`connect`."""

    __slots__ = ("_call", "_done", "_failed", "_reactor", "_sock", "fileno")

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        timeout: float,
        done: Callable[[socket.socket], None],
        failed: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._sock: socket.socket | None = sock
        self._done = done
        self._failed = failed
        self.fileno = sock.fileno
        self._call = reactor.callLater(timeout, self._expired)
        reactor.addWriter(self)

    def cancel(self) -> None:
        """Give up: neither ``done`` nor ``failed`` is called any more."""
        sock = self._take()
        if sock is not None:
            sock.close()

    def doRead(self) -> None:
        """Never registered for reading."""

    def doWrite(self) -> None:
        """The kernel has an answer."""
        sock = self._take()
        if sock is None:
            return
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            sock.close()
            self._failed(_reason(number))
        else:
            self._done(sock)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw HUP or ERR alone: ask the socket why."""
        sock = self._take()
        if sock is None:
            return
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        sock.close()
        self._failed(_reason(number or errno.ECONNREFUSED))

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "connecting"

    def _expired(self) -> None:
        sock = self._take()
        if sock is not None:
            sock.close()
            self._failed(TIMEOUT)

    def _take(self) -> socket.socket | None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._reactor.removeWriter(self)
            if self._call.active():
                self._call.cancel()
        return sock


def connect(
    reactor: Any,
    family: int,
    sockaddr: SocketAddress,
    timeout: float,
    done: Callable[[socket.socket], None],
    failed: Callable[[str], None],
    *,
    nodelay: bool = True,
) -> Connecting | None:
    """
    Connect to a numeric address (or UNIX path) within ``timeout`` seconds.

    ``failed`` gets one of the constants above or the system's text. Returns None when it has
    called ``done`` or ``failed`` already. ``nodelay`` turns Nagle's algorithm off.
    """
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        failed(_reason(error.errno or 0))
        return None
    if nodelay and family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        number = sock.connect_ex(sockaddr)
    except OSError as error:  # an address that the family cannot express
        sock.close()
        failed(_reason(error.errno or errno.EINVAL))
        return None
    if number == 0:
        done(sock)
        return None
    if number == errno.EINPROGRESS:
        return Connecting(reactor, sock, timeout, done, failed)
    sock.close()
    # EAGAIN on a UNIX socket: the listener's backlog is full.
    failed(REFUSED if number == errno.EAGAIN else _reason(number))
    return None

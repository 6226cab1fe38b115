"""
Listening sockets that hand over what they accept.

The law they keep:

- ``accept(sock, peer)`` is called with a connected, non-blocking, close-on-exec socket, and
  owns it from then on. If it raises, the error is logged and the socket closed.
- At most :data:`ACCEPTS` connections are taken in one turn, so that a flood of connections
  does not starve those that exist.
- Running out of descriptors costs the newest connection: it is accepted with a descriptor kept
  in reserve and closed at once. The listener never spins and never dies of it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from twisted.internet import defer, interfaces, main
from twisted.internet.abstract import FileDescriptor
from twisted.python import log
from zope.interface import implementer

from meshproxy.net.transport import SocketAddress, twisted_address

#: Connections accepted in one turn of the reactor.
ACCEPTS = 64

# socket.SocketType is the C type below socket.socket.
_Socket: type[socket.socket] = socket.SocketType  # type: ignore[assignment]
_STREAM = int(socket.SOCK_STREAM)

Accept = Callable[[socket.socket, SocketAddress], None]

# The peer went away before accept, or the network is at fault: the next one may be well.
_TRANSIENT = {errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.EHOSTDOWN}
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def set_keepalive(sock: socket.socket, keepalive: bool | float) -> None:
    """Turn TCP keep-alive on; a number is the idle time in seconds before the first probe."""
    if keepalive is False:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if keepalive is not True:
        idle = max(1, int(keepalive))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // 4))


@implementer(interfaces.IListeningPort)
class Port(FileDescriptor):
    """A listening socket on a reactor that provides ``IReactorFDSet``."""

    def __init__(self, reactor: Any, sock: socket.socket, accept: Accept) -> None:
        super().__init__(reactor)
        self.socket = sock
        self.fileno = sock.fileno  # type: ignore[method-assign]
        self._accept = accept
        self._path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
        self._reserve: int | None = None
        #: Connections closed at once because the process had no descriptor left.
        self.exhausted = 0

    def startListening(self) -> None:
        """Be ready to accept, and begin to."""
        self._prepare()
        self.startReading()

    def _prepare(self) -> None:
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.connected = 1

    def doRead(self) -> None:
        sock: Any = self.socket
        family = int(sock.family)
        for _ in range(ACCEPTS):
            try:
                # What socket.accept() does, without its Python layer and conversions to enums:
                # 4 us less a connection. The C type has every method that a transport calls.
                number, peer = sock._accept()
                connection = _Socket(family, _STREAM, 0, number)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._shed()
                    return
                if error.errno in _TRANSIENT:
                    continue
                raise
            connection.setblocking(False)
            try:
                self._accept(connection, peer)
            except Exception:
                log.err(None, f"accepting on {self.getHost()}")
                connection.close()
            if not self.connected:
                return

    def _shed(self) -> None:
        self.exhausted += 1
        if self._reserve is None:
            return
        os.close(self._reserve)
        self._reserve = None
        try:
            self.socket.accept()[0].close()
        except OSError as error:
            # Nothing to take after all, or somebody else took the descriptor: the listening
            # socket stays readable and the next turn tries again.
            log.msg(f"no descriptor for a connection to {self.getHost()}: {error}")
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            log.msg(f"no descriptor to keep in reserve: {error}")

    def stopListening(self) -> defer.Deferred[None]:
        """Stop accepting and close the socket. Established connections live on."""
        if self.connected:
            self.connectionLost(main.CONNECTION_DONE)
        return defer.succeed(None)

    def loseConnection(self, _connDone: Any = None) -> None:
        self.stopListening()

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.socket.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        if self._path and not self._path.startswith("\0"):
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass

    def getHost(self) -> Any:
        return twisted_address(self.socket.family, self.socket.getsockname())

    @property
    def bound(self) -> str:
        """The address it is bound to, as a configuration would say it."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{name}"
        if self.socket.family == socket.AF_INET6:
            return f"[{name[0]}]:{name[1]}"
        return f"{name[0]}:{name[1]}"


def _clear_stale(path: str) -> None:
    """Unlink a UNIX socket that nobody listens on any more; leave anything else alone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        return
    finally:
        probe.close()


def listen(
    reactor: Any,
    family: int,
    sockaddr: SocketAddress,
    accept: Accept,
    *,
    backlog: int = 1024,
    reuse_port: bool = False,
    nodelay: bool = True,
    keepalive: bool | float = False,
    begin: bool = True,
) -> Port:
    """
    Bind, listen and accept.

    Unless ``begin``, the kernel completes connections and keeps them, ``backlog`` of them at
    most, until the port's ``startReading`` is called.

    ``nodelay`` and ``keepalive`` (True, or idle seconds before the first probe) are set on
    the listening socket: the kernel passes them on to what it accepts, at no cost for each
    connection. A UNIX socket left behind by a dead process is removed first.

    Raises ``OSError`` with the system's reason.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            _clear_stale(sockaddr)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if nodelay:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_keepalive(sock, keepalive)
        sock.bind(sockaddr)
        sock.listen(backlog)
        port = Port(reactor, sock, accept)
        if begin:
            port.startListening()
        else:
            port._prepare()
    except OSError:
        sock.close()
        raise
    return port

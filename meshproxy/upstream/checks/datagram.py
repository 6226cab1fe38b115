"""
One datagram sent and its answer awaited, for the checks that have no connection.

The law it keeps: the Deferred fires once; when it does, or is cancelled, the socket is closed and
out of the reactor. What comes that is no answer to what was asked is passed over, however much.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.errors import CheckFailed

if TYPE_CHECKING:
    from meshproxy.net.transport import SocketAddress

_LONGEST = 65535


@implementer(IReadDescriptor)
class _Question:
    """One question, while its answer is awaited."""

    def __init__(self, reactor: Any, sock: socket.socket, answers: Callable[[bytes], bool]) -> None:
        self._reactor = reactor
        self._sock: socket.socket | None = sock
        self._answers = answers
        self.deferred: Deferred[None] = Deferred(lambda _: self._close())
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, or -1."""
        return -1 if self._sock is None else self._sock.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "health check"

    def doRead(self) -> None:
        """A datagram, or an ICMP error that the kernel has for this socket."""
        if self._sock is None:
            return
        try:
            data = self._sock.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(Failure(CheckFailed(_words(error))))
            return
        try:
            answered = self._answers(data)
        except Exception:
            self._finish(Failure())
        else:
            if answered:
                self._finish(None)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error, and nothing to read."""
        if self._sock is not None:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            error = OSError(number or errno.EIO, os.strerror(number or errno.EIO))
            self._finish(Failure(CheckFailed(_words(error))))

    def _finish(self, result: Failure | None) -> None:
        self._close()
        if not self.deferred.called:
            self.deferred.callback(result)

    def _close(self) -> None:
        sock = self._sock
        if sock is not None:
            self._reactor.removeReader(self)
            self._sock = None
            sock.close()


def _words(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return (error.strerror or str(error)).lower()


def ask(
    reactor: Any,
    make: Callable[[], socket.socket],
    sockaddr: SocketAddress,
    data: bytes,
    answers: Callable[[bytes], bool],
) -> Deferred[None]:
    """
    Send ``data`` to ``sockaddr`` by the socket that ``make`` returns, and wait for its answer.

    ``answers`` is called with every datagram that comes from there: True passes, False waits for
    another, and what it raises is the result. Fails with :class:`CheckFailed` also when the system
    says that nothing can be sent or nobody is there. Cancelling closes the socket.
    """
    try:
        sock = make()
    except OSError as error:
        return fail(CheckFailed(_words(error)))
    try:
        sock.setblocking(False)
        sock.connect(sockaddr)
        sock.send(data)
    except OSError as error:
        sock.close()
        return fail(CheckFailed(_words(error)))
    return _Question(reactor, sock, answers).deferred

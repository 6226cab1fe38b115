"""
One TLS handshake on a connected socket.

The law it keeps: exactly one of ``done()`` and ``failed(reason)`` is called, once, unless it is
cancelled first; either may be called before :meth:`Handshake.begin` returns.  By then the socket
is registered nowhere; it belongs to the caller, as does the deadline.  It runs on any reactor
that provides ``IReactorFDSet``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.tls import native
from meshproxy.tls.reasons import reason_of

__all__ = ["Handshake"]


@implementer(interfaces.IReadWriteDescriptor)
class Handshake:
    """
    The handshake of ``connection``, whose state (accept or connect) is set, on ``sock``.

    ``reason`` is one of OpenSSL's short texts, as :func:`meshproxy.tls.reasons.reason_of` has it.
    """

    __slots__ = (
        "_connection",
        "_done",
        "_failed",
        "_reactor",
        "_reading",
        "_writing",
        "fileno",
    )

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        connection: SSL.Connection,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._connection: SSL.Connection | None = connection
        self._done = done
        self._failed = failed
        self._reading = self._writing = False
        self.fileno = sock.fileno

    def begin(self) -> None:
        """Go as far as that is possible at once."""
        self.doRead()

    def cancel(self) -> None:
        """Give up; nothing is called any more."""
        if self._connection is not None:
            self._connection = None
            self._leave()

    def doRead(self) -> None:
        """The peer has said something."""
        connection = self._connection
        if connection is None:
            return
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            if self._writing:
                self._writing = False
                self._reactor.removeWriter(self)
            if not self._reading:
                self._reading = True
                self._reactor.addReader(self)
        except SSL.WantWriteError:
            # It may have gone on writing what a read began; until then nothing is read.
            if self._reading:
                self._reading = False
                self._reactor.removeReader(self)
            if not self._writing:
                self._writing = True
                self._reactor.addWriter(self)
        except SSL.Error as error:
            native.clear()
            self._fail(reason_of(error, connection))
        except Exception:
            # A callback of a context of ours raised.
            log.err(None, "a TLS handshake")
            self._fail("internal error")
        else:
            self._connection = None
            self._leave()
            self._done()

    doWrite = doRead

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the peer vanish."""
        self._fail("connection reset")

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "TLS handshake"

    def _fail(self, reason: str) -> None:
        if self._connection is not None:
            self._connection = None
            self._leave()
            self._failed(reason)

    def _leave(self) -> None:
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        if self._writing:
            self._writing = False
            self._reactor.removeWriter(self)

"""
One TLS handshake on a connected socket.

The law it keeps: exactly one of ``done()`` and ``failed(reason)`` is called, once, unless it is
cancelled first; either may be called before :meth:`Handshake.begin` returns.  By then the socket
is registered nowhere; it belongs to the caller, as does the deadline.  It runs on any reactor
that provides ``IReactorFDSet``.

A server can send a client messages that TLS tells it to ignore (HelloRequest, RFC 5246, 7.4.1.1),
without an end, and OpenSSL reads on for as long as there are more: so a client's handshake gives
it a record's worth of what is there at a time, and lets others have their turn.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.tls import native
from meshproxy.tls.reasons import CLOSED, RESET, reason_of

__all__ = ["ClientHandshake", "Handshake"]

_HEADER: Final = 5
_KINDS: Final = frozenset({20, 21, 22, 23})
_MAJOR: Final = 3
_LONGEST: Final = 16384 + 2048
_LOOK: Final = _HEADER + _LONGEST
"""Bytes that one turn deals with: a record of any length, or all of an ordinary flight."""


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


class ClientHandshake(Handshake):
    """
    The handshake of a client.

    OpenSSL has memory in the place of the socket until it is over, and gets whole records, so
    that nothing but what belongs to the handshake is ever taken from the socket.
    """

    __slots__ = ("_held", "_into", "_out", "_over", "_sock", "_taken", "_unsent")

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        connection: SSL.Connection,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        super().__init__(reactor, sock, connection, done, failed)
        self._sock = sock
        self._into, self._out = native.in_memory(connection)
        # The beginning of a record; how much OpenSSL was given that the socket still has; what the
        # socket has not taken.
        self._held = b""
        self._taken = 0
        self._unsent = b""
        self._over = False

    def begin(self) -> None:
        """Go as far as that is possible at once."""
        if self._advance():
            self.doRead()

    def doRead(self) -> None:
        """The server has said something, or there is room."""
        if self._connection is None or (self._unsent and not self._flush()):
            return
        held = self._held
        try:
            data = self._sock.recv(_LOOK, socket.MSG_PEEK)
        except BlockingIOError:
            self._wait(writing=False)
            return
        except OSError:
            self._fail(RESET)
            return
        if not data:
            self._fail(CLOSED)
            return
        size = _whole(held + data)
        if not size:
            # It would be seen again and again.
            self._held = held + data
            self._take(len(data))
            self._wait(writing=False)
            return
        native.feed(self._into, (held + data)[:size])
        self._taken = size - len(held)
        self._held = b""
        if self._advance():
            self._wait(writing=False)

    doWrite = doRead

    def _advance(self) -> bool:
        """Have OpenSSL go on; whether there is more to read now."""
        connection = self._connection
        assert connection is not None
        reason = ""
        try:
            connection.do_handshake()
            self._over = True
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            native.clear()
            reason = reason_of(error, connection)
        except Exception:
            # A callback of a context of ours raised.
            log.err(None, "a TLS handshake")
            reason = "internal error"
        if self._taken:
            # What OpenSSL has left is for whoever has the socket next.
            self._take(self._taken - native.left(self._into))
            self._taken = 0
        self._unsent += native.taken(self._out)
        if reason:
            try:
                # An alert, for which nobody waits.
                self._sock.send(self._unsent)
            except OSError:
                pass
            self._fail(reason)
            return False
        return self._flush()

    def _take(self, size: int) -> None:
        """Take from the socket what was seen there."""
        try:
            self._sock.recv(max(0, size))
        except OSError:
            # A reset meanwhile, of which the next call hears too, as an end at least.
            pass

    def _flush(self) -> bool:
        """Send what there is to be sent; whether there is more to read now."""
        if self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._fail(RESET)
                return False
            self._unsent = self._unsent[sent:]
            if self._unsent:
                self._wait(writing=True)
                return False
        if not self._over:
            return True
        connection = self._connection
        assert connection is not None
        native.on_socket(connection, self._sock)
        self._connection = None
        self._leave()
        self._done()
        return False

    def _wait(self, writing: bool) -> None:
        if self._reading == writing:
            self._leave()
        if writing and not self._writing:
            self._writing = True
            self._reactor.addWriter(self)
        elif not writing and not self._reading:
            self._reading = True
            self._reactor.addReader(self)


def _whole(data: bytes) -> int:
    """Bytes of the whole records that ``data`` begins with; what is no record is whole as it is."""
    at, there = 0, len(data)
    while there - at >= _HEADER:
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] not in _KINDS or data[at + 1] != _MAJOR or size > _LONGEST:
            # OpenSSL says what is wrong with it.
            return there
        if at + _HEADER + size > there:
            break
        at += _HEADER + size
    return at

"""
A short conversation on a connection of its own, for the checks that connect.

The law it keeps: the Deferred fires once; when it does, or is cancelled, the socket is closed and
nothing of the conversation is left in the reactor. At most ``limit`` bytes are read and kept, over
TLS those of one read more. A PROXY header goes before TLS, everything else through it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.errors import CheckFailed
from meshproxy.net.connect import Connecting, connect
from meshproxy.tls.reasons import worded

if TYPE_CHECKING:
    from meshproxy.tls.client import ClientTls, Securing
    from meshproxy.tls.transport import TlsTransport
    from meshproxy.upstream.checks.target import Target
    from meshproxy.upstream.endpoint import Endpoint

_CHUNK = 16384

RESET = "reset"


@implementer(IReadWriteDescriptor)
class _Conversation:
    """One conversation. ``heard`` None: to connect and to send is all."""

    def __init__(
        self, reactor: Any, send: bytes, heard: Callable[[bytearray], bool] | None, limit: int
    ) -> None:
        self._reactor = reactor
        self._unsent = memoryview(send)
        self._heard = heard
        self._limit = limit
        self._data = bytearray()
        self._sock: socket.socket | None = None
        self._connecting: Connecting | Securing | None = None
        self.deferred: Deferred[None] = Deferred(lambda _: self._close())

    def begin(self, target: Target, timeout: float) -> None:
        """Connect."""
        attempt = connect(
            self._reactor, target.family, target.sockaddr, timeout, self._connected, self._refused
        )
        if attempt is not None:
            self._connecting = attempt

    def fileno(self) -> int:
        """The descriptor, or -1."""
        return -1 if self._sock is None else self._sock.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "health check"

    def doRead(self) -> None:
        """What the endpoint says."""
        if self._sock is None:
            return
        try:
            more = self._sock.recv(min(_CHUNK, self._limit - len(self._data)))
        except BlockingIOError:
            return
        except OSError:
            self._failed(RESET)
            return
        if not more:
            self._failed(f"closed after {len(self._data)} bytes")
            return
        self._hear(more)

    def _hear(self, more: bytes) -> None:
        data = self._data
        data += more
        assert self._heard is not None
        try:
            enough = self._heard(data)
            if not enough and len(data) >= self._limit:
                raise CheckFailed(f"nothing that passes in the first {self._limit} bytes")
        except Exception:
            self._finish(Failure())
        else:
            if enough:
                self._finish(None)

    def doWrite(self) -> None:
        """The kernel takes more."""
        if self._sock is None:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            if self._heard is None:
                self._failed(RESET)
                return
            # It may have said already what is waited for.
            self._unsent = memoryview(b"")
        if self._heard is None:
            self._finish(None)
        else:
            self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw HUP or ERR, and nothing to read."""
        self._failed(RESET)

    def _connected(self, sock: socket.socket) -> None:
        self._connecting = None
        self._sock = sock
        if self._unsent:
            self._reactor.addWriter(self)
        if self._heard is not None:
            self._reactor.addReader(self)
        self.doWrite()

    def _refused(self, reason: str) -> None:
        # Accepted and reset before anybody here has looked: told as the same thing a moment later.
        self._failed(RESET if reason == os.strerror(errno.ECONNRESET) else reason)

    def _failed(self, reason: str) -> None:
        self._finish(Failure(CheckFailed(reason)))

    def _finish(self, result: Failure | None) -> None:
        self._close()
        if not self.deferred.called:
            self.deferred.callback(result)

    def _close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        sock = self._sock
        if sock is not None:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._sock = None
            sock.close()


@implementer(IProtocol)
class _Secure(_Conversation):
    """The same over TLS; ``before`` is sent before it."""

    def __init__(
        self,
        reactor: Any,
        before: bytes,
        send: bytes,
        heard: Callable[[bytearray], bool] | None,
        limit: int,
        secure: Secure,
    ) -> None:
        super().__init__(reactor, send, heard, limit)
        self._before = before
        self._secure = secure
        self._transport: TlsTransport | None = None
        self._deadline = 0.0
        self._peer: Any = None
        self._resume = True

    def begin(self, target: Target, timeout: float) -> None:
        self._deadline = self._reactor.seconds() + timeout
        self._peer = target.sockaddr
        # Another port may be another server, which knows no session of this one's.
        self._resume = target.sockaddr == self._secure.endpoint.sockaddr
        super().begin(target, timeout)

    def _connected(self, sock: socket.socket) -> None:
        self._connecting = None
        try:
            # A new socket's buffer has room for it.
            if self._before:
                sock.send(self._before)
        except OSError:
            sock.close()
            self._failed(RESET)
            return
        self._connecting = self._secure.tls.secure(
            self._reactor,
            sock,
            self._peer,
            self._secure.endpoint,
            self._deadline - self._reactor.seconds(),
            self._secured,
            self._insecure,
            resume=self._resume,
        )

    def _secured(self, transport: TlsTransport) -> None:
        self._connecting = None
        self._transport = transport
        transport.start(self)
        if self._unsent:
            transport.write(bytes(self._unsent))
        if self._heard is None:
            self._finish(None)

    def _insecure(self, reason: str) -> None:
        self._connecting = None
        self._failed(f"TLS error: {reason}")

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """It reads from now on."""

    def connectionMade(self) -> None:
        """Part of ``IProtocol``."""

    def dataReceived(self, data: bytes) -> None:
        """What the endpoint says."""
        if self._transport is not None:
            self._hear(data)

    def connectionLost(self, reason: Failure) -> None:
        """The end."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if transport.broken_by:
            self._failed(f"TLS error: {worded(transport.broken_by)}")
        elif reason.check(ConnectionDone):
            self._failed(f"closed after {len(self._data)} bytes")
        else:
            self._failed(RESET)

    def _close(self) -> None:
        super()._close()
        transport, self._transport = self._transport, None
        if transport is not None:
            # What was written goes out, then close_notify; what the kernel does not take now is
            # not waited for.
            transport.release()
            transport.connectionLost(Failure(ConnectionDone()))


@dataclass(frozen=True, slots=True)
class Secure:
    """TLS for a conversation with ``endpoint``."""

    tls: ClientTls
    endpoint: Endpoint


def converse(
    reactor: Any,
    target: Target,
    timeout: float,
    send: bytes,
    heard: Callable[[bytearray], bool] | None,
    limit: int = 65536,
    *,
    before: bytes = b"",
    secure: Secure | None = None,
) -> Deferred[None]:
    """
    Connect within ``timeout`` seconds, send ``send``, and let ``heard`` judge what comes.

    ``before`` is sent before everything else; then ``secure`` makes TLS of the connection.

    ``heard`` is called with everything so far whenever more has come: True passes, False waits for
    more, and what it raises is the result. With None for it, having sent all passes. Fails with
    :class:`CheckFailed` when the connection fails, ends before ``heard`` says True, or brings
    ``limit`` bytes without that. Cancelling closes the connection.
    """
    conversation: _Conversation
    if secure is not None:
        conversation = _Secure(reactor, before, send, heard, limit, secure)
    else:
        conversation = _Conversation(reactor, before + send, heard, limit)
    conversation.begin(target, timeout)
    return conversation.deferred

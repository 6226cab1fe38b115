"""
TLS at a listener whose transports are not ours: endpoint descriptions, and TLS inside TLS.

The laws kept here:

- A client is counted, bounded and timed as :class:`meshproxy.tls.server.ServerTls` does it: a
  handshake that does not come to its end in time is aborted, and one more than ``max_handshakes``
  costs the one that has been at it longest.
- The protocol inside is made and connected when the handshake is over, as on a socket, and never
  hears of one that fails.
- A protocol that has paused its transport gets nothing, also of what was decrypted already.
- A transport that cannot end one direction alone ends neither before the peer has: what it still
  sends is read, so that no reset overtakes the last words.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python import log
from zope.interface import implementer

from meshproxy.net import proxy_protocol
from meshproxy.net.transport import twisted_address
from meshproxy.tls.facts import Facts
from meshproxy.tls.preface import BAD_HEADER, CLIENT_GONE
from meshproxy.tls.reasons import CLOSED, reason_of
from meshproxy.tls.server import EVICTED, TIMEOUT

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from meshproxy.tls.server import ServerTls

__all__ = ["MemoryTls"]


class Front(typing.Protocol):
    """The contexts of a listener, as they are seen from here."""

    @property
    def front(self) -> SSL.Context:
        """A context that picks another by the name that the client asks for."""


@implementer(IOpenSSLServerConnectionCreator)
class MemoryTls:
    """
    The TLS of a listener, ``tls``, in memory; its contexts are a :class:`Front`.

    Raises ``ValueError`` where some connections are to be passed through: nothing is read from
    a transport that can be left in it.
    """

    def __init__(self, tls: ServerTls) -> None:
        if tls.pass_through is not None:
            raise ValueError("'pass_through' needs a plain address")
        self.tls = tls
        self._contexts: Front = tls.contexts  # type: ignore[assignment]

    def wrap(self, factory: IProtocolFactory) -> IProtocolFactory:
        """
        A factory of connections with TLS, for the protocols of ``factory``.

        Their transports have ``facts``, and a ``getPeer`` that believes a PROXY header.
        """
        return _Factory(self, factory)

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Part of ``IOpenSSLServerConnectionCreator``."""
        connection = SSL.Connection(self._contexts.front, None)
        connection.set_accept_state()
        tlsProtocol.facts = Facts(connection)
        return connection


class _Factory(TLSMemoryBIOFactory):
    def __init__(self, memory: MemoryTls, factory: IProtocolFactory) -> None:
        super().__init__(memory, False, factory, memory.tls.reactor)
        self.protocol = _Transport
        self.tls = memory.tls

    def buildProtocol(self, addr: Any) -> _Transport:
        """What the wrapped factory has to say is asked when the handshake is over."""
        return _Transport(self)


class _Inside(Protocol):
    """Stands before the protocol inside, which there may not be yet."""

    inner: Any = None
    #: The inner one wants nothing for now; what was decrypted already waits.
    paused = False
    kept = b""

    def dataReceived(self, data: bytes) -> None:
        if self.paused:
            self.kept += data
        elif self.inner is not None:
            self.inner.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        inner, self.inner = self.inner, None
        if inner is None:
            return
        kept, self.kept = self.kept, b""
        if kept:
            inner.dataReceived(kept)
        inner.connectionLost(reason)


class _Transport(BufferingTLSTransport):
    """A client from accept to its end; until its handshake is over, among those under way."""

    factory: _Factory
    transport: Any
    #: Set when the connection is made.
    facts: Facts

    def __init__(self, factory: _Factory) -> None:
        self._inside = _Inside()
        super().__init__(factory, self._inside, False)
        self._tls = factory.tls
        self._arriving = True
        # There is no TLS: it could not be made.
        self._stillborn = False
        self._closing = False
        self._waking: Any = None
        self._header: proxy_protocol.Header | None = None
        # What came of a PROXY header that is not complete; None: none is awaited.
        self._before: bytes | None = b"" if factory.tls.proxy_protocol else None
        self.deadline = 0.0
        self.slot = 0
        #: See :class:`meshproxy.tls.server.Arriving`.
        self.silent = True

    def makeConnection(self, transport: Any) -> None:
        """Part of ``IProtocol``."""
        tls = self._tls
        tls.make_room()
        tls.under_way[self] = None
        tls.wheel.arm(self, tls.wheel.now() + tls.timeout)
        try:
            super().makeConnection(transport)
        except Exception:
            # Contexts are made of files in memory: there may be no descriptors left.
            log.err(None, f"a connection of listener {tls.name}")
            self._leave()
            self._stillborn = True
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Part of ``IProtocol``."""
        if self._before is not None:
            data = self._before + data
            try:
                header = proxy_protocol.parse(data)
            except proxy_protocol.ProxyProtocolError:
                self._fail(BAD_HEADER)
                return
            if header is None:
                self._before = data
                return
            self._before = None
            self._header = header
            data = data[header.consumed :]
            if not data:
                return
        self.silent = False
        super().dataReceived(data)

    def _checkHandshakeStatus(self) -> None:
        # Twisted tells nobody but protocols that ask by an interface, which those inside do not.
        super()._checkHandshakeStatus()
        if not self._handshakeDone or not self._arriving:
            return
        self._leave()
        if not self._tls.finished(self._tlsConnection):
            self.abortConnection()
            return
        inner = self.factory.wrappedFactory.buildProtocol(self.getPeer())
        if inner is None:
            self.loseConnection()
            return
        self._inside.inner = inner
        inner.makeConnection(self)

    def getPeer(self) -> Any:
        """The client, as a PROXY header names it where there was one."""
        header = self._header
        if header is not None and isinstance(header.source, tuple):
            return twisted_address(header.family, header.source)
        return super().getPeer()

    def pauseProducing(self) -> None:
        """Deliver nothing more, also of what was read already."""
        self._inside.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Deliver again, by a turn of the reactor as every transport does."""
        if self._inside.kept:
            if self._waking is None:
                self._waking = self._tls.reactor.callLater(0, self._wake)
            return
        self._inside.paused = False
        self.transport.resumeProducing()

    def _wake(self) -> None:
        self._waking = None
        inside = self._inside
        kept, inside.kept = inside.kept, b""
        inside.paused = False
        inside.dataReceived(kept)
        if not inside.paused and self.connected:
            self.transport.resumeProducing()

    def loseConnection(self) -> None:
        """Send what was written and close_notify, and close; that of the peer is not waited for."""
        self._closing = True
        super().loseConnection()
        if self._producer is None and self.connected:
            self.transport.loseConnection()

    def unregisterProducer(self) -> None:
        """Whoever waited for it before closing waits no more."""
        super().unregisterProducer()
        if self._closing and self.connected:
            self.transport.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send what was written and close_notify, and read on."""
        super().loseConnection()

    def abortConnection(self) -> None:
        """Reset; nothing is delivered any more."""
        self._inside.kept = b""
        super().abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Part of ``IProtocol``."""
        if self._stillborn:
            return
        if self._arriving:
            self._leave()
            error = reason.value if self._reason is None else self._reason.value
            if isinstance(error, SSL.Error):
                self._tls.failed(reason_of(error, self._tlsConnection))
            else:
                self._tls.failed(CLIENT_GONE if self.silent else CLOSED)
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        super().connectionLost(reason)

    # Among those under way (:class:`meshproxy.tls.server.Arriving`).

    def expired(self, now: float) -> float:
        """It has taken too long."""
        self._fail(TIMEOUT)
        return 0.0

    def evict(self) -> None:
        """Make room for another."""
        self._fail(EVICTED)

    def drop(self) -> None:
        """Close."""
        self._leave()
        self.abortConnection()

    def _fail(self, reason: str) -> None:
        self._tls.failed(reason)
        self.drop()

    def _leave(self) -> None:
        self._arriving = False
        self._tls.wheel.disarm(self)
        self._tls.under_way.pop(self, None)

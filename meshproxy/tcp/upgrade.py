"""
TLS that begins in the middle of a client's connection, when a filter says so: STARTTLS and its kin.

The laws kept here:

* Nothing that came in plain text is ever taken for what came in TLS: where bytes of the client wait
  as TLS is to begin, somebody may have put them there, and the connection is ended.
* A handshake takes at most ``handshake_timeout`` seconds, and is counted as every other of the
  listener, ``max_handshakes`` among them; one that fails costs the connection.
* The client is read while a filter waits for the handshake, whoever else has it paused.
* The Deferred fires with the facts of the client's TLS. When there will be none the connection is
  ended: a filter that waits is cancelled, anybody else gets ``ConnectionError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLServerConnectionCreator
from zope.interface import alsoProvides, implementer, noLongerProvides

from meshproxy.tcp.connection import STOPPED
from meshproxy.tls.memory import MemoryTls
from meshproxy.tls.reasons import CLOSED, reason_of
from meshproxy.tls.server import EVICTED, EXPIRED, TIMEOUT

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from meshproxy.tcp.filtered import FilteredConnection
    from meshproxy.tls.facts import Facts
    from meshproxy.tls.server import ServerTls

INJECTED: Final = "plain text before TLS"


@implementer(IOpenSSLServerConnectionCreator)
class Upgrade:
    """
    The beginning of TLS on ``connection``, as the listener's ``tls`` has it: one of those that are
    under way there (:class:`meshproxy.tls.server.Arriving`).
    """

    #: There is a handshake.
    silent = False

    def __init__(self, connection: FilteredConnection, tls: ServerTls) -> None:
        self._connection = connection
        self._tls = tls
        # Whether the handshake is under way.
        self._arriving = False
        self.deadline = 0.0
        self.slot = 0
        self._facts: Facts | None = None
        self._ssl: SSL.Connection | None = None
        self.deferred: Deferred[Facts] = Deferred()

    def begin(self) -> None:
        """Expect a ClientHello from here on."""
        connection = self._connection
        if connection.relay.received.held or connection.side.held:
            self._tls.failed(INJECTED)
            self._end(INJECTED)
            return
        side = connection.side
        alsoProvides(side, IHandshakeListener)
        side.handshakeCompleted = self._completed  # type: ignore[attr-defined]
        reactor = connection.listener.reactor
        transport = side.transport
        tls = self._tls
        tls.make_room()
        self._arriving = True
        tls.under_way[self] = None
        tls.wheel.arm(self, tls.wheel.now() + tls.timeout)
        transport.startTLS(self)
        # A filter that waits for this has its client paused, as soon as it is seen to wait.
        reactor.callLater(0, self._read)
        transport.resumeProducing()

    def _read(self) -> None:
        if self._arriving:
            self._connection.side.transport.resumeProducing()

    def expired(self, now: float) -> float:
        """It has taken too long."""
        self._fail(TIMEOUT)
        return 0.0

    def evict(self) -> None:
        """Make room for another."""
        self._fail(EVICTED)

    def drop(self) -> None:
        """Close."""
        self._stop()
        self._end(STOPPED)

    def _fail(self, reason: str) -> None:
        self._stop()
        self._tls.failed(reason)
        self._end(f"TLS {reason}")

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Part of ``IOpenSSLServerConnectionCreator``."""
        connection = self._ssl = MemoryTls(self._tls).serverConnectionForTLS(tlsProtocol)
        self._facts = tlsProtocol.facts
        return connection

    def _completed(self) -> None:
        """Part of ``IHandshakeListener``."""
        self._stop()
        connection, facts = self._connection, self._facts
        assert facts is not None
        assert self._ssl is not None
        if not self._tls.finished(self._ssl):
            self._end(EXPIRED)
            return
        transport = connection.side.transport
        transport.facts = facts
        # Whether the client is to be read now is for the filters to say.
        if connection.relay.received.full:
            transport.pauseProducing()
        self.deferred.callback(facts)

    def lost(self, reason: Failure) -> None:
        """The client's transport is gone, for this ``reason``."""
        if not self._arriving:
            return
        self._stop()
        text = CLOSED
        if isinstance(reason.value, SSL.Error) and self._ssl is not None:
            text = reason_of(reason.value, self._ssl)
        self._tls.failed(text)
        self._connection.details = f"TLS_error: {text}".replace(" ", "_").encode()

    def over(self) -> None:
        """The connection is over, and who waited through it was cancelled."""
        if self._arriving:
            self._stop()
            self._tls.failed(CLOSED)
        waiting: Any = self.deferred
        # With nobody there it would be an error that nobody takes.
        if waiting.callbacks and not waiting.called:
            waiting.errback(ConnectionError("there will be no TLS"))

    def _end(self, reason: str) -> None:
        self._connection.drop(True, reason)

    def _stop(self) -> None:
        self._arriving = False
        self._tls.wheel.disarm(self)
        self._tls.under_way.pop(self, None)
        noLongerProvides(self._connection.side, IHandshakeListener)

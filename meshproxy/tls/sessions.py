"""
Sessions that later connections to the same endpoint resume.

The laws it keeps:

- An endpoint has one session at most; it is gone with the endpoint. It is offered only by those
  who would verify the same: with the same context (so that new files make it worthless) and for
  the same name.
- A resumed handshake verifies nothing anew. So a session is offered for no longer than
  :data:`LONGEST` seconds after the handshake that did, nor after the certificate's expiry or that
  of a revocation list; what a resumed connection is given in its turn inherits that moment.
- With TLS 1.3 a session can be resumed once a ticket has come, which is after the handshake: it is
  taken when the first bytes come, or when the connection ends without any.
- That a connection was cut makes its session no worse (RFC 5246, 7.2.1); OpenSSL would think so.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

from OpenSSL import SSL
from twisted.internet import main

from meshproxy.tls.transport import TlsTransport

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from meshproxy.net.transport import SocketAddress

__all__ = [
    "LONGEST",
    "ClientTransport",
    "Session",
    "SessionHolder",
    "await_session",
    "offer",
]

#: Seconds after a full handshake for which what it verified is believed.
LONGEST = 3600.0

#: Where nobody can tell what was resumed, nothing is: a certificate would not be verified.
_CAN_TELL = hasattr(getattr(SSL, "_lib", None), "SSL_session_reused")
_TLS_13 = 0x0304


class SessionHolder(Protocol):
    """What a session belongs to."""

    session: Session | None


class Session:
    """
    ``session``, which ``context`` and a server called ``name`` agreed on; for use until ``until``
    (Unix time).
    """

    __slots__ = ("context", "name", "session", "until")

    def __init__(
        self, session: SSL.Session, context: SSL.Context, name: bytes, until: float
    ) -> None:
        self.session = session
        self.context = context
        self.name = name
        self.until = until


def offer(connection: SSL.Connection, context: SSL.Context, name: bytes, held: Session) -> bool:
    """Offer ``held``, if it may be; returns whether."""
    if (
        not _CAN_TELL
        or held.context is not context
        or held.name != name
        or held.until < time.time()
    ):
        return False
    connection.set_session(held.session)
    return True


class Awaited:
    """What is done with the session of a connection when it is there. Called once, or never."""

    __slots__ = ("_agreed", "_context", "_holder", "_name", "_until")

    def __init__(
        self,
        connection: SSL.Connection,
        context: SSL.Context,
        holder: SessionHolder,
        name: bytes,
        until: float,
    ) -> None:
        self._holder = holder
        self._context = context
        self._name = name
        self._until = until
        # Held, so that no later session comes to lie at the same place.
        self._agreed = connection.get_session()

    def __call__(self, transport: TlsTransport) -> None:
        """Bytes have come, and a ticket before them perhaps."""
        session = transport.connection.get_session()
        # A ticket makes a session of its own of the one that the handshake agreed on.
        if session is not None and not _same(session, self._agreed):
            self._holder.session = Session(session, self._context, self._name, self._until)


def await_session(
    transport: ClientTransport,
    context: SSL.Context,
    holder: SessionHolder,
    name: bytes,
    until: float,
) -> None:
    """Give ``holder`` the session of ``transport`` as soon as there is one to resume."""
    connection = transport.connection
    if connection.get_protocol_version() >= _TLS_13:
        transport.first_read = Awaited(connection, context, holder, name, until)
        return
    session = connection.get_session()
    if session is not None:
        holder.session = Session(session, context, name, until)


def _same(one: SSL.Session, other: SSL.Session | None) -> bool:
    return other is not None and _place(one) == _place(other)


def _place(session: SSL.Session) -> Any:
    """Where OpenSSL has it; pyOpenSSL makes a new object for each that asks."""
    return getattr(session, "_session", session)


class ClientTransport(TlsTransport):
    """
    A connection that we opened. See the module's last two laws.

    With TLS 1.3 a server says that it does not want our certificate, and resets the connection,
    when our side of the handshake is over. OpenSSL reads nothing more once a write has failed, so
    the first write, which may be as late as the reset, looks before it leaps.
    """

    def __init__(
        self, reactor: Any, sock: socket.socket, peer: SocketAddress, connection: SSL.Connection
    ) -> None:
        super().__init__(reactor, sock, peer, connection)
        self._send = self._first_send  # type: ignore[method-assign]

    def _first_send(self, data: bytes) -> None:
        del self._send
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end = main.CONNECTION_LOST
            self._buffer(data)
        else:
            self._send(data)

    def connectionLost(self, reason: Failure) -> None:
        """The end, in whatever way."""
        self.__dict__.pop("_send", None)
        awaited, self.first_read = self.first_read, None
        if awaited is not None:
            awaited(self)
        super().connectionLost(reason)
        self.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

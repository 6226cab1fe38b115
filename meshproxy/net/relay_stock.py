"""
The relay for everything that is not a bare socket on a watching reactor.

:class:`TransportRelay` joins two Twisted transports, whatever they are made of (another reactor's,
TLS, a filter's).  It keeps the laws of :class:`meshproxy.net.splice.Relay`, by stock means:

* **Bounded**: each transport is the other's streaming producer, so that what one cannot send pauses
  what the other reads.
* **Half-close passes through** where both transports can; a transport that cannot end one direction
  alone (TLS) is closed once all is sent.
* **A reset is a reset**: a side lost uncleanly aborts the other.
* ``finished(reason)`` is called exactly once, when both transports are gone.
* **A last word is given time.**  When both ends have ended, a side that takes its last bytes slowly
  is waited for while it takes some, :data:`LINGER` seconds at a time and :data:`LOOKS` times at
  most; in every other case for :data:`LINGER` seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from meshproxy.net.splice import ABORTED, CLIENT_RESET, CLOSED, UPSTREAM_RESET

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

LINGER: Final = 1.0
"""Seconds: how long a closed relay waits for a side that does not take its last bytes."""

LOOKS: Final = 60
"""How often a side that took some of them is waited for again."""


class TransportRelay:
    """
    Moves bytes both ways between two transports.

    ``client`` and ``upstream`` are protocols to connect, in any order: give them to the transports
    (``makeConnection``) and call :meth:`start` when both are.  Until then neither side reads.
    ``reactor`` is the clock.  The other arguments and attributes are those of
    :class:`meshproxy.net.splice.Relay`.
    """

    __slots__ = (
        "_finished",
        "_forcing",
        "_looks",
        "_reactor",
        "_reason",
        "_started",
        "_unsent",
        "client",
        "last_activity",
        "upstream",
    )

    _patient: frozenset[str] = frozenset({CLOSED})

    def __init__(
        self,
        reactor: IReactorTime,
        finished: Callable[[str], None],
        *,
        from_client: bytes = b"",
        from_upstream: bytes = b"",
    ) -> None:
        self._reactor = reactor
        self._finished: Callable[[str], None] | None = finished
        self._reason = ""
        self._started = False
        self._forcing: Any = None
        self._looks = self._unsent = 0
        self.client = Side(self, from_client)
        self.upstream = Side(self, from_upstream)
        self.last_activity = reactor.seconds()

    def start(self, opening: bytes = b"") -> None:
        """Both sides are connected: deliver ``opening`` and what came first, then read."""
        self._started = True
        self.last_activity = self._reactor.seconds()
        client, upstream = self.client, self.upstream
        client.held = opening + client.held
        for side, other in ((client, upstream), (upstream, client)):
            if side.connected and other.connected:
                side.transport.registerProducer(other.transport, True)
            if side.held:
                held, side.held = side.held, b""
                other.transport.write(held)
        for side in (client, upstream):
            if side.ended:
                self._pass_end(side)
            elif side.connected:
                side.transport.resumeProducing()

    @property
    def bytes_received(self) -> int:
        """Bytes read from the client."""
        return self.client.count

    @property
    def bytes_sent(self) -> int:
        """Bytes read from the upstream."""
        return self.upstream.count

    @property
    def buffered(self) -> int:
        """Bytes read from either side that a transport of ours has not sent yet."""
        return sum(
            len(side.held) + getattr(side.transport, "buffered", 0)
            for side in (self.client, self.upstream)
            if side.connected
        )

    @property
    def over(self) -> bool:
        """Whether it is being ended."""
        return bool(self._reason)

    def force(self) -> None:
        """Wait for nobody any more; only once it is being ended."""
        if self._forcing is not None:
            self._forcing.cancel()
        self._looks = LOOKS
        self._force()

    def abort(self, reason: str = ABORTED) -> None:
        """Drop everything now; both sides get RST.  Does nothing once ended."""
        self._end(reason, True)

    def close(self, reason: str = CLOSED) -> None:
        """Close both sides in order; what they do not take within a second is dropped."""
        self._end(reason, False)

    def other(self, side: Side) -> Side:
        """The side across."""
        return self.upstream if side is self.client else self.client

    def moved(self, side: Side, data: bytes) -> None:
        """``side`` received ``data``."""
        side.count += len(data)
        if not self._started:
            # A transport may hold bytes that it had read before it could be paused.
            side.held += data
            return
        self.last_activity = self._reactor.seconds()
        self.other(side).transport.write(data)

    def half_closed(self, side: Side) -> None:
        """``side`` has read the end of its stream."""
        side.ended = True
        if self._started:
            self.last_activity = self._reactor.seconds()
            self._pass_end(side)

    def _pass_end(self, side: Side) -> None:
        other = self.other(side)
        if other.ended:
            self.close()
            return
        transport = other.transport
        transport.unregisterProducer()
        if ISSLTransport.providedBy(transport):
            self.close()
        else:
            transport.loseWriteConnection()

    def lost(self, side: Side, reason: Failure) -> None:
        """``side``'s transport is gone."""
        side.connected = 0
        if reason.check(ConnectionDone):
            self._end(CLOSED, False)
        else:
            self._end(CLIENT_RESET if side is self.client else UPSTREAM_RESET, True)
        if not self.client.connected and not self.upstream.connected:
            if self._forcing is not None:
                self._forcing.cancel()
                self._forcing = None
            finished, self._finished = self._finished, None
            if finished is not None:
                finished(self._reason)

    def _end(self, reason: str, hard: bool) -> None:
        if self._reason:
            return
        self._reason = reason
        alive = [side for side in (self.client, self.upstream) if side.connected]
        for side in alive:
            side.transport.unregisterProducer()
        if hard:
            for side in alive:
                side.transport.abortConnection()
            return
        if alive:
            self._linger()
        for side in alive:
            side.transport.loseConnection()

    def _linger(self) -> None:
        """Wait :data:`LINGER` seconds for what is unsent."""
        self._unsent = self.buffered
        self._forcing = self._reactor.callLater(LINGER, self._force)

    def _force(self) -> None:
        self._forcing = None
        if self._reason in self._patient and self._looks < LOOKS and self.buffered < self._unsent:
            self._looks += 1
            self._linger()
            return
        for side in (self.client, self.upstream):
            if side.connected:
                side.transport.abortConnection()


@implementer(IHalfCloseableProtocol)
class Side(Protocol):
    """One transport's protocol; ``held`` waits for the start, ``ended``: its end was read."""

    transport: Any

    def __init__(self, relay: TransportRelay, held: bytes) -> None:
        self.relay = relay
        self.held = held
        self.count = 0
        self.ended = False

    def connectionMade(self) -> None:
        """Nothing is read before the other side is there."""
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Hand on."""
        self.relay.moved(self, data)

    def readConnectionLost(self) -> None:
        """The peer ended its sending."""
        self.relay.half_closed(self)

    def writeConnectionLost(self) -> None:
        """We ended ours."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """All is over here."""
        self.relay.lost(self, reason)

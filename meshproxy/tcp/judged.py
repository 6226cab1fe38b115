"""
Connections that filters judge before an upstream is asked for.

The laws kept here:

* The steps run in the order of the chain, each after the one before has let the connection pass;
  the connection is an :class:`meshproxy.interfaces.IConnection` from the first of them on.
* A filter that waits is waited for as long as the listener's ``idle_timeout`` says
  (:data:`~meshproxy.tcp.connection.HEADER_TIMEOUT` where there is none), and never beyond
  ``max_duration``; then, and when the client is gone, what it waits for is cancelled.  A client
  that has only ended its own sending is not gone: half-close passes through.
* An exception of a filter resets its connection, and no other.
* Whoever met the chain is told of the end, once (:meth:`meshproxy.tcp.chain.Chain.observed`).
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import defer
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.interfaces import IConnection
from meshproxy.net import farewell
from meshproxy.net.flow import deferred_of, give_up
from meshproxy.net.refuse import Refuse
from meshproxy.net.splice import Socket
from meshproxy.tcp.chain import unknown
from meshproxy.tcp.connection import JUDGING, PARTING, Connection
from meshproxy.tcp.spliced import SplicedConnection
from meshproxy.tls.preface import CLIENT_GONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.net.transport import StreamTransport
    from meshproxy.observe.fitted import Fitted
    from meshproxy.tcp.listener import TcpListener

REFUSED: Final = "filter refused"
ENDED: Final = "ended by a filter"
FILTER_ERROR: Final = "filter error"
FILTER_TIMEOUT: Final = "filter timeout"

CANCELLED: Final = (defer.CancelledError, asyncio.CancelledError)

_GONE: Final[int] = getattr(select, "EPOLLERR", 8) | getattr(select, "EPOLLHUP", 16)

JUDGED: Final = ("_at", "_metadata", "_notes", "asked", "ending", "met", "waiting")
"""What a subclass of :class:`Judged` has slots for."""


@implementer(IConnection)
class Judged(Connection):
    """
    A connection and its way through the steps of ``listener.chain.connected``.

    ``met``: the chain was reached; ``ending``: the end was told; ``asked`` is the filter that is
    waited for.
    """

    if TYPE_CHECKING:
        _at: int
        _metadata: dict[str, Any] | None
        _notes: dict[Any, Any] | None
        asked: Fitted | None
        ending: bool
        met: bool
        waiting: defer.Deferred[Any] | None
    else:
        # Of the two classes that a connection is made of, one can have slots.
        __slots__ = ()

    def unjudged(self) -> None:
        """To be called by ``__init__``."""
        self._at = 0
        self._metadata = self._notes = None
        self.asked = self.waiting = None
        self.met = self.ending = False

    @property
    def over(self) -> bool:
        """Whether it is being ended."""
        return self.ending

    # As a filter sees it.

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Facts for other filters and the access log."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def notes(self) -> dict[Any, Any]:
        """What filters keep for themselves."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    def write(self, data: bytes) -> None:
        """Raises RuntimeError: nobody moves bytes here but the kernel."""
        raise RuntimeError("only a filter of bytes, or one that serves, can write to the client")

    def start_tls(self) -> defer.Deferred[Any]:
        """Raises RuntimeError: it is not for this connection, or not any more."""
        raise RuntimeError("TLS can be started once, where the listener has it 'on_demand'")

    def close(self, reset: bool = False) -> None:
        """End the connection."""
        if not self.over:
            self.drop(reset, ENDED)

    # What a subclass does.

    def admitted(self) -> None:
        """Every step let it pass."""
        raise NotImplementedError

    def serving(self) -> None:
        """The filters let it pass; the next step is that of the one that serves."""

    def hold(self) -> None:
        """It has to wait: look out for the client's leaving."""
        raise NotImplementedError

    def release(self) -> None:
        """It waits no more."""
        raise NotImplementedError

    def part(self, data: bytes) -> None:
        """Send ``data`` to the client, and close in order."""
        raise NotImplementedError

    # The way.

    def judge(self) -> None:
        """Begin with the first step."""
        self.met = True
        self.state = JUDGING
        self._walk(None, None)

    def _walk(self, fitted: Fitted | None, answer: Any) -> None:
        """Go on behind ``fitted``, whose ``answer`` is here."""
        chain = self.listener.chain
        assert chain is not None
        steps, judging = chain.connected, chain.judging
        while True:
            if answer is not None and fitted is not None:
                if isinstance(answer, Refuse):
                    fitted.answered()
                    self.refuse(answer)
                else:
                    self._wait(fitted, answer)
                return
            if self.over:
                return
            if self._at == len(steps):
                break
            if self._at == judging:
                self.serving()
            fitted, step = steps[self._at]
            self._at += 1
            try:
                answer = step(self)
            except Exception:
                self.broke(fitted)
                return
        self.admitted()

    def _wait(self, fitted: Fitted, answer: Any) -> None:
        waiting = deferred_of(answer)
        if waiting is None:
            self.broke(fitted, Failure(unknown(answer)))
            return
        if self.over:
            waiting.addErrback(_swallow)
            give_up(waiting)
            return
        self.asked = fitted
        self.waiting = waiting
        waiting.addCallbacks(self._answered, self._raised)
        if self.waiting is waiting:
            fitted.waited()
            listener = self.listener
            if self.state == JUDGING:
                due = listener.now() + listener.filter_timeout
                listener.wheel.arm(self, min(due, self.start + listener.max_duration))
            self.hold()

    def _answered(self, answer: Any) -> None:
        if self.waiting is not None:
            fitted = self._came()
            self._walk(fitted, answer)

    def _raised(self, failure: Failure) -> None:
        if self.waiting is not None:
            self.broke(self._came(), failure)
        elif self.asked is not None and not failure.check(*CANCELLED):
            self.asked.failed(failure)

    def _came(self) -> Fitted | None:
        self.waiting = None
        self.release()
        return self.asked

    def broke(self, fitted: Fitted | None, failure: Failure | None = None) -> None:
        """A filter raised (or failed with ``failure``): that costs the connection."""
        if fitted is not None:
            fitted.failed(failure)
            if not self.over:
                self.flags, self.details = b"-", b"filter_error[%b]" % fitted.label_bytes
        if not self.over:
            self.drop(True, FILTER_ERROR)

    def refuse(self, answer: Refuse) -> None:
        """A filter wants it ended."""
        if self.over:
            return
        self.flags, self.details = answer.flags, answer.details
        if answer.reset:
            self.drop(True, REFUSED)
        elif answer.data:
            self.part(answer.data)
        else:
            self.drop(False, REFUSED)

    def expired(self, now: float) -> float:
        listener = self.listener
        if now < self.start + listener.max_duration:
            if self.state == JUDGING and self.asked is not None:
                self.late(self.asked)
                self.drop(True, FILTER_TIMEOUT)
                return 0.0
            if self.state == PARTING:
                self.drop(True, REFUSED)
                return 0.0
        return super().expired(now)

    def late(self, fitted: Fitted) -> None:
        """What ``fitted`` waits for did not come in time."""
        fitted.failed(Failure(TimeoutError("what the filter waits for did not come in time")))
        self.details = b"filter_timeout[%b]" % fitted.label_bytes

    def finished(self, reason: str) -> None:
        if not self.ending:
            self.ending = True
            self.cancel()
            super().finished(reason)

    def cancel(self) -> None:
        """Wait for nothing any more."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            self.release()
            give_up(waiting)


class JudgedConnection(Judged, SplicedConnection):
    """A connection that filters judge, and whose bytes the kernel moves."""

    __slots__ = (*JUDGED, "_farewell")

    def __init__(self, listener: TcpListener, sock: Socket, peer: Any) -> None:
        SplicedConnection.__init__(self, listener, sock, peer)
        self.unjudged()
        self._farewell: StreamTransport | None = None

    def _connect(self) -> None:
        self.judge()

    def admitted(self) -> None:
        SplicedConnection._connect(self)

    def hold(self) -> None:
        self.listener.reactor.watch(self._sock.fileno(), _Watch(self))

    def release(self) -> None:
        self.listener.reactor.unwatch(self._sock.fileno())

    def part(self, data: bytes) -> None:
        listener = self.listener
        self.state = PARTING
        listener.wheel.arm(self, listener.now() + farewell.PATIENCE)
        sock: Any = self._sock
        self._farewell = farewell.part(listener.reactor, sock, self.peer, data, self._parted)

    def _parted(self, sock: Any) -> None:
        self.finished(REFUSED)

    def drop(self, hard: bool, reason: str) -> None:
        farewell = self._farewell
        if farewell is not None:
            if farewell.buffered:
                farewell.abortConnection()
            else:
                farewell.loseConnection()
        elif not self.over:
            super().drop(hard, reason)


class _Watch:
    """Looks whether the client of a connection that waits is still there."""

    __slots__ = ("_connection",)

    def __init__(self, connection: JudgedConnection) -> None:
        self._connection = connection

    def ready(self, events: int) -> None:
        """Edges came; bytes, and an end of the client's sending, wait for the relay."""
        if events & _GONE:
            self._connection.drop(True, CLIENT_GONE)

    def abort(self) -> None:
        """The reactor caught an exception of :meth:`ready`."""
        self._connection.drop(True, CLIENT_GONE)


def _swallow(failure: Failure) -> None:
    """The error of what nobody waits for any more."""

"""
Filters at the door: they judge a connection as it is accepted, before anything of it is read.

The laws kept here:

* A connection comes in when every filter, in order, let it pass; nobody else ever sees the socket
  before.  One that is refused is closed, or reset; nothing can be said to it, since what it speaks
  is not known yet.
* Waiting is bounded: :data:`WAITING` connections at a time, each for :data:`PATIENCE` seconds.
  What comes on top is closed, and counted as an error of the filter's; what a filter waits for is
  cancelled when the time is over, and when the door is closed.  A client that leaves meanwhile is
  noticed at the latest then.
* A filter that raises costs that connection.
* Who observes is told of the end of each connection that met a filter, once: when its socket is
  closed, whoever closes it.  For that, and only where somebody observes, the room is given a socket
  that tells (:class:`TellingSocket`).
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.interfaces import IConnection, IConnectionObserver, IListenerFilter
from meshproxy.net.flow import deferred_of, give_up
from meshproxy.net.refuse import Refuse
from meshproxy.net.transport import SocketAddress, peer_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.net.wheel import TimerWheel

WAITING: Final = 1024
"""Connections that may wait for a filter at a time."""

PATIENCE: Final = 15.0
"""Seconds that a filter may take: Envoy's ``listener_filters_timeout``."""

_RESET: Final = struct.pack("ii", 1, 0)


class Fitted(Protocol):
    """What a door needs of a filter at its place (``meshproxy.observe.fitted``)."""

    @property
    def filter(self) -> Any:
        """The filter."""

    @property
    def label_bytes(self) -> bytes:
        """Its name."""

    def answered(self) -> None:
        """It refused."""

    def waited(self) -> None:
        """It did not answer at once."""

    def failed(self, failure: Failure | None = None) -> None:
        """It raised."""


class Door:
    """
    Judges what a listener accepts by the filters of the kind ``listener``, and gives ``accept``
    what may come in, as :func:`meshproxy.net.listen.listen` gives it to :meth:`accept`.

    ``turned_away``: connections closed because too many waited.
    """

    def __init__(
        self,
        fitted: Sequence[Fitted],
        wheel: TimerWheel,
        listener_name: str,
        accept: Callable[[socket.socket, SocketAddress], None],
    ) -> None:
        self.name = listener_name
        self.name_bytes = listener_name.encode()
        self.wheel = wheel
        self.steps = tuple(
            (one, one.filter.accepted) for one in fitted if IListenerFilter.providedBy(one.filter)
        )
        self.observers = tuple(
            (one, one.filter.closed) for one in fitted if IConnectionObserver.providedBy(one.filter)
        )
        self.through = accept
        self.turned_away = 0
        self.waiting: set[Arrival] = set()
        self._closed = False

    def accept(self, sock: socket.socket, peer: SocketAddress) -> None:
        """Take a connected, non-blocking socket."""
        if self._closed:
            sock.close()
            return
        if self.observers:
            sock = TellingSocket(sock.family, sock.type, sock.proto, sock.detach())
        arrival = Arrival(self, sock, peer)
        if self.observers:
            assert isinstance(sock, TellingSocket)
            sock.closing = arrival.closed
        arrival.walk(None, None)

    def close(self) -> None:
        """Let nobody in any more, and close those who wait."""
        self._closed = True
        for arrival in tuple(self.waiting):
            arrival.close()


@implementer(IConnection)
class Arrival:
    """
    A connection at the door, as a filter sees it. Bytes are not counted here: what a room reads
    and sends is its own affair.
    """

    __slots__ = (
        "_asked",
        "_at",
        "_door",
        "_metadata",
        "_notes",
        "_over",
        "_peer",
        "_sock",
        "_waiting",
        "client",
        "client_ip",
        "deadline",
        "details",
        "flags",
        "slot",
        "start",
    )

    tls = None
    cluster_name = upstream = b""
    bytes_received = bytes_sent = 0

    def __init__(self, door: Door, sock: socket.socket, peer: SocketAddress) -> None:
        self._door = door
        self._sock = sock
        self._peer = peer
        self._at = self.slot = 0
        self._asked: Fitted | None = None
        self._waiting: Deferred[Any] | None = None
        self._metadata: dict[str, Any] | None = None
        self._notes: dict[Any, Any] | None = None
        self._over = False
        self.deadline = 0.0
        self.start: float = door.wheel.now()
        self.client, self.client_ip = peer_text(sock.family, peer)
        self.flags = self.details = b"-"

    @property
    def local(self) -> bytes:
        """``ip:port`` that the client connected to; empty once it is closed."""
        sock = self._sock
        return b"" if sock.fileno() < 0 else peer_text(sock.family, sock.getsockname())[0]

    @property
    def listener_name(self) -> bytes:
        """The listener."""
        return self._door.name_bytes

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts for other filters of this door."""
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
        """Raises RuntimeError: nothing can be said at the door."""
        raise RuntimeError("nothing can be written before the connection is let in")

    def start_tls(self) -> Deferred[Any]:
        """Raises RuntimeError: nothing is read at the door."""
        raise RuntimeError("TLS cannot be started before the connection is let in")

    def close(self, reset: bool = False) -> None:
        """End the connection, as long as it is not let in."""
        if not self._over:
            self._end(reset)

    def walk(self, fitted: Fitted | None, answer: Any) -> None:
        """Go on behind ``fitted``, whose ``answer`` is here."""
        steps = self._door.steps
        while True:
            if answer is not None and fitted is not None:
                self._other(fitted, answer)
                return
            if self._over:
                return
            if self._at == len(steps):
                self._let_in()
                return
            fitted, step = steps[self._at]
            self._at += 1
            try:
                answer = step(self)
            except Exception:
                self._broke(fitted, None)
                return

    def _other(self, fitted: Fitted, answer: Any) -> None:
        """The answer is not None."""
        if isinstance(answer, Refuse):
            fitted.answered()
            if not self._over:
                self.flags, self.details = answer.flags, answer.details
                self._end(answer.reset)
            return
        waiting = deferred_of(answer)
        if waiting is None:
            message = f"a filter answered with {type(answer).__name__}"
            self._broke(fitted, Failure(TypeError(message)))
            return
        self._asked, self._waiting = fitted, waiting
        waiting.addCallbacks(self._answered, self._failed)
        if self._over:
            self._cancel()
        elif self._waiting is waiting:
            fitted.waited()
            door = self._door
            if len(door.waiting) >= WAITING:
                door.turned_away += 1
                fitted.failed(Failure(RuntimeError(f"{WAITING} connections wait for it already")))
                self.details = b"too_many_waiting"
                self._end(False)
                return
            door.waiting.add(self)
            door.wheel.arm(self, door.wheel.now() + PATIENCE)

    def _answered(self, answer: Any) -> None:
        if self._waiting is not None:
            self._waiting = None
            self._leave()
            self.walk(self._asked, answer)

    def _failed(self, failure: Failure) -> None:
        fitted = self._asked
        if fitted is None:
            return
        if self._waiting is not None:
            self._waiting = None
            self._leave()
            self._broke(fitted, failure)
        elif not failure.check(CancelledError, "asyncio.exceptions.CancelledError"):
            fitted.failed(failure)

    def expired(self, now: float) -> float:
        """The wheel: the filter took too long."""
        fitted = self._asked
        if fitted is not None and self._waiting is not None:
            message = f"no answer within {PATIENCE:.0f} seconds"
            fitted.failed(Failure(TimeoutError(message)))
            self.details = b"filter_timeout[%b]" % fitted.label_bytes
            self._end(True)
        return 0.0

    def _broke(self, fitted: Fitted, failure: Failure | None) -> None:
        fitted.failed(failure)
        if not self._over:
            self.details = b"filter_error[%b]" % fitted.label_bytes
            self._end(True)

    def _let_in(self) -> None:
        self._over = True
        try:
            self._door.through(self._sock, self._peer)
        except Exception:
            log.err(None, f"a connection of listener {self._door.name}")
            self._sock.close()

    def _end(self, reset: bool) -> None:
        self._over = True
        self._leave()
        try:
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        finally:
            self._sock.close()
        self._cancel()

    def _leave(self) -> None:
        self._door.waiting.discard(self)
        self._door.wheel.disarm(self)

    def _cancel(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            give_up(waiting)

    def closed(self) -> None:
        """The socket is closed: tell those who observe."""
        for fitted, closed in self._door.observers:
            try:
                closed(self)
            except Exception:
                fitted.failed()


# socket.SocketType is the C type below socket.socket: what is accepted is made of it.
_Socket: Any = socket.SocketType


class TellingSocket(_Socket):  # type: ignore[misc]
    """A socket that calls ``closing`` once, after it was closed."""

    closing: Callable[[], None] | None = None

    def close(self) -> None:
        """Close, and tell."""
        super().close()
        closing, self.closing = self.closing, None
        if closing is not None:
            closing()

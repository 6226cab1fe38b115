"""
The kernel moves bytes between two connected sockets.

:class:`Relay` joins a client's socket to an upstream's on a reactor that offers edge-triggered
readiness (``watch``).  The laws kept here:

* **Copy first.**  A read of up to :data:`CHUNK` bytes and a send at once serve small traffic with
  two system calls.  Only after a read that filled the chunk is a pipe borrowed and the rest moved
  by splice(2), never entering this process.  A pipe is held only while bytes are in it.
* **Bounded.**  A direction holds at most one chunk (or the initial bytes it was given) or one pipe,
  and reads nothing more until that is delivered: a slow reader slows its sender.
* **No lost edge.**  Readiness is told once.  A direction stops reading only on proof that nothing
  is there: a would-block, or a short read while neither the peer's end nor urgent data has been
  announced (with data and FIN in one edge a short read proves nothing, and a read stops short of
  an urgent mark).  A short *splice* never proves anything: pipes fill by fragments, not by bytes.
* **Events are hints.**  A descriptor number may be closed and reused within one batch of events, so
  that a stale one reaches a new relay; every event is answered by asking the socket.
* **Half-close passes through**: FIN after the last byte, and in its segment where the end was
  announced with the data.  Both ways ended: closed in order.
* **A reset is a reset**: whichever side is lost, the other one gets RST, not a tidy end.
* **Fair.**  One turn moves at most ``turn`` bytes a direction (and what a last copied read is
  over), then others are served first.
* ``finished(reason)`` is called exactly once, while the sockets still have their addresses; then
  both are closed.  The relay owns the sockets from its construction on.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from meshproxy.net.pipes import Pipe, PipePool

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK: Final = 16384
"""Bytes: the largest copied read; one that fills it makes its direction a bulk one."""

TURN: Final = 1 << 20
"""Bytes: what one direction may move before other connections are served."""

CLOSED: Final = "closed"
CLIENT_RESET: Final = "client reset"
UPSTREAM_RESET: Final = "upstream reset"
CONNECT_FAILED: Final = "connect failed"
ABORTED: Final = "aborted"

_IN: Final[int] = getattr(select, "EPOLLIN", 1)
_PRI: Final[int] = getattr(select, "EPOLLPRI", 2)
_OUT: Final[int] = getattr(select, "EPOLLOUT", 4)
_ERR: Final[int] = getattr(select, "EPOLLERR", 8)
_HUP: Final[int] = getattr(select, "EPOLLHUP", 16)
_RDHUP: Final[int] = getattr(select, "EPOLLRDHUP", 0x2000)
_TO_READ: Final = _IN | _PRI | _ERR | _HUP | _RDHUP
_TO_THE_END: Final = _PRI | _ERR | _HUP | _RDHUP
_FLAGS: Final[int] = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)
_MSG_MORE: Final[int] = getattr(socket, "MSG_MORE", 0)
_QUICKACK: Final[int] = getattr(socket, "TCP_QUICKACK", 12)
_RESET: Final = struct.pack("ii", 1, 0)
# Why a splice read nothing: no bytes, no relay any more, no pipe or no such call.
_DRAINED: Final = -1
_LOST: Final = -2
_COPY: Final = -3
_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

PIPES: Final = PipePool()
"""The pipes of this process, shared by every relay."""


Socket = socket.SocketType
"""The C type beneath ``socket.socket``, without the latter's conversions to enumerations."""


class WatchReactor(Protocol):
    """What a relay needs of a reactor: :class:`meshproxy.net.reactor.MeshReactor` has it."""

    def watch(self, fd: int, watcher: Any, /) -> None:
        """Tell ``watcher`` of every edge on ``fd``."""

    def forget_closed(self, fd: int, /) -> None:
        """Tell no more of ``fd``, which is closed next."""

    def seconds(self) -> float:
        """The time, in seconds."""

    def callLater(self, delay: float, call: Callable[[], None], /) -> Any:
        """Call ``call`` after ``delay`` seconds."""


def reset(sock: Socket) -> None:
    """Close ``sock`` so that its peer gets RST and not FIN, dropping what is unsent."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    finally:
        sock.close()


def prepare(sock: Socket) -> None:
    """
    Before ``connect()`` on a TCP socket for a relay: let the last step of the handshake travel with
    the first bytes, one packet less (HAProxy's ``tcp-smart-connect``).  The relay asks for it at
    once when the client has sent nothing yet.

    It puts off every other acknowledgement too, which would cost an upstream that sends its answer
    in small pieces 40 ms (Nagle's algorithm); so the relay ends it with the first of them.
    """
    sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)


class Relay:
    """
    Moves bytes both ways between two sockets until both ends have ended, or one is lost.

    ``client`` and ``upstream`` are non-blocking stream sockets (TCP or UNIX) that no reactor knows.
    ``from_client`` and ``from_upstream`` are bytes to deliver first, each to the other side; they
    are not counted.  ``turn`` and ``pool`` override the module's :data:`TURN` and :data:`PIPES`.

    ``nodelay`` turns Nagle's algorithm off for the upstream, a TCP socket: before the second write,
    since the first is never held back (and is the only one of a short connection).

    With ``connected`` given, ``upstream`` is one whose ``connect()`` is still under way.  Nothing
    is read from the client until it is up.  ``connected(0)`` is then called, or
    ``connected(errno)`` when it failed: that call may go on with another socket by :meth:`retry`;
    if it does not, the relay ends with :data:`CONNECT_FAILED` and the client is reset.

    ``finished(reason)`` gets one of this module's reasons, or what :meth:`abort` or :meth:`close`
    was given.  Nothing happens before :meth:`start`.

    ``last_activity`` is the reactor's time, in seconds, when bytes last moved.
    """

    __slots__ = (
        "_client",
        "_connected",
        "_finished",
        "_may_splice",
        "_pool",
        "_reactor",
        "_seconds",
        "_turn",
        "_up",
        "_upstream",
        "last_activity",
    )

    def __init__(
        self,
        reactor: WatchReactor,
        client: Socket,
        upstream: Socket,
        finished: Callable[[str], None],
        *,
        from_client: bytes = b"",
        from_upstream: bytes = b"",
        connected: Callable[[int], None] | None = None,
        nodelay: bool = False,
        turn: int = TURN,
        pool: PipePool = PIPES,
    ) -> None:
        self._reactor = reactor
        self._seconds = reactor.seconds
        self._finished: Callable[[str], None] | None = finished
        self._connected = connected
        self._up = connected is None
        self._turn = turn
        self._pool = pool
        self._may_splice = True
        self._client = _Half(self, client, from_client)
        self._upstream = _Half(self, upstream, from_upstream)
        self._upstream.nagle = nodelay
        self._client.other = self._upstream
        self._upstream.other = self._client
        self.last_activity = 0.0

    def start(self) -> None:
        """Begin.  May call ``finished`` before it returns, when a socket is already lost."""
        self.last_activity = self._seconds()
        client, upstream = self._client, self._upstream
        self._reactor.watch(client.fd, client)
        self._reactor.watch(upstream.fd, upstream)
        if self._up:
            # Readiness that was there before is told as the first edge; only what the relay was
            # given must be sent unasked.
            if client.held:
                client.pump()
            if upstream.held:
                upstream.pump()

    @property
    def bytes_received(self) -> int:
        """Bytes read from the client."""
        return self._client.count

    @property
    def bytes_sent(self) -> int:
        """Bytes read from the upstream."""
        return self._upstream.count

    @property
    def buffered(self) -> int:
        """Bytes read from either side and not yet delivered: in this process or in a pipe."""
        client, upstream = self._client, self._upstream
        return len(client.held) + client.piped + len(upstream.held) + upstream.piped

    @property
    def sockets(self) -> tuple[Socket, Socket]:
        """The client's and the upstream's socket, for their addresses; they stay the relay's."""
        return self._client.sock, self._upstream.sock

    def retry(self, upstream: Socket, *, nodelay: bool = False) -> None:
        """Replace an upstream that did not come up by another whose connect() is under way."""
        failed = self._upstream
        half = _Half(self, upstream, failed.held)
        half.other = self._client
        half.nagle = nodelay
        self._upstream = self._client.other = half
        self._reactor.forget_closed(failed.fd)
        failed.relay = None
        failed.sock.close()
        self._reactor.watch(half.fd, half)

    def abort(self, reason: str = ABORTED) -> None:
        """Drop everything now; both sides get RST.  Does nothing once finished."""
        self._finish(reason, True)

    def close(self, reason: str = CLOSED) -> None:
        """Close both sides now, in order; what is not yet delivered is dropped."""
        self._finish(reason, False)

    def _connecting(self, half: _Half, events: int) -> None:
        """An event before the upstream is up."""
        if half is self._client:
            # Nothing is read yet: remember the edge, which is not told again.
            if events & _TO_READ:
                half.readable = True
            if events & _TO_THE_END:
                half.ending = True
                if events & _RDHUP:
                    half.last = True
            if events & _ERR:
                self.lost(half)
            return
        error = 0
        if events & (_ERR | _HUP):
            error = half.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error and not events & _OUT:
            return
        connected = self._connected
        if error:
            if connected is not None:
                connected(error)
            if half is self._upstream:
                self._finish(CONNECT_FAILED, True)
            return
        self._up = True
        self._connected = None
        self.last_activity = self._seconds()
        if connected is not None:
            connected(0)
        client = self._client
        if client.readable or client.held:
            client.pump()
            if self._finished is None:
                return
        if half.sock.family != socket.AF_UNIX:
            half.tardy = True
            if not client.count:
                # Nothing to send carried the acknowledgement that :func:`prepare` put off.
                half.acknowledge()
        if events & _TO_READ or half.held:
            half.ready(events & ~_OUT | _IN)

    def lost(self, half: _Half) -> None:
        """``half``'s peer is gone without a proper end: so are we, for the other."""
        self._finish(CLIENT_RESET if half is self._client else UPSTREAM_RESET, True)

    def _finish(self, reason: str, hard: bool) -> None:
        finished = self._finished
        if finished is None:
            return
        self._finished = self._connected = None
        halves = (self._client, self._upstream)
        for half in halves:
            self._reactor.forget_closed(half.fd)
            half.drop(self._pool)
        try:
            finished(reason)
        finally:
            for half in halves:
                if hard:
                    reset(half.sock)
                else:
                    half.sock.close()


class _Half:
    """
    One socket, and the direction that starts at it.

    ``held`` or ``piped`` bytes were read from here and wait for ``other``; ``count``: read in all.
    ``readable``: there is no proof yet that nothing is to be read; ``ending``: only a would-block
    or the end of the stream is such proof; ``last``: all that will ever come is in the queue, so
    that what is sent may wait for the FIN behind it; ``eof``: the end was read; ``passed``: and
    handed on.  ``bulk``: the next read is a splice; ``again``: this direction had its share and
    goes on next turn.  ``nagle``: TCP_NODELAY is to be set before a second write to ``sock``;
    ``tardy``: what is read here is acknowledged late (:func:`prepare`).
    """

    __slots__ = (
        "again",
        "bulk",
        "count",
        "ending",
        "eof",
        "fd",
        "held",
        "last",
        "nagle",
        "other",
        "passed",
        "pipe",
        "piped",
        "readable",
        "relay",
        "sock",
        "tardy",
    )

    other: _Half

    def __init__(self, relay: Relay, sock: Socket, held: bytes) -> None:
        self.relay: Relay | None = relay
        self.sock = sock
        self.fd = sock.fileno()
        self.held = held
        self.pipe: Pipe | None = None
        self.piped = 0
        self.count = 0
        self.nagle = self.tardy = False
        self.readable = self.ending = self.last = self.eof = self.passed = self.bulk = (
            self.again
        ) = False

    def ready(self, events: int) -> None:
        """Edges came: write what waits for this socket, then read what it has."""
        relay = self.relay
        if relay is None:
            return
        if not relay._up:
            relay._connecting(self, events)
            return
        if events & _OUT:
            other = self.other
            if other.readable or other.held or other.piped:
                other.pump()
        if events & _TO_READ:
            self.readable = True
            if events & _TO_THE_END:
                self.ending = True
                if events & _RDHUP:
                    self.last = True
            self.pump()
            # A direction that is blocked or at its end does not read, and so would not notice.
            if (
                events & _ERR
                and self.relay is not None
                and self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            ):
                relay.lost(self)

    def abort(self) -> None:
        """The reactor caught an exception of :meth:`ready`."""
        if self.relay is not None:
            self.relay.abort()

    def pump(self) -> None:
        """Move bytes from here to the other side until blocked, drained, at the end or unfair."""
        relay = self.relay
        if relay is None or self.passed or self.again:
            return
        budget = relay._turn
        while True:
            if (self.held or self.piped) and not self._deliver(relay):
                return
            if self.eof:
                self._pass_end(relay)
                return
            if not self.readable:
                break
            if budget <= 0:
                self.again = True
                relay._reactor.callLater(0, self._resume)
                break
            if self.bulk:
                moved = self._splice(relay, budget)
                if moved >= 0:
                    budget -= moved
                    continue
                if moved == _DRAINED:
                    break
                if moved == _LOST:
                    return
            try:
                data = self.sock.recv(CHUNK)
            except BlockingIOError:
                self.readable = False
                if self.last:
                    self._push()
                break
            except OSError:
                relay.lost(self)
                return
            size = len(data)
            if size == CHUNK:
                self.bulk = relay._may_splice
            elif size == 0:
                self.eof = True
                continue
            elif not self.ending:
                self.readable = False
            if self.count and self.other.nagle:
                self.other.nodelay()
            if self.tardy and not self.last:
                self.acknowledge()
            self.count += size
            budget -= size
            try:
                sent = self.other.sock.send(data, _MSG_MORE if self.last else 0)
            except BlockingIOError:
                self.held = data
                break
            except OSError:
                relay.lost(self.other)
                return
            if sent < size:
                self.held = data[sent:]
        relay.last_activity = relay._seconds()

    def _splice(self, relay: Relay, budget: int) -> int:
        """
        Read up to ``budget`` bytes into a pipe.

        The number of bytes read (0: the end), or why none were.
        """
        pool = relay._pool
        pipe = pool.take()
        if pipe is None:
            self.bulk = False
            return _COPY
        try:
            moved = os.splice(self.fd, pipe.sink, min(pipe.size, budget), None, None, _FLAGS)
        except BlockingIOError:
            pool.give(pipe)
            self.readable = False
            return _DRAINED
        except OSError as error:
            pool.give(pipe)
            if error.errno in _UNSUPPORTED:
                # A kernel or a kind of socket that cannot: copying always can.
                relay._may_splice = self.bulk = False
                return _COPY
            relay.lost(self)
            return _LOST
        if moved == 0:
            pool.give(pipe)
            self.eof = True
            return 0
        self.count += moved
        # Small again: the next read is a copied one, whose shortness is a proof.
        self.bulk = moved >= CHUNK
        self.pipe = pipe
        self.piped = moved
        return moved

    def _deliver(self, relay: Relay) -> bool:
        """Send what waits.  False when some of it still does, or when the relay is finished."""
        other = self.other
        try:
            while self.held:
                if other.nagle:
                    other.nodelay()
                sent = other.sock.send(self.held)
                self.held = self.held[sent:]
            pipe = self.pipe
            if pipe is not None:
                while self.piped:
                    self.piped -= os.splice(pipe.source, other.fd, self.piped, None, None, _FLAGS)
                self.pipe = None
                relay._pool.give(pipe)
        except BlockingIOError:
            relay.last_activity = relay._seconds()
            return False
        except OSError:
            relay.lost(other)
            return False
        return True

    def _pass_end(self, relay: Relay) -> None:
        """Everything from here was delivered and the end was read: hand the end on."""
        self.passed = True
        relay.last_activity = relay._seconds()
        if self.other.passed:
            relay.close()
            return
        try:
            self.other.sock.shutdown(socket.SHUT_WR)
        except OSError:
            relay.lost(self.other)

    def _push(self) -> None:
        """The end was announced and is not there (a stale event): nothing may wait for it."""
        self.last = False
        if self.other.sock.family != socket.AF_UNIX:
            self.other.nodelay()

    def nodelay(self) -> None:
        """Turn Nagle's algorithm off, which sends what waits, too."""
        self.nagle = False
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def acknowledge(self) -> None:
        """Acknowledge what came, and what comes, as the system sees fit."""
        self.tardy = False
        self.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _resume(self) -> None:
        self.again = False
        self.pump()

    def drop(self, pool: PipePool) -> None:
        """Let go of everything but the socket and the count."""
        self.relay = None
        del self.other
        self.held = b""
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            self.piped = 0
            pool.discard(pipe)

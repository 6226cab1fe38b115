"""
What a client says first, read from a socket that no transport owns yet, and left there.

The laws kept here:

* ``came`` is called exactly once, unless the reader is cancelled; nothing is registered then, no
  timer runs, and the socket's options are what they were.
* Only a PROXY header is taken from the socket, exactly, and only where one is asked for.  The hello
  is looked at where it lies (``MSG_PEEK``), for whoever has the socket next.
* It does not spin.  A TCP socket is told how much has to be there before it is readable
  (``SO_RCVLOWAT``); where that is not heeded (a UNIX socket, another kernel, one short of memory)
  it is looked at again by timers, ever more seldom.
* A client that has left, or ended its sending with its hello incomplete, is not waited for.

What is not taken has to fit into the socket.  TCP joins what arrives in small pieces; a UNIX socket
keeps writes apart, and a client that sends its hello over one in some seventy writes is stuck until
its owner's deadline.

Deadlines are the owner's.  It runs on any reactor that provides ``IReactorFDSet`` and
``IReactorTime``.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from meshproxy.net.proxy_protocol import Header, ProxyProtocolError, parse
from meshproxy.tls.hello import BadHello, Hello, NotTls, parse_hello

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from meshproxy.net.splice import Socket

CLIENT_GONE: Final = "client gone"
BAD_HEADER: Final = "bad PROXY header"
NOT_TLS: Final = "not TLS"
PLAIN_HTTP: Final = "plain HTTP"
BAD_HELLO: Final = "bad ClientHello"

FIRST_LOOK: Final = 4096
"""Bytes: more than an ordinary hello has, with a PROXY header before it."""

SOONEST: Final = 0.001
LATEST: Final = 0.1
"""Seconds between two looks at a socket that cannot say when there is more."""

_PEEK: Final[int] = socket.MSG_PEEK
_LEFT: Final[int] = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

# The least that a version 1 header, and the fixed part of a version 2 one, can be.
_LEAST_V1: Final = 15
_FIXED_V2: Final = 16

_METHODS: Final = (
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI * HTTP/2",
)


@implementer(IReadDescriptor)
class Preface:
    """
    Reads what ``sock`` says first: connected, non-blocking, and read by nobody else.

    ``came(header, hello, reason)``: a ``header`` where ``proxy_protocol`` asks for one, a ``hello``
    where that is asked for; ``reason`` is empty when all is there.  With :data:`NOT_TLS`,
    :data:`PLAIN_HTTP` and :data:`BAD_HELLO` the header was taken, and nothing behind it: who can do
    without a hello may go on.

    ``header`` is the PROXY header as soon as it was taken.  With ``keep`` it stays the socket's
    reader (where it is one: ``reading``) when ``came`` gets a hello, for who takes over from it;
    everybody else calls :meth:`cancel`.
    """

    __slots__ = (
        "_again",
        "_came",
        "_delay",
        "_hello",
        "_keep",
        "_lowest",
        "_reactor",
        "_sock",
        "_wanted",
        "fileno",
        "header",
        "reading",
    )

    def __init__(
        self,
        reactor: Any,
        sock: Socket,
        came: Callable[[Header | None, Hello | None, str], None],
        *,
        proxy_protocol: bool,
        hello: bool = True,
        keep: bool = False,
    ) -> None:
        self._keep = keep
        self._reactor = reactor
        self._sock = sock
        self._came: Callable[[Header | None, Hello | None, str], None] | None = came
        # A header is still to come.
        self._wanted = proxy_protocol
        self._hello = hello
        self.header: Header | None = None
        self.fileno = sock.fileno
        self.reading = False
        # What SO_RCVLOWAT is, and the timer that does its work where it is not heeded.
        self._lowest = 1
        self._again: Any = None
        self._delay = SOONEST

    def begin(self) -> None:
        """Look at once, then wait; ``came`` may be called before this returns."""
        size = FIRST_LOOK
        ended = False
        while True:
            try:
                data = self._sock.recv(size, _PEEK)
            except BlockingIOError:
                self._wait(1, 0)
                return
            except OSError:
                data = b""
            if not data:
                self._done(None, CLIENT_GONE)
                return
            if not self._wanted:
                needed = self._look_for_hello(data)
            elif (needed := self._look_for_header(data)) < 0:
                size, ended = FIRST_LOOK, False
                continue
            if not needed:
                return
            if len(data) == size:
                # There may be more than was looked at.
                size = needed
            elif ended:
                self._done(None, CLIENT_GONE)
                return
            elif self._ended():
                # All that will ever be there is there now, and was not when it was looked at.
                ended = True
            else:
                self._wait(needed, len(data))
                return

    def cancel(self) -> None:
        """Wait no more; the socket is the caller's, who closes it no sooner."""
        self._came = None
        self._stand_down()

    def doRead(self) -> None:
        """There is something to read."""
        self.begin()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the client vanish."""
        self._done(None, CLIENT_GONE)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "preface"

    # What is there: each answers how many bytes are needed in all, 0 when there is an end of it.

    def _look_for_header(self, data: bytes) -> int:
        """-1: it was taken, and a hello is to come."""
        try:
            header = parse(data)
        except ProxyProtocolError:
            self._done(None, BAD_HEADER)
            return 0
        if header is None:
            return _needed(data)
        # It lies there, so that it comes whole.
        self._sock.recv(header.consumed)
        self.header = header
        self._wanted = False
        self._demand(1)
        if self._hello:
            return -1
        self._done(None, "")
        return 0

    def _look_for_hello(self, data: bytes) -> int:
        try:
            found = parse_hello(data)
        except NotTls:
            self._done(None, PLAIN_HTTP if is_http(data) else NOT_TLS)
            return 0
        except BadHello:
            self._done(None, BAD_HELLO)
            return 0
        if isinstance(found, int):
            return found
        self._done(found, "")
        return 0

    # Waiting.

    def _ended(self) -> bool:
        """Whether the client sends no more, or is gone."""
        asked = select.poll()
        asked.register(self._sock, _LEFT)
        return bool(asked.poll(0))

    def _wait(self, needed: int, there: int) -> None:
        """Look again when there are ``needed`` bytes; now there are some, ``there``, or none."""
        vain = there and (there < self._lowest or self._sock.family == socket.AF_UNIX)
        if vain:
            # A reader would be called at once, again and again.
            self._stop_reading()
            self._again = self._reactor.callLater(self._delay, self._look_again)
            self._delay = min(2 * self._delay, LATEST)
            return
        if there:
            self._demand(needed)
        if not self.reading:
            self.reading = True
            self._reactor.addReader(self)

    def _look_again(self) -> None:
        self._again = None
        self.begin()

    def _demand(self, least: int) -> None:
        """The socket is readable from ``least`` bytes on, if it is one that can be told so."""
        if least != self._lowest:
            self._lowest = least
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            except OSError:
                # Lost, which the next look tells; or not known here, and then a timer waits.
                pass

    def _stop_reading(self) -> None:
        if self.reading:
            self.reading = False
            self._reactor.removeReader(self)

    def _stand_down(self) -> None:
        self._stop_reading()
        again, self._again = self._again, None
        if again is not None:
            again.cancel()
        self._demand(1)

    def _done(self, hello: Hello | None, reason: str) -> None:
        came, self._came = self._came, None
        if came is not None:
            if not self._keep or hello is None:
                self._stand_down()
            else:
                self._demand(1)
            came(self.header, hello, reason)


def _needed(data: bytes) -> int:
    """The least that a PROXY header which begins with ``data`` can come to."""
    there = len(data)
    if data[:1] == b"P":
        return max(there + 1, _LEAST_V1)
    if there < _FIXED_V2:
        return _FIXED_V2
    return _FIXED_V2 + int.from_bytes(data[14:16], "big")


def is_http(data: bytes) -> bool:
    """Whether ``data`` begins as a request in plain HTTP does, or is the beginning of that."""
    return data.startswith(_METHODS) or any(method.startswith(data) for method in _METHODS)

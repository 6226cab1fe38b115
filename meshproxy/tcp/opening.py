"""
Reading a PROXY protocol header from a socket that no transport owns yet.

The law kept here: ``came`` is called exactly once, unless the reader is cancelled, with the header
and the bytes that followed it, or with the reason why there is none.  At most
:data:`meshproxy.net.proxy_protocol.MAX_HEADER` bytes are read.  It runs on any reactor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from meshproxy.net.proxy_protocol import MAX_HEADER, Header, ProxyProtocolError, parse
from meshproxy.tcp.connection import BAD_HEADER, CLIENT_GONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from meshproxy.net.splice import Socket


@implementer(IReadDescriptor)
class HeaderReader:
    """Reads from ``sock`` (non-blocking) by ``reactor`` until the header is there."""

    __slots__ = ("_buffer", "_came", "_reactor", "_sock", "fileno")

    def __init__(
        self,
        reactor: Any,
        sock: Socket,
        came: Callable[[Header | None, bytes, str], None],
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._came: Callable[[Header | None, bytes, str], None] | None = came
        self._buffer = b""
        self.fileno = sock.fileno
        reactor.addReader(self)

    def doRead(self) -> None:
        """There is something to read."""
        try:
            data = self._sock.recv(MAX_HEADER - len(self._buffer))
        except BlockingIOError:
            return
        except OSError:
            self._done(None, b"", CLIENT_GONE)
            return
        if not data:
            self._done(None, b"", CLIENT_GONE)
            return
        self._buffer += data
        try:
            header = parse(self._buffer)
        except ProxyProtocolError:
            self._done(None, b"", BAD_HEADER)
            return
        if header is not None:
            self._done(header, self._buffer[header.consumed :], "")

    def cancel(self) -> None:
        """Stop reading; the socket is the caller's."""
        if self._came is not None:
            self._came = None
            self._reactor.removeReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the client vanish."""
        self._done(None, b"", CLIENT_GONE)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "PROXY header"

    def _done(self, header: Header | None, rest: bytes, reason: str) -> None:
        came = self._came
        if came is not None:
            self.cancel()
            came(header, rest, reason)

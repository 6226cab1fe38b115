"""
A last word to a client that is not served.

The law it keeps: what is said is sent, then the end, and the client is read on until its own end
comes or the time is over: were the socket closed with bytes of the client unread, the kernel
would send a RST, and that can overtake the word.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from meshproxy.net.transport import SocketAddress, StreamTransport

__all__ = ["PATIENCE", "part"]

PATIENCE: Final = 1.0
"""Seconds that a client has for hearing it; the caller's timer."""


def part(
    reactor: Any,
    sock: socket.socket,
    peer: SocketAddress,
    data: bytes,
    closing: Callable[[socket.socket], None] | None = None,
) -> StreamTransport:
    """
    Say ``data`` to the client of ``sock`` and close it; ``closing(sock)`` is called before that.

    The caller aborts the transport when :data:`PATIENCE` is over.
    """
    transport = StreamTransport(reactor, sock, peer)
    transport.closing = closing
    transport.start(_Farewell(data))
    return transport


@implementer(IHalfCloseableProtocol)
class _Farewell(Protocol):
    transport: Any

    def __init__(self, data: bytes) -> None:
        self._data = data

    def connectionMade(self) -> None:
        """Speak."""
        self.transport.write(self._data)
        self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        """Nobody listens any more."""

    def readConnectionLost(self) -> None:
        """The client has heard it."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """All is sent."""

"""
Stream transports that send at once.

The law they keep:

- ``write`` hands the bytes to the kernel without a turn's delay when nothing is buffered before
  them: at once, or, on a reactor with a ``hold`` and for less than :data:`SMALL` bytes, when
  the events of this turn have been dealt with. (A send wakes the receiver. Sends one after
  another find it awake already; sends between which something is computed wake it each time,
  and that costs more than all of the computing.) Only what the kernel would not take is
  buffered, and only then is the descriptor registered for writing. The order of bytes never
  changes.
- An error found while sending at once is never reported from inside ``write``: the bytes are
  buffered, and the stock path meets the same error in the next turn and reports it through
  ``connectionLost``. So a protocol is never re-entered from its own ``write``.
- Producers, ``loseConnection``, ``abortConnection`` and half-close keep the semantics of
  ``twisted.internet.tcp.Connection``, which this subclasses.

They run on any reactor that provides ``IReactorFDSet``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import address, main
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.tcp import Connection
from twisted.python import log
from twisted.python.failure import Failure

#: Writes of fewer bytes wait for the end of the turn; copying more would cost more than it saves.
SMALL = 16384

#: Bytes of a read where there are many: a TLS transport on the other side makes records of them
#: in one go.
LARGE = 262144

SocketAddress = Any  # (host, port), (host, port, flow, scope), or a path: what socket returns


def peer_text(family: int, peer: SocketAddress) -> tuple[bytes, bytes]:
    """
    ``(b"ip:port", b"ip")`` of a socket address, IPv6 in brackets in the first.

    An IPv4 address mapped into IPv6 is shown as IPv4. UNIX peers are ``b"unix:"``: they have
    no address of their own.
    """
    if family == socket.AF_INET:
        host = peer[0].encode("ascii")
        return b"%b:%d" % (host, peer[1]), host
    if family == socket.AF_INET6:
        host = peer[0].partition("%")[0].encode("ascii")
        if host.startswith(b"::ffff:") and b"." in host:
            host = host[7:]
            return b"%b:%d" % (host, peer[1]), host
        return b"[%b]:%d" % (host, peer[1]), host
    return b"unix:", b"unix:"


def twisted_address(family: int, where: SocketAddress) -> Any:
    """The Twisted address object (``IPv4Address``, …) of a socket address."""
    if family == socket.AF_INET:
        return address.IPv4Address("TCP", *where)
    if family == socket.AF_INET6:
        return address.IPv6Address("TCP", *where)
    return address.UNIXAddress(where or None)


class StreamTransport(Connection):
    """
    A connected, non-blocking stream socket as a Twisted transport.

    ``sock`` must be connected and non-blocking; ``peer`` is what ``accept`` or ``connect``
    used. The transport reads from the moment :meth:`start` is called.
    """

    bufferSize = 65536
    # Bytes of one read: more of them once a whole buffer was there.
    _most = 65536
    # Descriptors are close-on-exec: close() alone ends the connection, shutdown(2) before it
    # would be one more system call.
    _shouldShutdown = False
    # Who starts TLS here is the server, unless it says otherwise.
    _tlsClientDefault = False
    logstr = "meshproxy"
    #: Called with the socket just before it is closed, or None.
    closing: Callable[[socket.socket], None] | None = None
    _tempDataBuffer: Any = ()
    _tempDataLen = 0
    # What an end of the stream means: a write may have been told of a reset already.
    _end: Any = main.CONNECTION_DONE

    def __init__(self, reactor: Any, sock: socket.socket, peer: SocketAddress) -> None:
        # Connection.__init__ is not called: it would set what the class says already.
        self.reactor = reactor
        self.socket = sock
        self.fileno = sock.fileno
        self.peer = peer
        #: A write may go to the kernel: connected, not closing, nothing buffered, no TLS.
        self._at_once = False
        # Small writes of this turn; not empty only while _at_once.
        self._held = b""
        self._hold = getattr(reactor, "hold", None)

    def start(self, protocol: Any) -> None:
        """Connect ``protocol`` to this transport and begin to read."""
        self.protocol = protocol
        self.connected = 1
        self._at_once = True
        self.reactor.addReader(self)
        protocol.makeConnection(self)

    @property
    def buffered(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return len(self.dataBuffer) - self.offset + int(self._tempDataLen) + len(self._held)

    def doRead(self) -> Any:
        most = self._most
        try:
            data = self.socket.recv(most)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if len(data) == most:
            self._most = LARGE
        if data:
            self.protocol.dataReceived(data)
            return None
        return self._end

    def write(self, data: bytes) -> None:
        if not self._at_once:
            self._buffer(data)
            return
        held = self._held
        if self._hold is not None and len(held) + len(data) < SMALL:
            if held:
                self._held = held + data
            else:
                self._held = data
                self._hold(self)
            return
        if held:
            self._held = b""
            data = held + data
        self._send(data)

    def release(self) -> None:
        """Send what this turn's writes left here; the reactor calls it."""
        held = self._held
        if held:
            self._held = b""
            self._send(held)

    def _send(self, data: bytes) -> None:
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, BrokenPipeError):
            self._buffer(data)
            return
        except OSError:
            # The kernel tells of a reset once; a read would take it for an orderly end now.
            self._end = main.CONNECTION_LOST
            self._buffer(data)
            return
        if sent != len(data):
            self._buffer(data[sent:])

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def _buffer(self, data: bytes) -> None:
        self._at_once = False
        if self._tempDataBuffer == ():
            self._tempDataBuffer = []
        super().write(data)

    def doWrite(self) -> Any:
        if self._tempDataBuffer == ():
            self._tempDataBuffer = []
        why = super().doWrite()
        self._at_once = not (
            why
            or self._tempDataLen
            or self.dataBuffer
            or self.disconnecting
            or not self.connected
            or self._writeDisconnecting
            or self._writeDisconnected
            or self.TLS
        )
        return why

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.release()
        if not streaming and self.producer is None and not self.disconnected:
            # A pull producer is asked for more by doWrite, so its writes must go through it.
            self.write = self._buffer  # type: ignore[method-assign]
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self.__dict__.pop("write", None)
        super().unregisterProducer()

    def loseConnection(self, _connDone: Any = None) -> None:
        self.release()
        self._at_once = False
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        self.release()
        self._at_once = False
        super().loseWriteConnection()

    def abortConnection(self) -> None:
        self._held = b""
        self._at_once = False
        super().abortConnection()

    def startTLS(self, contextFactory: Any, normal: bool = True) -> None:
        self.release()
        self._at_once = False
        if self._tempDataBuffer == ():
            self._tempDataBuffer = []
        super().startTLS(contextFactory, normal)

    def readConnectionLost(self, reason: Failure) -> None:
        # providedBy instead of the stock adaptation, which costs more than the close itself.
        if IHalfCloseableProtocol.providedBy(self.protocol):
            try:
                self.protocol.readConnectionLost()
            except BaseException:
                log.err()
                self.connectionLost(Failure())
        else:
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        closing, self.closing = self.closing, None
        if closing is not None and self.connected:
            closing(self.socket)
        self._held = b""
        self._at_once = False
        forget = getattr(self.reactor, "forget", None)
        if forget is not None and self.connected:
            forget(self)
        super().connectionLost(reason)

    def getPeer(self) -> Any:
        return twisted_address(self.socket.family, self.peer)

    def getHost(self) -> Any:
        return twisted_address(self.socket.family, self.socket.getsockname())

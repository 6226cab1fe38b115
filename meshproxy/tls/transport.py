"""
Stream transports whose bytes are plain above and TLS records below, on the socket itself.

The law it keeps, beside that of :class:`meshproxy.net.transport.StreamTransport`:

- The handshake is over before :meth:`TlsTransport.start`; renegotiation is off, so that writing
  never waits for reading. Reading waits for writing only where the peer wants new keys faster than
  it reads that it has them: then nothing is read until the socket can be written.
- The end of the stream is the peer's close_notify. A connection that ends without one may have
  been cut by anybody: it is lost (``ConnectionLost``), not done.
- ``loseWriteConnection`` sends close_notify and reads on, as TLS 1.3 has it (RFC 8446, 6.1);
  ``loseConnection`` sends it behind the last byte; ``abortConnection`` sends nothing.
- What OpenSSL has refused once is never asked of it again; its bytes wait for the reactor to
  report the loss.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python import log
from twisted.python.failure import Failure

from meshproxy.net.reactor import take_over
from meshproxy.net.transport import SMALL, SocketAddress, StreamTransport
from meshproxy.tls import native
from meshproxy.tls.facts import Facts
from meshproxy.tls.native import AGAIN, ENDED, STUCK

__all__ = ["TlsTransport"]

_read = native.read
_write = native.write


class TlsTransport(StreamTransport):
    """
    ``connection`` (an ``OpenSSL.SSL.Connection`` on ``sock``, its handshake over) as a Twisted
    transport; ``facts`` are those of its peer.

    ``first_read``: called with this transport once, when the first bytes have come.
    """

    #: It can end one direction alone.
    half_closes = True
    facts: Facts
    first_read: Callable[[TlsTransport], None] | None = None
    #: Who is the socket's reader until this is started, if somebody is.
    before: Any = None
    #: OpenSSL's words for what ended it, where a read told; else empty.
    broken_by = ""
    # Whether nothing is read before the socket can be written, and whether nothing is to be.
    _stuck = False
    _paused = False

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        peer: SocketAddress,
        connection: SSL.Connection,
        facts: Facts | None = None,
    ) -> None:
        super().__init__(reactor, sock, peer)
        self.connection = connection
        self.facts = Facts(connection) if facts is None else facts
        self._handle = native.handle(connection)
        native.take_turns(connection)
        self._notified = False
        self._broken = False

    def start(self, protocol: Any) -> None:
        """Connect ``protocol`` to this transport and begin to read."""
        before = self.before
        if before is None:
            super().start(protocol)
            return
        self.before = None
        self.protocol = protocol
        self.connected = 1
        self._at_once = True
        take_over(self.reactor, before, self)
        protocol.makeConnection(self)

    def doRead(self) -> Any:
        got = _read(self._handle)
        if isinstance(got, bytes):
            data, why = got, AGAIN
        else:
            data, why = got
        if data:
            first = self.first_read
            if first is not None:
                self.first_read = None
                first(self)
            self.protocol.dataReceived(data)
            if why == AGAIN or not self.connected:
                return None
        if why == AGAIN:
            return None
        if why == ENDED:
            return self._end
        if why == STUCK:
            self._stuck = True
            self.stopReading()
            self.startWriting()
            return None
        self._broken = True
        self.broken_by = native.why_broken()
        return main.CONNECTION_LOST

    def pauseProducing(self) -> None:
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        super().resumeProducing()

    def _send(self, data: bytes) -> None:
        if self._broken:
            self._buffer(data)
            return
        sent = _write(self._handle, data)
        if sent == len(data):
            return
        if sent > 0:
            # Seldom little: nothing of it is copied.
            self._buffer(memoryview(data)[sent:])
            return
        if sent != AGAIN:
            # As for a plain transport: the next turn reports it.
            self._broken = True
            self._end = main.CONNECTION_LOST
        self._buffer(data)

    def _buffer(self, data: Any) -> None:
        if self.TLS:
            super()._buffer(data)
            return
        self._at_once = False
        if not self.connected or self._writeDisconnected:
            return
        if self._tempDataBuffer == ():
            self._tempDataBuffer = []
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)
        self._maybePauseProducer()
        self.startWriting()

    def doWrite(self) -> Any:
        """
        Send what is buffered, piece by piece as it was written.

        This takes the place of ``FileDescriptor.doWrite``, which makes one piece of all of it
        first: here that is worth it only for small ones, each of which would be a record.
        """
        pieces = self._tempDataBuffer
        if self._broken:
            return main.CONNECTION_LOST
        if self._stuck:
            self._stuck = False
            if not self._paused and not self.disconnecting:
                self.startReading()
        if len(pieces) > 1 and len(pieces[0]) + len(pieces[1]) < SMALL:
            pieces[:] = [b"".join(pieces)]
        while pieces:
            data = pieces[0]
            sent = _write(self._handle, data)
            if sent < 0:
                self._broken = True
                return main.CONNECTION_LOST
            self._tempDataLen -= sent
            if sent != len(data):
                if sent:
                    pieces[0] = memoryview(data)[sent:]
                return None
            del pieces[0]
        self.stopWriting()
        producer: Any = self.producer
        if producer is not None and (not self.streamingProducer or self.producerPaused):
            self.producerPaused = False
            producer.resumeProducing()
        elif self.disconnecting or self._writeDisconnecting:
            if not self._notify():
                self.startWriting()
                return None
            if self.disconnecting:
                return self._postLoseConnection()
            self._writeDisconnected = True
            return self._closeWriteConnection()
        self._at_once = not (
            self._tempDataLen
            or self.disconnecting
            or not self.connected
            or self._writeDisconnecting
            or self._writeDisconnected
            or self.TLS
        )
        return None

    def _notify(self) -> bool:
        """Send close_notify, once; False: there is no room for it yet."""
        if not self._notified and not self._broken:
            self._notified = native.shutdown(self.connection)
            return self._notified
        return True

    def _closeWriteConnection(self) -> None:
        self._notify()
        if IHalfCloseableProtocol.providedBy(self.protocol):
            try:
                self.protocol.writeConnectionLost()
            except BaseException:
                log.err()
                self.connectionLost(Failure())

    def _closeSocket(self, orderly: bool) -> None:
        if orderly:
            self._notify()
        super()._closeSocket(orderly)

    def getPeerCertificate(self) -> Any:
        """The peer's certificate as pyOpenSSL's, or None."""
        return self.connection.get_peer_certificate()

"""
TLS at a listener: from an accepted socket to a transport with plain bytes, or a connection that
is passed through unread.

The laws kept here:

- Exactly one thing becomes of an accepted socket: it is given to ``secured`` (as a transport that
  is to be started), to ``passed`` (as it is, nothing taken from it but a PROXY header), or it is
  closed, and the reason counted.
- All of it, a PROXY header included, takes at most ``handshake_timeout`` seconds.
- At most ``max_handshakes`` are under way. One more does not turn the newcomer away, which a
  flood of half-open connections would make of every client, but the one that has been at it
  longest.
- Nothing of OpenSSL is made for a client before its ClientHello is here, complete.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from OpenSSL import SSL
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python import log
from zope.interface import implementer

from meshproxy.net import farewell
from meshproxy.net.reactor import take_over
from meshproxy.tls import native
from meshproxy.tls.facts import Facts
from meshproxy.tls.hello import Hello
from meshproxy.tls.native import AGAIN, STUCK
from meshproxy.tls.preface import BAD_HEADER, BAD_HELLO, CLIENT_GONE, NOT_TLS, PLAIN_HTTP, Preface
from meshproxy.tls.reasons import CLOSED, RESET, reason_of
from meshproxy.tls.transport import TlsTransport

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from meshproxy.net.proxy_protocol import Header
    from meshproxy.net.transport import SocketAddress, StreamTransport
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.registry import Registry

__all__ = ["PLAIN_REPLY", "ServerTls"]

TIMEOUT: Final = "timeout"
EVICTED: Final = "too many handshakes"
UNKNOWN_NAME: Final = "unknown name"
EXPIRED: Final = "client certificate expired"

_PLAIN_BODY: Final = b"plain HTTP was sent to an HTTPS port\n"

PLAIN_REPLY: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_PLAIN_BODY), _PLAIN_BODY)
)
"""What a client of an HTTP listener gets that speaks without TLS: a 400, as nginx gives."""

# A fatal alert in a record of its own (RFC 8446, 6).
_UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"
_DECODE_ERROR: Final = b"\x15\x03\x03\x00\x02\x02\x32"

_KINDS: Final = {
    TIMEOUT: "timeout",
    EVICTED: "evicted",
    UNKNOWN_NAME: "unknown_name",
    PLAIN_HTTP: "plain_http",
    NOT_TLS: "not_tls",
    BAD_HEADER: "proxy_header",
    CLIENT_GONE: "client_gone",
}


class Chooser(Protocol):
    """What picks a context (:class:`meshproxy.tls.contexts.ServerContexts`)."""

    def pick(self, hello: Hello) -> SSL.Context | None:
        """The context for a client; None: it is refused."""

    def outlived(self, connection: SSL.Connection) -> bool:
        """Whether a resumed session is older than its client's certificate allows."""


class Arriving(Protocol):
    """A client from accept to the handshake's end; an entry of the timer wheel."""

    deadline: float
    slot: int

    @property
    def silent(self) -> bool:
        """Whether there is no handshake yet."""

    def expired(self, now: float) -> float:
        """The wheel: it has taken too long."""

    def evict(self) -> None:
        """Make room for another: leave ``under_way`` at once."""

    def drop(self) -> None:
        """Close, whatever is under way."""


class ServerTls:
    """
    The TLS of listener ``name``.

    ``contexts`` picks what a client gets; ``proxy_protocol``: a PROXY header comes first;
    ``http``: a client that speaks plain HTTP is told so; ``pass_through(hello)`` answers with
    what ``passed`` gets for a client whose bytes are not to be read, or None.

    ``secured(transport, header)`` and ``passed(sock, peer, header, hello, target)`` are set by
    the room before the first client is accepted.
    """

    secured: Callable[[TlsTransport, Header | None], None]
    passed: Callable[[socket.socket, SocketAddress, Header | None, Hello, Any], None]

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        registry: Registry,
        name: str,
        contexts: Chooser,
        *,
        handshake_timeout: float,
        max_handshakes: int,
        proxy_protocol: bool = False,
        http: bool = False,
        pass_through: Callable[[Hello], Any] | None = None,
    ) -> None:
        self.reactor = reactor
        self.wheel = wheel
        self.name = name
        self.contexts = contexts
        self.timeout = handshake_timeout
        self.proxy_protocol = proxy_protocol
        self.http = http
        self.pass_through = pass_through
        self._most = max_handshakes
        #: Who has no handshake behind it yet, in order of arrival.
        self.under_way: dict[Arriving, None] = {}
        #: The reason of the last failure that a peer's TLS caused, for the admin.
        self.last_failure = ""
        self.values = registry.values
        labels = {"listener": name}

        def counter(what: str, text: str, **more: str) -> int:
            return registry.counter(f"meshproxy_listener_tls_{what}", text, {**labels, **more})

        self.handshakes = counter("handshakes_total", "TLS handshakes completed")
        self.resumed = counter("resumed_total", "TLS handshakes that resumed a session")
        self.passed_through = counter(
            "passed_through_total", "Connections passed through without being decrypted"
        )
        text = "Connections that did not come to a TLS handshake's end, by reason"
        self._failures = {
            kind: counter("failures_total", text, reason=kind)
            for kind in (*_KINDS.values(), "handshake")
        }
        registry.sample(
            "meshproxy_listener_tls_handshakes_active",
            "TLS handshakes under way",
            labels,
            lambda: float(len(self.under_way)),
        )

    @property
    def active(self) -> int:
        """Handshakes under way."""
        return len(self.under_way)

    def accept(self, sock: socket.socket, peer: SocketAddress) -> None:
        """Take a connected, non-blocking socket."""
        self.make_room()
        arriving = _Arriving(self, sock, peer)
        self.under_way[arriving] = None
        wheel = self.wheel
        wheel.arm(arriving, wheel.now() + self.timeout)
        arriving.begin()

    def make_room(self) -> None:
        """There is to be one more; the oldest goes where there are ``max_handshakes``."""
        under_way = self.under_way
        if len(under_way) >= self._most:
            next(iter(under_way)).evict()

    def drain(self) -> None:
        """Close what has not said all of its hello; handshakes that have begun go on."""
        for arriving in tuple(self.under_way):
            if arriving.silent:
                arriving.drop()

    def stop(self) -> None:
        """Close all that is under way."""
        for arriving in tuple(self.under_way):
            arriving.drop()

    def failed(self, reason: str) -> None:
        """Count a failure."""
        kind = _KINDS.get(reason)
        if kind is None:
            kind = "handshake"
            self.last_failure = reason
        self.values[self._failures[kind]] += 1

    def finished(self, connection: SSL.Connection) -> bool:
        """Count a handshake that is over; False: its client is not served all the same."""
        values = self.values
        values[self.handshakes] += 1
        if native.reused(connection):
            values[self.resumed] += 1
            if self.contexts.outlived(connection):
                self.failed(EXPIRED)
                return False
        return True

    def describe(self) -> dict[str, Any]:
        """For the admin."""
        values = self.values
        return {
            "handshakes": int(values[self.handshakes]),
            "resumed": int(values[self.resumed]),
            "active": self.active,
            "failures": {kind: int(values[slot]) for kind, slot in self._failures.items()},
            "last_failure": self.last_failure,
        }


@implementer(IReadWriteDescriptor)
class _Arriving:
    """
    A client on a socket (:class:`Arriving`), and the socket's reader while there is a handshake.

    One registration serves from the first look at the client to the end of the connection: who
    reads next takes it over.
    """

    __slots__ = (
        "_connection",
        "_header",
        "_hello",
        "_parting",
        "_peer",
        "_preface",
        "_reader",
        "_server",
        "_sock",
        "_writing",
        "deadline",
        "fileno",
        "slot",
    )

    def __init__(self, server: ServerTls, sock: socket.socket, peer: SocketAddress) -> None:
        self._server = server
        self._sock = sock
        self._peer = peer
        self.fileno = sock.fileno
        self._preface: Preface | None = None
        #: Who is the socket's reader, if anybody: the preface, then this.
        self._reader: Preface | _Arriving | None = None
        self._writing = False
        self._header: Header | None = None
        self._hello: Hello | None = None
        self._connection: SSL.Connection | None = None
        self._parting: StreamTransport | None = None
        self.deadline = 0.0
        self.slot = 0

    @property
    def silent(self) -> bool:
        """Whether there is no handshake yet."""
        return self._hello is None and self._parting is None

    def begin(self) -> None:
        """Look what the client says."""
        server = self._server
        preface = self._preface = Preface(
            server.reactor, self._sock, self._came, proxy_protocol=server.proxy_protocol, keep=True
        )
        try:
            preface.begin()
        except Exception:
            log.err(None, f"a connection of listener {server.name}")
            self.drop()

    def expired(self, now: float) -> float:
        """The wheel: it has taken too long."""
        if self._parting is not None:
            self._parting.abortConnection()
        else:
            self.fail(TIMEOUT)
        return 0.0

    def evict(self) -> None:
        """Make room for another."""
        if self._parting is not None:
            self._leave()
            self._parting.abortConnection()
        else:
            self.fail(EVICTED)

    def fail(self, reason: str) -> None:
        """The client is not served."""
        self._server.failed(reason)
        self.drop()

    def drop(self) -> None:
        """Close, whatever is under way."""
        if self._parting is not None:
            self._parting.abortConnection()
            return
        self._stand_down()
        self._leave()
        self._connection = None
        self._sock.close()

    def _leave(self) -> None:
        server = self._server
        server.wheel.disarm(self)
        server.under_way.pop(self, None)

    def _stand_down(self) -> None:
        """Neither read nor write any more."""
        preface, self._preface = self._preface, None
        if preface is not None:
            preface.cancel()
        # The preface still, where the handshake failed at the first look.
        reader, self._reader = self._reader, None
        if reader is not None:
            self._server.reactor.removeReader(reader)
        if self._writing:
            self._writing = False
            self._server.reactor.removeWriter(self)

    def _came(self, header: Header | None, hello: Hello | None, reason: str) -> None:
        """All that comes before the handshake is here."""
        self._header = header
        if hello is None:
            self._refuse(reason)
            return
        self._hello = hello
        try:
            self._choose(hello)
        except Exception:
            log.err(None, f"a connection of listener {self._server.name}")
            self.drop()

    def _choose(self, hello: Hello) -> None:
        """What becomes of this client."""
        server = self._server
        choose = server.pass_through
        if choose is not None:
            target = choose(hello)
            if target is not None:
                self._stand_down()
                self._leave()
                server.values[server.passed_through] += 1
                server.passed(self._sock, self._peer, self._header, hello, target)
                return
        context = server.contexts.pick(hello)
        if context is None:
            server.failed(UNKNOWN_NAME)
            self._part(_UNRECOGNIZED_NAME)
            return
        preface, self._preface = self._preface, None
        if preface is not None and preface.reading:
            self._reader = preface
        self._connection = connection = SSL.Connection(context, self._sock)
        connection.set_accept_state()
        self.doRead()

    # The handshake.

    def doRead(self) -> None:
        """The client has said something."""
        connection = self._connection
        if connection is None:
            return
        try:
            outcome = native.shake(connection)
        except SSL.Error as error:
            native.clear()
            self._failed(reason_of(error, connection))
            return
        except Exception:
            # A callback of a context of ours raised.
            log.err(None, f"a TLS handshake of listener {self._server.name}")
            self._failed("internal error")
            return
        reactor = self._server.reactor
        if outcome == AGAIN:
            if self._writing:
                self._writing = False
                reactor.removeWriter(self)
            reader = self._reader
            if reader is not self:
                self._reader = self
                if reader is None:
                    reactor.addReader(self)
                else:
                    take_over(reactor, reader, self)
        elif outcome == STUCK:
            # It may have gone on writing what a read began; until then nothing is read.
            self._stand_down()
            self._writing = True
            reactor.addWriter(self)
        else:
            self._done(connection)

    doWrite = doRead

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the client vanish."""
        self._failed(RESET)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "TLS handshake"

    def _refuse(self, reason: str) -> None:
        """There is no hello."""
        server = self._server
        server.failed(reason)
        if reason == PLAIN_HTTP and server.http:
            self._part(PLAIN_REPLY)
        elif reason == BAD_HELLO:
            self._part(_DECODE_ERROR)
        else:
            self.drop()

    def _part(self, data: bytes) -> None:
        """Say why, and close."""
        self._stand_down()
        server = self._server
        server.wheel.arm(self, server.wheel.now() + farewell.PATIENCE)
        parting = farewell.part(server.reactor, self._sock, self._peer, data, self._parted)
        if self in server.under_way:
            self._parting = parting

    def _parted(self, sock: socket.socket) -> None:
        self._parting = None
        self._leave()

    def _done(self, connection: SSL.Connection) -> None:
        server = self._server
        self._connection = None
        if not server.finished(connection):
            self.drop()
            return
        self._leave()
        hello = self._hello
        assert hello is not None
        facts = Facts(connection, hello.server_name)
        transport = TlsTransport(server.reactor, self._sock, self._peer, connection, facts)
        if self._writing:
            self._stand_down()
        reader, self._reader = self._reader, None
        transport.before = reader
        try:
            server.secured(transport, self._header)
        except Exception:
            log.err(None, f"a connection of listener {server.name}")
            if transport.connected:
                transport.abortConnection()
            else:
                self._reader = reader
                self._stand_down()
                self._sock.close()

    def _failed(self, reason: str) -> None:
        if self._connection is None:
            return
        self._connection = None
        self._server.failed(reason)
        if reason in (CLOSED, RESET):
            self.drop()
        else:
            # OpenSSL has sent its alert; what the client sent behind what failed must not cost it.
            self._part(b"")

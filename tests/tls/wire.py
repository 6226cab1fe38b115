"""
Both ends of a TLS connection in one thread: our side on a reactor, Python's ssl as the client.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.protocol import Protocol

from tests.net.live import turn_until
from tests.tls.authority import Authority, Issued

__all__ = [
    "Client",
    "Contexts",
    "Noting",
    "authority",
    "client_context",
    "issued",
    "pair",
    "server_context",
    "tls_pair",
]


@cache
def authority() -> Authority:
    """One for the process."""
    return Authority("wire CA")


@cache
def issued(kind: str = "server") -> Issued:
    """A server's certificate for ``a.example`` and 127.0.0.1, or a client's."""
    if kind == "client":
        return authority().issue(
            "client.example", client=True, uris=["spiffe://example/client"], emails=["c@d.example"]
        )
    return authority().issue("a.example", "127.0.0.1", uris=["spiffe://example/server"])


def server_context(*, verify: int = SSL.VERIFY_NONE) -> SSL.Context:
    """A context for our side."""
    context = SSL.Context(SSL.TLS_METHOD)
    own = issued()
    context.use_certificate(own.cert)
    context.use_privatekey(own.key)
    context.set_session_id(b"wire")
    context.set_verify(verify, None)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority().cert))
    context.set_alpn_select_callback(
        lambda _, offered: b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS
    )
    return context


def client_context(*, certificate: bool = False, version: str = "1.3") -> ssl.SSLContext:
    """A context for the client's side; ``certificate``: it presents one."""
    context = ssl.create_default_context(cadata=authority().pem.decode())
    wanted = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}[version]
    context.minimum_version = context.maximum_version = wanted
    context.set_alpn_protocols(["http/1.1"])
    if certificate:
        with tempfile.TemporaryDirectory() as folder:
            chain, key = issued("client").write(Path(folder), "client")
            context.load_cert_chain(chain, key)
    return context


class Contexts:
    """What picks a context: one for all names but those that are refused."""

    def __init__(self, context: SSL.Context | None = None) -> None:
        self.front = server_context() if context is None else context
        self.refused: set[bytes] = set()
        self.old = False

    def pick(self, hello: Any) -> SSL.Context | None:
        """As ServerContexts'."""
        return None if hello.server_name in self.refused else self.front

    def outlived(self, connection: SSL.Connection) -> bool:
        """As ServerContexts'."""
        return self.old


class Noting(Protocol):
    """Notes what happens to it."""

    transport: Any

    def __init__(self) -> None:
        self.got = b""
        self.lost: list[type] = []

    def dataReceived(self, data: bytes) -> None:
        """Bytes."""
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        """The end."""
        self.lost.append(reason.type)


def pair(family: str = "tcp") -> tuple[socket.socket, socket.socket]:
    """Our end and the client's, both non-blocking."""
    if family == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours = server.accept()[0]
        for sock in (ours, theirs):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class Client:
    """
    Python's ssl on a non-blocking socket, moved on by :meth:`pump`.

    ``got`` are the bytes that came; ``ended``: close_notify came; ``gone``: the end of the
    socket's stream, or a reset; ``error``: what ssl raised.
    """

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        context: ssl.SSLContext | None = None,
        name: str | None = "a.example",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.reactor = reactor
        self.sock = sock
        self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client_context() if context is None else context
        self.tls = context.wrap_bio(self._into, self._out, server_hostname=name, session=session)
        self.done = self.ended = self.gone = False
        self.error: ssl.SSLError | None = None
        self.got = b""
        self._unsent = b""

    def pump(self) -> None:
        """Move everything on as far as it goes."""
        for step in (self._receive, self._step, self._send):
            step()

    def _receive(self) -> None:
        try:
            while not self.gone:
                data = self.sock.recv(262144)
                if not data:
                    self.gone = True
                    return
                self._into.write(data)
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True

    def _step(self) -> None:
        if self.error is not None:
            return
        try:
            if not self.done:
                self.tls.do_handshake()
                self.done = True
            while not self.ended:
                data = self.tls.read(262144)
                if not data:
                    self.ended = True
                    return
                self.got += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.error = error

    def _send(self) -> None:
        self._unsent += self._out.read()
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.gone, self._unsent = True, b""

    def until(self, condition: Any) -> None:
        """Turn the reactor until ``condition()`` is true."""

        def look() -> Any:
            self.pump()
            return condition()

        turn_until(self.reactor, look)

    def shake(self) -> None:
        """The whole handshake, as the client sees it."""
        self.until(lambda: self.done or self.error or self.gone)
        assert self.done, (self.error, self.gone)

    def write(self, data: bytes) -> None:
        """Send."""
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        self.pump()

    def notify(self) -> None:
        """Send close_notify."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.pump()

    def reply(self, size: int) -> bytes:
        """So many bytes."""
        self.until(lambda: len(self.got) >= size or self.gone)
        data, self.got = self.got[:size], self.got[size:]
        assert len(data) == size, (data, self.error)
        return data


def tls_pair(
    reactor: Any,
    *,
    family: str = "tcp",
    server: SSL.Context | None = None,
    client: ssl.SSLContext | None = None,
) -> tuple[socket.socket, SSL.Connection, Client]:
    """Our socket, the connection on it with its handshake over, and the client."""
    ours, theirs = pair(family)
    connection = SSL.Connection(server_context() if server is None else server, ours)
    connection.set_accept_state()
    other = Client(reactor, theirs, client)
    done = False

    def step() -> bool:
        nonlocal done
        if not done:
            try:
                connection.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
        return done and other.done

    other.until(step)
    return ours, connection, other

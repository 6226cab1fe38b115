"""
Servers of Python's ssl on 127.0.0.1, and what the tests ask them with: for TLS as a client.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from meshproxy.config.tls import ClusterTls
from meshproxy.net.reactor import MeshReactor
from meshproxy.observe.registry import Registry
from meshproxy.tls.client import ClientTls
from meshproxy.tls.sessions import ClientTransport
from meshproxy.upstream.endpoint import Endpoint, EndpointSpec
from tests.harness import PATIENCE, Server, echo, read_to_end
from tests.net.live import turn_until
from tests.tls.authority import Authority, Issued


@cache
def authority() -> Authority:
    """One for the process."""
    return Authority("origin CA")


@cache
def issued() -> Issued:
    """A good certificate, for ``a.example`` and ``*.b.example``."""
    return authority().issue("a.example", "*.b.example")


def settings(**fields: Any) -> ClusterTls:
    """A cluster's ``tls``."""
    return ClusterTls.model_validate(fields)


def server_context(folder: Path, own: Issued | None = None, version: str = "") -> ssl.SSLContext:
    """What a server with the certificate ``own`` speaks with, ``version`` alone if it is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(own or issued()).write(folder, "server"))
    if version:
        wanted = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = wanted
    return context


class TlsServer(Server):
    """
    Wraps each connection by ``context`` and has ``serve`` talk to it; then close_notify is said.

    ``seen`` has what was asked for by SNI (None without), ``reused`` whether a session was
    resumed, ``failed`` the handshakes' failures.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        serve: Callable[[ssl.SSLSocket], None] = echo,
    ) -> None:
        self.context = context
        self.seen: list[str | None] = []
        self.reused: list[bool] = []
        self.failed: list[str] = []
        self._talk = serve
        context.sni_callback = lambda _, name, __: self.seen.append(name)
        super().__init__(self._secure)

    def _secure(self, sock: socket.socket) -> None:
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        try:
            wrapped.do_handshake()
        except OSError as error:
            self.failed.append(str(error))
            # Without that what the client still sends would reset the connection, and an alert
            # might come too late.
            with socket.socket(fileno=wrapped.detach()) as plain, suppress(OSError):
                plain.settimeout(PATIENCE)
                plain.shutdown(socket.SHUT_WR)
                read_to_end(plain)
            return
        with wrapped:
            self.reused.append(bool(wrapped.session_reused))
            try:
                self._talk(wrapped)
                wrapped.unwrap().close()
            except (OSError, ValueError) as error:  # ValueError: TLS is over already
                self.failed.append(str(error))


class Noting:
    """A protocol that keeps what comes."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = b""
        self.lost: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any) -> None:
        self.lost = reason


class Asking:
    """Asks servers by ``tls``, on a reactor of its own; :meth:`ask` returns why it failed."""

    def __init__(self, reactor: MeshReactor, config: Any, base: Path | str = "") -> None:
        self.reactor = reactor
        self.registry = Registry()
        self.tls = ClientTls(config, str(base), self.registry, "site")
        self.transport: ClientTransport | None = None

    def count(self, name: str, **labels: str) -> float:
        """A number of the cluster's TLS."""
        kind = self.registry.counter(
            f"meshproxy_cluster_tls_{name}_total", "", {"cluster": "site", **labels}
        )
        return self.registry.values[kind]

    def ask(
        self,
        port: int,
        name: str = "a.example",
        *,
        endpoint: Endpoint | None = None,
        timeout: float = 20.0,
        abort: bool = False,
    ) -> str:
        """Connect, shake hands, have an echo, and end or (``abort``) break off; why it failed."""
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        told: list[Any] = []
        self.transport = None
        at = endpoint_at(port, name) if endpoint is None else endpoint
        reactor = self.reactor
        self.tls.secure(reactor, sock, ("127.0.0.1", port), at, timeout, told.append, told.append)
        turn_until(reactor, lambda: told)
        outcome = told[0]
        assert len(told) == 1
        if isinstance(outcome, str):
            assert sock.fileno() == -1
            return outcome
        self.transport = outcome
        protocol = Noting()
        outcome.start(protocol)
        outcome.write(b"hello")
        turn_until(reactor, lambda: protocol.data or protocol.lost)
        (outcome.abortConnection if abort else outcome.loseConnection)()
        turn_until(reactor, lambda: protocol.lost)
        return "" if protocol.data else f"after the handshake: {outcome.broken_by}"


def endpoint_at(port: int, name: str = "") -> Endpoint:
    """An endpoint on 127.0.0.1 that was written with ``name``."""
    text = f"127.0.0.1:{port}"
    return Endpoint(EndpointSpec(text, socket.AF_INET, ("127.0.0.1", port), text, server_name=name))

"""TLS handshakes in memory, for tests of contexts."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from OpenSSL import SSL

from meshproxy.config.tls import Certificate, ListenerTls
from meshproxy.tls.hello import Hello, parse_hello
from meshproxy.tls.reasons import reason_of
from tests.tls.authority import Issued


class Exchange:
    """
    A handshake between a server's context and a client's.

    ``refused`` is why the server gave up, ``alert`` what the client says about it; both empty after
    a handshake that came to its end.
    """

    def __init__(
        self,
        server: SSL.Context,
        client: SSL.Context,
        name: str = "",
        session: Any = None,
        ocsp: bool = False,
    ) -> None:
        self.server: Any = SSL.Connection(server, None)
        self.server.set_accept_state()
        self.client: Any = SSL.Connection(client, None)
        self.client.set_connect_state()
        if name:
            self.client.set_tlsext_host_name(name.encode())
        if session is not None:
            self.client.set_session(session)
        if ocsp:
            self.client.request_ocsp()
        self.refused = self.alert = ""
        for _ in range(6):
            self.alert = self.alert or self._step(self.client, self.server)
            self.refused = self.refused or self._step(self.server, self.client)
        self.session = self.client.get_session()
        for one in (self.client, self.server):
            one.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def _step(self, one: Any, other: Any) -> str:
        reason = ""
        try:
            one.do_handshake()
            one.recv(1)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            reason = reason_of(error, one)
        try:
            other.bio_write(one.bio_read(65536))
        except SSL.Error:
            pass
        return reason

    @property
    def leaf(self) -> x509.Certificate:
        """What the server showed."""
        found: x509.Certificate = self.client.get_peer_certificate().to_cryptography()
        return found

    @property
    def shown(self) -> list[x509.Certificate]:
        """All that it showed."""
        return [one.to_cryptography() for one in self.client.get_peer_cert_chain()]

    @property
    def resumed(self) -> bool:
        """Whether a session was resumed."""
        return bool(vars(SSL)["_lib"].SSL_session_reused(self.server._ssl))

    @property
    def good(self) -> bool:
        """Whether it came to its end."""
        return not self.refused and not self.alert


def client(
    *,
    version: str = "",
    alpn: tuple[str, ...] = (),
    issued: Issued | None = None,
    sigalgs: str = "",
    ocsp: list[bytes] | None = None,
) -> SSL.Context:
    """A client's context that trusts anybody. What is stapled is added to ``ocsp``."""
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context: Any = made
    if version:
        number = {"1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}[version]
        context.set_min_proto_version(number)
        context.set_max_proto_version(number)
    if alpn:
        context.set_alpn_protos([one.encode() for one in alpn])
    if issued is not None:
        context.use_certificate(issued.cert)
        context.use_privatekey(issued.key)
        for one in issued.above:
            context.add_extra_chain_cert(one)
    if sigalgs:
        lib = vars(SSL)["_lib"]
        assert lib.SSL_CTX_set1_sigalgs_list(context._context, sigalgs.encode()) == 1
    if ocsp is not None:

        def stapled(connection: object, data: bytes, more: object) -> bool:
            ocsp.append(data)
            return True

        context.set_ocsp_client_callback(stapled)
    return made


def hello(context: SSL.Context, name: str = "", session: Any = None) -> Hello:
    """What a client's first flight says."""
    connection: Any = SSL.Connection(context, None)
    connection.set_connect_state()
    if name:
        connection.set_tlsext_host_name(name.encode())
    if session is not None:
        connection.set_session(session)
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        pass
    found = parse_hello(connection.bio_read(65536))
    assert isinstance(found, Hello)
    return found


def listener_tls(**given: Any) -> ListenerTls:
    """A listener's configuration of TLS, which need not be complete."""
    assert given.keys() <= ListenerTls.model_fields.keys()
    return ListenerTls.model_construct(**({"certificates": []} | given))


def certificate(**given: Any) -> Certificate:
    """An entry of ``certificates``."""
    return Certificate(**given)

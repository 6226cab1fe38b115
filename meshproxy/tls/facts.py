"""
What is known of a TLS connection, for filters, routes, access logs and headers.

The law it keeps: nothing is asked of OpenSSL before somebody wants to know, and nothing twice.
A value never changes: what the handshake agreed on is final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.tls import native
from meshproxy.tls.hello import plain_name

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from OpenSSL import SSL

__all__ = ["Facts"]

_UNASKED: Any = object()


class Facts:
    """
    The TLS of ``connection``, whose handshake is over when the first fact is asked for.

    ``server_name`` (bytes, lower case): what the client asked for by SNI; without it OpenSSL is
    asked.
    """

    __slots__ = (
        "_alpn",
        "_certificate",
        "_cipher",
        "_connection",
        "_server_name",
        "_version",
        "forwarded",
    )

    def __init__(self, connection: SSL.Connection, server_name: bytes | None = None) -> None:
        self._connection = connection
        self._server_name = server_name
        self._alpn: bytes | None = None
        self._version: bytes | None = None
        self._cipher: bytes | None = None
        self._certificate: Any = _UNASKED
        #: The header that tells endpoints of the client's certificate, once it is made.
        self.forwarded: Any = None

    @property
    def server_name(self) -> bytes:
        """The name that the client asked for (SNI), in lower case; empty without one."""
        if self._server_name is None:
            self._server_name = plain_name(self._connection.get_servername() or b"")
        return self._server_name

    @property
    def alpn(self) -> bytes:
        """The protocol agreed on by ALPN, such as ``b"http/1.1"``; empty without one."""
        if self._alpn is None:
            self._alpn = self._connection.get_alpn_proto_negotiated()
        return self._alpn

    @property
    def version(self) -> bytes:
        """``b"TLSv1.3"`` or ``b"TLSv1.2"``."""
        if self._version is None:
            self._version = self._connection.get_protocol_version_name().encode()
        return self._version

    @property
    def cipher(self) -> bytes:
        """OpenSSL's name of the cipher, such as ``b"TLS_AES_128_GCM_SHA256"``."""
        if self._cipher is None:
            self._cipher = (self._connection.get_cipher_name() or "").encode()
        return self._cipher

    @property
    def certificate(self) -> Certificate | None:
        """The peer's certificate, verified if there is one; None when it presented none."""
        if self._certificate is _UNASKED:
            self._certificate = self._connection.get_peer_certificate(as_cryptography=True)
        certificate: Certificate | None = self._certificate
        return certificate

    @property
    def own_certificate(self) -> Certificate | None:
        """Our own, that this peer was shown."""
        return self._connection.get_certificate(as_cryptography=True)

    @property
    def resumed(self) -> bool:
        """Whether the handshake resumed a session."""
        return native.reused(self._connection)

    @property
    def chain(self) -> list[Certificate]:
        """
        The peer's certificate and those with which it was verified; empty without one, and where
        a session was resumed.
        """
        return self._connection.get_verified_chain(as_cryptography=True) or []

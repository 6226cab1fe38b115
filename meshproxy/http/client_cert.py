"""
``x-forwarded-client-cert``: what an endpoint is told of a client's certificate.

The law it keeps: a client never speaks for itself. The header of a client without a verified
certificate is not sent on, whatever the mode; with one it is what the mode says. Written with
underscores, or among the trailers, it is sent on in no mode: there are endpoints to which that is
the same. What is said of a certificate is Envoy's format, made once a connection.

The format: elements joined by commas, one for each proxy on the way; an element is ``Key=value``
pairs joined by semicolons. ``By`` is a URI of our own certificate, where it has any; ``Hash`` the
SHA-256 of the client's in hexadecimal; ``Cert`` and ``Chain`` (with those above it that it was
verified by, but for the root) PEM, URL-encoded; ``Subject`` as RFC 2253 writes it; ``URI`` and
``DNS`` alternative names, each by itself. Unlike Envoy we put quotes around a URI that would be
taken for something else without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from meshproxy.http.forward import Forward
from meshproxy.http.headers import CLIENT_CERT, Field, make_field
from meshproxy.observe.certificate import certificate_texts

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from meshproxy.config import Http
    from meshproxy.http.exchange import Exchange
    from meshproxy.tls.facts import Facts

__all__ = ["NAME", "Certified", "element", "make_forward"]

NAME: Final = b"x-forwarded-client-cert"

#: Bytes that need quotes around a value.
_SPECIAL: Final = frozenset(b',;="')


def make_forward(http: Http, scheme: bytes) -> Forward:
    """
    What adds the forwarding headers to a listener's requests.

    Where the client's certificate is told of none, it costs nothing to see to that.
    """
    config = http.x_forwarded_client_cert
    if scheme != b"https" or config.mode == "sanitize":
        return Forward(http, scheme)
    return Certified(http, scheme)


class Certified(Forward):
    """Tells of the client's certificate too."""

    def __init__(self, http: Http, scheme: bytes) -> None:
        super().__init__(http, scheme)
        config = http.x_forwarded_client_cert
        self._details = frozenset(config.details)
        self._passes = config.mode in ("forward", "append")
        self._tells = config.mode in ("append", "set")

    def __call__(self, exchange: Exchange) -> None:
        headers = exchange.request_headers
        came = []
        if self._passes and headers.marks:
            came = [field for field in headers.fields if field[0] == NAME]
        super().__call__(exchange)  # which drops them
        tls = exchange.stream.tls
        if tls is None or tls.certificate is None:
            return
        fields = headers.fields
        if not self._tells:
            fields += came
            return
        own = tls.forwarded
        if own is None:
            own = tls.forwarded = make_field(NAME, element(tls, self._details))
        if came:
            own = _joined([*came, own])
        fields.append(own)


def _joined(fields: list[Field]) -> Field:
    value = b",".join([field[1] for field in fields if field[1]])
    return NAME, value, b"%b: %b\r\n" % (NAME, value), CLIENT_CERT


def element(tls: Facts, details: frozenset[str]) -> bytes:
    """One element, of a client that has a certificate."""
    certificate = tls.certificate
    assert certificate is not None
    texts = certificate_texts(certificate)
    parts = []
    own = tls.own_certificate
    if own is not None:
        parts += [b"By=" + _quoted(uri) for uri in certificate_texts(own).uris]
    parts.append(b"Hash=" + texts.fingerprint)
    if "cert" in details:
        parts.append(b'Cert="%b"' % _encoded([certificate]))
    if "chain" in details:
        # A session that was resumed has kept the client's own alone. Roots, everybody has.
        above = [one for one in tls.chain[1:] if one.subject != one.issuer]
        parts.append(b'Chain="%b"' % _encoded([certificate, *above]))
    if "subject" in details:
        # RFC 4514 has escaped the quotes in it already.
        parts.append(b'Subject="%b"' % _ascii(texts.subject))
    if "uri" in details:
        parts += [b"URI=" + _quoted(uri) for uri in texts.uris] or [b"URI="]
    if "dns" in details:
        parts += [b"DNS=" + _quoted(name) for name in texts.dns]
    return b";".join(parts)


def _encoded(chain: list[Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = b"".join([one.public_bytes(Encoding.PEM) for one in chain])
    return quote(pem, safe="").encode()


def _quoted(value: bytes) -> bytes:
    value = _ascii(value)
    if _SPECIAL.isdisjoint(value):
        return value
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _ascii(text: bytes) -> bytes:
    r"""What no header holds, and what is no ASCII, as ``\C3``, as OpenSSL writes a name."""
    if text.isascii() and text.decode().isprintable():
        return text
    return b"".join([bytes((one,)) if 0x20 <= one < 0x7F else b"\\%02X" % one for one in text])

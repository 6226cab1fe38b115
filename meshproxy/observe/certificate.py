"""
A certificate in texts, for filters, routes, access logs and headers.

The laws kept here:

- A certificate is taken apart once, however many requests ask; what is remembered is bounded.
- What cannot be read is left out: a certificate that was verified may still be odd.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

__all__ = ["NO_CERTIFICATE", "CertificateTexts", "certificate_texts", "peer_texts"]

#: Certificates that are remembered.
REMEMBERED: Final = 512


class CertificateTexts:
    """
    What a certificate says, as bytes; empty where it says nothing.

    ``subject`` and ``issuer`` are as RFC 4514 writes them, in UTF-8, with OpenSSL's names of types
    that it knows none for (``emailAddress``); ``serial`` and ``fingerprint`` (SHA-256) hexadecimal;
    ``uris``, ``dns``, ``emails`` and ``addresses`` the alternative names, ``names`` all of them;
    ``begins`` and ``ends`` its time, ``2026-11-24T12:00:00.000Z``.
    """

    __slots__ = (
        "addresses",
        "begins",
        "dns",
        "emails",
        "ends",
        "fingerprint",
        "issuer",
        "names",
        "serial",
        "subject",
        "uris",
    )

    def __init__(self, certificate: x509.Certificate | None) -> None:
        self.subject = self.issuer = self.serial = self.fingerprint = b""
        self.begins = self.ends = b""
        self.uris: tuple[bytes, ...] = ()
        self.dns: tuple[bytes, ...] = ()
        self.emails: tuple[bytes, ...] = ()
        self.addresses: tuple[bytes, ...] = ()
        if certificate is not None:
            self._read(certificate)
        self.names: tuple[bytes, ...] = (*self.dns, *self.uris, *self.emails, *self.addresses)

    def _read(self, certificate: x509.Certificate) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256

        self.fingerprint = certificate.fingerprint(SHA256()).hex().encode()
        serial = b"%x" % certificate.serial_number
        self.serial = serial if len(serial) % 2 == 0 else b"0" + serial
        self.subject = _readable(lambda: _name(certificate.subject))
        self.issuer = _readable(lambda: _name(certificate.issuer))
        self.begins = _readable(lambda: _time(certificate.not_valid_before_utc))
        self.ends = _readable(lambda: _time(certificate.not_valid_after_utc))
        try:
            held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, TypeError):
            return
        found: dict[type, list[bytes]] = {}
        for one in held:
            found.setdefault(type(one), []).append(_encoded(str(one.value)))
        self.dns = tuple(found.get(x509.DNSName, ()))
        self.uris = tuple(found.get(x509.UniformResourceIdentifier, ()))
        self.emails = tuple(found.get(x509.RFC822Name, ()))
        self.addresses = tuple(found.get(x509.IPAddress, ()))

    def joined(self, kind: str) -> bytes:
        """The alternative names of one kind, with commas between."""
        names: tuple[bytes, ...] = getattr(self, kind)
        return b",".join(names)


NO_CERTIFICATE: Final = CertificateTexts(None)
"""What nobody's certificate says."""


@lru_cache(REMEMBERED)
def certificate_texts(certificate: x509.Certificate) -> CertificateTexts:
    """The texts of a certificate (``cryptography``'s)."""
    return CertificateTexts(certificate)


def peer_texts(tls: Any) -> CertificateTexts:
    """
    Those of a client's certificate; :data:`NO_CERTIFICATE` where there is none.

    ``tls`` is what ``exchange.tls`` or ``connection.tls`` is, None without TLS.
    """
    certificate = None if tls is None else tls.certificate
    return NO_CERTIFICATE if certificate is None else certificate_texts(certificate)


def _readable(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (ValueError, TypeError):
        return b""


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _name(name: x509.Name) -> bytes:
    return _encoded(name.rfc4514_string(_short_names()))


@lru_cache(1)
def _short_names() -> dict[Any, str]:
    from cryptography.x509.oid import NameOID

    return {
        NameOID.EMAIL_ADDRESS: "emailAddress",
        NameOID.SERIAL_NUMBER: "serialNumber",
        NameOID.GIVEN_NAME: "GN",
        NameOID.SURNAME: "SN",
        NameOID.INITIALS: "initials",
        NameOID.TITLE: "title",
        NameOID.PSEUDONYM: "pseudonym",
        NameOID.DN_QUALIFIER: "dnQualifier",
        NameOID.GENERATION_QUALIFIER: "generationQualifier",
        NameOID.POSTAL_CODE: "postalCode",
        NameOID.STREET_ADDRESS: "street",
        NameOID.BUSINESS_CATEGORY: "businessCategory",
    }


def _time(moment: datetime) -> bytes:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()

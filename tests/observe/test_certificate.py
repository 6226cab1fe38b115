"""Certificates in texts: what they say, and what those say that are odd."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from meshproxy.observe.certificate import (
    NO_CERTIFICATE,
    CertificateTexts,
    certificate_texts,
    peer_texts,
)
from tests.tls.authority import Authority, Issued


@pytest.fixture(scope="module")
def held() -> Issued:
    """One with everything."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Müller, Sons"),
            x509.NameAttribute(NameOID.COMMON_NAME, "a"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "m@example"),
        ]
    )
    return Authority("ca").issue(
        *("a.example", "192.0.2.1", "b.example"),
        subject=subject,
        uris=["spiffe://example/a"],
        emails=["a@example"],
        not_before=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        not_after=datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


def test_what_it_says(held: Issued) -> None:
    """Every text."""
    texts = certificate_texts(held.cert)
    assert texts.subject == "emailAddress=m@example,CN=a,O=Müller\\, Sons,C=DE".encode()
    assert texts.issuer == b"CN=ca"
    assert int(texts.serial, 16) == held.cert.serial_number
    assert len(texts.serial) % 2 == 0
    assert texts.fingerprint == held.cert.fingerprint(SHA256()).hex().encode()
    assert texts.begins == b"2026-01-02T03:04:05.000Z"
    assert texts.ends == b"2027-01-02T03:04:05.000Z"
    assert texts.dns == (b"a.example", b"b.example")
    assert texts.names == (
        *(b"a.example", b"b.example", b"spiffe://example/a", b"a@example", b"192.0.2.1"),
    )
    assert texts.joined("dns") == b"a.example,b.example"


def test_it_is_read_once(held: Issued) -> None:
    """Also as another object that is equal, as every connection has one of its own."""
    again = x509.load_pem_x509_certificate(held.pem)
    assert certificate_texts(again) is certificate_texts(held.cert)


def test_of_a_peer(held: Issued) -> None:
    """Of a client without TLS, or without a certificate, nothing is known."""
    assert peer_texts(None) is NO_CERTIFICATE
    assert peer_texts(SimpleNamespace(certificate=None)) is NO_CERTIFICATE
    assert peer_texts(SimpleNamespace(certificate=held.cert)).issuer == b"CN=ca"
    assert NO_CERTIFICATE.names == ()
    assert NO_CERTIFICATE.joined("uris") == NO_CERTIFICATE.subject == b""


def test_what_cannot_be_read_is_left_out(held: Issued) -> None:
    """Names and extensions that the parser refuses cost those texts alone."""

    class Odd:
        """A certificate with a broken subject and extensions."""

        def __getattr__(self, name: str) -> Any:
            if name in ("subject", "extensions"):
                raise ValueError(name)
            return getattr(held.cert, name)

    odd: Any = Odd()
    texts = CertificateTexts(odd)
    assert (texts.subject, texts.names) == (b"", ())
    assert texts.issuer == b"CN=ca"

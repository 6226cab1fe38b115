"""
The certificate authority of a directory for development, and what it issues.

Laws:

- What it issues passes the strict verification of OpenSSL and of Python's ssl, for one side of a
  connection, and never outlives the authority.
- An authority that was not made here, or whose parts do not fit together, is used for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from meshproxy.errors import MeshproxyError

__all__ = ["DevelopmentAuthority", "MakeCertsError", "pem_of_key"]

_CA_DAYS = 3650
_LEAF_DAYS = 397  # what browsers accept
_EARLIER = timedelta(hours=1)  # for clocks that are behind
_SECOND = timedelta(seconds=1)  # a lifetime contains its last one


class MakeCertsError(MeshproxyError):
    """Certificates that cannot be made; the text is one line that says why."""


class DevelopmentAuthority:
    """A CA: one that was read from files, or a new one that no file has yet."""

    def __init__(
        self, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, new: bool
    ) -> None:
        self.cert = cert
        self.key = key
        self.new = new

    @classmethod
    def made(cls, now: datetime) -> DevelopmentAuthority:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        # Told apart by its key in a list of trusted authorities, where several may be.
        mark = _key_id(key).digest.hex()[:8]
        name = f"meshproxy development CA {mark}"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = (
            _begun(now, _CA_DAYS, None)
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(_key_id(key), critical=False)
            .add_extension(_issuer_id(_key_id(key)), critical=False)
            .sign(key, SHA256())
        )
        return cls(cert, key, new=True)

    @classmethod
    def read(cls, pem: Path, key_file: Path, now: datetime) -> DevelopmentAuthority:
        """The one in these files. Raises :class:`MakeCertsError`, OSError."""
        try:
            cert = x509.load_pem_x509_certificate(pem.read_bytes())
        except ValueError:
            raise MakeCertsError(f"{pem} holds no certificate that can be read") from None
        try:
            key = load_pem_private_key(key_file.read_bytes(), None)
        except TypeError:
            raise MakeCertsError(f"{key_file} is encrypted") from None
        except ValueError:
            raise MakeCertsError(f"{key_file} holds no key that can be read") from None
        if key.public_key() != cert.public_key():
            raise MakeCertsError(f"{key_file} is not the key of {pem}")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_ca(cert):
            raise MakeCertsError(f"{pem} is no authority that --make-certs made")
        if cert.not_valid_after_utc <= now:
            raise MakeCertsError(f"{pem} has expired; begin a new directory")
        return cls(cert, key, new=False)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self.cert.public_bytes(Encoding.PEM)

    def issued(self, cert: x509.Certificate) -> bool:
        """Whether it issued ``cert``."""
        try:
            cert.verify_directly_issued_by(self.cert)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def issue(
        self,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        key: ec.EllipticCurvePrivateKey,
        now: datetime,
    ) -> x509.Certificate:
        """A certificate; of ``subject`` and ``names`` one may be empty."""
        issuer = self.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _begun(now, _LEAF_DAYS, self.cert.not_valid_after_utc)
            .subject_name(subject)
            .issuer_name(self.cert.subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(_key_id(key), critical=False)
            .add_extension(_issuer_id(issuer), critical=False)
        )
        if names:
            # RFC 5280, 4.2.1.6: it is critical where there is no subject.
            alternative = x509.SubjectAlternativeName(names)
            builder = builder.add_extension(alternative, critical=not subject.rdns)
        return builder.sign(self.key, SHA256())


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """``key`` for a file that nobody else reads."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _is_ca(cert: x509.Certificate) -> bool:
    try:
        cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False


def _begun(now: datetime, days: int, at_most: datetime | None) -> x509.CertificateBuilder:
    """A certificate with its serial number and its lifetime, which ends no later than the CA's."""
    since = now - _EARLIER
    until = since + timedelta(days=days) - _SECOND
    if at_most is not None:
        until = min(until, at_most)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _key_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _issuer_id(issuer: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )

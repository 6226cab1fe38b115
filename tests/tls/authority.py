"""
A certificate authority for tests: quick, everything settable, so that what it makes can be wrong.

EC keys are made for each certificate; an RSA key is made once a process and shared by all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Issued", "Key", "Kind", "make_key", "pem_of_key", "self_signed"]

Kind = Literal["ec", "rsa", "ed25519"]
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def make_key(kind: Kind = "ec") -> Key:
    """A private key, new but for RSA, of which a process has one."""
    if kind == "rsa":
        return _rsa_key()
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def pem_of_key(key: Key, password: bytes | None = None) -> bytes:
    """``key`` as PKCS#8, encrypted where there is a password."""
    hidden = BestAvailableEncryption(password) if password is not None else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


class Issued:
    """A certificate, its key, and the certificates above it but for the root."""

    def __init__(self, cert: x509.Certificate, key: Key, above: Sequence[x509.Certificate]) -> None:
        self.cert = cert
        self.key = key
        #: The intermediate certificates, the issuer first.
        self.above = tuple(above)

    @property
    def pem(self) -> bytes:
        """The leaf alone."""
        return self.cert.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.cert, *self.above))

    @property
    def key_pem(self) -> bytes:
        return pem_of_key(self.key)

    def write(self, directory: Path | str, stem: str) -> tuple[Path, Path]:
        """The paths of the chain, ``STEM.pem``, and of the key, ``STEM.key``, which it writes."""
        chain, key = Path(directory) / f"{stem}.pem", Path(directory) / f"{stem}.key"
        chain.write_bytes(self.chain_pem)
        key.write_bytes(self.key_pem)
        return chain, key

    def pkcs12(self, password: bytes | str | None) -> bytes:
        """Key and chain in one file, as PKCS#12."""
        if isinstance(password, str):
            password = password.encode()
        hidden = BestAvailableEncryption(password) if password else NoEncryption()
        return pkcs12.serialize_key_and_certificates(None, self.key, self.cert, self.above, hidden)


class Authority:
    """A certificate authority: a root, or what :meth:`intermediate` makes of one."""

    def __init__(self, name: str = "test CA", *, kind: Kind = "ec", days: float = 365) -> None:
        self.key: Key = make_key(kind)
        self.above: tuple[x509.Certificate, ...] = ()
        builder = _named(name, *_lifetime(days, None, None))
        self.cert = _ca(builder, self.key, issuer=_common_name(name), signer=self.key)

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        return self.cert.public_bytes(Encoding.PEM)

    def write(self, directory: Path | str, stem: str = "ca") -> Path:
        """The path of ``STEM.pem``, which it writes: the authority's certificate, no key."""
        path = Path(directory) / f"{stem}.pem"
        path.write_bytes(self.pem)
        return path

    def issue(
        self,
        *names: str,
        kind: Kind = "ec",
        days: float = 30,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        client: bool = False,
        subject: str | x509.Name | None = None,
        uris: Iterable[str] = (),
        emails: Iterable[str] = (),
        key: Key | None = None,
    ) -> Issued:
        """
        A certificate for ``names``; those that are IP addresses become IP SANs.

        ``days`` below nought make one that has expired. ``client`` makes it one for clients, in
        place of servers. ``subject`` is the common name, or the whole name; without it the common
        name is the first of ``names``, ``uris`` and ``emails``.
        """
        uris, emails = tuple(uris), tuple(emails)
        if subject is None:
            subject = (*names, *uris, *emails, "unnamed")[0][:64]
        key = make_key(kind) if key is None else key
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            _named(subject, *_lifetime(days, not_before, not_after))
            .issuer_name(self.cert.subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(_authority_id(self.key), critical=False)
        )
        alternatives: list[x509.GeneralName] = [_san(name) for name in names]
        alternatives += map(x509.UniformResourceIdentifier, uris)
        alternatives += map(x509.RFC822Name, emails)
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return Issued(builder.sign(self.key, _digest(self.key)), key, self.above)

    def intermediate(
        self, name: str = "test intermediate CA", *, kind: Kind = "ec", days: float = 180
    ) -> Authority:
        """An authority that this one vouches for; the chains of what it issues contain it."""
        below = Authority.__new__(Authority)
        below.key = make_key(kind)
        builder = _named(name, *_lifetime(days, None, None))
        below.cert = _ca(builder, below.key, issuer=self.cert.subject, signer=self.key)
        below.above = (below.cert, *self.above)
        return below

    def crl(self, revoked: Iterable[Issued] = (), days: float = 30) -> bytes:
        """The certificates that this authority revokes, as PEM; out of date with days < 0."""
        since, until = _lifetime(days, None, None)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.cert.subject)
            .last_update(since)
            .next_update(until)
            .add_extension(_authority_id(self.key), critical=False)
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for one in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(one.cert.serial_number)
                .revocation_date(since)
                .build()
            )
        return builder.sign(self.key, _digest(self.key)).public_bytes(Encoding.PEM)

    def ocsp(self, issued: Issued, revoked: bool = False, days: float = 7) -> bytes:
        """This authority's OCSP response about ``issued``, as DER; out of date with days < 0."""
        since, until = _lifetime(days, None, None)
        status = ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD
        response = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=issued.cert,
                issuer=self.cert,
                algorithm=hashes.SHA1(),
                cert_status=status,
                this_update=since,
                next_update=until,
                revocation_time=since if revoked else None,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self.cert)
            .sign(self.key, _digest(self.key))
        )
        return response.public_bytes(Encoding.DER)


def self_signed(*names: str, kind: Kind = "ec", days: float = 30, key: Key | None = None) -> Issued:
    """A certificate for ``names`` that nobody vouches for."""
    key = make_key(kind) if key is None else key
    builder = (
        _named(names[0], *_lifetime(days, None, None))
        .issuer_name(_common_name(names[0]))
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
    )
    return Issued(builder.sign(key, _digest(key)), key, ())


def _lifetime(
    days: float, not_before: datetime | None, not_after: datetime | None
) -> tuple[datetime, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    until = now + timedelta(days=days) if not_after is None else not_after
    if not_before is None:
        not_before = min(now, until - timedelta(days=1)) - timedelta(hours=1)
    return not_before, until


def _common_name(name: str | x509.Name) -> x509.Name:
    if isinstance(name, x509.Name):
        return name
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _named(subject: str | x509.Name, since: datetime, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(subject))
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _ca(
    builder: x509.CertificateBuilder, key: Key, *, issuer: x509.Name, signer: Key
) -> x509.Certificate:
    builder = (
        builder.issuer_name(issuer)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_id(signer), critical=False)
    )
    return builder.sign(signer, _digest(signer))


def _authority_id(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _digest(key: Key) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature or key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)

"""
A certificate authority for development: what ``twistd meshproxy --make-certs`` makes.

Laws:

- The authority of a directory is made once. Its key is never overwritten, and what it did not issue
  is never replaced; everything is judged before anything is written.
- A private key is readable by its owner alone from the moment its file exists, whatever the umask.
  A file is there whole or not at all.
- What is made passes the strict verification of OpenSSL and of Python's ssl.

Nothing imports this module until it is asked for: neither it nor ``cryptography`` is part of what a
proxy without TLS loads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshproxy.errors import MeshproxyError

__all__ = ["Made", "MakeCertsError", "Pair", "make", "told"]

_CA_DAYS = 3650
_LEAF_DAYS = 397  # what browsers accept
_EARLIER = timedelta(hours=1)  # for clocks that are behind
_SECOND = timedelta(seconds=1)  # a lifetime contains its last one
_LONGEST_COMMON_NAME = 64

_CLIENT = "client:"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST_NAME = 253
_UNFIT_FOR_FILES = re.compile(r"[^A-Za-z0-9.@_-]+")
_PLAIN_IN_YAML = re.compile(r"[A-Za-z0-9./_~-]+")


class MakeCertsError(MeshproxyError):
    """Certificates that cannot be made; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of one certificate."""

    name: str
    client: bool
    chain: Path
    key: Path
    until: datetime


@dataclass(frozen=True, slots=True)
class Made:
    """What was made in a directory."""

    directory: Path
    new_authority: bool
    pairs: tuple[Pair, ...]


class _Wanted:
    """One NAME of the command line: a certificate to be made."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.client = text.startswith(_CLIENT)
        texts = [part.strip() for part in text.removeprefix(_CLIENT).split(",")]
        names = [_general_name(part, self.client) for part in texts]
        #: What the certificate is about, in the spelling of its names.
        self.name = texts[0] if names[0] is None else str(names[0].value)
        self.names = [name for name in names if name is not None]
        stem = _UNFIT_FOR_FILES.sub("_", self.name)
        self.stem = f"client-{stem}" if self.client else stem
        if self.stem == "ca":
            raise MakeCertsError("'ca' is what the files of the authority itself are called")

    @property
    def subject(self) -> x509.Name:
        if len(self.name) > _LONGEST_COMMON_NAME:
            return x509.Name([])
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    @property
    def purpose(self) -> x509.ObjectIdentifier:
        return ExtendedKeyUsageOID.CLIENT_AUTH if self.client else ExtendedKeyUsageOID.SERVER_AUTH

    def is_that_of(self, cert: x509.Certificate) -> bool:
        """Whether ``cert`` was made for the same name and side."""
        try:
            uses = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return False
        if self.purpose not in uses or cert.subject != self.subject:
            return False
        try:
            names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return not self.names
        return bool(self.names) and next(iter(names)) == self.names[0]


def _general_name(text: str, client: bool) -> x509.GeneralName | None:
    """What ``text`` is in a certificate; None for a client that only has a common name."""
    if not text:
        raise MakeCertsError("a name is empty")
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    lower = text.lower()
    labels = lower.removeprefix("*.").split(".")
    if len(text) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, labels)):
        return x509.DNSName(lower)
    if client and text.isprintable():
        if text.isascii() and re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", text):
            return x509.UniformResourceIdentifier(text)
        if text.isascii() and re.fullmatch(r"[^@\s]+@[^@\s]+", text):
            return x509.RFC822Name(text)
        if len(text) <= _LONGEST_COMMON_NAME:
            return None
    if not text.isascii():
        raise MakeCertsError(f"{text!r} has to be written in ASCII (xn--...)")
    raise MakeCertsError(f"{text!r} is neither a DNS name nor an IP address")


class _Authority:
    """The CA of a directory: what was there, or a new one that is not written yet."""

    def __init__(
        self, cert: x509.Certificate, key: CertificateIssuerPrivateKeyTypes, *, new: bool
    ) -> None:
        self.cert = cert
        self.key = key
        self.new = new

    def issued(self, cert: x509.Certificate) -> bool:
        try:
            cert.verify_directly_issued_by(self.cert)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def issue(self, wanted: _Wanted, key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
        """A certificate for what is wanted, as PEM."""
        builder = (
            _begun(now, _LEAF_DAYS, self.cert.not_valid_after_utc)
            .subject_name(wanted.subject)
            .issuer_name(self.cert.subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([wanted.purpose]), critical=False)
            .add_extension(_key_id(key), critical=False)
            .add_extension(_issuer_id(self.cert), critical=False)
        )
        if wanted.names:
            # RFC 5280, 4.2.1.6: it is critical where there is no subject.
            builder = builder.add_extension(
                x509.SubjectAlternativeName(wanted.names), critical=not wanted.subject.rdns
            )
        return _pem(builder.sign(self.key, SHA256()))


def make(directory: Path, names: Sequence[str], *, now: datetime | None = None) -> Made:
    """
    Make a certificate for each of ``names`` in ``directory``, and its authority if there is none.

    Raises :class:`MakeCertsError`; nothing was written then, unless the disk failed on the way.
    """
    now = (datetime.now(UTC) if now is None else now).replace(microsecond=0)
    if not names:
        raise MakeCertsError("say for which names, as in 'localhost' or 'client:jo'")
    wanted: dict[str, _Wanted] = {}
    for one in map(_Wanted, dict.fromkeys(names)):
        other = wanted.setdefault(one.stem, one)
        if (other.name, other.names) != (one.name, one.names):
            raise MakeCertsError(
                f"'{other.text}' and '{one.text}' would both be written to {one.stem}.pem"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        authority = _authority(directory, now)
        for one in wanted.values():
            _judge(directory, one, authority)
        if authority.new:
            # By its key, which cannot be made again, it is there or not; two who make one at the
            # same time do not get two.
            _write(directory / "ca.key", _key_pem(authority.key), secret=True, replace=False)
            _write(directory / "ca.pem", _pem(authority.cert))
        pairs = [_pair(directory, one, authority, now) for one in wanted.values()]
    except OSError as error:
        where = directory if error.filename is None else error.filename
        raise MakeCertsError(f"{os.fspath(where)}: {error.strerror or error}") from error
    return Made(directory, authority.new, tuple(pairs))


def _pair(directory: Path, wanted: _Wanted, authority: _Authority, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = authority.issue(wanted, key, now)
    chain, key_file = directory / f"{wanted.stem}.pem", directory / f"{wanted.stem}.key"
    # A chain without its key is ours to replace when this was broken off; the reverse is not.
    _write(chain, pem)
    _write(key_file, _key_pem(key), secret=True)
    until = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    return Pair(wanted.name, wanted.client, chain, key_file, until)


def _authority(directory: Path, now: datetime) -> _Authority:
    """The CA that the directory has, or a new one. Raises :class:`MakeCertsError`, OSError."""
    pem, key_file = directory / "ca.pem", directory / "ca.key"
    there = [file for file in (pem, key_file) if file.exists()]
    if not there:
        return _new_authority(now)
    if len(there) == 1:
        other = key_file if there == [pem] else pem
        raise MakeCertsError(f"{there[0]} is there without {other.name}; begin a new directory")
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
    return _Authority(cert, key, new=False)


def _is_ca(cert: x509.Certificate) -> bool:
    try:
        cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False


def _new_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # Told apart by its key in a list of trusted authorities, where several may be.
    mark = _key_id(key).digest.hex()[:8]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"meshproxy development CA {mark}")])
    cert = (
        _begun(now, _CA_DAYS, None)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(_key_id(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, SHA256())
    )
    return _Authority(cert, key, new=True)


def _judge(directory: Path, wanted: _Wanted, authority: _Authority) -> None:
    """Raise :class:`MakeCertsError` where files of that name are somebody else's."""
    chain, key = directory / f"{wanted.stem}.pem", directory / f"{wanted.stem}.key"
    if not chain.exists():
        if key.exists():
            raise MakeCertsError(f"{key} is there without {chain.name}; it is not replaced")
        return
    try:
        cert = x509.load_pem_x509_certificate(chain.read_bytes())
    except ValueError:
        raise MakeCertsError(f"{chain} holds no certificate; it is not replaced") from None
    if not authority.issued(cert):
        raise MakeCertsError(
            f"{chain} was not made by the authority of this directory; it is not replaced"
        )
    if not wanted.is_that_of(cert):
        raise MakeCertsError(f"{chain} was made for another name; it is not replaced")


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


def _issuer_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


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


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(Encoding.PEM)


def _key_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(file: Path, content: bytes, *, secret: bool = False, replace: bool = True) -> None:
    """Write a file whole: beside its place, then into it. Raises OSError, MakeCertsError."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(beside, file)
        else:
            _place(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _place(beside: Path, file: Path) -> None:
    """Give a file its name, unless the name is taken."""
    try:
        os.link(beside, file)
    except OSError:
        if file.exists():
            raise MakeCertsError(f"{file} was made by somebody else just now") from None
        os.replace(beside, file)  # not every file system has links
    else:
        beside.unlink()


def told(made: Made) -> str:
    """What was written, and the lines of YAML that use it."""
    ca = made.directory / "ca.pem"
    written = []
    if made.new_authority:
        written = [
            (ca, "the authority: what clients are told to trust"),
            (made.directory / "ca.key", "its key: for --make-certs alone"),
        ]
    for one in made.pairs:
        side = "for the client" if one.client else "for"
        written += [(one.chain, f"{side} {one.name}, until {one.until:%Y-%m-%d}"), (one.key, "")]
    width = max(len(str(file)) for file, _ in written)
    lines = [f"{file!s:<{width}}  {text}".rstrip() for file, text in written]
    if not made.new_authority:
        lines.append(f"The authority is that of {ca}, as before.")
    servers = [one for one in made.pairs if not one.client]
    clients = [one for one in made.pairs if one.client]
    lines += ["", "In a listener:", "", "    tls:"]
    if servers:
        lines.append("      certificates:")
        lines += [f"        - {_in_yaml(one)}" for one in servers]
    if clients:
        lines.append(f"      client_ca: {_path_in_yaml(ca)}")
    lines += ["", "In a cluster:", "", "    tls:", f"      ca: {_path_in_yaml(ca)}"]
    lines += [f"      certificate: {_in_yaml(one)}" for one in clients[:1]]
    return "\n".join(lines)


def _in_yaml(pair: Pair) -> str:
    return f"{{ chain: {_path_in_yaml(pair.chain)}, key: {_path_in_yaml(pair.key)} }}"


def _path_in_yaml(file: Path) -> str:
    text = str(file)
    return text if _PLAIN_IN_YAML.fullmatch(text) else json.dumps(text, ensure_ascii=False)

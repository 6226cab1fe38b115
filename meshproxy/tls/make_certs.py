"""
``twistd meshproxy --make-certs``: certificates in a directory, by an authority of its own.

Laws:

- The authority of a directory is made once. Its key is never overwritten, and what it did not issue
  is never replaced; everything is judged before anything is written.
- A private key is readable by its owner alone from the moment its file exists, whatever the umask.
  A file is there whole or not at all.

Nothing imports this module until it is asked for: neither it nor ``cryptography`` is part of what a
proxy without TLS loads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshproxy.tls.development import DevelopmentAuthority, MakeCertsError, pem_of_key

__all__ = ["Made", "MakeCertsError", "Pair", "make", "told"]

_LONGEST_COMMON_NAME = 64

_CLIENT = "client:"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST_NAME = 253
_UNFIT_FOR_FILES = re.compile(r"[^A-Za-z0-9.@_-]+")
_PLAIN_IN_YAML = re.compile(r"[A-Za-z0-9./_~-]+")


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
            _write(directory / "ca.key", pem_of_key(authority.key), secret=True, replace=False)
            _write(directory / "ca.pem", authority.pem)
        pairs = [_pair(directory, one, authority, now) for one in wanted.values()]
    except OSError as error:
        where = directory if error.filename is None else error.filename
        raise MakeCertsError(f"{os.fspath(where)}: {error.strerror or error}") from error
    return Made(directory, authority.new, tuple(pairs))


def _pair(directory: Path, wanted: _Wanted, authority: DevelopmentAuthority, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    cert = authority.issue(wanted.subject, wanted.names, wanted.purpose, key, now)
    chain, key_file = directory / f"{wanted.stem}.pem", directory / f"{wanted.stem}.key"
    # A chain without its key is ours to replace when this was broken off; the reverse is not.
    _write(chain, cert.public_bytes(Encoding.PEM))
    _write(key_file, pem_of_key(key), secret=True)
    return Pair(wanted.name, wanted.client, chain, key_file, cert.not_valid_after_utc)


def _authority(directory: Path, now: datetime) -> DevelopmentAuthority:
    """The CA that the directory has, or a new one. Raises :class:`MakeCertsError`, OSError."""
    pem, key = directory / "ca.pem", directory / "ca.key"
    there = [file for file in (pem, key) if file.exists()]
    if not there:
        return DevelopmentAuthority.made(now)
    if len(there) == 1:
        other = key if there == [pem] else pem
        raise MakeCertsError(f"{there[0]} is there without {other.name}; begin a new directory")
    return DevelopmentAuthority.read(pem, key, now)


def _judge(directory: Path, wanted: _Wanted, authority: DevelopmentAuthority) -> None:
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

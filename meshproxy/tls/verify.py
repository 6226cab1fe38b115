"""
Whether a server's certificate is that of whom we asked for: names by service-identity, and pins.

The laws it keeps:

- Names are those of the subjectAltName, DNS names and IP addresses; a common name is never one. A
  name in a certificate that makes no sense costs that name, not the others beside it.
- A name is verified as a DNS-ID with the rules for wildcards of RFC 6125, 6.4; an address as an
  IP-ID, that is as a number and never as text.
- A pin fits any certificate of the chain that was verified. Where nothing was verified only the
  leaf's key was proven to be the server's, so nothing else counts.
- What is read out of a certificate is read once: the tables are bounded, and keyed by the whole
  certificate.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import (
    Certificate,
    DNSName,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
)
from service_identity import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern, IPAddress_ID, IPAddressPattern

from meshproxy.tls.reasons import clean

__all__ = [
    "PIN_MISMATCH",
    "Identity",
    "Reference",
    "identity_of",
    "mismatch",
    "pin_bytes",
    "pin_of",
    "pinned",
    "reference_to",
]

#: Certificates and names that are remembered.
MOST = 512

PIN_MISMATCH = "pin mismatch"

Reference = DNS_ID | IPAddress_ID


class Identity:
    """
    Whom a certificate is for.

    ``names`` are as they are shown; ``until`` is when it expires, as a Unix time.
    """

    __slots__ = ("names", "patterns", "until")

    def __init__(self, certificate: Certificate) -> None:
        self.until = certificate.not_valid_after_utc.timestamp()
        self.names: list[str] = []
        self.patterns: list[DNSPattern | IPAddressPattern] = []
        try:
            found = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        except (ExtensionNotFound, ValueError):
            # ValueError: extensions that cannot be read, or are there twice.
            return
        for name in found.get_values_for_type(DNSName):
            self.names.append(name)
            try:
                self.patterns.append(DNSPattern.from_bytes(name.encode()))
            except CertificateError:
                continue  # such as "*": service-identity would refuse all names for one of these
        for address in found.get_values_for_type(IPAddress):
            self.names.append(str(address))
            # A network is for constraints, and no name.
            if isinstance(address, IPv4Address | IPv6Address):
                self.patterns.append(IPAddressPattern(address))


@lru_cache(MOST)
def identity_of(certificate: Certificate) -> Identity:
    """Whom ``certificate`` is for."""
    return Identity(certificate)


@lru_cache(MOST)
def reference_to(name: str) -> Reference | None:
    """
    What a host name or an IP address is compared with; None for what is neither, which no
    certificate can be for.
    """
    try:
        return IPAddress_ID(ip_address(name.strip("[]").partition("%")[0]))
    except ValueError:
        pass
    try:
        return DNS_ID(name.removesuffix("."))
    except (ValueError, ImportError):
        return None


def mismatch(identity: Identity, references: Iterable[Reference | None]) -> str:
    """Why the certificate is for none of ``references``; empty when it is for one of them."""
    for reference in references:
        if reference is not None and any(map(reference.verify, identity.patterns)):
            return ""
    names = identity.names
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no name"
    return clean(f"hostname mismatch: the certificate is for {shown}")


def pin_bytes(text: str) -> bytes:
    """The digest that ``sha256/BASE64`` stands for. Raises ``ValueError``."""
    try:
        digest = b64decode(text.removeprefix("sha256/"), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise ValueError("a pin is sha256/ and 32 bytes in base64")
    return digest


@lru_cache(MOST)
def pin_of(certificate: Certificate) -> bytes:
    """The SHA-256 of the certificate's SubjectPublicKeyInfo; empty where that cannot be read."""
    try:
        key = certificate.public_key()
        encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # a kind of key that cryptography does not know, or a broken one
        return b""
    return hashlib.sha256(encoded).digest()


def pinned(certificates: Sequence[Certificate], pins: frozenset[bytes]) -> bool:
    """Whether one of ``certificates`` has one of the keys."""
    return any(pin_of(certificate) in pins for certificate in certificates)

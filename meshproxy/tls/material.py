"""
Certificates and keys, from files to what is used.

The laws it keeps:

- A file is read once; what was checked is what is used.
- A key belongs to the first certificate of its chain, whose others vouch for it, one after the
  other: other orders are put right, what does not belong there is refused.
- What is wrong is told by the option and the file; never a byte of a file, nor of a password.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from meshproxy.tls.settings import drain, reasons

if TYPE_CHECKING:
    from meshproxy.config.tls import Certificate

__all__ = [
    "LONGEST",
    "MALFORMED",
    "Kind",
    "Pair",
    "Seen",
    "TlsFileError",
    "load_certificates",
    "load_pair",
    "names_of",
    "read_file",
    "seen",
    "shown_name",
    "use_pair",
]

LONGEST: Final = 4 << 20
"""Bytes of the longest file that is read; all the roots of a browser are a quarter of a MiB."""

MOST_CERTIFICATES: Final = 16
"""Certificates of the longest chain."""

Kind = Literal["rsa", "ec", "ed25519"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

Seen = tuple[int, int, int] | None
"""How a file looked from outside, to tell a changed one; None: it was not there."""

_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    re.DOTALL,
).search
_PEM: Final = b"-----BEGIN "

MALFORMED: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises over what is not as it should be, as late as a part is asked for."""


class TlsFileError(ValueError):
    """What is wrong with the file of an option; ``key`` is the option."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        #: Where that is, below ``tls``.
        self.at: tuple[str | int, ...] = (key,)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A certificate with its chain and its key."""

    chain_pem: bytes
    """The leaf and what vouches for it, in order."""
    key: PrivateKey = field(repr=False)
    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    names: tuple[str, ...]
    """DNS names in lower case and IP addresses."""
    kind: Kind
    ocsp: bytes | None
    """What the ``ocsp`` file holds, unjudged (:mod:`meshproxy.tls.ocsp`)."""
    files: tuple[str, ...]
    """Paths of all files that it comes from: the certificate's first, the OCSP response's last."""
    looks: dict[str, Seen]
    """How each of them looked before it was read."""
    digest: bytes
    """The same for two pairs that hold the same; ``ocsp`` is left out."""


def seen(path: str) -> Seen:
    """How the file at ``path`` looks from outside."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_file(key: str, path: str) -> tuple[bytes, Seen]:
    """The bytes of option ``key``'s file, and how it looked. Raises :class:`TlsFileError`."""
    try:
        # Not to wait for the other end of a named pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise TlsFileError(key, f"{path} is no plain file")
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise TlsFileError(key, f"{path} cannot be read: {error.strerror}") from None
    if len(content) > LONGEST:
        raise TlsFileError(key, f"{path} is longer than {LONGEST >> 20} MiB")
    return content, (found.st_mtime_ns, found.st_size, found.st_ino)


def load_certificates(key: str, path: str, content: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM file, one at least. Raises :class:`TlsFileError`."""
    if _PEM not in content:
        raise TlsFileError(key, f"{path} holds no PEM: it has no line that begins with -----BEGIN")
    try:
        return x509.load_pem_x509_certificates(content)
    except MALFORMED:
        raise TlsFileError(key, f"{path} holds no certificate that can be read") from None


def load_pair(config: Certificate, base: str, ocsp: bool = True) -> Pair:
    """
    What one entry of ``certificates``, or ``certificate``, stands for; its ``ocsp`` on demand.

    ``base`` is the folder that its paths are relative to. Raises :class:`TlsFileError`.
    """
    option = "chain" if config.pkcs12 is None else "pkcs12"
    try:
        return _load_pair(config, base, ocsp)
    except TlsFileError:
        raise
    except (*MALFORMED, TypeError):
        path = os.path.join(base, config.chain or config.pkcs12 or "")
        raise TlsFileError(option, f"{path} holds a certificate that is malformed") from None
    finally:
        # The library's OpenSSL is ours, and so is its queue of errors.
        drain()


def _load_pair(config: Certificate, base: str, ocsp: bool) -> Pair:
    looks: dict[str, Seen] = {}

    def read(key: str, name: str) -> tuple[str, bytes]:
        path = os.path.join(base, name)
        content, looks[path] = read_file(key, path)
        return path, content

    password: bytes | None = None
    if config.password_file is not None:
        password = read("password_file", config.password_file)[1].partition(b"\n")[0].rstrip(b"\r")
    if config.pkcs12 is not None:
        path, content = read("pkcs12", config.pkcs12)
        option = "pkcs12"
        key, chain = _open_pkcs12(path, content, password)
    else:
        option = "chain"
        path, content = read("chain", config.chain or "")
        chain = load_certificates("chain", path, content)
        key_option, key_path, key_content = "chain", path, content
        if config.key is not None:
            key_option = "key"
            key_path, key_content = read("key", config.key)
        key = _open_key(key_option, key_path, key_content, password)
    kind = _kind(option if option == "pkcs12" else key_option, path, key)
    chain = _ordered(option, path, chain, key)
    staple = config.ocsp if ocsp else None
    files = [path, *(other for other in looks if other != path)]
    response = None
    if staple is not None:
        response_path, response = read("ocsp", staple)
        files.append(response_path)
    leaf = chain[0]
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    return Pair(
        chain_pem=pem,
        key=key,
        leaf=leaf,
        chain=tuple(chain),
        names=names_of(leaf),
        kind=kind,
        ocsp=response,
        files=tuple(files),
        looks=looks,
        # The key is that of the leaf's public key: it needs no place of its own.
        digest=sha256(pem).digest(),
    )


def use_pair(context: SSL.Context, pair: Pair) -> None:
    """
    Have ``context`` show ``pair``, beside others with other kinds of keys.

    Raises :class:`TlsFileError` where OpenSSL refuses what was found good.
    """
    load: Any = context
    try:
        # From a file, since only so each certificate gets a chain of its own.
        with _as_file(pair.chain_pem) as path:
            load.use_certificate_chain_file(path)
        try:
            load.use_privatekey(pair.key)
        except TypeError:  # pyOpenSSL before 24.3
            wrap: Any = crypto.PKey
            load.use_privatekey(wrap.from_cryptography_key(pair.key))
        load.check_privatekey()
    except SSL.Error as error:
        files = ", ".join(pair.files)
        raise TlsFileError("chain", f"OpenSSL refuses {files}: {reasons(error)}") from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path by which ``content`` can be read: in memory, or a file that is deleted at once."""
    try:
        descriptor = os.memfd_create("meshproxy", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.NamedTemporaryFile(prefix="meshproxy-") as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    with open(descriptor, "wb") as memory:
        memory.write(content)
        memory.flush()
        yield f"/proc/self/fd/{descriptor}"


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names (lower case) and IP addresses of its SAN; the common name if it has no SAN."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        texts: Iterable[object] = [one.value for one in common[:1]]
    else:
        texts = [
            one.value for one in found.value if isinstance(one, (x509.DNSName, x509.IPAddress))
        ]
    names: dict[str, None] = {}
    for text in texts:
        if isinstance(text, str):
            text = text.lower().removesuffix(".")
            if text and text.isascii() and text.isprintable() and " " not in text:
                names[text] = None
        elif isinstance(text, (IPv4Address, IPv6Address)):
            names[str(text)] = None
    return tuple(names)


def shown_name(name: x509.Name) -> str:
    """A distinguished name to read, of a bounded length (RFC 4514)."""
    return name.rfc4514_string()[:256] or "(no name)"


def _open_key(option: str, path: str, content: bytes, password: bytes | None) -> Any:
    found = _KEY(content)
    if found is None:
        more = "; write `key` if it is in a file of its own" if option == "chain" else ""
        raise TlsFileError(option, f"{path} holds no private key in PEM{more}")
    try:
        try:
            return load_pem_private_key(found[0], password)
        except TypeError:
            if password is None:
                raise TlsFileError(
                    option, f"the key of {path} is encrypted: `password_file` is needed"
                ) from None
            return load_pem_private_key(found[0], None)
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, TlsFileError):
            raise
        if password is not None:
            message = f"the password does not open the key of {path}, or it is damaged"
            raise TlsFileError("password_file", message) from None
        raise TlsFileError(option, f"{path} holds no private key that can be read") from None


def _open_pkcs12(
    path: str, content: bytes, password: bytes | None
) -> tuple[Any, list[x509.Certificate]]:
    try:
        store = pkcs12.load_pkcs12(content, password)
    except (*MALFORMED, TypeError):
        if content.lstrip()[:11] == _PEM:
            raise TlsFileError("pkcs12", f"{path} is PEM: write `chain`, and `key`") from None
        if password is None:
            message = f"{path} is no PKCS#12 file, or needs a `password_file`"
            raise TlsFileError("pkcs12", message) from None
        message = f"the password does not open {path}, or it is no PKCS#12 file"
        raise TlsFileError("password_file", message) from None
    if store.key is None:
        raise TlsFileError("pkcs12", f"{path} holds no private key")
    if store.cert is None:
        raise TlsFileError("pkcs12", f"{path} holds no certificate of its key")
    return store.key, [store.cert.certificate, *(one.certificate for one in store.additional_certs)]


def _kind(option: str, path: str, key: Any) -> Kind:
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < 2048:
            raise TlsFileError(
                option, f"the RSA key of {path} has {key.key_size} bits; 2048 is the least"
            )
        return "rsa"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.key_size < 256:
            raise TlsFileError(option, f"the curve of {path}'s key, {key.curve.name}, is too small")
        return "ec"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise TlsFileError(option, f"the key of {path} is neither RSA nor ECDSA nor Ed25519")


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _ordered(
    option: str, path: str, given: list[x509.Certificate], key: Any
) -> list[x509.Certificate]:
    """The leaf, then each one's issuer. Raises :class:`TlsFileError`."""
    given = list(dict.fromkeys(given))
    if len(given) > MOST_CERTIFICATES:
        message = f"{path} holds {len(given)} certificates; {MOST_CERTIFICATES} are the most"
        raise TlsFileError(option, message)
    own = _public(key.public_key())
    if _public(given[0].public_key()) != own:
        for number, other in enumerate(given[1:], 2):
            if _public(other.public_key()) == own:
                message = f"{path}: the key's certificate is number {number}; it must be the first"
                raise TlsFileError(option, message)
        raise TlsFileError(
            "key" if option == "chain" else option,
            f"the key does not belong to the certificate of {path}",
        )
    path_up, rest = given[:1], given[1:]
    while rest:
        below = path_up[-1]
        above = next((one for one in rest if _issued(one, below)), None)
        if above is None:
            break
        rest.remove(above)
        path_up.append(above)
    # The same authority's other certificate, by another root, is there for clients of that root.
    known = {one.subject for one in path_up} | {one.issuer for one in path_up}
    for stray in rest:
        if stray.subject not in known:
            raise TlsFileError(
                option,
                f"{path}: the certificate of {shown_name(stray.subject)} vouches for none of the "
                "others: leave it out",
            )
    return path_up + rest


def _issued(above: x509.Certificate, below: x509.Certificate) -> bool:
    if above.subject != below.issuer:
        return False
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True

"""
Lists of revoked certificates (RFC 5280, 5).

The laws it keeps:

- The leaf is looked up in its issuer's list. Without one, or with one that is out of date, it is
  refused: a list that cannot be had protects nobody by being passed over.
- What a list cannot do is said when it is read, not only when clients are turned away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from cryptography import x509
from OpenSSL import crypto

from meshproxy.tls.material import MALFORMED, TlsFileError, shown_name
from meshproxy.tls.settings import drain

__all__ = ["check_leaves", "doubts", "load_crls"]

_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\n?", re.DOTALL).findall

MOST = 256
"""Lists in one file."""


def load_crls(key: str, path: str, content: bytes) -> list[x509.CertificateRevocationList]:
    """Every list in a file, PEM or DER. Raises :class:`TlsFileError`."""
    blocks = _BLOCK(content)
    if len(blocks) > MOST:
        raise TlsFileError(key, f"{path} holds {len(blocks)} revocation lists; {MOST} are the most")
    try:
        if blocks:
            return [x509.load_pem_x509_crl(block) for block in blocks]
        return [x509.load_der_x509_crl(content)]
    except MALFORMED:
        message = f"{path} holds no revocation list (CRL), PEM or DER, that can be read"
        raise TlsFileError(key, message) from None
    finally:
        drain()


def check_leaves(
    store: Any,
    crls: Iterable[x509.CertificateRevocationList],
    key: str = "crl",
    path: str = "the list",
) -> None:
    """
    Have ``store``, of pyOpenSSL, look leaves up in ``crls``, of option ``key``'s file.

    Raises :class:`TlsFileError` where OpenSSL cannot use what was found good.
    """
    try:
        for crl in crls:
            store.add_crl(crl)
    except crypto.Error:
        raise TlsFileError(key, f"OpenSSL cannot use {path}") from None
    finally:
        drain()
    store.set_flags(crypto.X509StoreFlags.CRL_CHECK)


def doubts(
    crls: Sequence[x509.CertificateRevocationList],
    authorities: Sequence[x509.Certificate],
    now: float,
) -> list[str]:
    """Why certificates will be refused that are not revoked, a text for each reason."""
    texts = []
    for crl in crls:
        until = crl.next_update_utc
        if until is not None and until.timestamp() <= now:
            texts.append(
                f"the list of {shown_name(crl.issuer)} was to be renewed at {until.isoformat()}: "
                "what it issued itself is refused"
            )
    issuers = {crl.issuer for crl in crls}
    texts += [
        f"there is no list of {shown_name(one.subject)}: what it issued itself is refused"
        for one in authorities
        if one.subject not in issuers
    ]
    return texts

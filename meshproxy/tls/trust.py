"""
The context of a client: whom it trusts, and what it presents.

The laws it keeps:

- Clusters with equal settings and equal files share one context, and with it the system's
  authorities, which take tens of milliseconds to read. It lives as long as one of them uses it.
- Authorities that are written down take the system's place. Each is trusted by itself, an
  intermediate one too.
- What is read is what is used: a file that changes afterwards changes nothing until it is loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from OpenSSL import SSL, crypto

from meshproxy.tls.material import (
    Pair,
    Seen,
    TlsFileError,
    load_certificates,
    load_pair,
    read_file,
)
from meshproxy.tls.revocation import check_leaves, load_crls
from meshproxy.tls.settings import BadSetting, apply, binding, drain, key_log_at, reasons

if TYPE_CHECKING:
    from meshproxy.config.tls import ClusterTls

__all__ = ["CertificateFault", "Trust", "load_trust"]

#: As :data:`meshproxy.tls.settings.CURVES`, with key shares for two: a server that knows the first
#: has it, and one that does not costs no extra round trip.
_CURVES = b"?*X25519MLKEM768:?*X25519:?P-256:?P-384"

_contexts: WeakValueDictionary[tuple[Any, ...], SSL.Context] = WeakValueDictionary()


class CertificateFault(TlsFileError):
    """What is wrong with the client certificate; ``at`` is the way to the option at fault."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(key, message)
        self.at = ("certificate", key)


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """A context, and what it was made of."""

    context: SSL.Context
    """Its app data is when the first of its revocation lists ends (Unix time), or None."""
    pair: Pair | None
    """The client certificate."""
    looks: dict[str, Seen]
    """How each file looked before it was read."""


def load_trust(config: ClusterTls, base: str) -> Trust:
    """
    What a cluster's ``tls`` stands for; its paths are relative to ``base``.

    Raises :class:`TlsFileError`, whose ``key`` is the option at fault.
    """
    looks: dict[str, Seen] = {}

    def read(key: str, name: str | None) -> tuple[str, bytes]:
        if not name:
            return "", b""
        path = os.path.join(base, name)
        content, looks[path] = read_file(key, path)
        return path, content

    pair = None
    if config.certificate is not None:
        try:
            pair = load_pair(config.certificate, base)
        except TlsFileError as error:
            raise CertificateFault(error.key, str(error)) from error
        looks.update(pair.looks)
    authorities = read("ca", config.ca)
    revoked = read("crl", config.crl)
    key_log = os.path.join(base, config.key_log) if config.key_log else ""
    key = (
        config.verify,
        config.depth,
        sha256(authorities[1]).digest() if config.ca else b"",
        sha256(revoked[1]).digest() if config.crl else b"",
        b"" if pair is None else pair.digest,
        tuple(config.alpn or ()),
        config.min_version,
        config.max_version,
        tuple(config.ciphers or ()),
        tuple(config.curves or ()),
        key_log,
    )
    context = _contexts.get(key)
    if context is None:
        context = _plain_context(config, key_log, pair)
        if config.verify:
            context.set_verify(SSL.VERIFY_PEER)
            context.set_verify_depth(config.depth)
            if config.ca:
                _trust(context, *authorities)
            else:
                context.set_default_verify_paths()
            if config.crl:
                path, content = revoked
                crls = load_crls("crl", path, content)
                check_leaves(_store(context), crls, "crl", path)
                ends = [crl.next_update_utc for crl in crls if crl.next_update_utc is not None]
                if ends:
                    context.set_app_data(min(ends).timestamp())
        # Not before it is complete: others of its key would have one that lacks what failed.
        _contexts[key] = context
    return Trust(context, pair, looks)


def _plain_context(config: ClusterTls, key_log: str, pair: Pair | None) -> SSL.Context:
    """A context that verifies nothing yet."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    try:
        apply(
            context,
            min_version=config.min_version,
            max_version=config.max_version,
            ciphers=config.ciphers,
            curves=config.curves,
            key_log=key_log_at(key_log) if key_log else None,
        )
    except BadSetting as error:
        raise TlsFileError(error.key, str(error)) from None
    if not config.curves and not binding.SSL_CTX_set1_curves_list(
        vars(context)["_context"], _CURVES
    ):
        drain()  # an OpenSSL that has no such stars
    context.set_verify(SSL.VERIFY_NONE)
    # Sessions are kept by the endpoints.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if config.alpn:
        context.set_alpn_protos([protocol.encode("ascii") for protocol in config.alpn])
    if pair is not None:
        try:
            context.use_certificate(pair.leaf)
            for certificate in pair.chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.use_privatekey(pair.key)
            context.check_privatekey()
        except SSL.Error as error:
            raise CertificateFault("chain", reasons(error)) from None
    return context


def _store(context: SSL.Context) -> crypto.X509Store:
    store = context.get_cert_store()
    assert store is not None
    return store


def _trust(context: SSL.Context, path: str, content: bytes) -> None:
    """The certificates in ``content``, and no others, are trusted."""
    store = _store(context)
    try:
        for certificate in load_certificates("ca", path, content):
            store.add_cert(crypto.X509.from_cryptography(certificate))
    except crypto.Error:
        drain()
        raise TlsFileError("ca", f"OpenSSL cannot use {path}") from None
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)

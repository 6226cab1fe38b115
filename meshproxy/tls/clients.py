"""
What a listener asks of its clients' certificates.

The laws it keeps:

- The CA file alone says who is trusted, the system's roots never do; an intermediate CA that is in
  it is trusted without its root.
- Nobody is let in whom any condition refuses. Who is refused gets an alert, and the reason is what
  OpenSSL has as the result of its verification (:mod:`meshproxy.tls.reasons` reads it).
- Without names to match, no Python runs in a verification.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.python import log

from meshproxy.config.compare import Test, compile_test
from meshproxy.tls.material import (
    MALFORMED,
    Seen,
    TlsFileError,
    load_certificates,
    read_file,
)
from meshproxy.tls.revocation import check_leaves, doubts, load_crls
from meshproxy.tls.settings import binding, ffi

if TYPE_CHECKING:
    from meshproxy.config.tls import ListenerTls

__all__ = ["Clients", "names_in"]

NAMES_SENT: Final = 100
"""Of more CAs than this no names are sent: a hello of many packets helps no client to choose."""

#: What refusing by name looks like to OpenSSL; the client gets the alert bad_certificate.
_REJECTED: Final = binding.X509_V_ERR_CERT_REJECTED


class Clients:
    """What ``config`` asks of clients, read from its files. Raises :class:`TlsFileError`."""

    def __init__(self, config: ListenerTls, base: str) -> None:
        if config.client_ca is None:
            raise ValueError("client_ca is needed")
        self.looks: dict[str, Seen] = {}
        path = os.path.join(base, config.client_ca)
        content, self.looks[path] = read_file("client_ca", path)
        self.authorities = load_certificates("client_ca", path, content)
        digest = sha256(content)
        self.store: Any = crypto.X509Store()
        self._crls: list[x509.CertificateRevocationList] = []
        try:
            self._owners = [crypto.X509.from_cryptography(one) for one in self.authorities]
            for owner in self._owners:
                self.store.add_cert(owner)
        except crypto.Error:
            binding.ERR_clear_error()
            raise TlsFileError("client_ca", f"OpenSSL cannot use {path}") from None
        self.store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        if config.client_crl is not None:
            path = os.path.join(base, config.client_crl)
            content, self.looks[path] = read_file("client_crl", path)
            digest.update(b"crl" + content)
            self._crls = load_crls("client_crl", path, content)
            check_leaves(self.store, self._crls, "client_crl", path)
        # When the last list of each issuer is to be renewed.
        self._renewed: dict[x509.Name, float] = {}
        for crl in self._crls:
            until = inf if crl.next_update_utc is None else crl.next_update_utc.timestamp()
            self._renewed[crl.issuer] = max(until, self._renewed.get(crl.issuer, 0.0))
        self.required = config.require_client_certificate is not False
        self._depth = config.client_depth
        self._callback: Any = None
        if config.client_names:
            tests = [compile_test(one) for one in config.client_names]
            signature = "int (*)(int, X509_STORE_CTX *)"
            # error: what a callback that raises comes to, which is a refusal.
            self._callback = ffi.callback(signature, _verdict(tests), error=0)
        #: The same for two that trust the same.
        self.digest = digest.digest()

    def apply(self, context: SSL.Context) -> None:
        """Have ``context`` ask for certificates. It keeps a reference of its own to all this."""
        pointer = vars(context)["_context"]
        store = vars(self.store)["_store"]
        # The context takes this reference over: one store for all contexts of a listener.
        binding.X509_STORE_up_ref(store)
        binding.SSL_CTX_set_cert_store(pointer, store)
        if len(self._owners) <= NAMES_SENT:
            for owner in self._owners:
                binding.SSL_CTX_add_client_CA(pointer, vars(owner)["_x509"])
        mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if self.required else 0)
        binding.SSL_CTX_set_verify(pointer, mode, self._callback or ffi.NULL)
        binding.SSL_CTX_set_verify_depth(pointer, self._depth)

    def stale(self, issuer: x509.Name, now: float) -> bool:
        """Whether all lists of that issuer are out of date."""
        return self._renewed.get(issuer, inf) <= now

    def doubts(self, now: float) -> list[str]:
        """What the files cannot do, to be told."""
        return doubts(self._crls, self.authorities, now) if self._crls else []


def names_in(certificate: x509.Certificate) -> list[str]:
    """Its SANs that are text or become text: DNS names, URIs, email and IP addresses."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, *MALFORMED):
        return []
    kinds = (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name, x509.IPAddress)
    return [str(one.value) for one in found.value if isinstance(one, kinds)]


def _verdict(tests: Sequence[Test]) -> Callable[[int, Any], int]:
    """The callback that asks that a leaf that is good has a name that is wanted."""

    def verify(good: int, state: Any) -> int:
        if good != 1 or binding.X509_STORE_CTX_get_error_depth(state) != 0:
            return good
        try:
            leaf = _certificate(binding.X509_STORE_CTX_get_current_cert(state))
            for name in names_in(leaf):
                encoded = name.encode("utf-8", "surrogateescape")
                if any(test(encoded) for test in tests):
                    return 1
        except Exception:
            log.err(None, "comparing the names of a client's certificate")
        binding.X509_STORE_CTX_set_error(state, _REJECTED)
        return 0

    return verify


def _certificate(pointer: Any) -> x509.Certificate:
    bio = ffi.gc(binding.BIO_new(binding.BIO_s_mem()), binding.BIO_free)
    if binding.i2d_X509_bio(bio, pointer) != 1:
        raise ValueError("a certificate that cannot be encoded")
    data = ffi.new("char **")
    size = binding.BIO_get_mem_data(bio, data)
    return x509.load_der_x509_certificate(ffi.buffer(data[0], size)[:])

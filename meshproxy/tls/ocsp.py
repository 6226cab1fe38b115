"""
OCSP responses from files, stapled to handshakes (RFC 6960; RFC 6066, 8).

The laws it keeps:

- Only a response is stapled that says of this very certificate that it is good, and that is not
  past its nextUpdate: anything else makes clients turn away that would have come in without.
- A response costs nothing to clients that do not ask for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from OpenSSL import SSL

from meshproxy.tls.material import MALFORMED, TlsFileError
from meshproxy.tls.settings import binding, ffi

__all__ = ["ANOTHER", "Staple", "Stapler", "judge"]

ANOTHER: Final = "another certificate's"
"""The fault of a response that says nothing of the certificate."""

SKEW: Final = 300.0
"""Seconds that a responder's clock may be ahead of ours."""

_OK: Final = 0  # SSL_TLSEXT_ERR_OK
_NONE: Final = 3  # SSL_TLSEXT_ERR_NOACK


class Staple:
    """A response, and whether it may be stapled; ``fault`` is what it says that it must not."""

    __slots__ = ("der", "fault", "since", "until")

    def __init__(self, der: bytes, since: float, until: float, fault: str = "") -> None:
        self.der = der
        self.since = since
        self.until = until
        self.fault = fault

    def state(self, now: float) -> str:
        """``good``, else why it is not stapled."""
        if self.fault:
            return self.fault
        if now >= self.until:
            return "stale"
        return "good" if now >= self.since - SKEW else "early"


def judge(path: str, der: bytes, leaf: x509.Certificate) -> Staple:
    """
    What the file at ``path`` says of ``leaf``.

    Raises :class:`~meshproxy.tls.material.TlsFileError` if it says nothing of anybody.
    """
    if der.startswith(b"-----"):
        raise TlsFileError("ocsp", f"{path} is PEM; an OCSP response in DER is needed")
    try:
        response = ocsp.load_der_ocsp_response(der)
        status = response.response_status
        if status != ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise TlsFileError("ocsp", f"{path} is a responder's refusal: {status.name.lower()}")
        answers = [one for one in response.responses if _about(one, leaf)]
    except TlsFileError:
        raise
    except MALFORMED:
        raise TlsFileError("ocsp", f"{path} holds no OCSP response that can be read") from None
    if not answers:
        return Staple(der, 0.0, 0.0, ANOTHER)
    answer = answers[0]
    fault = ""
    if answer.certificate_status != ocsp.OCSPCertStatus.GOOD:
        fault = answer.certificate_status.name.lower()
    until = answer.next_update_utc
    # Without nextUpdate there is newer information all the time (RFC 6960, 4.2.2.1): it is stale.
    end = 0.0 if until is None else until.timestamp()
    return Staple(der, answer.this_update_utc.timestamp(), end, fault)


class Stapler:
    """The responses for the certificates of one context, by kind of key."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._staples: dict[int, Staple | None] = {}
        self._callback = ffi.callback("int (*)(SSL *, void *)", self._asked, error=_NONE)

    def replace(self, kind: str, staple: Staple | None) -> None:
        """From now on ``staple`` is stapled to certificates with a key of that kind."""
        self._staples[_IDS[kind]] = staple

    def apply(self, context: SSL.Context) -> None:
        """Have ``context`` staple. The caller keeps this object for as long as the context."""
        pointer = vars(context)["_context"]
        binding.SSL_CTX_set_tlsext_status_cb(pointer, self._callback)

    def _asked(self, ssl: Any, data: Any) -> int:
        # OpenSSL has chosen the certificate by now, which is one of several kinds.
        certificate = binding.SSL_get_certificate(ssl)
        if certificate == ffi.NULL:
            return _NONE
        key = binding.X509_get_pubkey(certificate)
        staple = self._staples.get(binding.EVP_PKEY_id(key))
        binding.EVP_PKEY_free(key)
        if staple is None or staple.state(self._wall()) != "good":
            return _NONE
        # OpenSSL frees it.
        size = len(staple.der)
        copy = binding.OPENSSL_malloc(size)
        ffi.memmove(copy, staple.der, size)
        binding.SSL_set_tlsext_status_ocsp_resp(ssl, copy, size)
        return _OK


_IDS: Final = {"rsa": binding.EVP_PKEY_RSA, "ec": binding.EVP_PKEY_EC, "ed25519": 1087}


def _about(answer: ocsp.OCSPSingleResponse, leaf: x509.Certificate) -> bool:
    if answer.serial_number != leaf.serial_number:
        return False
    digest = hashes.Hash(answer.hash_algorithm)
    digest.update(leaf.issuer.public_bytes())
    return digest.finalize() == answer.issuer_name_hash

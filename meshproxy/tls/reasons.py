"""
Why a handshake failed, in few words.

The law it keeps: a text has at most :data:`LONGEST` characters, none of them a control character,
and nothing of a key in it; what the peer can choose of it is bounded by that. The kinds under
which failures are counted are few, whatever the peers do.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any, Final

from OpenSSL import SSL

__all__ = [
    "CLOSED",
    "KINDS",
    "LONGEST",
    "NOT_TLS",
    "RESET",
    "TIMEOUT",
    "clean",
    "kind_of",
    "reason_of",
    "worded",
]

LONGEST: Final = 120

TIMEOUT: Final = "handshake timeout"
CLOSED: Final = "connection closed"
RESET: Final = "connection reset"
NOT_TLS: Final = "not TLS"

#: What failures are counted as.
KINDS: Final = (
    "alert",
    "closed",
    "expired",
    "name",
    "not_tls",
    "other",
    "pin",
    "revoked",
    "timeout",
    "untrusted",
)

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)

# OpenSSL has several words for what begins no record: with each the peer speaks something else.
_PLAIN = frozenset({"wrong version number", "http request", "https proxy request"})
_ALERT = re.compile(r"(?:(?:ssl/tls|sslv3|tls|tlsv1|tlsv13) alert|tlsv1) (.+)").fullmatch

_KINDS = {
    "certificate has expired": "expired",
    "certificate revoked": "revoked",
    "CRL has expired": "revoked",
    "unable to get certificate CRL": "revoked",
    "pin mismatch": "pin",
    CLOSED: "closed",
    RESET: "closed",
    NOT_TLS: "not_tls",
    TIMEOUT: "timeout",
    "certificate is not yet valid": "expired",
    "certificate rejected": "untrusted",
    "certificate chain too long": "untrusted",
    "unsuitable certificate purpose": "untrusted",
    "invalid CA certificate": "untrusted",
    "no certificate": "untrusted",
}
_BEGINNINGS = (
    ("alert: ", "alert"),
    ("hostname mismatch", "name"),
    ("self-signed certificate", "untrusted"),
    ("unable to get ", "untrusted"),
    ("unable to verify ", "untrusted"),
)


def reason_of(error: Exception, connection: SSL.Connection) -> str:
    """
    Why ``connection``'s handshake ended with ``error``: OpenSSL's words for what it found in the
    peer's certificate, else those for the last error, else the system's.
    """
    if isinstance(error, SSL.SysCallError):
        number = error.args[0] if error.args else -1
        if number == -1:
            return CLOSED
        return RESET if number in (errno.ECONNRESET, errno.EPIPE) else clean(os.strerror(number))
    reason = ""
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        reason = str(error.args[0][-1][-1])
    if reason == "certificate verify failed":
        return _verdict(connection) or reason
    return worded(reason) or "TLS error"


def worded(reason: str) -> str:
    """OpenSSL's words ``reason`` as ours."""
    if reason in _PLAIN:
        return NOT_TLS
    alert = _ALERT(reason)
    return clean(reason if alert is None else f"alert: {alert[1]}")


def kind_of(reason: str) -> str:
    """The one of :data:`KINDS` that a failure for ``reason`` is counted as."""
    kind = _KINDS.get(reason)
    if kind is None:
        kind = next((kind for begin, kind in _BEGINNINGS if reason.startswith(begin)), "other")
    return kind


def clean(text: str, longest: int = LONGEST) -> str:
    """``text`` as ASCII, without what breaks a line or a quotation, and not too long."""
    shown = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def _verdict(connection: SSL.Connection) -> str:
    """What is wrong with the peer's certificate; empty where OpenSSL does not say."""
    handle = getattr(connection, "_ssl", None)
    if handle is None or not hasattr(_lib, "SSL_get_verify_result"):
        return ""
    result = _lib.SSL_get_verify_result(handle)
    if result == _lib.X509_V_OK:
        return ""
    return clean(_ffi.string(_lib.X509_verify_cert_error_string(result)).decode("latin-1"))

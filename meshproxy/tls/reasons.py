"""
Why a handshake failed, in few words.

The law it keeps: a text has at most :data:`LONGEST` characters, none of them a control character,
and nothing of a key in it; what the peer can choose of it is bounded by that.
"""

from __future__ import annotations

import os
from typing import Any, Final

from OpenSSL import SSL

__all__ = ["LONGEST", "reason_of"]

LONGEST: Final = 120

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)


def reason_of(error: Exception, connection: SSL.Connection) -> str:
    """
    Why ``connection``'s handshake ended with ``error``: OpenSSL's words for what it found in the
    peer's certificate, else those for the last error, else the system's.
    """
    if isinstance(error, SSL.SysCallError):
        number = error.args[0] if error.args else -1
        return "connection closed" if number == -1 else _clean(os.strerror(number))
    reason = ""
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        reason = str(error.args[0][-1][-1])
    if reason == "certificate verify failed":
        return _verdict(connection) or reason
    return _clean(reason) or "TLS error"


def _verdict(connection: SSL.Connection) -> str:
    """What is wrong with the peer's certificate; empty where OpenSSL does not say."""
    handle = getattr(connection, "_ssl", None)
    if handle is None or not hasattr(_lib, "SSL_get_verify_result"):
        return ""
    result = _lib.SSL_get_verify_result(handle)
    if result == _lib.X509_V_OK:
        return ""
    return _clean(_ffi.string(_lib.X509_verify_cert_error_string(result)).decode("latin-1"))


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:LONGEST]

"""Why handshakes fail, in words."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.tls.reasons import KINDS, LONGEST, clean, kind_of, reason_of, worded

NOBODY: Any = None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SSL.SysCallError(-1, "Unexpected EOF"), "connection closed"),
        (SSL.SysCallError(errno.ECONNRESET, "ECONNRESET"), "connection reset"),
        (SSL.SysCallError(errno.EHOSTUNREACH, "x"), "No route to host"),
        (SSL.SysCallError(), "connection closed"),
        (SSL.Error([("SSL routines", "", "wrong version number")]), "not TLS"),
        (SSL.Error([("SSL routines", "", "tlsv1 alert unknown ca")]), "alert: unknown ca"),
        (SSL.Error([("x", "", "first"), ("SSL routines", "", "bad thing")]), "bad thing"),
        (
            SSL.Error([("SSL routines", "", "certificate verify failed")]),
            "certificate verify failed",
        ),
        (SSL.Error(), "TLS error"),
        (SSL.Error([]), "TLS error"),
        (ValueError("x"), "TLS error"),
    ],
)
def test_reasons(error: Exception, expected: str) -> None:
    """OpenSSL's last word, or the system's."""
    assert reason_of(error, NOBODY) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tls alert handshake failure", "alert: handshake failure"),
        ("ssl/tls alert handshake failure", "alert: handshake failure"),
        ("tlsv13 alert certificate required", "alert: certificate required"),
        ("tlsv1 unrecognized name", "alert: unrecognized name"),
        ("tls client cert req with anon cipher", "tls client cert req with anon cipher"),
        ("http request", "not TLS"),
        ("", ""),
    ],
)
def test_alerts(words: str, expected: str) -> None:
    """What the other side said is told from what was found here."""
    assert worded(words) == expected


def test_what_is_not_shown() -> None:
    """Control characters, quotes, and what is too much."""
    assert clean('a\r\n"\\\x7fü') == "a??????"
    assert clean("x" * LONGEST) == "x" * LONGEST
    assert clean("x" * 1000) == "x" * (LONGEST - 3) + "..."


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("certificate has expired", "expired"),
        ("certificate revoked", "revoked"),
        ("CRL has expired", "revoked"),
        ("unable to get certificate CRL", "revoked"),
        ("self-signed certificate", "untrusted"),
        ("self-signed certificate in certificate chain", "untrusted"),
        ("unable to get local issuer certificate", "untrusted"),
        ("hostname mismatch: the certificate is for x", "name"),
        ("pin mismatch", "pin"),
        ("handshake timeout", "timeout"),
        ("connection reset", "closed"),
        ("alert: whatever", "alert"),
        ("whatever", "other"),
    ],
)
def test_kinds(reason: str, kind: str) -> None:
    """Few, and each has its word."""
    assert kind_of(reason) == kind
    assert kind in KINDS

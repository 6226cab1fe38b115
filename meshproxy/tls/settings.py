"""
What every context of ours has in common, whichever side it is on.

The laws it keeps:

- TLS 1.2 and 1.3 only; only ciphers with forward secrecy and authenticated encryption unless others
  are named; no renegotiation, no compression, no SHA-1 in signatures (that is OpenSSL's level 2).
- A name that OpenSSL does not know, or that asks for neither encryption nor authentication, is
  refused with its name, never dropped in silence.
- A version of which no cipher is named keeps its defaults.
- Idle connections keep no buffers (MODE_RELEASE_BUFFERS).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from OpenSSL import SSL
from twisted.python import log

__all__ = [
    "CIPHERS",
    "CIPHERSUITES",
    "CURVES",
    "VERSIONS",
    "BadSetting",
    "KeyLog",
    "apply",
    "binding",
    "drain",
    "key_log_at",
    "reasons",
]

#: pyOpenSSL's own way to OpenSSL: what its classes do not offer is here.
binding: Any = vars(SSL)["_lib"]
ffi: Any = vars(SSL)["_ffi"]

VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}

#: Of TLS 1.3. AES-128 first: it is the cheapest, and as good; ChaCha20 moves up for a client that
#: asks for it first, since that one has no AES in hardware.
CIPHERSUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

#: Of TLS 1.2, likewise.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)

#: One that a client sent no key share of is passed over for one that it did: no extra round trip.
CURVES = ("X25519MLKEM768", "X25519", "P-256", "P-384")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}").fullmatch
_WITHOUT = re.compile(r"(^|-)(NULL|ADH|AECDH|EXP|anon)(-|$)").search
_SHARED = re.compile(r"(^|-)(PSK|SRP)(-|$)").search

_PRIORITIZE_CHACHA = 1 << 21  # SSL_OP_PRIORITIZE_CHACHA, which the binding has no name for
# SSL_MODE_NO_AUTO_CHAIN: what is sent above a leaf is what its file holds, never what OpenSSL
# finds for each handshake among those that we trust.
_NO_AUTO_CHAIN = 8
_KEY_LOG_MODE = 0o600


class BadSetting(ValueError):
    """A setting that cannot be used; ``key`` is its key in the configuration."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def apply(
    context: SSL.Context,
    *,
    min_version: str = "1.2",
    max_version: str = "1.3",
    ciphers: Sequence[str] | None = None,
    curves: Sequence[str] | None = None,
    key_log: KeyLog | None = None,
) -> None:
    """
    Set ``context``, which no connection was made with yet, up. Raises :class:`BadSetting`.

    ``ciphers`` are OpenSSL's names, those of TLS 1.3 among them; none, or None, are the defaults.
    """
    for key, version in (("min_version", min_version), ("max_version", max_version)):
        if version not in VERSIONS:
            raise BadSetting(key, f"{version!r} is not a version of TLS that is spoken here")
    if VERSIONS[min_version] > VERSIONS[max_version]:
        raise BadSetting("min_version", f"{min_version} is above max_version, {max_version}")
    context.set_min_proto_version(VERSIONS[min_version])
    context.set_max_proto_version(VERSIONS[max_version])
    context.set_options(
        SSL.OP_NO_COMPRESSION
        | binding.SSL_OP_NO_RENEGOTIATION
        | SSL.OP_CIPHER_SERVER_PREFERENCE
        | _PRIORITIZE_CHACHA
    )
    binding.SSL_CTX_set_mode(
        _pointer(context),
        binding.SSL_MODE_RELEASE_BUFFERS
        | binding.SSL_MODE_ENABLE_PARTIAL_WRITE
        | binding.SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
        | _NO_AUTO_CHAIN,
    )
    named = list(ciphers or ())
    if named:
        _check_ciphers(named)
    thirteen = [name for name in named if name.startswith("TLS_")] or CIPHERSUITES
    twelve = [name for name in named if not name.startswith("TLS_")] or CIPHERS
    _set("ciphers", binding.SSL_CTX_set_ciphersuites, context, thirteen)
    _set("ciphers", binding.SSL_CTX_set_cipher_list, context, twelve)
    if curves:
        _check_curves(curves)
        _set("curves", binding.SSL_CTX_set1_curves_list, context, curves)
    else:
        # With "?" a name that an older OpenSSL does not know is passed over.
        _set("curves", binding.SSL_CTX_set1_curves_list, context, [f"?{one}" for one in CURVES])
    if key_log is not None:
        context.set_keylog_callback(key_log.secret)


def drain() -> None:
    """Empty OpenSSL's queue of errors, of which a later call would take what is not its own."""
    binding.ERR_clear_error()


def reasons(error: SSL.Error) -> str:
    """What OpenSSL gave as reasons, in its words; never a file's contents."""
    drain()
    told = error.args[0] if error.args and isinstance(error.args[0], list) else []
    words = [str(entry[-1]) for entry in told if entry and entry[-1]]
    return "; ".join(dict.fromkeys(words)) or "OpenSSL gives no reason"


class KeyLog:
    """
    A file of TLS secrets in the format of NSS (SSLKEYLOGFILE), for whoever decrypts a capture.

    It is opened, for appending and for its owner alone, when the first secret comes. One that
    cannot be written loses secrets, never connections; the first loss of a row is logged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lost = 0
        self._descriptor: int | None = None
        self._failing = False

    def secret(self, connection: object, line: bytes) -> None:
        """Append one, as OpenSSL hands it over."""
        try:
            descriptor = self._descriptor
            if descriptor is None:
                descriptor = self._open()
            os.write(descriptor, line + b"\n")
        except OSError as error:
            self.lost += 1
            if not self._failing:
                self._failing = True
                log.msg(f"tls key_log={self.path} cannot be written: {error.strerror}")
        else:
            self._failing = False

    def close(self) -> None:
        """Close it; a secret that still comes opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = descriptor = os.open(self.path, flags, _KEY_LOG_MODE)
        return descriptor

    def __del__(self) -> None:
        self.close()


_key_logs: WeakValueDictionary[str, KeyLog] = WeakValueDictionary()


def key_log_at(path: str) -> KeyLog:
    """The one key log of that file, shared by all that name it and closed with the last of them."""
    path = os.path.realpath(path)
    found = _key_logs.get(path)
    if found is None:
        found = _key_logs[path] = KeyLog(path)
    return found


def _pointer(context: SSL.Context) -> Any:
    return vars(context)["_context"]


def _set(key: str, call: Any, context: SSL.Context, names: Sequence[str]) -> None:
    if call(_pointer(context), ":".join(names).encode()) != 1:
        drain()
        raise BadSetting(key, f"OpenSSL takes none of {', '.join(names)}")


def _check_ciphers(names: Sequence[str]) -> None:
    """Each by itself: of several, OpenSSL takes those that it knows and says nothing."""
    probe = SSL.Context(SSL.TLS_METHOD)
    pointer = _pointer(probe)
    binding.SSL_CTX_set_ciphersuites(pointer, b"")
    for name in names:
        suite = name.startswith("TLS_")
        call = binding.SSL_CTX_set_ciphersuites if suite else binding.SSL_CTX_set_cipher_list
        taken = _NAME(name) is not None and call(pointer, name.encode()) == 1
        drain()
        # What stands for several, such as HIGH, does not come back under its own name.
        if not taken or name not in SSL.Connection(probe, None).get_cipher_list():
            raise BadSetting("ciphers", f"OpenSSL knows no cipher named {name[:80]!r}")
        if _WITHOUT(name) is not None:
            raise BadSetting("ciphers", f"{name} leaves out encryption or authentication")
        if _SHARED(name) is not None:
            raise BadSetting("ciphers", f"{name} is for secrets that are shared; there are none")


def _check_curves(names: Sequence[str]) -> None:
    pointer = _pointer(SSL.Context(SSL.TLS_METHOD))
    for name in names:
        known = (
            _NAME(name) is not None
            and name.upper() != "DEFAULT"
            and binding.SSL_CTX_set1_curves_list(pointer, name.encode()) == 1
        )
        drain()
        if not known:
            raise BadSetting("curves", f"OpenSSL knows no curve named {name[:80]!r}")

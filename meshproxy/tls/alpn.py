"""
Which protocol is spoken inside TLS (ALPN, RFC 7301).

The laws it keeps:

- The server's order decides. A client that offers nothing gets nothing; one that offers nothing we
  speak gets the fatal alert no_application_protocol (3.2), which pyOpenSSL's callback cannot say.
- The same offer is read once: clients have a handful of them. What is remembered is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from OpenSSL import SSL

from meshproxy.tls.settings import binding, ffi

__all__ = ["Alpn"]

MOST: Final = 64
"""Offers that are remembered, of :data:`LONGEST` bytes at most."""

LONGEST: Final = 256

_OK: Final = 0  # SSL_TLSEXT_ERR_OK
_ALERT: Final = 2  # SSL_TLSEXT_ERR_ALERT_FATAL
_SIGNATURE: Final = (
    "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"
)


class Alpn:
    """Picks among ``protocols``, best first."""

    __slots__ = ("_callback", "_known", "_protocols")

    def __init__(self, protocols: Sequence[str]) -> None:
        names = [one.encode() for one in protocols]
        if not names or any(not 0 < len(name) < 256 for name in names):
            raise ValueError("an ALPN name has 1 to 255 bytes")
        # OpenSSL is given an address, which has to stay good.
        self._protocols = [(name, ffi.new("unsigned char[]", name), len(name)) for name in names]
        self._known: dict[bytes, tuple[bytes, Any, int] | None] = {}
        self._callback = ffi.callback(_SIGNATURE, self._select, error=_ALERT)

    def apply(self, context: SSL.Context) -> None:
        """Have ``context`` select. The caller keeps this object for as long as the context."""
        pointer = vars(context)["_context"]
        binding.SSL_CTX_set_alpn_select_cb(pointer, self._callback, ffi.NULL)

    def choose(self, offered: bytes) -> bytes | None:
        """The protocol for an offer as it is in a hello; None where there is none."""
        found = self._found(offered)
        return None if found is None else found[0]

    def _found(self, offered: bytes) -> tuple[bytes, Any, int] | None:
        names = set(_names(offered))
        return next((one for one in self._protocols if one[0] in names), None)

    def _select(
        self, ssl: Any, out: Any, out_length: Any, given: Any, length: int, data: Any
    ) -> int:
        offered = ffi.buffer(given, length)[:]
        try:
            found = self._known[offered]
        except KeyError:
            found = self._found(offered)
            if length <= LONGEST and len(self._known) < MOST:
                self._known[offered] = found
        if found is None:
            return _ALERT
        out[0] = found[1]
        out_length[0] = found[2]
        return _OK


def _names(offered: bytes) -> Iterator[bytes]:
    """OpenSSL has seen to it that the list is whole."""
    at = 0
    while at < len(offered):
        size = offered[at]
        yield offered[at + 1 : at + 1 + size]
        at += 1 + size

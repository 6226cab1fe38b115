"""
The hash that ring_hash, maglev and sticky cookies go by.

The law it keeps: the same bytes give the same number in every process and version, so that the
workers of a proxy, and two proxies beside each other, send a key to the same endpoint.
"""

from __future__ import annotations

from hashlib import blake2b


def hash64(data: bytes) -> int:
    """64 well mixed bits of ``data``: BLAKE2b (RFC 7693) cut to 8 bytes, big-endian."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")

"""
The hash that ring_hash, maglev and sticky cookies go by.

The law it keeps: the same bytes give the same number in every process and version, so that the
workers of a proxy, and two proxies beside each other, send a key to the same endpoint.
"""

from __future__ import annotations

from hashlib import blake2b

_ALL = (1 << 64) - 1


def hash64(data: bytes) -> int:
    """64 well mixed bits of ``data``: BLAKE2b (RFC 7693) cut to 8 bytes, big-endian."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def rehash(number: int, attempt: int) -> int:
    """
    Another 64 bits for ``number``, different for each attempt.

    The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection in which every bit of
    the result depends on every bit of the argument.
    """
    number = (number + attempt * 0x9E3779B97F4A7C15) & _ALL
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _ALL
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _ALL
    return number ^ number >> 31


def token_of(cluster: str, key: str) -> bytes:
    """
    What stands for an endpoint's ``key`` in a sticky cookie: 16 hexadecimal digits.

    Keyed by the cluster's name, so that a token says neither where an endpoint is nor that two
    clusters share it.
    """
    secret = blake2b(cluster.encode(), digest_size=32, person=b"meshproxy-sticky").digest()
    return blake2b(key.encode(), digest_size=8, key=secret).hexdigest().encode()

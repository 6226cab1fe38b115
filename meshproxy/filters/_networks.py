"""
Addresses, networks and their prefixes.

The law it keeps: a configured network says what it means (host bits that are set are a mistake,
and told as one), an IPv4 address mapped into IPv6 is the IPv4 address, and looking an address up
costs a dictionary look-up once it was seen: caches are bounded, and a flood of addresses costs
each of them one computation, never a scan of all networks.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

from meshproxy.api import Unfit

__all__ = ["LONGEST", "UNIX", "Network", "Networks", "check_network", "number_of", "prefix_of"]

UNIX = b"unix:"
"""The address that clients of a UNIX socket have."""

CACHED = 4096
"""Addresses whose answer a list of networks remembers."""

LONGEST = 64
"""Bytes of the longest text that is remembered: no address is as long, but a header may be."""

_WITH_PORT = re.compile(rb"([0-9.]+|\[[^\]]*\]):[0-9]{1,5}").fullmatch

_MAPPED = 0xFFFF << 32


def check_network(value: str) -> str:
    """
    Return `value`, an address or network (``10.0.0.0/8``, ``2001:db8::1``), in its shortest form.

    ``unix`` stands for clients of UNIX sockets. Raises :class:`meshproxy.api.Unfit`.
    """
    if value == "unix":
        return value
    try:
        return _text(ipaddress.ip_network(value))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Unfit(
            f"an address or a network such as 10.0.0.0/8 is expected, not '{value[:60]}'"
        ) from None
    raise Unfit(
        f"'{value[:60]}' has bits set behind its prefix; one address has no '/'", _text(loose)
    )


Network = Annotated[str, AfterValidator(check_network)]
"""The type of an option that is an address or a network."""


def number_of(ip: bytes) -> tuple[int, int]:
    """
    The address ``ip`` as (bits of its family, number): ``(32, 2130706433)`` for 127.0.0.1.

    A port behind it, as some proxies write it into ``x-forwarded-for``, is left out. ``(0, 0)``
    for what is no address.
    """
    if len(ip) > LONGEST:
        return 0, 0
    ported = _WITH_PORT(ip)
    if ported is not None:
        ip = ported[1]
    try:
        text = ip.decode("ascii")
        if ":" not in text:
            return 32, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
        packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0].strip("[]"))
    except (OSError, ValueError):
        return 0, 0
    number = int.from_bytes(packed, "big")
    if number >> 32 == 0xFFFF:
        return 32, number ^ _MAPPED
    return 128, number


class Networks:
    """
    A set of addresses and networks, given as texts.

    Raises :class:`meshproxy.api.Unfit` (a ``ValueError``) for a text that is none.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(map(check_network, texts))
        self._unix = "unix" in self.texts
        # bits of the family -> [(how far to shift, the prefixes of that length)], shortest first
        found: dict[int, dict[int, set[int]]] = {32: {}, 128: {}}
        for text in self.texts:
            if text == "unix":
                continue
            network = ipaddress.ip_network(text)
            bits, number, length = (
                network.max_prefixlen,
                int(network.network_address),
                network.prefixlen,
            )
            if bits == 128 and length >= 96 and number >> 32 == 0xFFFF:
                bits, number, length = 32, number ^ _MAPPED, length - 96
            shift = bits - length
            found[bits].setdefault(shift, set()).add(number >> shift)
        self._found = {
            bits: tuple((shift, frozenset(shifts[shift])) for shift in sorted(shifts, reverse=True))
            for bits, shifts in found.items()
        }
        self._remembered = lru_cache(CACHED)(self._contains)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Networks({list(self.texts)!r})"

    def contains(self, ip: bytes) -> bool:
        """Whether the address ``ip`` (as ``client_ip``, so any text) is in one of them."""
        return len(ip) <= LONGEST and self._remembered(ip)

    def _contains(self, ip: bytes) -> bool:
        bits, number = number_of(ip)
        if not bits:
            return self._unix and ip == UNIX
        return any(number >> shift in prefixes for shift, prefixes in self._found[bits])


def prefix_of(ip: bytes, v4: int = 32, v6: int = 64) -> bytes:
    """
    The network of ``v4`` (``v6``) bits that the address ``ip`` is in: ``b"192.0.2.0/24"``.

    A whole address has no ``/``; what is no address is returned as it is.
    """
    return _prefix_of(ip, v4, v6) if len(ip) <= LONGEST else ip


@lru_cache(8192)
def _prefix_of(ip: bytes, v4: int, v6: int) -> bytes:
    bits, number = number_of(ip)
    if not bits:
        return ip
    length = v4 if bits == 32 else v6
    shift = bits - length
    number = number >> shift << shift
    packed = number.to_bytes(bits // 8, "big")
    text = socket.inet_ntop(socket.AF_INET if bits == 32 else socket.AF_INET6, packed).encode()
    return text if not shift else b"%b/%d" % (text, length)


def _text(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return str(network)

"""
The PROXY protocol, versions 1 and 2, as pure functions over bytes.

A proxy that hands a connection on tells the next hop, before the first byte of payload, who the
client was.  The laws kept here:

* Nothing in this module does input or output; :func:`parse` looks at the bytes read so far and
  answers "more", "this header", or raises.  It never guesses: a connection that must open with a
  header and opens with anything else is refused at the first byte that differs.
* A header is bounded before it is believed: 107 bytes for version 1 (the specification's own bound)
  and :data:`MAX_V2` for version 2, whose length field could otherwise ask for 64 KiB a connection.
* What does not name an address (``UNKNOWN``, ``LOCAL``, ``UNSPEC``) yields no address, and the
  caller keeps those of the socket.
* Additional fields (TLVs) are walked, not interpreted; a CRC32c among them is verified.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

MAX_V1: Final = 107
"""Bytes: the longest version 1 line, its CRLF included (specification, section 2.1)."""

MAX_V2: Final = 4096
"""Bytes: the longest version 2 header accepted, its 16 fixed bytes included."""

MAX_HEADER: Final = MAX_V2
"""Bytes: a reader that has this many and still no header may give up."""

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PREFIX: Final = b"PROXY "
_FIXED: Final = 16
_CRC32C: Final = 0x03
_UNIX_PATH: Final = 108

SocketAddress = tuple[str, int] | str
"""``(host, port)`` of an IPv4 or IPv6 peer, or the path of a UNIX one."""


class ProxyProtocolError(ValueError):
    """The bytes are not a PROXY protocol header, or are one that must be refused."""


@dataclass(frozen=True, slots=True)
class Header:
    """
    One header as received.

    ``source`` and ``destination`` are ``None`` when the sender did not name them: a health check of
    the sender's own (``LOCAL``) or a transport it could not describe (``UNKNOWN``, ``UNSPEC``).
    ``consumed`` is how many bytes of the buffer the header took; payload starts there.
    """

    version: int
    family: int
    source: SocketAddress | None
    destination: SocketAddress | None
    consumed: int


def parse(buffer: bytes) -> Header | None:
    """
    Read a header from the start of ``buffer``, all the bytes that came so far.

    Returns ``None`` when what is there could still become a header.  Raises
    :class:`ProxyProtocolError` as soon as it cannot.
    """
    if buffer[:1] == b"P":
        return _parse_v1(buffer)
    if not buffer or SIGNATURE.startswith(buffer[:12]):
        return _parse_v2(buffer)
    raise ProxyProtocolError("not a PROXY protocol header")


def _parse_v1(buffer: bytes) -> Header | None:
    if buffer[: len(_PREFIX)] != _PREFIX[: len(buffer)]:
        raise ProxyProtocolError("not a PROXY protocol header")
    end = buffer.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(buffer) >= MAX_V1:
            raise ProxyProtocolError("a version 1 header without an end in 107 bytes")
        return None
    try:
        words = buffer[len(_PREFIX) : end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyProtocolError("a version 1 header that is not ASCII") from None
    consumed = end + 2
    if words[0] == "UNKNOWN":
        # Section 2.1: the receiver must ignore anything up to the CRLF.
        return Header(1, 0, None, None, consumed)
    family = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}.get(words[0])
    if family is None or len(words) != 5:
        raise ProxyProtocolError("a version 1 header with a bad transport or number of fields")
    source = (_text_address(family, words[1]), _text_port(words[3]))
    destination = (_text_address(family, words[2]), _text_port(words[4]))
    return Header(1, family, source, destination, consumed)


def _text_address(family: int, text: str) -> str:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):  # ValueError: an embedded NUL
        raise ProxyProtocolError("a version 1 header with a bad address") from None


def _text_port(text: str) -> int:
    if not 1 <= len(text) <= 5 or not text.isdigit() or (text[0] == "0" and text != "0"):
        raise ProxyProtocolError("a version 1 header with a bad port")
    port = int(text)
    if port > 65535:
        raise ProxyProtocolError("a version 1 header with a bad port")
    return port


_FAMILIES: Final = {0: 0, 1: int(socket.AF_INET), 2: int(socket.AF_INET6), 3: int(socket.AF_UNIX)}
_ADDRESS_BYTES: Final = {1: 12, 2: 36, 3: 2 * _UNIX_PATH}


def _parse_v2(buffer: bytes) -> Header | None:
    if len(buffer) < _FIXED:
        return None
    version_command, family_transport, length = struct.unpack_from("!BBH", buffer, 12)
    if version_command >> 4 != 2 or version_command & 15 > 1:
        raise ProxyProtocolError("a version 2 header with an unknown version or command")
    kind, transport = family_transport >> 4, family_transport & 15
    if kind > 3 or transport > 2:
        raise ProxyProtocolError("a version 2 header with an unknown family or transport")
    consumed = _FIXED + length
    if consumed > MAX_V2:
        raise ProxyProtocolError(f"a version 2 header longer than {MAX_V2} bytes")
    if len(buffer) < consumed:
        return None
    if version_command & 15 == 0 or kind == 0:
        # LOCAL, UNSPEC: the receiver must use the connection's own end points (section 2.2), and
        # since nothing says how long an address of no family is, the rest cannot be walked either.
        return Header(2, 0, None, None, consumed)
    fields = _FIXED + _ADDRESS_BYTES[kind]
    if consumed < fields:
        raise ProxyProtocolError("a version 2 header too short for its addresses")
    _walk(buffer, fields, consumed)
    source, destination = _unpack(buffer, kind)
    if transport == 0:
        return Header(2, 0, None, None, consumed)
    return Header(2, _FAMILIES[kind], source, destination, consumed)


def _unpack(buffer: bytes, kind: int) -> tuple[SocketAddress, SocketAddress]:
    if kind == 3:
        first, second = struct.unpack_from(f"!{_UNIX_PATH}s{_UNIX_PATH}s", buffer, _FIXED)
        return os.fsdecode(first.rstrip(b"\0")), os.fsdecode(second.rstrip(b"\0"))
    family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
    one, two, port, other = struct.unpack_from(f"!{size}s{size}sHH", buffer, _FIXED)
    return (socket.inet_ntop(family, one), port), (socket.inet_ntop(family, two), other)


def _walk(buffer: bytes, start: int, end: int) -> None:
    """Check that the TLVs fill ``start`` to ``end`` exactly, and the CRC32c among them."""
    while start < end:
        if end - start < 3:
            raise ProxyProtocolError("a version 2 header with a cut TLV")
        kind, length = struct.unpack_from("!BH", buffer, start)
        start += 3
        if start + length > end:
            raise ProxyProtocolError("a version 2 header with a cut TLV")
        if kind == _CRC32C:
            if length != 4:
                raise ProxyProtocolError("a version 2 header with a bad CRC32c field")
            blank = buffer[:start] + bytes(4) + buffer[start + 4 : end]
            if crc32c(blank) != int.from_bytes(buffer[start : start + 4], "big"):
                raise ProxyProtocolError("a version 2 header with a wrong CRC32c")
        start += length


def encode_v1(source: Any, destination: Any) -> bytes:
    """
    The version 1 line for a connection from ``source`` to ``destination``.

    Both are as the socket module gives them (a tuple for IP, of which host and port are used; a
    path for UNIX; ``None`` where unknown).  What version 1 cannot say is sent as ``UNKNOWN``.
    """
    kind, one, two = _pair(source, destination)
    if kind not in (1, 2):
        return b"PROXY UNKNOWN\r\n"
    family = socket.AF_INET if kind == 1 else socket.AF_INET6
    first, second = socket.inet_ntop(family, one), socket.inet_ntop(family, two)
    name = "TCP4" if kind == 1 else "TCP6"
    return f"PROXY {name} {first} {second} {source[1]} {destination[1]}\r\n".encode("ascii")


def encode_v2(
    source: Any,
    destination: Any,
    *,
    tlvs: tuple[tuple[int, bytes], ...] = (),
    checksum: bool = False,
) -> bytes:
    """
    The version 2 header for a connection from ``source`` to ``destination``.

    Addresses are as for :func:`encode_v1`; a pair that cannot be told is sent as ``LOCAL``, which
    asks the receiver to use the connection's own.  ``tlvs`` are (type, value) pairs appended as
    they are; ``checksum`` adds a CRC32c.  Raises ValueError when the result would exceed
    :data:`MAX_V2` bytes.
    """
    kind, one, two = _pair(source, destination)
    if kind == 0:
        addresses = b""
    elif kind == 3:
        addresses = one.ljust(_UNIX_PATH, b"\0") + two.ljust(_UNIX_PATH, b"\0")
    else:
        addresses = one + two + struct.pack("!HH", source[1], destination[1])
    fields = b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    if checksum:
        fields += struct.pack("!BHI", _CRC32C, 4, 0)
    length = len(addresses) + len(fields)
    if _FIXED + length > MAX_V2:
        raise ValueError(f"a version 2 header longer than {MAX_V2} bytes")
    transport = kind << 4 | 1 if kind else 0
    header = SIGNATURE + struct.pack("!BBH", 0x21 if kind else 0x20, transport, length)
    whole = header + addresses + fields
    if checksum:
        whole = whole[:-4] + struct.pack("!I", crc32c(whole))
    return whole


def _pair(source: Any, destination: Any) -> tuple[int, bytes, bytes]:
    """The family (1 IPv4, 2 IPv6, 3 UNIX, 0 none that both share) and both packed addresses."""
    if isinstance(source, tuple) and isinstance(destination, tuple):
        for kind, family in ((1, socket.AF_INET), (2, socket.AF_INET6)):
            try:
                # A link-local IPv6 address carries its interface after a percent sign.
                return (
                    kind,
                    socket.inet_pton(family, source[0].partition("%")[0]),
                    socket.inet_pton(family, destination[0].partition("%")[0]),
                )
            except OSError:
                continue
    elif isinstance(source, str | bytes) and isinstance(destination, str | bytes):
        one, two = os.fsencode(source), os.fsencode(destination)
        if len(one) <= _UNIX_PATH and len(two) <= _UNIX_PATH:
            return 3, one, two
    return 0, b"", b""


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC of ``data`` (RFC 3720, appendix B.4); at most 4 KiB is ever summed."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF

"""
What a client says first: a ClientHello, read without a TLS library and without a key.

The laws kept here:

* Nothing in this module does input or output, and nothing is changed: :func:`parse_hello` looks at
  the bytes that came so far and answers "so many are needed", "this hello", or raises.
* A hello is bounded before it is believed: :data:`MAX_HELLO` bytes in :data:`MAX_RECORDS` records.
  The number that are needed is the least that the whole hello can still come to, so that a peer
  that sends it byte by byte, or in records of one byte, is looked at a few times and not for each.
* What two readers could read differently is refused: bytes left over within a field, an extension
  that is there twice.  What an unknown extension says is not looked at, nor is GREASE (RFC 8701).
* The name is the one that everybody on the way can read: with Encrypted ClientHello the outer one.

Sources: RFC 8446 sections 4.1.2, 4.2 and 5.1; RFC 6066 section 3; RFC 7301; RFC 5077; RFC 9849.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final

MAX_HELLO: Final = 65536
"""Bytes: the most records, their headers included, that a hello may fill."""

MAX_RECORDS: Final = 64
"""Records that a hello may be cut into."""

MAX_NAME: Final = 255
"""Bytes: the longest server name that is believed."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 16384
_HEADER: Final = 5
_MESSAGE: Final = 4
# A version, a random, no session, one cipher suite, one compression method, no extensions.
_LEAST: Final = 41

_SERVER_NAME: Final = 0
_ALPN: Final = 16
_TICKET: Final = 35
_PSK: Final = 41
_VERSIONS: Final = 43
_ECH: Final = 0xFE0D
_READ: Final = frozenset({_SERVER_NAME, _ALPN, _TICKET, _PSK, _VERSIONS, _ECH})

_KEY_NAME: Final = 16
"""Bytes: how much of a ticket names the key that it was made with."""

_USUAL: Final = 64
"""Bytes: fields of up to so many are remembered, as clients are of few kinds."""

_GREASE: Final = frozenset(0x1010 * number + 0x0A0A for number in range(16))
_GREASE_NAMES: Final = frozenset(number.to_bytes(2, "big") for number in _GREASE)

_pair = struct.Struct("!HH").unpack_from
_listed_name = struct.Struct("!HBH").unpack_from
_is_name = re.compile(rb"(?:[0-9a-z_-]++\.)*+[0-9a-z_-]++").fullmatch


class NotTls(ValueError):
    """Whatever the bytes are, a TLS connection does not begin with them."""


class BadHello(ValueError):
    """The bytes are a TLS connection's, but no ClientHello that can be read."""


class Hello:
    """
    What a ClientHello offers.

    ``server_name`` is lower case and has no trailing dot; empty where none was sent, or something
    that is no name.  ``alpn`` and ``versions`` are in the client's order, without GREASE; where the
    client does not list versions, ``versions`` is the one that it names as its highest.
    ``ticket``: the first 16 bytes of what is offered for resumption (of TLS 1.3's first identity,
    else of the ticket of TLS 1.2), empty if nothing is.  ``ech``: an Encrypted ClientHello came
    with it, or GREASE that looks like one, so that ``server_name`` may be but the outer name.
    ``size``: bytes of the records that it fills.
    """

    __slots__ = ("alpn", "ech", "server_name", "size", "ticket", "versions")

    def __init__(
        self,
        server_name: bytes,
        alpn: tuple[bytes, ...],
        versions: tuple[int, ...],
        ticket: bytes,
        ech: bool,
        size: int,
    ) -> None:
        self.server_name = server_name
        self.alpn = alpn
        self.versions = versions
        self.ticket = ticket
        self.ech = ech
        self.size = size

    def __repr__(self) -> str:
        # Not the ticket: who has it can ask for the session that it is for.
        return (
            f"<Hello {self.server_name!r} alpn={self.alpn!r} "
            f"versions={[hex(one) for one in self.versions]} {self.size} bytes>"
        )


def parse_hello(data: bytes) -> Hello | int:
    """
    Read a ClientHello from the start of ``data``, all the bytes that came so far.

    Returns the number of bytes, more than ``len(data)``, without which it cannot be whole.  Raises
    :class:`NotTls` or :class:`BadHello` as soon as it cannot become one.
    """
    came = len(data)
    if came < _HEADER + _MESSAGE:
        return _few(data, came)
    if data[0] != _HANDSHAKE or data[1] != 3:
        raise NotTls("not a TLS handshake")
    end = _HEADER + (data[3] << 8 | data[4])
    over = _HEADER + _MESSAGE + (data[6] << 16 | data[7] << 8 | data[8])
    if over > end or came < end or end > _HEADER + _MAX_RECORD or data[5] != _CLIENT_HELLO:
        joined = _join(data, came)
        if isinstance(joined, int):
            return joined
        message, end = joined
    else:
        message = data[_HEADER + _MESSAGE : over]
    try:
        return _read(message, end)
    except (IndexError, struct.error):
        raise BadHello("a field of the hello goes beyond its end") from None


def _few(data: bytes, came: int) -> int:
    """There are not the headers of a record and of a message."""
    if came and data[0] != _HANDSHAKE:
        raise NotTls("not a TLS handshake")
    if came < 2:
        return came + 1
    if data[1] != 3:
        raise NotTls("not a TLS handshake")
    if came < _HEADER:
        return _HEADER + _MESSAGE + _LEAST
    joined = _join(data, came)
    assert isinstance(joined, int)
    return joined


def _join(data: bytes, came: int) -> tuple[bytes, int] | int:
    """The message out of several records, and where they end; or how many bytes are needed."""
    pieces: list[bytes] = []
    start = got = records = 0
    whole = _MESSAGE + _LEAST
    known = False
    while True:
        if came < start + _HEADER:
            if came > start and data[start] != _HANDSHAKE:
                raise BadHello("another record within the hello")
            break
        if data[start] != _HANDSHAKE or data[start + 1] != 3:
            raise BadHello("another record within the hello")
        length = data[start + 3] << 8 | data[start + 4]
        if not 0 < length <= _MAX_RECORD:
            raise BadHello("a record that is empty, or longer than a record can be")
        records += 1
        if records > MAX_RECORDS:
            raise BadHello(f"a hello in more than {MAX_RECORDS} records")
        start += _HEADER
        piece = data[start : start + length]
        pieces.append(piece)
        if not got and piece and piece[0] != _CLIENT_HELLO:
            raise BadHello("a handshake that does not begin with a ClientHello")
        got += len(piece)
        if not known and got >= _MESSAGE:
            known = True
            head = b"".join(pieces)
            said = int.from_bytes(head[1:_MESSAGE], "big")
            if said < _LEAST:
                raise BadHello("a hello too short to be one")
            whole = _MESSAGE + said
        if len(piece) < length:
            # The rest of this record, and what does not fit into it.
            got += length - len(piece)
            start += length
            break
        start += length
        if got >= whole:
            if start > MAX_HELLO:
                raise BadHello(f"a hello of more than {MAX_HELLO} bytes")
            return b"".join(pieces)[_MESSAGE:whole], start
    left = whole - got
    if left > 0:
        start += left + _HEADER * -(-left // _MAX_RECORD)
    if start > MAX_HELLO:
        raise BadHello(f"a hello of more than {MAX_HELLO} bytes")
    return start


def _read(message: bytes, size: int) -> Hello:
    """Read the whole ``message``; IndexError or struct.error where it is cut short."""
    stop = len(message)
    if stop < _LEAST:
        raise BadHello("a hello too short to be one")
    if message[0] != 3:
        raise BadHello("a hello of an unknown version")
    length = message[34]
    if length > 32:
        raise BadHello("a session id that is too long")
    at = 35 + length
    length = message[at] << 8 | message[at + 1]
    if not length or length & 1:
        raise BadHello("a bad list of cipher suites")
    at += 2 + length
    length = message[at]
    if not length:
        raise BadHello("a bad list of compression methods")
    at += 1 + length
    server_name = ticket = identity = b""
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    seen = 0
    ech = False
    if at != stop:
        if at + 2 + (message[at] << 8 | message[at + 1]) != stop:
            raise BadHello("extensions that do not fill the hello")
        at += 2
        pair, read = _pair, _READ
        while at < stop:
            kind, length = pair(message, at)
            at += 4
            if kind in read:
                # Six bits tell those that are read apart.
                bit = 1 << (kind & 63)
                if seen & bit:
                    raise BadHello("an extension that is there twice")
                seen |= bit
                if at + length > stop:
                    raise BadHello("an extension that goes beyond the hello")
                if kind == _SERVER_NAME:
                    server_name = _name(message, at, length)
                elif kind == _ALPN:
                    field = message[at : at + length]
                    alpn = _protocols(field) if length <= _USUAL else _protocols.__wrapped__(field)
                elif kind == _VERSIONS:
                    field = message[at : at + length]
                    versions = _offered(field) if length <= _USUAL else _offered.__wrapped__(field)
                elif kind == _TICKET:
                    ticket = message[at : at + min(length, _KEY_NAME)]
                elif kind == _PSK:
                    identity = _identity(message[at : at + length])
                else:
                    ech = True
            at += length
        if at != stop:
            raise BadHello("an extension that goes beyond the hello")
    if not seen >> _VERSIONS & 1:
        versions = (message[0] << 8 | message[1],)
    return Hello(server_name, alpn, versions, identity or ticket, ech, size)


def _name(message: bytes, at: int, length: int) -> bytes:
    """The server name: a list of one, as everybody reads and nobody extends it."""
    listed, kind, size = _listed_name(message, at) if length >= 5 else (0, 0, 0)
    if length < 5 or listed != length - 2 or kind or size != length - 5:
        raise BadHello("a bad server name")
    return plain_name(message[at + 5 : at + length])


def plain_name(name: bytes) -> bytes:
    """As names are compared: lower case, without a trailing dot; empty if it is none."""
    if len(name) > MAX_NAME:
        return b""
    name = name.lower()
    if name[-1:] == b".":
        name = name[:-1]
    return name if _is_name(name) else b""


@lru_cache(128)
def _protocols(field: bytes) -> tuple[bytes, ...]:
    stop = len(field)
    if stop < 4 or (field[0] << 8 | field[1]) != stop - 2:
        raise BadHello("a bad list of protocols")
    found: list[bytes] = []
    at = 2
    while at < stop:
        begin = at + 1
        at = begin + field[at]
        if at == begin:
            raise BadHello("a bad list of protocols")
        name = field[begin:at]
        if name not in _GREASE_NAMES:
            found.append(name)
    if at != stop:
        raise BadHello("a bad list of protocols")
    return tuple(found)


@lru_cache(128)
def _offered(field: bytes) -> tuple[int, ...]:
    size = len(field)
    if size < 3 or not size & 1 or field[0] != size - 1:
        raise BadHello("a bad list of versions")
    return tuple(
        [one for one in struct.unpack_from(f"!{size >> 1}H", field, 1) if one not in _GREASE]
    )


def _identity(field: bytes) -> bytes:
    """The beginning of the first identity of ``pre_shared_key``."""
    listed, size = _pair(field, 0)
    if not size or size + 6 > listed or listed + 2 > len(field):
        raise BadHello("a bad list of identities")
    return field[4 : 4 + min(size, _KEY_NAME)]

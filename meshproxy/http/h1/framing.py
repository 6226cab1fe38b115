"""
Where a message's body ends.

The law it keeps (RFC 9112, 6 and 7): a length is digits alone; a chunk size is hexadecimal
digits alone, of at most 15; a chunk ends in CRLF; a chunk extension is checked for control
characters, bounded, and dropped; trailers are fields as strict as a head's. What is not exactly
so is refused, so that no two parsers can read it differently.
"""

from __future__ import annotations

import re

from meshproxy.http.h1.fields import lookup, parse_line
from meshproxy.http.headers import (
    CLIENT_CERT,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOP,
    HOST,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    Field,
    Headers,
)

#: The most bytes of a chunk-size line, extension included.
SIZE_LINE = 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch

#: Fields that would change the framing or the routing of a message that has begun already
#: (RFC 9110, 6.5.1), or who it is from: dropped from trailers.
_NOT_IN_TRAILERS = frozenset(
    (HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, HOP, UPGRADE, EXPECT, TE, CLIENT_CERT)
)


def parse_length(value: bytes) -> int:
    """The number of a Content-Length field. Raises ``ValueError`` when it is not digits alone."""
    if _LENGTH(value) is None:
        raise ValueError("bad content-length")
    return int(value)


#: Options of a connection that name no field, and a field that is judged by itself.
_OPTIONS = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))


def connection_options(value: bytes, fields: list[Field]) -> tuple[set[bytes], list[Field]]:
    """
    The options of a Connection field in lower case, and ``fields`` without those it names
    (RFC 9110, 7.6.1).

    Raises ``ValueError`` when it names the length: that is framing, not an option of this hop.
    """
    options = {option.strip() for option in value.lower().split(b",")}
    named = options - _OPTIONS
    if named:
        if b"content-length" in named:
            raise ValueError("connection names content-length")
        fields = [field for field in fields if field[0] not in named]
    return options, fields


class ChunkedDecoder:
    """
    Decodes a chunked body as it arrives.

    :meth:`feed` returns the payload decoded so far; when ``finished`` is true, ``rest`` holds
    the bytes after the message and ``trailers`` its trailer fields (None when there are none).
    Memory: at most a size line, or trailers of ``limit`` bytes; payload is never kept.
    """

    __slots__ = ("_buffer", "_limit", "_remaining", "finished", "rest", "trailers")

    def __init__(self, limit: int = 61440) -> None:
        self._buffer = b""
        self._limit = limit
        # > 0: payload bytes left; 0: a size line is next; -1: the CRLF after a chunk is
        # next; -2: trailers.
        self._remaining = 0
        self.finished = False
        self.rest = b""
        self.trailers: Headers | None = None

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``. Raises ``ValueError`` when the coding is broken."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        position = 0
        length = len(data)
        remaining = self._remaining
        pieces: list[bytes] = []
        while True:
            if remaining > 0:
                piece = data[position : position + remaining]
                if piece:
                    pieces.append(piece)
                    position += len(piece)
                    remaining -= len(piece)
                if remaining:
                    break
                remaining = -1
            if remaining == -1:
                if length - position < 2:
                    if position < length and data[position] != 13:
                        raise ValueError("bad chunk")
                    self._buffer = data[position:]
                    break
                if data[position : position + 2] != b"\r\n":
                    raise ValueError("bad chunk")
                position += 2
                remaining = 0
            if remaining == 0:
                end = data.find(b"\r\n", position)
                if end < 0:
                    if length - position > SIZE_LINE + 1:  # the last may be CR
                        raise ValueError("chunk size line too long")
                    if b"\n" in data[position:]:
                        raise ValueError("bad chunk size")
                    self._buffer = data[position:]
                    break
                if end - position > SIZE_LINE:
                    raise ValueError("chunk size line too long")
                match = _SIZE(data, position, end)
                if match is None:
                    raise ValueError("bad chunk size")
                remaining = int(match.group(1), 16)
                position = end + 2
                if remaining == 0:
                    remaining = -2
            if remaining == -2:
                self._trailers(data[position:])
                break
        self._remaining = remaining
        if len(pieces) == 1:
            return pieces[0]
        return b"".join(pieces)

    def _trailers(self, data: bytes) -> None:
        if data.startswith(b"\r\n"):
            self.finished = True
            self.rest = data[2:]
            return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > self._limit + 3:  # the last three may be CR LF CR
                raise ValueError("trailers too large")
            self._buffer = data
            return
        if end > self._limit:
            raise ValueError("trailers too large")
        fields: list[Field] = []
        for line in data[:end].split(b"\r\n"):
            field = lookup(line) or parse_line(line)
            if field[3] not in _NOT_IN_TRAILERS:
                fields.append(field)
        if len(fields) > 100:
            raise ValueError("too many trailers")
        self.finished = True
        self.rest = data[end + 4 :]
        self.trailers = Headers(fields) if fields else None

"""
Header fields, ordered and case-insensitive.

The law they keep: names are lower-case bytes, values have no white space around them and no CR,
LF or NUL inside; whoever makes a field has checked it. A field carries its HTTP/1 line, made
once, so that forwarding it costs one list item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product

#: (name in lower case, value, ``name: value CRLF``, one of the kinds below)
Field = tuple[bytes, bytes, bytes, int]

# What a codec or the core must look at when it meets a field; 0 is everything else.
PLAIN = 0
HOST = 1
CONTENT_LENGTH = 2
TRANSFER_ENCODING = 3
CONNECTION = 4
HOP = 5  # keep-alive, proxy-connection: never forwarded
UPGRADE = 6
EXPECT = 7
TE = 8
FORWARDED_FOR = 9
FORWARDED_PROTO = 10
FORWARDED_HOST = 11
REQUEST_ID = 12
SERVER = 13
DATE = 14
FORWARDED = 15
VIA = 16
CLIENT_CERT = 17

KINDS = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"te": TE,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-request-id": REQUEST_ID,
    b"server": SERVER,
    b"date": DATE,
    b"forwarded": FORWARDED,
    b"via": VIA,
    # CGI and what came of it tell no dash from an underscore: each spelling is this name there.
    **{
        b"x%bforwarded%bclient%bcert" % dashes: CLIENT_CERT
        for dashes in product((b"-", b"_"), repeat=3)
    },
}

#: Kinds that frame a message or belong to one connection: the proxy alone puts them in or out.
FRAMING = frozenset((HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, HOP, UPGRADE))

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


def make_field(name: bytes, value: bytes) -> Field:
    """
    A field of a name and a value (RFC 9110, 5.5; any case, surrounding white space dropped).

    Raises ``ValueError`` when the name is not a token or the value has control characters.
    """
    if _NAME(name) is None:
        raise ValueError(f"not a header name: {name!r}")
    value = value.strip(b" \t")
    if _FORBIDDEN(value) is not None:
        raise ValueError(f"control character in the value of {name!r}")
    name = name.lower()
    return name, value, b"%b: %b\r\n" % (name, value), KINDS.get(name, PLAIN)


def _free(field: Field) -> Field:
    if field[3] in FRAMING:
        raise ValueError(f"{field[0].decode()} frames the message: the proxy alone sets it")
    return field


class Headers:
    """
    The fields of a head or of trailers.

    Names given to the methods are lower-case bytes; ``fields`` is the list itself. ``marks``
    may be false only when no field has a kind: who parses knows it for nothing.
    """

    __slots__ = ("fields", "marks")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self.fields: list[Field] = list(fields)
        self.marks = True

    @classmethod
    def parsed(cls, fields: list[Field], marks: bool) -> Headers:
        """Headers that take ``fields`` as their own list, for codecs."""
        headers = cls.__new__(cls)
        headers.fields = fields
        headers.marks = marks
        return headers

    @classmethod
    def of(cls, pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Headers of (name, value) pairs. Raises ``ValueError`` as :func:`make_field`."""
        return cls(make_field(name, value) for name, value in pairs)

    def get(self, name: bytes, default: bytes | None = None) -> bytes | None:
        """The first value of ``name``, or ``default``."""
        for field in self.fields:
            if field[0] == name:
                return field[1]
        return default

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of ``name``, in order."""
        return [field[1] for field in self.fields if field[0] == name]

    def set(self, name: bytes, value: bytes) -> None:
        """
        Replace all fields of ``name`` by one at the place of the first, or append it.

        Raises ``ValueError`` as :func:`make_field`, and for what frames the message (Host,
        Connection, Content-Length, Transfer-Encoding and the like).
        """
        self.set_field(_free(make_field(name, value)))

    def set_field(self, field: Field) -> None:
        """As :meth:`set`, with a field made before."""
        name = field[0]
        fields = self.fields
        if field[3]:
            self.marks = True
        for number, held in enumerate(fields):
            if held[0] == name:
                fields[number] = field
                tail = [other for other in fields[number + 1 :] if other[0] != name]
                del fields[number + 1 :]
                fields += tail
                return
        fields.append(field)

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field. Raises as :meth:`set`."""
        field = _free(make_field(name, value))
        if field[3]:
            self.marks = True
        self.fields.append(field)

    def remove(self, name: bytes) -> None:
        """Drop every field of ``name``; none is no error. Raises as :meth:`set`."""
        if KINDS.get(name, PLAIN) in FRAMING:
            raise ValueError(f"{name.decode()} frames the message: the proxy alone removes it")
        self.drop(name)

    def drop(self, name: bytes) -> None:
        """As :meth:`remove`, whatever it is: for codecs and the core."""
        fields = self.fields
        for field in fields:
            if field[0] == name:
                self.fields = [other for other in fields if other[0] != name]
                return

    def __contains__(self, name: object) -> bool:
        return any(field[0] == name for field in self.fields)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for field in self.fields:
            yield field[0], field[1]

    def __len__(self) -> int:
        return len(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"

"""
What is written of bytes that somebody else chose.

The laws it keeps:

- What comes out is printable ASCII without a quotation mark or a lone backslash: it can neither end
  the quotes it is put in, nor the line, nor drive a terminal. In JSON it is the inside of a string.
- Bytes that :data:`ODD` leaves as they are need no escaping, alone or joined: one ``translate``
  over all values of a line is the whole price of an ordinary one.
- Nothing is lost: what is odd is spelled out. In JSON, UTF-8 is kept as the characters it means and
  any other byte is written as four characters, ``\\xff``.
"""

from __future__ import annotations

import json

_ORDINARY = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')

#: A table for ``bytes.translate`` that changes a value exactly when it needs escaping.
ODD = bytes(byte if byte in _ORDINARY else 0x3F for byte in range(256))

_SPELLED = {ord("\n"): b"\\n", ord("\r"): b"\\r", ord("\t"): b"\\t", 0x22: b'\\"', 0x5C: b"\\\\"}
_TEXT = [
    bytes((byte,)) if byte in _ORDINARY else _SPELLED.get(byte, b"\\x%02x" % byte)
    for byte in range(256)
]


def escape_text(value: bytes) -> bytes:
    """``value`` for a text line: backslash escapes as in C."""
    return b"".join([_TEXT[byte] for byte in value])


def escape_json(value: bytes) -> bytes:
    """``value`` for the inside of a JSON string (RFC 8259, 7), in ASCII."""
    return json.dumps(value.decode("utf-8", "backslashreplace"))[1:-1].encode("ascii")

"""
Field lines to fields.

The law it keeps (RFC 9112, 5): a line is ``token ":" value``, with nothing between the name and
the colon, and no CR, LF, NUL or other control character but TAB in the value. Folded lines
begin with white space, which is no token: they are refused, as is everything else. Nothing is
repaired.

Real clients repeat their lines word for word, so a line seen before is one dictionary look-up.
The memory is bounded (:data:`LINES` lines of at most :data:`LINE` bytes), and lines that carry
secrets, or whose name has shown too many values, are not kept.
"""

from __future__ import annotations

import re

from meshproxy.http.headers import KINDS, Field

LINES = 4096
LINE = 256
NAMES = 1024

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search

_SECRET = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
#: Lines of one name kept in a row. A name with more is one whose value changes with every
#: message: keeping it would push out the others, and memory that is always new is slow memory.
VALUES = 64
#: After so many lines the name gets another chance (``date`` changes too, but once a second).
PATIENCE = 16384

_lines: dict[bytes, Field] = {}
# name as written -> name in lower case, the line's beginning, kind, and how many lines of it
# were met for the first time (a list of one; None for secrets)
_names: dict[bytes, tuple[bytes, bytes, int, list[int] | None]] = {}

#: ``lookup(line)`` is the field of a line seen before, or None: then call :func:`parse_line`.
lookup = _lines.get


def parse_line(line: bytes) -> Field:
    """
    The field of ``line`` (without CRLF).

    Raises ``ValueError`` with what is wrong; the message never quotes the value.
    """
    raw, colon, value = line.partition(b":")
    known = _names.get(raw)
    if known is None:
        if not colon or _NAME(raw) is None:
            raise ValueError("bad header line")
        name = raw.lower()
        known = (
            name,
            name + b": ",
            KINDS.get(name, 0),
            None if name in _SECRET else [0],
        )
        if len(raw) <= 64:
            if len(_names) >= NAMES:
                _names.clear()
            _names[raw] = known
    elif not colon:
        raise ValueError("bad header line")
    value = value.strip(b" \t")
    if not value.isalnum() and _FORBIDDEN(value) is not None:
        raise ValueError("control character in a header value")
    field = (known[0], value, known[1] + value + b"\r\n", known[2])
    met = known[3]
    if met is not None:
        count = met[0] + 1
        met[0] = count if count < PATIENCE else 0
        if count <= VALUES and len(line) <= LINE:
            if len(_lines) >= LINES:
                _lines.clear()
            _lines[line] = field
    return field

"""
What a connection's messages have in common.

The law it keeps: whoever sends many heads on one connection begins most of them with the same
lines. The bytes of those lines are compared in one step, and what they mean is taken from the
last time; equal bytes mean the same, so the outcome is the one that parsing would have. Lines
about the body's length, upgrades and expectations are never part of it: they are looked at each
time. One run of lines is kept for a connection, learnt from two heads in a row and given up at
the first that differs.
"""

from __future__ import annotations

from meshproxy.http.h1.fields import lookup, parse_line
from meshproxy.http.headers import CONNECTION, HOP, HOST, TE, Field

#: The fewest lines worth keeping, and the most bytes kept.
LINES = 3
BYTES = 2048
#: Heads to let pass before trying again, when two had nothing in common.
PATIENCE = 64


class Memo:
    """
    The run of lines that the heads of one connection begin with.

    ``raw`` is its bytes, each line with its CRLF, or empty. A head whose lines begin with it has
    ``fields``, ``marks``, ``host`` and ``connection`` (both None when absent) of these ``count``
    lines already.
    """

    __slots__ = ("_lines", "_wait", "connection", "count", "fields", "host", "marks", "raw")

    def __init__(self) -> None:
        self.raw = b""
        self.count = 0
        self.fields: list[Field] = []
        self.marks = False
        self.host: bytes | None = None
        self.connection: bytes | None = None
        self._lines: list[bytes] | None = None
        self._wait = 0

    def learn(self, lines: list[bytes]) -> None:
        """A head of ``lines`` was parsed, and found good, without the memo's help."""
        self.raw = b""
        if self._wait:
            self._wait -= 1
            return
        previous, self._lines = self._lines, lines
        if previous is None:
            return
        self._lines = None
        fields: list[Field] = []
        marks = False
        host: bytes | None = None
        connection: bytes | None = None
        count = size = 0
        # The last line of a head has no CRLF of its own here, so it is never part of the run.
        for one, other in zip(previous, lines[:-1], strict=False):
            if one != other or size + len(one) + 2 > BYTES:
                break
            field = lookup(one) or parse_line(one)
            kind = field[3]
            if not kind or kind > TE:
                fields.append(field)
                marks = marks or kind > TE
            elif kind == HOST and host is None:
                host = field[1]
            elif kind == CONNECTION and connection is None:
                connection = field[1]
            elif kind != HOP:
                break
            count += 1
            size += len(one) + 2
        if count < LINES:
            self._wait = PATIENCE
            return
        self.raw = b"\r\n".join([*lines[:count], b""])
        self.count = count
        self.fields = fields
        self.marks = marks
        self.host = host
        self.connection = connection

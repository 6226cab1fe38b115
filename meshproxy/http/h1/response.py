"""
A response's head (RFC 9112, 4 and 6), judged as strictly as a request's.

The law it keeps: what an upstream sends is never forwarded ambiguous. Where this module raises
``ValueError``, the exchange answers 502.
"""

from __future__ import annotations

import re

from meshproxy.http.h1.fields import lookup, parse_line
from meshproxy.http.h1.framing import connection_options, parse_length
from meshproxy.http.h1.memo import Memo
from meshproxy.http.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    HOP,
    HOST,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    Field,
)

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?").fullmatch

_STATUSES = 256
_statuses: dict[bytes, tuple[int, bool]] = {}

#: ``length`` of a body that ends with the connection.
UNTIL_CLOSE = -2
#: ``length`` of a chunked body.
CHUNKED = -1


class ResponseHead:
    """What a head says. ``length``: bytes, :data:`CHUNKED` or :data:`UNTIL_CLOSE`."""

    __slots__ = ("fields", "keep_alive", "length", "status", "upgrade")

    status: int
    fields: list[Field]
    length: int
    keep_alive: bool
    upgrade: bytes


def parse_response(
    block: bytes, method: bytes, max_headers: int, memo: Memo | None = None
) -> ResponseHead:
    """
    The head in ``block`` (everything before the empty line, without its last CRLF), answering
    a request of ``method``. Hop-by-hop fields are taken out. ``memo`` is the connection's, when
    it may send more heads of the same kind. Raises ``ValueError``.
    """
    count = 0
    raw = memo.raw if memo is not None else b""
    begin = block.find(b"\r\n") + 2
    again = raw and begin > 1 and block.startswith(raw, begin)
    if again:
        first = block[: begin - 2]
        lines = block[begin + len(raw) :].split(b"\r\n")
        count = memo.count  # type: ignore[union-attr]
    else:
        lines = block.split(b"\r\n")
        first = lines[0]
        del lines[0]
    known = _statuses.get(first)
    if known is None:
        match = _STATUS_LINE(first)
        if match is None:
            raise ValueError("bad status line")
        known = int(match.group(2)), match.group(1) == b"0"
        if len(_statuses) >= _STATUSES:
            _statuses.clear()
        if len(first) <= 128:
            _statuses[first] = known
    status, old = known
    if len(lines) + count > max_headers:
        raise ValueError("too many headers")

    connection: bytes | None
    if again:
        assert memo is not None
        fields = memo.fields.copy()
        connection = memo.connection
    else:
        fields = []
        connection = None
    append = fields.append
    length = UNTIL_CLOSE
    length_field: Field | None = None
    encoding: bytes | None = None
    upgrade = b""
    for line in lines:
        field = lookup(line)
        if field is None:
            field = parse_line(line)
        kind = field[3]
        if not kind or kind > TE:
            append(field)
        elif kind == CONTENT_LENGTH:
            if length_field is not None:
                raise ValueError("two content-lengths")
            length = parse_length(field[1])
            length_field = field
            append(field)
        elif kind == TRANSFER_ENCODING:
            if encoding is not None:
                raise ValueError("two transfer-encodings")
            encoding = field[1]
        elif kind == CONNECTION:
            connection = field[1] if connection is None else connection + b"," + field[1]
        elif kind == UPGRADE:
            upgrade = field[1].lower()
        elif kind != HOP and kind != HOST:
            append(field)

    keep_alive = not old
    if connection is not None:
        lowered = connection.lower()
        if lowered == b"close":
            keep_alive = False
        elif lowered == b"keep-alive":
            keep_alive = True
        else:
            options, fields = connection_options(connection, fields)
            if b"close" in options:
                keep_alive = False
            elif b"keep-alive" in options:
                keep_alive = True

    if encoding is not None:
        if length_field is not None:
            raise ValueError("content-length and transfer-encoding")
        if old or encoding.lower() != b"chunked":
            raise ValueError("unsupported transfer-encoding")
        length = CHUNKED
    if status < 200 or status == 204:
        # RFC 9112, 6.3: no body, and no statement of one may pass (RFC 9110, 8.6).
        if length_field is not None:
            fields = [field for field in fields if field[3] != CONTENT_LENGTH]
        length = 0
    elif status == 304 or method == b"HEAD":
        length = 0
    head = ResponseHead()
    head.status = status
    head.fields = fields
    head.length = length
    head.keep_alive = keep_alive and length != UNTIL_CLOSE
    head.upgrade = upgrade
    if memo is not None and not again:
        memo.learn(lines)
    return head

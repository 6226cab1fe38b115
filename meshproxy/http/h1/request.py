"""
A request's head (RFC 9112, 2, 3, 5 and 6).

The law it keeps: a head is accepted only when every parser would read it alike. Lines end in
CRLF; the request line has exactly two spaces; there is one Host; there is at most one
statement of the body's length. Nothing is repaired. What Envoy answers is answered here
(400, 426, 431, 501), except that HTTP/1.0 is served.
"""

from __future__ import annotations

import re

from meshproxy.http import replies
from meshproxy.http.h1.fields import lookup, parse_line
from meshproxy.http.h1.framing import connection_options, parse_length
from meshproxy.http.h1.memo import Memo
from meshproxy.http.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    Field,
)
from meshproxy.http.replies import Reply

#: The methods of the IANA registry, and those in wide use beside it. Others are refused, as
#: Envoy does: a method nobody knows is more often a broken client than a need.
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH QUERY "
    b"ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY LABEL LINK LOCK MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE ORDERPATCH PRI PROPFIND PROPPATCH REBIND "
    b"REPORT SEARCH UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL "
    b"PURGE NOTIFY SUBSCRIBE UNSUBSCRIBE M-SEARCH SOURCE".split()
) - {b"PRI"}  # PRI is reserved: it begins an HTTP/2 connection (RFC 9113, 11.7)

#: The empty lines that ``data`` begins with (RFC 9112, 2.2): ignored before a request line.
EMPTY_LINES = re.compile(rb"(?:\r\n)*+").match

_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]+").fullmatch  # visible ASCII without "#"
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9\-._~]+)?\])(?::[0-9]{0,5})?"
).fullmatch
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)", re.DOTALL).fullmatch

#: A name of 255 bytes (RFC 1035, 2.3.4) and a port: what is longer names nothing, and hosts are
#: kept in caches.
AUTHORITY = 261
_HOSTS = 1024
_hosts: set[bytes] = set()


class Refused(Exception):
    """The request cannot be served; ``reply`` is what to answer before closing."""

    def __init__(self, reply: Reply, why: str = "") -> None:
        super().__init__(why or reply.details.decode())
        self.reply = reply


def _bad(why: str) -> Refused:
    return Refused(replies.BAD_REQUEST, why)


def valid_authority(authority: bytes) -> bool:
    """Whether ``authority`` is host[:port] of RFC 3986 (no user information)."""
    if authority in _hosts:
        return True
    if len(authority) > AUTHORITY or _AUTHORITY(authority) is None:
        return False
    if len(_hosts) >= _HOSTS:
        _hosts.clear()
    _hosts.add(authority)
    return True


class RequestHead:
    """What a head says. ``length``: the body's, -1 when chunked, 0 without a body."""

    __slots__ = (
        "authority",
        "expect_continue",
        "fields",
        "keep_alive",
        "length",
        "marks",
        "method",
        "old",
        "target",
        "upgrade",
    )

    method: bytes
    target: bytes
    authority: bytes
    fields: list[Field]
    marks: bool  # some fields have a kind
    length: int
    keep_alive: bool
    old: bool  # HTTP/1.0
    upgrade: bytes
    expect_continue: bool


def parse_request(block: bytes, max_headers: int, memo: Memo | None = None) -> RequestHead:
    """
    The head in ``block``: everything before the empty line, without its last CRLF.

    ``memo`` is the connection's, when it may send more heads of the same kind.

    Hop-by-hop fields (RFC 9110, 7.6.1), Host and Expect are taken out of ``fields``.
    Raises :class:`Refused`.
    """
    count = 0
    raw = memo.raw if memo is not None else b""
    begin = block.find(b"\r\n") + 2
    known = raw and begin > 1 and block.startswith(raw, begin)
    if known:
        first = block[: begin - 2]
        lines = block[begin + len(raw) :].split(b"\r\n")
        count = memo.count  # type: ignore[union-attr]
    else:
        lines = block.split(b"\r\n")
        first = lines[0]
        del lines[0]
    try:
        method, target, version = first.split(b" ")
    except ValueError:
        raise _bad("bad request line") from None
    if version == b"HTTP/1.1":
        old = False
    elif version == b"HTTP/1.0":
        old = True
    elif _VERSION(version):
        raise Refused(replies.UPGRADE_REQUIRED)
    else:
        raise _bad("bad version")
    if method not in METHODS:
        if method == b"CONNECT" and valid_authority(target):
            # A tunnel to anywhere is no route of a reverse proxy; Envoy answers the same.
            raise Refused(replies.NO_ROUTE)
        raise _bad("unknown method")
    if len(lines) + count > max_headers:
        raise Refused(replies.HEADERS_TOO_LARGE)

    host: bytes | None
    connection: bytes | None
    if known:
        assert memo is not None
        fields = memo.fields.copy()
        marks = memo.marks
        host = memo.host
        connection = memo.connection
    else:
        fields = []
        marks = False
        host = connection = None
    append = fields.append
    length = 0
    length_given = False
    encoding: bytes | None = None
    upgrade: bytes | None = None
    te: Field | None = None
    expect = False
    for line in lines:
        field = lookup(line)
        if field is None:
            try:
                field = parse_line(line)
            except ValueError as error:
                raise _bad(str(error)) from None
        kind = field[3]
        if not kind:
            append(field)
        elif kind > TE:
            append(field)
            marks = True
        elif kind == HOST:
            if host is not None:
                raise _bad("two hosts")
            host = field[1]
        elif kind == CONTENT_LENGTH:
            if length_given:
                raise _bad("two content-lengths")
            try:
                length = parse_length(field[1])
            except ValueError as error:
                raise _bad(str(error)) from None
            length_given = True
            append(field)
        elif kind == TRANSFER_ENCODING:
            if encoding is not None:
                raise _bad("two transfer-encodings")
            encoding = field[1]
        elif kind == CONNECTION:
            connection = field[1] if connection is None else connection + b"," + field[1]
        elif kind == UPGRADE:
            upgrade = field[1] if upgrade is None else upgrade + b"," + field[1]
        elif kind == EXPECT:
            if field[1].lower() != b"100-continue":
                raise Refused(replies.EXPECTATION)
            expect = not old
        elif kind == TE:
            te = field
        # HOP: dropped

    head = RequestHead()
    if encoding is not None:
        if length_given:
            raise _bad("content-length and transfer-encoding")
        if old:
            raise _bad("transfer-encoding in HTTP/1.0")
        if encoding.lower() != b"chunked":
            raise Refused(replies.NOT_IMPLEMENTED)
        length = -1

    keep_alive = not old
    head.upgrade = b""
    if connection is not None:
        lowered = connection.lower()
        if lowered == b"close":
            keep_alive = False
        elif lowered == b"keep-alive":
            keep_alive = True
        else:
            try:
                options, fields = connection_options(connection, fields)
            except ValueError as error:
                raise _bad(str(error)) from None
            if b"close" in options:
                keep_alive = False
            elif b"keep-alive" in options:
                keep_alive = True
            if upgrade is not None and b"upgrade" in options and not old:
                head.upgrade = upgrade.strip().lower()
    if te is not None and te[1].lower() == b"trailers":
        fields.append(te)
    if head.upgrade == b"h2c":
        head.upgrade = b""  # RFC 9110, 7.8: a server may ignore it; RFC 9113 withdrew it
    if head.upgrade and length != 0:
        raise _bad("an upgrade with a body")

    if target[:1] == b"/":
        if _TARGET(target) is None:
            raise _bad("bad target")
    elif target == b"*":
        if method != b"OPTIONS":
            raise _bad("bad target")
    else:
        match = _ABSOLUTE(target)
        if match is None or _TARGET(target) is None:
            raise _bad("bad target")
        # RFC 9112, 3.2.2: the target's host wins over the field, which must be there and good.
        if host is None:
            if not old:
                raise _bad("no host")
        elif not valid_authority(host):
            raise _bad("bad host")
        host = match.group(1)
        target = match.group(2)
        if target[:1] != b"/":
            target = b"*" if method == b"OPTIONS" and not target else b"/" + target
    if host is None:
        if not old:
            raise _bad("no host")
        host = b""
    elif not valid_authority(host):
        raise _bad("bad host")

    head.method = method
    head.target = target
    head.authority = host
    head.fields = fields
    head.marks = marks
    head.length = length
    head.keep_alive = keep_alive
    head.old = old
    head.expect_continue = expect
    if memo is not None and not known:
        memo.learn(lines)
    return head

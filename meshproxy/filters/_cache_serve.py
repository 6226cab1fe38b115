"""
A stored response as the answer to a request (RFC 9110, 13 and 14; RFC 9111, 4.3.2 and 5.1).

The law it keeps: a client's conditions are judged as the origin would judge them by what is
stored; the answer carries the age of what it is made of; and what cannot be judged here is said to
be so, never guessed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meshproxy.api import Response
from meshproxy.filters._cache_control import FOREVER, http_date

if TYPE_CHECKING:
    from meshproxy.api import Headers
    from meshproxy.filters._cache_store import Entry, Line

__all__ = ["answer", "of_entry", "same_etag"]

#: What a 304 and a 416 carry of the stored fields (RFC 9110, 15.4.5), and what a policy says of
#: the answer as much as of the response it is made of.
_KEPT = frozenset(
    b"cache-control content-location date etag expires vary access-control-allow-origin "
    b"access-control-allow-credentials access-control-expose-headers".split()
)

_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)", re.IGNORECASE).fullmatch
_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")').fullmatch
_TAGS = re.compile(rb'[ \t,]*+(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")(?=[ \t]*(?:,|$))').match

#: Digits of a position in a range that are read; nothing stored is as long as that.
_DIGITS = 15

_ages: dict[int, Line] = {}
_AGES = 4096


def _age(seconds: float) -> Line:
    number = min(int(seconds), FOREVER)
    field = _ages.get(number)
    if field is None:
        value = b"%d" % number
        if len(_ages) >= _AGES:
            _ages.clear()
        field = _ages[number] = (b"age", value, b"age: %b\r\n" % value, 0)
    return field


def of_entry(entry: Entry, age: float, details: bytes) -> Response:
    """The stored response itself; the entry is warm."""
    fields = [*entry.fields, _ages.get(int(age)) or _age(age)]  # type: ignore[misc]
    return Response.of(entry.status, entry.body, fields, details=details)  # type: ignore[arg-type]


def same_etag(one: bytes, other: bytes) -> bool:
    """Weak comparison (RFC 9110, 8.8.3.2)."""
    a, b = _TAG(one), _TAG(other)
    return a is not None and b is not None and a[2] == b[2]


def _listed(condition: bytes, etag: bytes) -> bool:
    """Whether If-None-Match matches: ``*``, or a list with this tag. Weak comparison."""
    if condition.strip(b" \t") == b"*":
        return True
    own = _TAG(etag)
    if own is None:
        return False
    position = 0
    while (match := _TAGS(condition, position)) is not None:
        if match[1] == own[2]:
            return True
        position = match.end()
    return False


def _not_modified(entry: Entry, request: Headers) -> bool:
    """RFC 9110, 13.2.2, steps 3 and 4; RFC 9111, 4.3.2."""
    tags = request.get_all(b"if-none-match")
    if tags:
        return _listed(b",".join(tags), entry.etag)
    since = request.get_all(b"if-modified-since")
    if len(since) != 1:
        return False
    limit = http_date(since[0])
    if limit is None:
        return False
    changed = http_date(entry.modified)
    if changed is None:
        dated = next((f[1] for f in entry.fields or () if f[0] == b"date"), b"")
        changed = http_date(dated)
        if changed is None:
            changed = int(entry.wall)
    return changed <= limit


def _range_holds(entry: Entry, condition: bytes | None) -> bool:
    """If-Range: strong comparison (RFC 9110, 13.1.5)."""
    if condition is None:
        return True
    if condition.startswith(b'"'):
        return condition == entry.etag
    changed = http_date(entry.modified)
    if changed is None or condition != entry.modified:
        return False
    # Strong only when it cannot have changed twice in that second (RFC 9110, 8.8.2.2).
    dated = next((f[1] for f in entry.fields or () if f[0] == b"date"), b"")
    sent = http_date(dated)
    return sent is not None and sent - changed >= 1


def _slice(spec: bytes, length: int) -> tuple[int, int] | None:
    """
    The first byte and the one behind the last of a range; None when it is to be ignored (several
    ranges, another unit, no range at all); an empty one when it cannot be satisfied.
    """
    match = _RANGE(spec.strip(b" \t"))
    if match is None:
        return None
    first, last = match[1], match[2]
    if len(first) > _DIGITS or len(last) > _DIGITS:
        return None
    if first:
        begin = int(first)
        if last and int(last) < begin:
            return None
        return (begin, min(int(last) + 1, length) if last else length) if begin < length else (0, 0)
    if not last:
        return None
    return (max(0, length - int(last)), length) if int(last) and length else (0, 0)


def answer(entry: Entry, age: float, method: bytes, request: Headers, details: bytes) -> Response:
    """
    The answer to a GET or HEAD with these headers (its own, not what was made of them) by a warm
    entry: the whole, 304, a range of it (206), or 416.

    Several ranges at a time are answered with the whole, which RFC 9110, 14.2 allows.
    """
    if entry.status == 200:
        if _not_modified(entry, request):
            kept = [f for f in entry.fields if f[0] in _KEPT]  # type: ignore[union-attr]
            return Response.of(304, b"", [*kept, _age(age)], details=details)
        wanted = request.get_all(b"range")
        if method == b"GET" and len(wanted) == 1 and _range_holds(entry, request.get(b"if-range")):
            place = _slice(wanted[0], entry.length)
            if place is not None:
                begin, end = place
                body: bytes = entry.body  # type: ignore[assignment]
                if begin == end:
                    kept = [f for f in entry.fields if f[0] in _KEPT]  # type: ignore[union-attr]
                    kept.append(_content_range(b"bytes */%d" % entry.length))
                    return Response.of(416, b"", [*kept, _age(age)], details=details)
                span = _content_range(b"bytes %d-%d/%d" % (begin, end - 1, entry.length))
                fields = [*entry.fields, span, _age(age)]  # type: ignore[misc]
                return Response.of(206, body[begin:end], fields, details=details)
    return of_entry(entry, age, details)


def _content_range(value: bytes) -> Line:
    return (b"content-range", value, b"content-range: %b\r\n" % value, 0)

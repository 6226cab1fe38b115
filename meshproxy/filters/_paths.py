"""
A path as everybody behind the proxy may understand it.

The law it keeps: two paths that servers commonly take for the same one (RFC 3986, section 6.2.2:
percent-encoded letters, dot segments; repeated slashes) have one normal form, and a path that one
server reads as this and another as that has none, so that a rule cannot be walked around by
spelling.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Encoded", "normal_path", "odd"]

Encoded = Literal["refuse", "keep", "decode"]
"""What becomes of ``%2f``, ``%5c`` and a backslash."""

odd = re.compile(rb"[%\\;]|//|/\.").search
"""Whether a path may be written in another way than the normal one; else it is its own form."""


_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?|\\")
_UNRESERVED = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~",
)
# NUL, and what begins the overlong forms of ASCII that UTF-8 forbids and some decode.
_NEVER = frozenset((0x00, 0xC0, 0xC1))
_overlong = re.compile(rb"%E0%[89]|%F0%8").search


def normal_path(
    path: bytes,
    *,
    merge_slashes: bool = True,
    encoded: Encoded = "refuse",
    strip_parameters: bool = False,
) -> bytes | None:
    """
    The normal form of ``path`` (without a query), or None when it has none.

    Letters, digits and ``-._~`` are decoded, other escapes kept in capitals; ``.`` and ``..``
    are resolved. ``strip_parameters`` drops what follows a ``;`` in a segment.

    Without a normal form are: a ``%`` without two digits, ``%00``, ``%c0``, ``%c1`` and what else
    UTF-8 forbids as an overlong form (``%e0%80``, ``%f0%80``), ``..`` behind an empty segment
    (servers that merge slashes go up further), ``.;x`` and ``..;x`` (some servers see ``..``), and
    with ``encoded: refuse`` an encoded slash, an encoded backslash and a backslash.
    """
    if odd(path) is None or path[:1] != b"/":
        return path
    ambiguous = False

    def decoded(match: re.Match[bytes]) -> bytes:
        nonlocal ambiguous
        if match[0] == b"\\":
            code = 0x5C
        elif match[1] is None:
            ambiguous = True
            return b""
        else:
            code = int(match[1], 16)
        if code in _UNRESERVED:
            return bytes((code,))
        if code in (0x2F, 0x5C):
            if encoded == "decode":
                return b"/"
            ambiguous = ambiguous or encoded == "refuse"
        ambiguous = ambiguous or code in _NEVER
        return match[0].upper()

    if b"%" in path or b"\\" in path:
        path = _ESCAPE.sub(decoded, path)
        if ambiguous or _overlong(path) is not None:
            return None
    kept: list[bytes] = []
    segments = path[1:].split(b"/")
    last = len(segments) - 1
    for number, segment in enumerate(segments):
        if b";" in segment:
            bare = segment.partition(b";")[0]
            if bare in (b".", b".."):
                return None
            if strip_parameters:
                segment = bare
        if segment == b"..":
            if kept and not kept.pop():
                return None
        elif segment != b".":
            kept.append(segment)
            continue
        if number == last:
            kept.append(b"")
    if merge_slashes and b"" in kept[:-1]:
        kept = [*filter(None, kept[:-1]), kept[-1]]
    return b"/" + b"/".join(kept)

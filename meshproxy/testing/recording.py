"""
Recorded exchanges, for playing them again.

The law it keeps: what belongs to one connection or frames a message is left out; a file that holds
something else is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshproxy.http.message import Response

#: What an endpoint answers where a test does not say.
OK = Response(200, b"ok\n")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded exchange: what :func:`drive` takes in place of its keywords."""

    method: bytes = b"GET"
    target: bytes = b"/"
    authority: bytes = b"test.example"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    client: bytes = b"192.0.2.1:5000"
    response: Response | None = field(default=OK)


_DROPPED = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"host")
)


def _latin(pairs: Iterable[Iterable[str]]) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for pair in pairs:
        name, value = pair
        key = name.lower().encode("latin-1")
        if key not in _DROPPED and not key.startswith(b":"):
            found.append((key, value.encode("latin-1")))
    return tuple(found)


def _from_tap(entry: Mapping[str, Any]) -> Recorded:
    request = entry["request"]
    answer = entry.get("response")
    response = None
    if answer and 200 <= answer.get("status", 0) <= 599:
        body = base64.b64decode(answer.get("body") or "")
        response = Response(answer["status"], body, _latin(answer.get("headers", ())))
    return Recorded(
        request["method"].encode("latin-1"),
        request["target"].encode("latin-1"),
        request.get("authority", "test.example").encode("latin-1"),
        _latin(request.get("headers", ())),
        base64.b64decode(request.get("body") or ""),
        entry.get("client", "192.0.2.1:5000").encode("latin-1"),
        response,
    )


def _from_har(entry: Mapping[str, Any]) -> Recorded:
    request, answer = entry["request"], entry["response"]
    _, _, rest = request["url"].partition("://")
    authority, slash, target = rest.partition("/")
    content = answer.get("content", {})
    text = content.get("text") or ""
    body = base64.b64decode(text) if content.get("encoding") == "base64" else text.encode()
    pairs = _latin((held["name"], held["value"]) for held in answer["headers"])
    # A browser records bodies decoded.
    kept = [pair for pair in pairs if pair[0] != b"content-encoding"]
    response = None
    if 200 <= answer["status"] <= 599:
        response = Response(answer["status"], b"" if answer["status"] in (204, 304) else body, kept)
    return Recorded(
        request["method"].encode(),
        (slash + target).partition("#")[0].encode() or b"/",
        authority.encode(),
        _latin((held["name"], held["value"]) for held in request["headers"]),
        (request.get("postData") or {}).get("text", "").encode(),
        response=response,
    )


def recorded(path: str | Path) -> Iterator[Recorded]:
    """
    The exchanges in a file: what the ``tap`` filter wrote (JSON lines), or a browser's HAR.

    Raises ``OSError``, and ``ValueError`` for a file that is neither.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("{") and '"log"' in text[:1000]:
            entries = json.loads(text)["log"]["entries"]
            yield from map(_from_har, entries)
        else:
            for line in text.splitlines():
                if line.strip():
                    yield _from_tap(json.loads(line))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no recorded exchanges: {error!r}") from error

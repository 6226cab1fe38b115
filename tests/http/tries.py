"""Requests that take several tries: their configuration, and ways in which a try goes wrong."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from meshproxy.http import retry as retry_module
from tests.http.world import World

BEFORE = b"upstream connect error or disconnect/reset before headers. "
RETRIED = BEFORE + b"retried and the latest reset reason: "

#: The beginning of a response of nine bytes, with a length and with chunks.
PART = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


def answer(code: int, *lines: bytes, text: bytes = b"sorry") -> bytes:
    """A whole response with this status."""
    return b"\r\n".join(
        (b"HTTP/1.1 %d X" % code, b"Content-Length: %d" % len(text), *lines, b"", text)
    )


def config(
    retry: str = "{}", route: str = "", cluster: str = "", http: str = "", top: str = ""
) -> str:
    """A listener whose only route has this ``retry``, to three endpoints."""
    return f"""
{top}
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      {http}
      routes:
        - to: site
          {f"retry: {retry}" if retry else ""}
          {route}
clusters:
  site:
    endpoints: [127.0.0.1:9001, 127.0.0.1:9002, 127.0.0.1:9003]
    {cluster}
"""


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pause is as long as it may be."""
    monkeypatch.setattr(retry_module, "random", lambda: 1.0)


def stats(made: World, *names: str) -> tuple[float, ...]:
    """Counters of the cluster ``site``."""
    held = made.clusters["site"].stats
    return tuple(made.value(getattr(held, name)) for name in names)


def where(made: World) -> list[int]:
    """The ports that were connected to, in order."""
    return [attempt.where[1] for attempt in made.attempts]


def fail(made: World, kind: str) -> None:
    """The try under way at the endpoint connected to last goes wrong in this way."""
    upstream = made.upstream
    if kind == "closed":
        upstream.end(ConnectionDone)
    elif kind == "reset":
        upstream.end(ConnectionLost)
    elif kind == "garbage":
        upstream.receive(b"SSH-2.0\r\n\r\n")
    elif kind == "refused-stream":
        upstream.sock.acknowledged = 0
        upstream.end(ConnectionDone)
    else:
        upstream.receive(answer(int(kind)))

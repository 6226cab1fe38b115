"""
Both ends of the wire, byte by byte, for tests of the running proxy.

Laws:

- Nothing here uses meshproxy, and nothing repairs what came: a response that a strict client
  would refuse raises :class:`Broken`.
- Every wait is a poll with a bound, or a socket's timeout; the error says what was waited for.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.harness import HOST, OK, PATIENCE, Proxy, Server

T = TypeVar("T")

#: What an access log is configured with here, and what :func:`log_lines` reads.
LOG = "access_log: { path: access.log, format: json }"


class Broken(Exception):
    """What came is no message of HTTP/1.1."""


def eventually(probe: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true value of ``probe``, asked again and again. Raises AssertionError."""
    deadline = time.monotonic() + patience
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}; the last answer was {value!r}")
        time.sleep(0.02)


@dataclass(slots=True)
class Response:
    """
    A response as it came. ``headers`` and ``trailers`` keep order and repetition, their names in
    lower case; ``informs`` are the 1xx that came before; ``framing`` is ``length``, ``chunked``,
    ``close`` or ``none``.
    """

    version: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    framing: str = "none"
    trailers: list[tuple[str, str]] = field(default_factory=list)
    informs: list[Response] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str | None:
        """The only value of a header, None without one; raises :class:`Broken` for several."""
        values = self.all(name)
        if len(values) > 1:
            raise Broken(f"{name} came {len(values)} times")
        return values[0] if values else None


class Client:
    """A connection to a listener, on which requests are raw bytes and responses are judged."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._stream = sock.makefile("rb")

    @classmethod
    def to(cls, proxy: Proxy, name: str = "web") -> Self:
        """A new connection to the proxy's listener."""
        return cls(proxy.connect(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close."""
        self._stream.close()
        self.sock.close()

    def send(self, data: bytes) -> Self:
        """Send raw bytes."""
        self.sock.sendall(data)
        return self

    def ask(
        self, target: str = "/", method: str = "GET", body: bytes = b"", **headers: str
    ) -> Response:
        """Send a well-formed request (underscores in names are dashes) and read its response."""
        fields = {"host": "test.example"} | {k.replace("_", "-"): v for k, v in headers.items()}
        if body:
            fields.setdefault("content-length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.send(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return self.response(method)

    def response(self, method: str = "GET") -> Response:
        """The next final response, with the interim ones before it."""
        informs = []
        while True:
            response = self._head()
            if response.status >= 200 or response.status == 101:
                break
            informs.append(response)
        response.informs = informs
        self._body(response, method)
        return response

    def _head(self) -> Response:
        first = self._line()
        match = re.fullmatch(r"(HTTP/1\.[01]) ([0-9]{3}) [^\r\n]*", first)
        if match is None:
            raise Broken(f"no status line: {first!r}")
        return Response(match[1], int(match[2]), self._fields())

    def _line(self) -> str:
        line = self._stream.readline(65537)
        if not line.endswith(b"\r\n"):
            raise Broken(f"no line: {line!r}")
        return line[:-2].decode("latin-1")

    def _fields(self) -> list[tuple[str, str]]:
        found = []
        while line := self._line():
            match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line)
            if match is None:
                raise Broken(f"no header: {line!r}")
            found.append((match[1].lower(), match[2]))
        return found

    def _body(self, response: Response, method: str) -> None:
        length, coding = response.get("content-length"), response.get("transfer-encoding")
        if length is not None and coding is not None:
            raise Broken("content-length and transfer-encoding")
        if method == "HEAD" or response.status in (101, 204, 304):
            return
        if coding is not None:
            if coding != "chunked":
                raise Broken(f"transfer-encoding {coding}")
            response.framing = "chunked"
            parts = []
            while size := int(self._line().partition(";")[0], 16):
                parts.append(self.take(size))
                if self._line():
                    raise Broken("a chunk is longer than its size")
            response.body = b"".join(parts)
            response.trailers = self._fields()
        elif length is not None:
            response.framing = "length"
            response.body = self.take(int(length))
        else:
            response.framing = "close"
            response.body = self._stream.read()

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        data = self._stream.read(size)
        if len(data) != size:
            raise Broken(f"the connection ended after {len(data)} of {size} bytes")
        return data

    def ended(self) -> bool:
        """Whether nothing more comes but the end; waits for it."""
        try:
            return not self._stream.read()
        except ConnectionError:
            return True


def ask(proxy: Proxy, target: str = "/", method: str = "GET", **rest: Any) -> Response:
    """One request on a connection of its own; see :meth:`Client.ask`."""
    listener = rest.pop("listener", "web")
    with Client.to(proxy, listener) as client:
        return client.ask(target, method, **rest)


def log_lines(proxy: Proxy, **wanted: Any) -> list[dict[str, Any]]:
    """The JSON lines of the access log whose keys have these values, once there is one."""

    def look() -> list[dict[str, Any]]:
        file = proxy.directory / "access.log"
        text = file.read_text() if file.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [line for line in lines if wanted.items() <= line.items()]

    return eventually(look, f"a line of the access log with {wanted}")


def metric(proxy: Proxy, name: str, **labels: str) -> float:
    """The sum of a metric over its series with these labels. Raises AssertionError without any."""
    text = proxy.get("admin", "/metrics").body.decode()
    total = 0.0
    known = False
    for line in text.splitlines():
        match = re.fullmatch(rf"{re.escape(name)}(?:{{(.*)}})? (\S+)", line)
        if match is not None:
            found = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
            if labels.items() <= found.items():
                known = True
                total += float(match[2])
    assert known, f"there is no metric {name} with {labels}"
    return total


def resident(proxy: Proxy) -> int:
    """Bytes of memory that the proxy's process holds now."""
    text = Path(f"/proc/{proxy.process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    if match is None:
        raise AssertionError("no VmRSS")
    return int(match[1]) * 1024


def linger_reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


@contextmanager
def refusing() -> Iterator[str]:
    """An address where connections are refused: bound for as long, and never listening."""
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        yield f"{HOST}:{holder.getsockname()[1]}"


class RawUpstream(Server):
    """
    An upstream that keeps what it got, byte for byte, and answers with raw bytes.

    ``answer`` is sent for each request, or called with the request's bytes and the connection;
    what it returns is sent, and None ends the connection. ``received`` has the requests.
    """

    def __init__(self, answer: bytes | Callable[[bytes, socket.socket], bytes | None] = OK) -> None:
        super().__init__(self._converse)
        self.received: list[bytes] = []
        self._answer = answer

    def _converse(self, sock: socket.socket) -> None:
        while (data := _whole_request(sock)) is not None:
            self.received.append(data)
            answer = self._answer
            reply = answer if isinstance(answer, bytes) else answer(data, sock)
            if reply is None:
                return
            sock.sendall(reply)


def _whole_request(sock: socket.socket) -> bytes | None:
    data = b""
    while True:
        part = sock.recv(65536)
        if not part:
            return None
        data += part
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank:
            continue
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        if b"\r\ntransfer-encoding: chunked" in head:
            if b"\r\n0\r\n" in b"\r\n" + body and body.endswith(b"\r\n\r\n"):
                return data
        elif len(body) >= (int(length[1]) if length else 0):
            return data

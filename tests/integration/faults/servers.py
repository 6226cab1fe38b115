"""
Servers that answer what can be foretold, and servers that break off in one way each.

Laws:

- What an honest answer is follows from the request alone (:func:`honest_body`): whoever answered,
  a client can judge it.
- A fault is met by every request that reaches it, or by those that its docstring says; ``arrived``
  counts the requests whose head a server has read, by their ``x-id``.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Self

from tests.harness import HOST, Received, Server, read_request
from tests.integration.wire import linger_reset

#: Sizes of honest bodies, taken in turn by the number at the path's end; 2 without a number.
SIZES = (0, 11, 700, 9000, 40_000)


def honest_body(method: str, target: str, body: bytes) -> bytes:
    """The body that belongs to a request, for HEAD the one that its length tells of."""
    number = target.partition("?")[0].rpartition("/")[2]
    size = SIZES[int(number) % len(SIZES)] if number.isdigit() else 2
    line = f"{method} {target} {hashlib.sha1(body).hexdigest()}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def honest_answer(request: Received) -> bytes:
    """The whole response; chunked where the query says so."""
    method, target = (word.decode() for word in request.line.split(b" ")[:2])
    body = honest_body(method, target, request.body)
    if target.endswith("?chunked") and method != "HEAD":
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + _chunks(body)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head if method == "HEAD" else head + body


def _chunks(body: bytes) -> bytes:
    pieces = [body[at : at + 5000] for at in range(0, len(body), 5000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Honest(Server):
    """Answers every request, on connections that stay open."""

    #: What the tables call it.
    name: ClassVar[str] = "honest"
    #: Whether it takes a time limit to notice the fault.
    stalls: ClassVar[bool] = False
    #: Whether requests may be answered well too, so that failures are seldom in a row.
    sometimes: ClassVar[bool] = False

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        super().__init__(self.converse, host, port)
        self.arrived: Counter[str] = Counter()
        self._counting = threading.Lock()

    def converse(self, sock: socket.socket) -> None:
        """A connection, which may be idle for as long as it likes."""
        sock.settimeout(None)
        with sock.makefile("rb") as stream:
            while (request := read_request(stream.readline, stream.read)) is not None:
                self.note(request)
                if not self.answer(sock, request):
                    return

    def note(self, request: Received) -> None:
        """Count a request that came."""
        (number,) = request.values(b"x-id") or [b"?"]
        with self._counting:
            self.arrived[number.decode()] += 1

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Answer; False to close the connection."""
        sock.sendall(honest_answer(request))
        return True


class Refuses:
    """Nobody listens: connections are refused."""

    name: ClassVar[str] = "refuses"
    stalls: ClassVar[bool] = False
    sometimes: ClassVar[bool] = False

    def __init__(self) -> None:
        self.arrived: Counter[str] = Counter()
        self._socket = socket.socket()
        self._socket.bind((HOST, 0))
        self.address = f"{HOST}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()


class NeverAccepts(Refuses):
    """Connections come up in the kernel, and nobody ever reads from them."""

    name = "never accepts"
    stalls = True

    def __init__(self) -> None:
        super().__init__()
        self._socket.listen(4096)


class DropsSyns(Refuses):
    """Connections never come up: the queue of the listening socket is full."""

    name = "drops SYNs"
    stalls = True

    def __init__(self) -> None:
        super().__init__()
        self._socket.listen(0)
        self._filling = [socket.socket() for _ in range(3)]
        for sock in self._filling:
            sock.setblocking(False)
            sock.connect_ex(self._socket.getsockname())

    def __exit__(self, *error: object) -> None:
        for sock in self._filling:
            sock.close()
        super().__exit__(*error)


class ResetsAtOnce(Honest):
    """Resets each connection as soon as it is up."""

    name = "resets at accept"

    def converse(self, sock: socket.socket) -> None:
        """A connection."""
        linger_reset(sock)


class ClosesAtOnce(Honest):
    """Closes each connection as soon as it is up."""

    name = "closes at accept"

    def converse(self, sock: socket.socket) -> None:
        """A connection."""


class ResetsInTheRequest(Honest):
    """Resets when the first bytes of a request came, whether it is whole or not."""

    name = "resets in the request"

    def converse(self, sock: socket.socket) -> None:
        """A connection."""
        sock.settimeout(None)
        data = sock.recv(10)
        if data:
            linger_reset(sock)


class ResetsBeforeTheHead(Honest):
    """Reads the request and resets."""

    name = "resets before the head"

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Reset."""
        _reset_on_close(sock)
        return False


class ClosesBeforeTheHead(Honest):
    """Reads the request and closes."""

    name = "closes before the head"

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Close."""
        return False


class _Partial(Honest):
    """Sends a part of the honest answer, and then :meth:`end` comes."""

    def part(self, answer: bytes) -> bytes:
        """What is sent."""
        head, blank, body = answer.partition(b"\r\n\r\n")
        return head + blank + body[: len(body) // 2]

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Send a part; an answer without a body breaks off in its head."""
        answer = honest_answer(request)
        part = self.part(answer)
        sock.sendall(part if len(part) < len(answer) else answer[:-3])
        # The part must have been read before a reset takes it away.
        time.sleep(0.005)
        self.end(sock)
        return False

    def end(self, sock: socket.socket) -> None:
        """How it breaks off: by closing."""


class ResetsInTheHead(_Partial):
    """Sends half of the response's head and resets."""

    name = "resets in the head"

    def part(self, answer: bytes) -> bytes:
        """Half a head."""
        return answer[:20]

    def end(self, sock: socket.socket) -> None:
        """Reset."""
        _reset_on_close(sock)


class ResetsInTheBody(_Partial):
    """Sends the head and half of the body and resets."""

    name = "resets in the body"

    def end(self, sock: socket.socket) -> None:
        """Reset."""
        _reset_on_close(sock)


class ClosesInTheBody(_Partial):
    """Sends the head and half of the body and closes."""

    name = "closes in the body"


class StallsBeforeTheHead(Honest):
    """Reads the request and never answers."""

    name = "stalls before the head"
    stalls = True

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Wait for the other side to give up."""
        return _given_up(sock)


class StallsInTheBody(_Partial):
    """Sends the head and half of the body and nothing more."""

    name = "stalls in the body"
    stalls = True

    def end(self, sock: socket.socket) -> None:
        """Wait for the other side to give up."""
        _given_up(sock)


class Dawdles(Honest):
    """Answers well, after 200 ms."""

    name = "answers late"
    stalls = True
    sometimes = True

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Wait, and answer."""
        time.sleep(0.2)
        return super().answer(sock, request)


class ClosesAfterEach(Honest):
    """Answers as if the connection stayed, and closes it at once."""

    name = "closes after each response"
    sometimes = True

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Answer and close."""
        return super().answer(sock, request) and False


class ClosesAtRandom(Honest):
    """Answers, and closes or resets idle connections after up to 20 ms, half of the time."""

    name = "closes idle connections at random"
    sometimes = True

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Answer and, maybe, close."""
        super().answer(sock, request)
        if random.random() < 0.5:
            return True
        time.sleep(random.random() * 0.02)
        if random.random() < 0.5:
            _reset_on_close(sock)
        return False


class _Says(Honest):
    """Answers each request with the same bytes, and closes."""

    words: ClassVar[bytes]

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Say it."""
        sock.sendall(self.words)
        return False


class Garbage(_Says):
    """Answers with what is no HTTP."""

    name = "sends garbage"
    words = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 SSH-2.0-nonsense\r\n\r\n"


class BothFramings(_Says):
    """Answers with content-length and transfer-encoding (RFC 9112, 6.3)."""

    name = "content-length and chunked"
    words = (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5\r\nwrong\r\n0\r\n\r\n"
    )


class TwoLengths(_Says):
    """Answers with two lengths that differ."""

    name = "two lengths"
    words = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nwrong!"


class BadChunk(_Says):
    """Answers with a chunk whose size is no number, after one that is good."""

    name = "a bad chunk"
    words = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwrong\r\nxyz\r\n"


class EndlessHead(_Says):
    """Answers with a head that is longer than any limit."""

    name = "an endless head"
    words = b"HTTP/1.1 200 OK\r\n" + b"x-much: " + b"y" * 300_000

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Say it, as far as somebody listens."""
        try:
            sock.sendall(self.words)
        except TimeoutError:
            pass
        return False


class Answers500(Honest):
    """Answers 500 to everything while ``ill``."""

    name = "answers 500"

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        super().__init__(host, port)
        self.ill = True

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """500, or what an honest server says."""
        if not self.ill:
            return super().answer(sock, request)
        body = b"" if request.line.startswith(b"HEAD ") else b"wrong"
        sock.sendall(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 5\r\n\r\n" + body)
        return True


class Refuses503(_Says):
    """Answers 503 before the body of the request came, and closes."""

    name = "answers 503 early and closes"
    words = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

    def converse(self, sock: socket.socket) -> None:
        """A connection."""
        sock.settimeout(None)
        if sock.recv(65536):
            sock.sendall(self.words)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


class AnyFault(Honest):
    """Answers half of the requests, and breaks off in a way of its choice otherwise."""

    name = "any of these, at random"
    sometimes = True

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        super().__init__(host, port)
        self._ways: list[Callable[[Any, socket.socket, Received], bool]] = [
            ResetsBeforeTheHead.answer,
            ClosesBeforeTheHead.answer,
            _breaks(ResetsInTheBody),
            _breaks(ClosesInTheBody),
            _says(Garbage.words),
            _says(BothFramings.words),
        ]

    def answer(self, sock: socket.socket, request: Received) -> bool:
        """Well or not."""
        if random.random() < 0.5:
            return super().answer(sock, request)
        return random.choice(self._ways)(self, sock, request)


def _breaks(kind: type[_Partial]) -> Callable[[Any, socket.socket, Received], bool]:
    def answer(server: Honest, sock: socket.socket, request: Received) -> bool:
        whole = honest_answer(request)
        sock.sendall(whole[: len(whole) // 2])
        time.sleep(0.005)
        if kind is ResetsInTheBody:
            _reset_on_close(sock)
        return False

    return answer


def _says(words: bytes) -> Callable[[Any, socket.socket, Received], bool]:
    def answer(server: Honest, sock: socket.socket, request: Received) -> bool:
        sock.sendall(words)
        return False

    return answer


def _reset_on_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _given_up(sock: socket.socket) -> bool:
    """Wait until the other side has closed; always False."""
    while sock.recv(65536):
        pass
    return False


Faulty = Honest | Refuses

#: Every fault; each is made without arguments and used in a ``with``.
FAULTS: tuple[type[Faulty], ...] = (
    Refuses,
    NeverAccepts,
    DropsSyns,
    ResetsAtOnce,
    ClosesAtOnce,
    ResetsInTheRequest,
    ResetsBeforeTheHead,
    ClosesBeforeTheHead,
    ResetsInTheHead,
    ResetsInTheBody,
    ClosesInTheBody,
    StallsBeforeTheHead,
    StallsInTheBody,
    ClosesAfterEach,
    ClosesAtRandom,
    Garbage,
    BothFramings,
    TwoLengths,
    BadChunk,
    EndlessHead,
    Answers500,
    Refuses503,
    AnyFault,
)

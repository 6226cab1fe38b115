"""
Clients that ask, one request after the other on connections that stay open, and judge every answer.

Laws:

- A response counts as right when a strict reader takes it whole, its status is 200 and its body is
  the one that :func:`~tests.integration.faults.servers.honest_body` foretells.
- After what is wrong a client goes on with a new connection. A connection is never changed
  without a reason: that the proxy ends one counts as wrong where its answer did not say so.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.harness import connect
from tests.integration.faults.servers import honest_body
from tests.integration.wire import Broken, Client, Response, eventually

#: What a client asks, in turn. PUT has a body, by turns with its length and in chunks.
METHODS = ("GET", "PUT", "GET", "DELETE", "HEAD")

_runs = itertools.count()


@dataclass(slots=True)
class Outcome:
    """What became of the requests; ``times`` are in seconds, ``wrong`` says what came instead."""

    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    #: The ids (``x-id``) of the requests that were answered well.
    answered: list[str] = field(default_factory=list)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.requests + other.requests,
            self.wrong + other.wrong,
            self.times + other.times,
            self.answered + other.answered,
        )

    def percentile(self, percent: float) -> float:
        """The time that so many percent of the requests did not exceed."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def judge(self) -> None:
        """Raises AssertionError unless every response was right."""
        shown = "\n".join(self.wrong[:10])
        assert not self.wrong, f"{len(self.wrong)} of {self.requests} were wrong:\n{shown}"


@dataclass(frozen=True, slots=True)
class Ask:
    """Where a client asks, and what."""

    port: int
    prefix: str
    methods: tuple[str, ...] = METHODS
    query: str = ""


class _One:
    """A client."""

    def __init__(self, ask: Ask, name: str) -> None:
        self.outcome = Outcome()
        self._ask = ask
        self._name = name
        self._client: Client | None = None

    def run(self, numbers: Iterable[int]) -> None:
        """Ask for each number, and close."""
        try:
            for number in numbers:
                self._request(number)
        finally:
            self._close()

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _request(self, number: int) -> None:
        ask, outcome = self._ask, self.outcome
        method = ask.methods[number % len(ask.methods)]
        target = f"{ask.prefix}{number}{ask.query}"
        key = f"{self._name}-{number}"
        body = os.urandom(1 + number * 997 % 20_000) if method in ("PUT", "POST") else b""
        outcome.requests += 1
        begun = time.monotonic()
        wrong = self._wrong(method, target, key, body)
        outcome.times.append(time.monotonic() - begun)
        if wrong:
            outcome.wrong.append(f"{key} {method} {target}: {wrong}")
            self._close()
        else:
            outcome.answered.append(key)

    def _wrong(self, method: str, target: str, key: str, body: bytes) -> str:
        """Ask; what is wrong with the answer, or nothing."""
        try:
            if self._client is None:
                self._client = Client(connect(self._ask.port))
            self._client.send(_raw(method, target, key, body))
            response = self._client.response(method)
        except (Broken, OSError) as error:
            return f"{type(error).__name__}: {error}"
        if response.get("connection") == "close":
            self._close()
        return _judged(response, method, target, body)


def _raw(method: str, target: str, key: str, body: bytes) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nhost: faults.example\r\nx-id: {key}\r\n"
    if not body:
        return f"{head}\r\n".encode()
    if len(body) % 2:
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk


def _judged(response: Response, method: str, target: str, body: bytes) -> str:
    if response.status != 200:
        return f"status {response.status} {response.body[:100]!r}"
    expected = honest_body(method, target, body)
    if method == "HEAD":
        length = response.get("content-length")
        return "" if length in (None, str(len(expected))) else f"HEAD with a length of {length}"
    if response.body != expected:
        return f"a body of {len(response.body)}, not {len(expected)}: {response.body[:40]!r}"
    return ""


class Clients:
    """
    Several clients at a time, each in a thread.

    They ask until :meth:`stop`, or with ``each`` so many times. ``answered()`` tells how many
    requests were right so far.
    """

    def __init__(self, ask: Ask, clients: int = 4, each: int | None = None) -> None:
        self._stopping = threading.Event()
        run = next(_runs)
        self._clients = [_One(ask, f"{os.getpid()}.{run}.{number}") for number in range(clients)]
        numbers: Callable[[], Iterable[int]] = (
            self._until_stopped if each is None else lambda: range(each)
        )
        self._threads = [
            threading.Thread(target=client.run, args=(numbers(),), daemon=True)
            for client in self._clients
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _until_stopped(self) -> Iterator[int]:
        for number in itertools.count():
            # A moment between requests, so that the proxy has some of the processor too.
            if self._stopping.wait(0.002):
                return
            yield number

    def answered(self) -> int:
        """Requests that were right so far."""
        return sum(len(client.outcome.answered) for client in self._clients)

    def wait(self) -> Outcome:
        """When they have asked their number of times: what became of it."""
        for thread in self._threads:
            thread.join()
        return sum((client.outcome for client in self._clients), Outcome())

    def stop(self) -> Outcome:
        """End after the requests under way: what became of them."""
        self._stopping.set()
        return self.wait()


def run(ask: Ask, clients: int = 4, each: int = 50) -> Outcome:
    """Several clients, each so many requests: what became of them."""
    with Clients(ask, clients, each) as running:
        return running.wait()


def ask_on(clients: Clients, more: int = 50) -> None:
    """Wait until so many more requests were answered."""
    wanted = clients.answered() + more
    eventually(lambda: clients.answered() >= wanted, "more answers")

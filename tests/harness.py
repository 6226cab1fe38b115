"""
What integration tests start: the real proxy, and small upstreams for it.

Laws:

- :class:`Proxy` is a process of its own, ``twistd -n meshproxy`` by this interpreter on ports
  found free, forked from one that has imported it already (:mod:`tests.zygote`) unless a reactor or
  a path is asked for; leaving the ``with`` block ends it, whatever happened inside.
- Every wait has an end, and the error that ends it says what the process wrote.
- A server here runs in threads with blocking sockets, in pure Python, and uses nothing of
  meshproxy, so that a mistake is never on both sides. What its code raised is raised again when
  its ``with`` block ends.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Self

from tests.zygote import Forked, Zygote

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]

_ZYGOTE = Zygote(ROOT)
_INTERPRETER = sys.executable

#: Seconds: a process that takes longer to start or to stop is broken, even on a busy machine.
PATIENCE = 30.0

# The twistd script does not have the checkout on its path; this is the same with this interpreter.
_TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
_PORTS = range(20000, 32000)  # below Linux's ephemeral ports, which clients' connections use
_POLL = 0.02


class ProxyError(Exception):
    """The process did not start, or did not stop; the message ends with what it wrote."""


def free_ports(count: int) -> list[int]:
    """``count`` different loopback TCP ports that nothing has bound. Raises OSError when none."""
    probes: list[socket.socket] = []
    try:
        for port in random.sample(_PORTS, 1000):
            if len(probes) == count:
                break
            probe = socket.socket()
            try:
                probe.bind((HOST, port))
            except OSError:
                probe.close()
            else:
                probes.append(probe)
        if len(probes) < count:
            raise OSError("no free loopback ports")
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_port() -> int:
    """A loopback TCP port that nothing has bound."""
    return free_ports(1)[0]


def twistd(arguments: Sequence[str], reactor: str | None = None) -> list[str]:
    """The command line of ``twistd -n [--reactor …] meshproxy ARGUMENTS`` by this interpreter."""
    chosen = [] if reactor is None else ["--reactor", reactor]
    return [sys.executable, "-c", _TWISTD, "-n", "--pidfile=", *chosen, "meshproxy", *arguments]


def environment(*path: Path) -> dict[str, str]:
    """This process's environment with the checkout, after ``path``, on PYTHONPATH."""
    inherited = os.environ.get("PYTHONPATH", "")
    parts = [*map(str, path), str(ROOT), *([inherited] if inherited else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(parts), "PYTHONUNBUFFERED": "1"}


def command(words: Sequence[str], directory: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in ``directory`` to its end, with ``path`` first on PYTHONPATH."""
    return subprocess.run(
        words,
        cwd=directory,
        env=environment(*path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run(arguments: Sequence[str], directory: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """
    Run ``twistd -n meshproxy ARGUMENTS`` in ``directory`` to its end (``--check`` and so on).

    It is forked where nothing asks for another interpreter or path, as :class:`Proxy` is.
    """
    if path or sys.executable != _INTERPRETER:
        return command(twistd(arguments), directory, *path)
    words = ["-n", "--pidfile=", "meshproxy", *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = _ZYGOTE.start(words, directory, environment(), out, err)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, status, out.read().decode(), err.read().decode())


def end_daemon(pid: int) -> None:
    """End a process that is not our child, and wait until it is gone."""
    deadline = time.monotonic() + PATIENCE
    os.kill(pid, signal.SIGTERM)
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(_POLL)
    os.kill(pid, signal.SIGKILL)
    raise ProxyError(f"the daemon {pid} did not stop on SIGTERM")


class Proxy:
    """
    A running meshproxy.

    ``configuration`` is YAML in which ``$name`` stands for a port: one of ``ports``, or one that
    is found free. An ``admin`` listener on ``$admin`` is added where the text has none. With
    ``arguments``, they are used instead of a configuration, and ``$name`` in them is a port too;
    ``$admin`` must then be among ``ports`` for readiness to be asked, or ``ready`` must name the
    port that accepts when it is.

    >>> with Proxy("listeners: {web: {listen: '127.0.0.1:$web', http: …}}") as proxy:
    ...     proxy.get("web", "/")

    ``ports`` maps the names to the numbers, ``directory`` is where the process runs and
    ``status`` its exit status once it has been stopped.
    """

    def __init__(
        self,
        configuration: str = "",
        *,
        ports: dict[str, int] | None = None,
        arguments: Sequence[str] = (),
        ready: str = "admin",
        reactor: str | None = None,
        path: Sequence[Path] = (),
    ) -> None:
        if configuration and not re.search(r"^admin:", configuration, re.MULTILINE):
            configuration = f"admin: {{ listen: '{HOST}:$admin' }}\n{configuration}"
        names = _placeholders(configuration, *arguments)
        known = dict(ports or {})
        missing = [name for name in names if name not in known]
        self.ports = {**known, **dict(zip(missing, free_ports(len(missing)), strict=True))}
        self.status: int | None = None
        self._configuration = self._fill(configuration)
        self._arguments = [self._fill(argument) for argument in arguments]
        self._ready = ready
        self._reactor = reactor
        self._path = tuple(path)
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="meshproxy-")
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and hasattr(error, "add_note"):
            error.add_note(f"the proxy wrote:\n{self.output}")
        self._clean_up()

    def _fill(self, text: str) -> str:
        return Template(text).safe_substitute({k: str(v) for k, v in self.ports.items()})

    def _start(self) -> None:
        arguments = self._arguments
        if not arguments:
            file = self.directory / "meshproxy.yaml"
            file.write_text(self._configuration)
            arguments = ["--config", str(file)]
        with (
            open(self.directory / "stdout", "wb") as out,
            open(self.directory / "stderr", "wb") as err,
        ):
            if self._reactor is None and not self._path and sys.executable == _INTERPRETER:
                words = ["-n", "--pidfile=", "meshproxy", *arguments]
                self._process = _ZYGOTE.start(words, self.directory, environment(), out, err)
                return
            self._process = subprocess.Popen(
                twistd(arguments, self._reactor),
                cwd=self.directory,
                env=environment(*self._path),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None:
                self.status = status
                raise ProxyError(f"it ended with status {status} while starting\n{self.output}")
            if self._is_ready():
                return
            time.sleep(_POLL)
        raise ProxyError(f"it is not ready after {PATIENCE:g} s\n{self.output}")

    def _is_ready(self) -> bool:
        try:
            if self._ready != "admin":
                socket.create_connection((HOST, self.ports[self._ready]), 1).close()
                return True
            return self.get("admin", "/ready").status == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def process(self) -> subprocess.Popen[bytes] | Forked:
        """The process."""
        if self._process is None:
            raise ProxyError("it has not been started")
        return self._process

    @property
    def directory(self) -> Path:
        """Where the process runs: a folder of its own, gone after the ``with`` block."""
        if self._temporary is None:
            raise ProxyError("it has not been started")
        return Path(self._temporary.name)

    @property
    def stdout(self) -> str:
        """What the process has written to its standard output: with ``-n``, twistd's log too."""
        return (self.directory / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What the process has written to its standard error."""
        return (self.directory / "stderr").read_text(errors="replace")

    @property
    def output(self) -> str:
        """Both, for the messages of errors."""
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """
        End the process with SIGTERM and return its exit status.

        twistd ends itself by the signal that ended it, so a clean end is ``-SIGTERM``, or 0 where
        it went of its own accord. Raises :class:`ProxyError` if it has to be killed.
        """
        process = self.process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise ProxyError(f"it did not stop on SIGTERM\n{self.output}") from None
        status = process.returncode
        assert status is not None
        self.status = status
        return status

    def _clean_up(self) -> None:
        try:
            if self._process is not None:
                self.stop()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def connect(self, name: str) -> socket.socket:
        """A connection to the listener whose port is called ``name``; its calls time out."""
        return connect(self.ports[name])

    def exchange(self, name: str, data: bytes) -> bytes:
        """Send raw bytes to a listener and return everything until it closes."""
        with self.connect(name) as sock:
            sock.sendall(data)
            return read_to_end(sock)

    def get(self, name: str, path: str, **headers: str) -> Reply:
        """GET ``path`` from a listener; underscores in names of ``headers`` are dashes."""
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        connection = http.client.HTTPConnection(HOST, self.ports[name], timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=fields)
            response = connection.getresponse()
            fields = {key.lower(): value for key, value in response.getheaders()}
            return Reply(response.status, fields, response.read())
        finally:
            connection.close()


def connect(port: int) -> socket.socket:
    """A connection to a loopback port; its calls time out."""
    return socket.create_connection((HOST, port), PATIENCE)


def _placeholders(*texts: str) -> list[str]:
    """The names after ``$`` in the texts, in order, each once."""
    found = (m["named"] or m["braced"] for text in texts for m in Template.pattern.finditer(text))
    return list(dict.fromkeys(name for name in found if name))


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; the names of ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def read_to_end(sock: socket.socket) -> bytes:
    """Everything that comes until the peer closes (or resets, where the end is asked for)."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


class Server:
    """
    A TCP server on loopback: ``serve(sock)`` runs in a thread for each connection.

    ``port`` is where it listens, ``connections`` counts what it accepted. A connection that its
    peer resets is no error; anything else that ``serve`` raises is raised when the server ends.
    """

    def __init__(
        self, serve: Callable[[socket.socket], None], host: str = HOST, port: int = 0
    ) -> None:
        self.connections = 0
        self._serve = serve
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._closing = False
        self._listening = socket.create_server((host, port), backlog=128)
        self.host = host
        self.port: int = self._listening.getsockname()[1]

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, as a configuration says it."""
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._accept, daemon=True)
        self._threads.append(thread)
        thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self._errors:
            raise self._errors[0]

    def close(self) -> None:
        """Stop listening and reset what is open; returns when every thread has ended."""
        self._closing = True
        _shut(self._listening)
        self._listening.close()
        with self._lock:
            for sock in self._open:
                _shut(sock)
        for thread in list(self._threads):
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                self._threads.append(thread)
            thread.start()
            if self._closing:
                _shut(sock)

    def _run(self, sock: socket.socket) -> None:
        try:
            self._serve(sock)
        except ConnectionError:
            return
        except BaseException as error:
            if not self._closing:
                self._errors.append(error)
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()


def _shut(sock: socket.socket) -> None:
    """Wake whatever thread waits in the socket."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def echo(sock: socket.socket) -> None:
    """For :class:`Server`: send back what comes, until the peer has sent everything."""
    while data := sock.recv(65536):
        sock.sendall(data)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came: the head's lines without their CRLF, and the body without framing."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0]

    @property
    def target(self) -> bytes:
        """The request target."""
        return self.line.split(b" ")[1]

    def values(self, name: bytes) -> list[bytes]:
        """The values of a header, in order; the name is compared without case."""
        pairs = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"
Answer = bytes | None


class HttpUpstream(Server):
    """
    An HTTP/1.1 server that answers with the raw bytes it is told to.

    ``answer`` is what every request is answered with, or a function of the request; None from it
    closes the connection without a word, and so does an answer that ends the connection by its
    ``connection: close`` header, after it was sent. ``requests`` holds what came.
    """

    def __init__(self, answer: bytes | Callable[[Received], Answer] = OK) -> None:
        super().__init__(self._converse)
        self.requests: list[Received] = []
        self._answer = answer

    def _converse(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            while (request := read_request(stream.readline, stream.read)) is not None:
                self.requests.append(request)
                answer = self._answer if isinstance(self._answer, bytes) else self._answer(request)
                if answer is None:
                    return
                sock.sendall(answer)
                head = answer.partition(b"\r\n\r\n")[0].lower()
                if b"\r\nconnection: close" in head:
                    return


def read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Received | None:
    """One request, None at the end of the connection; strict enough to notice a broken proxy."""
    lines: list[bytes] = []
    while (line := readline()) != b"\r\n":
        if not line:
            if lines:
                raise ConnectionResetError("the connection ended in a request's head")
            return None
        if not line.endswith(b"\r\n"):
            raise AssertionError(f"a line of the head does not end in CRLF: {line!r}")
        lines.append(line[:-2])
    request = Received(b"\r\n".join(lines), b"")
    if request.values(b"transfer-encoding"):
        return Received(request.head, _read_chunks(readline, read))
    length = request.values(b"content-length")
    return Received(request.head, read(int(length[0])) if length else b"")


def _read_chunks(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> bytes:
    parts = []
    while size := int(readline() or b"0", 16):
        parts.append(read(size))
        if read(2) != b"\r\n":
            raise ConnectionResetError("a chunk does not end in CRLF")
    while readline() not in (b"\r\n", b""):
        pass  # trailers
    return b"".join(parts)

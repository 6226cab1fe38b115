"""
Proxies for tests by fork: what every start imports is imported once for each test process.

Laws:

- A forked proxy is what ``twistd -n meshproxy`` by this interpreter is, but for its imports: its
  own working directory, environment, standard streams, process group and exit status. Nothing of
  Twisted's reactor exists before the fork.
- The process that forks has one thread, and ends with the test process that began it.
- Starts by ``exec`` are tested too: ``harness.run`` and whatever asks for a reactor or a path.

Run as ``python -m tests.zygote FD``, with its end of a socket pair as descriptor FD.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_POLL = 0.01
_PRELOADED = (
    "meshproxy.admin.site",
    "meshproxy.api",
    "meshproxy.demo",
    "meshproxy.net.reactor",
    "meshproxy.service",
    "meshproxy.tap",
    "twisted.internet.endpoints",
    "twisted.scripts.twistd",
)


class Forked:
    """A forked process, with what of ``subprocess.Popen`` the harness uses."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit status, as Popen's, or None while it runs."""
        self._look(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises ``subprocess.TimeoutExpired``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = 60.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired("twistd", timeout or 0.0)
            self._look(left)
        return self.returncode

    def _look(self, patience: float) -> None:
        if self.returncode is not None:
            return
        readable, _, _ = select.select([self._status], [], [], patience)
        if readable:
            text = os.read(self._status, 64)
            os.close(self._status)
            self.returncode = int(text or b"-9")

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process that forks, begun when it is first asked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(number)],
                cwd=self._root,
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        return ours

    def start(
        self,
        arguments: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        out: BinaryIO,
        err: BinaryIO,
    ) -> Forked:
        """Run ``twistd`` with these arguments."""
        asked = self._socket or self._begin()
        status, theirs = os.pipe()
        request = json.dumps([list(arguments), str(directory), dict(environment)]).encode()
        descriptors = [out.fileno(), err.fileno(), theirs]
        socket.send_fds(asked, [request], descriptors)
        os.close(theirs)
        answer = asked.recv(64)
        if not answer:
            raise ChildProcessError("the process that forks has ended")
        return Forked(int(answer), status)


def _serve(asked: socket.socket) -> None:
    """Fork for every request, until the other side is gone."""
    import gc
    import importlib

    for name in _PRELOADED:
        importlib.import_module(name)
    if "twisted.internet.reactor" in sys.modules:
        raise SystemExit("something imports the reactor")
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who wait are not waited for
    while True:
        request, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not request:
            return
        if os.fork() == 0:
            try:
                _supervise(asked, json.loads(request), descriptors)
            finally:
                os._exit(70)
        for number in descriptors:
            os.close(number)


def _supervise(asked: socket.socket, request: list[Any], descriptors: list[int]) -> None:
    """Run the proxy in a child of this process, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err, status = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(status)
        asked.close()
        arguments, directory, environment = request
        _run(arguments, directory, environment, out, err)
    asked.send(b"%d" % pid)
    asked.close()
    # A signal to the group (ctrl-C at the tests) is for the proxy; its end is told all the same.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, code = os.waitpid(pid, 0)
    os.write(status, b"%d" % os.waitstatus_to_exitcode(code))
    os._exit(0)


def _run(
    arguments: list[str], directory: str, environment: dict[str, str], out: int, err: int
) -> None:
    """What ``python -c '… twistd.run()'`` does."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, max(out, err) + 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["twistd", *arguments]
    code: Any = 1
    try:
        from twisted.scripts.twistd import run

        run()
        code = 0
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

"""
The health check that runs a program, which must end with status 0.

The law it keeps:

- No shell: the arguments are given as they are, after ``{host}``, ``{port}`` and ``{address}``
  have been replaced. The environment is PATH and what says who is asked.
- The program leads a session of its own. When the check is cancelled its whole process group is
  killed, and it is reaped as soon as it has died: no zombie, and nothing runs on.
- Of what it writes, the last :data:`TAIL` bytes are kept; the last line of these is the reason.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.errors import CheckFailed
from meshproxy.interfaces import IHealthCheck
from meshproxy.upstream.checks.target import target_of

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.upstream.endpoint import Endpoint

#: Bytes of a program's output that are kept.
TAIL = 2048

_CHUNK = 16384

#: Reads of what an ended program has left in its pipe, which holds 64 KiB unless it was enlarged.
_LEFT = 8

#: Seconds between two looks at a process where the kernel does not tell when it ends.
_LOOK = 0.05

_PLACE = re.compile(r"\{(host|port|address)\}").sub


@implementer(IReadDescriptor)
class _Reader:
    """A descriptor that is told to ``ready`` when it can be read."""

    def __init__(self, reactor: Any, fd: int, ready: Any) -> None:
        self._reactor = reactor
        self._fd = fd
        self._ready = ready
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, or -1."""
        return self._fd

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "health check"

    def doRead(self) -> None:
        """It can be read, or has ended."""
        self._ready()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the other end of the pipe closed, and nothing to read."""
        self.close()

    def close(self) -> None:
        """Take it out of the reactor and close it."""
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1


class _Run:
    """One run of a program."""

    def __init__(self, reactor: Any, argv: list[str], environment: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._tail = b""
        self._ended: _Reader | None = None
        self._call: Any = None
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(ours, False)
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.deferred: Deferred[None] = Deferred(lambda _: self._kill())
        self._output = _Reader(reactor, ours, self._written)
        try:
            number = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):  # another system, or an old kernel
            self._call = reactor.callLater(_LOOK, self._look)
        else:
            self._ended = _Reader(reactor, number, self._look)

    def _written(self) -> bool:
        """Keep the end of what the program writes; False when there was nothing."""
        try:
            data = os.read(self._output.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            # Closed by the program, which may run on.
            self._output.close()
            return False
        self._tail = (self._tail + data)[-TAIL:]
        return True

    def _look(self) -> None:
        """See whether it has ended."""
        self._call = None
        status = self._process.poll()
        if status is None:
            if self._ended is None:
                self._call = self._reactor.callLater(_LOOK, self._look)
            return
        if self._ended is not None:
            self._ended.close()
        for _ in range(_LEFT):
            if self._output.fileno() < 0 or not self._written():
                break
        self._output.close()
        if self.deferred.called:
            return  # cancelled: this was to reap it
        if status == 0:
            self.deferred.callback(None)
            return
        said = self._tail.decode("utf-8", "replace").strip().rpartition("\n")[2].strip()
        reason = f"killed by signal {-status}" if status < 0 else f"status {status}"
        self.deferred.errback(CheckFailed(f"{reason}: {said}" if said else reason))

    def _kill(self) -> None:
        """End the program and all that it started; what is left is to reap it."""
        self._output.close()
        # Not reaped yet, so the number is still that of its group. EPERM: it is another user's now.
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)


@implementer(IHealthCheck)
class CommandCheck:
    """``config.command`` is the program and its arguments."""

    name = "command"

    def __init__(self, config: HealthCheck, reactor: Any) -> None:
        assert config.command
        self._reactor = reactor
        self._command = tuple(config.command)
        self._port = config.port

    def check(self, endpoint: Endpoint) -> Deferred[None]:
        """Ask once; see :class:`IHealthCheck`."""
        target = target_of(endpoint, self._port)
        words = {"host": target.host, "port": str(target.port or ""), "address": target.text}
        argv = [_PLACE(lambda match: words[match[1]], text) for text in self._command]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "MESHPROXY_HOST": words["host"],
            "MESHPROXY_PORT": words["port"],
            "MESHPROXY_ADDRESS": words["address"],
        }
        try:
            return _Run(self._reactor, argv, environment).deferred
        except OSError as error:
            return fail(CheckFailed(f"cannot run {argv[0]}: {error.strerror or error}"))

"""
A file of lines, written behind.

The laws it keeps:

- :meth:`LogFile.write` costs a list item and never raises: what cannot be written is lost and
  counted. The first loss is logged, and the next only after something was written again.
- Lines reach the file after :data:`LINES` of them, :data:`BYTES` bytes or :data:`SECONDS` seconds,
  whichever comes first. A timer exists only while a line waits.
- Nothing is kept for a file that takes nothing (a full disk, a pipe that nobody reads): a batch is
  written or lost when its time comes, so that memory is bounded by one batch and one line.
- Files are opened for appending, so that processes may share one and a rotated one is not
  overwritten; a batch is one write. When a write cuts a line off, the next write ends it first.
- The reactor never waits: neither for a named pipe nor for a standard output that is one.
"""

from __future__ import annotations

import os
import select
import stat
from typing import Any, Protocol

from twisted.logger import Logger

#: Lines, bytes and seconds after which waiting lines are written.
LINES = 256
BYTES = 65536
SECONDS = 1.0

#: Permissions of a file that is made.
MODE = 0o640

STDOUT = "-"


class Clock(Protocol):
    """The part of IReactorTime that is used here."""

    def callLater(self, delay: float, call: Any, /) -> Any:
        """Call ``call`` after ``delay`` seconds; the answer has ``cancel``."""


class LogFile:
    """
    Appends lines to the file at ``path``, which is made when it is not there; ``-`` is stdout.

    Nothing is opened yet: :meth:`open` does, so that a bad path is known at start, else the first
    lines do. :attr:`written` and :attr:`dropped` count lines.
    """

    _log = Logger()

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self.written = 0
        self.dropped = 0
        self._clock = clock
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: Any = None
        self._failing = False
        self._cut = False
        self._polled = False
        self._closed = False
        self._descriptor: int | None = None

    def open(self) -> None:
        """Open the file if it is not. Raises ``OSError``."""
        if self._descriptor is None and not self._closed:
            self._open()

    def write(self, line: bytes) -> None:
        """Append ``line``, which ends in a line feed."""
        lines = self._lines
        lines.append(line)
        self._size += len(line)
        if self._timer is None:
            if self._closed:
                self._lines, self._size = [], 0
                self.dropped += 1
                return
            self._timer = self._clock.callLater(SECONDS, self._due)
        if len(lines) >= LINES or self._size >= BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
        self._due()

    def reopen(self) -> None:
        """
        Open the path anew, after the file was moved away; what waits goes to the old one.

        When that fails the old one stays in use, and the reason is logged. Standard output stays.
        """
        if self._closed or self._descriptor is None:
            return
        self.flush()
        old = self._descriptor
        try:
            self._open()
        except OSError as error:
            self._log.error("{path} stays as it is: {why}", path=self.path, why=error.strerror)
            return
        self._failing = False
        if self.path != STDOUT:
            os.close(old)

    def close(self) -> None:
        """Write what waits and close the file. Lines that still come are dropped."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        if self.path != STDOUT and self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> None:
        if self.path == STDOUT:
            self._descriptor = 1
            # It is shared with whoever started us, and so is its O_NONBLOCK, which is not ours to
            # set: a pipe or a terminal is asked before every write.
            self._polled = not stat.S_ISREG(os.fstat(1).st_mode)
            return
        # Non-blocking, for a named pipe without a reader must not stop the proxy.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self.path, flags, MODE)
        self._cut = False

    def _due(self) -> None:
        self._timer = None
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return
        batch = b"".join(lines)
        if self._cut:
            batch = b"\n" + batch
        done, why = self._send(batch)
        if done:
            self._cut = batch[done - 1 : done] != b"\n"
        # Every line ends in a line feed: those behind the cut were not, or not wholly, written.
        lost = batch.count(b"\n", done) if done else len(lines)
        self.written += len(lines) - lost
        self.dropped += lost
        if not lost:
            self._failing = False
        elif not self._failing:
            self._failing = True
            self._log.error("access log {path}: lines are lost: {why}", path=self.path, why=why)

    def _send(self, batch: bytes) -> tuple[int, str]:
        """Write what can be written at once: how many bytes, and why not all."""
        done = 0
        try:
            self.open()
            descriptor = self._descriptor
            assert descriptor is not None
            while done < len(batch):
                if not self._polled:
                    done += os.write(descriptor, batch[done:] if done else batch)
                elif self._writable(descriptor):
                    done += os.write(descriptor, batch[done : done + select.PIPE_BUF])
                else:
                    return done, "nobody reads it"
        except BlockingIOError:
            return done, "nobody reads it"
        except OSError as error:
            return done, error.strerror or str(error)
        return done, ""

    @staticmethod
    def _writable(descriptor: int) -> bool:
        """Whether it takes :data:`select.PIPE_BUF` bytes, or fails, without waiting."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(0))

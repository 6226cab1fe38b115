"""
A file of lines that cannot fill a disk.

The laws it keeps:

- The file is at most ``limit`` bytes long, and so is the one before it, ``PATH.1``; nobody else can
  read either.
- What waits to be written is bounded, and written once a second or by 64 KiB. What cannot be
  written is counted and dropped; the first failure is logged, and the next after a success.
- Several of these on one path, in one process or many, share it: each looks before it writes
  whether the file was moved away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ["LineFile"]

#: Bytes that are written at once.
_FULL = 1 << 16

#: Seconds that a line may wait.
_PATIENCE = 1.0


class LineFile:
    """
    Lines for the file at ``path``. ``reactor`` is IReactorTime, ``log`` takes a message, and
    ``dropped`` the number of lines that were not written.
    """

    def __init__(
        self,
        path: str,
        limit: int,
        reactor: Any,
        log: Callable[[str], None],
        dropped: Callable[[int], None],
    ) -> None:
        self._path = path
        self._limit = limit
        self._reactor = reactor
        self._log = log
        self._dropped = dropped
        self._lines: list[bytes] = []
        self._waiting = 0
        self._file = -1
        self._known = (0, 0)
        self._failing = False
        self._timer: Any = None

    def open(self) -> None:
        """Begin. Raises OSError when the file cannot be written."""
        self._open()

    def close(self) -> None:
        """Write what waits, and end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush()
        self._close()

    def add(self, line: bytes) -> None:
        """Write ``line``, which ends in a line feed, some time soon."""
        if len(line) > self._limit:
            self._dropped(1)
            return
        self._lines.append(line)
        self._waiting += len(line)
        if self._waiting >= _FULL:
            self._flush()
        elif self._timer is None:
            self._timer = self._reactor.callLater(_PATIENCE, self._due)

    def _due(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        lines, self._lines, self._waiting = self._lines, [], 0
        if not lines:
            return
        written = 0
        try:
            room = self._room()
            batch: list[bytes] = []
            for line in lines:
                if len(line) > room:
                    written += self._write(batch)
                    batch = []
                    self._rotate()
                    room = self._limit
                batch.append(line)
                room -= len(line)
            written += self._write(batch)
        except OSError as error:
            self._dropped(len(lines) - written)
            self._close()
            if not self._failing:
                self._failing = True
                self._log(f"cannot write to {self._path}: {error.strerror or error}")
        else:
            self._failing = False

    def _room(self) -> int:
        """How many bytes the file has room for, whoever has written to it."""
        if self._file >= 0:
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                self._close()
            else:
                if (there.st_dev, there.st_ino) != self._known:
                    self._close()
        if self._file < 0:
            self._open()
        return self._limit - os.fstat(self._file).st_size

    def _write(self, lines: list[bytes]) -> int:
        data = b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:] if written else data)
        except OSError:
            if written:
                # Half a line would spoil the next one.
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise
        return len(lines)

    def _rotate(self) -> None:
        if not os.fstat(self._file).st_size:
            return
        self._close()
        os.replace(self._path, self._path + ".1")
        self._open()

    def _open(self) -> None:
        # A FIFO that nobody reads must not hold up the proxy.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(self._path, flags, 0o600)
        held = os.fstat(self._file)
        self._known = (held.st_dev, held.st_ino)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

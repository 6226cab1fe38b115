"""
Kernel pipes for os.splice, pooled.

The laws kept here:

* A pipe given back is empty; one that is not is closed, so that no connection can ever see
  another's bytes.
* Pipes alive never exceed ``limit``, whatever the traffic: that bounds both the descriptors (two a
  pipe) and the kernel memory (``limit`` x ``size`` bytes) that slow readers can pin.  When none is
  to be had, :meth:`PipePool.take` says so and its caller copies instead.
* Pipes waiting never exceed ``spare``.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

SIZE: Final = 1 << 20
"""Bytes: the capacity asked for; the most an unprivileged process may have by default."""

_F_SETPIPE_SZ: Final[int] = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_F_GETPIPE_SZ: Final[int] = getattr(fcntl, "F_GETPIPE_SZ", 1032)


class Pipe:
    """A non-blocking pipe: ``source`` is read, ``sink`` is written, ``size`` bytes fit."""

    __slots__ = ("sink", "size", "source")

    def __init__(self, size: int) -> None:
        """Raises OSError when the process has no descriptors left."""
        self.source, self.sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Over the system's size for a pipe, or over this user's share of pipe memory
        # (pipe-user-pages-soft): the size that the kernel gave serves, with more turns.
        with suppress(PermissionError):
            fcntl.fcntl(self.sink, _F_SETPIPE_SZ, size)
        self.size: int = fcntl.fcntl(self.sink, _F_GETPIPE_SZ)

    def close(self) -> None:
        """Close both ends; what is inside is dropped."""
        os.close(self.source)
        os.close(self.sink)


class PipePool:
    """
    At most ``limit`` pipes alive, at most ``spare`` of them waiting.

    ``alive`` counts the pipes that exist, lent or waiting.
    """

    __slots__ = ("_waiting", "alive", "limit", "size", "spare")

    def __init__(self, limit: int = 256, spare: int = 32, size: int = SIZE) -> None:
        self.limit = limit
        self.spare = spare
        self.size = size
        self.alive = 0
        self._waiting: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or None at the limit or when the process has no descriptors left."""
        if self._waiting:
            return self._waiting.pop()
        if self.alive >= self.limit:
            return None
        try:
            pipe = Pipe(self.size)
        except OSError:
            return None
        self.alive += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back an *empty* pipe."""
        if len(self._waiting) < self.spare:
            self._waiting.append(pipe)
        else:
            self.discard(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a lent pipe that may still hold bytes."""
        self.alive -= 1
        pipe.close()

    def clear(self) -> None:
        """Close the pipes that wait; those lent are closed or pooled as they come back."""
        while self._waiting:
            self.discard(self._waiting.pop())

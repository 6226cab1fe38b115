"""
A small file of secrets that may change while the proxy runs: passwords, keys.

The law it keeps: a file is looked at no more than once a second, and read when it changed; one
that cannot be read or understood changes nothing, is counted once and told once. What is told
never holds a line of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["INTERVAL", "LONGEST", "WatchedFile"]

T = TypeVar("T")

INTERVAL = 1.0
"""Seconds between two looks at a file."""

LONGEST = 16 << 20
"""Bytes of the longest file that is read."""


class WatchedFile(Generic[T]):
    """
    What ``parse`` makes of the bytes of the file at ``path``.

    ``parse`` raises ``ValueError``, whose text says what is wrong without a secret. ``now`` is a
    monotonic clock; ``changed(value)`` and ``failed(reason)`` are told of what comes later.
    """

    __slots__ = ("_changed", "_failed", "_next", "_now", "_parse", "_seen", "path", "value")

    def __init__(
        self,
        path: str,
        parse: Callable[[bytes], T],
        now: Callable[[], float],
        changed: Callable[[T], Any],
        failed: Callable[[str], Any],
    ) -> None:
        self.path = path
        self._parse = parse
        self._now = now
        self._changed = changed
        self._failed = failed
        self._next = 0.0
        self._seen: object = None
        self.value: T | None = None

    def load(self) -> T:
        """Read it for the first time. Raises ``ValueError``, which names the file."""
        self._next = self._now() + INTERVAL
        try:
            seen, content = self._read()
            value = self._parse(content)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path}: {_reason(error)}") from None
        self._seen = seen
        self.value = value
        return value

    def look(self) -> None:
        """Read it again if it changed; costs nothing within a second of the last look."""
        now = self._now()
        if now < self._next:
            return
        self._next = now + INTERVAL
        seen: object
        try:
            seen = _signature(os.stat(self.path))
        except OSError as error:
            seen = error.errno
        if seen == self._seen:
            return
        # Before it is read: a file that is broken is told once, and read again when it changes.
        self._seen = seen
        try:
            self._seen, content = self._read()
            value = self._parse(content)
        except (OSError, ValueError) as error:
            self._failed(f"{self.path}: {_reason(error)}")
            return
        self.value = value
        self._changed(value)

    def _read(self) -> tuple[object, bytes]:
        with open(self.path, "rb") as file:
            seen = _signature(os.fstat(file.fileno()))
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST >> 20} MiB")
        return seen, content


def _signature(stat: os.stat_result) -> object:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # A decoder's text would show the bytes.
    return "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)

"""
How much of what the process has is in use: the loop's time, memory, descriptors.

The law it keeps: looking costs little however much there is (no listing of fifty thousand
descriptors four times a second), needs no descriptor that may be lacking by then, and never
raises; what cannot be read any more keeps its last value.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: What a listing of the descriptors may cost, as a share of the time.
LISTING = 0.01
#: Limits above this are none: version 1 of control groups says "no limit" so.
NO_LIMIT = 1 << 60

Seconds = Callable[[], float]


class LoopLag:
    """
    How late the loop calls what is due, in seconds.

    ``tick`` seconds between two calls; ``now`` must never be set back (the time of day may).
    """

    def __init__(self, clock: Any, tick: float, now: Seconds = time.monotonic) -> None:
        self._clock = clock
        self._tick = tick
        self._now = now
        self._due = 0.0
        self._worst = 0.0
        self._smooth = 0.0
        self._call: Any = None

    def start(self) -> None:
        """Measure from now on."""
        self._due = self._now() + self._tick
        self._call = self._clock.callLater(self._tick, self._late)

    def stop(self) -> None:
        """Measure no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _late(self) -> None:
        self._note()
        self.start()

    def _note(self) -> None:
        late = self._now() - self._due
        if late > self._worst:
            self._worst = late

    def read(self) -> float:
        """
        The worst since the last reading, averaged with what was read before.

        One pause weighs half of what it was, a loop that is always late soon weighs all.
        """
        if self._call is not None:
            self._note()  # it may be overdue at this very moment
        self._smooth = (self._smooth + self._worst) / 2
        self._worst = 0.0
        return self._smooth


class Memory:
    """The process's resident memory in bytes; ``path`` is its ``statm``."""

    def __init__(self, path: str = "/proc/self/statm") -> None:
        self._path = path
        self._page = resource.getpagesize()
        self._file: int | None = None
        self._last = 0.0

    def start(self) -> None:
        """Open the file now: later there may be no descriptor for it."""
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def stop(self) -> None:
        """Close it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self) -> float:
        """Bytes; where nobody says, the most that the process ever had."""
        if self._file is not None:
            try:
                self._last = float(int(os.pread(self._file, 256, 0).split()[1]) * self._page)
            except (OSError, IndexError, ValueError):
                pass
        else:
            self._last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
        return self._last


class Descriptors:
    """
    Open descriptors, in the folder ``path``.

    Since Linux 6.2 the folder's size is their number. Where it is not, the folder is listed, and
    not again before a hundred times as long has passed as that took.
    """

    def __init__(self, path: str = "/proc/self/fd", now: Seconds = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._next = 0.0
        self._last = 0.0

    def start(self) -> None:
        """Nothing is needed for it."""

    def stop(self) -> None:
        """Nothing to let go of."""

    def read(self) -> float:
        """How many."""
        try:
            counted = os.stat(self._path).st_size
            if counted:
                self._last = float(counted)
                return self._last
            began = self._now()
            if began < self._next:
                return self._last
            # The listing's own descriptor is among them.
            self._last = len(os.listdir(self._path)) - 1.0
            self._next = began + (self._now() - began) / LISTING
        except OSError:
            # A listing needs a descriptor: there is none left.
            self._last = descriptor_limit()
        return self._last


def descriptor_limit() -> float:
    """The most descriptors that the process may have open now."""
    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def memory_limit(root: Path = Path("/")) -> float:
    """Bytes that the process may have: the least of its control groups' limits and the machine."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limit_files(root):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isascii() and text.isdigit() and 0 < int(text) < NO_LIMIT:
            limits.append(int(text))
    return float(min(limits))


def _limit_files(root: Path) -> Iterator[Path]:
    """Where the limits of the process's control group, and of those around it, may stand."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if not kinds:
            top, name = mount, "memory.max"
        elif "memory" in kinds.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        place = top / group.strip("/")
        # In a container the group's path may be that of outside, with its limit at the top here.
        yield top / name
        while place != top and top in place.parents:
            yield place / name
            place = place.parent


def relieve() -> None:
    """Give back memory that is not in use: what only cycles hold, and what malloc keeps."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass  # not glibc's: it has its own ways

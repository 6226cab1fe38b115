"""
Tables that take long to build, built in slices beside the work.

The law it keeps: a slice at a time and one a sweep of the wheel, so that whoever waits for the
reactor waits for a slice (a few milliseconds), never for a table; what is asked for again while
it is being built is built again afterwards, so that frequent changes never starve it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from twisted.python import log

if TYPE_CHECKING:
    from meshproxy.net.wheel import TimerWheel

#: Seconds: with the wheel's next sweep.
SOON = 1e-6


class Building(Protocol):
    """What can be used when its ``building`` is exhausted."""

    building: Iterator[None]


T = TypeVar("T", bound=Building)


class Yard:
    """A line of things to build. An entry of the wheel while there are any."""

    __slots__ = ("_begun", "_building", "_line", "_wheel", "deadline", "slot")

    def __init__(self, wheel: TimerWheel) -> None:
        self.deadline = 0.0
        self.slot = 0
        self._wheel = wheel
        self._line: dict[Hashable, tuple[Callable[[], Any], Callable[[Any], None]]] = {}
        self._begun: tuple[Any, Callable[[Any], None]] | None = None
        self._building: Hashable = None

    def ask(self, key: Hashable, begin: Callable[[], T], done: Callable[[T], None]) -> None:
        """
        Build what ``begin`` returns and give it to ``done``, later.

        What was asked for under the same key and has not begun is forgotten.
        """
        self._line[key] = (begin, done)
        if not self.slot:
            self._wheel.arm(self, self._wheel.now() + SOON)

    def forget(self, key: Hashable) -> None:
        """Nobody wants it any more. What has begun is still given to its ``done``."""
        self._line.pop(key, None)

    def stop(self) -> None:
        """Let go of everything, and of the wheel."""
        self._line.clear()
        self._begun = self._building = None
        self._wheel.disarm(self)

    def holds(self, key: Hashable) -> bool:
        """Whether something is being built under this key, or waits to be."""
        return key in self._line or key is self._building

    def __len__(self) -> int:
        return len(self._line) + (self._begun is not None)

    def expired(self, now: float) -> float:
        """Build one slice."""
        try:
            self._slice()
        except Exception:
            # It costs what was being built, not the others in the line.
            log.err()
            self._begun = self._building = None
        return now + SOON if len(self) else 0.0

    def _slice(self) -> None:
        if self._begun is None:
            key = next(iter(self._line))
            begin, done = self._line.pop(key)
            self._building = key
            self._begun = begin(), done
        built, done = self._begun
        for _ in built.building:
            return
        self._begun = self._building = None
        done(built)

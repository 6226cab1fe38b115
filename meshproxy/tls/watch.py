"""
Looking whether files have changed.

The laws it keeps:

- One timer looks at all files, by their size, time and inode; it reads none. A link that now leads
  elsewhere is a change, as is a file that comes or goes.
- Several files that changed between two looks are one change for whoever they belong to.
- What could not be taken over is tried again at every look: that a file may be read now, or that
  there are descriptors again, is nothing that shows from outside.
- What fails while it takes a change over costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from twisted.python import log

from meshproxy.tls.material import Seen, seen

__all__ = ["INTERVAL", "Watch"]

INTERVAL: Final = 5.0
"""Seconds between two looks."""


class _Watched:
    __slots__ = ("again", "changed", "looks")

    def __init__(self, looks: dict[str, Seen], changed: Callable[[], object]) -> None:
        self.looks = looks
        self.changed = changed
        self.again = False


class Watch:
    """The files of one service. ``reactor`` is asked for ``callLater`` only."""

    def __init__(self, reactor: Any, interval: float = INTERVAL) -> None:
        self._reactor = reactor
        self._interval = interval
        self._watched: dict[object, _Watched] = {}
        self._after: dict[object, Callable[[], object]] = {}
        self._timer: Any = None

    def add(
        self,
        paths: Iterable[str],
        changed: Callable[[], object],
        looks: Mapping[str, Seen] | None = None,
    ) -> Callable[[], None]:
        """
        Call ``changed()`` after each look that finds any of ``paths`` other than before, and after
        the next one too if it returned True.

        ``looks`` says how they looked when they were read, so that what changed since is noticed.
        Returns what ends it.
        """
        known = {} if looks is None else looks
        key = object()
        self._watched[key] = _Watched(
            {path: known[path] if path in known else seen(path) for path in paths}, changed
        )

        def end() -> None:
            self._watched.pop(key, None)

        return end

    def after(self, call: Callable[[], object]) -> Callable[[], None]:
        """Call ``call()`` after each look, for what else is due now and then; returns its end."""
        key = object()
        self._after[key] = call

        def end() -> None:
            self._after.pop(key, None)

        return end

    def start(self) -> None:
        """Look from now on."""
        if self._timer is None:
            self._timer = self._reactor.callLater(self._interval, self._due)

    def stop(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def look(self) -> None:
        """Look at all files now."""
        for key, watched in list(self._watched.items()):
            fresh = {path: seen(path) for path in watched.looks}
            if (fresh == watched.looks and not watched.again) or key not in self._watched:
                continue
            # Before they are read: what changes while they are is found by the next look.
            watched.looks = fresh
            watched.again = False
            try:
                watched.again = watched.changed() is True
            except Exception:
                log.err(None, f"taking over changed files: {', '.join(fresh)}")
        for call in list(self._after.values()):
            try:
                call()
            except Exception:
                log.err(None, "what is due after a look at the files")

    def _due(self) -> None:
        self._timer = self._reactor.callLater(self._interval, self._due)
        self.look()

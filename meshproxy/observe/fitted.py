"""
A filter at its place in a chain, or another plugin at its own: what is counted and logged of it.

The law it keeps: whatever a plugin does wrong is counted every time and logged, with its
traceback, at most once a second, so that one that fails at every request cannot fill a disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.python import log
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.observe.registry import Registry

#: Seconds between two tracebacks of one filter.
QUIET = 1.0


class Fitted:
    """
    ``filter`` is the filter itself, ``label`` its name in the chain (unique there).

    ``failed()`` is called while an exception is handled, or with a Failure.
    """

    __slots__ = (
        "_answers",
        "_errors",
        "_next",
        "_now",
        "_unsaid",
        "_values",
        "_waits",
        "filter",
        "label",
        "label_bytes",
        "listener",
    )

    def __init__(
        self,
        filter: Any,  # noqa: A002
        label: str,
        listener: str,
        registry: Registry,
        now: Callable[[], float],
    ) -> None:
        self.filter = filter
        self.label = label
        self.label_bytes = label.encode()
        self.listener = listener
        labels = {"listener": listener, "filter": label}
        self._values = registry.values
        self._answers = registry.counter(
            "meshproxy_filter_answers_total", "Answered or refused by the filter", labels
        )
        self._waits = registry.counter(
            "meshproxy_filter_waits_total", "Calls that did not answer at once", labels
        )
        self._errors = registry.counter(
            "meshproxy_filter_errors_total", "Exceptions, and answers that came too late", labels
        )
        self._now = now
        self._next = 0.0
        self._unsaid = 0

    def __repr__(self) -> str:
        return f"<{self.whose}>".replace("'", "")

    @property
    def whose(self) -> str:
        """What the log calls it."""
        return f"filter '{self.label}' of listener '{self.listener}'"

    def answered(self) -> None:
        """It answered (or refused)."""
        self._values[self._answers] += 1

    def waited(self) -> None:
        """It did not answer at once."""
        self._values[self._waits] += 1

    def failed(self, failure: Failure | None = None) -> None:
        """It raised, or did what it must not."""
        self._values[self._errors] += 1
        now = self._now()
        if now < self._next:
            self._unsaid += 1
            return
        self._next = now + QUIET
        more = f" ({self._unsaid} more since the last one)" if self._unsaid else ""
        self._unsaid = 0
        if failure is None:
            failure = Failure()
        # Not log.err: that is for what this code does not expect, and trial fails for it.
        log.msg(f"{self.whose} failed{more}:\n{failure.getTraceback()}")


class Chosen(Fitted):
    """
    A plugin that is no filter: ``kind`` is ``balancer``, ``discovery``, ``health_check`` or
    ``access_log``. Of ``listener`` and ``cluster`` one is empty. Its failures alone are counted.
    """

    __slots__ = ("cluster", "kind")

    def __init__(
        self,
        made: Any,
        label: str,
        kind: str,
        listener: str,
        cluster: str,
        registry: Registry,
        now: Callable[[], float],
    ) -> None:
        self.filter = made
        self.label = label
        self.label_bytes = label.encode()
        self.listener = listener
        self.cluster = cluster
        self.kind = kind
        self._values = registry.values
        self._answers = self._waits = self._errors = registry.counter(
            "meshproxy_plugin_errors_total",
            "Exceptions of plugins that are no filters",
            {"kind": kind, "listener": listener, "cluster": cluster, "plugin": label},
        )
        self._now = now
        self._next = 0.0
        self._unsaid = 0

    @property
    def whose(self) -> str:
        """What the log calls it."""
        owner = f"cluster '{self.cluster}'" if self.cluster else f"listener '{self.listener}'"
        return f"{self.kind.replace('_', ' ')} '{self.label}' of {owner}"

"""
Where records of exchanges and connections go when they are over.

The law it keeps: whoever logs a record calls one function and gets no exception from a plugin;
with one access log that function is the log's own, or one try around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshproxy.observe.fitted import Fitted

Sink = Callable[[Any], None]


def guarded(fitted: Fitted) -> Sink:
    """What gives a record to a plugin (an IAccessLog); what it raises is counted and logged."""
    take = fitted.filter.log

    def log(record: Any) -> None:
        try:
            take(record)
        except Exception:
            fitted.failed()

    return log


def each(sinks: Sequence[Sink]) -> Sink | None:
    """What gives a record to every one of ``sinks``, in order; None where there are none."""
    if len(sinks) <= 1:
        return sinks[0] if sinks else None
    held = tuple(sinks)

    def log(record: Any) -> None:
        for sink in held:
            sink(record)

    return log

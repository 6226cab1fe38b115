"""A reactor of its own for tests in which the kernel's behaviour is the point."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def turn_until(reactor: Any, condition: Callable[[], object], seconds: float = 20.0) -> None:
    """
    Let the reactor turn until ``condition()`` is true.

    Raises ``AssertionError`` when it is not within ``seconds``.
    """
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError("what was waited for did not happen")
        reactor.runUntilCurrent()
        if condition():
            return
        wait = reactor.timeout()
        reactor.doIteration(0.05 if wait is None else min(wait, 0.05))


def turn(reactor: Any, times: int = 3) -> None:
    """Let the reactor turn a few times without waiting."""
    for _ in range(times):
        reactor.runUntilCurrent()
        reactor.doIteration(0)


def close(reactor: Any) -> None:
    """Give up everything that a reactor holds, what wakes it included."""
    for call in reactor.getDelayedCalls():
        call.cancel()
    for selectable in set(getattr(reactor, "_selectables", {}).values()):
        if hasattr(selectable, "socket"):
            selectable.socket.close()
    for descriptor in reactor._internalReaders:
        descriptor.connectionLost(None)
    poller = getattr(reactor, "_poller", None)
    if poller is not None and hasattr(poller, "close"):
        poller.close()

"""The errors that are logged while a test does something that logs them on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.python import log


@contextmanager
def errors() -> Iterator[list[Any]]:
    """The failures logged inside the block."""
    failures: list[Any] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("isError"):
            failures.append(event.get("failure"))

    log.addObserver(observe)
    try:
        yield failures
    finally:
        log.removeObserver(observe)

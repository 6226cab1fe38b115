"""The lines that are logged while a test does something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.python import log


@contextmanager
def lines() -> Iterator[list[str]]:
    """The texts of the messages, not of the errors, logged inside the block."""
    texts: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if not event.get("isError"):
            texts.append(" ".join(map(str, event["message"])))

    log.addObserver(observe)
    try:
        yield texts
    finally:
        log.removeObserver(observe)

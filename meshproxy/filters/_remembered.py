"""
What was found out and holds for a while: verified passwords, tokens, decisions.

The law it keeps: a table never has more than its size, and gives nothing away after its time. Its
keys are hashes with a secret of this process, so that it holds no secret that it was asked about.
"""

from __future__ import annotations

from hashlib import blake2b
from os import urandom
from typing import Generic, TypeVar

__all__ = ["Remembered"]

T = TypeVar("T")


class Remembered(Generic[T]):
    """At most ``size`` values, each until its own time; 0 remembers nothing."""

    __slots__ = ("_held", "_salt", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: dict[bytes, tuple[float, T]] = {}
        self._salt = urandom(32)

    def __len__(self) -> int:
        return len(self._held)

    def key(self, *parts: bytes) -> bytes:
        """The key for these parts; parts that are cut otherwise have another key."""
        if len(parts) == 1:
            return blake2b(parts[0], digest_size=32, key=self._salt).digest()
        hashed = blake2b(digest_size=32, key=self._salt)
        for part in parts:
            hashed.update(b"%d:" % len(part))
            hashed.update(part)
        return hashed.digest()

    def get(self, key: bytes, now: float) -> T | None:
        """The value, None when there is none or its time is over."""
        held = self._held.get(key)
        if held is None:
            return None
        if held[0] <= now:
            del self._held[key]
            return None
        return held[1]

    def put(self, key: bytes, value: T, until: float) -> None:
        """Remember a value until then; the oldest makes room."""
        held = self._held
        held.pop(key, None)
        if self.size <= 0:
            return
        if len(held) >= self.size:
            del held[next(iter(held))]
        held[key] = (until, value)

    def forget(self, key: bytes) -> None:
        """Forget one value."""
        self._held.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()

"""
Which certificate a server name asks for.

The laws it keeps:

- An exact name is before a wildcard, and what was added first is before what came later.
- A wildcard stands for one whole label, the first (RFC 9525, 6.3): ``*.example`` is ``a.example``,
  neither ``example`` nor ``a.b.example``. Wildcards of any other form are no names here.
- A look-up costs at most two dictionaries, however many names there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["NameTable"]

T = TypeVar("T")


class NameTable(Generic[T]):
    """Values by server name. A name is lower-case ASCII without a trailing dot."""

    __slots__ = ("_below", "_exact")

    def __init__(self) -> None:
        self._exact: dict[bytes, T] = {}
        # By what follows the wildcard's dot.
        self._below: dict[bytes, T] = {}

    def add(self, name: bytes, value: T) -> bool:
        """Add ``name`` or ``*.NAME``; False, and nothing done, if it is there or is no name."""
        table = self._exact
        if b"*" in name:
            star, _, name = name.partition(b".")
            if star != b"*" or not name or b"*" in name:
                return False
            table = self._below
        if not name or name in table:
            return False
        table[name] = value
        return True

    def get(self, server_name: bytes) -> T | None:
        """The value for a name that a client asks for; None if there is none."""
        found = self._exact.get(server_name)
        if found is None:
            found = self._below.get(server_name.partition(b".")[2])
        return found

    def __iter__(self) -> Iterator[bytes]:
        yield from self._exact
        for name in self._below:
            yield b"*." + name

    def __len__(self) -> int:
        return len(self._exact) + len(self._below)

"""
What a ClientHello asks for, found in a table.

The laws kept here:

* Of the entries that match, the first one is taken, as they were written; a look-up costs a few
  dictionaries all the same, however many names there are.
* ``*.suffix`` stands for one label or several, as it does for the hosts of HTTP; ``*`` for any
  name and for none, as long as it is a hello.
* An entry without conditions takes everything that comes to it, also what is no hello.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meshproxy.tls.hello import Hello

T = TypeVar("T")


class Match(Protocol):
    """What a hello has to say: one of the names, and one of the protocols; empty: any."""

    @property
    def server_names(self) -> Sequence[str]:
        """Names, ``*.suffix`` or ``*``."""

    @property
    def alpn(self) -> Sequence[str]:
        """Names of protocols."""


class HelloRoutes(Generic[T]):
    """Values by hello; ``routes`` are what each one's hellos have to match, and the values."""

    __slots__ = ("_below", "_exact", "_nameless", "_rest")

    def __init__(self, routes: Iterable[tuple[Match | None, T]]) -> None:
        listed: list[tuple[frozenset[bytes] | None, T]] = []
        # Numbers of entries: by name as it is written, and of those that any name suits.
        named: dict[bytes, list[int]] = {}
        anyhow: list[int] = []
        self._rest: T | None = None
        for number, (match, value) in enumerate(routes):
            names = {_plain(name) for name in match.server_names} if match is not None else set()
            alpn = frozenset(name.encode() for name in match.alpn) if match is not None else None
            listed.append((alpn or None, value))
            if not names or b"*" in names:
                anyhow.append(number)
            for name in names:
                named.setdefault(name, []).append(number)
            if not names and not alpn and self._rest is None:
                self._rest = value

        def steps(name: bytes) -> tuple[tuple[frozenset[bytes] | None, T], ...]:
            """The entries that suit ``name``, up to one that takes every protocol."""
            numbers = {*anyhow, *named.get(name, ())}
            at = name.find(b".")
            while at >= 0:
                numbers.update(named.get(b"*" + name[at:], ()))
                at = name.find(b".", at + 1)
            found = []
            for number in sorted(numbers):
                found.append(listed[number])
                if listed[number][0] is None:
                    break
            return tuple(found)

        self._exact = {name: steps(name) for name in named if not name.startswith(b"*")}
        self._below = {name[2:]: steps(name) for name in named if name.startswith(b"*.")}
        self._nameless = steps(b"")

    def find(self, hello: Hello | None) -> T | None:
        """The value for ``hello``, or for what is no hello (None); None where there is none."""
        if hello is None:
            return self._rest
        name = hello.server_name
        steps = self._exact.get(name)
        if steps is None:
            steps = self._nameless
            below = self._below
            at = name.find(b".") if below else -1
            while at >= 0:
                found = below.get(name[at + 1 :])
                if found is not None:
                    steps = found
                    break
                at = name.find(b".", at + 1)
        for alpn, value in steps:
            if alpn is None or not alpn.isdisjoint(hello.alpn):
                return value
        return None


def _plain(name: str) -> bytes:
    """As a hello's name is told."""
    return name.lower().removesuffix(".").encode("ascii")

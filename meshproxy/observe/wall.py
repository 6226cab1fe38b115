"""
Times of a clock as dates.

The laws it keeps:

- A second, and a millisecond, is formatted once however many records fall into it; what is kept is
  bounded.
- The distance between the clock and the wall is measured anew whenever a second is met for the
  first time, so that a step of the system's time is followed within a second of traffic.
- Dates are UTC.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

#: Seconds, and milliseconds, whose texts are kept.
KEPT = 4096

_DIRECTIVE = re.compile(r"%(?:([1-9]?)f|(.?))", re.DOTALL)
_KNOWN = frozenset("aAbBcCdDeFgGhHIjklmMpPrRsSTuUVwWxXyYzZ%")

# The library takes these for local time.
_OWN = {"s": None, "z": "+0000", "Z": "UTC"}


class Wall:
    """``seconds of the clock + offset`` are seconds since 1970."""

    __slots__ = ("_clock", "_wall", "offset")

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self.offset = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Measure the offset."""
        if self._clock is not self._wall:
            self.offset = self._wall() - self._clock()


class IsoSeconds(dict[int, bytes]):
    """``seconds[n]`` is the ISO 8601 text of second n since 1970, up to and with the dot."""

    def __init__(self, wall: Wall) -> None:
        super().__init__()
        self._wall = wall

    def __missing__(self, second: int) -> bytes:
        if len(self) >= KEPT:
            self.clear()
        self._wall.refresh()
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode("ascii")
        self[second] = text
        return text


class IsoMilliseconds(dict[int, bytes]):
    """``milliseconds[n]`` is ISO 8601 in UTC of millisecond n since 1970, between two texts."""

    def __init__(self, wall: Wall, before: bytes, after: bytes) -> None:
        super().__init__()
        self._seconds = IsoSeconds(wall)
        self._form = before.replace(b"%", b"%%") + b"%b%03dZ" + after.replace(b"%", b"%%")

    def __missing__(self, millisecond: int) -> bytes:
        if len(self) >= KEPT:
            self.clear()
        second, rest = divmod(millisecond, 1000)
        text = self[millisecond] = self._form % (self._seconds[second], rest)
        return text


class Stamp:
    """
    A date in a format of strftime's, called with seconds since 1970.

    Beyond strftime, as in Envoy: ``%3f`` are three digits of the second's fraction (1 to 9; ``%f``
    is nine) and ``%s`` the seconds since 1970. Raises ``ValueError`` for a directive that is
    unknown or would put a line break or a tab into the date.
    """

    __slots__ = ("_digits", "_pieces", "_second", "_texts", "_wall")

    def __init__(self, format: str, wall: Wall) -> None:  # noqa: A002
        # What stands between the fractions: formats of strftime's, and None for the seconds.
        self._pieces: list[list[str | None]] = [[]]
        self._digits: list[int] = []
        at = 0
        for match in _DIRECTIVE.finditer(format):
            piece = self._pieces[-1]
            piece.append(format[at : match.start()])
            at = match.end()
            digits, directive = match.groups()
            if directive is None:
                self._digits.append(int(digits or 9))
                self._pieces.append([])
            elif directive not in _KNOWN:
                raise ValueError(f"unknown date directive {match[0]!r}")
            else:
                piece.append(_OWN.get(directive, match[0]))
        self._pieces[-1].append(format[at:])
        self._wall = wall
        self._second: int | None = None
        self._texts: list[bytes] = []

    def __call__(self, at: float) -> bytes:
        second = int(at)
        if second != self._second:
            self._wall.refresh()
            self._second = second
            self._texts = [_strftime(piece, second) for piece in self._pieces]
        texts = self._texts
        line = texts[0]
        nanoseconds = b"%09d" % ((at - second) * 1_000_000_000)
        for digits, text in zip(self._digits, texts[1:], strict=True):
            line += nanoseconds[:digits] + text
        return line


def _strftime(piece: list[str | None], second: int) -> bytes:
    date = time.gmtime(second)
    return "".join(
        str(second) if part is None else time.strftime(part, date) for part in piece
    ).encode()

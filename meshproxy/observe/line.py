"""
A line of the access log as one generated function.

The laws it keeps:

- The function reads each attribute of a record once and formats once, with a single bytes ``%``.
- Every text of a record passes the escape: all of them are looked at together, and only a line that
  has something odd in it pays for escaping value by value.
- Only constants of this room and byte literals get into the source: nothing of a record does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from meshproxy.observe.escape import ODD
from meshproxy.observe.record import AccessRecord
from meshproxy.observe.wall import MILLISECONDS, IsoSeconds, Stamp, Wall

Formatter = Callable[[AccessRecord], bytes]


class _NoHeaders:
    """Stands in for headers that are not there."""

    def get(self, name: bytes, /) -> bytes | None:
        """None."""
        return None


class Line:
    """
    Collects the parts of a line in their order; :meth:`compiled` makes the function.

    ``missing`` is written for a text that is empty, ``never`` for a time that did not come;
    ``milliseconds`` is the ``%`` conversion of durations; ``escape`` is called with odd values.
    """

    def __init__(
        self,
        missing: bytes,
        never: bytes,
        milliseconds: str,
        escape: Callable[[bytes], bytes],
        wall: Wall,
    ) -> None:
        self._missing = missing
        self._never = never
        self._milliseconds = milliseconds
        self._wall = wall
        self._template = b""
        self._values: list[str] = []
        self._read: list[str] = []
        self._setup: list[str] = []
        self._texts: list[str] = []
        self._names: dict[str, Any] = {
            "NONE": _NoHeaders(),
            "WALL": wall,
            "SECONDS": IsoSeconds(wall),
            "MILLISECONDS": MILLISECONDS,
            "ODD": ODD,
            "join": b"".join,
            "escape": escape,
        }

    def literal(self, text: bytes) -> None:
        """Write ``text``."""
        self._template += text.replace(b"%", b"%%")

    def number(self, attribute: str) -> None:
        """Write an integer attribute."""
        self._value("%d", self._attribute(attribute))

    def text(self, attribute: str) -> None:
        """Write a bytes attribute."""
        self._text(f"{self._attribute(attribute)} or {self._missing!r}")

    def header(self, attribute: str, choices: Sequence[str | bytes], limit: int | None) -> None:
        """
        Write the first that is not empty, cut to ``limit`` bytes.

        Each choice is an attribute (str) or a header (bytes, in lower case) of the headers that
        are ``attribute``; a header that comes with a leading ``*`` is written as three asterisks.
        """
        found = []
        for choice in choices:
            if isinstance(choice, str):
                found.append(self._attribute(choice))
                continue
            headers = self._attribute(attribute)
            guard = f"if {headers} is None: {headers} = NONE"
            if guard not in self._setup:
                self._setup.append(guard)
            if choice.startswith(b"*"):
                found.append(f"({headers}.get({choice[1:]!r}) and b'***')")
            else:
                found.append(f"{headers}.get({choice!r})")
        found.append(repr(self._missing))
        value = " or ".join(found)
        self._text(value if limit is None else f"({value})[:{limit}]")

    def span(self, start: str, end: str, start_or: str | None = None) -> None:
        """
        Write the milliseconds between two attributes, if both times came.

        ``start_or`` is the attribute that stands in for ``start``; both must have come by then.
        """
        first, last = self._attribute(start), self._attribute(end)
        if start_or is not None:
            condition = last
            first = f"({first} or {self._attribute(start_or)})"
        elif start == "start":
            condition = last
        else:
            condition = f"{first} and {last}"
        span = f"({last} - {first}) * 1000"
        if end == "end" and start == "start":
            self._value(self._milliseconds, span)
        else:
            form = self._milliseconds.encode()
            self._value("%b", f"{form!r} % ({span}) if {condition} else {self._never!r}")

    def start_time(self, format: str | None) -> None:  # noqa: A002
        """
        Write the date of ``start``: ISO 8601 with milliseconds, or ``format``.

        Raises ``ValueError`` as :class:`~meshproxy.observe.wall.Stamp`.
        """
        start = self._attribute("start")
        for step in (f"at = {start} + WALL.offset", "second = int(at)"):
            if step not in self._setup:
                self._setup.append(step)
        if format is None:
            self._value("%b", "SECONDS[second]")
            self._value("%bZ", "MILLISECONDS[int((at - second) * 1000)]")
        else:
            name = f"stamp_{len(self._names)}"
            self._names[name] = Stamp(format, self._wall)
            self._value("%b", f"{name}(at)")

    def compiled(self) -> Formatter:
        """The function; a line ends as its last part does."""
        lines = ["def line(record):"]
        lines += [f"    {name} = record.{name}" for name in self._read]
        lines += [f"    {step}" for step in self._setup]
        if self._texts:
            names = [f"text_{number}" for number in range(len(self._texts))]
            pairs = list(zip(names, self._texts, strict=True))
            lines += [f"    {name} = {value}" for name, value in pairs]
            lines.append(f"    joined = join(({', '.join(names)},))")
            lines.append("    if joined.translate(ODD) != joined:")
            lines += [f"        {name} = escape({name})" for name in names]
        lines.append(f"    return {self._template!r} % ({''.join(v + ', ' for v in self._values)})")
        # As dataclasses and namedtuples are made: one function for the format, not a walk over it.
        exec("\n".join(lines), self._names)  # noqa: S102
        return cast("Formatter", self._names["line"])

    def _attribute(self, name: str) -> str:
        if name not in self._read:
            self._read.append(name)
        return name

    def _value(self, form: str, value: str) -> None:
        self._template += form.encode()
        self._values.append(value)

    def _text(self, value: str) -> None:
        if value not in self._texts:
            self._texts.append(value)
        self._value("%b", f"text_{self._texts.index(value)}")

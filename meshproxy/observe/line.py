"""
A line of the access log as one generated function.

The laws it keeps:

- The function reads each attribute of a record once and makes the line with one ``join``, which is
  a quarter cheaper than a bytes ``%`` of as many values.
- Every text of a record passes the escape: all of them are looked at together, and only a line that
  has something odd in it pays for escaping value by value.
- Neighbours of which there are few (names of the configuration, statuses, flags) are written once
  for each combination and kept, in a bounded cache that holds nothing a peer chose.
- Only constants of this room and byte literals get into the source: nothing of a record does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from meshproxy.observe.certificate import peer_texts
from meshproxy.observe.escape import ODD
from meshproxy.observe.record import AccessRecord
from meshproxy.observe.wall import IsoMilliseconds, Stamp, Wall

Formatter = Callable[[AccessRecord], bytes]

#: Attributes with few values, none of them chosen by a peer; True for numbers.
FEW = {
    "protocol": False,
    "status": True,
    "flags": False,
    "details": False,
    "upstream": False,
    "cluster_name": False,
    "route_name": False,
    "listener_name": False,
    "attempts": True,
}

#: Combinations of them that are kept for each run of neighbours.
FRAGMENTS = 4096

#: Numbers below 1000, written once.
SMALL = tuple(b"%d" % number for number in range(1000))

# Stands for the default date among the names of attributes.
_DATE = "START_TIME"

Part = bytes | str | tuple[str]


class _NoHeaders:
    """Stands in for headers that are not there."""

    def get(self, name: bytes, /) -> bytes | None:
        """None."""
        return None


class _Fragments(dict[tuple[Any, ...], bytes]):
    """``fragments[values]`` is the text of a run of neighbours."""

    def __init__(self, write: Callable[[tuple[Any, ...]], bytes]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, values: tuple[Any, ...]) -> bytes:
        if len(self) >= FRAGMENTS:
            self.clear()
        text = self[values] = self._write(values)
        return text


class Line:
    """
    Collects the parts of a line in their order; :meth:`compiled` makes the function.

    ``missing`` is written for a text that is empty, ``never`` for a time that did not come;
    durations are whole milliseconds, with three more digits if ``microseconds``; ``escape`` is
    called with odd values.
    """

    def __init__(
        self,
        missing: bytes,
        never: bytes,
        microseconds: bool,
        escape: Callable[[bytes], bytes],
        wall: Wall,
    ) -> None:
        self._missing = missing
        self._never = never
        self._microseconds = microseconds
        self._escape = escape
        self._wall = wall
        # Literals, names of attributes of FEW, and (expression,).
        self._parts: list[Part] = []
        self._read: list[str] = []
        self._setup: list[str] = []
        self._texts: list[str] = []
        self._names: dict[str, Any] = {
            "NONE": _NoHeaders(),
            "WALL": wall,
            "SMALL": SMALL,
            "ODD": ODD,
            "join": b"".join,
            "escape": escape,
            "peer_texts": peer_texts,
        }

    def literal(self, text: bytes) -> None:
        """Write ``text``."""
        self._parts.append(text)

    def number(self, attribute: str) -> None:
        """Write an integer attribute."""
        name = self._attribute(attribute)
        self._parts.append(name if attribute in FEW else (_number(name),))

    def text(self, attribute: str) -> None:
        """Write a bytes attribute."""
        name = self._attribute(attribute)
        if attribute in FEW:
            self._parts.append(name)
        elif self._missing:
            self._parts.append(self._text(f"{name} or {self._missing!r}"))
        else:
            self._parts.append(self._text(name))

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
        value = " or ".join(dict.fromkeys(found))
        self._parts.append(self._text(value if limit is None else f"({value})[:{limit}]"))

    def tls(self, fact: str) -> None:
        """Write a fact of the client's TLS; where it passed unread, only its name is known."""
        tls = self._attribute("tls")
        unread = self._attribute("server_name") if fact == "server_name" else "b''"
        value = f"({tls}.{fact} if {tls} is not None else {unread}) or {self._missing!r}"
        self._parts.append(self._text(value))

    def peer(self, text: str) -> None:
        """Write what the client's certificate says."""
        self._certificate(f"peer.{text}")

    def peer_names(self, kind: str) -> None:
        """Write alternative names of the client's certificate, with commas between."""
        self._certificate(f"peer.joined({kind!r})")

    def _certificate(self, value: str) -> None:
        step = f"peer = peer_texts({self._attribute('tls')})"
        if step not in self._setup:
            self._setup.append(step)
        self._parts.append(self._text(f"{value} or {self._missing!r}"))

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
        always = start == "start" and end == "end"
        name = f"span_{len(self._setup)}"
        span = f"({last} - {first}) * 1000"
        if not self._microseconds:
            span = f"int({span})"
        self._setup.append(f"{name} = {span}" + ("" if always else f" if {condition} else 0"))
        # A clock that was set back does not make a time negative.
        if self._microseconds:
            value = f"b'%.3f' % {name} if {name} > 0 else b'0.000'"
        else:
            value = (
                f"SMALL[{name}] if 0 <= {name} < 1000 else b'%d' % {name} if {name} > 0 else b'0'"
            )
        self._parts.append((value if always else f"({value}) if {condition} else {self._never!r}",))

    def start_time(self, format: str | None) -> None:  # noqa: A002
        """
        Write the date of ``start``: ISO 8601 with milliseconds, or ``format``.

        Raises ``ValueError`` as :class:`~meshproxy.observe.wall.Stamp`.
        """
        start = self._attribute("start")
        if format is None:
            step = f"millisecond = int(({start} + WALL.offset) * 1000)"
            self._parts.append(_DATE)
        else:
            step = f"at = {start} + WALL.offset"
            name = f"stamp_{len(self._names)}"
            self._names[name] = Stamp(format, self._wall)
            self._parts.append((f"{name}(at)",))
        if step not in self._setup:
            self._setup.append(step)

    def compiled(self) -> Formatter:
        """The function; a line ends as its last part does."""
        values = self._joined()
        lines = ["def line(record):"]
        lines += [f"    {name} = record.{name}" for name in self._read]
        lines += [f"    {step}" for step in self._setup]
        if self._texts:
            names = [f"text_{number}" for number in range(len(self._texts))]
            pairs = zip(names, self._texts, strict=True)
            lines += [f"    {name} = {value}" for name, value in pairs]
            lines.append(f"    joined = join(({', '.join(names)},))")
            lines.append("    if joined.translate(ODD) != joined:")
            lines += [f"        {name} = escape({name})" for name in names]
        lines.append(f"    return join(({''.join(f'{value}, ' for value in values)}))")
        # As dataclasses and namedtuples are made: one function for the format, not a walk over it.
        exec("\n".join(lines), self._names)  # noqa: S102
        return cast("Formatter", self._names["line"])

    def _joined(self) -> list[str]:
        """The expressions of what the line is joined from."""
        values: list[str] = []
        run: list[bytes | str] = []

        def end() -> None:
            if all(isinstance(part, bytes) for part in run):
                if run:
                    values.append(repr(b"".join(run)))  # type: ignore[arg-type]
            elif _DATE in run:
                values.append(self._date(run))
            else:
                values.append(self._fragment(run))
            run.clear()

        for part in self._parts:
            if isinstance(part, tuple):
                end()
                values.append(part[0])
            else:
                # A date changes all the time: it has literals around it, and nothing else.
                few = [held for held in run if isinstance(held, str)]
                if isinstance(part, str) and few and _DATE in (part, *few):
                    end()
                run.append(part)
        end()
        return values

    def _date(self, run: list[bytes | str]) -> str:
        at = run.index(_DATE)
        before, after = (b"".join(map(bytes, part)) for part in (run[:at], run[at + 1 :]))  # type: ignore[arg-type]
        name = f"DATES_{len(self._names)}"
        self._names[name] = IsoMilliseconds(self._wall, before, after)
        return f"{name}[millisecond]"

    def _fragment(self, run: list[bytes | str]) -> str:
        attributes = [part for part in run if isinstance(part, str)]
        name = f"FRAGMENTS_{len(self._names)}"
        self._names[name] = _Fragments(self._writer(tuple(run)))
        return f"{name}[{', '.join(attributes)},]"

    def _writer(self, run: tuple[bytes | str, ...]) -> Callable[[tuple[Any, ...]], bytes]:
        """What writes the run for the values of its attributes."""

        def write(values: tuple[Any, ...]) -> bytes:
            given = iter(values)
            text = b""
            for part in run:
                if isinstance(part, bytes):
                    text += part
                elif FEW[part]:
                    text += b"%d" % next(given)
                else:
                    text += self._escape(next(given)) or self._missing
            return text

        return write

    def _attribute(self, name: str) -> str:
        if name not in self._read:
            self._read.append(name)
        return name

    def _text(self, value: str) -> tuple[str]:
        if value not in self._texts:
            self._texts.append(value)
        return (f"text_{self._texts.index(value)}",)


def _number(value: str) -> str:
    """The expression that writes an integer."""
    return f"SMALL[n] if 0 <= (n := {value}) < 1000 else b'%d' % n"

"""A TCP filter that looks at bytes."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from meshproxy.api import Field, Options, Refuse, Size
from meshproxy.interfaces import IBytesFilter, IContextFilter


@implementer(IBytesFilter, IContextFilter)
class LineLimit:
    """
    Refuse clients that send a line that is too long.

    For protocols of lines, in front of a server that would keep any line in memory until its end.
    """

    class Options(Options):
        """How long is too long."""

        longest: Size = Field(
            default=4096, description="Bytes that a line may have, without its end."
        )
        say: str = Field(
            default="line too long\r\n", description="What a client is told before it is refused."
        )

    def __init__(self, options: Options) -> None:
        self._longest = options.longest
        self._say = options.say.encode()

    def attach(self, context: Any) -> None:
        self._refused = context.counter("refused", "Connections that sent too long a line")

    def received(self, connection: Any, data: bytes, end: bool) -> Refuse | None:
        # A line may come in pieces. One filter serves all connections: what it remembers of one
        # is in that connection's notes.
        begun = connection.notes.get(self, 0)
        first, *rest = data.split(b"\n")
        lengths = [begun + len(first), *map(len, rest)]
        if max(lengths) > self._longest:
            self._refused.inc()
            return Refuse(data=self._say, details=b"line_too_long")
        connection.notes[self] = lengths[-1]
        return None

    def sent(self, connection: Any, data: bytes, end: bool) -> None:
        return None  # as the upstream sent it

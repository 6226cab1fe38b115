"""
The filter ``tap`` of connections: what they were, and the beginnings of what they said.

The laws it keeps:

- What is kept is bounded: ``keep`` connections in memory, ``bytes`` of each direction, a file of
  ``max_file`` bytes and the one before it.
- A connection that is not wanted costs a look at its address; without ``bytes`` the kernel still
  moves what it says.
- A record shows what passed here: of the client before the filters behind this one, of the
  upstream after them. Recording changes nothing of what passes.
"""

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from zope.interface import alsoProvides, implementer

from meshproxy import api
from meshproxy.api import Field, Size, Unfit
from meshproxy.filters._lines import LineFile
from meshproxy.filters._networks import Network, Networks
from meshproxy.interfaces import (
    IBytesFilter,
    IConnectionFilter,
    IConnectionObserver,
    IContextFilter,
    IFilterContext,
    IFilterService,
)

__all__ = ["Tap"]

#: Bytes of connections that are kept in memory, at most.
_MOST_KEPT = 64 << 20


class _Recorded:
    """What a connection said so far: the beginnings."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = b""
        self.sent = b""


@implementer(IConnectionFilter, IConnectionObserver, IContextFilter, IFilterService)
class Tap:
    """
    Record connections.

    ``source`` is where chance comes from: a function that returns numbers from 0 up to 1.
    """

    class Options(api.Options):
        """Which connections are recorded, what of them, and where."""

        clients: list[Network] = Field(
            default=[],
            description="Only these clients: addresses and networks; `unix` are those of UNIX "
            "sockets.",
        )
        percent: float = Field(
            default=100.0, gt=0, le=100, description="How many of those connections are recorded."
        )
        bytes: Annotated[Size, Field(le=1 << 20)] = Field(
            default=0,
            description="Bytes of each direction that are recorded, from its beginning. They may "
            "hold secrets, which nothing here can find.",
        )
        keep: int = Field(
            default=20,
            ge=0,
            le=1000,
            description="The connections that are kept in memory, the last ones, for the admin.",
        )
        file: str | None = Field(
            default=None,
            min_length=1,
            description="A file to write them to, a line of JSON each; relative to the "
            "configuration's directory.",
        )
        max_file: Annotated[Size, Field(ge=1 << 16)] = Field(
            default=10 << 20,
            description="How long the file may become; then it is moved to `FILE.1`, in place of "
            "the one that was moved before.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield what is wrong between the keys."""
            yield from super().faults(given)
            if given.get("keep") == 0 and given.get("file") is None:
                yield Unfit("nothing is kept and no file is written", at=("keep",))
            if "max_file" in given and given.get("file") is None:
                yield Unfit("'max_file' does nothing without 'file'", at=("max_file",))

    def __init__(self, options: Options, source: Callable[[], float] = random.random) -> None:
        if 2 * options.bytes * options.keep > _MOST_KEPT:
            raise ValueError(
                f"{options.keep} connections with {options.bytes} bytes each way are more than "
                "the 64 MiB that are kept in memory: write less at 'keep' or 'bytes'"
            )
        self._clients = Networks(options.clients).contains if options.clients else None
        self._share = options.percent / 100
        self._source = source
        self._bytes = options.bytes
        if self._bytes:
            alsoProvides(self, IBytesFilter)
        self._kept: deque[dict[str, Any]] = deque(maxlen=options.keep)
        self._path = options.file
        self._max_file = options.max_file
        self._file: LineFile | None = None
        self._seen = 0

    def attach(self, context: IFilterContext) -> None:
        """Ask for the counters, and a place in the admin."""
        self._context = context
        self._recorded = context.counter("recorded", "Connections that were recorded")
        dropped = context.counter("dropped", "Records that were not written to the file")
        if self._path is not None:
            self._file = LineFile(
                context.path(self._path),
                self._max_file,
                context.reactor,
                context.log,
                dropped.inc,
            )
        if self._kept.maxlen:
            context.show(self._describe)

    def start(self) -> None:
        """Open the file."""
        if self._file is not None:
            self._file.open()

    def stop(self) -> None:
        """Write what waits."""
        if self._file is not None:
            self._file.close()

    def _describe(self) -> dict[str, Any]:
        return {"recorded": self._seen, "connections": list(reversed(self._kept))}

    def connected(self, connection: Any) -> None:
        """Decide."""
        if self._clients is not None and not self._clients(connection.client_ip):
            return
        if self._share < 1 and self._source() >= self._share:
            return
        connection.notes[self] = _Recorded()

    def received(self, connection: Any, data: bytes, end: bool) -> None:
        """Keep the beginning."""
        record: _Recorded | None = connection.notes.get(self)
        if record is not None and len(record.received) < self._bytes:
            record.received += data[: self._bytes - len(record.received)]

    def sent(self, connection: Any, data: bytes, end: bool) -> None:
        """Keep the beginning."""
        record: _Recorded | None = connection.notes.get(self)
        if record is not None and len(record.sent) < self._bytes:
            record.sent += data[: self._bytes - len(record.sent)]

    def closed(self, connection: Any) -> None:
        """Write it down."""
        record: _Recorded | None = connection.notes.pop(self, None)
        if record is None:
            return
        entry = self._entry(connection, record)
        self._seen += 1
        self._recorded.inc()
        if self._kept.maxlen:
            self._kept.append(entry)
        if self._file is not None:
            self._file.add(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def _entry(self, connection: Any, record: _Recorded) -> dict[str, Any]:
        context = self._context
        duration = context.now() - connection.start
        began = datetime.fromtimestamp(context.time() - duration, UTC)
        entry: dict[str, Any] = {
            "time": began.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration": round(duration, 6),
            "listener": context.listener,
            "client": connection.client.decode("latin-1"),
            "cluster": connection.cluster_name.decode("latin-1"),
            "upstream": connection.upstream.decode("latin-1"),
            "flags": connection.flags.decode("latin-1"),
            "details": connection.details.decode("latin-1"),
            "bytes_received": connection.bytes_received,
            "bytes_sent": connection.bytes_sent,
        }
        if self._bytes:
            entry["received"] = b64encode(record.received).decode()
            entry["sent"] = b64encode(record.sent).decode()
        return entry

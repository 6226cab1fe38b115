"""One plugin of each kind that is no filter, and ways for them to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field
from zope.interface import implementer

from meshproxy import api
from meshproxy.errors import CheckFailed
from meshproxy.interfaces import (
    IAccessLog,
    IBalancer,
    IBalancing,
    IContextFilter,
    IDiscovery,
    IFilterService,
    IHealthCheck,
)


@implementer(IBalancer)
class Last:
    """The last endpoint; some picks fail."""

    def __init__(self, endpoints: Sequence[Any], bad: int) -> None:
        self._last = endpoints[-1]
        self._bad = bad
        self._picks = 0

    def pick(self) -> Any:
        """It."""
        self._picks += 1
        if self._picks == self._bad:
            raise RuntimeError("not this time")
        return self._last


@implementer(IBalancing)
class TakeLast:
    """Takes the last endpoint."""

    class Options(api.Options):
        """What goes wrong."""

        bad: int = Field(default=0, description="The number of the pick that raises.")

    def __init__(self, options: Options) -> None:
        self._bad = options.bad

    def balance(self, endpoints: Sequence[Any]) -> Last:
        """A balancer."""
        return Last(endpoints, self._bad)


@implementer(IDiscovery)
class Given:
    """Reads a list from its options."""

    class Options(api.Options):
        """The list."""

        endpoints: list[str] = Field(description="Addresses.")

    def __init__(self, options: Options) -> None:
        self._endpoints = options.endpoints

    def start(self, update: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        """Tell."""
        update(self._endpoints)

    def stop(self) -> None:
        """Nothing is open."""

    def describe(self) -> Any:
        """How many."""
        return {"given": len(self._endpoints)}


@implementer(IHealthCheck)
class NotPort:
    """Fails for one port."""

    name = "not_port"

    class Options(api.Options):
        """The port."""

        port: int = Field(description="The port that is not well.")

    def __init__(self, options: Options) -> None:
        self._port = options.port

    async def check(self, endpoint: Any) -> None:
        """Ask nobody."""
        if endpoint.sockaddr[1] == self._port:
            raise CheckFailed("this port is not well")


@implementer(IAccessLog, IContextFilter, IFilterService)
class Append:
    """Appends what there was to a file."""

    class Options(api.Options):
        """The file."""

        path: str = Field(description="The file.")

    def __init__(self, options: Options) -> None:
        self._name = options.path

    def attach(self, context: Any) -> None:
        """Where."""
        self._file: TextIO | None = None
        self._path = Path(context.path(self._name))

    def start(self) -> None:
        """Open it."""
        self._file = self._path.open("a", buffering=1)

    def stop(self) -> None:
        """Close it."""
        assert self._file is not None
        self._file.write("closed\n")
        self._file.close()

    def log(self, record: Any) -> None:
        """A line; a path with "boom" raises."""
        assert self._file is not None
        if b"boom" in record.path:
            raise RuntimeError("boom")
        words = record.listener_name, record.method, record.path, b"%d" % record.status
        self._file.write(b" ".join((*words, record.upstream)).decode() + "\n")


take_last = api.FilterPlugin("take_last", "Takes the last.", TakeLast)
given = api.FilterPlugin("given", "Reads its options.", Given)
not_port = api.FilterPlugin("not_port", "Fails for one port.", NotPort)
append = api.FilterPlugin("append", "Appends to a file.", Append)

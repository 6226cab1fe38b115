from pathlib import Path
from typing import Any

from twisted.internet.task import LoopingCall
from zope.interface import implementer

from meshproxy.api import Field, FilterPlugin, Options, PositiveDuration
from meshproxy.interfaces import IContextFilter, IDiscovery


@implementer(IDiscovery, IContextFilter)
class Lines:
    """Endpoints from a file with an address on each line."""

    class Options(Options):
        """The file."""

        path: str = Field(description="The file.")
        interval: PositiveDuration = Field(default=10.0, description="How often it is read.")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._known: list[str] | None = None

    def attach(self, context: Any) -> None:
        self._path = Path(context.path(self._options.path))
        self._timer = LoopingCall(self._read)
        self._timer.clock = context.reactor

    def start(self, update: Any, failed: Any) -> None:
        self._update, self._failed = update, failed
        self._timer.start(self._options.interval)

    def stop(self) -> None:
        if self._timer.running:
            self._timer.stop()

    def describe(self) -> Any:
        return {"file": str(self._path), "endpoints": self._known}

    def _read(self) -> None:
        try:
            lines = self._path.read_text().split()
        except OSError as error:
            self._failed(str(error))
            return
        if lines != self._known:
            self._known = lines
            self._update(lines)


lines = FilterPlugin("lines", "Endpoints from the lines of a file.", Lines)

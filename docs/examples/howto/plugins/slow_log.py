from pathlib import Path
from typing import Any

from zope.interface import implementer

from meshproxy.api import Duration, Field, FilterPlugin, Options
from meshproxy.interfaces import IAccessLog, IContextFilter, IFilterService


@implementer(IAccessLog, IContextFilter, IFilterService)
class SlowLog:
    """A line for every request that took long."""

    class Options(Options):
        """What is long."""

        path: str = Field(description="The file that lines are added to.")
        over: Duration = Field(default=1.0, description="What took longer is written.")

    def __init__(self, options: Options) -> None:
        self._options = options

    def attach(self, context: Any) -> None:
        self._path = Path(context.path(self._options.path))
        self._written = context.counter("written", "Lines written")

    def start(self) -> None:
        self._file = self._path.open("a", buffering=1)

    def stop(self) -> None:
        self._file.close()

    def log(self, record: Any) -> None:
        if record.end - record.start > self._options.over:
            self._written.inc()
            method, path = record.method, record.path
            self._file.write(f"{record.status} {(method + b' ' + path).decode('latin-1')!r}\n")


slow_log = FilterPlugin("slow_log", "Write down what took long.", SlowLog)

import os
from typing import Any

from zope.interface import implementer

from meshproxy.api import Field, FilterPlugin, Options
from meshproxy.errors import CheckFailed
from meshproxy.interfaces import IContextFilter, IHealthCheck


@implementer(IHealthCheck, IContextFilter)
class Maintenance:
    """An endpoint is well unless there is a file named after its port."""

    name = "maintenance"

    class Options(Options):
        """Where to look."""

        prefix: str = Field(default="down-", description="What the files' paths begin with.")

    def __init__(self, options: Options) -> None:
        self._options = options

    def attach(self, context: Any) -> None:
        self._prefix = context.path(self._options.prefix)

    async def check(self, endpoint: Any) -> None:
        host, port = endpoint.spec.sockaddr[:2]
        if os.path.exists(f"{self._prefix}{port}"):
            raise CheckFailed(f"{host}:{port} is being maintained")


maintenance = FilterPlugin("maintenance", "Take endpoints out by a file.", Maintenance)

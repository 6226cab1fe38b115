from typing import Any

from zope.interface import implementer

from meshproxy.api import Field, FilterPlugin, Options, Response
from meshproxy.interfaces import IContextFilter, IRequestFilter


@implementer(IRequestFilter, IContextFilter)
class NeedKey:
    """Let in who brings a key."""

    class Options(Options):
        """Who is let in."""

        keys: list[str] = Field(min_length=1, description="The keys that are let in.")
        header: str = Field(default="x-api-key", description="The header that holds the key.")

    def __init__(self, options: Options) -> None:
        self._keys = frozenset(key.encode() for key in options.keys)
        self._header = options.header.lower().encode()

    def attach(self, context: Any) -> None:
        self._refused = context.counter("refused", "Requests without a good key")

    def request(self, exchange: Any) -> Response | None:
        if exchange.request.headers.get(self._header) in self._keys:
            return None
        self._refused.inc()
        return Response(401, b"an API key is needed\n")


need_key = FilterPlugin("need_key", "Let in who brings a key.", NeedKey)

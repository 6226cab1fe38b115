from typing import Any

from zope.interface import implementer

from meshproxy.api import FilterPlugin
from meshproxy.interfaces import IResponseBodyFilter, IResponseFilter


@implementer(IResponseFilter, IResponseBodyFilter)
class Shout:
    """Put texts into capitals, as they stream."""

    keeps_length = True  # as many bytes leave as come, so content-length still holds

    def response(self, exchange: Any) -> None:
        kind = exchange.response.headers.get(b"content-type") or b""
        if not kind.startswith(b"text/"):
            exchange.skip_body(self)  # not this one

    def response_data(self, exchange: Any, data: bytes, end: bool) -> bytes:
        return data.upper()


shout = FilterPlugin("shout", "Put texts into capitals.", Shout)

"""A filter that looks at one header of the request and one of the response, and goes on."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from meshproxy.api import FilterPlugin
from meshproxy.interfaces import IRequestFilter, IResponseFilter


@implementer(IRequestFilter, IResponseFilter)
class Trivial:
    """What a filter does that has nothing to do."""

    def request(self, exchange: Any) -> None:
        """Look."""
        exchange.request.headers.get(b"x-trivial")

    def response(self, exchange: Any) -> None:
        """Look."""
        exchange.response.headers.get(b"x-trivial")


trivial = FilterPlugin("trivial", "Looks at two headers.", Trivial)

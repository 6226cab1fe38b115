"""
Requests go on when all of them is here.

The law it keeps: at most ``max_bytes`` of a request are kept, and a request that says that it is
longer is refused before its body is read.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import BodyTooLarge, Field, PositiveSize, Response
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter

__all__ = ["Buffer"]


def _too_large() -> Response:
    return Response(413, b"Payload Too Large", details=b"request_payload_too_large")


@implementer(IRequestFilter, IContextFilter)
class Buffer:
    """
    Wait for the whole request; it goes on with a length that is known.

    It keeps slow uploads away from endpoints that can serve few requests at a time, and chunked
    bodies from those that do not know them.
    """

    class Options(api.Options):
        """How much is kept."""

        max_bytes: PositiveSize = Field(
            default=1 << 20, description="The longest body; a longer one is answered 413."
        )

    def __init__(self, options: Options) -> None:
        self._most = options.max_bytes

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._buffered = context.counter("buffered", "Requests that were waited for")
        self._refused = context.counter("too_large", "Requests that were too long")

    def request(self, exchange: Any) -> Response | Deferred[Response | None] | None:
        """Part of ``IRequestFilter``."""
        request = exchange.request
        length = request.length
        if not length:
            return None
        if length > self._most:
            self._refused.inc()
            return _too_large()
        self._buffered.inc()
        whole: Deferred[Any] = request.read(self._most)
        return whole.addCallbacks(self._whole, self._broken)

    def _whole(self, _: bytes) -> None:
        """It is here, and is sent on."""

    def _broken(self, failure: Any) -> Response:
        failure.trap(BodyTooLarge)
        self._refused.inc()
        return _too_large()

"""Filters that do what filters should not, and some that do much: for the integration tests."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.api import Field, FilterPlugin, Options, Response
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IRequestBodyFilter,
    IRequestFilter,
    IResponseBodyFilter,
    IResponseFilter,
)

_FLIPPED = bytes(byte ^ 0x55 for byte in range(256))


@implementer(IRequestBodyFilter, IResponseBodyFilter)
class Flip:
    """Changes every byte, so that two of them change nothing."""

    keeps_length = True

    def request_data(self, exchange: Any, data: bytes, end: bool) -> bytes:
        """Flipped."""
        return data.translate(_FLIPPED)

    def response_data(self, exchange: Any, data: bytes, end: bool) -> bytes:
        """Flipped."""
        return data.translate(_FLIPPED)


@implementer(IContextFilter, IRequestBodyFilter, IResponseBodyFilter)
class Slow:
    """Waits a turn for every piece, and makes each two bytes longer."""

    def attach(self, context: Any) -> None:
        """Keep the clock."""
        self._sleep = context.sleep

    async def request_data(self, exchange: Any, data: bytes, end: bool) -> bytes:
        """Later."""
        await self._sleep(0)
        return data

    async def response_data(self, exchange: Any, data: bytes, end: bool) -> bytes:
        """Later, with two bytes more at the end."""
        await self._sleep(0)
        return data + b"\r\n" if end else data


@implementer(IRequestFilter, IResponseFilter, IExchangeObserver, IContextFilter)
class Trouble:
    """Does what the header ``x-do`` says, in the phase that it says."""

    class Options(Options):
        """What it may be told."""

        header: str = Field(default="x-do", description="The header that says what to do.")

    def __init__(self, options: Options) -> None:
        self._header = options.header.encode()

    def attach(self, context: Any) -> None:
        """Count what is held."""
        self._held = context.gauge("held", "Exchanges that have not finished")
        self._hanging = context.gauge("hanging", "Waits for ever")
        self._cancelled = context.counter("cancelled", "Waits that were cancelled")

    def request(self, exchange: Any) -> Any:
        """Note the exchange, and do it."""
        self._held.inc()
        exchange.notes[self] = True
        return self._do(exchange, b"request")

    def response(self, exchange: Any) -> Any:
        """Do it."""
        return self._do(exchange, b"response")

    def finished(self, exchange: Any) -> None:
        """Let go."""
        if exchange.notes.pop(self, False):
            self._held.dec()

    def _do(self, exchange: Any, phase: bytes) -> Any:
        what = exchange.request.headers.get(self._header) or b""
        where, _, action = what.partition(b":")
        if where != phase:
            return None
        if action == b"raise":
            raise ZeroDivisionError("a defect")
        if action == b"hang":
            self._hanging.inc()
            return Deferred(self._given_up)
        if action == b"refuse":
            return Response(403, b"refused")
        if action == b"twice":
            exchange.respond(Response(403, b"first"))
            return Response(404, b"second")
        if action == b"wrong":
            return 42
        return self._read(exchange)

    def _given_up(self, _: Deferred[Any]) -> None:
        self._hanging.dec()
        self._cancelled.inc()

    async def _read(self, exchange: Any) -> Response:
        body = await exchange.request.read(1 << 24)
        return Response(200, hashlib.sha256(body).hexdigest().encode())


flip = FilterPlugin("flip", "Changes every byte.", Flip)
slow = FilterPlugin("slow", "Waits for every piece.", Slow)
trouble = FilterPlugin("trouble", "Does what it is told to.", Trouble)

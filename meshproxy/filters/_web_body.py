"""
The address of a service that a filter asks by ``context.http``, and the body of its answer.

The law it keeps: no more than the bound is ever kept; whoever wants no more of it (a body that is
too long, a Deferred that is cancelled) gives up the connection too, so that a service that never
ends its answer holds nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from meshproxy.api import Unfit

__all__ = ["HttpUrl", "TooLong", "read_body"]

_URL = re.compile(r"https?://([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?")


def _url(value: str) -> str:
    if "#" in value or not _URL.fullmatch(value):
        raise Unfit("an address such as https://auth.example/check is expected")
    return value


HttpUrl = Annotated[str, AfterValidator(_url)]
"""The type of an option that is the address of a service."""


class TooLong(Exception):
    """A body is longer than its bound."""


class _Body(Protocol):
    def __init__(self, limit: int, cut: bool) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._drop())
        self._limit = limit
        self._cut = cut
        self._body = bytearray()
        self._over = False

    def _drop(self) -> None:
        self._over = True
        transport: Any = self.transport
        if transport is not None:
            # What twisted.web gives a body's protocol has not every method of a transport.
            getattr(transport, "abortConnection", transport.loseConnection)()

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._body += data
        if len(self._body) <= self._limit:
            return
        self._drop()
        if self._cut:
            self.done.callback(bytes(self._body[: self._limit]))
        else:
            self.done.errback(TooLong(f"an answer of more than {self._limit} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        from twisted.web.client import ResponseDone
        from twisted.web.http import PotentialDataLoss

        if self._over:
            return
        self._over = True
        # A body without a length ends with its connection (RFC 9112, 6.3).
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(bytes(self._body))
        else:
            self.done.errback(reason)


def read_body(response: Any, limit: int, *, cut: bool = False) -> Deferred[bytes]:
    """
    The body of an ``IResponse``: up to ``limit`` bytes.

    A longer one fails with :class:`TooLong`, or with ``cut`` ends there.
    """
    body = _Body(limit, cut)
    response.deliverBody(body)
    return body.done

"""
Endpoints from an HTTP service, asked again and again.

The laws it keeps:

- Only 200 with a roster in JSON, and 304 to a question that named an ETag, are answers. Anything
  else, redirects included, is a failure: the last good set stays.
- One request at a time, within one timeout for all of it; at most 4 MiB of a body are taken, and
  more ends the connection.
- HTTPS verifies the server's certificate and name against the system's roots.
- After ``stop`` no request, timer or connection is left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from random import uniform
from typing import Any

from treq.client import HTTPClient
from twisted.internet import defer, error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python import log
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from zope.interface import implementer

from meshproxy import __version__
from meshproxy.config.roster import LONGEST_ROSTER
from meshproxy.errors import ConfigError
from meshproxy.interfaces import IDiscovery
from meshproxy.upstream.discovery.listing import read_aside, reason_of
from meshproxy.upstream.endpoint import EndpointSpec

#: Seconds between two questions, unless the configuration says otherwise.
INTERVAL = 10.0

#: The interval varies by so much both ways, so that many proxies do not ask all at once.
JITTER = 0.1

_LONGEST_TAG = 1024

#: What a network or a server may do; anything else is a defect, and logged as one.
_EXPECTED = (
    OSError,
    ResponseFailed,
    RequestTransmissionFailed,
    ResponseNeverReceived,
    error.ConnectError,
    error.ConnectionClosed,
)


class _Refused(Exception):
    """What came is no answer; the text says why."""


@implementer(IDiscovery)
class HttpDiscovery:
    """
    The endpoints that ``url`` answers with, asked every ``interval`` seconds.

    ``headers`` are sent besides the usual ones; ``timeout`` is for an answer with its body.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        headers: Mapping[str, str],
        interval: float | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._reactor = reactor
        self._url = url
        # A query may hold a secret; what is logged and shown does without it.
        self._shown = url.partition("?")[0]
        self._headers = Headers(
            {
                "accept": ["application/json"],
                "user-agent": [f"meshproxy/{__version__}"],
                **{name.lower(): [value] for name, value in headers.items()},
            }
        )
        self._interval = interval or INTERVAL
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor)
        self._agent = Agent(reactor, connectTimeout=timeout, pool=self._pool)
        self._update: Any = None
        self._failed: Any = None
        self._call: Any = None
        self._asking: Deferred[None] | None = None
        self._tag = ""
        #: The last good body, and what it says.
        self._content: bytes | None = None
        self._specs: tuple[EndpointSpec, ...] | None = None
        self._told: tuple[EndpointSpec, ...] | None = None
        self._error = ""
        self._last_error = ""
        self._last_success: float | None = None

    def start(self, update: Any, failed: Any) -> None:
        """Begin: see :class:`meshproxy.interfaces.IDiscovery`."""
        self._update = update
        self._failed = failed
        self._ask()

    def stop(self) -> None:
        """End for good."""
        self._update = self._failed = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._asking is not None:
            self._asking.cancel()
        self._pool.closeCachedConnections()

    def describe(self) -> dict[str, Any]:
        """What the admin shows; ``last_success`` is a Unix time, ``next`` seconds from now."""
        waits = None if self._call is None else self._call.getTime() - self._reactor.seconds()
        return {
            "kind": "http",
            "where": self._shown,
            "endpoints": None if self._specs is None else len(self._specs),
            "etag": self._tag,
            "next": waits,
            "last_success": self._last_success,
            "last_error": self._last_error,
        }

    def _ask(self) -> None:
        self._call = None
        exchange = Deferred.fromCoroutine(self._exchange())
        exchange.addTimeout(self._timeout, self._reactor, _timed_out)
        self._asking = exchange.addCallback(self._good)
        self._asking.addErrback(self._bad)
        self._asking.addBoth(self._again)

    async def _exchange(self) -> tuple[EndpointSpec, ...]:
        """Ask once."""
        headers = self._headers.copy()
        if self._tag:
            headers.setRawHeaders("if-none-match", [self._tag])
        # A client of its own for each question: it keeps cookies, and nobody bounds those.
        client = HTTPClient(self._agent)
        response: Any = await client.get(
            self._url,
            headers=headers,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        if response.code == 304 and self._tag and self._specs is not None:
            return self._specs
        body = _Body()
        response.deliverBody(body)
        if response.code != 200:
            body.drop()
            raise _Refused(f"status {response.code}")
        content = await body.done
        if self._specs is None or content != self._content:
            self._specs = await read_aside(self._reactor, content, self._shown, False)
            self._content = content
        tag = (response.headers.getRawHeaders("etag") or [""])[0]
        self._tag = tag if len(tag) <= _LONGEST_TAG else ""
        return self._specs

    def _good(self, specs: tuple[EndpointSpec, ...]) -> None:
        if self._update is None:
            return
        self._last_success = time.time()
        if specs != self._told or self._error:
            self._told = specs
            self._error = ""
            self._update(specs)

    def _bad(self, failure: Failure) -> None:
        if self._update is None:
            return
        found = failure.value
        if isinstance(found, ConfigError):
            reason = reason_of(found)
        elif isinstance(found, defer.TimeoutError):
            reason = f"{self._shown}: no answer in {self._timeout:g} s"
        else:
            if not isinstance(found, (_Refused, *_EXPECTED)):
                log.err(failure, f"discovery by {self._shown}")
            reason = f"{self._shown}: {_words(failure)}"
        self._error = self._last_error = reason
        self._failed(reason)

    def _again(self, _: object) -> None:
        self._asking = None
        if self._update is not None:
            delay = self._interval * uniform(1 - JITTER, 1 + JITTER)
            self._call = self._reactor.callLater(delay, self._ask)


class _Body(Protocol):
    """The body of a response; ``done`` is a Deferred of it and may be cancelled."""

    transport: Any

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self.drop())
        self._parts: list[bytes] = []
        self._length = 0
        self._dropped = False

    def drop(self) -> None:
        """Take no more of it, and give up the connection."""
        self._dropped = True
        self._parts.clear()
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._dropped:
            return
        self._length += len(data)
        if self._length <= LONGEST_ROSTER:
            self._parts.append(data)
        else:
            self.drop()
            self.done.errback(_Refused(f"a body of more than {LONGEST_ROSTER >> 20} MiB"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._dropped:
            return
        # A body without a length ends with its connection (RFC 9112 section 6.3).
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)


def _timed_out(_: object, seconds: float) -> Failure:
    """What a request that took too long fails with, whatever cancelling it made of it."""
    return Failure(defer.TimeoutError(seconds))


def _words(failure: Failure) -> str:
    """What went wrong, in one line: of a failed response, what made it fail."""
    reasons = getattr(failure.value, "reasons", None)
    inner = reasons[-1] if reasons else failure
    return " ".join(inner.getErrorMessage().split())[:200] or type(inner.value).__name__

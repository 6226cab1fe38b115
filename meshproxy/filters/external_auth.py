"""
The filter ``external_auth``: an HTTP service says whether a request may pass.

The law it keeps: a request passes when the service answered 2xx, or ``fail: open`` says so; so many
are asked about at a time and so many wait. What the service says of a user, no client can say for
itself. A question is given up with its request.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from zope.interface import alsoProvides, implementer

from meshproxy.api import Headers, Response
from meshproxy.filters._external_auth_options import ExternalAuthOptions
from meshproxy.filters._own_headers import OwnHeaders
from meshproxy.filters._places import VERIFIED
from meshproxy.filters._remembered import Remembered
from meshproxy.filters._web_body import read_body
from meshproxy.interfaces import (
    IContextFilter,
    IFilterContext,
    IFilterService,
    IRequestFilter,
    IResponseFilter,
)

__all__ = ["ExternalAuth"]

_FORBIDDEN = (204, 205, 304)

_QUIET = 10.0
"""Seconds between two lines in the log."""


class _Decision:
    """The request may pass, with these headers for it and for its response."""

    __slots__ = ("request", "response")

    def __init__(self, request: list[Any], response: list[Any]) -> None:
        self.request = request
        self.response = response


_BUSY = Response(503, b"too many requests", details=b"external_auth_overflow", flags=b"UAEX")


@implementer(IRequestFilter, IContextFilter, IFilterService)
class ExternalAuth:
    """
    Ask a service about every request.

    It works with services for nginx's ``auth_request`` and for Traefik's ``forwardAuth``: the
    request is described by ``x-original-...`` and ``x-forwarded-...``.
    """

    Options = ExternalAuthOptions

    def __init__(self, options: ExternalAuthOptions) -> None:
        self._url = options.url
        self._method = options.method
        self._headers = tuple(name.encode() for name in dict.fromkeys(options.headers))
        self._max_body = options.max_body
        self._request_headers = tuple(name.encode() for name in options.request_headers)
        self._response_headers = tuple(name.encode() for name in options.response_headers)
        self._client_headers = tuple(name.encode() for name in options.client_headers)
        self._own = OwnHeaders(options.request_headers)
        self._max_answer = options.max_answer
        self._timeout = options.timeout
        self._open = options.fail == "open"
        self._status = options.status_on_error
        self._slots = DeferredSemaphore(options.concurrency)
        self._queue = options.queue
        cache = options.cache
        self._quiet_until = 0.0
        self._kept: Remembered[_Decision] | None = None
        self._ttl = 0.0
        self._by: tuple[str, ...] = ()
        self._by_headers: tuple[bytes, ...] = ()
        if cache is not None:
            self._kept = Remembered(cache.size)
            self._ttl = cache.ttl
            self._by = tuple(cache.by)
            names = options.headers if cache.headers is None else cache.headers
            self._by_headers = tuple(name.encode() for name in names)
        if options.response_headers:
            alsoProvides(self, IResponseFilter)

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._context = context
        self._now = context.now
        counter = context.counter
        self._allowed = counter("allowed", "Requests that the service let pass")
        self._denied = counter("denied", "Requests that the service did not let pass")
        self._errors = counter("failures", "Requests for which the service failed")
        self._cached = counter("cached", "Requests that a kept decision let pass")
        self._overflow = counter("overflow", "Requests for which there was no room to wait")
        self._seconds = context.histogram("seconds", "How long the service took")

    def start(self) -> None:
        """Part of ``IFilterService``."""
        self._http = self._context.http

    def stop(self) -> None:
        """Part of ``IFilterService``."""
        if self._kept is not None:
            self._kept.clear()

    def request(self, exchange: Any) -> Any:
        """Part of ``IRequestFilter``."""
        key = None
        if self._kept is not None:
            key = self._kept.key(*self._about(exchange))
            decision = self._kept.get(key, self._now())
            if decision is not None:
                self._cached.inc()
                self._pass(exchange, decision)
                return None
        if not self._slots.tokens and len(self._slots.waiting) >= self._queue:
            # Also with 'fail: open': whoever sends enough would pass unasked else.
            self._overflow.inc()
            return _BUSY
        return self._ask(exchange, key)

    def response(self, exchange: Any) -> None:
        """Part of ``IResponseFilter``; provided with ``response_headers``."""
        fields = exchange.notes.get(self)
        if not fields:
            return
        headers = exchange.response.headers
        for name in self._response_headers:
            if name != b"set-cookie":  # the upstream's own cookies stay
                headers.remove(name)
        headers.fields += fields

    def _about(self, exchange: Any) -> list[bytes]:
        """What a decision is for."""
        request = exchange.request
        headers = request.headers
        parts = []
        for name in self._by_headers:
            values = headers.get_all(name)
            parts.append(b"%d" % len(values))
            parts += values
        for word in self._by:
            if word == "method":
                parts.append(request.method)
            elif word == "host":
                parts.append(request.authority)
            elif word == "path":
                parts.append(request.target)
            else:
                parts.append(exchange.client_ip)
        return parts

    async def _ask(self, exchange: Any, key: bytes | None) -> Response | None:
        body = b""
        if self._max_body:
            body = await exchange.request.read(self._max_body)
        await self._slots.acquire()
        begin = self._now()
        try:
            question = Deferred.fromCoroutine(self._answer(exchange, body))
            question.addTimeout(self._timeout, self._context.reactor)
            status, found, content = await question
        except CancelledError:
            raise
        except Exception as error:
            # Whatever a network can do.
            return self._failed(exchange, " ".join(str(error).split())[:200] or repr(error))
        finally:
            self._slots.release()
        self._seconds.observe(self._now() - begin)
        if 200 <= status < 300:
            return self._let_pass(exchange, key, found)
        if not 300 <= status < 500:
            return self._failed(exchange, f"status {status}")
        return self._deny(exchange, status, found, content)

    async def _answer(self, exchange: Any, body: bytes) -> tuple[int, Any, bytes]:
        """The status, headers and body that the service answers with."""
        from twisted.web.http_headers import Headers as WebHeaders

        request = exchange.request
        headers = WebHeaders()
        for name in self._headers:
            for value in request.headers.get_all(name):
                headers.addRawHeader(name, value)
        method, target = request.method, request.target
        for name, value in (
            (b"x-forwarded-method", method),
            (b"x-forwarded-proto", exchange.scheme),
            (b"x-forwarded-host", request.authority),
            (b"x-forwarded-uri", target),
            (b"x-forwarded-for", exchange.client_ip),
            (b"x-original-method", method),
            (b"x-original-uri", target),
        ):
            headers.setRawHeaders(name, [value])
        if body:
            kind = request.headers.get(b"content-type")
            headers.setRawHeaders(b"content-type", [kind or b"application/octet-stream"])
        response = await self._http.request(
            method.decode() if self._method == "request" else self._method,
            self._url,
            headers=headers,
            data=BytesIO(body) if body else None,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._context.reactor,
        )
        content = await read_body(response, self._max_answer, cut=True)
        return response.code, response.headers, content

    def _let_pass(self, exchange: Any, key: bytes | None, found: Any) -> Response | None:
        try:
            decision = _Decision(
                _chosen(found, self._request_headers), _chosen(found, self._response_headers)
            )
        except ValueError:
            return self._failed(exchange, "a header of its answer cannot be sent on")
        self._allowed.inc()
        if key is not None and self._kept is not None:
            self._kept.put(key, decision, self._now() + self._ttl)
        self._pass(exchange, decision)
        return None

    def _pass(self, exchange: Any, decision: _Decision) -> None:
        headers = exchange.request.headers
        self._own.remove_from(headers)
        if decision.request:
            headers.fields += decision.request
            # It says who it is: what comes back may be that one's alone.
            exchange.notes[VERIFIED] = True
        if decision.response:
            exchange.notes[self] = decision.response

    def _deny(self, exchange: Any, status: int, found: Any, content: bytes) -> Response:
        self._denied.inc()
        try:
            fields = _chosen(found, self._client_headers)
        except ValueError:
            # It said no: a header, in which there may be what the client wrote, changes nothing.
            return Response(self._status, b"", details=b"ext_authz_denied", flags=b"UAEX")
        return Response(
            status,
            b"" if status in _FORBIDDEN else content,
            Headers(fields),
            details=b"ext_authz_denied",
            flags=b"UAEX",
        )

    def _failed(self, exchange: Any, reason: str) -> Response | None:
        """The service said nothing that can be used."""
        self._errors.inc()
        now = self._now()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            self._context.log(f"the service failed: {reason}")
        if self._open:
            self._own.remove_from(exchange.request.headers)
            exchange.metadata["external_auth"] = "failed_open"
            return None
        return Response(self._status, b"", details=b"ext_authz_error", flags=b"UAEX")


def _chosen(found: Any, names: tuple[bytes, ...]) -> list[Any]:
    """The fields of these names. Raises ``ValueError`` for what cannot be sent on."""
    return Headers.of(
        (name, value) for name in names for value in found.getRawHeaders(name) or ()
    ).fields

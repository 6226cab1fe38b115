"""An HTTP filter that waits for somebody else, and remembers what it was told."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from meshproxy.api import Field, HeaderName, Options, PositiveDuration, Response
from meshproxy.interfaces import IContextFilter, IRequestFilter

#: Bytes of the longest name that a tenant may have.
LONGEST = 256


@implementer(IRequestFilter, IContextFilter)
class Tenant:
    """
    Ask a service whose key a request brings, and tell the upstream.

    The service gets the key in the same header, and answers 200 with the tenant's name, or 404 when
    nobody has this key.
    """

    class Options(Options):
        """Whom to ask, and for how long the answer holds."""

        url: str = Field(description="The service.")
        header: HeaderName = Field(default="x-api-key", description="The header with the key.")
        tell: HeaderName = Field(
            default="x-tenant", description="The header that tells the upstream whose it is."
        )
        blocked: list[str] = Field(
            default=[], description="Tenants that are refused, whatever their key."
        )
        timeout: PositiveDuration = Field(
            default=2.0, description="How long the service may take to answer."
        )
        keep: PositiveDuration = Field(
            default=60.0, description="How long an answer is remembered."
        )
        most: int = Field(
            default=10_000, ge=1, le=1_000_000, description="How many answers are remembered."
        )

    def __init__(self, options: Options) -> None:
        # What can be done once is done here, not with every request.
        self._url = options.url
        self._header = options.header.encode()
        self._tell = options.tell.encode()
        self._blocked = frozenset(name.encode() for name in options.blocked)
        self._timeout = options.timeout
        self._keep = options.keep
        self._most = options.most
        # key -> (whose it is, b"" for nobody's; until when that holds), the oldest first
        self._known: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def attach(self, context: Any) -> None:
        self._context = context
        self._asked = context.counter("asked", "Questions to the service")
        self._failed = context.counter("failed", "Questions without an answer")
        self._refused = context.counter("refused", "Requests refused")

    def request(self, exchange: Any) -> Any:
        headers = exchange.request.headers
        # Nobody else may say whose a request is.
        headers.remove(self._tell)
        key = headers.get(self._header)
        if not key:
            self._refused.inc()
            return Response(401, b"an API key is needed\n", details=b"no_key")
        known = self._known.get(key)
        if known is not None and self._context.now() < known[1]:
            # The usual case waits for nothing: no coroutine, no Deferred.
            return self._judge(exchange, known[0])
        return self._ask(exchange, key)

    async def _ask(self, exchange: Any, key: bytes) -> Response | None:
        self._asked.inc()
        try:
            question = Deferred.fromCoroutine(self._lookup(key))
            # In the clock of the context, so that a test need not wait.
            question.addTimeout(self._timeout, self._context.reactor)
            tenant = await question
        except CancelledError:
            raise  # the client went away
        except Exception as error:
            # What may go wrong on a network is our affair. The log never has a key in it.
            self._failed.inc()
            self._context.log(f"the service did not answer: {type(error).__name__}")
            return Response(503, b"try again later\n", details=b"tenant_unknown")
        self._remember(key, tenant)
        return self._judge(exchange, tenant)

    async def _lookup(self, key: bytes) -> bytes:
        http = self._context.http
        answer = await http.get(self._url, headers={self._header: [key]}, allow_redirects=False)
        name = (await answer.content()).strip()
        if answer.code == 404:
            return b""
        if answer.code != 200 or not name.isalnum() or len(name) > LONGEST:
            raise ValueError(f"answered {answer.code}")
        return bytes(name)

    def _remember(self, key: bytes, tenant: bytes) -> None:
        known = self._known
        known.pop(key, None)
        known[key] = tenant, self._context.now() + self._keep
        if len(known) > self._most:
            known.popitem(last=False)

    def _judge(self, exchange: Any, tenant: bytes) -> Response | None:
        if not tenant:
            self._refused.inc()
            return Response(403, b"nobody has this key\n", details=b"unknown_key")
        if tenant in self._blocked:
            self._refused.inc()
            return Response(403, b"this key is blocked\n", details=b"blocked_tenant")
        exchange.request.headers.set(self._tell, tenant)
        exchange.metadata["tenant"] = tenant  # for other filters, and for the access log
        return None

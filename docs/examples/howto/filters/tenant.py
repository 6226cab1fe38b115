from typing import Any

from zope.interface import implementer

from meshproxy.api import Field, FilterPlugin, Options, PositiveDuration, Response
from meshproxy.interfaces import IContextFilter, IRequestFilter


@implementer(IRequestFilter, IContextFilter)
class Tenant:
    """Ask a service whose key this is, and tell the upstream."""

    class Options(Options):
        """Whom to ask."""

        url: str = Field(description="The service; the key is added to it.")
        timeout: PositiveDuration = Field(default=2.0, description="How long it may take.")

    def __init__(self, options: Options) -> None:
        self._url = options.url
        self._timeout = options.timeout

    def attach(self, context: Any) -> None:
        self._http = context.http

    async def request(self, exchange: Any) -> Response | None:
        headers = exchange.request.headers
        key = headers.get(b"x-api-key") or b""
        if not key.isalnum():
            return Response(401, b"an API key is needed\n")
        answer = await self._http.get(self._url + key.decode(), timeout=self._timeout)
        tenant = (await answer.content()).strip()
        if answer.code != 200:
            return Response(403, b"nobody has this key\n")
        headers.set(b"x-tenant", tenant)
        exchange.metadata["tenant"] = tenant  # for other filters, and for the access log
        return None


tenant = FilterPlugin("tenant", "Ask a service whose key this is.", Tenant)

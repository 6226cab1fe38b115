"""
Plain HTTP goes to https.

The law it keeps: nothing but a redirect answers a plain request, except on paths that are named;
``strict-transport-security`` is said over https alone (RFC 6797, 7.2). A client's own word that it
came over https counts for nothing unless the configuration says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from zope.interface import alsoProvides, implementer

from meshproxy import api
from meshproxy.api import Duration, Field, Headers, PathText, Response, Unfit
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter, IResponseFilter

__all__ = ["RedirectHttps"]

_YEAR = 31_536_000


class StrictTransport(api.Options):
    """What ``strict-transport-security`` says (RFC 6797)."""

    max_age: Duration = Field(
        default=float(_YEAR),
        description="How long browsers go to https by themselves, whole seconds; 0 ends it.",
    )
    include_subdomains: bool = Field(default=False, description="For all hosts below, too.")
    preload: bool = Field(
        default=False,
        description="Allow browsers to bring it along; it needs `include_subdomains` and a "
        "`max_age` of a year.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a preload that no list takes."""
        yield from super().faults(given)
        if given.get("preload") is True and given.get("include_subdomains") is not True:
            yield Unfit("'preload' needs 'include_subdomains: true'", at=("preload",))


@implementer(IRequestFilter, IContextFilter)
class RedirectHttps:
    """
    Answer plain requests with a redirect to https.

    GET and HEAD are redirected with ``status``, other methods with ``other_status``, so that a
    client does not turn a POST into a GET.
    """

    class Options(api.Options):
        """Where to, and who is left alone."""

        status: Literal[301, 302, 307, 308] = Field(
            default=301, description="The status for GET and HEAD."
        )
        other_status: Literal[301, 302, 307, 308] = Field(
            default=308, description="The status for other methods."
        )
        port: int = Field(
            default=443, ge=1, le=65535, description="The port that https is served on."
        )
        exempt: list[PathText] = Field(
            default=["/.well-known/acme-challenge/"],
            description="Plain requests are served where the path begins with one of these.",
        )
        trust_forwarded_proto: bool = Field(
            default=False,
            description="Believe `x-forwarded-proto` of a proxy in front that ends TLS. Only where "
            "every client comes through that proxy.",
        )
        strict_transport: StrictTransport | None = Field(
            default=None,
            description="Put `strict-transport-security` into responses over https; `{}` for a "
            "year.",
        )

    def __init__(self, options: Options) -> None:
        self._status = options.status
        self._other = options.other_status
        self._port = b"" if options.port == 443 else b":%d" % options.port
        self._exempt = tuple(path.encode() for path in options.exempt)
        self._trusts = options.trust_forwarded_proto
        strict = options.strict_transport
        if strict is not None:
            if strict.preload and strict.max_age < _YEAR:
                raise Unfit("'preload' needs a 'max_age' of a year, 365d")
            value = b"max-age=%d" % strict.max_age
            if strict.include_subdomains:
                value += b"; includeSubDomains"
            if strict.preload:
                value += b"; preload"
            (self._strict,) = Headers.of([(b"strict-transport-security", value)]).fields
            alsoProvides(self, IResponseFilter)

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._redirected = context.counter("redirected", "Requests that were redirected")

    def _secure(self, exchange: Any) -> bool:
        """Whether the client came over https; what a header said is kept for the response."""
        if exchange.scheme == b"https":
            return True
        if not self._trusts:
            return False
        # Of several, the last is that of the proxy in front of us.
        values = exchange.request.headers.get_all(b"x-forwarded-proto")
        if not values or values[-1].rpartition(b",")[2].strip().lower() != b"https":
            return False
        exchange.notes[self] = True
        return True

    def request(self, exchange: Any) -> Response | None:
        """Part of ``IRequestFilter``."""
        if self._secure(exchange):
            return None
        request = exchange.request
        target = request.target
        if self._exempt and target.startswith(self._exempt) and not _climbs(target):
            return None
        authority = request.authority
        name, colon, port = authority.rpartition(b":")
        host = name if colon and (not port or port.isdigit()) else authority
        if not host:
            return Response(400, b"a Host header is needed", details=b"redirect_needs_host")
        self._redirected.inc()
        path = target if target[:1] == b"/" else b"/"
        status = self._status if request.method in (b"GET", b"HEAD") else self._other
        return Response(
            status,
            b"",
            [(b"location", b"https://%b%b%b" % (host, self._port, path))],
            details=b"https_redirect",
        )

    def response(self, exchange: Any) -> None:
        """Part of ``IResponseFilter``; provided where ``strict_transport`` is written."""
        if exchange.scheme == b"https" or (self._trusts and self in exchange.notes):
            exchange.response.headers.set_field(self._strict)


def _climbs(target: bytes) -> bool:
    """Whether a path may lead out of the one that it begins with."""
    path = target.partition(b"?")[0].lower()
    return b".." in path.replace(b"%2e", b".") or b"\\" in path or b"%5c" in path

"""
The filter ``csrf``: requests that another site's page made are refused.

The law it keeps: a request that may change something, or opens a WebSocket, passes only when the
browser says that it comes from this host or from one of the origins that the configuration names.
What says nothing, says it twice or cannot be read is refused.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, Response, StringMatch, Unfit, string_test
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter

__all__ = ["Csrf"]

_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_SOURCE = re.compile(
    rb"(https?)://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:[/?#]|$)"
)
_HOST = re.compile(rb"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PORTS = {b"http": 80, b"https": 443}
_ELSEWHERE = b"https://origin-of-nobody.invalid"


def _check(origin: str | StringMatch) -> Callable[[bytes | None], bool]:
    """The test of an origin. Raises ``Unfit`` for one that takes in more than anybody means."""
    if isinstance(origin, str):
        if origin != "null" and not _ORIGIN.fullmatch(origin):
            hint = origin.rstrip("/").lower()
            raise Unfit(
                f"an origin is written as browsers send it, https://app.example: not "
                f"'{origin[:64]}'",
                hint if _ORIGIN.fullmatch(hint) else None,
            )
        return string_test(StringMatch(exact=origin))
    if origin.contains is not None or origin.present is not None or origin.invert:
        raise Unfit("an origin is matched by 'exact', 'prefix', 'suffix' or 'regex'")
    if origin.suffix is not None and origin.suffix[0] not in "./:":
        raise Unfit(
            f"'suffix: {origin.suffix}' would take https://evil{origin.suffix} too",
            f".{origin.suffix}",
        )
    if origin.prefix is not None and ("://" not in origin.prefix or origin.prefix[-1] != ":"):
        raise Unfit(f"'prefix: {origin.prefix}' would take {origin.prefix}.evil.example too")
    test = string_test(origin)
    if test(_ELSEWHERE):
        raise Unfit("this matches every origin: leave the filter out instead")
    return test


@implementer(IRequestFilter, IContextFilter)
class Csrf:
    """
    Refuse requests that another site made: 403 ``Invalid origin``.

    Looked at are methods other than GET, HEAD, OPTIONS and TRACE, and upgrades. Sec-Fetch-Site
    decides where the browser sends it; else Origin; else the origin of Referer.
    """

    class Options(api.Options):
        """Which other origins may send requests, and for how many requests that is enforced."""

        origins: list[str | StringMatch] = Field(
            default=[],
            description="Origins besides the request's own host: `https://app.example`, or a "
            "mapping such as `{suffix: .app.example}` or `{regex: ...}`.",
        )
        missing: bool = Field(
            default=False,
            description="Let requests pass that say nothing of their origin, as programs other "
            "than browsers send them.",
        )
        upgrades: bool = Field(
            default=True,
            description="Look at WebSocket and other upgrades too, where the request names its "
            "origin; browsers let every page open them.",
        )
        percentage: float = Field(
            default=100.0,
            ge=0,
            le=100,
            description="Refuse in this percentage of the requests that would be refused; the "
            "others are counted and pass.",
        )
        shadow: bool = Field(
            default=False,
            description="Refuse nobody: only count, and leave `csrf.shadow` (`refused`) in the "
            "metadata.",
        )

    def __init__(self, options: Options, draw: Callable[[], float] = random.random) -> None:
        tests = []
        for index, origin in enumerate(options.origins):
            try:
                tests.append(_check(origin))
            except Unfit as error:
                raise Unfit(error.message, error.suggestion, at=("origins", index)) from None
        self._tests = tuple(tests)
        self._missing = options.missing
        self._upgrades = options.upgrades
        self._share = options.percentage / 100
        self._shadow = options.shadow
        self._draw = draw

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._allowed = context.counter("allowed", "Requests whose origin may send them")
        self._refused = context.counter("refused", "Requests refused")
        self._spared = context.counter(
            "spared", "Requests that would be refused without shadow and percentage"
        )

    def request(self, exchange: Any) -> Response | None:
        """Part of ``IRequestFilter``."""
        request = exchange.request
        if request.method in _SAFE and not (
            self._upgrades and exchange.upgrade and b"origin" in request.headers
        ):
            return None
        if self._passes(exchange, request):
            self._allowed.inc()
            return None
        if self._shadow or (self._share < 1 and self._draw() >= self._share):
            self._spared.inc()
            exchange.metadata["csrf.shadow"] = "refused"
            return None
        self._refused.inc()
        return Response(403, b"Invalid origin", details=b"csrf_origin_mismatch")

    def _passes(self, exchange: Any, request: Any) -> bool:
        headers = request.headers
        origins = headers.get_all(b"origin")
        sites = headers.get_all(b"sec-fetch-site")
        if len(origins) > 1 or len(sites) > 1:
            return False
        site = sites[0] if sites else b""
        if site in (b"same-origin", b"none"):
            return True
        if origins:
            source = origins[0]
        else:
            referers = headers.get_all(b"referer")
            if not referers:
                return self._missing and not site
            found = _SOURCE.match(referers[0]) if len(referers) == 1 else None
            if found is None:
                return False
            source = _origin(found)
        if any(test(source) for test in self._tests):
            return True
        # The browser knows better than a comparison of names.
        return not site and _same(source, request.authority, exchange.scheme)


def _origin(found: re.Match[bytes]) -> bytes:
    scheme, host, port = found.groups()
    if port is None or int(port) == _PORTS[scheme]:
        return b"%b://%b" % (scheme, host.lower())
    return b"%b://%b:%d" % (scheme, host.lower(), int(port))


def _same(source: bytes, authority: bytes, scheme: bytes) -> bool:
    """Whether an origin is the request's own; behind TLS it is not one without TLS."""
    from_ = _SOURCE.fullmatch(source)
    here = _HOST.fullmatch(authority)
    if from_ is None or here is None:
        return False
    if scheme == b"https" and from_[1] != b"https":
        return False
    # TLS may have ended before this proxy: the port that is left out is that of the origin.
    usual = _PORTS[from_[1]]
    return (from_[2].lower(), int(from_[3] or usual)) == (here[1].lower(), int(here[2] or usual))

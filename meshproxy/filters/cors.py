"""
Cross-origin resource sharing, as the Fetch standard has it (section 3.2, the CORS protocol).

The law it keeps: what an origin may do is decided by the configuration alone, so that a response
says ``vary: origin`` whether or not its request had an origin; credentials go to origins that are
named, never to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import (
    Duration,
    Field,
    HeaderName,
    Headers,
    Method,
    Response,
    StringMatch,
    Unfit,
    string_test,
)
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter, IResponseFilter

__all__ = ["Cors"]

_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\*\.)?([a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])"
    r"(?::([0-9]{1,5}|\*))?"
)
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}
_ELSEWHERE = b"https://origin-of-nobody.invalid"
"""An origin that no list of origins means: what allows it allows everybody."""

_PREFIX = b"access-control-"
_A, _V = b"av"
_CACHED = 1024
"""Origins whose answer is remembered."""
_LONGEST = 512
"""Bytes of an origin that is not remembered any more."""


def _origin(value: str) -> str:
    """Return an origin as browsers send it, ``https://*.example`` or ``*``. Raises ``Unfit``."""
    if value in ("*", "null"):
        return value
    match = _ORIGIN.fullmatch(value)
    if match is None:
        hint = value.rstrip("/").lower()
        raise Unfit(
            f"an origin is written as browsers send it, https://app.example: not '{value[:64]}'",
            hint if hint != value and _ORIGIN.fullmatch(hint) else None,
        )
    if (match[1], match[5]) in _DEFAULT_PORTS:
        raise Unfit("browsers leave the usual port out of an origin", value.rpartition(":")[0])
    return value


def _as_match(value: Any) -> Any:
    return {"exact": _origin(value)} if isinstance(value, str) else value


_Origin = Annotated[
    StringMatch, BeforeValidator(_as_match, json_schema_input_type=str | StringMatch)
]


def _compile(origins: list[StringMatch]) -> Callable[[bytes], bool]:
    """Whether an origin is one of these."""
    exact = set()
    patterns = []
    tests = []
    for match in origins:
        origin = match.exact
        if origin is None:
            tests.append(string_test(match))
        elif origin == "*":
            return lambda value: True
        elif "*" in origin:
            text = re.escape(origin).replace(r"://\*\.", r"://(?:[a-z0-9_-]+\.)+")
            patterns.append(text.replace(r":\*", r"(?::[0-9]+)?"))
        else:
            exact.add(origin.encode())
    if patterns:
        tests.append(string_test(StringMatch(regex="|".join(patterns))))
    if not tests:
        return frozenset(exact).__contains__
    return lambda value: value in exact or any(test(value) for test in tests)


@implementer(IRequestFilter, IResponseFilter, IContextFilter)
class Cors:
    """
    Answer preflight requests and mark responses, for pages of other origins.

    A preflight request (OPTIONS with Origin and Access-Control-Request-Method) is answered here,
    with what is allowed if its origin is one of ``allow_origins``, else with nothing, so that the
    browser refuses. Every other request goes on: CORS tells browsers what a page may read, it
    keeps nobody out.
    """

    class Options(api.Options):
        """Who may read what."""

        allow_origins: list[_Origin] = Field(
            default=[],
            min_length=1,
            description="Origins that may read responses: `https://app.example`, "
            "`https://*.example` (all below it; `:*` for any port), a mapping such as "
            "`{regex: ...}`, or `*` for everybody; without it, everybody.",
        )
        allow_methods: list[Method | Literal["*"]] = Field(
            default=["GET", "HEAD", "POST"], description="The methods that pages may use."
        )
        allow_headers: list[HeaderName] = Field(
            default=[],
            description="The headers that pages may send beside the harmless ones; `*` is all but "
            "`authorization`.",
        )
        expose_headers: list[HeaderName] = Field(
            default=[],
            description="The headers that pages may read beside the harmless ones.",
        )
        allow_credentials: bool = Field(
            default=False, description="Let pages send cookies and passwords, and read the answer."
        )
        max_age: Duration | None = Field(
            default=None,
            description="How long a browser may keep the answer to a preflight request; without "
            "it, 5 s.",
        )
        private_network: bool = Field(
            default=False,
            description="Answer `access-control-request-private-network`: let public pages reach "
            "this private server.",
        )
        preflight_status: Literal[200, 204] = Field(
            default=204, description="The status of the answer to a preflight request."
        )
        replace: bool = Field(
            default=True,
            description="Take out the CORS headers of the endpoint's own; false: what it says "
            "stays, and what it does not say is added.",
        )
        shadow: bool = Field(
            default=False,
            description="Change nothing: only count, and leave `cors.shadow` (`allowed` or "
            "`refused`) in the metadata.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield lists that mean everybody beside credentials, and `*` beside others."""
            yield from super().faults(given)
            credentials = given.get("allow_credentials") is True
            for key in ("allow_origins", "allow_methods", "allow_headers", "expose_headers"):
                listed = given.get(key, ["*"] if key == "allow_origins" else [])
                if not isinstance(listed, list) or "*" not in listed:
                    continue
                if credentials:
                    where = (key, listed.index("*")) if key in given else ()
                    yield Unfit(
                        f"'*' in '{key}' means nothing together with 'allow_credentials': name "
                        "them",
                        at=where,
                    )
                elif len(listed) > 1:
                    yield Unfit("'*' stands alone", at=(key, listed.index("*")))
            origins = given.get("allow_origins")
            if credentials and isinstance(origins, list) and "null" in origins:
                yield Unfit(
                    "anybody can be 'null', which goes ill with 'allow_credentials'",
                    at=("allow_origins", origins.index("null")),
                )

    def __init__(self, options: Options) -> None:
        origins = options.allow_origins or [StringMatch(exact="*")]
        for origin in origins:
            _check_match(origin)
        self._allows = _compile(origins)
        everybody = any(origin.exact == "*" for origin in origins)
        if options.allow_credentials and (self._allows(_ELSEWHERE) or self._allows(b"null")):
            raise Unfit("'allow_origins' takes in everybody: not together with credentials")
        self._everybody = everybody
        self._replace = options.replace
        self._shadow = options.shadow
        self._private = options.private_network
        self._status = options.preflight_status
        pairs = [(b"access-control-allow-methods", b", ".join(_bytes(options.allow_methods)))]
        if options.allow_headers:
            pairs.append(
                (b"access-control-allow-headers", b", ".join(_bytes(options.allow_headers)))
            )
        if options.max_age is not None:
            pairs.append((b"access-control-max-age", b"%d" % options.max_age))
        both = []
        if options.allow_credentials:
            both.append((b"access-control-allow-credentials", b"true"))
        self._preflight = (*both, *pairs)
        if options.expose_headers:
            both.append(
                (b"access-control-expose-headers", b", ".join(_bytes(options.expose_headers)))
            )
        self._pairs = both
        # Origins are few, and who makes them up pushes others out at most.
        self._remembered = lru_cache(_CACHED)(self._marks_of)
        (self._vary,) = Headers.of([(b"vary", b"origin")]).fields
        vary = [b"origin"]
        if self._private:
            vary.append(b"access-control-request-private-network")
        self._preflight_vary = (b"vary", b", ".join(vary))

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._allowed = context.counter("allowed", "Requests of origins that are allowed")
        self._refused = context.counter("refused", "Requests of origins that are not allowed")
        self._preflights = context.counter("preflights", "Preflight requests answered")

    def request(self, exchange: Any) -> Response | None:
        """Part of ``IRequestFilter``."""
        request = exchange.request
        headers = request.headers
        origin = headers.get(b"origin")
        if origin is None:
            return None
        allowed = bool(self._marks(origin))
        (self._allowed if allowed else self._refused).inc()
        if self._shadow:
            exchange.metadata["cors.shadow"] = "allowed" if allowed else "refused"
            return None
        if request.method != b"OPTIONS" or b"access-control-request-method" not in headers:
            return None
        self._preflights.inc()
        if not allowed:
            return Response(
                self._status, b"", [self._preflight_vary], details=b"cors_preflight_refused"
            )
        value = b"*" if self._everybody else origin
        pairs = [(b"access-control-allow-origin", value), *self._preflight, self._preflight_vary]
        if self._private and headers.get(b"access-control-request-private-network") == b"true":
            pairs.append((b"access-control-allow-private-network", b"true"))
        return Response(self._status, b"", pairs, details=b"cors_preflight")

    def response(self, exchange: Any) -> None:
        """Part of ``IResponseFilter``."""
        if self._shadow:
            return
        headers = exchange.response.headers
        fields = headers.fields
        own = False
        vary = None
        for field in fields:
            name = field[0]
            first = name[0]
            if first == _V:
                if name == b"vary":
                    vary = field[1] if vary is None else b"%b, %b" % (vary, field[1])
            elif first == _A and name.startswith(_PREFIX):
                own = True
        if own and self._replace:
            own = False
            headers.fields = fields = [
                field for field in fields if not field[0].startswith(_PREFIX)
            ]
        if vary is None:
            fields.append(self._vary)
        else:
            named = [name.strip() for name in vary.lower().split(b",")]
            if b"*" not in named and b"origin" not in named:
                headers.set(b"vary", b"%b, origin" % vary)
        origin = exchange.request.headers.get(b"origin")
        if origin is None:
            return
        marks = self._marks(origin)
        if not own:
            headers.fields += marks
        elif b"access-control-allow-origin" not in headers:
            for mark in marks:
                headers.set_field(mark)

    def _marks(self, origin: bytes) -> tuple[Any, ...]:
        return self._remembered(origin) if len(origin) < _LONGEST else self._marks_of(origin)

    def _marks_of(self, origin: bytes) -> tuple[Any, ...]:
        """The fields of a response for this origin; none for one that is not allowed."""
        if not self._allows(origin):
            return ()
        value = b"*" if self._everybody else origin
        return tuple(Headers.of([(b"access-control-allow-origin", value), *self._pairs]).fields)


def _bytes(texts: list[Any]) -> list[bytes]:
    return [text.encode() for text in texts]


def _check_match(origin: StringMatch) -> None:
    """Raise ``Unfit`` for a match that lets in origins nobody thought of."""
    if origin.exact is not None:
        _origin(origin.exact)
    if origin.contains is not None or origin.present is not None or origin.invert:
        raise Unfit("an origin is matched by 'exact', 'prefix', 'suffix' or 'regex'")
    if origin.suffix is not None and origin.suffix[0] not in "./:":
        raise Unfit(
            f"'suffix: {origin.suffix}' would take https://evil{origin.suffix} too",
            f".{origin.suffix}",
        )
    if origin.prefix is not None and ("://" not in origin.prefix or origin.prefix[-1] != ":"):
        raise Unfit(f"'prefix: {origin.prefix}' would take {origin.prefix}.evil.example too")
    if origin.regex is not None and string_test(origin)(_ELSEWHERE):
        raise Unfit("this regular expression matches every origin; write '*' if that is meant")

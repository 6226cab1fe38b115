"""
Where a request carries a key or a token, and how it is taken out.

The law it keeps: a credential is read from one place, and stands there once: what comes twice is
ambiguous, since the service behind might read the other one. What is taken out is taken out of
every place, but for the one that was verified where it is to be kept. What is in a query, no log
shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote_to_bytes

from pydantic import BeforeValidator

from meshproxy.api import Field, HeaderName, Headers, Options, Unfit
from meshproxy.filters._own_headers import FRAMING

__all__ = ["VERIFIED", "Ambiguous", "LookIn", "Place", "Places"]

VERIFIED = "verified"
"""
The key in ``exchange.notes`` that is there when somebody's credential was verified.

It may be taken out of the request then, and what comes back is that person's all the same.
"""


class Ambiguous(Exception):
    """A place holds several credentials."""


class Place(Options):
    """A place; `bearer` alone stands for `{bearer: true}`."""

    exactly_one: ClassVar[tuple[str, ...]] = ("bearer", "header", "cookie", "parameter")

    bearer: Literal[True] | None = Field(
        default=None, description="`Authorization: Bearer ...` (RFC 6750)."
    )
    header: HeaderName | None = Field(default=None, description="A header: its whole value.")
    cookie: str | None = Field(default=None, min_length=1, description="A cookie, by its name.")
    parameter: str | None = Field(
        default=None, min_length=1, description="A parameter of the query, by its name."
    )


def _place(value: Any) -> Any:
    if value == "bearer":
        return {"bearer": True}
    if isinstance(value, str):
        raise Unfit(
            "'bearer', {header: NAME}, {cookie: NAME} or {parameter: NAME} is expected, not "
            f"'{value[:64]}'"
        )
    return value


LookIn = Annotated[
    list[
        Annotated[Place, BeforeValidator(_place, json_schema_input_type=Literal["bearer"] | Place)]
    ],
    Field(min_length=1, max_length=8),
]
"""The type of an option that lists places."""


class Places:
    """These places, in order; the first that holds something is the one that counts."""

    __slots__ = ("_parameters", "_places", "bearer")

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(map(_compiled, places))
        self._parameters = tuple(one for one in self._places if isinstance(one, _Parameter))
        #: Whether Authorization is among them.
        self.bearer = any(place.bearer for place in places)

    def find(self, request: Any) -> tuple[int, bytes] | None:
        """The number of a place and what it holds, None for nothing. Raises Ambiguous."""
        for number, place in enumerate(self._places):
            values = place.values(request)
            if values:
                if len(values) > 1:
                    raise Ambiguous
                if values[0]:
                    return number, values[0]
        return None

    def conceal(self, exchange: Any) -> None:
        """Write ``***`` in place of what is in the query, where the access log shows it."""
        for parameter in self._parameters:
            parameter.conceal(exchange)

    def strip(self, request: Any, keep: int = -1) -> None:
        """Take everything out of all places but ``keep``."""
        for number, place in enumerate(self._places):
            if number != keep:
                place.strip(request)


class _Bearer:
    def values(self, request: Any) -> list[bytes]:
        values: list[bytes] = request.headers.get_all(b"authorization")
        if len(values) > 1:
            return values
        return [token for value in values if (token := _bearer(value)) is not None]

    def strip(self, request: Any) -> None:
        if self.values(request):
            request.headers.remove(b"authorization")


def _bearer(value: bytes) -> bytes | None:
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else None


class _Header:
    def __init__(self, name: str) -> None:
        if name in FRAMING:
            raise Unfit(f"no credential is in '{name}'")
        self._name = name.encode()

    def values(self, request: Any) -> list[bytes]:
        values: list[bytes] = request.headers.get_all(self._name)
        return values

    def strip(self, request: Any) -> None:
        request.headers.remove(self._name)


class _Cookie:
    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def _is(self, pair: bytes) -> bool:
        name, mark, _ = pair.partition(b"=")
        return bool(mark) and name.strip(b" \t") == self._name

    def values(self, request: Any) -> list[bytes]:
        return [
            pair.partition(b"=")[2].strip(b" \t").strip(b'"')
            for value in request.headers.get_all(b"cookie")
            for pair in value.split(b";")
            if self._is(pair)
        ]

    def strip(self, request: Any) -> None:
        headers = request.headers
        values = headers.get_all(b"cookie")
        if not any(self._is(pair) for value in values for pair in value.split(b";")):
            return
        kept = [
            pair.strip(b" \t")
            for value in values
            for pair in value.split(b";")
            if pair.strip(b" \t") and not self._is(pair)
        ]
        headers.remove(b"cookie")
        if kept:
            headers.fields += Headers.of([(b"cookie", b"; ".join(kept))]).fields


class _Parameter:
    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def _is(self, pair: bytes) -> bool:
        return unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")) == self._name

    def values(self, request: Any) -> list[bytes]:
        query = request.query
        if not query:
            return []
        return [
            unquote_to_bytes(pair.partition(b"=")[2].replace(b"+", b" "))
            for pair in query.split(b"&")
            if self._is(pair)
        ]

    def conceal(self, exchange: Any) -> None:
        # The target as received: nobody goes by it, it is what is logged.
        path, _, query = exchange.path.partition(b"?")
        if not query:
            return
        pairs = query.split(b"&")
        if any(map(self._is, pairs)):
            hidden = [
                b"%b=***" % pair.partition(b"=")[0] if self._is(pair) else pair for pair in pairs
            ]
            exchange.path = b"%b?%b" % (path, b"&".join(hidden))

    def strip(self, request: Any) -> None:
        query = request.query
        if not query:
            return
        pairs = query.split(b"&")
        kept = [pair for pair in pairs if not self._is(pair)]
        if len(kept) != len(pairs):
            request.query = b"&".join(kept)


def _compiled(place: Place) -> _Bearer | _Header | _Cookie | _Parameter:
    if place.header is not None:
        return _Header(place.header)
    if place.cookie is not None:
        return _Cookie(place.cookie)
    if place.parameter is not None:
        return _Parameter(place.parameter)
    return _Bearer()

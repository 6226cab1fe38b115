"""
Whom a limit counts: the option ``by``, compiled to a function from an exchange to a short key.

The law it keeps: two different clients never have one key, whatever they send: parts are framed by
their length when they are joined, and a long key is replaced by a hash of a length that no other
key has. A key is at most :data:`LONGEST` bytes, so that a table of keys has a known size. Nothing
that a client leaves out gets it a bucket of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from meshproxy.api import Field, HeaderName, Options, Unfit
from meshproxy.filters._networks import prefix_of

__all__ = ["LONGEST", "By", "ClientIp", "Key", "KeyPart", "Missing", "compile_key", "hashed"]

LONGEST = 48
"""Bytes of the longest key, which is a hash; what is no hash is shorter."""

Key = Callable[[Any], bytes | None]
"""An exchange's key; None where a part is missing and ``missing`` is not ``share``."""

Missing = Literal["share", "skip", "refuse"]
"""The type of the option ``missing``."""

MISSING = (
    "A request without what `by` names: `share`, one count for all of them; `skip`, it is not "
    "counted; `refuse`, it is answered 400."
)
"""The description of the option ``missing``."""

BY = (
    "Whom it counts: `client_ip`, `everyone`, `route`, `method`, `path`, `host`, "
    "`{header: NAME}`, `{cookie: NAME}`, `{parameter: NAME}` of the query, `{metadata: NAME}` that "
    "another filter left, `{claim: NAME}` of a verified token, or a list of these, which count "
    "together."
)
"""The description of the option ``by``."""


class ClientIp(Options):
    """How much of a client's address counts: those of one network are one client."""

    v4: int = Field(default=32, ge=0, le=32, description="The bits of an IPv4 address.")
    v6: int = Field(default=64, ge=0, le=128, description="The bits of an IPv6 address.")


class KeyPart(Options):
    """One thing that a limit goes by. A word stands for the mapping where nothing is to be said."""

    exactly_one: ClassVar[tuple[str, ...]] = (
        "client_ip",
        "header",
        "cookie",
        "parameter",
        "metadata",
        "claim",
        "route",
        "method",
        "path",
        "host",
        "everyone",
    )

    client_ip: ClientIp | None = Field(default=None, description="The client's address.")
    header: HeaderName | None = Field(default=None, description="A header of the request.")
    cookie: str | None = Field(default=None, min_length=1, description="A cookie, by its name.")
    parameter: str | None = Field(
        default=None, min_length=1, description="A parameter of the query, by its name."
    )
    metadata: str | None = Field(
        default=None, min_length=1, description="A fact that a filter before this one left."
    )
    claim: str | None = Field(
        default=None, min_length=1, description="A claim of the token that `jwt` verified."
    )
    route: Literal[True] | None = Field(default=None, description="The name of the route.")
    method: Literal[True] | None = Field(default=None, description="The method.")
    path: Literal[True] | None = Field(default=None, description="The path, without the query.")
    host: Literal[True] | None = Field(default=None, description="The host, without a port.")
    everyone: Literal[True] | None = Field(default=None, description="All requests are one.")


_WORDS: dict[str, Any] = {
    "client_ip": {},
    "everyone": True,
    "route": True,
    "method": True,
    "path": True,
    "host": True,
}


def _part(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in _WORDS:
        near = get_close_matches(value[:64], _WORDS, n=1)
        raise Unfit(
            f"{', '.join(_WORDS)}, or a mapping such as {{header: x-user}}, is expected, not "
            f"'{value[:64]}'",
            near[0] if near else None,
        )
    return {value: _WORDS[value]}


def _parts(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


_Part = Annotated[KeyPart, BeforeValidator(_part, json_schema_input_type=str | KeyPart)]
By = Annotated[
    list[_Part],
    Field(min_length=1, max_length=8),
    BeforeValidator(_parts, json_schema_input_type=str | KeyPart | list[str | KeyPart]),
]
"""The type of the option ``by``; its section has ``one_or_several = frozenset({"by"})``."""


def hashed(key: bytes) -> bytes:
    """A hash of :data:`LONGEST` bytes that stands for ``key``."""
    return blake2b(key, digest_size=LONGEST).digest()


def compile_key(by: Sequence[KeyPart] | None, missing: Missing = "share") -> Key:
    """
    The key of an exchange, by the parts of ``by`` (None or none: the client's address).

    What is there and empty is missing.
    """
    values = [_value(part) for part in by or [KeyPart(client_ip=ClientIp())]]
    share = missing == "share"
    if len(values) == 1:
        value = values[0]

        def one(exchange: Any) -> bytes | None:
            key = value(exchange)
            if not key:
                return b"" if share else None
            return key if len(key) < LONGEST else hashed(key)

        return one

    def several(exchange: Any) -> bytes | None:
        key = b""
        for value in values:
            part = value(exchange)
            if part:
                key += b"%d:%b" % (len(part), part)
            elif share:
                key += b"0:"
            else:
                return None
        return key if len(key) < LONGEST else hashed(key)

    return several


def _value(part: KeyPart) -> Key:
    """One part's value."""
    if part.client_ip is not None:
        v4, v6 = part.client_ip.v4, part.client_ip.v6
        return lambda exchange: prefix_of(exchange.client_ip, v4, v6)
    if part.header is not None:
        header = part.header.encode()
        if header == b"host":  # it is not among the others
            return lambda exchange: exchange.request.authority
        return lambda exchange: exchange.request.headers.get(header)
    if part.cookie is not None:
        cookie = part.cookie.encode()
        return lambda exchange: exchange.request.cookie(cookie)
    if part.parameter is not None:
        parameter = part.parameter.encode()
        return lambda exchange: exchange.request.parameter(parameter)
    if part.metadata is not None:
        return _fact(part.metadata)
    if part.claim is not None:
        return _fact(f"jwt.{part.claim}")
    if part.route:
        return lambda exchange: exchange.route_name
    if part.method:
        return lambda exchange: exchange.request.method
    if part.path:
        return lambda exchange: exchange.request.path
    if part.host:
        return lambda exchange: _host(exchange.request.authority)
    return lambda exchange: b"*"


def _fact(name: str) -> Key:
    def fact(exchange: Any) -> bytes | None:
        value = exchange.metadata.get(name)
        if value is None or isinstance(value, bytes):
            return value
        return str(value).encode()

    return fact


def _host(authority: bytes) -> bytes:
    """The host alone, in lower case: a port or a capital is not another host."""
    name, colon, port = authority.rpartition(b":")
    return (name if colon and (not port or port.isdigit()) else authority).lower()

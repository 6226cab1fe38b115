"""How the endpoint of a request is chosen, beside the algorithm's name.

Law: nothing here names an endpoint: what decides is a property of the request or the client, and
labels are words that any source of endpoints may give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from meshproxy.config.fields import (
    Duration,
    HeaderName,
    PathText,
    PositiveDuration,
    Token,
    Truth,
)
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, closest, quoted
from meshproxy.config.values import seconds_of

__all__ = ["HashBy", "HashCookie", "HashKeys", "Labels", "SlowStart", "Sticky", "Subsets"]

LabelText = Annotated[str, Field(min_length=1, max_length=253)]
Labels = dict[LabelText, LabelText]


def _cookie_path(value: str) -> str:
    """Return a path that can stand in a cookie (RFC 6265 section 4.1.1: no semicolon)."""
    if ";" in value:
        raise Unfit(f"a cookie's path has no ';': {quoted(value)}")
    return value


class HashCookie(Section):
    """A cookie that decides; a client without it is given one. Its name alone may be written."""

    name: Token = Field(description="Its name.")
    ttl: Duration = Field(
        default=0.0,
        description="How long the client keeps it, in whole seconds; 0 until its session ends.",
    )
    path: Annotated[PathText, AfterValidator(_cookie_path)] = Field(
        default="/", description="The paths that it is sent for."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a time that a cookie cannot say (RFC 6265 section 5.2.2)."""
        yield from super().faults(given)
        if seconds_of(given.get("ttl"), 0.0) % 1 > 0:
            yield Unfit("a cookie is kept for whole seconds", at=("ttl",))


def _cookie(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


CookieItem = Annotated[
    HashCookie, BeforeValidator(_cookie, json_schema_input_type=str | HashCookie)
]


class HashBy(Section):
    """What decides on the endpoint: the same value goes to the same endpoint.

    `source_ip` alone, one mapping, or a list of these, of which the first that a request has
    decides. A request that has none of them goes anywhere.
    """

    exactly_one: ClassVar[tuple[str, ...]] = ("header", "cookie", "query", "source_ip")

    header: HeaderName | None = Field(default=None, description="A header of the request.")
    cookie: CookieItem | None = Field(
        default=None,
        description="A cookie; a client without it is given one, with a value made by chance.",
    )
    query: str | None = Field(
        default=None, min_length=1, description="A parameter of the query, by its name."
    )
    source_ip: Truth | None = Field(
        default=None, description="The client's address, without its port."
    )


def _key(value: Any) -> Any:
    if isinstance(value, str):
        if value != "source_ip":
            raise Unfit(
                f"source_ip, or a mapping such as {{header: x-user}}, is expected, not "
                f"{quoted(value)}",
                closest(value, ("source_ip",)),
            )
        return {"source_ip": True}
    return value


def _keys(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


HashItem = Annotated[HashBy, BeforeValidator(_key, json_schema_input_type=str | HashBy)]
HashKeys = Annotated[
    list[HashItem],
    Field(min_length=1, max_length=8),
    BeforeValidator(_keys, json_schema_input_type=str | HashBy | list[str | HashBy]),
]
"""`source_ip`, a mapping, or a list of these: the first that the request has decides."""


class Sticky(Section):
    """A client stays with the endpoint that its first request went to, while that is well."""

    cookie: CookieItem = Field(
        description="The cookie that stands for the endpoint; its address is not to be read there."
    )


class SlowStart(Section):
    """A new or returning endpoint gets its share little by little.

    `window` alone may be written.
    """

    window: PositiveDuration = Field(description="How long until it gets its whole share.")
    aggression: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="1 grows evenly; more grows faster at first.",
    )
    min_weight_percent: float = Field(
        default=10.0,
        ge=1,
        le=100,
        description="The share that it begins with, in percent of its weight.",
    )


def _slow(value: Any) -> Any:
    return {"window": value} if isinstance(value, (str, int, float)) else value


SlowStartItem = Annotated[SlowStart, BeforeValidator(_slow, json_schema_input_type=str | SlowStart)]


class Subsets(Section):
    """What happens when no endpoint has the labels that are asked for."""

    fallback: Literal["none", "any", "default"] = Field(
        default="none",
        description="`none`: 503; `any`: every endpoint; `default`: those with `default`.",
    )
    default: Labels = Field(default={}, description="The labels of `fallback: default`.")

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a default that is not used, or missing."""
        yield from super().faults(given)
        fallback = given.get("fallback", "none")
        if fallback == "default" and not given.get("default"):
            yield Unfit("it needs 'default', the labels to fall back on", at=("fallback",))
        if "default" in given and fallback in ("none", "any"):
            yield Unfit("'default' does nothing without 'fallback: default'", at=("default",))

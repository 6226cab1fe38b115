"""How the endpoint of a request is chosen, beside the algorithm's name.

Law: what only a header, cookie or query can decide is refused where there is none (TCP).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from meshproxy.config.fields import Duration, HeaderName, PathText, PositiveDuration, Token
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, quoted

__all__ = ["HashBy", "HashCookie", "HashKeys", "Labels", "SlowStart", "Sticky", "Subsets"]

LabelText = Annotated[str, Field(min_length=1, max_length=253)]
Labels = dict[LabelText, LabelText]


class HashCookie(Section):
    """A cookie that decides; a client without it is given one."""

    name: Token = Field(description="Its name.")
    ttl: Duration = Field(
        default=0.0, description="How long the client keeps it; 0 until its session ends."
    )
    path: PathText = Field(default="/", description="The paths that it is sent for.")


def _cookie(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


CookieItem = Annotated[
    HashCookie, BeforeValidator(_cookie, json_schema_input_type=str | HashCookie)
]


class HashBy(Section):
    """What decides on the endpoint: the same value goes to the same endpoint."""

    exactly_one: ClassVar[tuple[str, ...]] = ("header", "cookie", "query", "source_ip")

    header: HeaderName | None = Field(default=None, description="A header of the request.")
    cookie: CookieItem | None = Field(
        default=None, description="A cookie; it is issued where it is absent."
    )
    query: str | None = Field(default=None, min_length=1, description="A parameter of the query.")
    source_ip: Literal[True] | None = Field(default=None, description="The client's address.")


def _key(value: Any) -> Any:
    if isinstance(value, str):
        if value != "source_ip":
            raise Unfit(
                f"source_ip, or a mapping such as {{header: x-user}}, is expected, not "
                f"{quoted(value)}"
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

    cookie: CookieItem = Field(description="The cookie that names the endpoint (not its address).")


class SlowStart(Section):
    """A new or returning endpoint gets its share little by little."""

    window: PositiveDuration = Field(description="How long until it gets its whole share.")
    aggression: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="1 grows evenly; more grows faster at first.",
    )
    min_weight_percent: float = Field(
        default=10.0, ge=1, le=100, description="The share that it begins with."
    )


def _slow(value: Any) -> Any:
    return {"window": value} if isinstance(value, str) else value


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
        if given.get("fallback") == "default" and not given.get("default"):
            yield Unfit("it needs 'default', the labels to fall back on", at=("fallback",))
        if "default" in given and given.get("fallback") != "default":
            yield Unfit("it does nothing without 'fallback: default'", at=("default",))

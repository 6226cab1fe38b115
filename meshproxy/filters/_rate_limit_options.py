"""
The options of the filter ``rate_limit``.

The law it keeps: a limit that no request could ever pass, and an option that would do nothing,
are refused before anything is bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from meshproxy.api import Field, HeaderName, Options, PositiveDuration, Unfit
from meshproxy.filters._keys import BY, MISSING, By, Missing
from meshproxy.filters._limit_fields import STYLE, Style
from meshproxy.filters._match import Applies
from meshproxy.filters._rate import KEYS

__all__ = ["Cost", "Limit", "RateLimitOptions"]

_MOST = 1_000_000_000

Number = Annotated[int, Field(ge=1, le=_MOST)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Limit(Options):
    """One limit of several."""

    one_or_several: ClassVar[frozenset[str]] = frozenset({"by"})

    name: Name | None = Field(
        default=None, description="Its name in headers and metrics; `limit-1` and so on without."
    )
    requests: Number = Field(description="How many requests on the long run in `per`.")
    per: PositiveDuration = Field(default=1.0, description="The time that `requests` is for.")
    burst: Number | None = Field(
        default=None, description="How many at once; as many as `requests` without it."
    )
    by: By | None = Field(default=None, description=BY + " Without it, `client_ip`.")
    missing: Missing = Field(default="share", description=MISSING)


class Cost(Options):
    """How much a request takes: a number, or what a header says within bounds."""

    exactly_one: ClassVar[tuple[str, ...]] = ("fixed", "header")
    shorthand: ClassVar[str] = "fixed"

    fixed: Number | None = Field(default=None, description="The same for all.")
    header: HeaderName | None = Field(
        default=None,
        description="The header that says it: a whole number, 1 at least. Set or remove it in a "
        "filter before this one, if clients are not to choose.",
    )
    default: Number = Field(default=1, description="Without the header.")
    max: Number = Field(
        default=100, description="What a larger number, or what is no number, counts as."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield bounds of a number that has none."""
        yield from super().faults(given)
        for key in ("default", "max"):
            if key in given and "header" not in given:
                yield Unfit(f"'{key}' does nothing without 'header'", at=(key,))
        default, most = given.get("default", 1), given.get("max", 100)
        if isinstance(default, int) and isinstance(most, int) and default > most:
            yield Unfit(f"it is more than 'max', {most}", at=("default",))


def _cost(value: Any) -> Any:
    return {"fixed": value} if isinstance(value, int) else value


class RateLimitOptions(Options):
    """What to count, whom by, and what to answer over the limit."""

    exactly_one: ClassVar[tuple[str, ...]] = ("requests", "limits")
    one_or_several: ClassVar[frozenset[str]] = frozenset({"by"})

    requests: Number | None = Field(
        default=None, description="How many requests on the long run in `per`."
    )
    per: PositiveDuration = Field(default=1.0, description="The time that `requests` is for.")
    burst: Number | None = Field(
        default=None, description="How many at once; as many as `requests` without it."
    )
    by: By | None = Field(default=None, description=BY + " Without it, `client_ip`.")
    missing: Missing = Field(default="share", description=MISSING)
    limits: Annotated[list[Limit], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="Several limits in place of one. All must allow a request; where one refuses "
        "it, it takes nothing from the others.",
    )
    cost: Annotated[Cost, BeforeValidator(_cost, json_schema_input_type=int | Cost)] | None = Field(
        default=None, description="How much a request takes; 1 without it."
    )
    match: Applies | None = Field(
        default=None, description="The requests that count; without it, all."
    )
    status: int = Field(
        default=429, ge=400, le=599, description="The status of a request over the limit."
    )
    body: str = Field(
        default="local_rate_limited", description="The body of a request over the limit."
    )
    headers: Style = Field(default="draft", description=STYLE)
    on_allowed: bool = Field(
        default=False, description="Send these headers with allowed responses as well."
    )
    shadow: bool = Field(
        default=False,
        description="Refuse nothing; count, and name the limit in the metadata `NAME.shadow`.",
    )
    keys: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=KEYS, description="How many keys each limit remembers, about 150 bytes each."
    )
    full: Literal["share", "refuse"] = Field(
        default="share",
        description="A new key while none of `keys` can be forgotten: `share`, all of them have "
        "one bucket; `refuse`.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what does nothing, and what no request could ever pass."""
        yield from super().faults(given)
        several = given.get("limits")
        if several is not None:
            for key in ("per", "burst", "by", "missing"):
                if key in given:
                    yield Unfit(f"'{key}' does nothing here; it belongs in 'limits'", at=(key,))
        if given.get("headers") == "off" and given.get("on_allowed") is True:
            yield Unfit("'on_allowed' does nothing with 'headers: off'", at=("on_allowed",))
        yield from _unaffordable(given, given.get("cost"))
        names: set[str] = set()
        for index, limit in enumerate(several if isinstance(several, list) else ()):
            name = _of(limit, "name") or f"limit-{index + 1}"
            if name in names:
                yield Unfit(f"there are two limits '{name}'", at=("limits", index))
            names.add(name)
            for fault in _unaffordable(limit, given.get("cost")):
                yield Unfit(fault.message, fault.suggestion, ("limits", index, *fault.at))


def _of(section: Any, key: str, default: Any = None) -> Any:
    """A key of a section, as written or built."""
    if isinstance(section, Mapping):
        return section.get(key, default)
    return getattr(section, key, default)


def _unaffordable(limit: Any, cost: Any) -> Iterator[Unfit]:
    """Yield a burst that is less than what one request takes."""
    requests, burst = _of(limit, "requests"), _of(limit, "burst")
    key = "requests" if burst is None else "burst"
    most = requests if burst is None else burst
    if not isinstance(cost, int):
        fixed = _of(cost, "fixed")
        cost = _of(cost, "max", 100) if fixed is None and cost is not None else fixed
    if isinstance(cost, int) and isinstance(most, int) and most < cost:
        yield Unfit(
            f"a request may cost {cost}, which no bucket of {most} can ever give", at=(key,)
        )

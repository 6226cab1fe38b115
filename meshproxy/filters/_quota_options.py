"""
The options of the filter ``quota``.

The law it keeps: an allowance that nobody could be given, and an option that would do nothing,
are refused before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from meshproxy.api import Field, Options, PositiveDuration, Size, Unfit
from meshproxy.filters._calendar import Per, Zone
from meshproxy.filters._keys import BY, MISSING, By, Missing
from meshproxy.filters._limit_fields import STYLE, Style
from meshproxy.filters._match import Applies
from meshproxy.filters._rate import KEYS

__all__ = ["QuotaOptions"]

Number = Annotated[int, Field(ge=0, le=10**15)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class QuotaOptions(Options):
    """How much everybody may have in an hour, day, week or month of the calendar."""

    exactly_one: ClassVar[tuple[str, ...]] = ("requests", "bytes")
    one_or_several: ClassVar[frozenset[str]] = frozenset({"by"})

    requests: Number | None = Field(default=None, description="How many requests.")
    bytes: Size | None = Field(
        default=None,
        description="How much of response bodies. A response counts when it ends; what is under "
        "way when the allowance is used up is not cut.",
    )
    per: Per = Field(default="day", description="The time that it is for. Weeks begin on Monday.")
    zone: Zone = Field(
        default="UTC", description="The time zone whose days these are, as Europe/Berlin."
    )
    by: By | None = Field(default=None, description=BY + " Without it, `client_ip`.")
    missing: Missing = Field(default="share", description=MISSING)
    allowances: Annotated[dict[str, Size], Field(max_length=100_000)] = Field(
        default={},
        description="Other allowances, by the value of `by` (`by: {claim: sub}`: a user's name).",
    )
    match: Applies | None = Field(
        default=None, description="The requests that count; without it, all."
    )
    file: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="The SQLite file that keeps the counts, relative to the configuration; "
        "without it they end with the process.",
    )
    name: Name | None = Field(
        default=None,
        description="The counts' name in `file` and in headers. Quotas of one name, file, unit "
        "and `per` count together. Without it, it is that of the listener and the filter, so that "
        "those of two routes are one.",
    )
    flush: PositiveDuration = Field(
        default=1.0,
        description="How often counts go to `file`: what a killed process loses at most, and how "
        "late processes with one file know of each other's.",
    )
    keys: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=KEYS, description="How many keys are counted in a period, about 250 bytes each."
    )
    full: Literal["share", "refuse"] = Field(
        default="share",
        description="A new key when `keys` are there: `share`, all of them have one allowance; "
        "`refuse`.",
    )
    show_keys: bool = Field(
        default=False,
        description="Keep keys as they are, and show them in the admin; else only hashes of them "
        "are kept.",
    )
    top: int = Field(default=20, ge=0, le=1000, description="How many keys the admin shows.")
    headers: Style = Field(default="draft", description=STYLE)
    on_allowed: bool = Field(
        default=True, description="Send these headers with allowed responses as well."
    )
    status: int = Field(
        default=429, ge=400, le=599, description="The status when the allowance is used up."
    )
    body: str = Field(
        default="quota_exceeded", description="The body when the allowance is used up."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what does nothing, or cannot be meant."""
        yield from super().faults(given)
        by = given.get("by")
        if "allowances" in given and isinstance(by, list) and len(by) > 1:
            yield Unfit("'allowances' go by one value, and 'by' has several", at=("allowances",))
        if given.get("headers") == "off" and given.get("on_allowed") is True:
            yield Unfit("'on_allowed' does nothing with 'headers: off'", at=("on_allowed",))
        if "flush" in given and "file" not in given:
            yield Unfit("'flush' does nothing without 'file'", at=("flush",))

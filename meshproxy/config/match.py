"""Which requests a route takes.

Law: everything that is written must hold; a match with nothing written takes every request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from meshproxy.config.fields import HeaderName, HeaderText, MatchPath, Method, PathText, Regex
from meshproxy.config.names import NamePattern
from meshproxy.config.section import Section, written
from meshproxy.config.unfit import Unfit

__all__ = ["Match", "RequestTls", "StringMatch", "ValueMatch", "one_of_several"]


class StringMatch(Section):
    """How a header's or a parameter's value is compared; text alone means `exact`."""

    exactly_one: ClassVar[tuple[str, ...]] = (
        "exact",
        "prefix",
        "suffix",
        "contains",
        "regex",
        "present",
    )
    later: ClassVar[frozenset[str]] = frozenset({"ignore_case", "range"})

    exact: HeaderText | None = Field(default=None, description="The whole value.")
    prefix: HeaderText | None = Field(
        default=None, min_length=1, description="What the value begins with."
    )
    suffix: HeaderText | None = Field(
        default=None, min_length=1, description="What the value ends with."
    )
    contains: HeaderText | None = Field(
        default=None, min_length=1, description="What the value holds somewhere."
    )
    regex: Regex | None = Field(
        default=None, description="A regular expression that the whole value matches."
    )
    present: bool | None = Field(
        default=None, description="true: it must be there; false: it must not."
    )
    invert: bool = Field(default=False, description="Take what does not match instead.")


def _exact(value: Any) -> Any:
    return {"exact": value} if isinstance(value, str) else value


ValueMatch = Annotated[
    StringMatch, BeforeValidator(_exact, json_schema_input_type=str | StringMatch)
]
"""The type of what a value is compared with: text for the whole value, or a mapping."""


class RequestTls(Section):
    """What a route asks of the client's TLS; all that is written must hold."""

    server_names: list[NamePattern] = Field(
        default=[], description="The name that the client asked for (SNI), one of these."
    )
    client_certificate: bool | None = Field(
        default=None, description="Whether the client presented a certificate, which is verified."
    )
    subject: ValueMatch | None = Field(
        default=None, description="The subject of its certificate as RFC 4514 writes it."
    )
    san: ValueMatch | None = Field(
        default=None, description="One of its alternative names: DNS, URI, email or address."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what is asked of a certificate that must not be there."""
        yield from super().faults(given)
        for key in ("subject", "san"):
            if key in given and given.get("client_certificate") is False:
                yield Unfit(
                    f"'{key}' can match nothing beside 'client_certificate: false'", at=(key,)
                )
        yield from one_of_several(given.get("san"), ("san",))


def one_of_several(match: object, at: tuple[str | int, ...]) -> Iterator[Unfit]:
    """Yield what of a `ValueMatch` is not what is meant where one of several names counts."""
    given = written(match)
    if given.get("invert") is True:
        yield Unfit(
            "one name that is another is enough for 'invert', and most certificates have several",
            at=(*at, "invert"),
        )
    if "present" in given:
        yield Unfit("a name is compared here, so that 'present' says nothing", at=(*at, "present"))


class Match(Section):
    """Which requests a route takes; all that is written must hold."""

    at_most_one: ClassVar[tuple[tuple[str, ...], ...]] = (("path", "prefix", "regex"),)
    later: ClassVar[frozenset[str]] = frozenset(
        {"client_ip", "cookies", "fraction", "grpc", "ignore_case", "runtime", "source_ip"}
    )

    path: MatchPath | None = Field(
        default=None, description="The whole path, without the query; `*` is that of `OPTIONS *`."
    )
    prefix: PathText | None = Field(
        default=None, description="What the path begins with; see `on_segments`."
    )
    regex: Regex | None = Field(
        default=None,
        description="A regular expression (Python's) that the whole path matches.",
    )
    on_segments: bool = Field(
        default=True,
        description="Let `prefix` end only where a segment ends, so that `/ok` takes `/ok/1` and "
        "not `/okay`.",
    )
    methods: list[Method] = Field(
        default=[], description="The methods, in capitals; without it, all of them."
    )
    headers: dict[HeaderName, ValueMatch] = Field(
        default={}, description="What headers must be: text for the whole value, or a mapping."
    )
    query: dict[str, ValueMatch] = Field(
        default={},
        description="What parameters of the query must be: text for the whole value, or a mapping.",
    )
    tls: RequestTls | None = Field(
        default=None, description="What the client's TLS must be; never matches without TLS."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what is wrong between the keys, and keys that would do nothing."""
        yield from super().faults(given)
        if "on_segments" in given and "prefix" not in given:
            yield Unfit("'on_segments' does nothing without 'prefix'", at=("on_segments",))
        seen: dict[str, str] = {}
        for name in written(given.get("headers")):
            earlier = seen.setdefault(name.lower(), name)
            if earlier != name:
                yield Unfit(
                    f"this is the same header as '{earlier}'; case does not matter",
                    at=("headers", name),
                )

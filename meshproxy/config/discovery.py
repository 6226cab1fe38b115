"""Where endpoints come from when they are not written down as addresses.

Law: whatever the source, an endpoint is the same mapping as in `endpoints`; nothing is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from meshproxy.config.action import RequestName, same_names
from meshproxy.config.fields import HeaderText, PositiveDuration
from meshproxy.config.filters import DiscoveryPlugin
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, quoted
from meshproxy.config.values import format_duration, parse_endpoint, seconds_of

__all__ = ["Discovery", "Dns"]


def _server(value: str) -> str:
    """Return a name server as `IP:port`; the port is 53 where none is written."""
    host = f"[{value}]" if ":" in value and not value.startswith("[") else value
    for text in (value, f"{host}:53"):
        try:
            address = parse_endpoint(text)
        except Unfit:
            continue
        if not address.path:
            return address.text
    raise Unfit(f"a name server is an IP address, with or without a port, unlike {quoted(value)}")


def _url(value: str) -> str:
    """Return an absolute http or https URL (RFC 9110 section 4.2), without userinfo or fragment."""
    match = re.fullmatch(
        r"https?://(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?([/?][!-~]*)?", value, re.ASCII
    )
    if match is None or "#" in value or not 0 < int((match[1] or ":1")[1:]) < 65536:
        raise Unfit(f"an address such as https://host/path is expected, not {quoted(value)}")
    return value


class Dns(Section):
    """How names are looked up."""

    servers: list[Annotated[str, AfterValidator(_server)]] = Field(
        default=[],
        max_length=16,
        description="Name servers, in order; those of /etc/resolv.conf otherwise.",
    )
    family: Literal["any", "ipv4", "ipv6"] = Field(
        default="any", description="Which addresses are wanted."
    )
    min_ttl: PositiveDuration = Field(
        default=1.0, description="Never ask again sooner than this, whatever the answer's TTL."
    )
    max_ttl: PositiveDuration = Field(default=300.0, description="Never ask later than this.")
    negative_ttl: PositiveDuration = Field(
        default=5.0,
        description="Ask again after this when there was no answer, or none that says when.",
    )
    timeout: PositiveDuration = Field(
        default=5.0, description="How long an answer is waited for, all servers together."
    )
    jitter: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="Ask earlier by up to so many percent, by chance.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield bounds that contradict each other."""
        yield from super().faults(given)
        least = seconds_of(given.get("min_ttl"), 1.0)
        most = seconds_of(given.get("max_ttl"), 300.0)
        if least > most:
            yield Unfit(
                f"min_ttl ({format_duration(least)}) is longer than max_ttl "
                f"({format_duration(most)})",
                at=("min_ttl" if "min_ttl" in given else "max_ttl",),
            )


_IDLE = {"file": ("headers", "timeout"), "plugin": ("headers", "interval", "timeout")}
"""What does nothing beside a source."""


class Discovery(Section):
    """A source of endpoints outside this file."""

    exactly_one: ClassVar[tuple[str, ...]] = ("file", "http", "plugin")

    file: str | None = Field(
        default=None,
        min_length=1,
        description="A YAML or JSON file with a list of endpoints, written as in `endpoints`, or "
        "with that list under `endpoints`. It is read again when it changes; rename a new one over "
        "it, so that no half of it is read. A relative path begins at this file's directory.",
    )
    http: Annotated[str, AfterValidator(_url)] | None = Field(
        default=None, description="A URL that answers with the same, as JSON."
    )
    plugin: DiscoveryPlugin | None = Field(
        default=None,
        description="A plugin of the kind `discovery`: its name, or `NAME: {options}`.",
    )
    headers: dict[RequestName, HeaderText] = Field(
        default={}, description="Headers of the request, for `http`."
    )
    interval: PositiveDuration | None = Field(
        default=None,
        description="How often to look for changes; 1s for `file`, 10s for `http` otherwise. "
        "A plugin knows that itself.",
    )
    timeout: PositiveDuration = Field(
        default=5.0, description="How long an answer may take, for `http`."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield keys that would do nothing, and headers that are written twice."""
        yield from super().faults(given)
        yield from same_names(given, "headers")
        for source, idle in _IDLE.items():
            for key in idle if source in given else ():
                if key in given:
                    yield Unfit(f"'{key}' does nothing beside '{source}'", at=(key,))

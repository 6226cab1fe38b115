"""Where endpoints come from when they are not written down as addresses.

Law: whatever the source, an endpoint is the same mapping as in `endpoints`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from meshproxy.config.fields import HeaderName, HeaderText, PositiveDuration
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, quoted
from meshproxy.config.values import parse_endpoint

__all__ = ["Discovery", "Dns"]


def _server(value: str) -> str:
    """Return a name server as `IP:port`."""
    try:
        return parse_endpoint(value).text
    except Unfit:
        host = f"[{value}]" if ":" in value and not value.startswith("[") else value
        try:
            return parse_endpoint(f"{host}:53").text
        except Unfit:
            raise Unfit(f"a name server is an IP address, unlike {quoted(value)}") from None


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[!-~]*)?(\?[!-~]*)?", value):
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
        default=10.0, ge=0, le=100, description="Ask earlier by up to so many percent, at random."
    )


class Discovery(Section):
    """A source of endpoints beside this file."""

    exactly_one: ClassVar[tuple[str, ...]] = ("file", "http")

    file: str | None = Field(
        default=None,
        min_length=1,
        description="A YAML or JSON file with a list of endpoints, written as in `endpoints`, or a "
        "mapping with that under `endpoints`. Replace it by renaming a new one over it. A relative "
        "path begins at this file's directory.",
    )
    http: Annotated[str, AfterValidator(_url)] | None = Field(
        default=None, description="An address that answers with the same as JSON."
    )
    headers: dict[HeaderName, HeaderText] = Field(
        default={}, description="Headers of the request, for `http`."
    )
    interval: PositiveDuration | None = Field(
        default=None, description="How often to look; 1s for `file`, 10s for `http` otherwise."
    )
    timeout: PositiveDuration = Field(
        default=5.0, description="How long an answer may take, for `http`."
    )

    @classmethod
    def faults(cls, given: Any) -> Any:
        """Yield keys that would do nothing."""
        yield from super().faults(given)
        if "file" in given:
            for key in ("headers", "timeout"):
                if key in given:
                    yield Unfit(f"'{key}' does nothing beside 'file'", at=(key,))

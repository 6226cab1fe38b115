"""Active health checks: what is asked of an endpoint, how often, and what counts.

Law: a check never costs more than its `timeout`, and there is one at a time for an endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from meshproxy.config.fields import (
    Authority,
    HeaderName,
    HeaderText,
    Method,
    PathText,
    PositiveDuration,
)
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, quoted

__all__ = ["DnsCheck", "HealthCheck", "HttpCheck", "TcpCheck"]

_RANGE = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?")


def statuses(value: Any) -> Any:
    """Return a range of statuses, `200` or `200-299`, as text. Raises `Unfit`."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Unfit(f"a status or a range such as 200-299 is expected, not {quoted(value)}")
    match = _RANGE.fullmatch(value)
    if match is None:
        raise Unfit(f"a status or a range such as 200-299 is expected, not {quoted(value)}")
    if match[2] is not None and match[2] < match[1]:
        raise Unfit(f"the range {quoted(value)} is upside down", f"{match[2]}-{match[1]}")
    return value


StatusRange = Annotated[str, BeforeValidator(statuses, json_schema_input_type=str | int)]


def _bytes_text(value: str) -> str:
    """Return text for bytes: as UTF-8, or `hex:` and digits."""
    if value.startswith("hex:"):
        try:
            bytes.fromhex(value[4:])
        except ValueError:
            raise Unfit(f"not hexadecimal digits: {quoted(value[4:])}") from None
    return value


BytesText = Annotated[str, AfterValidator(_bytes_text)]


class HttpCheck(Section):
    """A request whose response's status tells."""

    path: PathText = Field(default="/", description="What is asked for.")
    method: Method = Field(default="GET", description="The method.")
    host: Authority | None = Field(
        default=None, description="The Host header; the endpoint's name or address otherwise."
    )
    headers: dict[HeaderName, HeaderText] = Field(default={}, description="More headers.")
    statuses: list[StatusRange] = Field(
        default=["200-299"],
        min_length=1,
        description="Statuses that pass: `200`, `200-399`.",
    )


class TcpCheck(Section):
    """A connection, and what is said on it."""

    send: BytesText | None = Field(
        default=None, description="Text to send (or `hex:` and digits); nothing otherwise."
    )
    expect: BytesText | None = Field(
        default=None,
        description="Text that must come (or `hex:` and digits), somewhere in the first 64 KiB; "
        "to connect is enough otherwise.",
    )


class DnsCheck(Section):
    """A query by UDP."""

    name: str = Field(default=".", max_length=255, description="The name asked for.")
    type: str = Field(
        default="NS", pattern=r"^[A-Z0-9]{1,16}$", description="The type: A, AAAA, SOA, …"
    )
    rcodes: list[Literal["NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL"]] = Field(
        default=["NOERROR", "NXDOMAIN"], min_length=1, description="Response codes that pass."
    )


def _http(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _tcp(value: Any) -> Any:
    return {} if value is True else value


def _dns(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HealthCheck(Section):
    """A question that every endpoint is asked again and again."""

    exactly_one: ClassVar[tuple[str, ...]] = ("http", "tcp", "icmp", "dns", "command")

    http: Annotated[
        HttpCheck | None, BeforeValidator(_http, json_schema_input_type=str | HttpCheck)
    ] = Field(default=None, description="Ask by HTTP: a path, or a mapping.")
    tcp: Annotated[
        TcpCheck | None, BeforeValidator(_tcp, json_schema_input_type=bool | TcpCheck)
    ] = Field(default=None, description="Connect: `true`, or a mapping of what to say and expect.")
    icmp: Literal[True] | None = Field(
        default=None,
        description="Send an ICMP echo request (`true`); the kernel must allow this group to "
        "(net.ipv4.ping_group_range).",
    )
    dns: Annotated[
        DnsCheck | None, BeforeValidator(_dns, json_schema_input_type=str | DnsCheck)
    ] = Field(default=None, description="Ask by DNS: a name, or a mapping.")
    command: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Run a program that must end with 0. `{host}`, `{port}` and `{address}` stand "
        "for the endpoint's.",
    )
    interval: PositiveDuration = Field(default=5.0, description="From one check to the next.")
    unhealthy_interval: PositiveDuration | None = Field(
        default=None, description="The same while the endpoint is unhealthy."
    )
    no_traffic_interval: PositiveDuration | None = Field(
        default=None, description="The same while the cluster gets no traffic."
    )
    jitter: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="Each interval is longer by up to so many percent, at random.",
    )
    timeout: PositiveDuration = Field(default=1.0, description="A check that takes longer fails.")
    unhealthy_threshold: int = Field(
        default=3, ge=1, le=1000, description="Failures in a row that make it unhealthy."
    )
    healthy_threshold: int = Field(
        default=2, ge=1, le=1000, description="Successes in a row that make it healthy again."
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Ask at this port; the endpoint's otherwise."
    )
    closes_breaker: bool = Field(
        default=True, description="A passing check closes the circuit breaker of its endpoint."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what would do nothing."""
        yield from super().faults(given)
        if "icmp" in given and "port" in given:
            yield Unfit("'port' does nothing beside 'icmp', which knows no ports", at=("port",))

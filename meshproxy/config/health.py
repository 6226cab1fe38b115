"""Active health checks: what is asked of an endpoint, how often, and what counts.

Law: a check never costs more than its `timeout`, and there is one at a time for an endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from meshproxy.config.action import RequestName, same_names
from meshproxy.config.fields import (
    Authority,
    HeaderText,
    Method,
    PositiveDuration,
    Truth,
    check_path,
)
from meshproxy.config.filters import CheckPlugin
from meshproxy.config.section import Section, written
from meshproxy.config.unfit import Unfit, closest, quoted

__all__ = ["DnsCheck", "HealthCheck", "HttpCheck", "TcpCheck"]

_RANGE = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?", re.ASCII)
_LOOKED_AT = 65536
"""Bytes of what an endpoint says that `expect` is looked for in."""


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
    """Return text for bytes: as UTF-8, or `hex:` and digits; at least one, and few enough."""
    meant = value.encode("utf-8", "surrogatepass")
    if value.startswith("hex:"):
        try:
            meant = bytes.fromhex(value[4:])
        except ValueError:
            raise Unfit(f"not pairs of hexadecimal digits: {quoted(value[4:])}") from None
    if not 1 <= len(meant) <= _LOOKED_AT:
        raise Unfit(f"this is {len(meant)} bytes long, and must be 1 to {_LOOKED_AT}")
    return value


BytesText = Annotated[str, AfterValidator(_bytes_text)]


def _target(value: str) -> str:
    """Return a path that may have a query (RFC 9112 section 3.2.1)."""
    path, mark, query = value.partition("?")
    check_path(path)
    if not (query.isascii() and query.isprintable() and " " not in query and "#" not in query):
        raise Unfit(f"a query is written percent-encoded, as it is sent: {quoted(query)}")
    return path + mark + query


TargetText = Annotated[str, AfterValidator(_target)]


def _dns_name(value: str) -> str:
    """Return a domain name (RFC 1035 section 2.3.4: 63 octets a label, 255 in all)."""
    labels = value.removesuffix(".").split(".") if value != "." else []
    good = all(re.fullmatch(r"[A-Za-z0-9_*-]{1,63}", label) for label in labels)
    if not good or len(value) > 253:
        raise Unfit(f"not a domain name: {quoted(value)}")
    return value


def _dns_type(value: str) -> str:
    """Return the name of a type of records, in capitals, that dnspython knows."""
    from dns import rdatatype  # only a configuration with such a check pays for it

    try:
        if value == value.upper() and rdatatype.from_text(value):
            return value
    except (ValueError, rdatatype.UnknownRdatatype):
        pass
    raise Unfit(
        f"no type of DNS records: {quoted(value)}",
        closest(value, ("A", "AAAA", "CNAME", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "TXT")),
    )


class HttpCheck(Section):
    """A request whose response's status tells. The path alone may be written."""

    path: TargetText = Field(
        default="/", description="What is asked for: a path, with a query if need be."
    )
    method: Method = Field(default="GET", description="The method.")
    host: Authority | None = Field(
        default=None, description="The Host header; the endpoint's name or address otherwise."
    )
    headers: dict[RequestName, HeaderText] = Field(
        default={}, description="Headers of the request."
    )
    statuses: list[StatusRange] = Field(
        default=["200-299"],
        min_length=1,
        description="Statuses that pass, each `200` or `200-399`.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield headers that are written twice, and a Host header in the wrong place."""
        yield from super().faults(given)
        yield from same_names(given, "headers")
        for name in written(given.get("headers")):
            if name.lower() == "host":
                yield Unfit("the Host header is written as 'host'", at=("headers", name))


class TcpCheck(Section):
    """A connection, and what is said on it."""

    send: BytesText | None = Field(
        default=None, description="Text to send (or `hex:` and digits); nothing otherwise."
    )
    expect: BytesText | None = Field(
        default=None,
        description="Text that must come (or `hex:` and digits), somewhere in the first 64 KiB; "
        "without it, to connect and to send is enough.",
    )


class DnsCheck(Section):
    """A query by UDP. The name alone may be written."""

    name: Annotated[str, AfterValidator(_dns_name)] = Field(
        default=".", description="The name asked for."
    )
    type: Annotated[str, AfterValidator(_dns_type)] = Field(
        default="NS", description="The type of records asked for: A, AAAA, SOA and so on."
    )
    rcodes: list[Literal["NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL"]] = Field(
        default=["NOERROR", "NXDOMAIN"], min_length=1, description="Response codes that pass."
    )


def _argument(value: str) -> str:
    """Return an argument of a program, which cannot hold a NUL (execve(2))."""
    if "\0" in value:
        raise Unfit("no argument of a program can hold the character NUL")
    return value


def _http(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _tcp(value: Any) -> Any:
    return {} if value is True else value


def _dns(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HealthCheck(Section):
    """A question that every endpoint is asked again and again."""

    exactly_one: ClassVar[tuple[str, ...]] = (
        "http",
        "tcp",
        "icmp",
        "dns",
        "command",
        "plugin",
    )

    http: Annotated[
        HttpCheck | None, BeforeValidator(_http, json_schema_input_type=str | HttpCheck)
    ] = Field(default=None, description="Ask by HTTP: a path, or a mapping.")
    tcp: Annotated[
        TcpCheck | None, BeforeValidator(_tcp, json_schema_input_type=bool | TcpCheck)
    ] = Field(default=None, description="Connect: `true`, or a mapping of what to say and expect.")
    icmp: Truth | None = Field(
        default=None,
        description="Send an ICMP echo request (`true`); the kernel must allow it to the "
        "process's group (net.ipv4.ping_group_range).",
    )
    dns: Annotated[
        DnsCheck | None, BeforeValidator(_dns, json_schema_input_type=str | DnsCheck)
    ] = Field(default=None, description="Ask by DNS: a name, or a mapping.")
    command: list[Annotated[str, AfterValidator(_argument)]] | None = Field(
        default=None,
        min_length=1,
        description="Run a program, by its path and arguments; it must end with status 0. "
        "`{host}`, `{port}` and `{address}` stand for the endpoint's, and so do MESHPROXY_HOST, "
        "MESHPROXY_PORT and MESHPROXY_ADDRESS in its environment.",
    )
    plugin: CheckPlugin | None = Field(
        default=None,
        description="Ask as a plugin of the kind `health_check` does: its name, or "
        "`NAME: {options}`.",
    )
    interval: PositiveDuration = Field(default=5.0, description="From one check to the next.")
    unhealthy_interval: PositiveDuration | None = Field(
        default=None,
        description="The same while the endpoint is unhealthy; `interval` otherwise.",
    )
    no_traffic_interval: PositiveDuration | None = Field(
        default=None,
        description="The same while the cluster gets no traffic; `interval` otherwise.",
    )
    jitter: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="Each interval is longer by up to so many percent, by chance.",
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
        if "plugin" in given and "port" in given:
            yield Unfit(
                "'port' does nothing beside 'plugin', which asks where it will", at=("port",)
            )
        program = given.get("command")
        if isinstance(program, list) and program[:1] == [""]:
            yield Unfit("the path of a program is expected, not nothing", at=("command", 0))

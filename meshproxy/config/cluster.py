"""Clusters: where requests and connections go.

Law: a host name among the endpoints comes with `resolve`; nothing is looked up here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from meshproxy.config.balance import HashKeys, Labels, SlowStartItem, Sticky, Subsets
from meshproxy.config.breaker import CircuitBreaker
from meshproxy.config.discovery import Discovery, Dns
from meshproxy.config.fields import Duration, Keepalive, PositiveDuration, TargetAddress
from meshproxy.config.filters import Balance, as_name
from meshproxy.config.health import HealthCheck
from meshproxy.config.limits import EndpointLimits, Limits, Pool, RetryBudget
from meshproxy.config.names import ServerName
from meshproxy.config.section import Section, written
from meshproxy.config.tls import ClusterTlsItem
from meshproxy.config.unfit import Unfit, quoted
from meshproxy.config.values import is_name

__all__ = ["Cluster", "Endpoint", "EndpointCheck"]

_SRV = re.compile(
    r"_[a-z0-9-]{1,63}\._[a-z0-9-]{1,63}(\.[a-z0-9_-]{1,63})+\.?", re.IGNORECASE | re.ASCII
)


def _srv(value: str) -> str:
    """Return the name of SRV records in lower case (RFC 2782: _service._proto.name)."""
    if len(value) > 253 or not _SRV.fullmatch(value):
        raise Unfit(f"a name such as _api._tcp.example.com is expected, not {quoted(value)}")
    return value.lower()


class EndpointCheck(Section):
    """How one endpoint is checked otherwise than its cluster."""

    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Ask at this port of its host, in place of the cluster's or its own.",
    )
    disabled: bool = Field(default=False, description="Never check this one; it counts as healthy.")

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a port that is never asked."""
        yield from super().faults(given)
        if "port" in given and given.get("disabled") is True:
            yield Unfit("'port' does nothing beside 'disabled: true'", at=("port",))


class Endpoint(Section):
    """One server of a cluster; its address alone may be written in place of the mapping."""

    exactly_one: ClassVar[tuple[str, ...]] = ("address", "srv")
    later: ClassVar[frozenset[str]] = frozenset({"metadata"})

    address: TargetAddress | None = Field(
        default=None,
        description="Where it is: `127.0.0.1:9001`, `localhost:9001`, `[::1]:9001`, "
        "`unix:/run/app.sock`; or `host.example:9001`, with the cluster's `resolve`.",
    )
    srv: Annotated[str, AfterValidator(_srv)] | None = Field(
        default=None,
        description="A name of SRV records, such as `_api._tcp.example.com`: each of them is an "
        "endpoint with its own port, weight and priority. It needs `resolve: strict`.",
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Its share, relative to the other endpoints: 1 to 1000.",
    )
    priority: int = Field(
        default=0,
        ge=0,
        le=15,
        description="A backup's is higher than 0: it gets traffic as those before it fail.",
    )
    labels: Labels = Field(default={}, description="Words by which `subset` picks it.")
    zone: str = Field(default="", max_length=128, description="Where it stands, for `zone_aware`.")
    server_name: ServerName | None = Field(
        default=None,
        description="The name that TLS asks for and verifies; without it, the name or address.",
    )
    health_check: EndpointCheck | None = Field(
        default=None, description="How this endpoint is checked otherwise than its cluster."
    )


def _endpoint(value: Any) -> Any:
    return {"address": value} if isinstance(value, (str, int)) else value


EndpointItem = Annotated[
    Endpoint, BeforeValidator(_endpoint, json_schema_input_type=str | Endpoint)
]


class Cluster(Section):
    """A set of endpoints that are alike, and how one of them is chosen."""

    exactly_one: ClassVar[tuple[str, ...]] = ("endpoints", "discovery")
    later: ClassVar[frozenset[str]] = frozenset({"filters", "http2", "protocol"})
    one_or_several: ClassVar[frozenset[str]] = frozenset({"hash_by"})
    elsewhere: ClassVar[Mapping[str, str]] = {
        "circuit_breakers": "'limits'",
        "outlier_detection": "'circuit_breaker'",
    }

    endpoints: list[EndpointItem] = Field(
        default=[],
        min_length=1,
        description="The servers: addresses, or mappings with an address and more.",
    )
    discovery: Discovery | None = Field(
        default=None,
        description="Take the endpoints from a file, from an HTTP service or from a plugin.",
    )
    resolve: Literal["strict", "logical"] | None = Field(
        default=None,
        description="How host names among the endpoints are looked up, again whenever the answer "
        "expires. `strict`: each address is an endpoint. `logical`: a name is one endpoint, at its "
        "first address; open connections stay when that changes.",
    )
    dns: Dns = Field(default=Dns(), description="How names are looked up, with `resolve`.")
    balance: Balance = Field(
        default="round_robin",
        description="How an endpoint is chosen: in turn, by chance, the one of two chosen by "
        "chance that has less to do, or by a hash of `hash_by` (ketama's ring, or Maglev's table). "
        "All of them obey weights. Or by a plugin of the kind `balancer`: its name, or "
        "`NAME: {options}`.",
    )
    hash_by: HashKeys | None = Field(
        default=None,
        description="What ring_hash and maglev go by, unless a route says otherwise; the client's "
        "address without it.",
    )
    sticky: Sticky | None = Field(
        default=None, description="Keep each client at one endpoint, by a cookie."
    )
    subset: Labels = Field(
        default={}, description="Use only endpoints with these labels; a route's `subset` adds."
    )
    subsets: Subsets = Field(
        default=Subsets(), description="What happens when no endpoint has the labels asked for."
    )
    panic_threshold: float = Field(
        default=50.0,
        ge=0,
        le=100,
        description="When fewer of the endpoints, in percent, pass their health checks, the checks "
        "are not believed and all get traffic; 0 to believe them always. Open breakers stay open.",
    )
    overprovisioning: float = Field(
        default=1.4,
        ge=1.0,
        le=100,
        description="Backups get traffic when the healthy share of a priority, times this, falls "
        "below 1.",
    )
    zone_aware: bool = Field(
        default=False,
        description="Prefer endpoints of the proxy's own `zone`, as far as enough are healthy.",
    )
    slow_start: SlowStartItem | None = Field(
        default=None, description="Give a new or returning endpoint its share little by little."
    )
    health_check: HealthCheck | None = Field(
        default=None, description="Ask every endpoint, again and again, whether it is well."
    )
    circuit_breaker: CircuitBreaker | None = Field(
        default=None, description="Send nothing for a while to an endpoint that fails."
    )
    limits: Limits = Field(
        default=Limits(), description="How much may be under way; over it 503 at once."
    )
    retry_budget: RetryBudget | None = Field(
        default=None, description="Retries as a share of what is under way."
    )
    endpoint_limits: EndpointLimits = Field(
        default=EndpointLimits(), description="What one endpoint gets at most."
    )
    endpoint_metrics: bool = Field(
        default=False, description="Metrics for each endpoint too, up to 1000 of them."
    )
    connect_timeout: PositiveDuration = Field(
        default=5.0, description="How long connecting to an endpoint may take."
    )
    tls: ClusterTlsItem | None = Field(
        default=None, description="Speak TLS with the endpoints; `true` is with its defaults."
    )
    timeout: Duration | None = Field(
        default=None,
        description="The `timeout` of routes that lead here and have none; with several clusters "
        "the longest counts.",
    )
    pool: Pool = Field(default=Pool(), description="The HTTP connections kept to each endpoint.")
    proxy_protocol: Literal["v1", "v2"] | None = Field(
        default=None,
        description="Tell the endpoint who the client is, by a PROXY protocol header of this "
        "version at the beginning of each connection.",
    )
    nodelay: bool = Field(
        default=True, description="Send small pieces at once (TCP_NODELAY) on upstream connections."
    )
    keepalive: Keepalive = Field(
        default=False,
        description="Probe silent upstream connections (SO_KEEPALIVE): true for the kernel's "
        "timing, or the silence before the first probe.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield names that nothing looks up, and keys that would do nothing."""
        yield from super().faults(given)
        balance = given.get("balance", "round_robin")
        plain = as_name(balance)
        if "hash_by" in given and plain not in ("", "ring_hash", "maglev"):
            yield Unfit(
                f"'hash_by' does nothing beside 'balance: {plain}'; it needs ring_hash or maglev",
                at=("hash_by",),
            )
        if "slow_start" in given and balance in ("ring_hash", "maglev"):
            yield Unfit(
                f"'slow_start' does nothing beside 'balance: {balance}', where shares are fixed",
                at=("slow_start",),
            )
        breaker = written(given.get("circuit_breaker"))
        if breaker.get("half_open") == "slow_start" and "slow_start" not in given:
            yield Unfit("it needs the cluster's 'slow_start'", at=("circuit_breaker", "half_open"))
        limits = written(given.get("limits"))
        for at in (("retries",), ("high", "retries")):
            where = limits if len(at) == 1 else written(limits.get("high"))
            if "retry_budget" in given and "retries" in where:
                yield Unfit("'retry_budget' takes the place of this", at=("limits", *at))
        yield from _tls_names(given)
        yield from _cookies(given)
        yield from _checks(given)
        yield from _names(given)


def _tls_names(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield names of endpoints that nothing asks for, and endpoints that lack one."""
    tls, endpoints = written(given.get("tls")), given.get("endpoints")
    fixed = "server_name" in tls
    nameless = "tls" in given and not fixed and not tls.get("names") and tls.get("verify", True)
    for number, item in enumerate(endpoints if isinstance(endpoints, list) else ()):
        at: tuple[str | int, ...] = ("endpoints", number)
        address, named = item, "server_name" in written(item)
        if not isinstance(item, str):
            address = written(item).get("address")
        if named and ("tls" not in given or fixed):
            why = "beside that of the cluster's 'tls'" if fixed else "without the cluster's 'tls'"
            yield Unfit(f"'server_name' does nothing {why}", at=(*at, "server_name"))
        elif nameless and not named and _is_local(address):
            message = "no certificate is for a UNIX socket; write 'server_name', here or in 'tls'"
            yield Unfit(message, at=at)


def _is_local(address: object) -> bool:
    text = address if isinstance(address, str) else getattr(address, "text", "")
    return text.startswith("unix:")


def _cookies(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield one cookie that is to hold two things."""
    keys = given.get("hash_by")
    names = [
        _cookie_name(written(key).get("cookie"))
        for key in (keys if isinstance(keys, list) else [keys])
    ]
    name = _cookie_name(written(given.get("sticky")).get("cookie"))
    if name is not None and name in names:
        yield Unfit(
            f"the cookie {quoted(name)} is that of 'hash_by' already, and cannot hold both",
            at=("sticky", "cookie"),
        )


def _cookie_name(cookie: object) -> object:
    return cookie if isinstance(cookie, str) else written(cookie).get("name")


def _checks(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield endpoints that are to be checked otherwise than not at all."""
    endpoints = given.get("endpoints")
    for number, item in enumerate(endpoints if isinstance(endpoints, list) else ()):
        if "health_check" in written(item) and "health_check" not in given:
            yield Unfit(
                "this does nothing without the cluster's 'health_check'",
                at=("endpoints", number, "health_check"),
            )


def _names(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield endpoints that need `resolve`, or a `resolve` that does nothing."""
    endpoints = given.get("endpoints")
    found = False
    for number, item in enumerate(endpoints if isinstance(endpoints, list) else ()):
        fields = {"address": item} if isinstance(item, (str, int)) else written(item)
        named = "srv" in fields or is_name(fields.get("address"))
        found = found or named
        if named and "resolve" not in given:
            at: tuple[str | int, ...] = ("endpoints", number)
            if not isinstance(item, (str, int)):
                at = (*at, "srv" if "srv" in fields else "address")
            yield Unfit("a host name needs 'resolve: strict' or 'resolve: logical'", at=at)
        elif "srv" in fields and given.get("resolve") == "logical":
            yield Unfit("SRV records need 'resolve: strict'", at=("endpoints", number, "srv"))
    for key in ("resolve", "dns"):
        if key in given and not found:
            yield Unfit("no endpoint is a host name, so there is nothing to look up", at=(key,))

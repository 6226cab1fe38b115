"""Clusters: where requests and connections go.

Law: an endpoint is a number or a path, never a name: nothing here is looked up.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from meshproxy.config.fields import EndpointAddress, Keepalive, PositiveDuration
from meshproxy.config.section import Section

__all__ = ["Cluster", "Endpoint", "Pool"]


class Endpoint(Section):
    """One server of a cluster; its address alone may be written in place of the mapping."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"health_check", "labels", "metadata", "name", "priority", "zone"}
    )

    address: EndpointAddress = Field(
        description="Where it is: `127.0.0.1:9001`, `localhost:9001`, `[::1]:9001` or "
        "`unix:/run/app.sock`."
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Its share, relative to the other endpoints: 1 to 1000.",
    )


def _endpoint(value: Any) -> Any:
    return {"address": value} if isinstance(value, (str, int)) else value


EndpointItem = Annotated[
    Endpoint, BeforeValidator(_endpoint, json_schema_input_type=str | Endpoint)
]


class Pool(Section):
    """The HTTP connections that are kept to each endpoint."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"max_lifetime", "max_requests", "protocol", "warm"}
    )

    max_connections: int = Field(
        default=1024, ge=1, le=1_000_000, description="Most connections to one endpoint."
    )
    idle_timeout: PositiveDuration = Field(
        default=60.0, description="How long an unused connection is kept."
    )
    max_pending: int = Field(
        default=1024,
        ge=0,
        le=1_000_000,
        description="Most requests of the whole cluster that wait for a connection; one more is "
        "answered 503 at once.",
    )
    pending_timeout: PositiveDuration = Field(
        default=5.0, description="How long a request waits for a connection before it gets a 503."
    )


class Cluster(Section):
    """A set of endpoints that are alike, and how one of them is chosen."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "circuit_breaker",
            "discovery",
            "filters",
            "hash_by",
            "health_check",
            "http2",
            "limits",
            "outlier_detection",
            "panic_threshold",
            "protocol",
            "resolve",
            "retry",
            "retry_budget",
            "slow_start",
            "subset",
            "subsets",
            "tls",
            "zone_aware",
        }
    )

    @classmethod
    def is_later(cls, key: str, value: object) -> bool:
        """Return whether this is a way of balancing that is not built yet."""
        return key == "balance" and value in ("ring_hash", "maglev")

    endpoints: list[EndpointItem] = Field(
        min_length=1,
        description="The servers: addresses, or mappings with an address and a weight.",
    )
    balance: Literal["round_robin", "random", "least_request"] = Field(
        default="round_robin",
        description="How an endpoint is chosen: in turn, by chance, or the one of two chosen by "
        "chance that has less to do. All of them obey weights.",
    )
    connect_timeout: PositiveDuration = Field(
        default=5.0, description="How long connecting to an endpoint may take."
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

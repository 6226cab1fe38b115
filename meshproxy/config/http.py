"""HTTP on a listener: its settings, its hosts and their routes.

Laws:
- A route does exactly one thing: `to`, `respond` or `redirect`; a key that would have no effect
  beside it is refused rather than ignored.
- First match wins; lists and mappings keep the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from meshproxy.config.access import AccessLogs, same_labels
from meshproxy.config.action import HeaderEdits, Redirect, Respond, Rewrite
from meshproxy.config.balance import HashKeys, Labels
from meshproxy.config.fields import (
    Authority,
    Duration,
    EntryName,
    HeaderText,
    HostPattern,
    PositiveDuration,
    Size,
    Token,
    Upgrade,
    Weights,
)
from meshproxy.config.filters import HttpFilter, InnerHttpFilter, as_key
from meshproxy.config.match import Match
from meshproxy.config.retry import MirrorItem, Retry
from meshproxy.config.section import Section, written
from meshproxy.config.tls import ClientCertificateHeader, ClientCertificateHeaderItem
from meshproxy.config.unfit import Unfit

__all__ = ["Host", "Http", "Route"]

_KIB = 1024
_UPSTREAM_ONLY = (
    "rewrite",
    "host_rewrite",
    "request_headers",
    "timeout",
    "stream_idle_timeout",
    "retry",
    "mirror",
    "hash_by",
    "subset",
    "priority",
    "upgrades",
)
"""Keys of a route that say something of the request that is sent on, so need `to`."""


_FILTERS: Mapping[str, str] = {
    "api_key": as_key("api_key"),
    "basic_auth": as_key("basic_auth"),
    "buffer": as_key("buffer"),
    "cache": as_key("cache"),
    "compress": as_key("compress", bare=True),
    "compression": as_key("compress", bare=True),
    "cors": as_key("cors", bare=True),
    "csrf": as_key("csrf", bare=True),
    "ext_authz": as_key("external_auth"),
    "external_auth": as_key("external_auth"),
    "fault": as_key("fault"),
    "gzip": as_key("compress", bare=True),
    "jwt": as_key("jwt"),
    "quota": as_key("quota"),
    "rate_limit": as_key("rate_limit"),
    "rbac": as_key("access"),
    "tap": as_key("tap"),
}
"""Keys that are filters, and how those are written."""


class Route(Section):
    """What is done with the requests that match."""

    exactly_one: ClassVar[tuple[str, ...]] = ("to", "respond", "redirect")
    references: ClassVar[frozenset[str]] = frozenset({"to"})
    later: ClassVar[frozenset[str]] = frozenset({"max_body"})
    elsewhere: ClassVar[Mapping[str, str]] = _FILTERS
    one_or_several: ClassVar[frozenset[str]] = frozenset({"hash_by"})

    name: EntryName | None = Field(
        default=None, description="What the access log and the metrics call it."
    )
    match: Match = Field(
        default=Match(), description="Which requests it takes; without it, all of them."
    )
    to: Weights | None = Field(
        default=None,
        description="The cluster that requests go to, or several, each with its weight: `api`, or "
        "`{api: 90, api-canary: 10}`.",
    )
    respond: Respond | None = Field(
        default=None, description="Answer here, without asking any endpoint."
    )
    redirect: Redirect | None = Field(default=None, description="Send the client to another place.")
    rewrite: Rewrite | None = Field(
        default=None, description="Change the path of the request that is sent on."
    )
    host_rewrite: Authority | None = Field(
        default=None, description="The Host header of the request that is sent on."
    )
    request_headers: HeaderEdits = Field(
        default=HeaderEdits(), description="Changes to the headers of the request that is sent on."
    )
    response_headers: HeaderEdits = Field(
        default=HeaderEdits(), description="Changes to the headers of the response."
    )
    timeout: Duration = Field(
        default=15.0,
        description="How long the whole exchange may take from the end of the request, or the "
        "client gets a 504; 0 for no limit. An upgraded connection is not limited, and gRPC and "
        "event streams only when this or the cluster's is written.",
    )
    stream_idle_timeout: Duration | None = Field(
        default=None,
        description="How long an exchange may stay silent both ways, in place of the listener's; "
        "0 for no limit. An upgraded connection is limited by this alone.",
    )
    retry: Retry | None = Field(
        default=None,
        description="Send a failed request again, in place of the listener's `retry`; "
        "`{attempts: 0}` switches that off.",
    )
    mirror: MirrorItem | None = Field(
        default=None, description="Send a copy to this cluster too, and ignore what it answers."
    )
    hash_by: HashKeys | None = Field(
        default=None, description="What ring_hash and maglev go by, in place of the cluster's."
    )
    subset: Labels = Field(
        default={}, description="Use only endpoints with these labels, besides the cluster's."
    )
    priority: Literal["default", "high"] = Field(
        default="default", description="Whose `limits` of the cluster count."
    )
    upgrades: list[Upgrade] = Field(
        default=[],
        description="Protocols that a client may upgrade to, such as `websocket`; the connection "
        "becomes a tunnel.",
    )
    filters: list[InnerHttpFilter] = Field(
        default=[],
        description="Filters of these requests, besides those of the host and the listener. One "
        "that has the name of one of those takes its place, `NAME: false` switches it off, others "
        "come behind.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what is wrong between the keys, and keys that would do nothing."""
        yield from super().faults(given)
        if "to" not in given:
            action = next((key for key in ("respond", "redirect") if key in given), None)
            for key in _UPSTREAM_ONLY:
                if action is not None and key in given:
                    yield Unfit(f"'{key}' does nothing beside '{action}'; it needs 'to'", at=(key,))
        match = written(given.get("match"))
        for key in ("rewrite", "redirect"):
            if "prefix" in written(given.get(key)) and not ("prefix" in match or "path" in match):
                yield Unfit(
                    f"{key}.prefix replaces what match.prefix or match.path matched, and there is "
                    "neither",
                    at=(key, "prefix"),
                )


class Host(Section):
    """The routes of one host."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"request_headers", "require_tls", "response_headers"}
    )
    elsewhere: ClassVar[Mapping[str, str]] = _FILTERS

    routes: list[Route] = Field(description="In order; the first that matches is taken.")
    filters: list[InnerHttpFilter] = Field(
        default=[],
        description="Filters of this host's requests, besides those of the listener: as in a "
        "route.",
    )


class Http(Section):
    """HTTP/1.1 on a listener."""

    one_or_several: ClassVar[frozenset[str]] = frozenset({"access_log"})
    later: ClassVar[frozenset[str]] = frozenset(
        {
            "drain_timeout",
            "http2",
            "http3",
            "max_requests_per_connection",
            "max_stream_duration",
            "normalize_path",
            "tracing",
        }
    )
    elsewhere: ClassVar[Mapping[str, str]] = _FILTERS

    routes: list[Route] = Field(
        default=[],
        description="In order; the first that matches is taken. They serve every request whose "
        "host is not among `hosts`.",
    )
    hosts: dict[HostPattern, Host] = Field(
        default={},
        description="Routes by the request's host: a name, `*.suffix` or `*`. An exact name goes "
        "before a suffix, a longer suffix before a shorter one; a port is ignored.",
    )
    filters: list[HttpFilter] = Field(
        default=[],
        description="Filters that every request passes, in this order, and every response in "
        "reverse: a filter's name, or `NAME: {options}`, with `as: LABEL` beside it where one "
        "filter is there twice. `--help-filters` lists them.",
    )
    access_log: AccessLogs = Field(
        default=[],
        description="Write a line for every request, or give it to a plugin; or a list of such.",
    )
    server: HeaderText = Field(
        default="meshproxy",
        description="The `server` header of every response; empty to pass the upstream's.",
    )
    forwarded: bool = Field(
        default=False, description="Add a `forwarded` header (RFC 7239) to what is sent on."
    )
    via: Token | None = Field(
        default=None,
        description="Add `via` (RFC 9110 section 7.6.3) under this name, both ways.",
    )
    trusted_hops: int = Field(
        default=0,
        ge=0,
        le=100,
        description="How many proxies in front of this one are believed in `x-forwarded-for`.",
    )
    x_forwarded_client_cert: ClientCertificateHeaderItem = Field(
        default=ClientCertificateHeader(),
        description="What becomes of a request's `x-forwarded-client-cert`: its `mode`, or a "
        "mapping.",
    )
    request_id: bool = Field(
        default=True, description="Give every request an `x-request-id`, and log it."
    )
    max_header_size: Size = Field(
        default=60 * _KIB,
        description="Most bytes of a request's line and headers together; more is answered 431.",
    )
    max_headers: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Most headers of a request or response; more is answered 431.",
    )
    max_body: Size | None = Field(
        default=None,
        description="Most bytes of a request's body; more is answered 413. Without it, no limit.",
    )
    headers_timeout: PositiveDuration = Field(
        default=15.0, description="How long a client may take to send a request's headers."
    )
    request_timeout: Duration = Field(
        default=0.0,
        description="How long a client may take to send a whole request, its body included, or it "
        "gets a 408; 0 for no limit.",
    )
    stream_idle_timeout: Duration = Field(
        default=300.0,
        description="How long an exchange may stay silent both ways; 0 for no limit. gRPC, event "
        "streams and upgraded connections are limited only when this or a route's is written.",
    )
    max_connection_age: Duration = Field(
        default=0.0,
        description="A client's connection is closed after the exchange during which it gets this "
        "old; 0 for no limit.",
    )
    retry: Retry | None = Field(
        default=None, description="Send failed requests again, where a route does not say itself."
    )
    idle_timeout: Duration = Field(
        default=3600.0,
        description="How long a client's connection is kept with no request; 0 for no limit.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield routes that can never be used, hosts that differ by case alone, and so on."""
        yield from super().faults(given)
        yield from same_labels(given)
        if given.get("routes") and "*" in written(given.get("hosts")):
            yield Unfit(
                "hosts['*'] takes every request that no other host does, so these routes would "
                "never be used; keep one of the two",
                at=("routes",),
            )
        seen: dict[str, str] = {}
        for pattern in written(given.get("hosts")):
            earlier = seen.setdefault(pattern.lower(), pattern)
            if earlier != pattern:
                yield Unfit(
                    f"this is the same host as '{earlier}'; case does not matter",
                    at=("hosts", pattern),
                )

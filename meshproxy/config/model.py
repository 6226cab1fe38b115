"""The configuration as a whole, its admin and its listeners.

Law: a `Configuration` that exists is usable as far as its text can tell; what only the machine
can tell (a busy port, a missing directory) is found when it is bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from meshproxy.config.access import AccessLogs, same_labels
from meshproxy.config.balance import Labels
from meshproxy.config.cluster import Cluster
from meshproxy.config.fields import (
    Duration,
    EntryName,
    Keepalive,
    ListenAddress,
    PositiveDuration,
    Weights,
)
from meshproxy.config.filters import (
    ConnectionFilter,
    ListenerFilter,
    Written,
    as_key,
    serving,
)
from meshproxy.config.http import Http
from meshproxy.config.overload import Overload
from meshproxy.config.section import Section, written
from meshproxy.config.timeouts import Timeouts
from meshproxy.config.tls import ListenerTls, TcpRoute
from meshproxy.config.unfit import Unfit, quoted
from meshproxy.config.values import parse_listen

__all__ = ["Admin", "Configuration", "Listener", "Tcp"]

_ENDS_TLS = re.compile(r"(?:haproxy:)?(ssl|tls|txsni|le|lets|autossl)(?=:)")
"""Endpoint descriptions, Twisted's own and well-known ones, behind which no TLS is left."""


class Admin(Section):
    """The admin API: health, metrics, and what is running."""

    later: ClassVar[frozenset[str]] = frozenset({"auth", "dashboard", "tls", "token"})

    listen: ListenAddress = Field(description="Where it listens.")
    allow_remote: bool = Field(
        default=False,
        description="Let it listen where other machines can reach it. It has no password.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield an address that others can reach without leave."""
        yield from super().faults(given)
        try:
            address = parse_listen(given.get("listen"))
        except Unfit:
            return  # the field itself reports it
        if not address.is_local and given.get("allow_remote") is not True:
            why = (
                "nobody can tell whether an endpoint description is"
                if address.family == 0
                else f"{address} is not"
            )
            yield Unfit(
                f"the admin must be on a loopback address, and {why}; write 127.0.0.1, or "
                "'allow_remote: true' if others may control it",
                at=("listen",),
            )


class Tcp(Section):
    """TCP on a listener: every connection goes to an endpoint."""

    later: ClassVar[frozenset[str]] = frozenset({"mirror", "retry"})
    elsewhere: ClassVar[Mapping[str, str]] = {
        "bandwidth": as_key("bandwidth"),
        "connection_limit": as_key("connection_limit"),
        "connection_rate": as_key("connection_rate"),
        "fault": as_key("fault"),
        "rate_limit": as_key("connection_rate"),
        "rbac": as_key("access"),
        "tap": as_key("tap"),
    }

    references: ClassVar[frozenset[str]] = frozenset({"to"})
    one_or_several: ClassVar[frozenset[str]] = frozenset({"access_log"})

    to: Weights | None = Field(
        default=None,
        description="The cluster that connections go to, or several, each with its weight. Left "
        "out where the last of the filters serves connections itself.",
    )
    routes: list[TcpRoute] = Field(
        default=[],
        min_length=1,
        description="In place of `to`: by what a client's ClientHello says, which is read and not "
        "taken. The first that matches counts; without any, the connection is reset.",
    )
    hello_timeout: PositiveDuration = Field(
        default=15.0,
        description="How long a ClientHello may take to come, with `routes`. Where `tls` ends the "
        "clients' TLS its `handshake_timeout` counts.",
    )
    filters: list[ConnectionFilter] = Field(
        default=[],
        description="Filters that every connection passes, in this order: a filter's name, or "
        "`NAME: {options}`, with `as: LABEL` beside it where one filter is there twice.",
    )
    idle_timeout: Duration = Field(
        default=3600.0,
        description="How long a connection may stay silent both ways; 0 for no limit.",
    )
    max_duration: Duration = Field(
        default=0.0, description="How long a connection may last at all; 0 for no limit."
    )
    max_connect_attempts: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Endpoints that are tried, each another if there is one, before the client is "
        "given up.",
    )
    subset: Labels = Field(
        default={}, description="Use only endpoints with these labels, besides the cluster's."
    )
    access_log: AccessLogs = Field(
        default=[],
        description="Write a line for every connection, or give it to a plugin; or a list of such.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what is wrong between the filters and the cluster, and between access logs."""
        yield from super().faults(given)
        yield from same_labels(given)
        items = given.get("filters")
        server = serving(items)
        if server is None:
            refused = isinstance(items, list) and any(
                isinstance(item, Written) and item.factory is None for item in items
            )
            if "to" not in given and "routes" not in given and not refused:
                yield Unfit("'to' is missing", at=("to",))
            for key in ("to", "subset") if "routes" in given else ():
                if key in given:
                    yield Unfit(
                        f"'{key}' does nothing beside 'routes'; each of them has its own, and one "
                        "without 'match', as the last, takes the rest",
                        at=(key,),
                    )
            if "hello_timeout" in given and "routes" not in given:
                yield Unfit("'hello_timeout' does nothing without 'routes'", at=("hello_timeout",))
            return
        index, label = server
        if isinstance(items, list) and index != len(items) - 1:
            yield Unfit(
                f"'{label}' serves connections itself, so nothing can come behind it",
                at=("filters", index + 1),
            )
        for key in ("to", "routes", "hello_timeout", "max_connect_attempts", "subset"):
            if key in given:
                yield Unfit(
                    f"'{key}' does nothing beside the filter '{label}', which serves connections "
                    "itself",
                    at=(key,),
                )


class Listener(Section):
    """An address, and what is spoken there."""

    exactly_one: ClassVar[tuple[str, ...]] = ("http", "tcp")
    later: ClassVar[frozenset[str]] = frozenset({"dns", "transparent", "udp"})
    elsewhere: ClassVar[Mapping[str, str]] = {
        "connection_limit": ("a filter, written 'listener_filters: [connection_limit: {...}]',"),
        "filters": "'filters' of its http or tcp, or 'listener_filters'",
        "rate_limit": (
            "a filter: 'rate_limit' of http, 'connection_rate' of tcp and listener_filters,"
        ),
    }

    listen: ListenAddress = Field(
        description="`127.0.0.1:80`, `:80` (every IPv4 address), `[::1]:80`, `unix:/run/x.sock`, "
        "or a Twisted endpoint description such as `systemd:domain=INET:index=0`. Port 0 lets "
        "the system choose."
    )
    listener_filters: list[ListenerFilter] = Field(
        default=[],
        description="Filters that judge every connection as it is accepted, before its first "
        "byte, whatever is spoken: a filter's name, or `NAME: {options}`.",
    )
    tls: ListenerTls | None = Field(default=None, description="End the clients' TLS here.")
    http: Http | None = Field(default=None, description="Speak HTTP/1.1.")
    tcp: Tcp | None = Field(default=None, description="Pass TCP connections through.")
    max_connections: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Most connections at a time; one more is closed at once.",
    )
    backlog: int = Field(
        default=1024,
        ge=1,
        le=65535,
        description="Connections that the kernel queues before they are accepted.",
    )
    reuse_port: bool = Field(
        default=False, description="Let other processes listen there too (SO_REUSEPORT)."
    )
    nodelay: bool = Field(
        default=True, description="Send small pieces at once (TCP_NODELAY) on client connections."
    )
    keepalive: Keepalive = Field(
        default=False,
        description="Probe silent client connections (SO_KEEPALIVE): true for the kernel's "
        "timing, or the silence before the first probe.",
    )
    proxy_protocol: bool = Field(
        default=False,
        description="Every connection must begin with a PROXY protocol header, version 1 or 2, "
        "and its client is who that says.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what is wrong between the keys, and keys that would do nothing."""
        yield from super().faults(given)
        yield from _tls_faults(given)
        try:
            address = parse_listen(given.get("listen"))
        except Unfit:
            return  # the field itself reports it
        if address.description:
            if given.get("listener_filters"):
                yield Unfit(
                    "'listener_filters' cannot see what an endpoint description accepts; write a "
                    "plain address",
                    at=("listener_filters",),
                )
            for key in ("backlog", "reuse_port"):
                if key in given:
                    yield Unfit(
                        f"'{key}' does nothing beside an endpoint description, which says it "
                        "itself",
                        at=(key,),
                    )
        elif address.path:
            for key in ("reuse_port", "nodelay", "keepalive"):
                if given.get(key):
                    yield Unfit(f"'{key}' does nothing on a UNIX socket", at=(key,))


def _tls_faults(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield what does not go with what is spoken behind TLS, or with where it is accepted."""
    if "tls" not in given:
        return
    tls, tcp = written(given["tls"]), written(given.get("tcp"))
    alpn = tls.get("alpn")
    if "http" in given and isinstance(alpn, list) and "h2" in alpn:
        yield Unfit(
            "HTTP/2 is not there yet; write 'alpn: [http/1.1]', or leave it out",
            at=("tls", "alpn", alpn.index("h2")),
        )
    if tls.get("on_demand") is True:
        yield from _on_demand(given, tcp)
    elif "hello_timeout" in tcp and tcp.get("routes"):
        yield Unfit(
            "'hello_timeout' does nothing beside 'tls', whose 'handshake_timeout' limits that too",
            at=("tcp", "hello_timeout"),
        )
    if not tls.get("pass_through"):
        pass
    elif serving(tcp.get("filters")) is not None:
        yield Unfit(
            "a filter serves the connections of this listener, so none can be passed through",
            at=("tls", "pass_through"),
        )
    try:
        address = parse_listen(given.get("listen"))
    except Unfit:
        return  # the field itself reports it
    ended = _ENDS_TLS.match(address.description)
    if ended:
        yield Unfit(
            f"the endpoint description '{ended[1]}:' ends TLS itself; with 'tls' write a plain "
            "address",
            at=("tls",),
        )
    elif address.description and tls.get("pass_through"):
        yield Unfit(
            "'pass_through' cannot see what an endpoint description accepts; write a plain address",
            at=("tls", "pass_through"),
        )


def _on_demand(given: Mapping[str, Any], tcp: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield what leaves nobody who could start TLS, or goes by what has not come then."""
    at = ("tls", "on_demand")
    if "http" in given:
        yield Unfit("on an http listener nothing starts TLS", at=at)
    elif "tcp" in given and not tcp.get("filters"):
        yield Unfit("no filter is there that could start TLS", at=at)
    elif tcp.get("routes"):
        yield Unfit("'routes' go by a ClientHello, and with 'on_demand' none comes at first", at=at)


def _path_on_disk(value: str) -> str:
    if not value or "\0" in value:
        raise Unfit("the path of a directory is needed")
    return value


PathOnDisk = Annotated[str, AfterValidator(_path_on_disk)]


def _count(value: Any) -> Any:
    """Return `value` unless it is a truth: to Python, and so to a Literal, True is 1."""
    if isinstance(value, bool):
        raise Unfit(f"1 is expected, not {quoted(value)}")
    return value


class Configuration(Section):
    """A whole configuration file."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "control",
            "discovery",
            "drain_timeout",
            "limits",
            "logging",
            "quotas",
            "resources",
            "runtime",
            "secrets",
            "stats",
            "tls",
            "tracing",
            "xds",
        }
    )

    elsewhere: ClassVar[Mapping[str, str]] = {
        "filters": "'filters' of a listener's http or tcp, or 'listener_filters'",
    }

    @classmethod
    def is_later(cls, key: str, value: object) -> bool:
        """Return whether this asks for several processes."""
        several = isinstance(value, int) and not isinstance(value, bool) and value > 1
        return key == "workers" and (several or value == "auto")

    plugins: list[PathOnDisk] = Field(
        default=[],
        description="Directories with filters of your own, relative to this file: each a folder "
        "of plugin modules, or one that holds `twisted/plugins`.",
    )
    zone: str = Field(
        default="", max_length=128, description="Where this proxy stands, for `zone_aware`."
    )
    timeouts: Timeouts = Field(
        default=Timeouts(), description="Time limits wherever no other is written."
    )
    workers: Annotated[Literal[1], BeforeValidator(_count)] = Field(
        default=1, description="How many processes do the work; 1 is this process itself."
    )
    admin: Admin | None = Field(
        default=None, description="The admin API; without it there is none."
    )
    overload: Overload | None = Field(
        default=None, description="What is done when the proxy has more to do than it can."
    )
    listeners: dict[EntryName, Listener] = Field(
        min_length=1, description="Where clients connect, by name."
    )
    clusters: dict[EntryName, Cluster] = Field(
        default={}, description="Where requests and connections go, by name."
    )

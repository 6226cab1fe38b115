"""Time limits for the whole configuration, and how they reach where nothing nearer is written.

Law: what is written nearer to the request wins: route, cluster, listener, then `timeouts`; a
limit that was set for everybody never cuts a WebSocket, gRPC or event-stream exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from meshproxy.config.fields import Duration, PositiveDuration
from meshproxy.config.section import Section

if TYPE_CHECKING:
    from meshproxy.config.model import Configuration

__all__ = ["Timeouts", "spread_timeouts"]


class Timeouts(Section):
    """Time limits that hold wherever no other is written."""

    connect: PositiveDuration | None = Field(
        default=None, description="The `connect_timeout` of clusters."
    )
    exchange: Duration | None = Field(
        default=None,
        description="The `timeout` of routes; gRPC and event streams are not cut by it.",
    )
    per_try: Duration | None = Field(
        default=None,
        description="The `per_try_timeout` of every `retry`; gRPC and event streams are not cut by "
        "it.",
    )
    headers: PositiveDuration | None = Field(
        default=None, description="The `headers_timeout` of HTTP listeners."
    )
    request: Duration | None = Field(
        default=None, description="The `request_timeout` of HTTP listeners."
    )
    stream_idle: Duration | None = Field(
        default=None,
        description="The `stream_idle_timeout` of HTTP listeners; gRPC, event streams and "
        "upgraded connections are not cut by it.",
    )
    connection_idle: Duration | None = Field(
        default=None, description="The `idle_timeout` of listeners, HTTP and TCP."
    )
    upstream_idle: PositiveDuration | None = Field(
        default=None, description="The `pool.idle_timeout` of clusters."
    )
    max_connection_age: Duration | None = Field(
        default=None,
        description="The `max_connection_age` of HTTP listeners and `pool.max_lifetime` of "
        "clusters.",
    )


def _filled(section: Any, values: dict[str, Any]) -> Any:
    """Return `section` with `values` where nothing was written; what counts as written stays."""
    wanted = {
        key: value
        for key, value in values.items()
        if value is not None and key not in section.model_fields_set
    }
    if not wanted:
        return section
    copy = section.model_copy()
    copy.__dict__.update(wanted)
    return copy


def spread_timeouts(configuration: Configuration) -> Configuration:
    """Return `configuration` with its `timeouts` put wherever no other limit is written.

    `model_fields_set` of a section tells still what was written there.
    """
    limits = configuration.timeouts
    listeners = {}
    for name, listener in configuration.listeners.items():
        changed: dict[str, Any] = {}
        if listener.http is not None:
            changed["http"] = _http(listener.http, limits)
        if listener.tcp is not None:
            changed["tcp"] = _filled(listener.tcp, {"idle_timeout": limits.connection_idle})
        copy = listener.model_copy()
        copy.__dict__.update(changed)
        listeners[name] = copy
    clusters = {}
    for name, cluster in configuration.clusters.items():
        copy = _filled(cluster, {"connect_timeout": limits.connect}).model_copy()
        copy.__dict__["pool"] = _filled(
            cluster.pool,
            {"idle_timeout": limits.upstream_idle, "max_lifetime": limits.max_connection_age},
        )
        clusters[name] = copy
    whole = configuration.model_copy()
    whole.__dict__.update(listeners=listeners, clusters=clusters)
    return whole


def _http(http: Any, limits: Timeouts) -> Any:
    copy = _filled(
        http,
        {
            "headers_timeout": limits.headers,
            "request_timeout": limits.request,
            "stream_idle_timeout": limits.stream_idle,
            "idle_timeout": limits.connection_idle,
            "max_connection_age": limits.max_connection_age,
        },
    ).model_copy()

    def retried(section: Any) -> Any:
        if section.retry is not None:
            retry = _filled(section.retry, {"per_try_timeout": limits.per_try})
            section.__dict__["retry"] = retry
        return section

    def routes(held: list[Any]) -> list[Any]:
        filled = (_filled(route, {"timeout": limits.exchange}) for route in held)
        return [retried(route.model_copy()) for route in filled]

    hosts = {}
    for name, host in http.hosts.items():
        hosts[name] = host.model_copy()
        hosts[name].__dict__["routes"] = routes(host.routes)
    copy.__dict__.update(routes=routes(http.routes), hosts=hosts)
    return retried(copy)

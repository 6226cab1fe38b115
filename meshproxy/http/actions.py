"""
What a route does: answers by itself, redirects, or prepares the request for its cluster.

The law: configuration is compiled here into functions over an exchange; a route that changes
nothing has None, not an empty function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meshproxy.http.affinity import compile_affinity
from meshproxy.http.headers import Field, Headers, make_field
from meshproxy.http.mirror import Mirror
from meshproxy.http.retry import RetryPolicy
from meshproxy.http.router import Route
from meshproxy.upstream.cluster import LATENCY_BOUNDS, Cluster, weighted_pick

if TYPE_CHECKING:
    from meshproxy.config import HeaderEdits, Redirect, Respond, Rewrite
    from meshproxy.config import Retry as RetryConfig
    from meshproxy.config import Route as RouteConfig
    from meshproxy.http.exchange import Exchange
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.registry import Registry
    from meshproxy.upstream.group import Group

Act = Callable[["Exchange"], None]
_DEFAULT_PORTS = {"http": 80, "https": 443}


def compile_edits(edits: HeaderEdits) -> Callable[[Headers], None] | None:
    """Header edits as a function: remove first, then set, then add."""
    remove = [name.lower().encode() for name in edits.remove]
    put: list[Field] = [make_field(n.encode(), v.encode()) for n, v in edits.set.items()]
    add: list[Field] = [make_field(n.encode(), v.encode()) for n, v in edits.add.items()]
    if not (remove or put or add):
        return None

    def edit(headers: Headers) -> None:
        for name in remove:
            headers.drop(name)
        for field in put:
            headers.set_field(field)
        headers.fields += add

    return edit


def _compile_rewrite(rewrite: Rewrite, matched: int) -> Act:
    """``matched`` is the length of the route's path or prefix."""
    if rewrite.prefix is not None:
        prefix = rewrite.prefix.encode() or b"/"
        slashed = prefix.endswith(b"/")

        def act(exchange: Exchange) -> None:
            rest = exchange.target[matched:]
            # "/" in place of "/api" must not make "//x" of "/api/x".
            exchange.upstream_path = prefix + (
                rest[1:] if slashed and rest.startswith(b"/") else rest
            )

    elif rewrite.path is not None:
        path = rewrite.path.encode()

        def act(exchange: Exchange) -> None:
            _, mark, query = exchange.target.partition(b"?")
            exchange.upstream_path = path + mark + query

    else:
        substitute = re.compile((rewrite.regex or "").encode()).sub
        text = (rewrite.substitution or "").encode()

        def act(exchange: Exchange) -> None:
            path, mark, query = exchange.target.partition(b"?")
            changed = substitute(text, path)
            # Groups hold what the client sent, already checked; a path begins with a slash.
            if changed[:1] != b"/":
                changed = b"/" + changed
            exchange.upstream_path = changed + mark + query

    return act


def _compile_prepare(config: RouteConfig) -> Act | None:
    steps: list[Act] = []
    match = config.match
    if config.rewrite is not None:
        matched = match.prefix if match.prefix is not None else (match.path or "")
        steps.append(_compile_rewrite(config.rewrite, len(matched.encode())))
    if config.host_rewrite is not None:
        host = config.host_rewrite.encode()

        def rewrite_host(exchange: Exchange) -> None:
            exchange.upstream_authority = host

        steps.append(rewrite_host)
    edit = compile_edits(config.request_headers)
    if edit is not None:

        def edit_request(exchange: Exchange) -> None:
            edit(exchange.request_headers)

        steps.append(edit_request)
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]

    def prepare(exchange: Exchange) -> None:
        for step in steps:
            step(exchange)

    return prepare


def _compile_respond(config: Respond) -> Act:
    body = config.body.encode()
    status = config.status
    fields = [make_field(n.encode(), v.encode()) for n, v in config.headers.items()]
    bodiless = status in (204, 304)
    if not bodiless:
        fields.append(make_field(b"content-length", b"%d" % len(body)))
        if body and not any(field[0] == b"content-type" for field in fields):
            fields.append(make_field(b"content-type", b"text/plain"))
    else:
        body = b""

    def act(exchange: Exchange) -> None:
        exchange.details = b"direct_response"
        exchange.answer(status, Headers(fields), body)

    return act


def _compile_redirect(config: Redirect, matched: int) -> Act:
    scheme = "https" if config.https else config.scheme
    host = config.host.encode() if config.host is not None else None
    empty = make_field(b"content-length", b"0")

    def act(exchange: Exchange) -> None:
        to_scheme = scheme or exchange.scheme.decode()
        authority = exchange.authority or exchange.local  # HTTP/1.0 may name none
        if host is not None:
            authority = host
        elif scheme is not None or config.port is not None:
            # Another scheme or port: the client's port would be the wrong one.
            authority = re.sub(rb":[0-9]*\Z", b"", authority)
        if config.port is not None and config.port != _DEFAULT_PORTS.get(to_scheme):
            authority = b"%b:%d" % (authority, config.port)
        path, mark, query = exchange.target.partition(b"?")
        if config.path is not None:
            path = config.path.encode()
        elif config.prefix is not None:
            rest = path[matched:]
            prefix = config.prefix.encode()
            path = prefix + (rest[1:] if prefix.endswith(b"/") and rest[:1] == b"/" else rest)
        if config.strip_query:
            mark = query = b""
        location = b"%b://%b%b%b%b" % (to_scheme.encode(), authority, path, mark, query)
        exchange.details = b"direct_response"
        headers = Headers((make_field(b"location", location), empty))
        exchange.answer(config.status, headers, b"")

    return act


def _compile_upstream(
    route: Route,
    config: RouteConfig,
    groups: list[Group],
    clusters: Mapping[str, Cluster],
    reactor: Any,
    wheel: TimerWheel,
    default_retry: RetryConfig | None,
) -> None:
    """Time limits, retries, mirroring and affinity: what a route to clusters has besides."""
    route.timeout = config.timeout
    route.strict_timeout = "timeout" in config.model_fields_set
    held = [group.cluster.config.timeout for group in groups]
    if not route.strict_timeout and any(timeout is not None for timeout in held):
        # One limit for the route: the longest of its clusters' (0 is none at all).
        limits = [config.timeout if timeout is None else timeout for timeout in held]
        route.timeout = 0.0 if 0.0 in limits else max(limits)
        route.strict_timeout = True
    route.stream_idle = config.stream_idle_timeout
    retry = config.retry or default_retry
    if retry is not None and (retry.attempts or retry.per_try_timeout):
        route.retry = RetryPolicy(retry, reactor.callLater)
        route.per_try = route.retry.per_try
        route.keep = max(route.keep, route.retry.max_body)
    if config.mirror is not None:
        copies = clusters[config.mirror.to].group()
        route.mirror = Mirror(config.mirror, copies, wheel, route.timeout)
        route.keep = max(route.keep, route.mirror.max_body)
    affinity = compile_affinity(groups, config.hash_by)
    if affinity is not None:
        route.choose = affinity.choose
        route.number_of = affinity.number_of
        if affinity.marks:
            route.mark = affinity.mark


def compile_route(
    config: RouteConfig,
    number: int,
    listener: str,
    host: str,
    clusters: Mapping[str, Cluster],
    registry: Registry,
    reactor: Any,
    wheel: TimerWheel,
    default_retry: RetryConfig | None,
) -> Route:
    """
    The route of its configuration, with its statistics named in ``registry``.

    ``default_retry`` is the listener's.
    """
    match = config.match
    name = config.name or f"{host + '/' if host else ''}{number}"
    route = Route(name, match)
    matched = len((match.prefix if match.prefix is not None else match.path or "").encode())
    if config.respond is not None:
        route.act = _compile_respond(config.respond)
    elif config.redirect is not None:
        route.act = _compile_redirect(config.redirect, matched)
    else:
        to = config.to or {}
        groups = [clusters[name].group(config.subset, config.priority) for name in to]
        if len(to) == 1:
            route.group = groups[0]
        else:
            route.pick_group = weighted_pick(groups, list(to.values()))
        route.prepare = _compile_prepare(config)
        _compile_upstream(route, config, groups, clusters, reactor, wheel, default_retry)
    route.edit_response = compile_edits(config.response_headers)
    route.upgrades = frozenset(token.lower().encode() for token in config.upgrades)
    slots = [
        registry.counter(
            "meshproxy_route_responses_total",
            "Responses by class of status",
            {"listener": listener, "route": name, "class": f"{status}xx"},
        )
        for status in range(1, 6)
    ]
    # Indexed by the class of a status; nothing is ever counted at 0.
    route.responses = [slots[0], *slots]
    labels = {"listener": listener, "route": name}
    route.active = registry.gauge("meshproxy_route_requests_active", "Requests in flight", labels)
    duration = registry.histogram(
        "meshproxy_route_request_duration_seconds",
        "From the request's head parsed to the response's end",
        LATENCY_BOUNDS,
        labels,
    )
    route.duration_base = duration.base
    route.duration_sum = duration.sum_slot
    return route

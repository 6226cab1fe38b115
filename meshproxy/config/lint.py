"""What is allowed and probably not meant.

Laws:
- A warning never stops anything, and is only looked for in a configuration without errors.
- Each warning is a trap that someone falls into, and says what happens, not only what is odd.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshproxy.config.cluster import Cluster
from meshproxy.config.examine import locate
from meshproxy.config.http import Http, Route
from meshproxy.config.model import Configuration, Listener
from meshproxy.config.place import Path, render
from meshproxy.config.reader import Node
from meshproxy.config.shadow import shadowed
from meshproxy.config.tls_traps import (
    cluster_tls_traps,
    listener_tls_traps,
    request_tls_traps,
    tcp_route_traps,
)
from meshproxy.config.traps import cluster_traps, route_traps, subset_traps, zone_traps
from meshproxy.config.values import format_duration
from meshproxy.errors import Problem

__all__ = ["lint"]

_Doubt = tuple[Path, str]


def lint(configuration: Configuration, root: Node, filename: str) -> tuple[Problem, ...]:
    """Return the warnings about a valid configuration, in the order of its text."""
    warnings = []
    for path, message in _doubts(configuration):
        # What a whole entry is about is shown at its name, a setting at its value.
        whole = path[:-1] == ("clusters",)
        line, column, _ = locate(root, path, key=whole)
        warnings.append(Problem("warning", filename, line, column, render(path), message))
    return tuple(
        sorted(dict.fromkeys(warnings), key=lambda problem: (problem.line, problem.column))
    )


def _doubts(configuration: Configuration) -> Iterator[_Doubt]:
    yield from _admin(configuration)
    yield from zone_traps(configuration)
    by_http: set[str] = set()
    by_tcp: set[str] = set()
    for name, listener in configuration.listeners.items():
        path: Path = ("listeners", name)
        if listener.http is not None:
            routes = [route for _, route in _routes(listener.http)]
            used = {cluster for route in routes for cluster in route.to or ()}
            by_http |= used | {route.mirror.to for route in routes if route.mirror is not None}
            yield from _http(configuration, listener.http, (*path, "http"))
            yield from request_tls_traps(listener, listener.http, (*path, "http"))
        else:
            used = set()
        passed = _passed(listener)
        by_tcp |= passed
        used |= passed
        yield from _tcp(configuration, listener, path)
        yield from listener_tls_traps(configuration, listener, path)
        yield from _loops(configuration, name, listener, used)
    for name, cluster in configuration.clusters.items():
        yield from _cluster(("clusters", name), cluster, name in by_http, name in by_tcp)


def _passed(listener: Listener) -> set[str]:
    """Return the clusters that a listener's connections go to as they are."""
    found: set[str] = set()
    if listener.tls is not None:
        found |= {name for passed in listener.tls.pass_through for name in passed.to}
    if listener.tcp is not None:
        found |= {*(listener.tcp.to or ())}
        found |= {name for route in listener.tcp.routes for name in route.to}
    return found


def _admin(configuration: Configuration) -> Iterator[_Doubt]:
    admin = configuration.admin
    if admin is not None and admin.allow_remote and not admin.listen.is_local:
        message = f"the admin has no password, and anyone who can reach {admin.listen} can use it"
        yield ("admin", "listen"), message


def _routes(http: Http) -> Iterator[tuple[Path, Route]]:
    """Yield every route and where it is, from the mapping `http`."""
    for number, route in enumerate(http.routes):
        yield ("routes", number), route
    for host, inner in http.hosts.items():
        for number, route in enumerate(inner.routes):
            yield ("hosts", host, "routes", number), route


def _http(configuration: Configuration, http: Http, path: Path) -> Iterator[_Doubt]:
    if not http.routes and not http.hosts:
        yield path, "there are neither routes nor hosts, so every request gets a 404"
    tables: list[tuple[Path, list[Route]]] = [((*path, "routes"), http.routes)]
    for host, inner in http.hosts.items():
        tables.append(((*path, "hosts", host, "routes"), inner.routes))
        if not inner.routes:
            yield tables[-1][0], "there are no routes, so every request for this host gets a 404"
    for at, routes in tables:
        for number, earlier in shadowed(routes).items():
            other = routes[earlier].name
            named = f"'{other}' " if other else ""
            place = f"{named}{render((*at, earlier))}"
            yield (*at, number), f"this route is never reached: {place} takes all that it would"
    for at, route in _routes(http):
        yield from _timeouts(configuration, http, route, (*path, *at))
        yield from route_traps(configuration, http, route, (*path, *at))


def _timeouts(
    configuration: Configuration, http: Http, route: Route, path: Path
) -> Iterator[_Doubt]:
    if "timeout" not in route.model_fields_set or route.to is None:
        return
    timeout, idle = route.timeout, http.stream_idle_timeout
    at = (*path, "timeout")
    if timeout == 0 and idle == 0:
        yield at, "without this and stream_idle_timeout a silent upstream keeps a client for ever"
    elif 0 < idle < timeout:
        silence = format_duration(idle)
        yield at, f"stream_idle_timeout gives a silent upstream up before this, after {silence}"
    for name in route.to:
        cluster = configuration.clusters[name]
        explicit = "connect_timeout" in cluster.model_fields_set
        if explicit and 0 < timeout < cluster.connect_timeout:
            connecting = format_duration(cluster.connect_timeout)
            yield at, f"this cuts short the {connecting} that connecting to '{name}' may take"


def _tcp(configuration: Configuration, listener: Listener, path: Path) -> Iterator[_Doubt]:
    tcp = listener.tcp
    if tcp is not None and tcp.to is not None:
        yield from subset_traps(configuration, tcp.to, tcp.subset, (*path, "tcp"))
    yield from tcp_route_traps(configuration, listener, path)
    endless = tcp is not None and tcp.idle_timeout == 0
    if endless and listener.keepalive is False and not listener.listen.path:
        at = (*path, "tcp", "idle_timeout")
        yield at, "without this and keepalive a client that vanished is never noticed"


def _loops(
    configuration: Configuration, name: str, listener: Listener, used: set[str]
) -> Iterator[_Doubt]:
    for cluster in sorted(used):
        for number, endpoint in enumerate(configuration.clusters[cluster].endpoints):
            address = endpoint.address
            if address is not None and address.text == listener.listen.text:
                yield (
                    ("clusters", cluster, "endpoints", number),
                    f"this is listener '{name}' itself, which sends to this cluster: a loop",
                )


def _cluster(path: Path, cluster: Cluster, by_http: bool, by_tcp: bool) -> Iterator[_Doubt]:
    if not by_http and not by_tcp:
        yield path, "nothing sends to this cluster"
    elif not by_http and "pool" in cluster.model_fields_set:
        yield (*path, "pool"), "connections are pooled for HTTP only, and only TCP comes here"
    yield from cluster_traps(cluster, path, by_tcp and not by_http)
    yield from cluster_tls_traps(cluster, path, by_http)
    seen: dict[str, int] = {}
    for number, endpoint in enumerate(cluster.endpoints):
        if endpoint.address is None:
            continue
        earlier = seen.setdefault(endpoint.address.text, number)
        if earlier != number:
            named = endpoint.server_name != cluster.endpoints[earlier].server_name
            yield (
                (*path, "endpoints", number),
                f"{endpoint.address} is there already, and of two only the last is used; write a "
                "cluster for each 'server_name'"
                if named
                else f"{endpoint.address} is there already; 'weight' gives an endpoint a larger "
                "share",
            )

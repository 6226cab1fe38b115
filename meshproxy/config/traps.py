"""What is allowed and probably not meant where upstreams are kept up: retries, checks, breakers.

Law: as in `meshproxy.config.lint`, which these belong to: each is a trap that someone falls into,
and says what happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshproxy.config.cluster import Cluster
from meshproxy.config.http import Http, Route
from meshproxy.config.model import Configuration
from meshproxy.config.place import Path
from meshproxy.config.values import format_duration

__all__ = ["cluster_traps", "route_traps", "subset_traps", "zone_traps"]

_Doubt = tuple[Path, str]

_BREAKS = {"reset", "5xx", "gateway-error"}
"""What a try that took too long is retried under."""


def _number(cluster: Cluster) -> int | None:
    """Return how many endpoints there are for certain, or None where a source decides."""
    known = cluster.discovery is None and cluster.resolve != "strict"
    return len(cluster.endpoints) if known else None


def zone_traps(configuration: Configuration) -> Iterator[_Doubt]:
    """Yield a zone that nobody asks for, and clusters that ask for one that is not said."""
    aware = {name: c for name, c in configuration.clusters.items() if c.zone_aware}
    zone = configuration.zone
    if zone and not aware:
        yield ("zone",), "no cluster says 'zone_aware: true', so this changes nothing"
    for name, cluster in aware.items():
        at = ("clusters", name, "zone_aware")
        if not zone:
            yield at, "this changes nothing without the proxy's own 'zone', at the top of the file"
        elif cluster.discovery is None and all(e.zone != zone for e in cluster.endpoints):
            yield at, f"no endpoint says 'zone: {zone}', the proxy's own, so this changes nothing"


def cluster_traps(cluster: Cluster, path: Path, only_tcp: bool) -> Iterator[_Doubt]:
    """Yield what is doubtful in one cluster."""
    if only_tcp:
        yield from _tcp(cluster, path)
    if cluster.health_check is not None:
        yield from _health(cluster, path)
    elif "panic_threshold" in cluster.model_fields_set:
        yield (*path, "panic_threshold"), "without 'health_check' there is nothing to disbelieve"
    if cluster.health_check is None and cluster.circuit_breaker is None:
        for index, endpoint in enumerate(cluster.endpoints):
            if endpoint.priority > min(other.priority for other in cluster.endpoints):
                yield (
                    (*path, "endpoints", index),
                    (
                        "without 'health_check' and 'circuit_breaker' nothing tells that those "
                        "before it fail, so this backup gets no traffic"
                    ),
                )
    yield from _counted(cluster, path)
    default = cluster.subsets.default
    if default and cluster.discovery is None and not _has(cluster, default):
        yield (*path, "subsets", "default"), "no endpoint has these labels"


def _tcp(cluster: Cluster, path: Path) -> Iterator[_Doubt]:
    why = "only TCP comes here, which knows nothing of a client but its address"
    if cluster.hash_by is not None and not any(key.source_ip for key in cluster.hash_by):
        yield (*path, "hash_by"), f"{why}: that is what endpoints are chosen by"
    if cluster.sticky is not None:
        yield (*path, "sticky"), f"{why}, so there is no cookie"
    if cluster.endpoint_limits.adaptive is not None:
        yield (
            (*path, "endpoint_limits", "adaptive"),
            "only TCP comes here, which has no responses whose latency could be measured",
        )


def _health(cluster: Cluster, path: Path) -> Iterator[_Doubt]:
    check = cluster.health_check
    assert check is not None
    here = (*path, "health_check")
    if check.timeout > check.interval:
        yield (
            (*here, "timeout"),
            (
                f"a check may last longer than 'interval' ({format_duration(check.interval)}); the "
                "next one waits for it"
            ),
        )
    for index, endpoint in enumerate(cluster.endpoints):
        asked = endpoint.health_check is None or not endpoint.health_check.disabled
        local = endpoint.address is not None and bool(endpoint.address.path)
        if local and asked and (check.icmp or check.dns is not None):
            kind = "an ICMP echo" if check.icmp else "a DNS query"
            at = (*path, "endpoints", index)
            yield at, f"{kind} cannot go to a UNIX socket, so this endpoint is never healthy"
    number = _number(cluster)
    alike = len({endpoint.priority for endpoint in cluster.endpoints}) == 1
    if number == 3 and alike and "panic_threshold" not in cluster.model_fields_set:
        yield (
            here,
            (
                "when 2 of the 3 endpoints fail their checks, all 3 get traffic again; "
                "'panic_threshold: 0' beside this believes the checks, 50 says that it is meant"
            ),
        )


def _counted(cluster: Cluster, path: Path) -> Iterator[_Doubt]:
    """Yield limits that the number of endpoints makes void."""
    number = _number(cluster)
    if number is None:
        return
    breaker = cluster.circuit_breaker
    for key in ("success_rate", "failure_percentage"):
        section = getattr(breaker, key, None)
        if section is not None and section.min_endpoints > number:
            yield (
                (*path, "circuit_breaker", key),
                (
                    f"it judges {section.min_endpoints} endpoints or more ('min_endpoints'), and "
                    f"there are {number}: it never opens a breaker"
                ),
            )
    warm, most = cluster.pool.warm * number, cluster.limits.connections
    if warm > most:
        yield (
            (*path, "pool", "warm"),
            (
                f"for {number} endpoints these are {warm} connections, and limits.connections "
                f"allows {most}"
            ),
        )


def _has(cluster: Cluster, labels: Mapping[str, str]) -> bool:
    """Return whether an endpoint has these labels."""
    return any(labels.items() <= endpoint.labels.items() for endpoint in cluster.endpoints)


def subset_traps(
    configuration: Configuration, clusters: Mapping[str, int], subset: Mapping[str, str], path: Path
) -> Iterator[_Doubt]:
    """Yield labels that no endpoint of a cluster has; `path` leads to who sends there."""
    for name in clusters:
        cluster = configuration.clusters[name]
        wanted = {**cluster.subset, **subset}
        if not wanted or cluster.discovery is not None or _has(cluster, wanted):
            continue
        shown = ", ".join(f"{key}: {value}" for key, value in sorted(wanted.items()))
        then = {
            "none": "nothing can be sent there",
            "any": "every endpoint is used",
            "default": "those of 'subsets.default' are used",
        }[cluster.subsets.fallback]
        at: Path = (*path, "subset") if subset else ("clusters", name, "subset")
        yield at, f"no endpoint of '{name}' has the labels {{{shown}}}, so {then}"


def route_traps(
    configuration: Configuration, http: Http, route: Route, path: Path
) -> Iterator[_Doubt]:
    """Yield what is doubtful in one route to clusters, and in the `retry` that holds for it."""
    if route.to is None:
        return
    yield from subset_traps(configuration, route.to, route.subset, path)
    if route.mirror is not None and route.mirror.to in route.to:
        yield (*path, "mirror"), f"'{route.mirror.to}' gets the request already, and would twice"
    if route.priority == "high":
        for name in route.to:
            if configuration.clusters[name].limits.high is None:
                yield (
                    (*path, "priority"),
                    f"'{name}' has no 'limits.high', so this changes nothing there",
                )
    yield from _retries(configuration, http, route, path)


def _retries(
    configuration: Configuration, http: Http, route: Route, path: Path
) -> Iterator[_Doubt]:
    retry = route.retry or http.retry
    if retry is None or route.to is None:
        return
    at: Path = (*path, "retry") if route.retry is not None else path
    timeout = _timeout(configuration, route)
    tried = retry.per_try_timeout
    if tried and 0 < timeout <= tried:
        yield (
            at,
            (
                f"a try may take {format_duration(tried)} and the whole exchange "
                f"{format_duration(timeout)}: no time is left for another try"
            ),
        )
    elif tried and retry.attempts and not _BREAKS & {*retry.on}:
        yield (
            at,
            (
                "a try that takes longer than 'per_try_timeout' is not retried, but answered 504, "
                "without reset, gateway-error or 5xx in 'on'"
            ),
        )
    if retry.hedge and retry.non_idempotent:
        yield at, "'hedge' with 'non_idempotent' does a slow POST twice, on two endpoints at once"
    for name in route.to if retry.attempts else ():
        cluster = configuration.clusters[name]
        limits = (route.priority == "high" and cluster.limits.high) or cluster.limits
        if not limits.retries and cluster.retry_budget is None:
            yield at, f"'limits.retries' of '{name}' is 0, so nothing is retried there"


def _timeout(configuration: Configuration, route: Route) -> float:
    """Return the seconds that an exchange may take: the route's, or the longest of its clusters."""
    if "timeout" in route.model_fields_set:
        return route.timeout
    held = [configuration.clusters[name].timeout for name in route.to or ()]
    limits = [route.timeout if timeout is None else timeout for timeout in held]
    return 0.0 if 0.0 in limits else max(limits)

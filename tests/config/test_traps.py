"""Traps of what keeps upstreams up: each is found, at its place, and says what happens."""

from __future__ import annotations

import pytest

from meshproxy.config import load

ONE = "endpoints: ['127.0.0.1:1']"
TWO = "endpoints: ['127.0.0.1:1', '127.0.0.1:2']"
THREE = "endpoints: ['127.0.0.1:1', '127.0.0.1:2', '127.0.0.1:3']"
LABELLED = "endpoints: [{ address: '127.0.0.1:1', labels: { v: a, w: b } }, '127.0.0.1:2']"
FILE = "discovery: { file: endpoints.yaml }"
NAMES = "endpoints: ['a.example:1'], resolve: strict"


def mesh(cluster: str, route: str = "", http: str = "", top: str = "") -> str:
    """An HTTP listener with one route to one cluster; each part in flow style."""
    return (
        f"{top}\n"
        "listeners:\n"
        "  web:\n"
        "    listen: 127.0.0.1:8080\n"
        f"    http: {{ routes: [{{ to: api, {route} }}], {http} }}\n"
        "clusters:\n"
        f"  api: {{ {cluster} }}\n"
    )


def found(text: str) -> list[tuple[str, str]]:
    """The warnings of a valid text: where in the configuration, and what."""
    return [(warning.path, warning.message) for warning in load(text, "m").warnings]


def check(text: str, expected: list[tuple[str, str]]) -> None:
    """These places are warned of, in words that begin so, and no other."""
    shown = found(text)
    assert [path for path, _ in shown] == [path for path, _ in expected]
    for (_, message), (_, beginning) in zip(shown, expected, strict=True):
        assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("cluster", "where", "said"),
    [
        # Backups that nothing ever calls.
        ("endpoints: ['127.0.0.1:1', { address: '127.0.0.1:2', priority: 1 }]",
         "endpoints[1]", "without 'health_check' and 'circuit_breaker' nothing tells"),
        ("endpoints: ['127.0.0.1:1', { address: '127.0.0.1:2', priority: 1 }], circuit_breaker: {}",
         "", ""),
        (("endpoints: [{ address: '127.0.0.1:1', priority: 1 }, "
         "{ address: '127.0.0.1:2', priority: 1 }]"), "", ""),
        # Panic.
        (f"{THREE}, health_check: {{ tcp: true }}", "health_check",
         "when 2 of the 3 endpoints fail their checks, all 3 get traffic again"),
        (f"{THREE}, health_check: {{ tcp: true }}, panic_threshold: 50", "", ""),
        (f"{TWO}, health_check: {{ tcp: true }}", "", ""),
        (f"{FILE}, health_check: {{ tcp: true }}", "", ""),
        (f"{ONE}, panic_threshold: 20", "panic_threshold",
         "without 'health_check' there is nothing to disbelieve"),
        # Checks.
        (f"{ONE}, health_check: {{ tcp: true, interval: 1s, timeout: 2s }}", "health_check.timeout",
         "a check may last longer than 'interval' (1s); the next one waits for it"),
        (f"{ONE}, health_check: {{ tcp: true, interval: 1s, timeout: 1s }}", "", ""),
        ("endpoints: ['unix:/x'], health_check: { icmp: true }", "endpoints[0]",
         "an ICMP echo cannot go to a UNIX socket, so this endpoint is never healthy"),
        ("endpoints: ['unix:/x'], health_check: { dns: a.test }", "endpoints[0]",
         "a DNS query cannot go to a UNIX socket"),
        ("endpoints: ['unix:/x'], health_check: { tcp: true }", "", ""),
        (("endpoints: [{ address: 'unix:/x', health_check: { disabled: true } }], "
         "health_check: { icmp: true }"), "", ""),
        # Breakers that judge more endpoints than there are.
        (f"{TWO}, circuit_breaker: {{ success_rate: {{}} }}", "circuit_breaker.success_rate",
         "it judges 5 endpoints or more ('min_endpoints'), and there are 2: it never opens"),
        (f"{TWO}, circuit_breaker: {{ failure_percentage: {{ min_endpoints: 3 }} }}",
         "circuit_breaker.failure_percentage", "it judges 3 endpoints or more"),
        (f"{TWO}, circuit_breaker: {{ success_rate: {{ min_endpoints: 2 }} }}", "", ""),
        (f"{NAMES}, circuit_breaker: {{ success_rate: {{}} }}", "", ""),
        # Pools.
        (f"{TWO}, pool: {{ warm: 6 }}, limits: {{ connections: 10 }}", "pool.warm",
         "for 2 endpoints these are 12 connections, and limits.connections allows 10"),
        (f"{TWO}, pool: {{ warm: 5 }}, limits: {{ connections: 10 }}", "", ""),
        # Labels.
        (f"{LABELLED}, subset: {{ v: a }}", "", ""),
        (f"{LABELLED}, subset: {{ v: b }}", "subset",
         "no endpoint of 'api' has the labels {v: b}, so nothing can be sent there"),
        (f"{LABELLED}, subset: {{ v: b }}, subsets: {{ fallback: any }}", "subset",
         "no endpoint of 'api' has the labels {v: b}, so every endpoint is used"),
        (f"{LABELLED}, subset: {{ v: b }}, subsets: {{ fallback: default, default: {{ v: a }} }}",
         "subset", "no endpoint of 'api' has the labels {v: b}, so those of 'subsets.default'"),
        (f"{LABELLED}, subsets: {{ fallback: default, default: {{ v: c }} }}",
         "subsets.default", "no endpoint has these labels"),
        (f"{FILE}, subset: {{ v: b }}", "", ""),
    ],
)  # fmt: skip
def test_clusters(cluster: str, where: str, said: str) -> None:
    """What is doubtful in a cluster by itself, and the same where it is none."""
    check(mesh(cluster), [(f"clusters.api.{where}", said)] if where else [])


@pytest.mark.parametrize(
    ("cluster", "where", "said"),
    [
        ("hash_by: { header: a }", "hash_by", "only TCP comes here, which knows nothing of"),
        ("hash_by: [{ header: a }, source_ip]", "", ""),
        ("hash_by: source_ip", "", ""),
        ("sticky: { cookie: a }", "sticky", "only TCP comes here, which knows nothing of a cl"),
        ("endpoint_limits: { adaptive: {} }", "endpoint_limits.adaptive", "only TCP comes here,"),
    ],
)
def test_what_only_http_has(cluster: str, where: str, said: str) -> None:
    """Where only TCP comes there are no headers, cookies and responses; where HTTP does, all."""
    text = (
        "listeners:\n"
        "  a: { listen: '127.0.0.1:80', tcp: { to: api } }\n"
        f"clusters: {{ api: {{ {ONE}, balance: maglev, {cluster} }} }}\n"
    )
    check(text, [(f"clusters.api.{where}", said)] if where else [])
    check(text.replace("tcp: { to: api }", "http: { routes: [{ to: api }] }"), [])


@pytest.mark.parametrize(
    ("route", "cluster", "where", "said"),
    [
        ("mirror: api", "", "mirror", "'api' gets the request already, and would twice"),
        ("priority: high", "", "priority", "'api' has no 'limits.high', so this changes nothing"),
        ("priority: high", "limits: { high: {} }", "", ""),
        ("subset: { v: x }", "", "subset", "no endpoint of 'api' has the labels {v: x}, so nothi"),
        ("subset: { v: a }", "subset: { w: b }", "", ""),
        ("subset: { v: a }", "subset: { w: x }", "subset", "no endpoint of 'api' has the labels"),
        ("retry: { per_try_timeout: 1s }, timeout: 1s", "", "retry",
         "a try may take 1s and the whole exchange 1s: no time is left for another try"),
        ("retry: { per_try_timeout: 15s }", "", "retry", "a try may take 15s and the whole exch"),
        ("retry: { per_try_timeout: 15s }", "timeout: 20s", "", ""),
        ("retry: { per_try_timeout: 15s }", "timeout: 0", "", ""),
        ("retry: { per_try_timeout: 1m }, timeout: 0", "", "", ""),
        ("retry: { on: [connect-failure], per_try_timeout: 1s }", "", "retry",
         "a try that takes longer than 'per_try_timeout' is not retried, but answered 504"),
        ("retry: { on: [connect-failure, 5xx], per_try_timeout: 1s }", "", "", ""),
        ("retry: { attempts: 0, on: [connect-failure], per_try_timeout: 1s }", "", "", ""),
        ("retry: { hedge: true, non_idempotent: true, per_try_timeout: 1s }", "", "retry",
         "'hedge' with 'non_idempotent' does a slow POST twice"),
        ("retry: { hedge: true, per_try_timeout: 1s }", "", "", ""),
        ("retry: {}", "limits: { retries: 0 }", "retry", "'limits.retries' of 'api' is 0, so not"),
        ("retry: { attempts: 0 }", "limits: { retries: 0 }", "", ""),
        ("retry: {}, priority: high", "limits: { retries: 0, high: {} }", "", ""),
    ],
)  # fmt: skip
def test_routes(route: str, cluster: str, where: str, said: str) -> None:
    """What is doubtful in a route, alone or with its cluster, and the same where it is none."""
    text = mesh(f"{LABELLED}, {cluster}", route)
    check(text, [(f"listeners.web.http.routes[0].{where}", said)] if where else [])


def test_a_listeners_retry_is_judged_for_each_route() -> None:
    """It holds for routes without their own; `timeouts` count as what they are spread to."""
    http = "retry: { per_try_timeout: 4s }"
    check(mesh(ONE, http=http), [])
    expected = [("listeners.web.http.routes[0]", "a try may take 4s and the whole exchange 3s")]
    check(mesh(ONE, http=http, top="timeouts: { exchange: 3s }"), expected)
    check(mesh(ONE, "retry: { attempts: 2 }", http, "timeouts: { exchange: 3s }"), [])
    expected = [("listeners.web.http.routes[0].retry", "a try may take 20s and the whole exch")]
    check(mesh(ONE, "retry: {}", top="timeouts: { per_try: 20s }"), expected)


def test_a_tcp_listeners_subset() -> None:
    """Labels are looked for where TCP asks for them, too."""
    text = (
        "listeners:\n"
        "  a: { listen: '127.0.0.1:80', tcp: { to: api, subset: { v: x } } }\n"
        f"clusters: {{ api: {{ {LABELLED} }} }}\n"
    )
    check(text, [("listeners.a.tcp.subset", "no endpoint of 'api' has the labels {v: x}")])


@pytest.mark.parametrize(
    ("top", "cluster", "where", "said"),
    [
        ("zone: a", ONE, "zone", "no cluster says 'zone_aware: true', so this changes nothing"),
        ("", f"{ONE}, zone_aware: true", "clusters.api.zone_aware",
         "this changes nothing without the proxy's own 'zone', at the top of the file"),
        ("zone: a", "endpoints: [{ address: '127.0.0.1:1', zone: b }], zone_aware: true",
         "clusters.api.zone_aware", "no endpoint says 'zone: a', the proxy's own"),
        ("zone: a", "endpoints: [{ address: '127.0.0.1:1', zone: a }], zone_aware: true", "", ""),
        ("zone: a", f"{FILE}, zone_aware: true", "", ""),
    ],
)  # fmt: skip
def test_zones(top: str, cluster: str, where: str, said: str) -> None:
    """A zone takes the proxy's, the cluster's leave and an endpoint's."""
    check(mesh(cluster, top=top), [(where, said)] if where else [])


def test_a_mirror_is_a_use_of_its_cluster() -> None:
    """A cluster that only gets copies is not unused, and HTTP uses it."""
    text = mesh(ONE, "mirror: shadow") + f"  shadow: {{ {ONE}, pool: {{}} }}\n"
    check(text, [])


def test_a_warning_is_said_once() -> None:
    """What two listeners fall into at one place is one line."""
    text = mesh(f"{LABELLED}, subset: {{ v: b }}").replace(
        "  web:", "  other: { listen: '127.0.0.1:81', tcp: { to: api } }\n  web:"
    )
    assert len(found(text)) == 1

"""What must hold between listeners, the admin and clusters."""

from __future__ import annotations

import pytest

from tests.config.texts import SMALL, lines_of

CLUSTERS = "clusters: { api: { endpoints: ['127.0.0.1:1'] } }\n"


def test_every_unknown_cluster_is_reported() -> None:
    """By name or by weight, in http and in tcp, each at its place."""
    text = (
        "listeners:\n"
        "  a: { listen: ':0', tcp: { to: aip } }\n"
        "  b: { listen: ':0', tcp: { to: { api: 1, zebra: 2 } } }\n" + CLUSTERS
    )
    assert lines_of(text) == [
        "2:33: listeners.a.tcp.to: there is no cluster 'aip'; did you mean 'api'?",
        "3:43: listeners.b.tcp.to.zebra: there is no cluster 'zebra'",
    ]


def test_no_clusters_at_all() -> None:
    """A newcomer who wrote none is told that there are none."""
    assert lines_of("listeners: { a: { listen: ':0', tcp: { to: api } } }\n") == [
        "1:44: listeners.a.tcp.to: there is no cluster 'api'; there are no 'clusters' at all"
    ]


def test_a_cluster_with_mistakes_is_not_unknown() -> None:
    """What is wrong in a cluster is not wrong in those who send to it."""
    text = SMALL.replace("endpoints", "endpoint")
    assert lines_of(text) == [
        "8:10: clusters.api.endpoint: unknown key 'endpoint'; did you mean 'endpoints'?"
    ]


def test_clusters_of_another_kind_are_one_mistake() -> None:
    """When `clusters` is no mapping, nothing can be said of the names."""
    text = "listeners: { a: { listen: ':0', tcp: { to: api } } }\nclusters: [api]\n"
    assert lines_of(text) == ["2:11: clusters: a mapping (key: value) is expected, not a list"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("':80'", "'0.0.0.0:80'", "0.0.0.0:80 is taken by listeners.a already"),
        ("'[::1]:80'", "'[0::1]:80'", "[::1]:80 is taken by listeners.a already"),
        ("'unix:/x'", "'unix:/x'", "unix:/x is taken by listeners.a already"),
        ("':0'", "':0'", None),
        ("'127.0.0.1:80'", "'127.0.0.2:80'", None),
        ("'systemd:domain=INET:index=0'", "'systemd:domain=INET:index=0'", None),
    ],
)
def test_an_address_is_taken_once(first: str, second: str, message: str | None) -> None:
    """Two listeners cannot have one address, however it is written."""
    text = (
        "listeners:\n"
        f"  a: {{ listen: {first}, tcp: {{ to: api }} }}\n"
        f"  b: {{ listen: {second}, tcp: {{ to: api }} }}\n" + CLUSTERS
    )
    expected = [] if message is None else [f"3:16: listeners.b.listen: {message}"]
    assert lines_of(text) == expected


def test_the_admin_takes_an_address_too() -> None:
    """The admin and a listener cannot have one address either."""
    text = "admin: { listen: '127.0.0.1:8080' }\n" + SMALL
    assert lines_of(text) == [
        "1:18: admin.listen: 127.0.0.1:8080 is taken by listeners.web already"
    ]


@pytest.mark.parametrize(
    ("to", "balances", "found"),
    [
        ("one", "{}", True),
        ("one", "{ balance: random }", True),
        ("one", "{ balance: ring_hash }", False),
        ("{ one: 1, two: 1 }", "{ balance: maglev }", False),
        ("{ two: 1 }", "{ balance: maglev }", True),
        ("one", "{ balance: mglev }", False),
        ("none", "{}", False),
    ],
)
def test_a_routes_hash_needs_a_cluster_that_hashes(to: str, balances: str, found: bool) -> None:
    """What would do nothing is refused; one cluster of several is enough, a mistake is not judged.

    Cluster `one` balances as said, cluster `two` in turn.
    """
    one = balances.replace("{", "{ endpoints: ['127.0.0.1:1'], ", 1).replace(", }", " }")
    text = (
        "listeners:\n"
        "  a:\n"
        "    listen: ':0'\n"
        "    http:\n"
        "      routes:\n"
        f"        - {{ hash_by: source_ip, to: {to} }}\n"
        "      hosts:\n"
        f"        b: {{ routes: [{{ hash_by: source_ip, to: {to} }}] }}\n"
        f"clusters: {{ one: {one}, two: {{ endpoints: ['127.0.0.1:2'] }} }}\n"
    )
    lines = [line for line in lines_of(text) if "'hash_by' does nothing here" in line]
    assert [line.split(": ")[:2] for line in lines] == (
        [
            ["6:13", "listeners.a.http.routes[0].hash_by"],
            ["8:25", "listeners.a.http.hosts.b.routes[0].hash_by"],
        ]
        if found
        else []
    )


@pytest.mark.parametrize(
    ("http", "check", "found"),
    [
        ("routes: [to: api]", "", True),
        ("routes: [to: { other: 1, api: 1 }]", "", True),
        ("routes: [{ to: other, mirror: api }]", "", True),
        ("routes: [{ to: other, mirror: { to: api } }]", "", True),
        ("hosts: { a: { routes: [to: api] } }", "", True),
        ("routes: [to: other]", ", health_check: { http: / }", True),
        ("routes: [to: other]", ", health_check: { tcp: true }", False),
        ("routes: [to: other]", "", False),
    ],
)
def test_a_cluster_of_http_does_not_agree_on_http2(http: str, check: str, found: bool) -> None:
    """Where only TCP goes, any protocol may be agreed on."""
    cluster = f"{{ endpoints: ['127.0.0.1:1'], tls: {{ alpn: [http/1.1, h2] }}{check} }}"
    text = (
        "listeners:\n"
        f"  a: {{ listen: ':0', http: {{ {http} }} }}\n"
        "  b: { listen: ':0', tcp: { to: api } }\n"
        "clusters:\n"
        f"  api: {cluster}\n"
        "  other: { endpoints: ['127.0.0.1:2'] }\n"
    )
    column = text.splitlines()[4].index("h2") + 1
    told = (
        f"5:{column}: clusters.api.tls.alpn[1]: HTTP/2 is not there yet, and HTTP goes to this "
        "cluster; write 'alpn: [http/1.1]', or leave it out"
    )
    assert lines_of(text) == ([told] if found else [])


def test_clusters_of_tls_routes_are_looked_for() -> None:
    """Where connections go by their ClientHello, each cluster must be there too."""
    text = (
        "listeners:\n"
        "  a: { listen: ':0', tcp: { routes: [to: { aip: 1 }] } }\n"
        "  b: { listen: ':0', tcp: { to: api }, tls: { certificates: [chain: a],\n"
        "    pass_through: [{ match: { alpn: [x] }, to: appi }] } }\n" + CLUSTERS
    )
    assert lines_of(text) == [
        ("2:44: listeners.a.tcp.routes[0].to.aip: there is no cluster 'aip'; did you mean 'api'?"),
        (
            "4:48: listeners.b.tls.pass_through[0].to: there is no cluster 'appi'; did you mean "
            "'api'?"
        ),
    ]

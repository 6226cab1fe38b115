"""Clusters, endpoints and pools."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import Cluster, Endpoint, load
from tests.config.texts import lines_of, messages_of, with_cluster

E = "endpoints: ['127.0.0.1:1']"


def test_defaults() -> None:
    """What a cluster is when only its endpoints are given; seconds."""
    cluster = Cluster.model_validate({"endpoints": ["127.0.0.1:1"]})
    assert (cluster.balance, cluster.connect_timeout) == ("round_robin", 5.0)
    assert (cluster.proxy_protocol, cluster.nodelay, cluster.keepalive) == (None, True, False)
    assert (cluster.pool.max_connections, cluster.pool.idle_timeout) == (1024, 60.0)
    assert (cluster.limits.pending, cluster.pool.pending_timeout) == (1024, 5.0)
    assert (cluster.panic_threshold, cluster.overprovisioning, cluster.zone_aware) == (
        50,
        1.4,
        False,
    )
    assert (cluster.health_check, cluster.circuit_breaker, cluster.slow_start) == (None, None, None)
    assert cluster.endpoints[0].weight == 1


def test_an_endpoint_is_an_address_or_a_mapping() -> None:
    """Both forms give the same value."""
    text = with_cluster("endpoints: ['127.0.0.1:1', { address: '127.0.0.1:1' }, 'unix:/x']")
    endpoints = load(text, "m").configuration.clusters["api"].endpoints
    assert endpoints[0] == endpoints[1]
    assert endpoints[2].address is not None
    assert endpoints[2].address.path == "/x"


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (f"{E}, balance: random, proxy_protocol: v1, keepalive: 1m", []),
        ("endpoints: []", ["this cannot be empty"]),
        ("", ["one of 'endpoints' and 'discovery' is needed"]),
        ("endpoints: '127.0.0.1:1'", ["a list is expected, not the text '127.0.0.1:1'; did you m"]),
        ("endpoints: [9001]", ["an address is needed, and 9001 is only a number; did you mean '1"]),
        ("endpoints: [['a']]", ["a mapping (key: value) is expected, not a list"]),
        ("endpoints: [~]", ["a mapping (key: value) is expected, not nothing"]),
        ("endpoints: ['a.example:1']", ["a host name needs 'resolve: strict' or 'resolve: logic"]),
        ("endpoints: [{ address: 'a.example:1' }]", ["a host name needs 'resolve: strict' or 're"]),
        ("endpoints: [{ srv: _a._tcp.example }]", ["a host name needs 'resolve: strict' or 'reso"]),
        ("endpoints: ['a.example:1'], resolve: strict, dns: { family: ipv4 }", []),
        ("endpoints: ['a.example:1', '127.0.0.1:1'], resolve: logical", []),
        ("endpoints: [{ srv: _a._tcp.example }], resolve: strict", []),
        ("endpoints: [{ srv: _a._tcp.example }], resolve: logical", ["SRV records need 'resolve"]),
        ("endpoints: [{ srv: api.example }], resolve: strict", ["a name such as _api._tcp.exampl"]),
        (
            "endpoints: [{ srv: _a._b.c, address: '127.0.0.1:1' }], resolve: strict",
            ["'address' is there already, and only one of 'address' and 'srv' can be"],
        ),
        (f"{E}, resolve: strict", ["no endpoint is a host name, so there is nothing to look up"]),
        (f"{E}, dns: {{}}", ["no endpoint is a host name, so there is nothing to look up"]),
        (
            f"{E}, resolve: static",
            ["no endpoint is a host name", "strict or logical is expected, not the text 'static'"],
        ),
        ("endpoints: [{ weight: 2 }]", ["one of 'address' and 'srv' is needed"]),
        ("endpoints: [{ adress: '127.0.0.1:1' }]", ["unknown key 'adress'; did you mean 'addres"]),
        ("endpoints: [{ address: '127.0.0.1:1', weight: 0 }]", ["this must be at least 1"]),
        ("endpoints: [{ address: '127.0.0.1:1', weight: 1001 }]", ["this must be at most 1000"]),
        ("endpoints: [{ address: '127.0.0.1:1', priority: 16 }]", ["this must be at most 15"]),
        ("endpoints: [{ address: '127.0.0.1:1', priority: -1 }]", ["this must be at least 0"]),
        ("endpoints: [{ address: '127.0.0.1:1', labels: { v: 2 } }]", ["text is expected, not t"]),
        ("endpoints: [{ address: '127.0.0.1:1', labels: { v: '' } }]", ["this cannot be empty"]),
        ("endpoints: [{ address: '127.0.0.1:1', labels: [v] }]", ["a mapping (key: value) is ex"]),
        (f"endpoints: [{{ address: '127.0.0.1:1', zone: {'z' * 129} }}]", ["at most 128 charact"]),
        ("endpoints: [{ address: '127.0.0.1:1', metadata: {} }]", ["'metadata' is not supported"]),
        (f"{E}, balance: roundrobin", ["round_robin, random, least_request, ring_hash or maglev"]),
        (f"{E}, panic_threshold: 101", ["this must be at most 100, and it is 101"]),
        (f"{E}, panic_threshold: .nan", ["a number that ends is expected, not nan"]),
        (f"{E}, panic_threshold: 50%", ["a number is expected, not the text '50%'; did you mean "]),
        (f"{E}, panic_threshold: '50'", ["a number is expected; take the quotes off '50'"]),
        (f"{E}, overprovisioning: .inf", ["a number that ends is expected, not inf"]),
        (f"{E}, overprovisioning: 0.5", ["this must be at least 1"]),
        (f"{E}, zone_aware: 'zone'", ["true or false is expected, not the text 'zone'"]),
        (f"{E}, subset: {{ v: '' }}", ["this cannot be empty"]),
        (f"{E}, outlier_detection: {{}}", ["unknown key 'outlier_detection'; that is 'circuit_b"]),
        (f"{E}, circuit_breakers: {{}}", ["unknown key 'circuit_breakers'; that is 'limits' here"]),
        (f"{E}, endpoint_metrics: 5", ["true or false is expected, not the number 5"]),
        (f"{E}, http2: true", ["'http2' is not supported by this version"]),
        (f"{E}, proxy_protocol: v3", ["v1 or v2 is expected, not the text 'v3'"]),
        (f"{E}, connect_timeout: 0", ["this duration cannot be 0"]),
        (f"{E}, tls: {{}}", []),
        (f"{E}, pool: {{ size: 1 }}", ["unknown key 'size'"]),
        (f"{E}, pool: {{ max_connections: 0 }}", ["this must be at least 1, and it is 0"]),
        (f"{E}, max_connections: 5", ["unknown key 'max_connections' here; it belongs in 'pool'"]),
        (f"{E}, nodelay: on", ["true or false is expected, not the text 'on'; did you mean 'true"]),
        (f"{E}, nodelay: 'true'", ["true or false is expected; take the quotes off 'true'"]),
    ],
)
def test_clusters(cluster: str, expected: list[str]) -> None:
    """Every key of a cluster is checked, in words that say what to write."""
    found = messages_of(with_cluster(cluster))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_an_endpoint_in_full() -> None:
    """Every key of an endpoint, and of how it is checked."""
    endpoint = Cluster.model_validate(
        {
            "endpoints": [
                {
                    "address": "127.0.0.1:1",
                    "weight": 3,
                    "priority": 1,
                    "labels": {"version": "v2"},
                    "zone": "a",
                    "health_check": {"port": 8080},
                }
            ],
            "health_check": {"http": "/"},
        }
    ).endpoints[0]
    assert (endpoint.weight, endpoint.priority, endpoint.zone) == (3, 1, "a")
    assert endpoint.labels == {"version": "v2"}
    assert endpoint.health_check is not None
    assert (endpoint.health_check.port, endpoint.health_check.disabled) == (8080, False)


@pytest.mark.parametrize(
    ("endpoint", "more", "expected"),
    [
        ("{ port: 80 }", "health_check: { tcp: true }", []),
        ("{ disabled: true }", "health_check: { tcp: true }", []),
        ("{ port: 80, disabled: true }", "health_check: { tcp: true }", ["'port' does nothing be"]),
        ("{ port: 0 }", "health_check: { tcp: true }", ["this must be at least 1, and it is 0"]),
        ("{ port: 80 }", "connect_timeout: 1s", ["this does nothing without the cluster's 'healt"]),
        ("{ path: / }", "health_check: { tcp: true }", ["unknown key 'path'"]),
    ],
)
def test_an_endpoints_own_check(endpoint: str, more: str, expected: list[str]) -> None:
    """It changes the cluster's check, so there must be one, and something must change."""
    item = f"{{ address: '127.0.0.1:1', health_check: {endpoint} }}"
    found = messages_of(with_cluster(f"endpoints: [{item}], {more}"))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_places_of_names_without_resolve() -> None:
    """Each name is shown where it is written, in both forms."""
    text = with_cluster("endpoints: ['127.0.0.1:1', 'a.example:1', { address: 'b.example:1' }]")
    assert [line.split(": ")[:2] for line in lines_of(text)] == [
        ["2:47", "clusters.api.endpoints[1]"],
        ["2:73", "clusters.api.endpoints[2].address"],
    ]


def test_a_cluster_in_python_has_the_same_faults() -> None:
    """Built sections are judged as written ones are."""
    endpoint = Endpoint.model_validate({"address": "a.example:1"})
    with pytest.raises(ValidationError, match="a host name needs"):
        Cluster(endpoints=[endpoint])
    assert Cluster(endpoints=[endpoint], resolve="strict").endpoints == [endpoint]
    with pytest.raises(ValidationError, match="'hash_by' does nothing"):
        Cluster.model_validate(
            {"endpoints": [endpoint], "resolve": "strict", "hash_by": "source_ip"}
        )

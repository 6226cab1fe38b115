"""Clusters, endpoints and pools."""

from __future__ import annotations

import pytest

from meshproxy.config import Cluster, load
from tests.config.texts import messages_of, with_cluster

E = "endpoints: ['127.0.0.1:1']"


def test_defaults() -> None:
    """What a cluster is when only its endpoints are given; seconds."""
    cluster = Cluster.model_validate({"endpoints": ["127.0.0.1:1"]})
    assert (cluster.balance, cluster.connect_timeout) == ("round_robin", 5.0)
    assert (cluster.proxy_protocol, cluster.nodelay, cluster.keepalive) == (None, True, False)
    assert (cluster.pool.max_connections, cluster.pool.idle_timeout) == (1024, 60.0)
    assert (cluster.pool.max_pending, cluster.pool.pending_timeout) == (1024, 5.0)
    assert cluster.endpoints[0].weight == 1


def test_an_endpoint_is_an_address_or_a_mapping() -> None:
    """Both forms give the same value."""
    text = with_cluster("endpoints: ['127.0.0.1:1', { address: '127.0.0.1:1' }, 'unix:/x']")
    endpoints = load(text, "m").configuration.clusters["api"].endpoints
    assert endpoints[0] == endpoints[1]
    assert endpoints[2].address.path == "/x"


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (f"{E}, balance: random, proxy_protocol: v1, keepalive: 1m", []),
        ("endpoints: []", ["this cannot be empty"]),
        ("", ["'endpoints' is missing"]),
        ("endpoints: '127.0.0.1:1'", ["a list is expected, not the text '127.0.0.1:1'; did you m"]),
        ("endpoints: [9001]", ["an address is needed, and 9001 is only a number; did you mean '1"]),
        ("endpoints: [['a']]", ["a mapping (key: value) is expected, not a list"]),
        ("endpoints: [~]", ["a mapping (key: value) is expected, not nothing"]),
        ("endpoints: ['a.example:1']", ["a host name needs 'resolve', which is not supported by"]),
        ("endpoints: [{ weight: 2 }]", ["'address' is missing"]),
        ("endpoints: [{ adress: '127.0.0.1:1' }]", ["unknown key 'adress'; did you mean 'addres"]),
        ("endpoints: [{ address: '127.0.0.1:1', weight: 0 }]", ["this must be at least 1"]),
        ("endpoints: [{ address: '127.0.0.1:1', weight: 1001 }]", ["this must be at most 1000"]),
        ("endpoints: [{ address: '127.0.0.1:1', priority: 1 }]", ["'priority' is not supported b"]),
        (f"{E}, balance: maglev", ["'maglev' is not supported by this version"]),
        (f"{E}, balance: ring_hash", ["'ring_hash' is not supported by this version"]),
        (f"{E}, balance: roundrobin", ["round_robin, random or least_request is expected, not t"]),
        (f"{E}, proxy_protocol: v3", ["v1 or v2 is expected, not the text 'v3'"]),
        (f"{E}, connect_timeout: 0", ["this duration cannot be 0"]),
        (f"{E}, tls: {{}}", ["'tls' is not supported by this version"]),
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

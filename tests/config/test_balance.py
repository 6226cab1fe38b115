"""Hash keys, cookies, slow start and subsets."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import HashBy, HashCookie, Route, SlowStart, Subsets, load
from meshproxy.config.cluster import Cluster
from tests.config.texts import lines_of, messages_of, with_cluster, with_routes

E = "endpoints: ['127.0.0.1:1']"


def cluster_of(text: str) -> Cluster:
    """The one cluster of this text (flow style)."""
    return load(with_cluster(f"{E}, {text}"), "m").configuration.clusters["api"]


def test_defaults() -> None:
    """Envoy's: an even slow start from a tenth, and 503 where no endpoint has the labels."""
    start = SlowStart(window="30s")  # type: ignore[arg-type]
    assert (start.window, start.aggression, start.min_weight_percent) == (30.0, 1.0, 10.0)
    assert (Subsets().fallback, Subsets().default) == ("none", {})
    cookie = HashCookie(name="a")
    assert (cookie.ttl, cookie.path) == (0.0, "/")


def route_of(text: str) -> Route:
    """The one route of this text, to a cluster that balances by hash."""
    whole = with_routes(text).replace(
        "{ endpoints: [127.0.0.1:9001]", "{ balance: maglev, endpoints: [127.0.0.1:9001]"
    )
    http = load(whole, "m").configuration.listeners["web"].http
    assert http is not None
    return http.routes[0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("source_ip", [{"source_ip": True}]),
        ("{ source_ip: true }", [{"source_ip": True}]),
        ("{ header: X-User }", [{"header": "x-user"}]),
        ("{ query: user }", [{"query": "user"}]),
        ("{ cookie: user }", [{"cookie": {"name": "user"}}]),
        ("[{ cookie: { name: a, ttl: 1m } }, source_ip]",
         [{"cookie": {"name": "a", "ttl": 60.0}}, {"source_ip": True}]),
    ],
)  # fmt: skip
def test_hash_keys(written: str, expected: list[dict[str, object]]) -> None:
    """A word, a mapping or a list of both, on a cluster and on a route alike."""
    for keys in (
        cluster_of(f"balance: maglev, hash_by: {written}").hash_by,
        route_of(f"- {{ to: api, hash_by: {written} }}").hash_by,
    ):
        assert keys is not None
        assert [key.model_dump(exclude_unset=True) for key in keys] == expected


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (
            "hash_by: source-ip",
            ["source_ip, or a mapping such as {header: x-user}, is expecte"],
        ),
        ("hash_by: []", ["this cannot be empty"]),
        (
            f"hash_by: [{', '.join(['source_ip'] * 9)}]",
            ["at most 8 entries are expected, not 9"],
        ),
        ("hash_by: {}", ["one of 'header', 'cookie', 'query' and 'source_ip' is needed"]),
        ("hash_by: [{}]", ["one of 'header', 'cookie', 'query' and 'source_ip' is needed"]),
        ("hash_by: { header: a, query: b }", ["'header' is there already, and only one of"]),
        ("hash_by: { heder: a }", ["unknown key 'heder'; did you mean 'header'?"]),
        ("hash_by: [{ header: a, query: b }]", ["'header' is there already, and only one of"]),
        ("hash_by: { header: 'a b' }", ["not the name of a header: 'a b'"]),
        ("hash_by: { header: [a] }", ["text is expected, not a list"]),
        ("hash_by: { query: '' }", ["this cannot be empty"]),
        (
            "hash_by: { source_ip: false }",
            ["true is expected, not false; without it leave the key out"],
        ),
        ("hash_by: { source_ip: 1 }", ["true is expected, not 1; without it leave the key out"]),
        (
            "hash_by: { cookie: 'a b' }",
            ["a word of letters, digits and dashes is expected, not 'a b'"],
        ),
        ("hash_by: { cookie: {} }", ["'name' is missing"]),
        ("hash_by: { cookie: { name: a, ttl: 500ms } }", ["a cookie is kept for whole seconds"]),
        (
            "hash_by: { cookie: { name: a, ttl: 5 } }",
            ["a duration needs a unit (ms, s, m, h, d), and 5 has none; did you mean '5s'?"],
        ),
        (
            "hash_by: { cookie: { name: a, path: x } }",
            ["a path begins with '/', and 'x' does not; did you mean '/x'?"],
        ),
        ("hash_by: { cookie: { name: a, path: '/a;b' } }", ["a cookie's path has no ';': '/a;b'"]),
        ("hash_by: { cookie: { name: a, secure: true } }", ["unknown key 'secure'"]),
        ("sticky: { cookie: a }, hash_by: { cookie: b }", []),
        ("sticky: {}", ["'cookie' is missing"]),
        ("sticky: a", ["a mapping (key: value) is expected, not the text 'a'"]),
        (
            "sticky: { cookie: a }, hash_by: { cookie: a }",
            ["the cookie 'a' is that of 'hash_by' already, and cannot hold both"],
        ),
        (
            "sticky: { cookie: { name: a } }, hash_by: [source_ip, { cookie: { name: a } }]",
            ["the cookie 'a' is that of 'hash_by' already, and cannot hold both"],
        ),
        (
            "slow_start: 30s",
            ["'slow_start' does nothing beside 'balance: ring_hash', where shares are fixed"],
        ),
    ],
)
def test_hashing(cluster: str, expected: list[str]) -> None:
    """Every key of what a hash goes by, and every way to get it wrong."""
    found = messages_of(with_cluster(f"{E}, balance: ring_hash, {cluster}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (
            "hash_by: source_ip",
            ["'hash_by' does nothing beside 'balance: round_robin'; it needs ring_hash or maglev"],
        ),
        (
            "balance: random, hash_by: source_ip",
            ["'hash_by' does nothing beside 'balance: random'"],
        ),
        (
            "balance: mglev, hash_by: source_ip",
            ["round_robin, random, least_request, ring_hash or maglev is e"],
        ),
        ("slow_start: 30s", []),
        ("slow_start: { window: 1m, aggression: 2, min_weight_percent: 1 }", []),
        (
            "slow_start: 30",
            ["a duration needs a unit (ms, s, m, h, d), and 30 has none; did you mean '30s'?"],
        ),
        ("slow_start: {}", ["'window' is missing"]),
        ("slow_start: { window: 0 }", ["this duration cannot be 0"]),
        ("slow_start: { window: 1s, aggression: 0 }", ["this must be more than 0, and it is 0"]),
        (
            "slow_start: { window: 1s, aggression: .inf }",
            ["a number that ends is expected, not inf"],
        ),
        (
            "slow_start: { window: 1s, min_weight_percent: 0.5 }",
            ["this must be at least 1, and it is 0.5"],
        ),
        (
            "slow_start: { window: 1s, min_weight_percent: 101 }",
            ["this must be at most 100, and it is 101"],
        ),
        ("subsets: { fallback: any }", []),
        ("subsets: { fallback: default, default: { v: a } }", []),
        ("subsets: { fallback: all }", ["none, any or default is expected, not the text 'all'"]),
        ("subsets: { fallback: default }", ["it needs 'default', the labels to fall back on"]),
        (
            "subsets: { fallback: default, default: {} }",
            ["it needs 'default', the labels to fall back on"],
        ),
        ("subsets: { default: { v: a } }", ["'default' does nothing without 'fallback: default'"]),
        (
            "subsets: { fallback: any, default: { v: a } }",
            ["'default' does nothing without 'fallback: default'"],
        ),
        ("subset: { v: 1 }", ['text is expected, not the number 1; put it in quotes: "1"']),
    ],
)
def test_shares_and_labels(cluster: str, expected: list[str]) -> None:
    """Slow start and subsets: what contradicts itself or does nothing is refused."""
    found = messages_of(with_cluster(f"{E}, {cluster}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


def test_places_in_a_single_key() -> None:
    """One key in place of a list is examined where it stands, as one in a list is."""
    text = with_cluster(f"{E}, balance: maglev, hash_by: {{ header: a, query: b }}")
    assert [line.split(": ")[:2] for line in lines_of(text)] == [
        ["2:94", "clusters.api.hash_by.query"]
    ]
    text = with_cluster(f"{E}, balance: maglev, hash_by: {{ header: 5 }}")
    assert [line.split(": ")[:2] for line in lines_of(text)] == [
        ["2:84", "clusters.api.hash_by.header"]
    ]
    text = with_routes("- { to: api, hash_by: [source_ip, { header: a, cookie: b }] }")
    assert "listeners.web.http.routes[0].hash_by[1].cookie" in lines_of(text)[1]


def test_in_python() -> None:
    """Built sections are refused for the same reasons."""
    with pytest.raises(ValidationError, match="only one of"):
        HashBy.model_validate({"header": "a", "source_ip": True})
    with pytest.raises(ValidationError, match="whole seconds"):
        HashCookie.model_validate({"name": "a", "ttl": "1500ms"})
    with pytest.raises(ValidationError, match="labels to fall back on"):
        Subsets(fallback="default")
    cookie = HashCookie(name="a")
    with pytest.raises(ValidationError, match="cannot hold both"):
        Cluster.model_validate(
            {
                "endpoints": ["127.0.0.1:1"],
                "balance": "maglev",
                "hash_by": [HashBy(cookie=cookie)],
                "sticky": {"cookie": cookie},
            }
        )

"""Sources of endpoints, and how names are looked up."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import Cluster, Discovery, Dns
from tests.config.texts import messages_of, with_cluster

NAMED = "endpoints: ['a.example:1'], resolve: strict"


def test_defaults() -> None:
    """What is left out; seconds and percent."""
    dns = Dns()
    assert (dns.servers, dns.family, dns.timeout, dns.jitter) == ([], "any", 5.0, 10.0)
    assert (dns.min_ttl, dns.max_ttl, dns.negative_ttl) == (1.0, 300.0, 5.0)
    source = Discovery(file="a.yaml")
    assert (source.interval, source.timeout, source.headers) == (None, 5.0, {})


def test_servers_are_addresses_with_a_port() -> None:
    """The port is 53 where none is written; an IPv6 number needs no brackets then."""
    servers = ["127.0.0.1", "10.0.0.1:5353", "::1", "[::1]:53", "localhost"]
    assert Dns(servers=servers).servers == [
        "127.0.0.1:53",
        "10.0.0.1:5353",
        "[::1]:53",
        "[::1]:53",
        "127.0.0.1:53",
    ]


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        ("", []),
        ("family: ipv6, min_ttl: 5s, max_ttl: 5s, negative_ttl: 1s, timeout: 1s, jitter: 0", []),
        (
            "servers: [a.example]",
            ["a name server is an IP address, with or without a port, unlike 'a.example'"],
        ),
        (
            "servers: ['unix:/x']",
            ["a name server is an IP address, with or without a port, unlike 'unix:/x'"],
        ),
        ("servers: ['127.0.0.1:0']", ["a name server is an IP address"]),
        ("servers: [53]", ["text is expected, not the number 53; put it in quotes"]),
        (
            "servers: 127.0.0.1",
            ["a list is expected, not the text '127.0.0.1'; did you mean '[127.0.0.1]'?"],
        ),
        (
            f"servers: [{', '.join(['127.0.0.1'] * 17)}]",
            ["at most 16 entries are expected, not 17"],
        ),
        ("family: inet", ["any, ipv4 or ipv6 is expected, not the text 'inet'"]),
        ("min_ttl: 0", ["this duration cannot be 0"]),
        ("min_ttl: 10m", ["min_ttl (10m) is longer than max_ttl (5m)"]),
        ("max_ttl: 500ms", ["min_ttl (1s) is longer than max_ttl (500ms)"]),
        ("min_ttl: 5, max_ttl: 1s", ["a duration needs a unit"]),
        ("negative_ttl: 0", ["this duration cannot be 0"]),
        ("timeout: 0", ["this duration cannot be 0"]),
        ("jitter: 100.5", ["this must be at most 100, and it is 100.5"]),
        ("jitter: .nan", ["a number that ends is expected, not nan"]),
        ("ttl: 5s", ["unknown key 'ttl'"]),
    ],
)
def test_names(dns: str, expected: list[str]) -> None:
    """Every key of looking names up, its bounds, and what contradicts itself."""
    found = messages_of(with_cluster(f"{NAMED}, dns: {{ {dns} }}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("discovery: { file: endpoints.yaml }", []),
        ("discovery: { file: /etc/endpoints.json, interval: 100ms }", []),
        ("discovery: { http: 'https://a.example/e?c=1', headers: { a: b }, timeout: 1s }", []),
        ("discovery: { http: 'http://[::1]:8080' }", []),
        ("discovery: {}", ["one of 'file', 'http' and 'plugin' is needed"]),
        (
            "discovery: endpoints.yaml",
            ["a mapping (key: value) is expected, not the text 'endpoints.yaml'"],
        ),
        ("discovery: { file: '' }", ["this cannot be empty"]),
        (
            "discovery: { file: a, http: 'http://a/' }",
            ["'file' is there already, and only one of 'file', 'http' and 'plugin' can be"],
        ),
        ("discovery: { file: a, headers: { a: b } }", ["'headers' does nothing beside 'file'"]),
        ("discovery: { file: a, timeout: 1s }", ["'timeout' does nothing beside 'file'"]),
        ("discovery: { file: a, interval: 0 }", ["this duration cannot be 0"]),
        (
            "discovery: { http: a.example/e }",
            ["an address such as https://host/path is expected, not 'a.example/e'"],
        ),
        (
            "discovery: { http: 'ftp://a/e' }",
            ["an address such as https://host/path is expected, not 'ftp://a/e'"],
        ),
        (
            "discovery: { http: 'http://u:p@a/' }",
            ["an address such as https://host/path is expected"],
        ),
        (
            "discovery: { http: 'http://a:99999/' }",
            ["an address such as https://host/path is expected"],
        ),
        (
            "discovery: { http: 'http://a/ b' }",
            ["an address such as https://host/path is expected"],
        ),
        (
            "discovery: { http: 'http://a/#b' }",
            ["an address such as https://host/path is expected"],
        ),
        (
            'discovery: { http: "http://a/\\r\\nx: y" }',
            ["an address such as https://host/path is expected"],
        ),
        (
            "discovery: { http: 'http://a/', headers: { Connection: close } }",
            ["'connection' frames the message, so the proxy alone sets it"],
        ),
        (
            "discovery: { http: 'http://a/', headers: { A: b, a: c } }",
            ["this is the same header as 'A'; case does not matter"],
        ),
        (
            "discovery: { dns: a }",
            ["one of 'file', 'http' and 'plugin' is needed", "unknown key 'dns'"],
        ),
        (
            "discovery: { file: a }, endpoints: ['127.0.0.1:1']",
            ["'endpoints' is there already, and only one of 'endpoints' and 'discovery' can be"],
        ),
        (
            "discovery: { file: a }, resolve: strict",
            ["no endpoint is a host name, so there is nothing to look up"],
        ),
    ],
)
def test_sources(cluster: str, expected: list[str]) -> None:
    """Every key of a source, and what would do nothing."""
    found = messages_of(with_cluster(cluster))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


def test_in_python() -> None:
    """Built sections are refused for the same reasons."""
    with pytest.raises(ValidationError, match="does nothing beside 'file'"):
        Discovery.model_validate({"file": "a", "timeout": "1s"})
    with pytest.raises(ValidationError, match="longer than max_ttl"):
        Dns.model_validate({"min_ttl": "1h"})
    with pytest.raises(ValidationError, match="only one of"):
        Cluster.model_validate({"endpoints": ["127.0.0.1:1"], "discovery": Discovery(file="a")})

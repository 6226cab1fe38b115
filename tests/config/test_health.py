"""Active health checks: what is asked, how often, and what counts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import DnsCheck, HealthCheck, HttpCheck, TcpCheck, load
from tests.config.texts import messages_of, with_cluster

E = "endpoints: ['127.0.0.1:1']"


def check_of(text: str) -> HealthCheck:
    """The health check of this text (flow style)."""
    loaded = load(with_cluster(f"{E}, health_check: {{ {text} }}"), "m")
    check = loaded.configuration.clusters["api"].health_check
    assert check is not None
    return check


def test_defaults() -> None:
    """What is left out; seconds and percent."""
    check = check_of("tcp: true")
    assert (check.interval, check.timeout, check.jitter) == (5.0, 1.0, 10.0)
    assert (check.unhealthy_threshold, check.healthy_threshold) == (3, 2)
    assert (check.unhealthy_interval, check.no_traffic_interval, check.port) == (None, None, None)
    assert check.closes_breaker is True
    assert (check.tcp, check.http) == (TcpCheck(), None)
    http = HttpCheck()
    assert (http.path, http.method, http.host, http.statuses) == ("/", "GET", None, ["200-299"])
    assert (DnsCheck().name, DnsCheck().type) == (".", "NS")
    assert DnsCheck().rcodes == ["NOERROR", "NXDOMAIN"]


def test_shorthands() -> None:
    """A path, a name or true in place of a mapping; a status may be a number."""
    http = check_of("http: /healthz?deep=1").http
    assert http is not None
    assert http.path == "/healthz?deep=1"
    dns = check_of("dns: mesh.test").dns
    assert dns is not None
    assert dns.name == "mesh.test"
    assert check_of("icmp: true").icmp is True
    http = check_of("http: { statuses: [200, 300-399] }").http
    assert http is not None
    assert http.statuses == ["200", "300-399"]


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("", ["one of 'http', 'tcp', 'icmp', 'dns', 'command' and 'plugin' is needed"]),
        ("interval: 1s", ["one of 'http', 'tcp', 'icmp', 'dns', 'command' and 'plugin' is needed"]),
        ("tcp: true, icmp: true", ["'tcp' is there already, and only one of"]),
        (
            "http: healthz",
            ["a path begins with '/', and 'healthz' does not; did you mean '/healthz'?"],
        ),
        ("http: '/a b'", ["a path is written percent-encoded, as it is sent: '/a b'"]),
        ("http: '/a?b c'", ["a query is written percent-encoded, as it is sent: 'b c'"]),
        ("http: '/a#b'", ["a path has no '#': '/a#b' holds a fragment"]),
        ("http: true", ["a mapping (key: value) is expected, not true"]),
        (
            "http: { method: get }",
            ["methods are in capitals, and 'get' is not; did you mean 'GET'?"],
        ),
        ("http: { host: 'a:99999' }", ["a port is 1 to 65535, unlike that of 'a:99999'"]),
        ("http: { headers: { Host: a } }", ["the Host header is written as 'host'"]),
        (
            "http: { headers: { Content-Length: '5' } }",
            ["'content-length' frames the message, so the proxy alone sets it"],
        ),
        (
            "http: { headers: { A: b, a: c } }",
            ["this is the same header as 'A'; case does not matter"],
        ),
        (
            'http: { headers: { a: "b\\r\\nc: d" } }',
            ["a header cannot hold '\\r', which is character 2 of this"],
        ),
        ("http: { statuses: [] }", ["this cannot be empty"]),
        ("http: { statuses: [99] }", ["a status or a range such as 200-299 is expected, not '99'"]),
        (
            "http: { statuses: [600] }",
            ["a status or a range such as 200-299 is expected, not '600'"],
        ),
        (
            "http: { statuses: [2xx] }",
            ["a status or a range such as 200-299 is expected, not '2xx'"],
        ),
        (
            "http: { statuses: [true] }",
            ["a status or a range such as 200-299 is expected, not true"],
        ),
        (
            "http: { statuses: [299-200] }",
            ["the range '299-200' is upside down; did you mean '200-299'?"],
        ),
        ("http: { statuses: 200 }", ["a list is expected, not the number 200"]),
        ("http: { body: ok }", ["unknown key 'body'"]),
        ("tcp: false", ["a mapping (key: value) is expected, not false"]),
        ("tcp: {}", []),
        ("tcp: { send: ping, expect: 'hex:706f' }", []),
        ("tcp: { send: '' }", ["this is 0 bytes long, and must be 1 to 65536"]),
        ("tcp: { expect: 'hex:' }", ["this is 0 bytes long, and must be 1 to 65536"]),
        ("tcp: { expect: 'hex:70g' }", ["not pairs of hexadecimal digits: '70g'"]),
        ("tcp: { expect: 5 }", ["text is expected, not the number 5; put it in quotes"]),
        ("icmp: false", ["true is expected, not false; without it leave the key out"]),
        ("icmp: 1", ["true is expected, not 1; without it leave the key out"]),
        ("icmp: true, port: 7", ["'port' does nothing beside 'icmp', which knows no ports"]),
        ("dns: mesh..test", ["not a domain name: 'mesh..test'"]),
        ("dns: ''", ["not a domain name: ''"]),
        (
            "dns: { name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa }",
            ["not a domain name: "],
        ),
        ("dns: { type: A6 }", []),
        ("dns: { type: aaaa }", ["no type of DNS records: 'aaaa'; did you mean 'AAAA'?"]),
        ("dns: { type: SOAP }", ["no type of DNS records: 'SOAP'; did you mean 'SOA'?"]),
        ("dns: { rcodes: [] }", ["this cannot be empty"]),
        (
            "dns: { rcodes: [noerror] }",
            ["NOERROR, NXDOMAIN, REFUSED or SERVFAIL is expected, not the "],
        ),
        ("command: [/bin/true]", []),
        ("command: []", ["this cannot be empty"]),
        ("command: ['']", ["the path of a program is expected, not nothing"]),
        (
            "command: /bin/true",
            ["a list is expected, not the text '/bin/true'; did you mean '[/bin/true]'?"],
        ),
        ('command: [/bin/true, "a\\0b"]', ["no argument of a program can hold the character NUL"]),
        ("command: [/bin/true, 5]", ["text is expected, not the number 5; put it in quotes"]),
        ("tcp: true, interval: 0", ["this duration cannot be 0"]),
        ("tcp: true, unhealthy_interval: 0", ["this duration cannot be 0"]),
        ("tcp: true, no_traffic_interval: 1", ["a duration needs a unit"]),
        ("tcp: true, timeout: 0", ["this duration cannot be 0"]),
        ("tcp: true, jitter: 101", ["this must be at most 100, and it is 101"]),
        ("tcp: true, jitter: .inf", ["a number that ends is expected, not inf"]),
        ("tcp: true, jitter: .nan", ["a number that ends is expected, not nan"]),
        ("tcp: true, unhealthy_threshold: 0", ["this must be at least 1, and it is 0"]),
        ("tcp: true, healthy_threshold: 1001", ["this must be at most 1000, and it is 1001"]),
        ("tcp: true, port: 65536", ["this must be at most 65535, and it is 65536"]),
        (
            "tcp: true, closes_breaker: 'no'",
            ["true or false is expected, not the text 'no'; did you mean 'false'?"],
        ),
        ("http: /, path: /", ["unknown key 'path' here; it belongs in 'http'"]),
    ],
)
def test_checks(check: str, expected: list[str]) -> None:
    """Every key, its bounds, and what would do nothing."""
    found = messages_of(with_cluster(f"{E}, health_check: {{ {check} }}"))
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)


def test_in_python() -> None:
    """Built sections are refused for the same reasons."""
    with pytest.raises(ValidationError, match="only one of"):
        HealthCheck(http=HttpCheck(), tcp=TcpCheck())
    with pytest.raises(ValidationError, match="written as 'host'"):
        HttpCheck(headers={"Host": "a"})
    assert HealthCheck.model_validate({"http": "/x"}).http == HttpCheck(path="/x")

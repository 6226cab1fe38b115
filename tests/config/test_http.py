"""HTTP's settings, hosts and routes."""

from __future__ import annotations

import pytest

from meshproxy.config import Http, Route, load
from tests.config.texts import lines_of, messages_of, one_route, with_routes


def test_defaults() -> None:
    """What a route and a listener are when nothing is said; seconds and bytes."""
    route = one_route("- to: api")
    assert (route.to, route.timeout, route.upgrades) == ({"api": 1}, 15.0, [])
    assert (route.retry, route.mirror, route.hash_by) == (None, None, None)
    assert (route.subset, route.priority, route.stream_idle_timeout) == ({}, "default", None)
    http = Http()
    assert (http.headers_timeout, http.stream_idle_timeout, http.idle_timeout) == (15, 300, 3600)
    assert (http.request_timeout, http.max_connection_age, http.retry) == (0, 0, None)
    assert (http.max_header_size, http.max_headers, http.max_body) == (61440, 100, None)
    assert (http.server, http.via, http.forwarded, http.request_id) == (
        "meshproxy",
        None,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("- to: { api: 90, other: 10 }", []),
        ("- { to: api, timeout: 0 }", []),
        ("- { to: {} }", ["this cannot be empty"]),
        ("- { to: [api] }", ["a mapping (key: value) is expected, not a list"]),
        ("- { to: { api: 0 } }", ["this must be at least 1, and it is 0"]),
        ("- { to: { api: '1' } }", ["a whole number is expected; take the quotes off '1'"]),
        ("- { to: apy }", ["there is no cluster 'apy'; did you mean 'api'?"]),
        ("- { to: { api: 1, zebra: 1 } }", ["there is no cluster 'zebra'"]),
        ("- { name: 'a b', to: api }", ["a name is letters"]),
        ("- { to: api, redirect: { path: / } }", ["'to' is there already, and only one of"]),
        ("- { respond: {}, timeout: 1s }", ["'timeout' does nothing beside 'respond'; it needs "]),
        ("- { redirect: { path: / }, upgrades: [x] }", ["'upgrades' does nothing beside 'redirec"]),
        ("- { to: api, upgrades: [h2c] }", ["an h2c tunnel"]),
        ("- { to: api, timeout: -1s }", ["a duration cannot be negative: '-1s'"]),
        ("- { to: api, retry: { on: [5xx] } }", []),
        ("- { retry: {} }", ["one of 'to', 'respond' and 'redirect' is needed"]),
        ("- { respond: {}, retry: {} }", ["'retry' does nothing beside 'respond'; it needs 'to'"]),
        ("- { respond: {}, mirror: api }", ["'mirror' does nothing beside 'respond'; it needs "]),
        ("- { to: api, mirror: apy }", ["there is no cluster 'apy'; did you mean 'api'?"]),
        ("- { to: api, mirror: { to: apy } }", ["there is no cluster 'apy'; did you mean 'api'?"]),
        ("- { to: api, mirror: [other] }", ["a mapping (key: value) is expected, not a list"]),
        ("- { to: api, mirror: { to: other, percent: 5 } }", []),
        ("- { to: api, priority: low }", ["default or high is expected, not the text 'low'"]),
        ("- { to: api, subset: { version: 2 } }", ["text is expected, not the number 2; put it "]),
        ("- { to: api, subset: { version: v2 } }", []),
        ("- { to: api, stream_idle_timeout: 0, priority: high }", []),
        ("- { to: api, hash_by: source_ip }", ["'hash_by' does nothing here: 'api' would need "]),
        (
            "- { to: api, rate_limit: {} }",
            ["unknown key 'rate_limit'; that is a filter, written 'filters: [rate_li"],
        ),
        ("- to", ["a mapping (key: value) is expected, not the text 'to'"]),
    ],
)
def test_routes(route: str, expected: list[str]) -> None:
    """A route does one thing, and every key of it has an effect."""
    found = messages_of(with_routes(route))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ("max_header_size: 8KiB\n", []),
        ("via: my proxy\n", ["a word of letters, digits and dashes is expected, not 'my proxy'"]),
        ("trusted_hops: -1\n", ["this must be at least 0, and it is -1"]),
        ("max_headers: 0\n", ["this must be at least 1, and it is 0"]),
        ("headers_timeout: 0\n", ["this duration cannot be 0"]),
        ("max_body: 1MB\n", ["a size such as 4096, 64KiB, 1MiB or 2GiB is expected, not '1MB'; d"]),
        ("hosts: { '*': { routes: [] } }\n", ["hosts['*'] takes every request that no other"]),
        ("hosts: { a: { routes: [] }, A: { routes: [] } }\n", ["this is the same host as 'a'; ca"]),
        ("hosts: { 'a:80': { routes: [] } }\n", ["a host without a port is expected, not 'a:80'"]),
        ("hosts: { a: {} }\n", ["'routes' is missing"]),
        ("hosts: { a: [] }\n", ["a mapping (key: value) is expected, not a list"]),
        ("filters: []\n", []),
        ("filters: {}\n", ["a list is expected, not a mapping"]),
        ("cors: {}\n", ["unknown key 'cors'; that is a filter, written 'filters: [cors]', here"]),
        ("request_timeout: 30s\nmax_connection_age: 1h\nretry: {}\n", []),
        ("request_timeout: 30\n", ["a duration needs a unit (ms, s, m, h, d), and 30 has none;"]),
        ("retry: 2\n", ["a mapping (key: value) is expected, not the number 2"]),
        ("timeout: 5s\n", ["unknown key 'timeout' here; it belongs in an entry of 'routes'"]),
    ],
)
def test_settings(http: str, expected: list[str]) -> None:
    """Every setting of HTTP is checked, in words that say what to write."""
    found = messages_of(with_routes("- to: api", http))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_a_bad_host_is_shown_at_its_key() -> None:
    """The key is what is wrong, so its place is shown and not the routes'."""
    assert lines_of(with_routes("- to: api", "hosts: { 'a b': { routes: [] } }\n")) == [
        "5:16: listeners.web.http.hosts['a b']: not the name of a host: 'a b'"
    ]


def test_hosts_are_kept_in_lower_case_and_in_order() -> None:
    """Hosts are compared without case, so they are kept so."""
    text = with_routes("- to: api", "hosts: { B: { routes: [] }, '*.A': { routes: [] } }\n")
    http = load(text, "m").configuration.listeners["web"].http
    assert http is not None
    assert list(http.hosts) == ["b", "*.a"]


def test_a_route_in_python() -> None:
    """The shorthand for one cluster works there too."""
    assert Route.model_validate({"to": "api"}).to == {"api": 1}

"""Warnings: every trap is found, at its place, and good configurations have none."""

from __future__ import annotations

import pytest

from meshproxy.config import load
from tests.config.texts import EVERY_KEY, SMALL, with_listener, with_routes


def warnings_of(text: str) -> list[str]:
    """The warnings of a valid text, without the file's name."""
    return [str(warning).removeprefix("m.yaml:") for warning in load(text, "m.yaml").warnings]


@pytest.mark.parametrize("text", [SMALL, EVERY_KEY])
def test_a_good_configuration_has_none(text: str) -> None:
    """A warning that everybody sees is one that nobody reads."""
    assert warnings_of(text) == []


def test_an_unused_cluster() -> None:
    """A cluster that nothing sends to is probably a name that was forgotten."""
    assert warnings_of(SMALL + "  old: { endpoints: ['127.0.0.1:1'] }\n") == [
        "9:3: clusters.old: warning: nothing sends to this cluster"
    ]


def test_a_route_that_is_never_reached() -> None:
    """Order matters, and a route behind one for everything is dead; its name is said."""
    text = with_routes("- name: all\n  to: api\n- match: { path: /x }\n  to: other\n")
    assert warnings_of(text) == [
        (
            "8:11: listeners.web.http.routes[1]: warning: this route is never reached: 'all' "
            "listeners.web.http.routes[0] takes all that it would"
        )
    ]


def test_a_route_of_a_host_that_is_never_reached() -> None:
    """The routes of each host are a table of their own."""
    hosts = "hosts: { a: { routes: [{ to: api }, { to: other }] } }\n"
    (warning,) = warnings_of(with_routes("- to: api", hosts))
    assert warning.startswith("5:43: listeners.web.http.hosts.a.routes[1]: warning: this route")


def test_http_without_routes() -> None:
    """A listener or host without routes answers 404 to everything."""
    text = "listeners: { web: { listen: ':0', http: {} } }\n"
    assert warnings_of(text) == [
        (
            "1:41: listeners.web.http: warning: there are neither routes nor hosts, so every "
            "request gets a 404"
        )
    ]
    (warning,) = warnings_of(
        with_routes("- to: { api: 1, other: 1 }", "hosts: { a: { routes: [] } }\n")
    )
    assert "there are no routes, so every request for this host gets a 404" in warning


@pytest.mark.parametrize(
    ("route", "http", "expected"),
    [
        ("timeout: 0", "stream_idle_timeout: 0\n", ["without this and stream_idle_timeout a sil"]),
        ("timeout: 0", "", []),
        (
            "timeout: 1h",
            "",
            ["stream_idle_timeout gives a silent upstream up before this, after 5m"],
        ),
        ("timeout: 1h", "stream_idle_timeout: 2h\n", []),
        ("timeout: 1h", "stream_idle_timeout: 0\n", []),
        ("name: x", "stream_idle_timeout: 1s\n", []),
    ],
)
def test_timeouts(route: str, http: str, expected: list[str]) -> None:
    """A timeout that another one undoes, or that leaves nothing to end a silent exchange."""
    text = with_routes(f"- to: {{ api: 1, other: 1 }}\n  {route}\n", http)
    found = [warning.partition("warning: ")[2] for warning in warnings_of(text)]
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_a_timeout_shorter_than_connecting() -> None:
    """Both were written, and the longer one can never come to its end."""
    text = SMALL.replace("to: api", "{ to: api, timeout: 1s }").replace(
        "endpoints", "connect_timeout: 2s, endpoints"
    )
    assert warnings_of(text) == [
        (
            "6:31: listeners.web.http.routes[0].timeout: warning: this cuts short the 2s that "
            "connecting to 'api' may take"
        )
    ]


def test_tcp_without_any_end() -> None:
    """With neither an idle timeout nor keepalive, a client that vanished stays for ever."""
    text = "listen: ':0'\ntcp: { to: api, idle_timeout: 0 }\n"
    (warning,) = warnings_of(with_listener(text))
    assert warning.endswith("without this and keepalive a client that vanished is never noticed")
    assert warnings_of(with_listener(text + "keepalive: true\n")) == []
    assert warnings_of(with_listener(text.replace(":0", "unix:/x"))) == []


def test_an_admin_that_others_can_reach() -> None:
    """It was allowed, and is worth a word each time."""
    text = "admin: { listen: ':9901', allow_remote: true }\n" + SMALL
    assert warnings_of(text) == [
        (
            "1:18: admin.listen: warning: the admin has no password, and anyone who can reach "
            "0.0.0.0:9901 can use it"
        )
    ]


def test_a_loop() -> None:
    """A listener whose cluster is the listener itself asks itself for ever."""
    assert warnings_of(SMALL.replace("9001", "8080")) == [
        (
            "8:22: clusters.api.endpoints[0]: warning: this is listener 'web' itself, which "
            "sends to this cluster: a loop"
        )
    ]


def test_an_endpoint_that_is_there_twice() -> None:
    """Two of the same are one with twice the share, which has a setting of its own."""
    assert warnings_of(SMALL.replace("[127.0.0.1:9001]", "['127.0.0.1:1', 'localhost:1']")) == [
        (
            "8:37: clusters.api.endpoints[1]: warning: 127.0.0.1:1 is there already; 'weight' "
            "gives an endpoint a larger share"
        )
    ]


def test_a_pool_that_does_nothing() -> None:
    """TCP connections are not pooled."""
    text = with_listener("listen: ':0'\ntcp: { to: api }\n").replace(
        "endpoints", "pool: {}, endpoints"
    )
    (warning,) = warnings_of(text)
    assert "connections are pooled for HTTP only, and only TCP comes here" in warning

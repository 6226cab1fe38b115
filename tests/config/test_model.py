"""The configuration as a whole, its admin and its listeners."""

from __future__ import annotations

import pytest

from meshproxy.config import Listener, load
from tests.config.texts import DROPINS, SMALL, messages_of, with_listener

TCP = "tcp: { to: api }\n"


def test_defaults() -> None:
    """What a listener is when only its address and cluster are given."""
    listener = Listener.model_validate({"listen": ":0", "tcp": {"to": "a"}})
    assert (listener.max_connections, listener.backlog) == (100_000, 1024)
    assert (listener.reuse_port, listener.nodelay, listener.keepalive) == (False, True, False)
    assert listener.proxy_protocol is False
    assert listener.tcp is not None
    assert (listener.tcp.to, listener.tcp.idle_timeout) == ({"a": 1}, 3600.0)


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        (f"listen: ':80'\nproxy_protocol: true\nkeepalive: 30s\n{TCP}", []),
        (f"listen: 'tcp:80'\nkeepalive: true\n{TCP}", []),
        (f"listen: 'unix:/x'\nkeepalive: false\n{TCP}", []),
        (
            f"listen: 80\n{TCP}",
            ["an address is needed, and 80 is only a number; did you mean ':80'"],
        ),
        (f"listen: 'tcp:80'\nbacklog: 5\n{TCP}", ["'backlog' does nothing beside an endpoint des"]),
        (
            f"listen: 'unix:/x'\nreuse_port: true\n{TCP}",
            ["'reuse_port' does nothing on a UNIX soc"],
        ),
        ("listen: ':80'\n", ["one of 'http' and 'tcp' is needed"]),
        (f"listen: ':80'\n{TCP}http: {{}}\n", ["'http' is there already, and only one of"]),
        (f"listen: ':80'\n{TCP}tls: {{}}\n", ["'certificates' is missing"]),
        (f"listen: ':80'\n{TCP}tls: true\n", ["a mapping (key: value) is expected, not true"]),
        ("listen: ':80'\nudp: { to: x }\n", ["'udp' is not supported by this version"]),
        ("listen: ':80'\ndns: {}\n", ["'dns' is not supported by this version"]),
        ("listen: ':80'\ntcp: { routes: [] }\n", ["this cannot be empty"]),
        ("listen: ':80'\ntcp: api\n", ["a mapping (key: value) is expected, not the text 'api'"]),
        ("listen: ':80'\nroutes: []\n", ["unknown key 'routes' here; it belongs in 'http'"]),
        (f"listen: ':80'\nmax_connections: 0\n{TCP}", ["this must be at least 1, and it is 0"]),
        (f"listen: ':80'\nbacklog: 65536\n{TCP}", ["this must be at most 65535, and it is 65536"]),
    ],
)
def test_listeners(listener: str, expected: list[str]) -> None:
    """An address, one protocol, and only settings that have an effect."""
    found = messages_of(with_listener(listener))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("admin", "expected"),
    [
        ("{ listen: '127.0.0.1:0' }", []),
        ("{ listen: '[::1]:0' }", []),
        ("{ listen: 'unix:/run/admin.sock' }", []),
        ("{ listen: ':9901', allow_remote: true }", []),
        ("{ listen: 'tcp:9901', allow_remote: true }", []),
        ("{ listen: ':9901' }", ["the admin must be on a loopback address, and 0.0.0.0:9901 is n"]),
        ("{ listen: 'tcp:9901' }", ["the admin must be on a loopback address, and nobody can tel"]),
        ("{ listen: 10.0.0.1 }", ["the port is missing: write 10.0.0.1:PORT"]),
        ("{}", ["'listen' is missing"]),
        ("'127.0.0.1:9901'", ["a mapping (key: value) is expected, not the text '127.0.0.1:9901'"]),
        ("{ listen: '127.0.0.1:9901', tls: {} }", ["'tls' is not supported by this version"]),
    ],
)
def test_admin(admin: str, expected: list[str]) -> None:
    """The admin is where only this machine can reach it, unless it was said otherwise."""
    found = messages_of(f"admin: {admin}\n{SMALL}")
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("workers: 1\n", []),
        ("workers: 4\n", ["4 is not supported by this version"]),
        ("workers: auto\n", ["'auto' is not supported by this version"]),
        ("workers: 0\n", ["1 is expected, not the number 0"]),
        ("workers: true\n", ["1 is expected, not true"]),
        (f"plugins: [{DROPINS}]\n", []),
        ("plugins: ['']\n", ["the path of a directory is needed"]),
        (
            "filters: []\n",
            [
                (
                    "unknown key 'filters'; that is 'filters' of a listener's http or tcp, or "
                    "'listener_filters' here"
                )
            ],
        ),
        ("listner: {}\n", ["unknown key 'listner'; did you mean 'listeners'?"]),
        ("cluster: {}\n", ["unknown key 'cluster'; did you mean 'clusters'?"]),
    ],
)
def test_top_level(head: str, expected: list[str]) -> None:
    """The first level of a file."""
    assert messages_of(head + SMALL) == expected


def test_names_can_be_shown_anywhere() -> None:
    """A listener's and a cluster's name go into metrics and logs, so they are plain."""
    text = SMALL.replace("web:", "'web 1':").replace("api:", "'a{b}':").replace("to: api", "to: x")
    assert messages_of(text) == [
        "a name is letters, digits, '_', '-' and '.', at most 128, unlike 'web 1'",
        "there is no cluster 'x'",
        "a name is letters, digits, '_', '-' and '.', at most 128, unlike 'a{b}'",
    ]


def test_a_configuration_needs_listeners() -> None:
    """A proxy that listens nowhere is a mistake."""
    assert messages_of("listeners: {}\n") == ["this cannot be empty"]
    assert load(SMALL, "m").configuration.admin is None

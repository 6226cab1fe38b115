"""Traps where TLS is ended, begun or looked into: each is found, at its place, and no others."""

from __future__ import annotations

import pytest

from meshproxy.config import load

CLUSTERS = (
    "clusters:\n"
    "  api: { endpoints: ['127.0.0.1:1'] }\n"
    "  secret: { endpoints: ['127.0.0.1:2'], tls: true }\n"
)
PIN = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
BOTH = "{ api: 1, secret: 1 }"
EVERYTHING = "takes all that it would"


def check(text: str, expected: list[tuple[str, str]]) -> None:
    """These places are warned of, in words that hold this, and no others."""
    found = [(warning.path, warning.message) for warning in load(text, "m").warnings]
    assert [path for path, _ in found] == [path for path, _ in expected], found
    for (_, message), (_, said) in zip(found, expected, strict=True):
        assert said in message


def listener(spoken: str, tls: str | None = "") -> str:
    """A listener `web` that speaks this (flow style), with a certificate and this besides."""
    more = "" if tls is None else f"    tls: {{ certificates: [chain: a.pem], {tls} }}\n"
    return f"listeners:\n  web:\n    listen: '127.0.0.1:80'\n{more}    {spoken}\n{CLUSTERS}"


def names(*patterns: str, to: str = "api") -> str:
    """A route by server names."""
    return f"{{ match: {{ server_names: [{', '.join(map(repr, patterns))}] }}, to: {to} }}"


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("", []),
        ("key_log: keys.log", [("key_log", "whoever reads this file can decrypt all")]),
        (f"pass_through: [{names('a.b')}, {names('*.b')}]", []),
        (f"pass_through: [{names('*.b')}, {names('a.b')}]", [("pass_through[1]", EVERYTHING)]),
        (f"pass_through: [{names('*')}]", [("pass_through[0]", "the certificates are never show")]),
        ("pass_through: [{ match: { server_names: ['*'], alpn: [h2] }, to: api }]", []),
        (
            f"pass_through: [{names('a', to='secret')}]",
            [("pass_through[0].to", "and 'secret' has 'tls': TLS inside TLS is sent")],
        ),
    ],
)
def test_listeners(tls: str, expected: list[tuple[str, str]]) -> None:
    """What is doubtful in a listener's TLS."""
    text = listener(f"http: {{ routes: [to: {BOTH}] }}", tls)
    check(text, [(f"listeners.web.tls.{path}", said) for path, said in expected])


@pytest.mark.parametrize(
    ("routes", "tls", "expected"),
    [
        (f"{names('a')}, {{ to: {BOTH} }}", None, []),
        (f"{{ to: {BOTH} }}, {names('a')}", None, [("[1]", EVERYTHING)]),
        (
            f"{names('a', to=BOTH)}, {{ to: api }}",
            None,
            [("[0].to", "what comes is TLS already, and 'secret' has 'tls'")],
        ),
        (f"{names('a', to=BOTH)}, {{ to: api }}", "", []),
        (f"{names('a', to=BOTH)}, {names('a')}", "", [("[1]", EVERYTHING)]),
        (f"{{ match: {{ alpn: [x, y] }}, to: {BOTH} }}", "alpn: [y]", []),
        (
            f"{{ match: {{ alpn: [x] }}, to: {BOTH} }}",
            "alpn: [y]",
            [("[0].match.alpn", "'tls.alpn' of this listener has none of these")],
        ),
        (
            f"{{ match: {{ alpn: [x] }}, to: {BOTH} }}",
            "",
            [("[0].match.alpn", "'tls.alpn' of this listener has none of these")],
        ),
        (
            f"{{ to: {BOTH}, subset: {{ v: x }} }}",
            None,
            [
                ("[0].subset", "no endpoint of 'api' has the labels {v: x}"),
                ("[0].subset", "no endpoint of 'secret' has the labels {v: x}"),
            ],
        ),
    ],
)
def test_tcp_routes(routes: str, tls: str | None, expected: list[tuple[str, str]]) -> None:
    """What is doubtful in routes by a ClientHello, with the clients' TLS ended there or not."""
    text = listener(f"tcp: {{ routes: [{routes}] }}", tls)
    check(text, [(f"listeners.web.tcp.routes{path}", said) for path, said in expected])


NEVER = "it never matches"
ASKED = "client_ca: ca.pem"


@pytest.mark.parametrize(
    ("match", "tls", "said"),
    [
        ("{}", None, "this listener has no 'tls': it never matches"),
        ("{ client_certificate: false }", None, NEVER),
        ("{}", "", ""),
        ("{ server_names: [a] }", "", ""),
        ("{ client_certificate: false }", "", ""),
        ("{ client_certificate: true }", "", "without tls.client_ca no client shows a certificate"),
        ("{ subject: a }", "", NEVER),
        ("{ san: a }", "", NEVER),
        ("{ client_certificate: true, subject: a, san: b }", ASKED, ""),
    ],
)
def test_what_requests_are_asked_for(match: str, tls: str | None, said: str) -> None:
    """A route that matches by TLS needs a listener that has it, and asks for what it wants."""
    for place in ("", "hosts.a."):
        routes = f"routes: [{{ match: {{ tls: {match} }}, to: {BOTH} }}]"
        if place:
            routes = f"hosts: {{ a: {{ {routes} }} }}"
        path = f"listeners.web.http.{place}routes[0].match.tls"
        check(listener(f"http: {{ {routes} }}", tls), [(path, said)] if said else [])


@pytest.mark.parametrize(
    ("mode", "tls", "found"),
    [
        ("sanitize", None, False),
        ("append", None, True),
        ("forward", "", True),
        ("set", ASKED, False),
    ],
)
def test_the_header_of_clients_certificates(mode: str, tls: str | None, found: bool) -> None:
    """A mode that has nothing to tell does what the default does."""
    text = listener(f"http: {{ x_forwarded_client_cert: {mode}, routes: [to: {BOTH}] }}", tls)
    path = "listeners.web.http.x_forwarded_client_cert"
    check(text, [(path, f"no client shows a certificate, so '{mode}' only")] if found else [])


@pytest.mark.parametrize(
    ("cluster", "path", "said"),
    [
        ("endpoints: ['127.0.0.1:1'], tls: true", "", ""),
        ("endpoints: ['127.0.0.1:1'], tls: { verify: true }", "", ""),
        (
            "endpoints: ['127.0.0.1:1'], tls: { verify: false }",
            "tls.verify",
            "whoever answers is trusted",
        ),
        (
            f"endpoints: ['127.0.0.1:1'], tls: {{ verify: false, pins: ['{PIN}'] }}",
            "tls.verify",
            "whoever has the pinned key is trusted",
        ),
        (
            "endpoints: ['127.0.0.1:1', { address: '127.0.0.1:1', server_name: a }], tls: true",
            "endpoints[1]",
            "of two only the last is used; write a cluster for each 'server_name'",
        ),
        (
            "endpoints: ['127.0.0.1:1'], tls: { key_log: a }",
            "tls.key_log",
            "whoever reads this file",
        ),
        (
            "endpoints: ['127.0.0.1:80', '127.0.0.1:443']",
            "endpoints[1]",
            "without 'tls' plain HTTP is sent there",
        ),
        ("endpoints: ['127.0.0.1:443'], tls: true", "", ""),
        ("endpoints: ['unix:/443']", "", ""),
        ("endpoints: [srv: _https._tcp.a.example], resolve: strict", "", ""),
    ],
)
def test_clusters(cluster: str, path: str, said: str) -> None:
    """What is not verified, what gives secrets away, and plain HTTP where HTTPS is spoken."""
    text = (
        "listeners: { web: { listen: ':0', http: { routes: [to: api] } } }\n"
        f"clusters: {{ api: {{ {cluster} }} }}\n"
    )
    check(text, [(f"clusters.api.{path}", said)] if path else [])


def test_a_tcp_listener_may_send_tls_to_port_443() -> None:
    """What it passes on may well be TLS."""
    check(
        "listeners: { web: { listen: ':0', tcp: { to: api } } }\n"
        "clusters: { api: { endpoints: ['127.0.0.1:443'] } }\n",
        [],
    )


def test_what_is_passed_through_is_used() -> None:
    """A cluster that only gets what is not decrypted, or a route of TCP, is not unused."""
    passing = f"pass_through: [{names('a')}]"
    check(listener("http: { routes: [to: secret] }", passing), [])
    check(listener(f"tcp: {{ routes: [{names('a')}, {{ to: secret }}] }}", "alpn: [x]"), [])


def test_a_loop_of_what_is_passed_through() -> None:
    """A listener that passes connections on to itself asks itself for ever."""
    text = listener("http: { routes: [to: secret] }", f"pass_through: [{names('a')}]")
    check(
        text.replace("127.0.0.1:1'", "127.0.0.1:80'"),
        [("clusters.api.endpoints[0]", "this is listener 'web' itself")],
    )

"""Texts that the tests of configuration are made of, and what comes of them."""

from __future__ import annotations

import textwrap

from meshproxy.config import Loaded, Route, load
from meshproxy.errors import ConfigError, Problem

#: A whole configuration that every test may break in one place.
SMALL = """\
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - to: api
clusters:
  api: { endpoints: [127.0.0.1:9001] }
"""

#: Every key of this version, for http and tcp.
EVERY_KEY = """\
workers: 1
admin: { listen: 127.0.0.1:9901, allow_remote: false }
listeners:
  web:
    listen: 127.0.0.1:8080
    max_connections: 1000
    backlog: 100
    reuse_port: true
    nodelay: false
    keepalive: 30s
    proxy_protocol: true
    http:
      access_log: { path: "-", format: "%START_TIME(%Y)% %REQ(:METHOD):5% %% %RESPONSE_CODE%" }
      server: ""
      forwarded: true
      via: meshproxy
      trusted_hops: 1
      request_id: false
      max_header_size: 32KiB
      max_headers: 50
      max_body: 10MiB
      headers_timeout: 5s
      stream_idle_timeout: 0
      idle_timeout: 1m30s
      hosts:
        "Example.COM":
          routes:
            - match: { path: /x }
              redirect:
                status: 308
                https: true
                host: www.example.com
                port: 8443
                prefix: /new
                strip_query: true
            - redirect: { scheme: http, path: /p }
        "*.example.com": { routes: [{ to: api }] }
      routes:
        - name: all-keys
          match:
            prefix: /api/
            on_segments: false
            methods: [GET, POST]
            headers: { X-Beta: "1", x-v: { prefix: a, invert: true }, x-p: { present: false } }
            query:
              q: { regex: "a+" }
              r: { suffix: s }
              s: { contains: c }
              t: { exact: "" }
          to: { api: 90, canary: 10 }
          timeout: 5s
          rewrite: { prefix: / }
          host_rewrite: internal:8080
          request_headers: { set: { X-Via: meshproxy }, add: { a: b }, remove: [X-Internal] }
          response_headers: { set: { a: b } }
          upgrades: [WebSocket]
        - match: { regex: "/v(\\\\d+)/.*" }
          to: api
          rewrite: { regex: "/v(\\\\d+)", substitution: "/version/\\\\1" }
        - match: { path: /h }
          to: api
          rewrite: { path: /health }
        - respond: { status: 404, body: nothing, headers: { Content-Type: text/plain } }
  db:
    listen: "[::1]:5432"
    keepalive: true
    tcp:
      to: db
      idle_timeout: 0
      access_log: { path: /var/log/db.log, format: json }
clusters:
  api:
    endpoints:
      - 127.0.0.1:9001
      - { address: "localhost:9002", weight: 2 }
      - unix:/run/x.sock
      - "[::1]:9003"
    balance: least_request
    connect_timeout: 1s
    pool: { max_connections: 100, idle_timeout: 60s, max_pending: 0, pending_timeout: 1s }
    proxy_protocol: v2
    nodelay: false
    keepalive: true
  canary: { endpoints: [127.0.0.1:9004], balance: random }
  db: { endpoints: [127.0.0.1:9005], proxy_protocol: v1 }
"""


def problems_of(text: str) -> tuple[Problem, ...]:
    """The errors of a text; none when it loads."""
    try:
        load(text, "m.yaml")
    except ConfigError as error:
        return error.problems
    return ()


def lines_of(text: str) -> list[str]:
    """The errors of a text as they are printed, without the file's name."""
    return [str(problem).removeprefix("m.yaml:") for problem in problems_of(text)]


def messages_of(text: str) -> list[str]:
    """The errors of a text without their places."""
    return [
        p.message + (f"; did you mean '{p.suggestion}'?" if p.suggestion is not None else "")
        for p in problems_of(text)
    ]


def with_routes(routes: str, http: str = "") -> str:
    """A configuration whose http has these routes (block style) and these other keys."""
    return (
        "listeners:\n  web:\n    listen: 127.0.0.1:8080\n    http:\n"
        + textwrap.indent(textwrap.dedent(http), " " * 6)
        + "      routes:\n"
        + textwrap.indent(textwrap.dedent(routes), " " * 8)
        + "\nclusters:\n  api: { endpoints: [127.0.0.1:9001] }\n"
        + "  other: { endpoints: [127.0.0.1:9002] }\n"
    )


def with_listener(listener: str) -> str:
    """A configuration with this one listener (block style)."""
    return (
        "listeners:\n  web:\n"
        + textwrap.indent(textwrap.dedent(listener), " " * 4)
        + "\nclusters:\n  api: { endpoints: [127.0.0.1:9001] }\n"
    )


def with_cluster(cluster: str) -> str:
    """A configuration whose one cluster holds this (flow style)."""
    return (
        "listeners: { web: { listen: '127.0.0.1:80', tcp: { to: api } } }\n"
        f"clusters: {{ api: {{ {cluster} }} }}\n"
    )


def one_route(route: str) -> Route:
    """The one route of this text (block style)."""
    loaded: Loaded = load(with_routes(route), "m.yaml")
    http = loaded.configuration.listeners["web"].http
    assert http is not None
    return http.routes[0]

"""Texts that the tests of configuration are made of, and what comes of them."""

from __future__ import annotations

import textwrap

from meshproxy.config import Loaded, Route, load
from meshproxy.errors import ConfigError, Problem
from tests.harness import ROOT

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

#: A directory for `plugins`: tests/dropins.
DROPINS = str(ROOT / "tests" / "dropins")

#: Every key of this version, for http and tcp.
EVERY_KEY = (
    f"plugins: [{DROPINS}]\n"
    """\
workers: 1
zone: eu-1
timeouts:
  connect: 2s
  exchange: 10s
  per_try: 3s
  headers: 10s
  request: 1m
  stream_idle: 2m
  connection_idle: 30m
  upstream_idle: 30s
  max_connection_age: 1h
admin: { listen: 127.0.0.1:9901, allow_remote: false }
overload:
  interval: 100ms
  shed: { loop_lag: 200ms, memory: 95%, active_requests: 2000,
          file_descriptors: 99%, spare: [/healthz] }
  stop_accepting:
    { memory: 2GiB, file_descriptors: 95%, active_requests: 4000, loop_lag: 5s }
  shorten_idle: { file_descriptors: 5000, memory: 90%, loop_lag: 1s, active_requests: 9, to: 5s }
listeners:
  web:
    listen: 127.0.0.1:8080
    max_connections: 1000
    backlog: 100
    reuse_port: true
    nodelay: false
    keepalive: 30s
    proxy_protocol: true
    listener_filters: [t_judge]
    tls:
      certificates:
        - { chain: site.pem, key: site.key, password_file: site.password, ocsp: site.ocsp }
        - { pkcs12: other.p12 }
      unknown_names: refuse
      alpn: [http/1.1]
      client_ca: clients.pem
      require_client_certificate: false
      client_names: [spiffe://mesh.example/web, { suffix: .clients.example }]
      client_crl: clients.crl
      client_depth: 2
      min_version: "1.3"
      max_version: "1.3"
      ciphers: [TLS_AES_128_GCM_SHA256]
      curves: [X25519, P-256]
      tickets: { rotate: 6h, lifetime: 1d }
      handshake_timeout: 5s
      max_handshakes: 1000
      on_demand: false
      pass_through:
        - { match: { server_names: ["*.Internal.example"], alpn: [h2] }, to: { inside: 1 } }
    http:
      x_forwarded_client_cert: { mode: append, details: [uri, dns, subject, cert, chain] }
      filters: [t_bare, { t_limit: { requests: 1 }, as: outer }]
      access_log:
        - { path: "-", format: "%START_TIME(%Y)% %REQ(:METHOD):5% %% %RESPONSE_CODE%" }
        - plugin: { t_remember: { fail: false }, as: audit }
      server: ""
      forwarded: true
      via: meshproxy
      trusted_hops: 1
      request_id: false
      max_header_size: 32KiB
      max_headers: 50
      max_body: 10MiB
      headers_timeout: 5s
      request_timeout: 30s
      stream_idle_timeout: 0
      max_connection_age: 2h
      idle_timeout: 1m30s
      retry: { attempts: 2 }
      hosts:
        "Example.COM":
          filters: [{ t_limit: { size: 1KiB }, as: outer }]
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
        "*.example.com": { routes: [{ to: { api: 1, listed: 1, pinged: 1, chosen: 1 } }] }
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
            tls:
              server_names: [a.example, "*.b.example"]
              client_certificate: true
              subject: { prefix: CN= }
              san: spiffe://mesh.example/web
          to: { api: 90, canary: 10 }
          timeout: 5s
          rewrite: { prefix: / }
          host_rewrite: internal:8080
          request_headers: { set: { X-Via: meshproxy }, add: { a: b }, remove: [X-Internal] }
          response_headers: { set: { a: b } }
          upgrades: [WebSocket]
          stream_idle_timeout: 1m
          retry:
            on: [connect-failure, refused-stream, reset, 5xx, gateway-error, retriable-4xx]
            attempts: 3
            statuses: [429, 500-502]
            headers: [X-Retry]
            per_try_timeout: 1s
            backoff: { base: 50ms, max: 1s }
            max_retry_after: 2s
            non_idempotent: false
            max_body: 128KiB
            response_buffer: 32KiB
            buffer_streams: true
            hedge: true
          mirror: { to: shadow, percent: 12.5, max_body: 16KiB }
          hash_by:
            - header: X-User
            - cookie: { name: user, ttl: 1h, path: /api }
            - query: user
            - source_ip
          subset: { version: v2 }
          priority: high
          filters: [outer: false]
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
      max_duration: 24h
      max_connect_attempts: 3
      subset: { role: primary }
      filters: [t_judge]
      access_log: { path: /var/log/db.log, format: json }
  by-name:
    listen: 127.0.0.1:9443
    tcp:
      routes:
        - { match: { server_names: [db.example] }, to: db, subset: { role: primary } }
        - to: inside
      hello_timeout: 5s
clusters:
  inside: { endpoints: [127.0.0.1:10443] }
  api:
    endpoints:
      - 127.0.0.1:9001
      - address: localhost:9002
        weight: 2
        priority: 1
        labels: { version: v2, stage: live }
        zone: eu-1
        health_check: { port: 9102, disabled: false }
      - unix:/run/x.sock
      - "[::1]:9003"
    balance: ring_hash
    hash_by: { query: user }
    sticky: { cookie: { name: sticky, ttl: 1d, path: / } }
    subset: { stage: live }
    subsets: { fallback: default, default: { version: v2 } }
    panic_threshold: 30
    overprovisioning: 1.5
    zone_aware: true
    health_check:
      http:
        path: /healthz?deep=1
        method: HEAD
        host: api.internal
        headers: { X-From: mesh }
        statuses: [200-299, 404]
      interval: 2s
      unhealthy_interval: 500ms
      no_traffic_interval: 1m
      jitter: 20
      timeout: 500ms
      unhealthy_threshold: 2
      healthy_threshold: 1
      port: 9100
      closes_breaker: false
    circuit_breaker:
      failure_threshold: 3
      local_failure_threshold: 2
      base_ejection_time: 5s
      max_ejection_time: 1m
      max_ejection_percent: 50
      interval: 5s
      success_rate: { deviations: 2.5, min_endpoints: 3, min_requests: 10 }
      failure_percentage: { threshold: 60, min_endpoints: 1, min_requests: 20 }
      half_open: probe
    limits:
      connections: 100
      pending: 10
      requests: 50
      retries: 5
      high: { connections: 120, pending: 20, requests: 60, retries: 6 }
    endpoint_limits:
      adaptive:
        initial: 10
        min: 2
        max: 200
        interval: 200ms
        percentile: 90
        buffer: 50
        recalibrate: 30s
      rate: { requests: 100, per: 1s, burst: 20 }
    endpoint_metrics: true
    timeout: 20s
    connect_timeout: 1s
    pool:
      max_connections: 100
      warm: 1
      preconnect: 1.5
      idle_timeout: 60s
      max_requests: 1000
      max_lifetime: 10m
      pending_timeout: 1s
    proxy_protocol: v2
    nodelay: false
    keepalive: true
  canary:
    endpoints:
      - { address: canary.example:443, labels: { version: v2 }, server_name: a.canary.example }
      - { srv: _canary._tcp.example, labels: { version: v2 } }
    resolve: strict
    dns:
      servers: [127.0.0.1, "[::1]:5353"]
      family: ipv4
      min_ttl: 2s
      max_ttl: 1m
      negative_ttl: 3s
      timeout: 2s
      jitter: 5
    tls:
      verify: true
      ca: ca.pem
      names: [other.example, 10.0.0.1]
      pins: [sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=]
      certificate: { chain: client.pem }
      crl: ca.crl
      depth: 1
      alpn: [http/1.1]
      min_version: "1.2"
      max_version: "1.3"
      ciphers: [ECDHE-ECDSA-AES128-GCM-SHA256]
      curves: [X25519]
      resume: false
    balance: random
    slow_start: { window: 30s, aggression: 1.5, min_weight_percent: 5 }
    retry_budget: { percent: 25, min_concurrent: 5 }
    endpoint_limits: { concurrency: 10 }
    limits: { high: { requests: 10 } }
    health_check: { dns: { name: mesh.test, type: A, rcodes: [NOERROR] } }
  shadow:
    discovery: { file: shadow.yaml, interval: 5s }
    health_check: { tcp: { send: "ping", expect: "hex:706f6e67" } }
  listed:
    tls: { server_name: listed.example }
    discovery:
      http: https://mesh.example/endpoints?cluster=listed
      headers: { Authorization: secret }
      interval: 30s
      timeout: 2s
    health_check: { command: [/usr/bin/check, "{host}", "{port}"] }
  pinged: { endpoints: [127.0.0.1:9006], health_check: { icmp: true } }
  chosen:
    balance: { t_last: { word: b } }
    discovery: { plugin: { t_listed: { endpoints: [127.0.0.1:9007] } } }
    health_check: { plugin: t_port, interval: 3s }
  db:
    endpoints: [{ address: 127.0.0.1:9005, labels: { role: primary } }]
    proxy_protocol: v1
"""
)


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


def filtered(filters: str, host: str = "", route: str = "", listener: str = "") -> str:
    """A configuration: line 5 has the listener's own, 7 http's, 9 a host's, 12 a route's."""
    return f"plugins: [{DROPINS}]\n" + textwrap.dedent("""\
            listeners:
              web:
                listen: ":80"
                listener_filters: [%s]
                http:
                  filters: [%s]
                  hosts:
                    a: { filters: [%s], routes: [] }
                  routes:
                    - respond: {}
                      filters: [%s]
            """) % (listener, filters, host, route)

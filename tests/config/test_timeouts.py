"""Time limits for everybody: the nearest one wins, and what was written is still known."""

from __future__ import annotations

import pytest

from meshproxy.config import Configuration, Http, Timeouts, load
from meshproxy.config.timeouts import spread_timeouts
from tests.config.texts import SMALL, messages_of

ALL = """\
timeouts:
  connect: 1s
  exchange: 2s
  per_try: 500ms
  headers: 4s
  request: 5s
  stream_idle: 6s
  connection_idle: 7s
  upstream_idle: 8s
  max_connection_age: 9s
"""

PLAIN = """\
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      retry: {}
      hosts: { a: { routes: [{ to: api }] } }
      routes: [{ to: api, retry: {} }, { to: api }]
  db: { listen: 127.0.0.1:8081, tcp: { to: api } }
clusters: { api: { endpoints: [127.0.0.1:9001] } }
"""

NEARER = """\
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      retry: { per_try_timeout: 11s }
      headers_timeout: 12s
      request_timeout: 0
      stream_idle_timeout: 13s
      idle_timeout: 14s
      max_connection_age: 0
      hosts: { a: { routes: [{ to: api, timeout: 15s }] } }
      routes:
        - { to: api, timeout: 0, stream_idle_timeout: 16s, retry: { per_try_timeout: 0 } }
  db: { listen: 127.0.0.1:8081, tcp: { to: api, idle_timeout: 17s } }
clusters:
  api:
    endpoints: [127.0.0.1:9001]
    connect_timeout: 18s
    pool: { idle_timeout: 19s, max_lifetime: 0 }
"""


def loaded(text: str) -> tuple[Configuration, Http]:
    """The configuration of a text, and its listener `web`."""
    configuration = load(text, "m").configuration
    http = configuration.listeners["web"].http
    assert http is not None
    return configuration, http


def test_nothing_is_written_by_default() -> None:
    """Without `timeouts` every limit is the one of its own place."""
    assert Timeouts().model_dump(exclude_none=True) == {}
    configuration, http = loaded(PLAIN)
    assert (http.headers_timeout, http.idle_timeout) == (15.0, 3600.0)
    assert (http.routes[0].timeout, configuration.clusters["api"].connect_timeout) == (15.0, 5.0)


def test_they_reach_every_place() -> None:
    """Listeners, hosts, routes, their retries, clusters and pools."""
    configuration, http = loaded(ALL + PLAIN)
    assert (http.headers_timeout, http.request_timeout) == (4.0, 5.0)
    assert (http.stream_idle_timeout, http.idle_timeout, http.max_connection_age) == (6, 7, 9)
    assert [route.timeout for route in http.routes] == [2.0, 2.0]
    assert http.hosts["a"].routes[0].timeout == 2.0
    assert http.routes[0].stream_idle_timeout is None  # the listener's counts
    for retry in (http.retry, http.routes[0].retry):
        assert retry is not None
        assert retry.per_try_timeout == 0.5
    assert http.routes[1].retry is None
    tcp = configuration.listeners["db"].tcp
    assert tcp is not None
    assert tcp.idle_timeout == 7.0
    cluster = configuration.clusters["api"]
    assert (cluster.connect_timeout, cluster.timeout) == (1.0, None)
    assert (cluster.pool.idle_timeout, cluster.pool.max_lifetime) == (8.0, 9.0)


def test_what_is_nearer_wins() -> None:
    """Whatever is written in its own place stays, 0 too, as if there were no `timeouts`."""
    for text in (NEARER, ALL + NEARER):
        configuration, http = loaded(text)
        assert (http.headers_timeout, http.request_timeout) == (12.0, 0.0)
        assert (http.stream_idle_timeout, http.idle_timeout) == (13.0, 14.0)
        assert http.max_connection_age == 0.0
        assert http.hosts["a"].routes[0].timeout == 15.0
        assert (http.routes[0].timeout, http.routes[0].stream_idle_timeout) == (0.0, 16.0)
        retries = (http.retry, http.routes[0].retry)
        assert [retry.per_try_timeout for retry in retries if retry is not None] == [11.0, 0.0]
        tcp = configuration.listeners["db"].tcp
        assert tcp is not None
        assert tcp.idle_timeout == 17.0
        cluster = configuration.clusters["api"]
        assert cluster.connect_timeout == 18.0
        assert (cluster.pool.idle_timeout, cluster.pool.max_lifetime) == (19.0, 0.0)


def test_what_was_written_is_still_known() -> None:
    """A limit for everybody is not one of the route: it never cuts gRPC or an event stream."""
    configuration, http = loaded(ALL + PLAIN)
    assert http.model_fields_set == {"retry", "hosts", "routes"}
    assert http.routes[1].model_fields_set == {"to"}
    assert http.hosts["a"].routes[0].model_fields_set == {"to"}
    assert http.routes[0].retry is not None
    assert http.routes[0].retry.model_fields_set == set()
    cluster = configuration.clusters["api"]
    assert cluster.model_fields_set == {"endpoints"}
    assert cluster.pool.model_fields_set == set()
    assert "timeout" in loaded(ALL + NEARER)[1].routes[0].model_fields_set


def test_the_text_is_what_is_shown() -> None:
    """What the admin writes out is the file's vocabulary: the limits once, where they stand."""
    configuration, _ = loaded(ALL + SMALL)
    dumped = configuration.model_dump(mode="json", exclude_unset=True)
    assert dumped["timeouts"]["exchange"] == "2s"
    assert dumped["clusters"] == {"api": {"endpoints": [{"address": "127.0.0.1:9001"}]}}
    assert dumped["listeners"]["web"]["http"] == {"routes": [{"to": {"api": 1}}]}


def test_the_values_given_are_left_alone() -> None:
    """A configuration is frozen; spreading gives another one, and twice gives the same."""
    plain = Configuration.model_validate(
        {
            "timeouts": {"connect": "1s"},
            "listeners": {"a": {"listen": ":0", "http": {"routes": [{"to": "b"}]}}},
            "clusters": {"b": {"endpoints": ["127.0.0.1:1"]}},
        }
    )
    spread = spread_timeouts(plain)
    assert plain.clusters["b"].connect_timeout == 5.0
    assert spread.clusters["b"].connect_timeout == 1.0
    assert spread_timeouts(spread) == spread


@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [
        (
            (
                "connect: 1s, exchange: 0, per_try: 0, headers: 1s, request: 0, stream_idle: 0, "
                "connection_idle: 0, upstream_idle: 1s, max_connection_age: 0"
            ),
            [],
        ),
        ("connect: 0", ["this duration cannot be 0"]),
        ("headers: 0", ["this duration cannot be 0"]),
        ("upstream_idle: 0", ["this duration cannot be 0"]),
        ("exchange: 5", ["a duration needs a unit"]),
        ("exchange: .inf", ["a duration needs a unit"]),
        ("per_try: -1s", ["a duration cannot be negative"]),
        ("idle: 5s", ["unknown key 'idle'"]),
        ("stream_idle: ~", ["'stream_idle' has no value"]),
    ],
)
def test_timeouts(timeouts: str, expected: list[str]) -> None:
    """Every key is a duration; those that cannot be switched off refuse 0."""
    found = messages_of(f"timeouts: {{ {timeouts} }}\n" + SMALL)
    assert [
        message[: len(start)] for message, start in zip(found, expected, strict=False)
    ] == expected
    assert len(found) == len(expected)

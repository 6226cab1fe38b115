"""What the access log gets of exchanges that took several tries, or none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.http import retry as retry_module
from meshproxy.observe.access import compile_format
from tests.http.world import World, get, ok

Make = Callable[..., World]

TEXT = """
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - match: { path: /here }
          name: here
          respond: { status: 200, body: "here" }
        - to: site
          name: there
          retry: { on: [5xx] }
clusters:
  site: { endpoints: [127.0.0.1:9001, 127.0.0.1:9002] }
"""


def test_the_last_try_is_what_is_recorded(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoint, our end of its connection, its times; and how many there were."""
    monkeypatch.setattr(retry_module, "random", lambda: 1.0)
    made = world(TEXT)
    made.client(get())
    made.turn(1.0)
    made.upstream.receive(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    made.turn(0.5)
    made.upstream.receive(ok(b"hello"))
    (record,) = made.records
    assert (record.attempts, record.status, record.bytes_sent) == (2, 200, 5)
    assert (record.upstream, record.upstream_local) == (b"127.0.0.1:9002", b"127.0.0.1:50001")
    assert (record.cluster_name, record.route_name) == (b"site", b"there")
    assert record.upstream_start == record.connected_at == pytest.approx(1001.025)
    assert (record.start, record.response_start, record.end) == (1000.0, 1001.5, 1001.5)
    line = compile_format("json", made.clock.seconds)(record)
    assert b'"attempts":2' in line.replace(b" ", b"")
    made.settle()


def test_without_an_upstream(world: Make) -> None:
    """Nothing is said of one; a request nobody routes names neither route nor cluster."""
    made = world(TEXT)
    made.client(get(b"/here"))
    (record,) = made.records
    assert (record.upstream, record.cluster_name, record.attempts) == (b"", b"", 0)
    assert (record.route_name, record.listener_name) == (b"here", b"web")
    assert (record.scheme, record.local) == (b"http", b"127.0.0.1:8080")
    made.settle()

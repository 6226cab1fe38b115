"""A balancer, a discovery, a health check and an access log of somebody's, in the running proxy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness import HOST, HttpUpstream, Proxy, Received, Server, echo, run
from tests.integration.wire import Broken, ask, eventually, metric

PLUGINS = Path(__file__).parent / "plugins"

CONFIG = f"""
plugins: [{PLUGINS}]
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      access_log:
        - {{ path: access.log, format: json }}
        - {{ plugin: {{ append: {{ path: plugin.log }} }} }}
      routes: [{{ match: {{ prefix: /pick }}, to: bad }}, {{ to: site }}]
  raw:
    listen: '127.0.0.1:$raw'
    tcp: {{ to: echo, access_log: {{ plugin: {{ append: {{ path: plugin.log }} }} }} }}
clusters:
  site:
    discovery:
      plugin: {{ given: {{ endpoints: ['127.0.0.1:$a', '127.0.0.1:$b', '127.0.0.1:$c'] }} }}
    balance: take_last
    health_check:
      plugin: {{ not_port: {{ port: $c }} }}
      interval: 100ms
      timeout: 50ms
      unhealthy_threshold: 1
  bad:
    endpoints: ['127.0.0.1:$a', '127.0.0.1:$b']
    balance: {{ take_last: {{ bad: 2 }} }}
  echo:
    endpoints: ['127.0.0.1:$d', '127.0.0.1:$e']
    balance: take_last
"""


def _named(name: bytes) -> HttpUpstream:
    def answer(_: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + name

    return HttpUpstream(answer)


def test_all_four() -> None:
    """Requests go to the last that is well, every one is logged, and all is closed at the end."""
    with _named(b"a") as a, _named(b"b") as b, _named(b"c") as c, Server(echo) as d:
        ports = {"a": a.port, "b": b.port, "c": c.port, "d": 1, "e": d.port}
        with Proxy(CONFIG, ports=ports) as proxy:
            eventually(lambda: ask(proxy).body == b"b", "the last to be found unwell")
            assert {ask(proxy, "/x").body for _ in range(5)} == {b"b"}
            # An access log that raises harms nobody, nor the other log.
            assert ask(proxy, "/boom").body == b"b"
            assert metric(proxy, "meshproxy_plugin_errors_total", kind="access_log") == 1
            assert metric(proxy, "meshproxy_plugin_errors_total", kind="balancer") == 0
            assert metric(proxy, "meshproxy_cluster_health_checks_failed_total", cluster="site")
            # A pick that raises costs its client's connection, and nobody else anything.
            assert ask(proxy, "/pick").body == b"b"
            with pytest.raises((Broken, OSError)):
                ask(proxy, "/pick")
            assert ask(proxy, "/pick").body == b"b"
            assert metric(proxy, "meshproxy_listener_requests_active", listener="web") == 0
            with proxy.connect("raw") as sock:
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
            shown = proxy.get("admin", "/clusters").body.decode()
            assert re.search(r'"source": ?{\s*"given": 3', shown)
            text = eventually(
                lambda: found if "raw" in (found := _read(proxy, "plugin.log")) else "", "a line"
            )
            assert f"web GET /x 200 {HOST}:{b.port}\n" in text
            assert f"raw   0 {HOST}:{d.port}\n" in text
            assert "/boom" not in text
            proxy.stop()
            assert _read(proxy, "plugin.log").endswith("closed\nclosed\n")
            assert '"/boom"' in _read(proxy, "access.log")


def test_a_plugin_that_does_not_start(tmp_path: Path) -> None:
    """An access log that cannot open its file keeps the proxy from starting, with its place."""
    file = tmp_path / "mesh.yaml"
    text = CONFIG.replace("path: plugin.log", "path: no/such/folder.log")
    for number, name in enumerate(("web", "raw", "a", "b", "c", "d", "e")):
        text = text.replace(f"127.0.0.1:${name}'", f"127.0.0.1:{0 if number < 2 else number}'")
    file.write_text(text.replace("$c", "5"))
    ended = run(["--config", str(file)], tmp_path)
    assert ended.returncode == 1
    assert (
        "meshproxy: access log 'append' of listener 'web' "
        "(listeners.web.http.access_log[1].plugin) does not start: "
    ) in ended.stderr


def _read(proxy: Proxy, name: str) -> str:
    return (proxy.directory / name).read_text()

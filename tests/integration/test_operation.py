"""
Running it: start, refusal to start, stop, log rotation, metrics and the admin.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HOST, HttpUpstream, Proxy, ProxyError, Received, echo, free_port, run
from tests.harness import Server as EchoServer
from tests.integration.wire import Client, ask, eventually, log_lines, metric

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      access_log: { path: access.log, format: json }
      routes:
        - { name: hello, match: { path: /hello }, respond: { body: hello } }
        - { name: rest, to: site }
  lines:
    listen: '127.0.0.1:$lines'
    http:
      access_log:
        { path: lines.log, format: '%REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE% %ROUTE_NAME%' }
      routes: [{ name: all, respond: { body: x } }]
  text:
    listen: '127.0.0.1:$text'
    http: { access_log: { path: text.log }, routes: [{ to: site }] }
  tcp: { listen: '127.0.0.1:$tcp', tcp: { to: back } }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
  back: { endpoints: ['127.0.0.1:$back'] }
"""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy before an HTTP upstream and an echo."""
    with (
        HttpUpstream() as site,
        EchoServer(echo) as back,
        Proxy(CONFIG, ports={"site": site.port, "back": back.port}) as running,
    ):
        yield running


def own() -> Proxy:
    """A proxy to be stopped: no upstream answers it."""
    return Proxy(CONFIG, ports={"site": 1, "back": 1})


def test_a_busy_port() -> None:
    """The error names the listener; status 1; nothing else stays bound; no traceback."""
    with socket.create_server((HOST, 0)) as holder:
        busy = holder.getsockname()[1]
        proxy = Proxy(CONFIG, ports={"site": 1, "back": 1, "tcp": busy})
        with pytest.raises(ProxyError) as caught, proxy:
            pass
        assert proxy.status == 1
        message = str(caught.value)
        assert "'tcp'" in message
        assert f"{HOST}:{busy}" in message
        assert "in use" in message.lower()
        assert "Traceback" not in message
        for name in ("web", "lines", "text", "admin"):
            with socket.socket() as probe:
                probe.bind((HOST, proxy.ports[name]))


def test_a_busy_admin_port(tmp_path: Path) -> None:
    """The admin is named as any listener, and no listener stays bound."""
    with socket.create_server((HOST, 0)) as holder:
        busy, web = holder.getsockname()[1], free_port()
        (tmp_path / "x.yaml").write_text(
            f"admin: {{ listen: '{HOST}:{busy}' }}\n"
            f"listeners: {{ web: {{ listen: '{HOST}:{web}', "
            "http: { routes: [{ respond: { body: x } }] } } }\n"
        )
        result = run(["--config", "x.yaml"], tmp_path)
        assert result.returncode == 1
        assert "admin" in result.stderr
        assert f"{HOST}:{busy}" in result.stderr
        assert "Traceback" not in result.stderr + result.stdout
        with socket.socket() as probe:
            probe.bind((HOST, web))


def test_a_bad_configuration(tmp_path: Path) -> None:
    """All its errors at their places on standard error, status 1, and nothing is bound."""
    (tmp_path / "bad.yaml").write_text(
        "listeners:\n"
        "  web:\n"
        "    listen: 127.0.0.1:99999\n"
        "    http:\n"
        "      routes:\n"
        "        - { to: sight }\n"
        "        - { match: { prefx: /a }, to: site }\n"
        "        - { to: site, filters: [rate_limits] }\n"
        "clusters:\n"
        "  site: { endpoints: [127.0.0.1:1], balance: round_robbin, http2: {} }\n"
    )
    for arguments in (["--config", "bad.yaml"], ["--config", "bad.yaml", "--check"]):
        result = run(arguments, tmp_path)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr + result.stdout
        places = re.findall(r"^(?:.*/)?bad\.yaml:(\d+):(\d+): ", result.stderr, re.MULTILINE)
        assert {int(line) for line, _ in places} >= {3, 6, 7, 8, 10}
        for hint in ("'site'", "'prefix'", "'rate_limit'", "'round_robin'"):
            assert f"did you mean {hint}" in result.stderr
        assert "not supported by this version" in result.stderr


@pytest.mark.parametrize("kind", ["directory", "missing", "empty", "no text"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    """One clear line and status 1."""
    file = tmp_path / "x.yaml"
    if kind == "directory":
        file.mkdir()
    elif kind == "empty":
        file.write_text("")
    elif kind == "no text":
        file.write_bytes(b"\xff\xfe\x00listeners")
    result = run(["--config", str(file)], tmp_path)
    assert result.returncode == 1
    assert "x.yaml" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_an_access_log_that_cannot_be_written() -> None:
    """Said at the start, with the path, and nothing is bound."""
    config = CONFIG.replace("path: text.log", "path: /proc/nowhere/text.log")
    proxy = Proxy(config, ports={"site": 1, "back": 1})
    with pytest.raises(ProxyError, match="/proc/nowhere/text.log"), proxy:
        pass
    assert proxy.status == 1


def test_pings_that_are_forbidden(tmp_path: Path) -> None:
    """It does not start where the kernel would not let it check, and says where that is asked."""
    web = free_port()
    (tmp_path / "x.yaml").write_text(
        f"listeners: {{ web: {{ listen: '{HOST}:{web}', tcp: {{ to: site }} }} }}\n"
        "clusters:\n"
        f"  site: {{ endpoints: ['{HOST}:1'], health_check: {{ icmp: true }} }}\n"
    )
    # Nothing on loopback is asked: what counts is whether this group may ping.
    low, high = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    groups = {os.getegid(), *os.getgroups()}
    if any(low <= group <= high for group in groups):
        pytest.skip("this group may ping")
    result = run(["--config", "x.yaml"], tmp_path)
    assert result.returncode == 1
    assert "x.yaml:3:61: clusters.site.health_check.icmp: the kernel forbids" in result.stderr
    assert "ping_group_range" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    with socket.socket() as probe:
        probe.bind((HOST, web))


def test_clients_wait_for_the_first_endpoints() -> None:
    """It is not ready before its sources have spoken; a client's request waits and is answered."""
    known = threading.Event()

    def answer(request: Received) -> bytes:
        known.wait(20)
        body = f'["{site.address}"]'.encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    text = (
        "listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ to: site }] } } }\n"
        "clusters: { site: { discovery: { http: 'http://127.0.0.1:$source/' } } }\n"
    )
    with (
        HttpUpstream() as site,
        HttpUpstream(answer) as source,
        Proxy(text, ports={"source": source.port}, ready="web") as proxy,
        Client.to(proxy) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(lambda: source.requests, "the first question")
        assert proxy.get("admin", "/ready").status == 503
        assert proxy.get("admin", "/live").status == 200
        assert site.requests == []
        known.set()
        assert client.response().body == b"ok\n"
        assert proxy.get("admin", "/ready").status == 200
        assert metric(proxy, "meshproxy_cluster_discovery_updates_total", cluster="site") == 1
        assert "discovery cluster=site endpoints=1" in proxy.stdout


def test_a_source_that_fails_at_the_start() -> None:
    """It starts all the same, answers 503 at once, says why, and picks up what comes later."""
    text = (
        "listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ to: site }] } } }\n"
        "clusters: { site: { discovery: { file: late/site.yaml, interval: 50ms } } }\n"
    )
    with HttpUpstream() as site, Proxy(text) as proxy:
        assert proxy.get("admin", "/ready").status == 200
        assert ask(proxy).status == 503
        assert 'discovery cluster=site error="' in proxy.stdout
        assert metric(proxy, "meshproxy_cluster_discovery_failures_total", cluster="site") >= 1
        (proxy.directory / "new").mkdir()
        (proxy.directory / "new" / "site.yaml").write_text(f"- '{site.address}'\n")
        os.rename(proxy.directory / "new", proxy.directory / "late")
        eventually(lambda: ask(proxy).status == 200, "the endpoint to be known")
        text = proxy.get("admin", "/clusters", Accept="text/plain").body.decode()
        assert site.address in text
        assert "source:" in text


def test_sigterm_before_anything_is_known() -> None:
    """A proxy that waits for its sources ends at once when it is told to."""
    silent = threading.Event()

    def answer(request: Received) -> None:
        silent.wait(20)

    text = (
        "listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ to: site }] } } }\n"
        "clusters: { site: { discovery: { http: 'http://127.0.0.1:$source/' } } }\n"
    )
    with (
        HttpUpstream(answer) as source,
        Proxy(text, ports={"source": source.port}, ready="web") as proxy,
    ):
        eventually(lambda: source.requests, "the first question")
        assert proxy.stop() in (0, -signal.SIGTERM)
        silent.set()
        assert "Traceback" not in proxy.output
        assert "Unhandled" not in proxy.output


def test_sigterm_finishes_what_is_under_way() -> None:
    """The request gets its whole answer, newcomers are refused, and the process ends well."""
    asked, go = threading.Event(), threading.Event()

    def answer(request: Received) -> bytes:
        asked.set()
        go.wait(20)
        return b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole"

    with (
        HttpUpstream(answer) as site,
        EchoServer(echo) as back,
        Proxy(CONFIG, ports={"site": site.port, "back": back.port}) as proxy,
    ):
        idle = Client.to(proxy)
        assert idle.ask("/hello").status == 200
        with Client.to(proxy) as client:
            client.send(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n")
            assert asked.wait(20)
            proxy.send_signal(signal.SIGTERM)
            assert idle.ended()

            def refused() -> bool:
                try:
                    proxy.connect("web").close()
                except ConnectionRefusedError:
                    return True
                return False

            eventually(refused, "new connections to be refused")
            go.set()
            response = client.response()
            assert (response.status, response.body) == (200, b"whole")
            assert client.ended()
        eventually(lambda: proxy.process.poll() is not None, "the end")
        # Every line of the log is there.
        text = (proxy.directory / "access.log").read_text()
        assert [json.loads(line)["path"] for line in text.splitlines()] == ["/hello", "/late"]
        assert proxy.stop() in (0, -signal.SIGTERM)
        assert "Traceback" not in proxy.output


def test_sigterm_with_nothing_to_do() -> None:
    """Idle connections do not keep it."""
    with own() as proxy:
        with Client.to(proxy) as client:
            assert client.ask("/hello").status == 200
            assert proxy.stop() in (0, -signal.SIGTERM)
            assert client.ended()
        assert "Traceback" not in proxy.output


@pytest.mark.parametrize("way", ["signal", "admin"])
def test_logs_are_reopened(way: str) -> None:
    """After rotation, new lines go to a new file, and none is lost or written twice."""
    with own() as proxy:
        ask(proxy, "/hello")
        (line,) = log_lines(proxy, path="/hello")
        assert (line["route"], line["listener"], line["status"]) == ("hello", "web", 200)
        file = proxy.directory / "access.log"
        ask(proxy, "/before")
        os.rename(file, proxy.directory / "old.log")
        if way == "signal":
            proxy.send_signal(signal.SIGUSR1)
        else:
            with Client.to(proxy, "admin") as client:
                host = f"{HOST}:{proxy.ports['admin']}"
                assert client.ask("/logs/reopen", "POST", host=host).status in (200, 202, 204)
        eventually(file.exists, "the new file")
        assert file.stat().st_mode & 0o777 == 0o640
        ask(proxy, "/after")
        assert [line["path"] for line in log_lines(proxy, path="/after")] == ["/after"]
        old = (proxy.directory / "old.log").read_text().splitlines()
        assert [json.loads(line)["path"] for line in old] == ["/hello", "/before"]


def test_formats_of_the_log(proxy: Proxy) -> None:
    """Text as Envoy's default, a line of one's own, and no way to forge a line."""
    ask(proxy, "/x", "POST", listener="lines")
    lines = proxy.directory / "lines.log"
    eventually(lambda: lines.exists() and lines.read_text(), "the line")
    assert lines.read_text() == "POST HTTP/1.1 200 all\n"
    ask(proxy, "/y?q=1", listener="text", user_agent='me" "forged', authorization="Basic c2VjcmV0")
    text = proxy.directory / "text.log"
    eventually(lambda: text.exists() and text.read_text(), "the line")
    line = text.read_text()
    assert re.match(r'\[[0-9T:.-]+Z\] "GET /y\?q=1 HTTP/1\.1" 200 - 0 3 \d+ ', line)
    assert line.count("\n") == 1
    assert '"me" "forged"' not in line
    assert "c2VjcmV0" not in line


def test_metrics_count_what_was_sent(proxy: Proxy) -> None:
    """Requests, classes of status, bytes, connections, durations; for listeners and clusters."""

    def counted() -> list[float]:
        return [
            metric(proxy, "meshproxy_listener_responses_total", listener="web", **{"class": "2xx"}),
            metric(proxy, "meshproxy_listener_responses_total", listener="web", **{"class": "4xx"}),
            metric(proxy, "meshproxy_listener_bytes_received_total", listener="web"),
            metric(proxy, "meshproxy_listener_bytes_sent_total", listener="web"),
            metric(proxy, "meshproxy_listener_connections_total", listener="web"),
            metric(proxy, "meshproxy_cluster_bytes_sent_total", cluster="site"),
            metric(proxy, "meshproxy_cluster_responses_total", cluster="site", **{"class": "2xx"}),
            metric(proxy, "meshproxy_route_responses_total", route="hello", **{"class": "2xx"}),
            metric(proxy, "meshproxy_listener_request_duration_seconds_count", listener="web"),
            metric(proxy, "meshproxy_listener_bytes_received_total", listener="tcp"),
        ]

    before = counted()
    with Client.to(proxy) as client:
        for _ in range(7):
            assert client.ask("/x", "POST", b"four").body == b"ok\n"
        for _ in range(3):
            assert client.ask("/hello").body == b"hello"
        assert client.send(b"nonsense\r\n\r\n").response().status == 400
    with proxy.connect("tcp") as sock:
        sock.sendall(b"x" * 1000)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    expected = [10, 1, 28, 36, 1, 28, 7, 3, 11, 1000]
    eventually(
        lambda: [a - b for a, b in zip(counted(), before, strict=True)] == expected,
        f"the counts {expected}",
    )


def test_the_admin(proxy: Proxy) -> None:
    """Its pages answer: text for health, JSON for programs, HTML for people."""
    assert proxy.get("admin", "/ready").status == 200
    assert proxy.get("admin", "/live").status == 200
    assert b"meshproxy_listener_connections_active" in proxy.get("admin", "/metrics").body
    stats = proxy.get("admin", "/stats?filter=listener_connections")
    assert b"meshproxy_listener_connections" in stats.body
    assert b"meshproxy_cluster" not in stats.body
    assert proxy.get("admin", "/stats?filter=(").status == 400
    clusters = json.loads(proxy.get("admin", "/clusters").body)
    assert f"{HOST}:{proxy.ports['site']}" in json.dumps(clusters)
    table = proxy.get("admin", "/clusters?format=text")
    assert table.headers["content-type"].startswith("text/plain")
    assert f"{HOST}:{proxy.ports['site']}".encode() in table.body
    listeners = json.loads(proxy.get("admin", "/listeners").body)
    assert f"{HOST}:{proxy.ports['web']}" in json.dumps(listeners)
    assert json.loads(proxy.get("admin", "/config").body)["listeners"]["web"]
    assert proxy.get("admin", "/version").status == 200
    page = proxy.get("admin", "/", Accept="text/html")
    assert page.headers["content-type"].startswith("text/html")
    assert proxy.get("admin", "/nothing").status == 404


def test_the_admin_is_careful(proxy: Proxy) -> None:
    """What changes anything is POST, and not from another site's page or name."""
    host = f"{HOST}:{proxy.ports['admin']}"
    with Client.to(proxy, "admin") as client:
        got = client.ask("/logs/reopen", host=host)
        assert (got.status, got.get("allow")) == (405, "POST")
    for named, origin in (("evil.example", host), (host, "evil.example")):
        with Client.to(proxy, "admin") as client:
            got = client.ask("/logs/reopen", "POST", host=named, origin=f"http://{origin}")
            assert got.status in (400, 403, 421)

"""Well-known clients, as people use them. Each is skipped where it is not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HOST, HttpUpstream, Proxy, Received
from tests.integration.wire import metric

CONFIG = """
listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ to: site }] } } }
clusters: { site: { endpoints: ['127.0.0.1:$site'] } }
"""


def needs(program: str) -> pytest.MarkDecorator:
    """Skip without the program."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def _answer(request: Received) -> bytes:
    body = request.body or b"hello\n"
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy before an upstream that sends bodies back."""
    with (
        HttpUpstream(_answer) as upstream,
        Proxy(CONFIG, ports={"site": upstream.port}) as running,
    ):
        yield running


def call(*command: str | Path) -> str:
    """What the program prints; it must end with 0."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def url(proxy: Proxy, path: str = "/") -> str:
    """Of the listener."""
    return f"http://{HOST}:{proxy.ports['web']}{path}"


@needs("curl")
def test_curl(proxy: Proxy, tmp_path: Path) -> None:
    """GET, HEAD, keep-alive, an upload with 100-continue, chunked uploads, old and new HTTP."""
    assert call("curl", "-sSf", url(proxy)) == "hello\n"
    assert call("curl", "-sSfI", url(proxy)).startswith("HTTP/1.1 200 OK\n")
    assert call("curl", "-sSf0", url(proxy)) == "hello\n"
    assert call("curl", "-sSf", "--http2", url(proxy)) == "hello\n"
    assert call("curl", "-sSf", url(proxy, "/a"), url(proxy, "/b")) == "hello\nhello\n"
    assert call("curl", "-sSf", "--proxy", url(proxy), "http://site.test/") == "hello\n"
    assert call("curl", "-sSf", "-X", "OPTIONS", "--request-target", "*", url(proxy)) == "hello\n"
    file = tmp_path / "upload"
    file.write_bytes(b"0123456789abcdef" * 200_000)
    out = tmp_path / "download"
    for extra in (["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
        log = call(
            "curl", "-sSfv", "--stderr", "-", *extra, "-T", file, "-o", out, url(proxy, "/put")
        )
        assert out.read_bytes() == file.read_bytes()
        if "Expect: 100-continue" in extra:
            assert "HTTP/1.1 100 Continue" in log


@needs("wrk")
def test_wrk(proxy: Proxy) -> None:
    """A second of load: every answer is a 200, and the metrics know of each."""
    out = call("wrk", "-t1", "-c8", "-d1s", url(proxy))
    requests = re.search(r"(\d+) requests in", out)
    assert requests is not None
    assert int(requests[1]) >= 200
    assert "Non-2xx" not in out
    assert "Socket errors" not in out
    name = "meshproxy_listener_responses_total"
    assert metric(proxy, name, listener="web", **{"class": "2xx"}) >= int(requests[1])
    assert metric(proxy, name, listener="web", **{"class": "5xx"}) == 0


@needs("h2load")
def test_h2load(proxy: Proxy) -> None:
    """Pipelined HTTP/1.1 over several connections: all done, none failed."""
    out = call("h2load", "--h1", "-n200", "-c4", "-m4", url(proxy))
    assert "200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout" in out

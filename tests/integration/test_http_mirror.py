"""Mirroring over real sockets: copies arrive whole, and nothing they do is felt."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.wire import Client, RawUpstream, ask, eventually, metric, refusing

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      routes:
        - { match: { prefix: /refused }, to: site, mirror: refused }
        - { match: { prefix: /none }, to: site, mirror: { to: shadow, percent: 0 } }
        - { match: { prefix: /api }, to: site, rewrite: { prefix: / }, mirror: shadow }
        - { to: site, mirror: { to: shadow, max_body: 100KiB } }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
  shadow: { endpoints: ['127.0.0.1:$shadow'] }
  refused: { endpoints: ['$refused'] }
"""


class Shadow(RawUpstream):
    """Gets the copies and answers as badly as the path asks."""

    def __init__(self) -> None:
        super().__init__(self._act)
        self.release = threading.Event()

    def _act(self, data: bytes, sock: socket.socket) -> bytes | None:
        path = data.split(b" ", 2)[1]
        if b"stall" in path:
            self.release.wait(10)
            return None
        if b"close" in path:
            return None
        if b"garbage" in path:
            return b"no HTTP at all\r\n\r\n"
        return b"HTTP/1.1 500 Bad\r\ncontent-length: 3\r\n\r\nbad"


@pytest.fixture(scope="module")
def shadow() -> Iterator[Shadow]:
    """Where the copies go."""
    with Shadow() as server:
        yield server
        server.release.set()


@pytest.fixture(scope="module")
def site() -> Iterator[HttpUpstream]:
    """Where the answers come from."""

    def answer(request: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (
            len(request.body),
            request.body,
        )

    with HttpUpstream(answer) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(site: HttpUpstream, shadow: Shadow) -> Iterator[Proxy]:
    """A proxy that mirrors."""
    with refusing() as refused:
        text = CONFIG.replace("$refused", refused)
        with Proxy(text, ports={"site": site.port, "shadow": shadow.port}) as running:
            yield running


def copies(shadow: Shadow, path: bytes) -> list[bytes]:
    """The copies of requests for this path that arrived."""
    return [data for data in shadow.received if data.split(b" ", 2)[1] == path]


@pytest.mark.parametrize("way", ["500", "close", "garbage", "stall"])
def test_what_a_copy_meets_is_not_felt(proxy: Proxy, shadow: Shadow, way: str) -> None:
    """The client has its answer, one after another on one connection, and each copy arrives."""
    with Client.to(proxy) as client:
        for number in range(5):
            response = client.ask(f"/{number}/{way}", "PUT", body=b"hello")
            assert (response.status, response.body) == (200, b"hello")
    for number in range(5):
        path = b"/%d/%b" % (number, way.encode())
        copy, *_ = eventually(lambda path=path: copies(shadow, path), f"the copy of {path!r}")  # type: ignore[misc]
        assert copy.endswith(b"\r\n\r\nhello")


def test_copies_without_anybody_to_get_them(proxy: Proxy) -> None:
    """They are counted, and that is all."""
    for _ in range(3):
        assert ask(proxy, "/refused", "POST", body=b"x").body == b"x"

    def failures() -> bool:
        name = "meshproxy_cluster_mirror_failures_total"
        return metric(proxy, name, cluster="refused") == 3

    eventually(failures, "three failures")


def test_large_chunked_bodies(proxy: Proxy, shadow: Shadow) -> None:
    """Up to the bound they are copied byte for byte, with their trailers; over it they are not."""
    for path, size in (("/fits", 90_000), ("/over", 110_000)):
        with Client.to(proxy) as client:
            client.send(
                f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            )
            for _ in range(10):
                client.send(b"%x\r\n%b\r\n" % (size // 10, b"x" * (size // 10)))
            client.send(b"0\r\nx-sum: 1\r\n\r\n")
            assert len(client.response().body) == size
    (copy,) = eventually(lambda: copies(shadow, b"/fits"), "the copy")
    assert copy.count(b"x" * 9000) == 10
    assert copy.endswith(b"0\r\nx-sum: 1\r\n\r\n")
    assert copies(shadow, b"/over") == []


def test_rewritten_and_not_at_all(proxy: Proxy, shadow: Shadow) -> None:
    """A copy is what was sent on; with 0 percent there is none."""
    assert ask(proxy, "/none/at/all").status == 200
    assert ask(proxy, "/api/rewritten").status == 200
    eventually(lambda: copies(shadow, b"/rewritten"), "the copy")
    assert copies(shadow, b"/none/at/all") == []

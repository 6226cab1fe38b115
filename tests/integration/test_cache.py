"""The cache in the running proxy: sockets, files, threads, restarts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.wire import Client, Response, ask, eventually, metric

BODY = b"0123456789" * 1000

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      filters:
        - cache: { OPTIONS }
      routes:
        - match: { prefix: /off }
          filters: [{ cache: false }]
          to: site
        - to: site
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
"""


def answer(*headers: str, body: bytes = BODY, status: str = "200 OK") -> bytes:
    """A response of an origin."""
    lines = "".join(f"{header}\r\n" for header in headers)
    length = "" if status.startswith("304") else f"content-length: {len(body)}\r\n"
    head = f"HTTP/1.1 {status}\r\n{lines}{length}\r\n".encode()
    return head if status.startswith("304") else head + body


FRESH = answer("cache-control: max-age=600", 'etag: "1"')


@contextmanager
def running(
    origin: bytes | Callable[[Received], bytes | None], options: str = "memory: 10MiB"
) -> Iterator[tuple[Proxy, HttpUpstream]]:
    """A proxy with a cache in front of an origin."""
    text = CONFIG.replace("OPTIONS", options)
    with HttpUpstream(origin) as upstream, Proxy(text, ports={"site": upstream.port}) as proxy:
        yield proxy, upstream


def hits(proxy: Proxy) -> float:
    """How many requests were answered from the cache."""
    return metric(proxy, "meshproxy_filter_cache_hits_total")


def test_the_second_request_does_not_reach_the_origin() -> None:
    """One request at the origin, the same bytes for all; the route without the cache asks."""
    with running(FRESH) as (proxy, origin):
        with Client.to(proxy) as client:
            first = client.ask("/a")
            second = client.ask("/a")
            head = client.ask("/a", "HEAD")
            condition = client.ask("/a", if_none_match='"1"')
            part = client.ask("/a", range="bytes=5-14")
        assert first.body == second.body == BODY
        assert (first.get("age"), second.get("age")) == (None, "0")
        assert (head.status, head.body, head.get("content-length")) == (200, b"", str(len(BODY)))
        assert (condition.status, condition.get("content-length")) == (304, None)
        assert (part.status, part.body) == (206, b"5678901234")
        assert part.get("content-range") == f"bytes 5-14/{len(BODY)}"
        assert len(origin.requests) == 1
        assert hits(proxy) == 4
        ask(proxy, "/off")
        ask(proxy, "/off")
        assert len(origin.requests) == 3


def test_a_chunked_body_is_stored_and_has_a_length() -> None:
    """What is whole is served with its length."""
    chunked = (
        b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    )
    with running(chunked) as (proxy, origin):
        assert ask(proxy).body == b"hello world"
        hit = ask(proxy)
        assert (hit.body, hit.framing) == (b"hello world", "length")
        assert len(origin.requests) == 1


HEAD = b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 99\r\n\r\nhello",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"\r\nhello",
    ],
    ids=["length", "chunked", "until close"],
)
def test_what_may_be_cut_is_not_stored(rest: bytes) -> None:
    """RFC 9111, 3.3: with less than announced, without its last chunk, or of unknown end."""
    with running(HEAD + rest) as (proxy, origin):
        for _ in range(2):
            with proxy.connect("web") as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                try:
                    while sock.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        assert len(origin.requests) == 2
        assert metric(proxy, "meshproxy_filter_cache_stored_total") == 0


def test_twenty_at_a_time_are_one() -> None:
    """The others wait; one whose client goes away, the first one even, takes nobody with it."""
    gate = threading.Event()

    def slow(request: Received) -> bytes:
        gate.wait(30)
        return FRESH

    with running(slow, "collapse: { wait: 30s }") as (proxy, origin):
        first = Client.to(proxy)
        first.send(b"GET /a HTTP/1.1\r\nhost: test.example\r\n\r\n")
        eventually(lambda: len(origin.requests) == 1, "the first request")
        with ThreadPoolExecutor(20) as pool:
            asked = [pool.submit(ask, proxy, "/a") for _ in range(19)]
            collapsed = "meshproxy_filter_cache_collapsed_total"
            eventually(lambda: metric(proxy, collapsed) == 19, "the others to wait")
            assert len(origin.requests) == 1
            first.close()
            eventually(lambda: len(origin.requests) == 2, "the next one to go ahead")
            gate.set()
            bodies = {future.result().body for future in asked}
        assert bodies == {BODY}
        assert len(origin.requests) == 2


def test_revalidation_and_errors() -> None:
    """304 makes it fresh again; a 503, and an origin that is gone, bring the stale one."""
    state = {"status": "200 OK"}

    def origin(request: Received) -> bytes | None:
        if state["status"] == "gone":
            return None
        if request.values(b"if-none-match") == [b'"1"'] and state["status"] == "200 OK":
            return answer("cache-control: max-age=0", 'etag: "1"', status="304 Not Modified")
        return answer("cache-control: max-age=0", 'etag: "1"', status=state["status"])

    with running(origin, "stale_if_error: 1h") as (proxy, upstream):
        assert ask(proxy).body == BODY
        assert ask(proxy).body == BODY
        assert upstream.requests[-1].values(b"if-none-match") == [b'"1"']
        assert metric(proxy, "meshproxy_filter_cache_revalidated_total") == 1
        for status in ("503 Service Unavailable", "gone"):
            state["status"] = status
            stale = ask(proxy)
            assert (stale.status, stale.body) == (200, BODY)
        assert metric(proxy, "meshproxy_filter_cache_stale_total") == 2


def test_stale_while_revalidate() -> None:
    """The client gets the old one at once, the next one the new one."""
    bodies = iter((b"old", b"new", b"newest"))

    def origin(request: Received) -> bytes:
        return answer("cache-control: max-age=0, stale-while-revalidate=60", body=next(bodies))

    with running(origin) as (proxy, upstream):
        assert ask(proxy).body == b"old"
        assert ask(proxy).body == b"old"
        stored = "meshproxy_filter_cache_stored_total"
        eventually(lambda: metric(proxy, stored) == 2, "the new one")
        assert ask(proxy).body == b"new"
        eventually(lambda: len(upstream.requests) == 3, "the newest one to be asked for")


def on_disk(directory: Path) -> list[str]:
    """The files of a cache."""
    return [name for name in os.listdir(directory) if name.endswith(".response")]


def test_files_outlive_the_proxy(tmp_path: Path) -> None:
    """What did not fit into memory, and after a restart all, comes from files; rubbish does not."""
    directory = tmp_path / "cache"
    options = f"memory: 60KiB, disk: {{ directory: '{directory}' }}"
    with running(FRESH, options) as (proxy, origin):
        for number in range(10):
            ask(proxy, f"/{number}")
        eventually(lambda: len(on_disk(directory)) == 10, "the files")
        eventually(
            lambda: metric(proxy, "meshproxy_filter_cache_entries") < 10, "memory to be short"
        )
        bodies = {ask(proxy, f"/{number}").body for number in range(10)}
        assert bodies == {BODY}
        assert len(origin.requests) == 10
    (broken, cut, *_) = on_disk(directory)
    (directory / broken).write_bytes(b"rubbish")
    data = (directory / cut).read_bytes()
    (directory / cut).write_bytes(data[:-1] + b"x")
    with running(FRESH, options) as (proxy, origin):
        entries = "meshproxy_filter_cache_disk_entries"

        def all_there() -> bool:
            return metric(proxy, entries) >= 9

        eventually(all_there, "the index")
        answers = [ask(proxy, f"/{number}") for number in range(10)]
        assert {held.body for held in answers} == {BODY}
        assert 1 <= len(origin.requests) <= 3
        assert metric(proxy, "meshproxy_filter_cache_disk_failures_total") == 2


def test_two_proxies_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second one says so, and does not start."""
    options = f"disk: {{ directory: '{tmp_path}' }}"
    with running(FRESH, options) as (proxy, _):
        with pytest.raises(Exception, match="another process"), running(FRESH, options):
            pass  # pragma: no cover
        assert ask(proxy).body == BODY


def test_purge_and_change() -> None:
    """By the method PURGE, and by a POST that succeeds."""
    with running(FRESH, "purge: { networks: [127.0.0.1] }") as (proxy, origin):
        for target in ("/a/1", "/a/2", "/b"):
            ask(proxy, target)
        assert ask(proxy, "/a/*", "PURGE").body == b"2 purged"
        ask(proxy, "/b", "POST", body=b"x")
        for target in ("/a/1", "/b"):
            ask(proxy, target)
        assert len(origin.requests) == 6


def test_many_variants_from_many_clients() -> None:
    """Under load every client gets the variant that it asked for."""

    def origin(request: Received) -> bytes:
        value = request.values(b"x-a")[0]
        return answer("cache-control: max-age=60", "vary: x-a", body=value * 100)

    with running(origin, "variants: 4") as (proxy, _):

        def client(number: int) -> list[Response]:
            with Client.to(proxy) as connection:
                return [connection.ask("/v", x_a=f"{(number + i) % 7}") for i in range(40)]

        with ThreadPoolExecutor(8) as pool:
            for number, responses in enumerate(pool.map(client, range(8))):
                for i, response in enumerate(responses):
                    assert response.body == f"{(number + i) % 7}".encode() * 100
        assert metric(proxy, "meshproxy_filter_cache_entries") <= 4

"""Retries, hedging and budgets over real sockets: what clients get, and what it cost."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import HOST, HttpUpstream, Proxy, Received
from tests.integration.wire import (
    LOG,
    Client,
    RawUpstream,
    ask,
    eventually,
    linger_reset,
    log_lines,
    metric,
    refusing,
)

CONFIG = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      {LOG}
      retry: {{ on: [5xx], attempts: 2, backoff: {{ base: 5ms }} }}
      routes:
        - {{ match: {{ prefix: /refused }}, to: partly }}
        - {{ match: {{ prefix: /gone }}, to: gone }}
        - match: {{ prefix: /slow }}
          to: both
          retry: {{ on: [reset], per_try_timeout: 200ms, backoff: {{ base: 5ms }} }}
        - match: {{ prefix: /hedged }}
          to: both
          retry: {{ on: [reset], per_try_timeout: 200ms, hedge: true }}
        - {{ match: {{ prefix: /plain }}, to: both, retry: {{ attempts: 0 }} }}
        - {{ to: both }}
clusters:
  both: {{ endpoints: ['127.0.0.1:$bad', '127.0.0.1:$good'] }}
  partly: {{ endpoints: ['$refused', '127.0.0.1:$good'] }}
  gone: {{ endpoints: ['$refused'] }}
"""


class Bad(RawUpstream):
    """An endpoint that goes wrong in the way that the last part of the path says."""

    def __init__(self) -> None:
        super().__init__(self._act)
        self.release = threading.Event()

    def _act(self, data: bytes, sock: socket.socket) -> bytes | None:
        way = data.split(b" ", 2)[1].rpartition(b"/")[2].partition(b"?")[0]
        if way == b"reset":
            linger_reset(sock)
            return None
        if way == b"garbage":
            return b"SSH-2.0-OpenSSH\r\n\r\n"
        if way == b"half":
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            return None
        if way == b"half-a-head":
            sock.sendall(b"HTTP/1.1 200 OK\r\nconte")
            return None
        if way == b"close":
            return None
        if way == b"stall":
            self.release.wait(10)
            return None
        return b"HTTP/1.1 %b Bad\r\ncontent-length: 3\r\n\r\nbad" % way


@pytest.fixture(scope="module")
def bad() -> Iterator[Bad]:
    """The endpoint that misbehaves."""
    with Bad() as server:
        yield server
        server.release.set()


@pytest.fixture(scope="module")
def good() -> Iterator[HttpUpstream]:
    """The other one."""
    with HttpUpstream(_answer) as server:
        yield server


def _answer(request: Received) -> bytes:
    body = b"good " + request.body
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def proxy(bad: Bad, good: HttpUpstream) -> Iterator[Proxy]:
    """A proxy for both, and for an endpoint that refuses."""
    with refusing() as refused:
        text = CONFIG.replace("$refused", refused)
        with Proxy(text, ports={"bad": bad.port, "good": good.port}) as running:
            yield running


@pytest.mark.parametrize("way", ["reset", "garbage", "half", "half-a-head", "close", "500", "503"])
def test_a_faulty_endpoint_is_nobodys_business(proxy: Proxy, way: str) -> None:
    """Every one of many requests is answered by the good one, on one client's connection."""
    retried = metric(proxy, "meshproxy_cluster_retries_total", cluster="both")
    with Client.to(proxy) as client:
        for number in range(10):
            response = client.ask(f"/{number}/{way}", "PUT", body=b"%d" % number)
            assert (response.status, response.body) == (200, b"good %d" % number)
    assert metric(proxy, "meshproxy_cluster_retries_total", cluster="both") > retried

    def retried_lines() -> list[dict[str, Any]]:
        return [one for one in log_lines(proxy, attempts=2) if one["path"].endswith("/" + way)]

    lines = eventually(retried_lines, f"a retried /{way} in the access log")
    assert {line["flags"] for line in lines} == {"-"}


@pytest.mark.parametrize("way", ["close", "500"])
def test_a_post_is_sent_once(proxy: Proxy, bad: Bad, way: str) -> None:
    """Its failure is passed on; with a key it is retried like any other."""
    for number in range(4):
        ask(proxy, f"/post{number}/{way}", "POST", body=b"x")
        response = ask(proxy, f"/key{number}/{way}", "POST", body=b"x", idempotency_key="1")
        assert response.body == b"good x"
    targets = [data.split(b" ", 2)[1] for data in bad.received]
    posts = [target for target in targets if target.startswith(b"/post") and way.encode() in target]
    assert posts
    assert len(posts) == len(set(posts))


def test_a_refused_connection(proxy: Proxy) -> None:
    """A POST too goes to the other endpoint; where there is none, the words say so."""
    for _ in range(6):
        assert ask(proxy, "/refused", "POST", body=b"x").body == b"good x"
    response = ask(proxy, "/gone")
    assert response.status == 503
    assert b"retried and the latest reset reason: remote connection failure" in response.body
    (line,) = log_lines(proxy, path="/gone")
    assert (line["flags"], line["attempts"]) == ("URX,UF", 3)


def test_a_slow_try(proxy: Proxy) -> None:
    """It is given up, or with hedging joined by another, and the client gets the good answer."""
    for kind in ("slow", "hedged"):
        for number in range(4):
            assert ask(proxy, f"/{kind}/{number}/stall").body == b"good "
    assert metric(proxy, "meshproxy_cluster_hedges_total", cluster="both") >= 1
    assert metric(proxy, "meshproxy_cluster_per_try_timeouts_total", cluster="both") >= 2


def test_no_retries_where_they_are_off(proxy: Proxy) -> None:
    """A route says so."""
    statuses = {ask(proxy, f"/plain/{number}/500").status for number in range(4)}
    assert statuses == {200, 500}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(proxy: Proxy) -> None:
    """What a client that is not ours sees: an upload that met a reset, whole and once."""
    url = f"http://{HOST}:{proxy.ports['web']}"
    for number in range(4):
        command = ["curl", "-sS", "--max-time", "20", "-w", "|%{http_code}", "-X", "PUT", "-d"]
        done = subprocess.run(
            [*command, f"upload {number}", f"{url}/curl{number}/reset"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stdout == f"good upload {number}|200"

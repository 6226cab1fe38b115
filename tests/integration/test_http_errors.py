"""
When something fails on the way: status, words and response flags are Envoy's (its table in the
operating guide), the access log has them, and nobody is left waiting.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy, Received, Server
from tests.integration.wire import (
    LOG,
    Broken,
    Client,
    RawUpstream,
    ask,
    eventually,
    linger_reset,
    log_lines,
    metric,
    refusing,
)

BEFORE = b"upstream connect error or disconnect/reset before headers. reset reason: "

CONFIG = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      {LOG}
      stream_idle_timeout: $idle
      routes:
        - {{ match: {{ prefix: /refused }}, to: refused }}
        - {{ match: {{ prefix: /unreachable }}, to: silent }}
        - {{ match: {{ prefix: /slow }}, to: site, timeout: 200ms }}
        - {{ match: {{ prefix: /site }}, to: site, timeout: 0 }}
        - {{ match: {{ prefix: /narrow }}, to: narrow }}
clusters:
  site: {{ endpoints: ['127.0.0.1:$site'] }}
  narrow:
    endpoints: ['127.0.0.1:$site']
    limits: {{ pending: 1 }}
    pool: {{ max_connections: 1, pending_timeout: 300ms }}
  refused: {{ endpoints: ['$refused'] }}
  silent: {{ endpoints: ['127.0.0.1:$silent'], connect_timeout: 200ms }}
"""


class Scripted(RawUpstream):
    """An upstream that does what the last part of the path says."""

    def __init__(self) -> None:
        super().__init__(self._act)
        self.release = threading.Event()

    def _act(self, data: bytes, sock: socket.socket) -> bytes | None:
        target = data.split(b" ", 2)[1].rpartition(b"/")[2]
        if target == b"close":
            return None
        if target == b"reset":
            linger_reset(sock)
            return None
        if target == b"half-a-head":
            sock.sendall(b"HTTP/1.1 200 OK\r\nconte")
            return None
        if target == b"short":
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            return None
        if target == b"short-chunks":
            sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            return None
        if target == b"cut":
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            self.release.wait(10)
            linger_reset(sock)
            return None
        if target == b"broken-chunks":
            sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            self.release.wait(10)
            return b"zzz\r\n"
        if target == b"never":
            self.release.wait(10)
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def site() -> Iterator[Scripted]:
    """The upstream."""
    with Scripted() as server:
        yield server
        server.release.set()


def _full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full, so that a SYN to it is never answered."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    callers = []
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(listening.getsockname())
        callers.append(caller)
    return listening, callers


@pytest.fixture(scope="module")
def proxy(site: Scripted) -> Iterator[Proxy]:
    """The proxy."""
    listening, callers = _full_backlog()
    with listening, refusing() as nobody:
        config = CONFIG.replace("$refused", nobody).replace("$idle", "5m")
        ports = {"site": site.port, "silent": listening.getsockname()[1]}
        with Proxy(config, ports=ports) as running:
            yield running
    for caller in callers:
        caller.close()


REPLIES = {
    "/nowhere": (404, b"", "NR"),
    "/refused": (503, BEFORE + b"remote connection failure", "UF"),
    "/unreachable": (503, BEFORE + b"connection timeout", "UF"),
    "/site/close": (503, BEFORE + b"connection termination", "UC"),
    "/site/reset": (503, BEFORE + b"connection termination", "UC"),
    "/site/half-a-head": (503, BEFORE + b"connection termination", "UC"),
    "/slow/never": (504, b"upstream request timeout", "UT"),
}


def test_replies(proxy: Proxy) -> None:
    """Status and words of the table; the client's connection stays usable; the log has the flag."""
    with Client.to(proxy) as client:
        for target, (status, words, _) in REPLIES.items():
            response = client.ask(target)
            assert (response.status, response.body) == (status, words), target
            assert response.get("content-type") == ("text/plain" if words else None)
            head = client.ask(target, "HEAD")
            assert (head.status, head.body) == (status, b""), target
        assert client.ask("/site/x").status == 200
    log_lines(proxy, path="/site/x")
    for target, (status, _, flags) in REPLIES.items():
        for line in log_lines(proxy, path=target):
            assert (line["status"], line["flags"]) == (status, flags), target
            assert line["details"]


def test_an_ordinary_answer_has_no_flag(proxy: Proxy) -> None:
    """The log says what happened, and only that."""
    assert ask(proxy, "/site/plain").status == 200
    (line,) = log_lines(proxy, path="/site/plain")
    assert (line["flags"], line["details"], line["cluster"]) == ("-", "via_upstream", "site")
    assert line["upstream"].startswith("127.0.0.1:")
    assert line["upstream_ms"] >= 0


def test_a_post_that_failed_is_not_sent_again(proxy: Proxy, site: Scripted) -> None:
    """An upstream that took a request and died gets it once, whatever the connection was."""
    with Client.to(proxy) as client:
        for end in ("close", "reset"):
            assert client.ask("/site/warm").status == 200
            del site.received[:]
            response = client.ask(f"/site/{end}", "POST", body=b"money")
            assert response.status == 503
            assert len(site.received) == 1, end


@pytest.mark.parametrize("how", ["short", "short-chunks", "cut", "broken-chunks"])
def test_a_body_cut_short(proxy: Proxy, site: Scripted, how: str) -> None:
    """The client can tell that the body is not whole, and the log says whose fault it was."""
    site.release.clear()
    target = f"/site/{how}"
    with Client.to(proxy) as client:
        client.send(f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        threading.Timer(0.1, site.release.set).start()
        with pytest.raises((Broken, ConnectionError, ValueError)):
            client.response()
        assert client.ended()
    (line,) = log_lines(proxy, path=target)
    assert (line["status"], line["flags"]) == (200, "UC" if how == "cut" else "UPE")
    assert line["bytes_sent"] == 4


def test_a_body_cut_short_for_an_old_client(proxy: Proxy, site: Scripted) -> None:
    """To HTTP/1.0 an orderly end would look like the end of the body: it gets a reset."""
    with Client.to(proxy) as client:
        client.send(b"GET /site/short-chunks HTTP/1.0\r\nhost: a\r\n\r\n")
        with pytest.raises(ConnectionError):
            client.response()


def test_overflow(proxy: Proxy, site: Scripted) -> None:
    """One connection, one in line: the next is refused at once, the one in line after a while."""
    site.release.clear()
    with Client.to(proxy) as first, Client.to(proxy) as second:
        before = len(site.received)
        first.send(b"GET /narrow/never HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(lambda: len(site.received) > before, "the first request")
        second.send(b"GET /narrow/waits HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(
            lambda: metric(proxy, "meshproxy_cluster_pending_active", cluster="narrow") == 1,
            "the second to be in line",
        )
        third = ask(proxy, "/narrow/over")
        assert (third.status, third.body) == (503, BEFORE + b"overflow")
        assert "true" in [value for name, value in third.headers if name.endswith("overloaded")]
        assert second.response().status == 503  # pending_timeout
        site.release.set()
        assert first.response().status == 200
    for target in ("/narrow/over", "/narrow/waits"):
        (line,) = log_lines(proxy, path=target)
        assert (line["status"], line["flags"]) == (503, "UO")
    assert metric(proxy, "meshproxy_cluster_overflow_pending_total", cluster="narrow") == 2


@pytest.mark.parametrize("moment", ["before the answer", "in its middle"])
def test_a_client_that_goes_away(moment: str) -> None:
    """Its request is aborted: the upstream sees its connection end; the log says DC."""
    gone, asked = threading.Event(), threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        if moment == "in its middle":
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        asked.set()
        try:
            if not sock.recv(1):
                gone.set()
        except ConnectionError:
            gone.set()

    with Server(serve) as upstream, refusing() as nobody:
        config = CONFIG.replace("$refused", nobody).replace("$idle", "5m")
        with Proxy(config, ports={"site": upstream.port, "silent": upstream.port}) as own:
            client = Client.to(own)
            client.send(b"GET /site/gone HTTP/1.1\r\nhost: a\r\n\r\n")
            assert asked.wait(10)
            if moment == "in its middle":
                assert client.take(15) == b"HTTP/1.1 200 OK"
            client.close()
            assert gone.wait(10)
            (line,) = log_lines(own, path="/site/gone")
            assert line["flags"] == "DC"
            assert metric(own, "meshproxy_cluster_active", cluster="site") == 0


def test_silence(site: Scripted) -> None:
    """Stream idle: 504 for the upstream's silence, 408 for the client's, both with SI."""
    site.release.clear()
    with refusing() as nobody:
        config = CONFIG.replace("$refused", nobody).replace("$idle", "300ms")
        with Proxy(config, ports={"site": site.port, "silent": site.port}) as own:
            response = ask(own, "/site/never")
            assert (response.status, response.body) == (504, b"stream timeout")
            with Client.to(own) as client:
                client.send(b"POST /site/half HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx")
                assert client.response().status == 408
                assert client.ended()
            site.release.set()
            assert log_lines(own, path="/site/never")[0]["flags"] == "SI"
            assert log_lines(own, path="/site/half")[0]["flags"] == "SI"


def test_a_route_timeout_in_the_middle_of_a_body(proxy: Proxy, site: Scripted) -> None:
    """The answer has begun, so it is cut; a client cannot take it for whole. The log says UT."""
    site.release.clear()
    with Client.to(proxy) as client:
        client.send(b"GET /slow/cut HTTP/1.1\r\nhost: a\r\n\r\n")
        with pytest.raises((Broken, ConnectionError)):
            client.response()
    site.release.set()
    assert log_lines(proxy, path="/slow/cut")[0]["flags"] == "UT"


def test_every_endpoint_is_asked_in_turn() -> None:
    """One endpoint that refuses costs the requests that it gets, and no other."""

    def answer(request: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

    with HttpUpstream(answer) as good, refusing() as nobody:
        config = (
            "listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ to: two }] } } }\n"
            f"clusters: {{ two: {{ endpoints: ['{good.address}', '{nobody}'] }} }}\n"
        )
        with Proxy(config) as own:
            statuses = [ask(own, "/").status for _ in range(10)]
    assert sorted(statuses) == [200] * 5 + [503] * 5

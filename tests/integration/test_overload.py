"""A real proxy under real pressure: it sheds, holds back and hurries, and recovers."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.harness import OK, HttpUpstream, Proxy, Received, Reply
from tests.integration.wire import eventually, metric

SHED = """
overload:
  interval: 50ms
  shed: { active_requests: 3, spare: [/healthz] }
listeners:
  web:
    listen: '127.0.0.1:$web'
    http: { routes: [{ match: { path: /healthz }, respond: { body: fine } }, { to: site }] }
  raw: { listen: '127.0.0.1:$raw', tcp: { to: site } }
clusters: { site: { endpoints: ['127.0.0.1:$site'] } }
"""

FEW = """
overload:
  interval: 50ms
  stop_accepting: { file_descriptors: 60 }
listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ respond: { body: fine } }] } } }
"""

HURRY = """
overload:
  interval: 50ms
  shorten_idle: { file_descriptors: 60, to: 1s }
listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ respond: { body: fine } }] } } }
"""

LATE = """
overload:
  interval: 50ms
  shed: { loop_lag: 150ms }
listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ respond: { body: fine } }] } } }
"""

Start = Callable[..., Proxy]


def active(proxy: Proxy, action: str) -> bool:
    """Whether the proxy says that it does this now."""
    return bool(metric(proxy, "meshproxy_overload_active", action=action))


def test_requests_are_shed_while_too_many_are_in_flight(start: Start) -> None:
    """
    Three wait for a slow upstream: others get 503 at once, TCP clients the end of the connection,
    the spared path is served; when the three are answered, everybody is served again.
    """
    go_on = threading.Event()

    def slow(request: Received) -> bytes:
        go_on.wait(30)
        return OK

    with HttpUpstream(slow) as site:
        proxy = start(SHED, ports={"site": site.port})
        answers: list[Reply] = []
        asking = [
            threading.Thread(target=lambda: answers.append(proxy.get("web", "/slow")))
            for _ in range(3)
        ]
        for thread in asking:
            thread.start()
        try:
            eventually(lambda: active(proxy, "shed"), "shedding")
            with proxy.connect("web") as client:
                for _ in range(2):
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    answer = b""
                    while not answer.endswith(b"envoy overloaded"):
                        more = client.recv(65536)
                        assert more, answer
                        answer += more
                    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                    assert b"\r\nx-envoy-overloaded: true\r\n" in answer
            assert proxy.get("web", "/healthz").body == b"fine"
            assert proxy.get("admin", "/ready").status == 200
            assert proxy.exchange("raw", b"") == b""
        finally:
            go_on.set()
            for thread in asking:
                thread.join()
        assert [answer.status for answer in answers] == [200] * 3
        eventually(lambda: not active(proxy, "shed"), "the end of shedding")
        assert proxy.get("web", "/").status == 200
        assert metric(proxy, "meshproxy_listener_requests_shed_total", listener="web") == 2
        assert metric(proxy, "meshproxy_listener_connections_shed_total", listener="raw") == 1
        assert metric(proxy, "meshproxy_overload_actions_total", action="shed") == 1
    log = proxy.stdout
    assert "overload action=shed state=begins resource=active_requests value=3 limit=3" in log
    assert "overload action=shed state=ends resource=active_requests" in log


def idle_clients(proxy: Proxy, stack: ExitStack, count: int) -> list[socket.socket]:
    """So many connections that have asked once and are kept."""
    clients = [stack.enter_context(proxy.connect("web")) for _ in range(count)]
    for client in clients:
        ask(client)
    return clients


def ask(client: socket.socket) -> None:
    """A request; returns when it is answered."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = b""
    while not answer.endswith(b"fine"):
        more = client.recv(65536)
        assert more, answer
        answer += more


def test_connections_wait_while_descriptors_lack(start: Start) -> None:
    """
    Over the threshold those that are there are served, and a new one waits in the kernel; when
    others have gone, it is accepted and answered.
    """
    proxy = start(FEW)
    with ExitStack() as stack:
        clients = idle_clients(proxy, stack, 60)
        eventually(lambda: active(proxy, "stop_accepting"), "the end of accepting")
        accepted = metric(proxy, "meshproxy_listener_connections_total", listener="web")
        waiting = stack.enter_context(proxy.connect("web"))
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        ask(clients[0])
        assert metric(proxy, "meshproxy_listener_connections_total", listener="web") == accepted
        for client in clients[1:]:
            client.close()
        assert waiting.recv(65536).endswith(b"fine")
        ask(clients[0])
        eventually(lambda: not active(proxy, "stop_accepting"), "accepting")
        total = metric(proxy, "meshproxy_listener_connections_total", listener="web")
        assert total == accepted + 1


def test_idle_connections_go_when_descriptors_lack(start: Start) -> None:
    """Those that nobody uses are closed within a second or two, not in an hour; then it is over."""
    proxy = start(HURRY)
    with ExitStack() as stack:
        clients = idle_clients(proxy, stack, 60)
        assert [client.recv(100) for client in clients] == [b""] * 60
        eventually(lambda: not active(proxy, "shorten_idle"), "the end of it")
        assert metric(proxy, "meshproxy_overload_actions_total", action="shorten_idle") == 1
        (kept,) = idle_clients(proxy, stack, 1)
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 1.5, "more than the second of before")
        ask(kept)


def test_a_loop_that_is_late_sheds(start: Start) -> None:
    """The process gets no time for a while: it notices by itself, and is well again by itself."""
    proxy = start(LATE)
    proxy.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 1.0, "the pause that is to be noticed")
    proxy.send_signal(signal.SIGCONT)
    eventually(lambda: metric(proxy, "meshproxy_overload_actions_total", action="shed"), "shedding")
    eventually(lambda: not active(proxy, "shed"), "the end of shedding")
    with proxy.connect("web") as client:
        ask(client)
    assert "overload action=shed state=begins resource=loop_lag value=" in proxy.stdout

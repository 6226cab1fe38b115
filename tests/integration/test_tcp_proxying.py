"""
TCP through the proxy: every byte both ways, each end of the stream on its own, and connections
that fail, idle or are too many.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HOST, Proxy, Server, echo, read_to_end
from tests.integration.wire import eventually, linger_reset, log_lines, metric, refusing, resident

MIB = 1 << 20

CONFIG = """
listeners:
  echo:
    listen: '127.0.0.1:$echo'
    tcp: { to: echo, access_log: { path: access.log, format: json } }
  refused:
    listen: '127.0.0.1:$refused'
    tcp: { to: refused, access_log: { path: access.log, format: json } }
  idle: { listen: '127.0.0.1:$idle', tcp: { to: echo, idle_timeout: 300ms } }
  few: { listen: '127.0.0.1:$few', max_connections: 2, tcp: { to: echo } }
  two: { listen: '127.0.0.1:$two', tcp: { to: { echo: 1, other: 1 } } }
  described: { listen: 'tcp:$described:interface=127.0.0.1', tcp: { to: echo } }
  shared: { listen: '127.0.0.1:$shared', reuse_port: true, backlog: 7, tcp: { to: echo } }
  tuned: { listen: '127.0.0.1:$tuned', nodelay: false, keepalive: 30s, tcp: { to: echo } }
clusters:
  echo: { endpoints: ['127.0.0.1:$upstream'], keepalive: true }
  other: { endpoints: ['127.0.0.1:$other'] }
  refused: { endpoints: ['$nobody'] }
"""


def _name(sock: socket.socket) -> None:
    sock.sendall(b"other")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy before an echo."""
    with Server(echo) as upstream, Server(_name) as other, refusing() as nobody:
        config = CONFIG.replace("$nobody", nobody)
        ports = {"upstream": upstream.port, "other": other.port}
        with Proxy(config, ports=ports) as running:
            yield running


def start(serve: Server, listener: str = "{ to: site }") -> Proxy:
    """A proxy with the one listener ``tcp`` before ``serve``."""
    return Proxy(
        f"listeners: {{ tcp: {{ listen: '127.0.0.1:$tcp', tcp: {listener} }} }}\n"
        f"clusters: {{ site: {{ endpoints: ['{serve.address}'] }} }}\n"
    )


def _both_ways(sock: socket.socket, amount: int) -> tuple[str, str]:
    """Send ``amount`` random bytes and the end; digests of what went out and what came back."""
    sent, got = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        left = amount
        while left:
            block = os.urandom(min(left, MIB))
            sent.update(block)
            sock.sendall(block)
            left -= len(block)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    while data := sock.recv(MIB):
        got.update(data)
    thread.join()
    return sent.hexdigest(), got.hexdigest()


@pytest.mark.parametrize("listener", ["echo", "described"])
def test_sixty_four_mebibytes(proxy: Proxy, listener: str) -> None:
    """Both ways at the same time, through an echo, and the end after the last byte."""
    with proxy.connect(listener) as sock:
        sent, got = _both_ways(sock, 64 * MIB)
    assert sent == got
    if listener == "echo":
        line = log_lines(proxy, listener="echo")[-1]
        assert (line["protocol"], line["flags"]) == ("TCP", "-")
        assert line["bytes_received"] == line["bytes_sent"] == 64 * MIB


def test_small_pieces(proxy: Proxy) -> None:
    """What is small is not kept waiting for more."""
    with proxy.connect("echo") as sock:
        for number in range(200):
            data = b"%d" % number
            sock.sendall(data)
            assert sock.recv(100) == data


def test_the_client_ends_first() -> None:
    """Its end reaches the upstream, which then says its part, however late and long."""

    def count(sock: socket.socket) -> None:
        data = read_to_end(sock)
        sock.sendall(b"%d" % len(data) + b"." * MIB)

    with Server(count) as upstream, start(upstream) as proxy, proxy.connect("tcp") as sock:
        sock.sendall(b"x" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == b"100000" + b"." * MIB


def test_the_upstream_ends_first() -> None:
    """The client sees the end, and what it says afterwards still arrives."""
    heard: list[bytes] = []

    def speak(sock: socket.socket) -> None:
        sock.sendall(b"done")
        sock.shutdown(socket.SHUT_WR)
        heard.append(read_to_end(sock))

    with Server(speak) as upstream, start(upstream) as proxy, proxy.connect("tcp") as sock:
        assert read_to_end(sock) == b"done"
        sock.sendall(b"y" * 300_000)
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: heard, "the rest")
    assert heard == [b"y" * 300_000]


def test_an_upstream_that_speaks_first(proxy: Proxy) -> None:
    """Nothing need come from the client."""
    answers = set()
    for _ in range(40):
        with proxy.connect("two") as sock:
            sock.settimeout(0.1)
            try:
                answers.add(sock.recv(100))
            except TimeoutError:
                answers.add(b"echo")
        if len(answers) == 2:
            break
    assert answers == {b"other", b"echo"}  # and both clusters of the weights were used


def test_connect_failure_resets_the_client(proxy: Proxy) -> None:
    """The client learns of it by a reset; the log says UF."""
    with pytest.raises(ConnectionResetError), proxy.connect("refused") as sock:
        read_to_end(sock)
    line = log_lines(proxy, listener="refused")[0]
    assert line["flags"].split(",")[0] == "UF"
    assert metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="refused") >= 1


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_passes_on(who: str) -> None:
    """A reset of one side is a reset, not an orderly end, for the other."""
    seen: list[str] = []
    ready = threading.Event()

    def serve(sock: socket.socket) -> None:
        assert sock.recv(5) == b"hello"
        sock.sendall(b"hi")
        ready.wait(10)
        if who == "upstream":
            linger_reset(sock)
            return
        try:
            seen.append("end" if not sock.recv(1) else "data")
        except ConnectionResetError:
            seen.append("reset")

    with Server(serve) as upstream, start(upstream) as proxy:
        sock = proxy.connect("tcp")
        sock.sendall(b"hello")
        assert sock.recv(2) == b"hi"
        ready.set()
        if who == "client":
            linger_reset(sock)
            eventually(lambda: seen, "the upstream to see it")
            assert seen == ["reset"]
        else:
            with sock, pytest.raises(ConnectionResetError):
                read_to_end(sock)


def test_a_peer_that_does_not_read_stops_the_other() -> None:
    """What nobody takes is not gathered: memory stays, and nothing is lost in the end."""
    go = threading.Event()
    total = 64 * MIB

    def slow(sock: socket.socket) -> None:
        go.wait(30)
        sock.sendall(hashlib.sha256(read_to_end(sock)).digest())

    with Server(slow) as upstream, start(upstream) as proxy, proxy.connect("tcp") as sock:
        before = resident(proxy)
        block = os.urandom(MIB)
        sent = [0]

        def send() -> None:
            for _ in range(total // MIB):
                sock.sendall(block)
                sent[0] += 1
            sock.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        stalled = -1
        while stalled != sent[0]:
            stalled = sent[0]
            thread.join(0.5)
        assert thread.is_alive()
        assert resident(proxy) - before < 8 * MIB
        go.set()
        assert sock.recv(32) == hashlib.sha256(block * (total // MIB)).digest()
        thread.join()


def test_idle_timeout(proxy: Proxy) -> None:
    """Silence ends a connection; a connection that is used lives on."""
    with proxy.connect("idle") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert sock.recv(1) == b""
    assert metric(proxy, "meshproxy_listener_idle_timeouts_total", listener="idle") == 1


def test_connection_cap(proxy: Proxy) -> None:
    """One over the cap is closed at once; when one leaves, there is room again."""
    with proxy.connect("few") as one, proxy.connect("few") as two:
        for sock in (one, two):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        with proxy.connect("few") as three:
            try:
                assert three.recv(1) == b""
            except ConnectionResetError:
                pass
    name = "meshproxy_listener_connections_active"
    eventually(lambda: metric(proxy, name, listener="few") == 0, "both to be gone")
    with proxy.connect("few") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


def test_many_short_connections(proxy: Proxy) -> None:
    """A thousand, eight at a time: each has its own bytes, and none is left open."""
    wrong: list[bytes] = []

    def talk(name: bytes) -> None:
        for number in range(125):
            with proxy.connect("echo") as sock:
                data = b"%b %d" % (name, number)
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                if read_to_end(sock) != data:
                    wrong.append(data)

    threads = [threading.Thread(target=talk, args=(b"%d" % n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    name = "meshproxy_listener_connections_active"
    eventually(lambda: metric(proxy, name, listener="echo") == 0, "all to be gone")
    eventually(lambda: metric(proxy, "meshproxy_cluster_active", cluster="echo") == 0, "them")


def _option(proxy: Proxy, name: str, level: int, option: int) -> int:
    """A socket option of the listening socket, read through a duplicate of its descriptor."""
    fds = f"/proc/{proxy.process.pid}/fd"
    port = f"{proxy.ports[name]:04X}"
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in table]
    (inode,) = [r[9] for r in rows if r[1].endswith(":" + port) and r[3] == "0A"]
    (fd,) = [f for f in os.listdir(fds) if os.readlink(f"{fds}/{f}") == f"socket:[{inode}]"]
    pidfd = os.pidfd_open(proxy.process.pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, int(fd), 0)  # pidfd_getfd
    finally:
        os.close(pidfd)
    if copy < 0:
        pytest.skip("this system does not let a test look into the proxy's descriptors")
    with socket.socket(fileno=copy) as sock:
        return sock.getsockopt(level, option)


def test_settings_of_the_listening_socket(proxy: Proxy) -> None:
    """``reuse_port``, ``nodelay`` and ``keepalive`` reach the socket that hands them on."""
    assert _option(proxy, "shared", socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
    assert _option(proxy, "echo", socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    assert _option(proxy, "echo", socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert _option(proxy, "tuned", socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    assert _option(proxy, "tuned", socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert _option(proxy, "tuned", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    assert _option(proxy, "echo", socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    with socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind((HOST, proxy.ports["shared"]))

"""
Who a client is, and where anybody listens: the PROXY protocol in and out, IPv6, UNIX sockets,
and Twisted's endpoint descriptions, for HTTP and TCP.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HOST, PATIENCE, HttpUpstream, Proxy, Server, echo, read_to_end
from tests.integration.wire import Client, RawUpstream, ask, log_lines

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 5555 443\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 443\r\n"
V2 = (
    SIGNATURE
    + b"\x21\x11\x00\x0c"
    + socket.inet_aton("203.0.113.7")
    + socket.inet_aton("198.51.100.1")
    + b"\x15\xb3\x01\xbb"
)
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    proxy_protocol: true
    http: { routes: [{ to: site }], access_log: { path: access.log, format: json } }
  tcp:
    listen: '127.0.0.1:$tcp'
    proxy_protocol: true
    tcp: { to: $version, access_log: { path: access.log, format: json } }
  out: { listen: '127.0.0.1:$out', http: { routes: [{ to: $version }], trusted_hops: 1 } }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
  v1: { endpoints: ['127.0.0.1:$told'], proxy_protocol: v1 }
  v2: { endpoints: ['127.0.0.1:$told'], proxy_protocol: v2 }
"""


class Told(Server):
    """Keeps all that it was told on each connection; answers HTTP, else says ``hi``."""

    def __init__(self) -> None:
        super().__init__(self._listen)
        self.heard: list[bytes] = []

    def _listen(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data.replace(SIGNATURE, b"") and b"ping" not in data:
            part = sock.recv(65536)
            if not part:
                return
            data += part
        self.heard.append(data)
        http = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
        sock.sendall(b"hi" if b"ping" in data else http)
        read_to_end(sock)


@pytest.fixture(scope="module")
def site() -> Iterator[HttpUpstream]:
    """An HTTP upstream."""
    with HttpUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    """An upstream that wants to be told."""
    with Told() as server:
        yield server


@pytest.fixture(scope="module", params=["v1", "v2"])
def proxy(
    request: pytest.FixtureRequest, site: HttpUpstream, told: Told
) -> Iterator[tuple[str, Proxy]]:
    """The proxy, and the version that it tells upstreams."""
    config = CONFIG.replace("$version", request.param)
    with Proxy(config, ports={"site": site.port, "told": told.port}) as running:
        yield request.param, running


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, b"203.0.113.7"),
        (V1_6, b"2001:db8::7"),
        (V2, b"203.0.113.7"),
        (LOCAL, b"127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
    ],
)
def test_http_behind_the_proxy_protocol(
    proxy: tuple[str, Proxy], site: HttpUpstream, header: bytes, client: bytes
) -> None:
    """The client is who the header says, in ``x-forwarded-for`` and in the log."""
    _, running = proxy
    for pieces in (1, 3):
        data = header + b"GET /who HTTP/1.1\r\nhost: a\r\n\r\n"
        step = len(data) // pieces + 1
        with Client.to(running) as connection:
            for start in range(0, len(data), step):
                connection.send(data[start : start + step])
            assert connection.response().status == 200
            assert connection.ask("/who").status == 200  # once a connection, not once a request
        assert site.requests[-1].values(b"x-forwarded-for") == [client]
    with Client.to(running) as connection:
        target = f"/who/{header.hex()[:80]}"
        assert connection.send(header).ask(target).status == 200
    assert client.decode() in log_lines(running, path=target)[0]["client"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PROXY TCP4 nonsense\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n",
        b"PROXY " + b"x" * 200,
        SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,
    ],
)
@pytest.mark.parametrize("listener", ["web", "tcp"])
def test_without_a_good_header(proxy: tuple[str, Proxy], listener: str, data: bytes) -> None:
    """No header, or a bad one: the connection is closed, and nobody else is hurt."""
    _, running = proxy
    with running.connect(listener) as sock:
        sock.sendall(data)
        try:
            assert read_to_end(sock) == b""
        except ConnectionResetError:
            pass
    with Client.to(running) as client:
        assert client.send(V1).ask("/").status == 200


def _check(version: str, heard: bytes, rest: bytes) -> None:
    expected = V1 if version == "v1" else V2
    assert heard.startswith(expected)
    assert heard[len(expected) :].startswith(rest)


def test_tcp_passes_it_on(proxy: tuple[str, Proxy], told: Told) -> None:
    """What came in is told to the upstream, in its cluster's version, before the first byte."""
    version, running = proxy
    for header in (V1, V2):
        with running.connect("tcp") as sock:
            sock.sendall(header + b"ping")
            assert sock.recv(2) == b"hi"
        _check(version, told.heard[-1], b"ping")


def test_http_tells_the_upstream(proxy: tuple[str, Proxy], told: Told) -> None:
    """Each client's requests go on a connection that names it, one after another."""
    version, running = proxy
    with Client.to(running, "out") as client:
        port = client.sock.getsockname()[1]
        for _ in range(2):
            assert client.ask("/x").body == b"hi"
        heard = told.heard[-1]
        if version == "v1":
            line = f"PROXY TCP4 {HOST} {HOST} {port} {running.ports['out']}\r\nGET /x ".encode()
            assert heard.startswith(line)
        else:
            ip = socket.inet_aton(HOST)
            ports = port.to_bytes(2, "big") + running.ports["out"].to_bytes(2, "big")
            assert heard.startswith(SIGNATURE + b"\x21\x11\x00\x0c" + ip + ip + ports + b"GET /x ")


@pytest.mark.parametrize("said", ["2001:db8::9", "203.0.113.9", "unknown", "[::1]:80", "a:1"])
def test_http_tells_what_a_trusted_hop_said(
    proxy: tuple[str, Proxy], told: Told, said: str
) -> None:
    """Whatever ``x-forwarded-for`` holds, the header is a good one, and the request is served."""
    _, running = proxy
    response = ask(running, "/x", listener="out", x_forwarded_for=said)
    assert response.body == b"hi"
    heard = told.heard[-1]
    assert heard.startswith((b"PROXY ", SIGNATURE))
    if heard.startswith(b"PROXY "):
        words = heard.split(b"\r\n")[0].split(b" ")
        assert words[1] in (b"TCP4", b"TCP6", b"UNKNOWN")
        if words[1] != b"UNKNOWN":
            family = socket.AF_INET if words[1] == b"TCP4" else socket.AF_INET6
            socket.inet_pton(family, words[2].decode())


FAMILIES = """
listeners:
  six: { listen: '[::1]:$six', http: { routes: [{ to: six }] } }
  six-tcp: { listen: '[::1]:$sixtcp', tcp: { to: six-echo } }
clusters:
  six: { endpoints: ['[::1]:$http'] }
  six-echo: { endpoints: ['[::1]:$echo'] }
"""


class Server6(Server):
    """A :class:`Server` on ``::1``."""

    def __init__(self, upstream: Server) -> None:
        super().__init__(upstream._serve)
        self._listening.close()
        self._listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self.port = self._listening.getsockname()[1]


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="the kernel has no IPv6 loopback address")
def test_ipv6() -> None:
    """Both sides over IPv6, for both protocols."""
    http = HttpUpstream()
    with Server6(http) as site, Server6(Server(echo)) as back:
        ports = {"http": site.port, "echo": back.port}
        with Proxy(FAMILIES, ports=ports) as proxy:
            for target in ("/a", "/b"):
                sock = socket.create_connection(("::1", proxy.ports["six"]), PATIENCE)
                with Client(sock) as client:
                    assert client.ask(target, host="[::1]:80").status == 200
            assert http.requests[-1].values(b"x-forwarded-for") == [b"::1"]
            assert http.requests[-1].values(b"host") == [b"[::1]:80"]
            with socket.create_connection(("::1", proxy.ports["sixtcp"]), PATIENCE) as sock:
                sock.sendall(b"six")
                sock.shutdown(socket.SHUT_WR)
                assert read_to_end(sock) == b"six"
    http.close()


UNIX = """
listeners:
  web: { listen: 'unix:$dir/web.sock', http: { routes: [{ to: site }] } }
  tcp: { listen: 'unix:$dir/tcp.sock', tcp: { to: back } }
  described: { listen: 'unix:$dir/other.sock:mode=600', http: { routes: [{ to: site }] } }
  told: { listen: '127.0.0.1:$told', tcp: { to: told } }
clusters:
  site: { endpoints: ['unix:$dir/site'] }
  back: { endpoints: ['unix:$dir/back'] }
  told: { endpoints: ['unix:$dir/back'], proxy_protocol: v1 }
"""


class ServerUnix(Server):
    """A :class:`Server` at a path."""

    def __init__(self, upstream: Server, path: Path) -> None:
        super().__init__(upstream._serve)
        self._listening.close()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()


def _unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    return sock


def test_unix_sockets() -> None:
    """Both sides at paths; a path left by a dead process is taken over, and removed at the end."""
    http = HttpUpstream()
    with tempfile.TemporaryDirectory(prefix="mesh-") as name:
        folder = Path(name)
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(folder / "web.sock"))
        stale.close()
        with (
            ServerUnix(http, folder / "site"),
            ServerUnix(Server(echo), folder / "back"),
            Proxy(UNIX.replace("$dir", name)) as proxy,
        ):
            for path in ("web.sock", "other.sock"):
                with Client(_unix(folder / path)) as client:
                    for _ in range(2):
                        assert client.ask("/").status == 200
            with _unix(folder / "tcp.sock") as sock:
                sock.sendall(b"path" * 100_000)
                sock.shutdown(socket.SHUT_WR)
                assert read_to_end(sock) == b"path" * 100_000
            with proxy.connect("told") as sock:
                sock.shutdown(socket.SHUT_WR)
                assert read_to_end(sock).startswith(b"PROXY ")
            listeners = proxy.get("admin", "/listeners").body.decode()
            assert f"unix:{name}/web.sock" in listeners
            proxy.stop()
            assert not os.path.exists(folder / "web.sock")
    http.close()


DESCRIBED = """
listeners:
  web: { listen: 'tcp:$web:interface=127.0.0.1', http: { routes: [{ to: site }] } }
  behind:
    listen: 'haproxy:tcp:$behind:interface=127.0.0.1'
    http: { routes: [{ to: site }] }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
"""


def test_endpoint_descriptions() -> None:
    """A listener that Twisted makes serves as any other, HAProxy's wrapper included."""
    with RawUpstream() as upstream, Proxy(DESCRIBED, ports={"site": upstream.port}) as proxy:
        with Client.to(proxy) as client:
            for _ in range(3):
                assert client.ask("/", "POST", body=b"x" * 200_000).body == b"ok\n"
        with Client.to(proxy, "behind") as client:
            assert client.send(V1).ask("/").status == 200
        assert b"\r\nx-forwarded-for: 203.0.113.7\r\n" in upstream.received[-1]

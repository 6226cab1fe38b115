"""
HTTP over TLS, by real clients: all that works without it, and what only TLS can do wrong.
"""

from __future__ import annotations

import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as websocket
from websockets.sync.server import ServerConnection, serve

from meshproxy.net.proxy_protocol import encode_v1, encode_v2
from tests.harness import HOST, PATIENCE, HttpUpstream, Proxy, Received
from tests.integration.wire import Broken, Client, eventually, linger_reset, log_lines, metric
from tests.tls.authority import Authority

BIG = bytes(range(256)) * 65536  # 16 MiB

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    tls: &tls
      certificates: [{ chain: $folder/server.pem, key: $folder/server.key }]
      client_ca: $folder/ca.pem
      require_client_certificate: false
      unknown_names: refuse
    http: &http
      access_log: { path: access.log, format: json }
      stream_idle_timeout: 20s
      x_forwarded_client_cert: set
      filters:
        - redirect_https: { strict_transport: { max_age: 60s } }
        - csrf: { missing: true }
        - headers:
            request: { set: { x-peer: '%DOWNSTREAM_PEER_SUBJECT%' } }
      routes:
        - match: { path: /private, tls: { client_certificate: true, san: spiffe://mesh/jo } }
          to: site
        - { match: { path: /private }, respond: { status: 403 } }
        - { match: { path: /away }, redirect: { path: /there } }
        - { match: { prefix: /chat }, to: chat, upgrades: [websocket] }
        - { match: { prefix: /sticky }, to: sticky }
        - { to: site }
  proxied: { listen: '127.0.0.1:$proxied', proxy_protocol: true, tls: *tls, http: *http }
  stated:
    listen: 'tcp:$stated:interface=127.0.0.1'
    proxy_protocol: true
    tls: *tls
    http: *http
  haproxied: { listen: 'haproxy:tcp:$haproxied:interface=127.0.0.1', tls: *tls, http: *http }
  tunnel: { listen: 'tcp:$tunnel:interface=127.0.0.1', tls: *tls, tcp: { to: site } }
  unix: { listen: 'unix:$folder/web.sock', tls: *tls, http: *http }
  described: { listen: 'tcp:$described:interface=127.0.0.1', tls: *tls, http: *http }
  narrow:
    listen: '127.0.0.1:$narrow'
    tls:
      certificates: [{ chain: $folder/server.pem, key: $folder/server.key }]
      handshake_timeout: 300ms
      max_handshakes: 3
    http: *http
clusters:
  site: { endpoints: ['127.0.0.1:$site'], pool: { idle_timeout: 5s } }
  sticky:
    endpoints: ['127.0.0.1:$site']
    sticky: { cookie: seat }
    pool: { idle_timeout: 5s }
  chat: { endpoints: ['127.0.0.1:$chat'] }
"""


def _answer(request: Received) -> bytes:
    """What the upstream says, by target."""
    body = request.body
    if request.target == b"/big":
        body = BIG
    elif request.target == b"/head":
        body = request.head
    elif request.target == b"/chunked":
        return (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n"
            b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-end: yes\r\n\r\n"
        )
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _talk(there: ServerConnection) -> None:
    for message in there:
        there.send(message)


class Served:
    """The running proxy, and what its clients need."""

    def __init__(self, proxy: Proxy, folder: Path) -> None:
        self.proxy = proxy
        self.folder = folder

    def context(self, certificate: bool = False, version: str = "") -> ssl.SSLContext:
        """A client's context."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certificate:
            context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        if version:
            context.maximum_version = context.minimum_version = ssl.TLSVersion[version]
        return context

    def secured(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """TLS on a connected socket."""
        name = options.pop("name", "a.example")
        return self.context(**options).wrap_socket(sock, server_hostname=name)

    def client(self, listener: str = "web", **options: Any) -> Client:
        """A client over TLS."""
        return Client(self.secured(self.proxy.connect(listener), **options))

    def count(self, what: str, listener: str = "web", **labels: str) -> float:
        """A counter of the listener's TLS."""
        name = f"meshproxy_listener_tls_{what}"
        return metric(self.proxy, name, listener=listener, **labels)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The proxy before a plain site and a WebSocket server."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority("test CA")
    authority.write(folder)
    authority.issue("a.example", HOST).write(folder, "server")
    jo = authority.issue("jo.example", client=True, subject="jo", uris=["spiffe://mesh/jo"])
    jo.write(folder, "client")
    with HttpUpstream(_answer) as site, serve(_talk, HOST, 0, max_size=None) as chat:
        thread = threading.Thread(target=chat.serve_forever)
        thread.start()
        ports = {"site": site.port, "chat": chat.socket.getsockname()[1]}
        with Proxy(CONFIG.replace("$folder", str(folder)), ports=ports) as proxy:
            yield Served(proxy, folder)
        chat.shutdown()
        thread.join()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("listener", ["web", "described"])
def test_keep_alive(served: Served, version: str, listener: str) -> None:
    """Several requests on a connection, each with its answer; HSTS, and https to the endpoint."""
    with served.client(listener, version=version) as client:
        for number in range(3):
            response = client.ask("/head", x_number=str(number))
            assert response.status == 200
            assert response.get("strict-transport-security") == "max-age=60"
            assert b"x-forwarded-proto: https" in response.body
            assert f"x-number: {number}".encode() in response.body
    line = log_lines(served.proxy, listener=listener, path="/head", status=200)[0]
    assert line["client"].startswith("127.0.0.1:")
    assert line["server_name"] == "a.example"
    assert line["tls_version"] in ("TLSv1.2", "TLSv1.3")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served: Served) -> None:
    """A client that everybody has: two requests by one connection, one with a body, verified."""
    port = served.proxy.ports["web"]
    base = f"https://a.example:{port}"
    words = [
        *("curl", "-sS", "--cacert", str(served.folder / "ca.pem")),
        *("--resolve", f"a.example:{port}:{HOST}", "-w", "%{http_code} %{num_connects}\n"),
        *("-d", "some body", f"{base}/one", f"{base}/two"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stderr == ""
    assert done.stdout == "some body200 1\nsome body200 0\n"


def both_ways(sock: ssl.SSLSocket, data: bytes, size: int) -> bytes:
    """
    Send ``data``, and the body of ``size`` bytes that came back meanwhile: by one thread, since an
    SSL object is not for two.
    """
    patience = sock.gettimeout()
    sock.setblocking(False)
    unsent = memoryview(data)
    got = bytearray()
    head = -1
    while head < 0 or len(got) < head + 4 + size:
        moved = False
        if unsent:
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                unsent = unsent[sock.send(unsent[:65536]) :]
                moved = True
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            piece = sock.recv(65536)
            assert piece, f"it ended after {len(got)} bytes"
            got += piece
            moved = True
        if head < 0:
            head = got.find(b"\r\n\r\n")
        if not moved:
            ready = select.select([sock], [sock] if unsent else [], [], 30)
            assert any(ready), f"nothing moved after {len(got)} bytes"
    sock.settimeout(patience)
    assert not unsent
    return bytes(got[head + 4 :])


@pytest.mark.parametrize("listener", ["web", "described"])
def test_large_bodies(served: Served, listener: str) -> None:
    """Both ways at once: every byte, and nothing hoarded."""
    with served.client(listener) as client:
        head = b"POST /echo HTTP/1.1\r\nhost: a.example\r\ncontent-length: %d\r\n\r\n" % len(BIG)
        assert isinstance(client.sock, ssl.SSLSocket)
        assert both_ways(client.sock, head + BIG, len(BIG)) == BIG
        assert client.ask("/big").body == BIG


def test_a_client_that_reads_slowly(served: Served) -> None:
    """The proxy waits with it; what it gets in the end is whole."""
    with served.client() as client:
        client.send(b"GET /big HTTP/1.1\r\nhost: a.example\r\n\r\n")
        eventually(
            lambda: metric(served.proxy, "meshproxy_listener_requests_active", listener="web") > 0,
            "a request that is held up",
        )
        assert client.response().body == BIG


@pytest.mark.parametrize("listener", ["web", "described"])
def test_forms_of_http(served: Served, listener: str) -> None:
    """100-continue, chunks and trailers both ways, pipelining."""
    with served.client(listener) as client:
        client.send(
            b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert client._head().status == 100
        client.send(b"ok")
        assert client.response("POST").body == b"ok"
        client.send(
            b"POST /echo HTTP/1.1\r\nhost: a\r\n"
            b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"
        )
        assert client.response("POST").body == b"abc"
        chunked = client.ask("/chunked")
        assert (chunked.body, chunked.framing) == (b"hello world", "chunked")
        assert chunked.trailers == [("x-end", "yes")]
        lines = b"".join(b"GET /head?%d HTTP/1.1\r\nhost: a\r\n\r\n" % n for n in range(20))
        client.send(lines)
        for _ in range(20):
            assert client.response().status == 200


@pytest.mark.parametrize("listener", ["web", "described"])
def test_websockets(served: Served, listener: str) -> None:
    """A tunnel through TLS, for messages of any size."""
    url = f"wss://a.example:{served.proxy.ports[listener]}/chat"
    sock = served.proxy.connect(listener)
    with websocket(url, sock=sock, ssl=served.context(), max_size=None) as there:
        for message in ("hello", b"\0" * 100_000, BIG[:3_000_000]):
            there.send(message)
            assert there.recv(PATIENCE) == message


def test_what_reads_the_scheme(served: Served) -> None:
    """A redirect stays with https, a cookie is Secure, a page without TLS is another's."""
    with served.client() as client:
        assert client.ask("/away").get("location") == "https://test.example/there"
        assert "; Secure" in (client.ask("/sticky").get("set-cookie") or "")
        same = client.ask("/", "POST", b"x", origin="https://test.example")
        assert same.status == 200
        other = client.ask("/", "POST", b"x", origin="http://test.example")
        assert other.status == 403


def test_a_clients_certificate(served: Served) -> None:
    """It opens a route, is told of to the endpoint and the filters; nobody makes one up."""
    lie: Any = {"x_forwarded_client_cert": "Hash=0;URI=spiffe://mesh/jo", "x_peer": "CN=jo"}
    with served.client(certificate=True) as client:
        assert client.ask("/private").status == 200
        head = client.ask("/head", **lie).body.decode()
        assert 'Subject="CN=jo";URI=spiffe://mesh/jo;DNS=jo.example' in head
        assert "x-peer: CN=jo" in head
        assert "Hash=0;" not in head
    with served.client() as client:
        assert client.ask("/private").status == 403
        head = client.ask("/head", **lie).body.decode()
        assert "x-forwarded-client-cert" not in head
        assert "x-peer" not in head
    line = log_lines(served.proxy, listener="web", path="/private", status=200)[0]
    assert line["method"] == "GET"


def test_a_client_that_ends_while_it_is_answered(served: Served) -> None:
    """close_notify under a response is the client's going, as an end without TLS is."""
    client = served.client()
    client.send(b"GET /big?gone HTTP/1.1\r\nhost: a\r\n\r\n".replace(b"/big?gone", b"/big"))
    client.sock.recv(10)
    client.sock.settimeout(0.05)
    try:
        client.sock.unwrap()  # type: ignore[attr-defined]
    except OSError:
        pass
    eventually(lambda: log_lines(served.proxy, listener="web", flags="DC"), "its record")
    client.close()
    with served.client() as other:
        assert other.ask().status == 200


@pytest.mark.parametrize("way", ["vanish", "reset", "notify"])
def test_a_client_that_vanishes(served: Served, way: str) -> None:
    """In the middle of its request; with close_notify, without, by a reset: its request is over."""
    client = served.client()
    client.send(b"POST /%b HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc" % way.encode())
    eventually(
        lambda: metric(served.proxy, "meshproxy_listener_requests_active", listener="web") == 1,
        "its request",
    )
    sock = client.sock
    if way == "notify":
        sock.settimeout(0.05)
        try:
            sock.unwrap()  # type: ignore[attr-defined]
        except OSError:
            pass
    elif way == "reset":
        client._stream.close()
        linger_reset(sock)
    else:
        sock.shutdown(socket.SHUT_RDWR)
    (line,) = log_lines(served.proxy, listener="web", path=f"/{way}")
    assert (line["status"], line["flags"]) == (0, "DC")
    if way != "reset":
        client.close()


@pytest.mark.parametrize("listener", ["web", "narrow"])
def test_plain_http(served: Served, listener: str) -> None:
    """It is told what it did, and counted."""
    before = served.count("failures_total", listener, reason="plain_http")
    answer = served.proxy.exchange(listener, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"plain HTTP was sent to an HTTPS port\n")
    assert served.count("failures_total", listener, reason="plain_http") == before + 1


@pytest.mark.parametrize("listener", ["web", "described"])
def test_an_unknown_name(served: Served, listener: str) -> None:
    """It is refused with the alert that is meant for it."""
    with pytest.raises(ssl.SSLError, match="(?i)unrecognized.name"):
        served.client(listener, name="other.example")


def test_handshakes_that_never_end(served: Served) -> None:
    """Silent ones and half ones are over when their time is."""
    before = served.count("failures_total", "narrow", reason="timeout")
    silent = [served.proxy.connect("narrow") for _ in range(2)]
    silent[1].sendall(b"\x16\x03\x01\x02\x00\x01")
    for sock in silent:
        with Client(sock) as client:
            assert client.ended()
    assert served.count("failures_total", "narrow", reason="timeout") == before + 2


def test_more_handshakes_than_there_may_be(served: Served) -> None:
    """A flood of half-open ones costs the oldest of them, and never who comes next."""
    before = served.count("failures_total", "narrow", reason="evicted")
    flood = [served.proxy.connect("narrow") for _ in range(20)]
    with served.client("narrow") as client:
        assert client.ask().status == 200
    assert served.count("failures_total", "narrow", reason="evicted") >= before + 15
    for sock in flood:
        sock.close()


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
@pytest.mark.parametrize("listener", ["proxied", "stated", "haproxied"])
def test_a_proxy_header_before_tls(served: Served, listener: str, encode: Any) -> None:
    """It names the client; without one there is no handshake."""
    sock = served.proxy.connect(listener)
    sock.sendall(encode(("198.51.100.7", 4711), ("203.0.113.1", 443)))
    with Client(served.secured(sock)) as client:
        assert b"x-forwarded-for: 198.51.100.7" in client.ask("/head").body
    line = log_lines(served.proxy, listener=listener, path="/head")[0]
    assert line["client"] == "198.51.100.7:4711"
    if listener == "haproxied":
        return  # there Twisted judges headers, and tells nobody
    before = served.count("failures_total", listener, reason="proxy_header")
    with pytest.raises(OSError, match="(?i)reset|closed|eof"):
        served.client(listener)
    assert served.count("failures_total", listener, reason="proxy_header") == before + 1


def test_a_described_tcp_listener(served: Served) -> None:
    """TLS is ended there as well: nothing passes without it."""
    with served.client("tunnel") as client:
        assert client.ask("/big").body == BIG
        assert client.ask("/echo", "POST", BIG).body == BIG
    with served.proxy.connect("tunnel") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        with Client(sock) as plain, pytest.raises(Broken):
            plain.response()


def test_a_unix_socket(served: Served) -> None:
    """TLS works there too."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(served.folder / "web.sock"))
    with Client(served.secured(sock)) as client:
        assert client.ask("/big").body == BIG
        assert client.ask().status == 200
    assert log_lines(served.proxy, listener="unix")[0]["client"] == "unix:"


def test_sessions_are_resumed(served: Served) -> None:
    """A client that comes back has a short handshake, and the same certificate as before."""
    before = served.count("resumed_total")
    context = served.context(certificate=True)
    session = None
    for _ in range(2):
        sock = context.wrap_socket(
            served.proxy.connect("web"), server_hostname="a.example", session=session
        )
        with Client(sock) as client:
            assert client.ask("/private").status == 200
            session = sock.session
    assert served.count("resumed_total") == before + 1


def test_broken_records_cost_one_connection(served: Served) -> None:
    """Garbage, truncation and changed bytes at random behind the handshake; others go on."""
    dice = random.Random(4)
    with served.client() as other:
        for _ in range(40):
            sock = served.proxy.connect("web")
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = served.context().wrap_bio(into, out, server_hostname="a.example")
            _shake(tls, into, out, sock)
            tls.write(b"GET /head HTTP/1.1\r\nhost: a\r\n\r\n" * dice.randrange(1, 4))
            data = bytearray(out.read())
            kind = dice.randrange(4)
            if kind == 0:
                data = data[: dice.randrange(len(data))]
            elif kind == 1:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            elif kind == 2:
                data = bytearray(dice.randbytes(dice.randrange(1, 300)))
            else:
                data += dice.randbytes(dice.randrange(1, 300))
            sock.sendall(data)
            if dice.randrange(2):
                linger_reset(sock)
            else:
                sock.close()
            assert other.ask("/head").status == 200
    eventually(
        lambda: metric(served.proxy, "meshproxy_listener_connections_active", listener="web") == 0,
        "the end of every connection",
    )
    assert "Traceback" not in served.proxy.output


def _shake(
    tls: ssl.SSLObject, into: ssl.MemoryBIO, out: ssl.MemoryBIO, sock: socket.socket
) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(out.read())
            into.write(sock.recv(65536))
        else:
            sock.sendall(out.read())
            return


def test_draining(served: Served, tmp_path: Path) -> None:
    """SIGTERM: what is under way is answered and told to close; who is silent is not waited for."""
    own = served.folder / "server"
    text = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    tls: {{ certificates: [{{ chain: {own}.pem, key: {own}.key }}] }}
    http: {{ routes: [{{ to: site }}] }}
clusters: {{ site: {{ endpoints: ['127.0.0.1:$site'] }} }}
"""
    held = threading.Event()

    def answer(request: Received) -> bytes:
        assert held.wait(PATIENCE)
        return _answer(request)

    with HttpUpstream(answer) as site, Proxy(text, ports={"site": site.port}) as proxy:
        mine = Served(proxy, served.folder)
        idle, busy, silent = mine.client(), mine.client(), proxy.connect("web")
        busy.send(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(lambda: site.requests, "the request upstream")
        proxy.send_signal(signal.SIGTERM)
        assert idle.ended()
        assert silent.recv(1) == b""
        held.set()
        response = busy.response()
        assert (response.body, response.get("connection")) == (BIG, "close")
        assert busy.ended()
        for one in (idle, busy, silent):
            one.close()
        proxy.process.wait(PATIENCE)

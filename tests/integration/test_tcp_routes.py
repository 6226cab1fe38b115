"""
TCP led by the ClientHello: real TLS clients end to end through the proxy, which reads no more than
what they say first.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Proxy, Server
from tests.integration.wire import LOG, eventually, log_lines, metric
from tests.tls.authority import Authority
from tests.tls.hellos import records

CONFIG = f"""
listeners:
  tcp:
    listen: '127.0.0.1:$tcp'
    tcp:
      routes:
        - {{ match: {{ server_names: [db.example], alpn: [postgresql] }}, to: one }}
        - {{ match: {{ server_names: ['*.internal.example'] }}, to: two }}
        - {{ to: plain }}
      {LOG}
  strict:
    listen: '127.0.0.1:$strict'
    tcp:
      routes: [ {{ match: {{ server_names: [db.example] }}, to: one }} ]
      hello_timeout: 300ms
      {LOG}
  both:
    listen: '127.0.0.1:$both'
    tls:
      certificates: [ {{ chain: CHAIN, key: KEY }} ]
      alpn: [postgresql, other]
      pass_through: [ {{ match: {{ server_names: ['*.internal.example'] }}, to: two }} ]
    tcp:
      routes:
        - {{ match: {{ alpn: [postgresql] }}, to: word }}
        - {{ to: plain }}
      {LOG}
clusters:
  one: {{ endpoints: ['127.0.0.1:$one'] }}
  two: {{ endpoints: ['127.0.0.1:$two'] }}
  word: {{ endpoints: ['127.0.0.1:$word'] }}
  plain: {{ endpoints: ['127.0.0.1:$plain'] }}
"""


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a certificate that nobody verifies here."""
    return Authority().issue("db.example").write(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="module", params=[None, "epoll"], ids=["mesh", "epoll"])
def proxy(issued: tuple[Path, Path], request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """The proxy before two servers of TLS and two that speak plainly, each saying its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issued)
    context.set_alpn_protocols(["postgresql"])

    def secure(word: bytes) -> Callable[[socket.socket], None]:
        def serve(sock: socket.socket) -> None:
            with context.wrap_socket(sock, server_side=True) as end:
                plain(word)(end)

        return serve

    def plain(word: bytes) -> Callable[[socket.socket], None]:
        def serve(sock: socket.socket) -> None:
            while data := sock.recv(65536):
                sock.sendall(word + b":" + data)

        return serve

    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(Server(make(name.encode()))).port
            for name, make in (("one", secure), ("two", secure), ("word", plain), ("plain", plain))
        }
        config = CONFIG.replace("CHAIN", str(issued[0])).replace("KEY", str(issued[1]))
        yield stack.enter_context(Proxy(config, ports=ports, reactor=request.param))


def answer(proxy: Proxy, listener: str, name: str | None, *alpn: str) -> bytes:
    """What a TLS client that asks for ``name`` and ``alpn`` is answered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with (
        proxy.connect(listener) as sock,
        context.wrap_socket(sock, server_hostname=name) as secure,
    ):
        secure.sendall(b"hello")
        return secure.recv(1024)


def test_by_name_and_protocol(proxy: Proxy) -> None:
    """Each client's handshake is with the server that its hello leads to."""
    assert answer(proxy, "tcp", "db.example", "postgresql") == b"one:hello"
    assert answer(proxy, "tcp", "DB.Example", "h2", "postgresql") == b"one:hello"
    assert answer(proxy, "tcp", "a.b.internal.example") == b"two:hello"
    line = log_lines(proxy, listener="tcp", cluster="two")[0]
    assert line["bytes_received"] > 200


@pytest.mark.parametrize("data", [b"SSH-2.0-client\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_tls(proxy: Proxy, data: bytes) -> None:
    """A route without a match takes what is no TLS, with its first bytes."""
    with proxy.connect("tcp") as sock:
        sock.sendall(data)
        assert sock.recv(1024) == b"plain:" + data


def test_no_route(proxy: Proxy) -> None:
    """What no route takes is reset; the log and a counter tell."""
    with pytest.raises(ConnectionResetError):
        answer(proxy, "strict", "other.example")
    line = log_lines(proxy, listener="strict", details="no_route")[0]
    assert line["flags"] == "NR"
    name = "meshproxy_listener_no_route_total"
    assert eventually(lambda: metric(proxy, name, listener="strict"), "the counter")


def test_no_hello(proxy: Proxy) -> None:
    """A client that says nothing is waited for a while."""
    with proxy.connect("strict") as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    assert log_lines(proxy, listener="strict", details="hello_timeout")
    name = "meshproxy_listener_hello_timeouts_total"
    assert eventually(lambda: metric(proxy, name, listener="strict"), "the counter")


def test_a_hello_in_pieces(proxy: Proxy) -> None:
    """A hello that comes byte by byte, in records of its own, leads to the same server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    came, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(came, said, server_hostname="x.internal.example")
    with proxy.connect("tcp") as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        handshake = said.read()[5:]
        for byte in records(handshake, 40):
            sock.sendall(bytes([byte]))
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                came.write(sock.recv(65536))
        client.write(b"hello")
        sock.sendall(said.read())
        answered = b""
        while not answered:
            came.write(sock.recv(65536))
            try:
                answered = client.read(1024)
            except ssl.SSLWantReadError:
                pass
    assert answered == b"two:hello"


def test_ended_and_passed_through_on_one_port(proxy: Proxy) -> None:
    """Some names' TLS is ended here, and routed by what was agreed on; others' goes through."""
    assert answer(proxy, "both", "x.internal.example") == b"two:hello"
    assert answer(proxy, "both", "db.example", "postgresql") == b"word:hello"
    assert answer(proxy, "both", "db.example", "other") == b"plain:hello"
    assert answer(proxy, "both", None) == b"plain:hello"

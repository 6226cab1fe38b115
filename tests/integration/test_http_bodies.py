"""
Large bodies through the proxy, both ways and in every framing: not a byte is lost, changed or
gathered; a side that stops reading stops the other.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy, Received, Server
from tests.integration.wire import LOG, Client, ask, eventually, log_lines, resident

MIB = 1 << 20
SIZE = 10 * MIB

CONFIG = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    http: {{ routes: [{{ to: site, timeout: 0 }}], {LOG} }}
  small:
    listen: '127.0.0.1:$small'
    http: {{ routes: [{{ to: site }}], max_body: 1KiB }}
clusters:
  site: {{ endpoints: ['127.0.0.1:$site'] }}
"""


@pytest.fixture(scope="module")
def payload() -> bytes:
    """Ten mebibytes that compress to nothing less."""
    return os.urandom(SIZE)


def chunks(data: bytes, size: int = 40_000) -> Iterator[bytes]:
    """``data`` in chunked coding, chunk by chunk."""
    for start in range(0, len(data), size):
        part = data[start : start + size]
        yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def _answer(request: Received) -> bytes:
    digest = hashlib.sha256(request.body).hexdigest().encode()
    head = b"HTTP/1.1 200 OK\r\nx-sum: %b\r\n" % digest
    body = request.body
    if request.target == b"/chunked":
        return head + b"transfer-encoding: chunked\r\n\r\n" + b"".join(chunks(body))
    if request.target == b"/until-close":
        return head + b"connection: close\r\n\r\n" + body
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy before an upstream that sends back what it got, framed as the target says."""
    with (
        HttpUpstream(_answer) as upstream,
        Proxy(CONFIG, ports={"site": upstream.port}) as running,
    ):
        yield running


@pytest.mark.parametrize("answered", ["/length", "/chunked", "/until-close"])
@pytest.mark.parametrize("sent", ["length", "chunked"])
def test_ten_mebibytes(proxy: Proxy, payload: bytes, sent: str, answered: str) -> None:
    """A body arrives whole at the upstream and back at the client."""
    with Client.to(proxy) as client:
        for _ in range(2):  # and the connection is in step afterwards
            start = f"POST {answered} HTTP/1.1\r\nhost: a\r\n"
            if sent == "length":
                client.send(f"{start}content-length: {SIZE}\r\n\r\n".encode())
                client.send(payload)
            else:
                client.send(f"{start}transfer-encoding: chunked\r\n\r\n".encode())
                for chunk in chunks(payload):
                    client.send(chunk)
            response = client.response()
            assert response.get("x-sum") == hashlib.sha256(payload).hexdigest()
            assert response.body == payload
            assert response.framing == ("length" if answered == "/length" else "chunked")
    line = log_lines(proxy, path=answered)[-1]
    assert (line["bytes_received"], line["bytes_sent"]) == (SIZE, SIZE)


def test_the_limit_of_a_body(proxy: Proxy) -> None:
    """413 over ``max_body``, whether the length is said or found out; at the limit it passes."""
    assert ask(proxy, "/x", "POST", listener="small", body=b"x" * 1024).status == 200
    said = ask(proxy, "/x", "POST", listener="small", body=b"x" * 1025)
    assert (said.status, said.body) == (413, b"Payload Too Large")
    with Client.to(proxy, "small") as client:
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send(next(chunks(b"x" * 1025)))  # and more would follow
        assert client.response().status == 413
        assert client.ended()


def test_an_answer_before_the_body_is_whole(proxy: Proxy) -> None:
    """An upstream may answer early; the client gets the answer, and then the end."""

    def refuse(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        while sock.recv(65536):
            pass

    with (
        Server(refuse) as upstream,
        Proxy(CONFIG, ports={"site": upstream.port}) as own,
        Client.to(own) as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf")
        response = client.response()
        assert (response.status, response.body) == (403, b"no")
        assert client.ended()


def test_a_slow_upstream_stops_the_client() -> None:
    """What a client sends to an upstream that does not read is not gathered in the proxy."""
    read = threading.Event()
    got = hashlib.sha256()
    amount = 64 * MIB

    def swallow(sock: socket.socket) -> None:
        read.wait(60)
        left = amount
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        data = data.partition(b"\r\n\r\n")[2]
        while True:
            got.update(data)
            left -= len(data)
            if not left:
                break
            data = sock.recv(1 << 20)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    block = os.urandom(MIB)
    with (
        Server(swallow) as upstream,
        Proxy(CONFIG, ports={"site": upstream.port}) as own,
        Client.to(own) as client,
    ):
        before = resident(own)
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % amount)
        sent = [0]

        def send() -> None:
            for _ in range(amount // MIB):
                client.send(block)
                sent[0] += 1

        sender = threading.Thread(target=send)
        sender.start()
        stalled = -1
        while stalled != sent[0]:  # the client is stopped, not merely slow
            stalled = sent[0]
            sender.join(0.5)
        assert sender.is_alive()
        assert resident(own) - before < 8 * MIB
        read.set()
        assert client.response().status == 200
        sender.join()
        assert resident(own) - before < 8 * MIB
    assert got.digest() == hashlib.sha256(block * (amount // MIB)).digest()


def test_a_slow_client_stops_the_upstream() -> None:
    """What an upstream sends to a client that does not read is not gathered either."""
    amount = 50 * MIB
    block = os.urandom(MIB)
    sent = [0]

    def pour(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % amount)
        for _ in range(amount // MIB):
            sock.sendall(block)
            sent[0] += 1

    with (
        Server(pour) as upstream,
        Proxy(CONFIG, ports={"site": upstream.port}) as own,
        Client.to(own) as client,
    ):
        before = resident(own)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        stalled = -1
        pause = threading.Event()

        def standstill() -> bool:
            nonlocal stalled
            earlier, stalled = stalled, sent[0]
            pause.wait(0.3)
            return stalled == earlier > 0

        eventually(standstill, "the upstream to be stopped")
        assert sent[0] < amount // MIB
        assert resident(own) - before < 8 * MIB
        assert client.response().body == block * (amount // MIB)
        assert resident(own) - before < 8 * MIB

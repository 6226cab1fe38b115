"""The HTTP check: what is asked, which heads pass, and when the connection ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck as Slow
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from meshproxy.config import load
from meshproxy.errors import CheckFailed
from meshproxy.http.check import LIMIT, HttpCheck
from meshproxy.interfaces import IHealthCheck
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.endpoint import Endpoint
from tests.harness import HttpUpstream, Server, read_to_end
from tests.net import live
from tests.net.live import turn, turn_until
from tests.upstream.checks.asking import (
    CANCELLED,
    PASSED,
    Verdict,
    closed_port,
    config,
    endpoint,
    left,
    silent,
    unix_endpoint,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own, in which nothing may be left when the test has passed."""
    made = MeshReactor()
    try:
        yield made
        assert left(made) == []
    finally:
        live.close(made)


def verdict(reactor: MeshReactor, where: Endpoint, http: Any = "/", **more: Any) -> str | None:
    """What a check of this configuration says."""
    proxy_protocol = more.pop("proxy_protocol", None)
    check = HttpCheck(config(http=http, **more), reactor, proxy_protocol)
    verifyObject(IHealthCheck, check)
    return Verdict(check.check(where)).wait(reactor)


def receive_head(sock: socket.socket) -> bytes:
    """What comes until the empty line, or the end."""
    said = b""
    while b"\r\n\r\n" not in said and (part := sock.recv(65536)):
        said += part
    return said


def answer(reply: bytes) -> Server:
    """A server that answers a request's head with these bytes, and then listens on."""

    def serve(sock: socket.socket) -> None:
        receive_head(sock)
        sock.sendall(reply)
        read_to_end(sock)

    return Server(serve)


def asked(reactor: MeshReactor, http: Any, where: dict[str, Any], **more: Any) -> list[str]:
    """The lines of the request's head."""
    seen: list[str] = []

    def serve(sock: socket.socket) -> None:
        seen.extend(receive_head(sock).decode().removesuffix("\r\n\r\n").split("\r\n"))
        sock.sendall(OK)

    with Server(serve) as server:
        assert verdict(reactor, endpoint(server.port, **where), http, **more) is PASSED
        return [line.replace(str(server.port), "PORT") for line in seen]


def test_what_is_asked(reactor: MeshReactor) -> None:
    """A whole HTTP/1.1 request that asks for the connection to be closed."""
    assert asked(reactor, "/healthz", {}) == [
        "GET /healthz HTTP/1.1",
        "host: 127.0.0.1:PORT",
        "user-agent: meshproxy-health",
        "accept: */*",
        "connection: close",
    ]


def test_what_may_be_configured(reactor: MeshReactor) -> None:
    """Method, host and headers; a header takes the place of what would be sent otherwise."""
    http = {
        "path": "/h?x=1",
        "method": "POST",
        "host": "api.example",
        "headers": {"User-Agent": "me", "x-probe": "y"},
    }
    assert asked(reactor, http, {"name": "other.example"}) == [
        "POST /h?x=1 HTTP/1.1",
        "host: api.example",
        "user-agent: me",
        "accept: */*",
        "content-length: 0",
        "x-probe: y",
        "connection: close",
    ]


def test_the_host_is_the_name_that_it_was_found_by(reactor: MeshReactor) -> None:
    """With the port that is asked, and without the root's dot."""
    assert asked(reactor, "/", {"name": "api.example."})[1] == "host: api.example:PORT"


def test_the_upstream_of_the_integration_tests(reactor: MeshReactor) -> None:
    """An independent server finds nothing wrong with the request."""
    with HttpUpstream(OK) as server:
        where = endpoint(server.port)
        for method in ("GET", "HEAD", "PUT", "OPTIONS"):
            assert verdict(reactor, where, {"method": method}) is PASSED


@pytest.mark.parametrize(
    ("status", "statuses", "said"),
    [
        (200, None, PASSED),
        (299, None, PASSED),
        (300, None, "status 300"),
        (500, None, "status 500"),
        (404, [404], PASSED),
        (200, [404], "status 200"),
        (503, ["200-299", "500-503"], PASSED),
        (504, ["200-299", "500-503"], "status 504"),
        (101, ["101"], PASSED),
        (101, None, "status 101"),
    ],
)
def test_statuses(
    reactor: MeshReactor, status: int, statuses: list[Any] | None, said: str | None
) -> None:
    """Those in the ranges pass, to the edge."""
    http = {} if statuses is None else {"statuses": statuses}
    with answer(b"HTTP/1.1 %d x\r\n\r\n" % status) as server:
        assert verdict(reactor, endpoint(server.port), http) == said


def test_interim_heads_are_passed_over(reactor: MeshReactor) -> None:
    """100 and 103 are not the answer; nothing but these is no answer at all."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    with answer(interim + b"HTTP/1.1 500 x\r\n\r\n") as server:
        assert verdict(reactor, endpoint(server.port)) == "status 500"
    with answer(interim * 1000) as server:
        said = verdict(reactor, endpoint(server.port))
        assert said == f"nothing that passes in the first {LIMIT} bytes"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what comes is not HTTP/1"),
        (b"\x15\x03\x01\x00\x02\x02\x50", "what comes is not HTTP/1"),
        (b"HTTP/2 200\r\n\r\n", "what comes is not HTTP/1"),
        (b"HTTP/1.1 abc\r\n\r\n", "protocol error: bad status line"),
        (b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "protocol error: "),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "protocol error: content-length and transfer-encoding",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n", "protocol error: too many headers"),
    ],
)
def test_garbage(reactor: MeshReactor, reply: bytes, said: str) -> None:
    """What the proxy would not forward does not pass, though its status would."""
    with answer(reply) as server:
        found = verdict(reactor, endpoint(server.port))
        assert found is not PASSED
        assert found.startswith(said)


@pytest.mark.parametrize("size", [LIMIT - 100, LIMIT + 100])
def test_large_heads(reactor: MeshReactor, size: int) -> None:
    """As large as a response that is forwarded may have; not larger."""
    with answer(b"HTTP/1.1 200 OK\r\na: " + b"x" * size + b"\r\n\r\n") as server:
        said = verdict(reactor, endpoint(server.port))
    assert said == (PASSED if size < LIMIT else f"nothing that passes in the first {LIMIT} bytes")


def test_the_body_is_not_read(reactor: MeshReactor) -> None:
    """An endless one costs nothing: the connection is closed when the head is there."""
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                sock.sendall(b"x" * 65536)
        except ConnectionError:
            ended.set()

    with Server(serve) as server:
        assert verdict(reactor, endpoint(server.port)) is PASSED
        assert ended.wait(20)


def test_ends_without_a_head(reactor: MeshReactor) -> None:
    """Refused, closed at once, closed in the middle, reset."""
    assert verdict(reactor, endpoint(closed_port())) == "refused"

    def half(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200")
        sock.shutdown(socket.SHUT_WR)
        read_to_end(sock)

    with Server(half) as server:
        assert verdict(reactor, endpoint(server.port)) == "closed after 12 bytes"

    def reset(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with Server(reset) as server:
        assert verdict(reactor, endpoint(server.port)) == "reset"


def test_a_whole_head_and_the_end_pass(reactor: MeshReactor) -> None:
    """A server may close, or half-close, right behind its answer."""

    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        read_to_end(sock)

    with Server(serve) as server:
        assert verdict(reactor, endpoint(server.port)) is PASSED


def test_a_server_that_stalls(reactor: MeshReactor) -> None:
    """Before or within the head: the asker cancels, and the server sees the end."""
    with Server(silent) as server:
        check = HttpCheck(config(http="/"), reactor)
        waiting = Verdict(check.check(endpoint(server.port)))
        turn_until(reactor, lambda: server.connections)
        turn(reactor)
        waiting.cancel()
        assert waiting.results == [CANCELLED]
        assert left(reactor) == []


def test_another_port(reactor: MeshReactor) -> None:
    """The check port is asked, and named in Host."""
    with HttpUpstream(OK) as server:
        assert verdict(reactor, endpoint(closed_port()), port=server.port) is PASSED
        own = endpoint(closed_port(), check_port=server.port)
        assert verdict(reactor, own, port=closed_port()) is PASSED


def test_a_unix_socket(reactor: MeshReactor, tmp_path: Path) -> None:
    """Asked at its path; Host is localhost, since a path is none."""
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        seen: list[bytes] = []

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                seen.append(sock.recv(65536))
                sock.sendall(OK)

        thread = threading.Thread(target=serve)
        thread.start()
        said = verdict(reactor, unix_endpoint(path), port=81)
        thread.join()
        assert said is PASSED
        assert b"\r\nhost: localhost\r\n" in seen[0]


def test_an_endpoint_that_wants_proxy_headers(reactor: MeshReactor) -> None:
    """The header comes before the request."""
    seen: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        seen.append(sock.recv(65536))
        sock.sendall(OK)

    with Server(serve) as server:
        where = endpoint(server.port)
        assert verdict(reactor, where, proxy_protocol="v1") is PASSED
    assert seen[0].startswith(b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n")


def test_a_real_configuration() -> None:
    """The example's words are understood; a path alone is enough."""
    text = """
listeners: { web: { listen: 127.0.0.1:1, http: { routes: [{ to: api }] } } }
clusters:
  api:
    endpoints: [127.0.0.1:9001]
    health_check: { http: /healthz, interval: 5s, timeout: 1s }
"""
    check = load(text, "test.yaml").configuration.clusters["api"].health_check
    assert check is not None
    assert HttpCheck(check, None).name == "http"


@pytest.fixture
def check() -> HttpCheck:
    """A check that is asked for its opinion only."""
    return HttpCheck(config(http="/"), None)


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 503 x",
        b"HTTP/1.0 204",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"a: b",
        b"content-length: 5",
        b"H",
        b"\x00",
    ]
)


def opinion(check: HttpCheck, data: bytes) -> str | bool:
    """The verdict on these bytes: True, False for more, or the reason."""
    try:
        return check._heard(bytearray(data))
    except CheckFailed as error:
        return str(error)


@settings(suppress_health_check=[Slow.function_scoped_fixture], deadline=None)
@given(st.lists(PIECES | st.binary(max_size=4), max_size=12))
def test_any_bytes(check: HttpCheck, pieces: list[bytes]) -> None:
    """A verdict or a wish for more, never a defect; and what was decided stays so with more."""
    data = b"".join(pieces)
    decided: str | bool = False
    for end in range(len(data) + 1):
        now = opinion(check, data[:end])
        if decided is not False:
            assert now == decided
        decided = now
    assert opinion(check, b"HTTP/1.1 200 OK\r\n\r\n" + data) is True

"""The TCP check: connecting, saying something, expecting something."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IHealthCheck
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks.tcp import LIMIT, TcpCheck, bytes_of, preamble
from meshproxy.upstream.endpoint import Endpoint
from tests.harness import Server, read_to_end
from tests.upstream.checks.asking import (
    PASSED,
    Verdict,
    closed_port,
    config,
    endpoint,
    silent,
    unix_endpoint,
)


def verdict(reactor: MeshReactor, where: Endpoint, tcp: Any, **more: Any) -> str | None:
    """What a check of this configuration says."""
    proxy_protocol = more.pop("proxy_protocol", None)
    check = TcpCheck(config(tcp=tcp, **more), reactor, proxy_protocol)
    verifyObject(IHealthCheck, check)
    return Verdict(check.check(where)).wait(reactor)


def test_connecting_is_enough(reactor: MeshReactor) -> None:
    """Without ``expect`` nothing has to come; refused is a failure."""
    with Server(silent) as server:
        assert verdict(reactor, endpoint(server.port), True) is PASSED
    assert verdict(reactor, endpoint(closed_port()), True) == "refused"


def test_send_and_expect(reactor: MeshReactor) -> None:
    """Text, or bytes as hexadecimal digits; the answer may be anywhere in what comes."""

    def serve(sock: socket.socket) -> None:
        said = sock.recv(100)
        sock.sendall(b"-ERR what?\r\n" if said != b"PING\r\n" else b"noise \x00+PONG\r\n")
        read_to_end(sock)

    with Server(serve) as server:
        where = endpoint(server.port)
        both = {"send": "PING\r\n", "expect": "+PONG"}
        assert verdict(reactor, where, both) is PASSED
        assert (
            verdict(reactor, where, {"send": "hex:50494e470d0a", "expect": "hex:00 2b"}) is PASSED
        )


def test_what_is_expected_does_not_come(reactor: MeshReactor) -> None:
    """Something else and the end; or something else for ever."""

    def other(sock: socket.socket) -> None:
        sock.sendall(b"-LOADING\r\n")

    def flood(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x" * 65536)

    with Server(other) as server:
        said = verdict(reactor, endpoint(server.port), {"expect": "+PONG"})
        assert said == "closed after 10 bytes"
    with Server(flood) as server:
        said = verdict(reactor, endpoint(server.port), {"expect": "+PONG"})
        assert said == f"nothing that passes in the first {LIMIT} bytes"


@pytest.mark.parametrize("pieces", [[b"ab", b"cd", b"e"], [b"a"] * 9 + [b"b", b"c", b"d"]])
def test_it_is_found_wherever_the_pieces_are_cut(reactor: MeshReactor, pieces: list[bytes]) -> None:
    """Also at the very end of what is looked at."""
    for before in (0, LIMIT - sum(map(len, pieces))):

        def serve(sock: socket.socket, before: int = before) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(b"." * before)
            for piece in pieces:
                sock.sendall(piece)
            read_to_end(sock)

        with Server(serve) as server:
            assert verdict(reactor, endpoint(server.port), {"expect": "abcd"}) is PASSED


def test_another_port(reactor: MeshReactor) -> None:
    """The cluster's check port, and the endpoint's own before it."""
    with Server(silent) as server:
        nowhere = closed_port()
        assert verdict(reactor, endpoint(nowhere), True, port=server.port) is PASSED
        own = endpoint(nowhere, check_port=server.port)
        assert verdict(reactor, own, True, port=closed_port()) is PASSED


def test_a_unix_socket(reactor: MeshReactor, tmp_path: Path) -> None:
    """Its path is connected to; the port means nothing there."""
    path = str(tmp_path / "x.sock")
    assert verdict(reactor, unix_endpoint(path), True, port=81) == "refused"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.sendall(b"hello" + sock.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        said = verdict(reactor, unix_endpoint(path), {"send": "x", "expect": "hellox"}, port=81)
        thread.join()
        assert said is PASSED


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_endpoint_that_wants_proxy_headers(reactor: MeshReactor, version: str) -> None:
    """It gets one before anything else, which says that the connection is the proxy's own."""
    expected = b"PROXY UNKNOWN\r\n"
    if version == "v2":
        expected = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    assert (preamble(version), preamble(None)) == (expected, b"")

    def serve(sock: socket.socket) -> None:
        if sock.recv(len(expected), socket.MSG_WAITALL) == expected:
            sock.sendall(sock.recv(4))

    with Server(serve) as server:
        tcp = {"send": "ping", "expect": "ping"}
        assert verdict(reactor, endpoint(server.port), tcp, proxy_protocol=version) is PASSED
        where = endpoint(server.port)
        said = verdict(reactor, where, {"send": "x" * 100, "expect": "x"})
        assert said in ("closed after 0 bytes", "reset")


def test_what_texts_stand_for() -> None:
    """UTF-8, or the bytes that the digits say."""
    assert bytes_of("é") == b"\xc3\xa9"
    assert bytes_of("hex:00fF 10") == b"\x00\xff\x10"
    assert bytes_of(None) == b""

"""Conversations: one verdict, everything closed, whatever the other side does."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from meshproxy.errors import CheckFailed
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks import stream
from meshproxy.upstream.checks.stream import Secure, converse
from meshproxy.upstream.checks.target import target_of
from meshproxy.upstream.endpoint import Endpoint
from tests.harness import Server, read_to_end
from tests.net.live import turn, turn_until
from tests.tcp.mesh import rst
from tests.tls.origin import Asking, TlsServer, endpoint_at, server_context
from tests.tls.origin import settings as tls_settings
from tests.upstream.checks.asking import (
    CANCELLED,
    PASSED,
    Verdict,
    closed_port,
    endpoint,
    left,
    silent,
)


def ask(reactor: MeshReactor, port: int, **settings: Any) -> Verdict:
    """A conversation with whoever listens at the port."""
    settings = {"send": b"", "heard": None, "timeout": 60.0, **settings}
    return Verdict(converse(reactor, target_of(endpoint(port)), **settings))


def contains(expected: bytes) -> Any:
    """Passes when this is in what came."""
    return lambda data: expected in data


def test_what_is_sent_arrives_and_what_comes_is_judged(reactor: MeshReactor) -> None:
    """In pieces, too: ``heard`` gets everything so far."""
    seen: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        seen.append(sock.recv(100))
        for piece in (b"p", b"on", b"g and more"):
            sock.sendall(piece)
        read_to_end(sock)

    with Server(serve) as server:
        verdict = ask(reactor, server.port, send=b"ping", heard=contains(b"pong"))
        assert verdict.wait(reactor) is PASSED
    assert seen == [b"ping"]


def test_without_ears_having_sent_is_enough(reactor: MeshReactor) -> None:
    """The other side gets all of it, then the end, even where the kernel does not take it whole."""
    whole = bytes(8 * 1024 * 1024)
    received: list[int] = []
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        received.append(len(read_to_end(sock)))
        done.set()

    with Server(serve) as server:
        assert ask(reactor, server.port, send=whole).wait(reactor) is PASSED
        assert done.wait(20)
    assert received == [len(whole)]


def test_connecting_is_enough_when_nothing_is_said(reactor: MeshReactor) -> None:
    """No bytes either way."""
    with Server(silent) as server:
        assert ask(reactor, server.port).wait(reactor) is PASSED


def test_nobody_listens(reactor: MeshReactor) -> None:
    """The reason is the connection's."""
    assert ask(reactor, closed_port()).wait(reactor) == "refused"


def test_an_end_before_the_verdict(reactor: MeshReactor) -> None:
    """Closed after nothing, after something, after half a close."""
    with Server(lambda sock: None) as server:
        verdict = ask(reactor, server.port, heard=contains(b"x"))
        assert verdict.wait(reactor) == "closed after 0 bytes"

    def half(sock: socket.socket) -> None:
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        read_to_end(sock)

    with Server(half) as server:
        verdict = ask(reactor, server.port, heard=contains(b"x"))
        assert verdict.wait(reactor) == "closed after 3 bytes"
        assert ask(reactor, server.port, heard=contains(b"bc")).wait(reactor) is PASSED


def test_a_reset(reactor: MeshReactor) -> None:
    """A peer that resets fails the check; what it said before it did counts."""

    def reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with Server(reset) as server:
        verdict = ask(reactor, server.port, heard=contains(b"x"))
        assert verdict.wait(reactor) == "reset"


def test_a_peer_that_answers_before_it_has_read(reactor: MeshReactor) -> None:
    """What could not be sent any more is no failure where an answer is waited for."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"early")
        sock.shutdown(socket.SHUT_RDWR)

    with Server(serve) as server:
        verdict = ask(reactor, server.port, send=bytes(8 * 1024 * 1024), heard=contains(b"early"))
        assert verdict.wait(reactor) in (PASSED, "reset")
        verdict = ask(reactor, server.port, send=bytes(8 * 1024 * 1024))
        assert verdict.wait(reactor) == "reset"


def test_a_flood_is_read_up_to_the_limit(reactor: MeshReactor) -> None:
    """What passes within the limit passes, to the byte; the rest is not read."""

    def flood(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x" * 65536)

    lengths: list[int] = []

    def heard(data: bytearray) -> bool:
        lengths.append(len(data))
        return False

    with Server(flood) as server:
        verdict = ask(reactor, server.port, heard=heard, limit=50_000)
        assert verdict.wait(reactor) == "nothing that passes in the first 50000 bytes"
        assert lengths[-1] == 50_000
        exact = ask(reactor, server.port, heard=lambda data: len(data) == 50_000, limit=50_000)
        assert exact.wait(reactor) is PASSED


def test_what_the_judge_raises_is_the_result(reactor: MeshReactor) -> None:
    """A failure of the check, or a defect; the connection is closed either way."""

    def refuse(data: bytearray) -> bool:
        raise CheckFailed("garbage")

    def broken(data: bytearray) -> bool:
        raise KeyError("a defect")

    with Server(lambda sock: sock.sendall(b"hello")) as server:
        assert ask(reactor, server.port, heard=refuse).wait(reactor) == "garbage"
        failed: list[Any] = []
        deferred: Deferred[None] = converse(
            reactor, target_of(endpoint(server.port)), 60.0, b"", broken
        )
        deferred.addErrback(failed.append)
        turn_until(reactor, lambda: failed)
        assert failed[0].type is KeyError
        assert left(reactor) == []


@pytest.mark.parametrize("said", [b"", b"something"])
def test_cancelling_closes(reactor: MeshReactor, said: bytes) -> None:
    """A peer that stalls, before or after it said something, sees the end at once."""
    ended = threading.Event()

    def stall(sock: socket.socket) -> None:
        sock.sendall(said)
        read_to_end(sock)
        ended.set()

    with Server(stall) as server:
        heard: list[int] = []

        def listening(data: bytearray) -> bool:
            heard.append(len(data))
            return False

        verdict = ask(reactor, server.port, heard=listening)
        turn_until(reactor, lambda: heard if said else server.connections)
        turn(reactor)
        verdict.cancel()
        assert verdict.results == [CANCELLED]
        assert left(reactor) == []
        assert ended.wait(20)
        turn(reactor)
        assert verdict.results == [CANCELLED]


def test_cancelling_while_it_connects(reactor: MeshReactor) -> None:
    """A listener whose backlog is full never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            verdicts = [ask(reactor, port, heard=contains(b"x")) for _ in range(4)]
            turn(reactor)
            for verdict in verdicts:
                verdict.cancel()
                assert verdict.results == [CANCELLED]
            assert left(reactor) == []


def test_an_event_that_comes_after_the_end_does_nothing(reactor: MeshReactor) -> None:
    """A reactor may deliver what it had already collected."""
    kept: list[Any] = []
    with Server(silent) as server:
        verdict = ask(reactor, server.port, heard=contains(b"x"))
        turn_until(reactor, lambda: server.connections and kept_one(reactor, kept))
        verdict.cancel()
        (conversation,) = kept
        conversation.doRead()
        conversation.doWrite()
        conversation.connectionLost(None)
        assert conversation.fileno() == -1
        assert verdict.results == [CANCELLED]


def kept_one(reactor: MeshReactor, kept: list[Any]) -> bool:
    """Keep the one descriptor that waits to read."""
    found = [each for each in reactor.getReaders() if each not in reactor._internalReaders]
    kept[:] = found
    return len(found) == 1


# Over TLS


def ask_securely(
    reactor: MeshReactor, port: int, at: Endpoint | None = None, config: Any = None, **rest: Any
) -> Verdict:
    """The same with a server that speaks TLS, by what is verified of it."""
    rest = {"send": b"", "heard": None, "timeout": 60.0, **rest}
    at = endpoint_at(port, "a.example") if at is None else at
    tls = Asking(reactor, tls_settings(verify=False) if config is None else config).tls
    return Verdict(converse(reactor, target_of(at, port), secure=Secure(tls, at), **rest))


def test_a_conversation_over_tls(reactor: MeshReactor, tmp_path: Path) -> None:
    """What is sent arrives, what comes is judged, and close_notify ends it."""
    seen: list[bytes] = []

    def serve(sock: ssl.SSLSocket) -> None:
        seen.append(sock.recv(100))
        for piece in (b"p", b"ong and more"):
            sock.sendall(piece)
        seen.append(sock.recv(100))

    with TlsServer(server_context(tmp_path), serve) as server:
        verdict = ask_securely(reactor, server.port, send=b"ping", heard=contains(b"pong"))
        assert verdict.wait(reactor) is PASSED
        assert left(reactor) == []
    assert seen == [b"ping", b""]
    assert server.failed == []


@pytest.mark.parametrize("send", [b"", b"hello"])
def test_a_handshake_is_enough(reactor: MeshReactor, tmp_path: Path, send: bytes) -> None:
    """Where nothing is waited for, what is sent goes out all the same."""
    seen: list[bytes] = []

    def serve(sock: ssl.SSLSocket) -> None:
        seen.append(sock.recv(100))

    with TlsServer(server_context(tmp_path), serve) as server:
        assert ask_securely(reactor, server.port, send=send).wait(reactor) is PASSED
        assert left(reactor) == []
    assert seen == [send]


def test_who_cannot_be_believed(reactor: MeshReactor, tmp_path: Path) -> None:
    """The reason is told, and nothing is sent."""
    with TlsServer(server_context(tmp_path)) as server:
        verdict = ask_securely(reactor, server.port, config=tls_settings(), send=b"ping")
        told = verdict.wait(reactor)
    assert told is not None
    assert told.startswith("TLS error: unable to get ")
    assert left(reactor) == []


@pytest.mark.parametrize(
    ("orderly", "reason"), [(True, "closed after 4 bytes"), (False, "TLS error: unexpected eof")]
)
def test_an_end_before_the_verdict_over_tls(
    reactor: MeshReactor, tmp_path: Path, orderly: bool, reason: str
) -> None:
    """With and without close_notify."""

    def serve(sock: ssl.SSLSocket) -> None:
        sock.sendall(b"half")
        if not orderly:
            sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)

    with TlsServer(server_context(tmp_path), serve) as server:
        verdict = ask_securely(reactor, server.port, heard=contains(b"whole"))
        told = verdict.wait(reactor)
    assert told is not None
    assert told.startswith(reason)
    assert left(reactor) == []


@pytest.mark.parametrize("said", [b"", b"\x16"])
def test_cancelling_while_hands_are_shaken(reactor: MeshReactor, said: bytes) -> None:
    """Nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        verdict = ask_securely(reactor, server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            peer.settimeout(20)
            turn_until(reactor, lambda: len(left(reactor)) > 1)
            peer.sendall(said)
            turn(reactor)
            verdict.cancel()
            assert verdict.results == [CANCELLED]
            assert left(reactor) == []
            read_to_end(peer)


def test_the_header_goes_before_tls(reactor: MeshReactor, tmp_path: Path) -> None:
    """In the open, for who takes it off does not decrypt."""
    context = server_context(tmp_path)
    lines: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        lines.append(sock.recv(7))
        with context.wrap_socket(sock, server_side=True) as wrapped:
            lines.append(wrapped.recv(100))

    with Server(serve) as server:
        verdict = ask_securely(reactor, server.port, before=b"HEADER\n", send=b"ping")
        assert verdict.wait(reactor) is PASSED
    assert lines == [b"HEADER\n", b"ping"]


def test_sessions_of_checks(reactor: MeshReactor, tmp_path: Path) -> None:
    """They share the endpoint's at its own port; at another there may be another server."""

    def serve(sock: ssl.SSLSocket) -> None:
        sock.sendall(b"pong")
        sock.recv(1)

    with TlsServer(server_context(tmp_path), serve) as server:
        own = endpoint_at(server.port, "a.example")
        other = endpoint_at(closed_port(), "a.example")
        asking = Asking(reactor, tls_settings(verify=False))
        for at in (own, own, other, other):
            secure = Secure(asking.tls, at)
            target = target_of(at, server.port)
            if at is other:
                target = target_of(own)
            verdict = Verdict(
                converse(reactor, target, 60.0, b"", contains(b"pong"), secure=secure)
            )
            assert verdict.wait(reactor) is PASSED
    assert server.reused == [False, True, False, False]
    assert other.session is None


@pytest.mark.parametrize("before", [b"", b"HEADER\n"])
def test_a_reset_before_hands_are_shaken(
    reactor: MeshReactor, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """After the kernel's word that it is connected, before ours: there is a verdict."""

    def reset(_: Any, family: int, sockaddr: Any, *rest: Any) -> None:
        sock = socket.create_connection(sockaddr)
        peer, _ = server.accept()
        rst(peer)
        select.select([sock], [], [], 20)
        sock.setblocking(False)
        rest[1](sock)

    monkeypatch.setattr(stream, "connect", reset)
    with socket.create_server(("127.0.0.1", 0)) as server:
        verdict = ask_securely(reactor, server.getsockname()[1], before=before)
        assert verdict.wait(reactor) in ("reset", "TLS error: connection reset")
    assert left(reactor) == []

"""Generations of tickets."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.tls import tickets
from meshproxy.tls.contexts import ServerContexts
from meshproxy.tls.hello import Hello, parse_hello
from meshproxy.tls.settings import apply, binding
from meshproxy.tls.tickets import MOST, Generations, Schedule, key_name
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import Exchange, certificate, client, hello, listener_tls


@pytest.fixture(scope="module")
def issued() -> Issued:
    """The server's."""
    return Authority().issue("a.example")


def server(issued: Issued, **given: Any) -> SSL.Context:
    """A context with tickets."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    context: Any = made
    apply(made, **given)
    context.use_certificate(issued.cert)
    context.use_privatekey(issued.key)
    context.set_session_id(b"x")
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return made


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_version": "1.2"},
        {"min_version": "1.3"},
        {"max_version": "1.2", "ciphers": ["AES128-SHA256", "ECDHE-ECDSA-AES128-SHA256"]},
        {"curves": ["P-521"]},
    ],
)
def test_the_key_is_what_clients_are_told(issued: Issued, given: dict[str, Any]) -> None:
    """Whatever a server speaks, the name learnt is the one that its clients' tickets begin with."""
    context = server(issued, **given)
    name = key_name(context)
    assert len(name) == 16
    for version in ("1.2", "1.3"):
        able = client(version=version)
        done = Exchange(context, able)
        if done.good and done.session is not None:
            assert hello(able, "", done.session).ticket == name
    assert key_name(server(issued, **given)) != name


def test_of_a_server_that_asks_for_certificates(issued: Issued) -> None:
    """The handshake that learns needs none."""
    context = server(issued)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    assert len(key_name(context)) == 16
    assert not Exchange(context, client()).good


def test_without_tickets(issued: Issued) -> None:
    """There is no name, and nothing stays in OpenSSL's queue of errors."""
    context = server(issued, max_version="1.2")
    context.set_options(SSL.OP_NO_TICKET)
    assert key_name(context) == b""
    # Without a certificate no handshake comes to its end.
    assert key_name(SSL.Context(SSL.TLS_SERVER_METHOD)) == b""
    assert binding.ERR_peek_error() == 0


def test_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are kept until their tickets end; there are only so many."""
    contexts: list[Any] = [f"context {number}" for number in range(MOST + 3)]
    monkeypatch.setattr(tickets, "key_name", lambda context: b"key of " + context.encode())
    generations = Generations(contexts[0])
    made = iter(contexts[1:])
    assert not generations.turn(2, 10.0, 25.0, made.__next__)
    assert (generations.current, generations.number) == (contexts[1], 2)
    assert generations.known == {b"key of context 0": contexts[0]}
    # However many were missed, one is made.
    assert not generations.turn(7, 20.0, 25.0, made.__next__)
    assert (generations.current, generations.number) == (contexts[2], 7)
    generations.expire(34.9)
    assert len(generations.known) == 2
    generations.expire(35.0)
    assert generations.known == {b"key of context 1": contexts[1]}
    for number, _ in enumerate(contexts[3:], 8):
        generations.turn(number, 21.0, 25.0, made.__next__)
        assert len(generations.known) <= MOST
    assert b"key of context 1" not in generations.known
    generations.expire(1e9)
    assert (generations.known, generations.current) == ({}, contexts[-1])


def test_generations_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are known before their time, come by their numbers, and are then followed by others."""
    contexts: list[Any] = [f"context {number}" for number in range(7)]
    learnt: list[Any] = []

    def learn(context: Any) -> bytes:
        learnt.append(context)
        return f"key of {context}".encode()

    monkeypatch.setattr(tickets, "key_name", learn)
    generations = Generations(contexts[0], 10)
    made = iter(contexts[1:])
    generations.prepare(2, made.__next__)
    generations.prepare(4, made.__next__)
    generations.prepare(3, made.__next__)
    assert (generations.prepared, generations.current) == (4, contexts[0])
    assert list(generations.known.values()) == contexts[1:5]
    assert generations.turn(11, 0.0, 25.0, made.__next__)
    assert (generations.prepared, generations.current) == (3, contexts[1])
    # Slept over two: others gave their tickets meanwhile, they are older ones like any.
    assert generations.turn(14, 5.0, 25.0, made.__next__)
    assert (generations.prepared, generations.current) == (0, contexts[4])
    assert list(generations.known.values()) == [*contexts[1:5], contexts[0]]
    generations.expire(25.0)
    assert list(generations.known.values()) == contexts[1:5]
    assert not generations.turn(15, 10.0, 25.0, made.__next__)
    assert (generations.number, generations.current) == (15, contexts[5])
    generations.expire(34.9)
    assert list(generations.known.values()) == [contexts[4]]
    # What is missing at the end is passed over too.
    generations.prepare(1, made.__next__)
    generations.turn(18, 30.0, 25.0, lambda: contexts[0])
    assert (generations.number, generations.current) == (18, contexts[0])
    assert list(generations.known.values()) == [contexts[4], contexts[6], contexts[5]]
    assert len(learnt) == len(set(learnt)) == 7
    generations.expire(1e9)
    assert generations.known == {}


def test_a_schedule() -> None:
    """The number depends on the time alone, however late and seldom it is asked."""
    often, seldom = Schedule(1000.0, 100.0), Schedule(1000.0, 100.0)
    for now in range(1000, 1550, 7):
        often.due(now)
    assert often.due(1599.0) == seldom.due(1599.0) == 6
    assert often.due(1600.0) == seldom.due(1603.0) == 7
    often.hasten()
    assert (often.due(1605.0), often.due(1700.0)) == (8, 9)


def test_a_clock_that_is_set_back() -> None:
    """Across a change nothing is taken back; by more, the keys change as often as before."""
    schedule = Schedule(1000.0, 100.0)
    assert (schedule.due(1500.0), schedule.due(1499.0), schedule.due(1500.0)) == (6, 6, 6)
    assert [schedule.due(now) for now in (50.0, 99.0, 101.0, 200.0, 299.0)] == [6, 6, 7, 8, 8]


def test_a_generation_without_tickets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept: nothing could pick it."""
    monkeypatch.setattr(tickets, "key_name", lambda context: b"")
    one: Any = "one"
    two: Any = "two"
    generations = Generations(one)
    generations.prepare(1, lambda: two)
    generations.turn(2, 10.0, 25.0, lambda: one)
    assert (generations.known, generations.current) == ({}, two)


# Processes


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_forked_processes_resume_each_others_sessions(
    issued: Issued, tmp_path: Path, version: str
) -> None:
    """Whoever gave a ticket, before new keys or after them, or whose clock ticks later."""
    issued.write(tmp_path, "a")
    config = listener_tls(certificates=[certificate(chain="a.pem", key="a.key")])
    now = 1.8e9
    contexts = ServerContexts(config, "web", str(tmp_path), lambda: now)
    contexts.prepare(2)
    able = client(version=version)
    before = Exchange(_picked(contexts, hello(able)), able).session
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                listener.settimeout(60)
                # Its keys change before the first client comes, and again before the fourth.
                for later in (43200, 0, 0, 43200):
                    now += later
                    contexts.tick()
                    _serve(listener, contexts)
                status = contexts.prepared
            finally:
                os._exit(status)

    def of_child(session: Any = None) -> tuple[bool, Any]:
        with socket.create_connection(address, 60) as sock:
            return _ask(sock, able, session)

    def of_ours(session: Any) -> bool:
        context = _picked(contexts, hello(able, "", session))
        return Exchange(context, able, "", session).resumed

    resumed, given = of_child()
    assert not resumed
    assert of_child(before)[0]
    # The child is ahead of us, then beside, then behind.
    assert of_ours(given)
    now += 43200 + 3
    contexts.tick()
    assert of_ours(given)
    assert of_ours(before)
    now += 43200
    contexts.tick()
    ours = Exchange(_picked(contexts, hello(able)), able).session
    assert of_ours(given)
    assert of_child(ours)[0]
    assert of_child(ours)[0]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == contexts.prepared == 0


def _picked(contexts: ServerContexts, said: Hello) -> SSL.Context:
    context = contexts.pick(said)
    assert context is not None
    return context


def _serve(listener: socket.socket, contexts: ServerContexts) -> None:
    """Serve one client, who is told whether its session was resumed."""
    sock, _ = listener.accept()
    said: Hello | int = 1
    while isinstance(said, int):
        data = sock.recv(said, socket.MSG_PEEK | socket.MSG_WAITALL)
        if not data:
            return
        said = parse_hello(data)
    connection: Any = SSL.Connection(_picked(contexts, said), sock)
    connection.set_accept_state()
    connection.do_handshake()
    connection.send(b"%d" % binding.SSL_session_reused(connection._ssl))
    sock.close()


def _ask(sock: socket.socket, able: SSL.Context, session: Any) -> tuple[bool, Any]:
    """Whether the server at ``sock`` resumed ``session``, and one that it gives."""
    sock.setblocking(True)
    connection: Any = SSL.Connection(able, sock)
    connection.set_connect_state()
    if session is not None:
        connection.set_session(session)
    connection.do_handshake()
    resumed = connection.recv(1) == b"1"
    given = connection.get_session()
    connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
    return resumed, given

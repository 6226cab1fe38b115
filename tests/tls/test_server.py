"""A listener's clients, from accept to a transport with plain bytes, or to the reason why not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.net import farewell
from meshproxy.net.proxy_protocol import encode_v2
from meshproxy.net.reactor import MeshReactor
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.tls.server import PLAIN_REPLY, ServerTls
from tests.net import live
from tests.net.logged import errors
from tests.tls.wire import Client, Contexts, Noting, client_context, pair, server_context


class Scene:
    """A ServerTls, the room behind it, and clients."""

    def __init__(self, **options: Any) -> None:
        self.reactor = MeshReactor()
        self.wheel = TimerWheel(self.reactor)
        self.contexts = options.pop("contexts", None) or Contexts()
        self.secured: list[tuple[Any, Any, Noting]] = []
        self.passed: list[tuple[Any, ...]] = []
        self.clients: list[Client] = []
        options.setdefault("handshake_timeout", 20.0)
        options.setdefault("max_handshakes", 100)
        self.tls = ServerTls(
            self.reactor, self.wheel, Registry(), "web", self.contexts, http=True, **options
        )
        self.tls.secured = self._secured
        self.tls.passed = lambda *what: self.passed.append(what)

    def _secured(self, transport: Any, header: Any) -> None:
        protocol = Noting()
        self.secured.append((transport, header, protocol))
        transport.start(protocol)

    def client(self, *, before: bytes = b"", family: str = "tcp", **options: Any) -> Client:
        """A client that has been accepted, and has sent ``before``."""
        ours, theirs = pair(family)
        if before:
            theirs.send(before)
        self.tls.accept(ours, ("192.0.2.1", 5))
        self.clients.append(Client(self.reactor, theirs, **options))
        return self.clients[-1]

    def described(self) -> dict[str, Any]:
        """What the admin sees, without zeros."""
        found = self.tls.describe()
        found["failures"] = {name: count for name, count in found["failures"].items() if count}
        return {name: value for name, value in found.items() if value}

    def check(self) -> None:
        """Nothing is under way, and no timer armed."""
        live.turn_until(self.reactor, lambda: not self.tls.under_way)
        assert len(self.wheel) == 0


@pytest.fixture
def scene() -> Iterator[Any]:
    """Makes scenes, one at a time."""
    made: list[Scene] = []

    def make(**options: Any) -> Scene:
        made.append(Scene(**options))
        return made[-1]

    yield make
    for one in made:
        for transport, _, _ in one.secured:
            transport.abortConnection()
        one.tls.stop()
        live.turn(one.reactor)
        one.wheel.stop()
        live.close(one.reactor)


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_client_is_secured(scene: Any, family: str) -> None:
    """The room gets a transport whose facts are there; it is counted once."""
    made = scene()
    client = made.client(family=family)
    client.shake()
    client.write(b"hello")
    client.until(lambda: made.secured and made.secured[0][2].got == b"hello")
    transport, header, _ = made.secured[0]
    transport.write(b"world")
    assert client.reply(5) == b"world"
    assert header is None
    facts = transport.facts
    assert (facts.server_name, facts.alpn, facts.version, facts.certificate) == (
        b"a.example",
        b"http/1.1",
        b"TLSv1.3",
        None,
    )
    assert made.described() == {"handshakes": 1}
    made.check()


def test_a_proxy_header_comes_first(scene: Any) -> None:
    """It is handed on, and is no part of TLS; without it nobody is served."""
    made = scene(proxy_protocol=True)
    client = made.client(before=encode_v2(("198.51.100.7", 4711), ("203.0.113.1", 443)))
    client.shake()
    client.until(lambda: made.secured)
    assert made.secured[0][1].source == ("198.51.100.7", 4711)
    other = made.client()
    other.until(lambda: other.gone)
    assert made.described()["failures"] == {"proxy_header": 1}
    other.sock.close()
    made.check()


def test_pass_through(scene: Any) -> None:
    """What is chosen goes to the room as it came, with every byte of it still in the socket."""
    made = scene(pass_through=lambda hello: "there" if hello.server_name == b"b.example" else None)
    client = made.client(name="b.example")
    client.until(lambda: made.passed)
    sock, peer, header, hello, target = made.passed[0]
    assert (peer, header, target) == (("192.0.2.1", 5), None, "there")
    assert len(sock.recv(65536)) == hello.size
    sock.close()
    served = made.client()
    served.shake()
    assert made.tls.values[made.tls.passed_through] == 1
    made.check()


def test_an_unknown_name_is_refused(scene: Any) -> None:
    """By the alert that is meant for it."""
    made = scene()
    made.contexts.refused.add(b"b.example")
    client = made.client(name="b.example")
    client.until(lambda: client.error)
    assert "UNRECOGNIZED_NAME" in str(client.error)
    assert made.described() == {"failures": {"unknown_name": 1}, "active": 1}
    client.sock.close()
    made.check()


def test_plain_http_is_answered(scene: Any) -> None:
    """A 400 in plain text, and counted."""
    made = scene()
    client = made.client(before=b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    got = bytearray()

    def look() -> bool:
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return False
        got.extend(data)
        return not data

    live.turn_until(made.reactor, look)
    assert bytes(got) == PLAIN_REPLY
    client.sock.close()
    made.check()
    assert made.described() == {"failures": {"plain_http": 1}}


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not_tls"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "handshake"),
        (b"", "client_gone"),
        (b"\x16\x03", "client_gone"),
    ],
)
def test_what_is_no_hello(scene: Any, sent: bytes, kind: str) -> None:
    """Garbage, another message than a hello, nothing, half of one: closed and counted."""
    made = scene()
    client = made.client(before=sent)
    if kind == "client_gone":
        client.sock.shutdown(socket.SHUT_WR)
    live.turn_until(made.reactor, lambda: made.described().get("failures"))
    client.sock.close()
    made.check()
    assert made.described()["failures"] == {kind: 1}
    assert made.secured == []


def test_a_failed_handshake_says_why(scene: Any) -> None:
    """The alert arrives although the client has sent more behind what failed."""
    verify = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    made = scene(contexts=Contexts(server_context(verify=verify)))
    client = made.client()
    client.shake()  # TLS 1.3: the client is done before the server has looked
    client.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
    client.until(lambda: client.error)
    assert "CERTIFICATE_REQUIRED" in str(client.error)
    assert made.described()["last_failure"] == "peer did not return a certificate"
    good = made.client(context=client_context(certificate=True))
    good.shake()
    good.until(lambda: made.secured)
    facts = made.secured[0][0].facts
    assert facts.certificate is not None
    client.sock.close()
    made.check()


def test_a_handshake_that_takes_too_long(scene: Any) -> None:
    """Silent, or half a hello, or half a handshake: over when its time is."""
    made = scene(handshake_timeout=0.1)
    silent = made.client()
    half = made.client(before=b"\x16\x03\x01\x02\x00\x01")
    stuck = made.client()
    stuck.pump()  # the hello, and no answer to ours
    for client in (silent, half, stuck):
        live.turn_until(made.reactor, partial(_ended, client.sock))
    assert made.described() == {"failures": {"timeout": 3}}
    made.check()


def _ended(sock: socket.socket) -> bool:
    """Whether there is an end to be read, whatever comes before it."""
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_the_oldest_makes_room(scene: Any) -> None:
    """One more than ``max_handshakes`` closes the one that has been at it longest."""
    made = scene(max_handshakes=2)
    first, second, third = (made.client() for _ in range(3))
    live.turn_until(made.reactor, lambda: _ended(first.sock))
    assert made.tls.active == 2
    second.shake()
    third.shake()
    assert made.described()["failures"] == {"evicted": 1}
    made.check()


def test_somebody_on_the_way_out_makes_room(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """He who is being told why counts as well, and is the first to go."""
    monkeypatch.setattr(farewell, "PATIENCE", 20.0)
    made = scene(max_handshakes=1)
    told = made.client(before=b"GET / HTTP/1.1\r\n\r\n")
    live.turn(made.reactor)
    assert made.tls.active == 1
    served = made.client()
    served.shake()
    served.until(lambda: made.secured)
    live.turn_until(made.reactor, lambda: _ended(told.sock))
    assert made.described() == {"handshakes": 1, "failures": {"plain_http": 1}}
    made.check()


def test_his_patience_ends(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not go when it was told why is reset."""
    monkeypatch.setattr(farewell, "PATIENCE", 0.1)
    made = scene()
    made.client(before=b"GET / HTTP/1.1\r\n\r\n")
    made.check()
    assert made.described() == {"failures": {"plain_http": 1}}


def test_resumption_is_counted(scene: Any) -> None:
    """By either version; a session that has outlived its client's certificate is not served."""
    made = scene()
    for version in ("1.2", "1.3"):
        context = client_context(version=version)
        first = made.client(context=context)
        first.shake()
        first.write(b"x")
        first.until(lambda: made.secured and made.secured[-1][2].got)
        made.secured[-1][0].write(b"y")
        first.reply(1)
        made.contexts.old = version == "1.3"
        second = made.client(context=context, session=first.tls.session)
        second.shake()
        assert second.tls.session_reused
    live.turn_until(made.reactor, lambda: not made.tls.under_way)
    described = made.described()
    assert (described["handshakes"], described["resumed"]) == (4, 2)
    assert described["last_failure"] == "client certificate expired"
    assert len(made.secured) == 3
    made.check()


def test_draining(scene: Any) -> None:
    """Who has said nothing goes; a handshake that has begun comes to its end."""
    made = scene()
    silent, begun = made.client(), made.client()
    begun.pump()
    live.turn(made.reactor)
    made.tls.drain()
    live.turn_until(made.reactor, lambda: _ended(silent.sock))
    begun.shake()
    begun.until(lambda: made.secured)
    made.check()


def test_stopping(scene: Any) -> None:
    """Everything under way is closed, a word that is being said included."""
    made = scene()
    silent, begun = made.client(), made.client()
    begun.pump()
    told = made.client(before=b"GET / HTTP/1.1\r\n\r\n")
    live.turn(made.reactor)
    assert made.tls.active == 3
    made.tls.stop()
    for client in (silent, begun, told):
        live.turn_until(made.reactor, partial(_ended, client.sock))
    made.check()


def test_a_broken_choice_costs_one_connection(scene: Any) -> None:
    """What a chooser raises is logged, and its client closed."""
    made = scene()

    def broken(hello: Any) -> None:
        raise ZeroDivisionError

    made.contexts.pick = broken
    client = made.client()
    client.pump()
    with errors() as logged:
        live.turn_until(made.reactor, lambda: _ended(client.sock))
    assert [failure.type for failure in logged] == [ZeroDivisionError]
    made.check()


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("waited", [False, True])
def test_a_room_that_raises_costs_one_connection(scene: Any, started: bool, waited: bool) -> None:
    """It is closed, whoever had its socket, and leaves nothing in the reactor."""
    made = scene()
    good = made.tls.secured
    readers = len(made.reactor.getReaders())

    def broken(transport: Any, header: Any) -> None:
        if started:
            transport.start(Noting())
        raise ZeroDivisionError

    made.tls.secured = broken
    with errors() as failures:
        client = made.client()
        if waited:
            live.turn(made.reactor)
        client.until(lambda: client.gone)
        assert [failure.type for failure in failures] == [ZeroDivisionError]
    assert len(made.reactor.getReaders()) == readers
    made.check()
    made.tls.secured = good
    made.client().shake()


def test_python_clients_see_no_tls_1_1(scene: Any) -> None:
    """The fake contexts are no excuse: what is refused is refused by an alert."""
    made = scene()
    context = client_context(version="1.2")
    context.set_ciphers("AES128-SHA")
    made.contexts.front.set_cipher_list(b"ECDHE+AESGCM")
    client = made.client(context=context)
    client.until(lambda: client.error or client.gone)
    assert isinstance(client.error, ssl.SSLError)
    live.turn_until(made.reactor, lambda: made.described().get("last_failure"))
    assert made.described()["last_failure"] == "no shared cipher"
    client.sock.close()
    made.check()

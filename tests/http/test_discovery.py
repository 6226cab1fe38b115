"""Endpoints from an HTTP service, with real sockets, whatever the service does."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from meshproxy.http import discovery as module
from meshproxy.http.discovery import HttpDiscovery
from meshproxy.interfaces import IDiscovery
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.endpoint import EndpointSpec
from tests.harness import HttpUpstream, Received, Server, free_port
from tests.net import live
from tests.net.logged import errors
from tests.upstream.discovery.waiting import Told, clean_reactor

ROSTER = b'["127.0.0.1:1", {"address": "127.0.0.1:2", "weight": 3}]'

CLOSE = b"\r\nconnection: close\r\n\r\n"


def response(body: bytes = ROSTER, status: str = "200 OK", *headers: str) -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor that the test must leave clean."""
    with clean_reactor() as made:
        yield made


class Bench:
    """A service that answers what it is told to, and a source that asks it."""

    def __init__(self, reactor: Any, **settings: Any) -> None:
        self.reactor = reactor
        self.answer: Any = response()
        self.told = Told()
        self.upstream = HttpUpstream(self._answer)
        self.url = f"http://127.0.0.1:{self.upstream.port}/roster"
        self.source = HttpDiscovery(
            reactor, self.url, settings.pop("headers", {}), **{"interval": 0.02, **settings}
        )

    def __enter__(self) -> Self:
        self.upstream.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.source.stop()
        live.turn(self.reactor, 5)
        self.upstream.close()

    def _answer(self, request: Received) -> bytes | None:
        answer: bytes | None = self.answer(request) if callable(self.answer) else self.answer
        return answer

    def start(self) -> None:
        """Start the source."""
        self.source.start(self.told.update, self.told.failed)

    def until_asked(self, more: int) -> None:
        """Wait for so many more requests."""
        wanted = len(self.upstream.requests) + more
        live.turn_until(self.reactor, lambda: len(self.upstream.requests) >= wanted)

    def until_failed(self, more: int = 1) -> str:
        """Wait for so many more failures, and return the last."""
        wanted = len(self.told.failures) + more
        live.turn_until(self.reactor, lambda: len(self.told.failures) >= wanted)
        return self.told.failures[-1]

    def until_updated(self, more: int = 1) -> list[str]:
        """Wait for so many more updates, and return the keys of the last."""
        wanted = len(self.told.updates) + more
        live.turn_until(self.reactor, lambda: len(self.told.updates) >= wanted)
        return self.told.keys


@pytest.fixture
def bench(reactor: MeshReactor) -> Iterator[Bench]:
    """Everything ends with the test."""
    with Bench(reactor) as made:
        yield made


def test_it_is_a_source() -> None:
    """It provides what it says."""
    assert verifyObject(IDiscovery, HttpDiscovery(Clock(), "http://127.0.0.1:1/", {}))


def test_endpoints(bench: Bench) -> None:
    """What the service says, and again when it says something else."""
    bench.start()
    assert bench.until_updated() == ["127.0.0.1:1", "127.0.0.1:2"]
    assert [spec.weight for spec in bench.told.updates[0]] == [1, 3]
    bench.until_asked(3)
    assert len(bench.told.updates) == 1
    bench.answer = response(b'{"endpoints": []}')
    assert bench.until_updated() == []
    assert bench.told.failures == []


def test_what_it_asks(reactor: MeshReactor) -> None:
    """One request at a time on one connection, with the configured headers."""
    headers = {"Authorization": "Bearer x", "Accept": "a/b"}
    with Bench(reactor, headers=headers) as bench:
        bench.start()
        bench.until_asked(3)
    request = bench.upstream.requests[0]
    assert request.line == b"GET /roster HTTP/1.1"
    assert request.values(b"authorization") == [b"Bearer x"]
    assert request.values(b"accept") == [b"a/b"]
    assert request.values(b"user-agent")[0].startswith(b"meshproxy/")
    assert request.values(b"if-none-match") == []
    assert bench.upstream.connections == 1


def test_etag(bench: Bench) -> None:
    """304 to the tag of the last good answer means that nothing changed."""

    def answer(request: Received) -> bytes:
        if request.values(b"if-none-match") == [b'"one"']:
            return b"HTTP/1.1 304 Not Modified\r\n\r\n"
        return response(ROSTER, "200 OK", 'etag: "one"')

    bench.answer = answer
    bench.start()
    bench.until_asked(4)
    assert len(bench.told.updates) == 1
    assert bench.told.failures == []
    assert bench.source.describe()["etag"] == '"one"'
    assert bench.upstream.connections == 1
    bench.answer = response(b"[]", "200 OK", 'etag: "two"')
    assert bench.until_updated() == []
    bench.until_asked(1)
    assert bench.upstream.requests[-1].values(b"if-none-match") == [b'"two"']


def test_304_after_a_failure_is_a_recovery(bench: Bench) -> None:
    """Told again, so that whoever noted the failure knows."""
    bench.answer = response(ROSTER, "200 OK", 'etag: "one"')
    bench.start()
    bench.until_updated()
    bench.answer = response(b"", "503 Service Unavailable")
    bench.until_failed()
    bench.answer = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    assert bench.until_updated() == ["127.0.0.1:1", "127.0.0.1:2"]


def test_an_answer_that_is_wrong_keeps_the_tag(bench: Bench) -> None:
    """It is asked for again in full, not taken for known."""
    bench.answer = response(ROSTER, "200 OK", 'etag: "one"')
    bench.start()
    bench.until_updated()
    bench.answer = response(b"[5]", "200 OK", 'etag: "two"')
    bench.until_failed(2)
    assert bench.upstream.requests[-1].values(b"if-none-match") == [b'"one"']


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(b"", "503 Service Unavailable"), "URL: status 503"),
        (response(b"x" * 100_000, "404 Not Found"), "URL: status 404"),
        (response(ROSTER, "206 Partial Content"), "URL: status 206"),
        (response(ROSTER, "302 Found", "location: /other"), "URL: status 302"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "URL: status 304"),
        (response(b""), "URL:1:1: the text is empty; where there are no endpoints it says []"),
        (response(b"- 127.0.0.1:1"), "URL:1:1: not valid JSON: Expecting value"),
        (response(b'["db.test:1"]'), "URL:1:2: [0]: an IP address is needed here"),
        (response(b"\xff"), "URL:1:1: a roster is written in UTF-8"),
        (response(b" " * ((4 << 20) + 1)), "URL: a body of more than 4 MiB"),
        (b"nonsense\r\n\r\n", "URL: "),
        (response().replace(b": ", b": 9").replace(b"\r\n\r\n", CLOSE), "URL: "),
        (None, "URL: "),
    ],
)
def test_no_answer(bench: Bench, answer: bytes | None, reason: str) -> None:
    """A failure each time, without a traceback in the log; the last good set stays."""
    with errors() as logged:
        bench.start()
        bench.until_updated()
        bench.answer = answer
        told = bench.until_failed(2)
        assert told.startswith(reason.replace("URL", bench.url))
        assert len(told) > len(bench.url) + 2
        assert bench.source.describe()["last_error"] == told
        assert len(bench.told.updates) == 1
        bench.answer = response()
        assert bench.until_updated() == ["127.0.0.1:1", "127.0.0.1:2"]
    assert logged == []


def test_a_redirect_is_not_followed(bench: Bench) -> None:
    """Nobody sends the proxy elsewhere."""
    bench.answer = response(b"", "307 Temporary Redirect", "location: /other")
    bench.start()
    bench.until_failed(2)
    assert {request.target for request in bench.upstream.requests} == {b"/roster"}


def test_compressed(bench: Bench) -> None:
    """treq says that it takes gzip, and it does; what is more than 4 MiB then is too long."""
    bench.answer = response(gzip.compress(ROSTER), "200 OK", "content-encoding: gzip")
    bench.start()
    assert bench.until_updated() == ["127.0.0.1:1", "127.0.0.1:2"]
    bomb = gzip.compress(b" " * (64 << 20))
    bench.answer = response(bomb, "200 OK", "content-encoding: gzip")
    assert bench.until_failed() == f"{bench.url}: a body of more than 4 MiB"


def test_many_endpoints(reactor: MeshReactor) -> None:
    """Read in a thread, and told in the reactor's."""
    addresses = [f"10.0.{number // 250}.{number % 250}:80" for number in range(5000)]
    told: list[threading.Thread] = []
    with Bench(reactor) as bench:
        bench.answer = response(json.dumps(addresses).encode())
        bench.source.start(lambda _: told.append(threading.current_thread()), bench.told.failed)
        live.turn_until(reactor, lambda: told)
    assert told == [threading.current_thread()]


def silent(sock: socket.socket) -> None:
    """A server that answers nothing."""
    while sock.recv(65536):
        pass


def trickling(sock: socket.socket) -> None:
    """A server that begins a body and never ends it."""
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[")
    silent(sock)


@pytest.mark.parametrize("serve", [silent, trickling])
def test_timeout(reactor: MeshReactor, serve: Any) -> None:
    """Before the head and in the body; the connection is given up, and asked again."""
    told = Told()
    with Server(serve) as server:
        url = f"http://127.0.0.1:{server.port}/?secret"
        source = HttpDiscovery(reactor, url, {}, 0.01, 0.2)
        source.start(told.update, told.failed)
        live.turn_until(reactor, lambda: len(told.failures) == 2)
        source.stop()
        live.turn(reactor, 5)
    assert set(told.failures) == {f"http://127.0.0.1:{server.port}/: no answer in 0.2 s"}


@pytest.mark.parametrize("serve", [silent, trickling])
def test_stop_while_asking(reactor: MeshReactor, serve: Any) -> None:
    """The request is given up, and nothing is told (the fixture looks for what is left)."""
    told = Told()
    with Server(serve) as server:
        source = HttpDiscovery(reactor, f"http://127.0.0.1:{server.port}/", {}, 0.01, 100.0)
        source.start(told.update, told.failed)
        live.turn_until(reactor, lambda: server.connections)
        source.stop()
        source.stop()
        live.turn(reactor, 5)
    assert (told.updates, told.failures) == ([], [])


def test_nobody_listens(reactor: MeshReactor) -> None:
    """A failure like any other."""
    told = Told()
    source = HttpDiscovery(reactor, f"http://127.0.0.1:{free_port()}/", {}, 0.01)
    source.start(told.update, told.failed)
    live.turn_until(reactor, lambda: len(told.failures) == 2)
    assert "refused" in told.failures[0]
    source.stop()


def test_what_raises_in_update_ends_nothing(bench: Bench) -> None:
    """Logged and told as a failure; the service is asked again."""

    def broken(_: Sequence[EndpointSpec]) -> None:
        raise RuntimeError("a defect")

    with errors() as logged:
        bench.source.start(broken, bench.told.failed)
        assert bench.until_failed() == f"{bench.url}: a defect"
        bench.until_asked(1)
    assert {failure.type for failure in logged} == {RuntimeError}


def test_stop_from_within_update(bench: Bench) -> None:
    """Whoever is told may end it (the fixture looks for what is left)."""
    told: list[object] = []

    def update(specs: Sequence[EndpointSpec]) -> None:
        told.append(specs)
        bench.source.stop()

    bench.source.start(update, bench.told.failed)
    live.turn_until(bench.reactor, lambda: told)


@pytest.mark.parametrize(("interval", "middle"), [(None, 10.0), (3.0, 3.0)])
def test_the_interval(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, interval: float | None, middle: float
) -> None:
    """The configuration's, or 10 s; a tenth more or less."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr(module, "uniform", uniform)
    source = HttpDiscovery(bench.reactor, bench.url, {}, interval)
    source.start(bench.told.update, bench.told.failed)
    live.turn_until(bench.reactor, lambda: source.describe()["next"] is not None)
    assert drawn == [(0.9, 1.1)]
    assert middle < source.describe()["next"] <= middle * 1.1
    source.stop()


def test_describe(bench: Bench) -> None:
    """Where it asks, what it found, when; never the query, which may hold a secret."""
    source = HttpDiscovery(bench.reactor, f"{bench.url}?token=secret", {}, 50.0)
    assert source.describe() == {
        "kind": "http",
        "where": bench.url,
        "endpoints": None,
        "etag": "",
        "next": None,
        "last_success": None,
        "last_error": "",
    }
    source.start(bench.told.update, bench.told.failed)
    bench.until_updated()
    said = source.describe()
    assert said["endpoints"] == 2
    assert said["last_success"] > 1e9
    assert bench.upstream.requests[0].target == b"/roster?token=secret"
    source.stop()


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    chain = directory / "chain.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = directory / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, secret


@pytest.mark.parametrize("trusted", [False, True])
def test_https_is_verified(
    reactor: MeshReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """A certificate that nobody vouches for is refused; one that the system trusts is not."""
    chain, key = certificate(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    # Twisted's TLS sends from the global reactor's clock, which here is another.
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: reactor)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    asked: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        try:
            with context.wrap_socket(sock, server_side=True) as secured:
                asked.append(secured.recv(65536))
                secured.sendall(response(ROSTER, "200 OK", "connection: close"))
        except ssl.SSLError:
            pass

    told = Told()
    with Server(serve) as server:
        source = HttpDiscovery(reactor, f"https://127.0.0.1:{server.port}/", {}, 50.0)
        source.start(told.update, told.failed)
        live.turn_until(reactor, lambda: told.failures or told.updates)
        source.stop()
        live.turn(reactor, 5)
    if trusted:
        assert told.failures == []
        assert told.keys == ["127.0.0.1:1", "127.0.0.1:2"]
    else:
        assert asked == []
        assert "certificate verify failed" in told.failures[0]

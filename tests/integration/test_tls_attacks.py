"""
Those who mean no good to TLS, on both sides of the proxy: each of them loses its own connection,
at the latest when a time limit says so, and takes nothing from the others. Nothing is left of
them, and nothing of them is a traceback in the log.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Proxy, read_to_end
from tests.integration.tls_raw import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    DATA,
    HANDSHAKE,
    RawClient,
    key_update,
    record,
    split,
)
from tests.integration.wire import (
    eventually,
    linger_reset,
    metric,
    resident,
)
from tests.tls import hellos
from tests.tls.authority import Authority

MIB = 1 << 20

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    backlog: 4096
    tls: { certificates: [ $files ], handshake_timeout: $timeout, max_handshakes: 100 }
    http: { routes: [ { respond: { body: hello } } ] }
"""


@dataclass(frozen=True)
class Attacked:
    """The proxy, and how its clients come to it."""

    proxy: Proxy
    folder: Path

    @property
    def ca(self) -> Path:
        """What the clients trust."""
        return self.folder / "ca.pem"

    def client(self, version: str = "1.3", secrets: Path | None = None) -> RawClient:
        """A client that has said nothing yet."""
        return RawClient(self.proxy.ports["web"], self.ca, version, secrets=secrets)

    def tls(self, what: str, **labels: str) -> float:
        """A number of the listener's TLS."""
        return metric(self.proxy, f"meshproxy_listener_tls_{what}", listener="web", **labels)

    def descriptors(self) -> int:
        """Open files of the process."""
        return len(os.listdir(f"/proc/{self.proxy.process.pid}/fd"))

    def calm(self, descriptors: int) -> None:
        """Good clients are served, and nothing is left of others. Raises AssertionError."""
        with self.client() as good:
            assert good.shake().ask().startswith(b"HTTP/1.1 200 OK\r\n")

        def left() -> list[float]:
            active = metric(self.proxy, "meshproxy_listener_connections_active", listener="web")
            return [self.tls("handshakes_active"), active, max(0, self.descriptors() - descriptors)]

        eventually(lambda: left() == [0, 0, 0], f"nothing to be left, not {left()}")
        assert "Traceback" not in self.proxy.output


def _start(folder: Path, timeout: str) -> Proxy:
    chain, key = folder / "server.pem", folder / "server.key"
    files = f"{{ chain: {chain}, key: {key} }}"
    return Proxy(CONFIG.replace("$files", files).replace("$timeout", timeout))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates."""
    folder = tmp_path_factory.mktemp("attacks")
    authority = Authority()
    authority.write(folder)
    authority.issue("a.example").write(folder, "server")
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Attacked]:
    """One for the module, which waits long: who is lost there is not so because of the time."""
    with _start(folder, "1h") as proxy:
        yield Attacked(proxy, folder)


@pytest.fixture
def attacked(running: Attacked) -> Iterator[Attacked]:
    """The same, and all is calm afterwards."""
    descriptors = running.descriptors()
    yield running
    running.calm(descriptors)


# Half-open connections.


def test_half_open_handshakes(folder: Path) -> None:
    """
    Four times as many as there may be, that say nothing, half a hello, or a hello and no more:
    good clients are served meanwhile, each of the others is turned away by one that came later,
    or by time, and counted; memory is flat.
    """
    hello = hellos.of_openssl(b"a.example", b"http/1.1")
    sayings = (b"", hello[: len(hello) // 2], hello)
    with _start(folder, "1s") as proxy:
        attacked = Attacked(proxy, folder)
        before, memory = attacked.descriptors(), 0
        for wave in range(2):
            others = [proxy.connect("web") for _ in range(400)]
            for index, sock in enumerate(others):
                try:
                    sock.sendall(sayings[index % 3])
                except ConnectionError:
                    # Turned away already.
                    continue
                if index % 40 == 0:
                    with attacked.client() as good:
                        assert good.shake().ask()
            assert attacked.descriptors() < before + 110
            if wave == 0:
                memory = resident(proxy)
            eventually(lambda: attacked.tls("handshakes_active") == 0, "the time to be over")
            for sock in others:
                sock.close()
        evicted = attacked.tls("failures_total", reason="evicted")
        timeout = attacked.tls("failures_total", reason="timeout")
        assert evicted >= 500
        assert timeout > 0
        assert evicted + timeout == attacked.tls("failures_total") == 800
        assert attacked.tls("handshakes_total") == 20
        attacked.calm(before)
        assert resident(proxy) - memory < 5 * MIB


# What is no hello, or a strange one.

HELLO = hellos.message(hellos.named(b"a.example"), hellos.extension(43, hellos.VERSIONS_12_13))
OPENINGS = {
    "noise": b"\xff" + bytes(range(255)) * 4,
    "zeros": bytes(1000),
    "empty records": record(HANDSHAKE, b"") * 1000,
    "an alert": record(ALERT, b"\x02\x28"),
    "warnings": record(ALERT, b"\x01\x00") * 1000,
    "close_notify": record(ALERT, b"\x01\x00"),
    "data": record(DATA, b"hello" * 100),
    "a change of ciphers": record(CHANGE_CIPHER_SPEC, b"\x01") * 100,
    "a heartbeat": record(24, b"\x01\x40\x00"),
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
    "another version": record(HANDSHAKE, HELLO, 0x0499),
    "a record of version 0": record(HANDSHAKE, HELLO, 0),
    "a length of nought": record(HANDSHAKE, b"") + record(HANDSHAKE, HELLO),
    "a length above the content": record(HANDSHAKE, HELLO, length=len(HELLO) - 40) + HELLO,
    "a record that is too long": record(HANDSHAKE, HELLO, length=0x4001) + bytes(0x4001),
    "the longest length": record(HANDSHAKE, HELLO, length=0xFFFF) + bytes(65536),
    "a hello that is too long": hellos.records(b"\x01\x02\x00\x00" + bytes(0x20000)),
    "a hello of 16 MiB": hellos.records(b"\x01\xff\xff\xff" + bytes(0x10000)),
    "a byte a record": hellos.records(HELLO, 1),
    "no hello but its answer": record(HANDSHAKE, b"\x02" + HELLO[1:]),
    "a message of no kind": record(HANDSHAKE, b"\x63\x00\x00\x00"),
    "an empty hello": record(HANDSHAKE, b"\x01\x00\x00\x00"),
    "lengths that lie": record(HANDSHAKE, HELLO[:38] + b"\xff" + HELLO[39:]),
    "half extensions": record(HANDSHAKE, hellos.message(b"\x00\x00\x00\xff\x00")),
    "no suites": record(HANDSHAKE, hellos.message(suites=b"")),
    "no suite in common": record(HANDSHAKE, hellos.message(suites=b"\x00\x01")),
    "no share of a key": record(HANDSHAKE, HELLO),
    "more behind the hello": record(HANDSHAKE, HELLO + b"\x01\x00\x00\x05hello"),
    "a hello and noise": record(HANDSHAKE, HELLO) + b"\xff" * 1000,
}


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS.keys())
def test_openings(attacked: Attacked, opening: bytes) -> None:
    """Whatever is no hello of ours ends the connection at once, with an alert at most."""
    before = attacked.tls("failures_total")
    with attacked.proxy.connect("web") as sock:
        try:
            sock.sendall(opening)
            answer = read_to_end(sock)
        except ConnectionError:
            answer = b""
    assert len(answer) < 100
    assert all(kind in (ALERT, CHANGE_CIPHER_SPEC) for kind, _ in split(answer))
    assert attacked.tls("failures_total") == before + 1
    assert attacked.tls("handshakes_active") == 0


@pytest.mark.parametrize("way", ["end", "reset"])
@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS.keys())
def test_openings_that_are_cut(attacked: Attacked, opening: bytes, way: str) -> None:
    """The same, of which the last byte is missing, by clients that end or vanish then."""
    sock = attacked.proxy.connect("web")
    try:
        sock.sendall(opening[:-1])
        if way == "end":
            sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
    except OSError:
        pass
    finally:
        linger_reset(sock)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_hello_in_small_pieces(attacked: Attacked, version: str, size: int) -> None:
    """It may come byte by byte: the handshake goes well."""
    with attacked.client(version) as client:
        hello = client.say()
        for at in range(0, len(hello), size):
            client.sock.sendall(hello[at : at + size])
        client.hear()
        client.shake()
        assert client.ask().startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_hello_in_small_records(attacked: Attacked, version: str) -> None:
    """It may be cut into records of a few bytes."""
    with attacked.client(version) as client:
        ((kind, message),) = split(client.say())
        assert kind == HANDSHAKE
        client.sock.sendall(hellos.records(message, 20))
        client.hear()
        client.shake()
        assert client.ask().startswith(b"HTTP/1.1 200 OK\r\n")


# Later in the handshake.


def _bent(data: bytes, at: int) -> bytes:
    """One bit is another."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 9, -1, -20, -41])
def test_bits_of_the_handshake(attacked: Attacked, version: str, at: int) -> None:
    """A bit of the client's second flight is another: the handshake is lost, at once."""
    before = attacked.tls("handshakes_total")
    with attacked.client(version) as client:
        client.sock.sendall(client.say())
        while not (flight := client.say()):
            client.hear()
        client.sock.sendall(_bent(flight, at))
        # A longer length has the proxy wait for the rest.
        client.end()
        assert client.lost() == b""
    # TLS 1.3 ignores what a change of ciphers, which is there for show, is like.
    assert attacked.tls("handshakes_total") <= before + (version == "1.3" and at in (1, 2))


FLIGHTS = {
    "noise": lambda: b"\xff" * 1000,
    "empty records": lambda: record(HANDSHAKE, b"") * 2000,
    "empty data": lambda: record(DATA, b"") * 2000,
    "warnings": lambda: record(ALERT, b"\x01\x5a") * 2000,
    "changes of ciphers": lambda: record(CHANGE_CIPHER_SPEC, b"\x01") * 2000,
    "a fatal alert": lambda: record(ALERT, b"\x02\x50"),
    "too long": lambda: record(DATA, bytes(0x4800)) * 10,
    "of another version": lambda: record(DATA, bytes(100), 0x0401),
    "plain data": lambda: b"GET / HTTP/1.1\r\n\r\n" * 100,
    "endless": lambda: (
        record(HANDSHAKE, b"\x0b\xff\xff\xff" + bytes(16000)) + record(HANDSHAKE, bytes(16000)) * 60
    ),
}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("flight", FLIGHTS.values(), ids=FLIGHTS.keys())
def test_second_flights(attacked: Attacked, version: str, flight: Callable[[], bytes]) -> None:
    """What a client says in the middle of its handshake that is none of it: the end, at once."""
    before = attacked.tls("failures_total")
    with attacked.client(version) as client:
        client.sock.sendall(client.say())
        client.hear()
        try:
            client.sock.sendall(flight())
            while client.sock.recv(65536):
                pass
        except ConnectionError:
            pass
    assert attacked.tls("failures_total") == before + 1


STAGES = ("connected", "half a hello", "hello", "answered", "half a flight", "shaken", "asked")


@pytest.mark.parametrize("way", ["end", "reset", "half-close"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("stage", STAGES)
def test_ends_at_every_stage(attacked: Attacked, stage: str, version: str, way: str) -> None:
    """A client that goes, in any way and at any time, is gone."""
    with attacked.client(version) as client:
        _reach(client, stage)
        if way == "reset":
            linger_reset(client.sock)
        elif way == "half-close":
            client.end()
            client.lost()


def _reach(client: RawClient, stage: str) -> None:
    if stage == "connected":
        return
    hello = client.say()
    if stage == "half a hello":
        client.sock.sendall(hello[: len(hello) // 2])
        return
    client.sock.sendall(hello)
    if stage == "hello":
        return
    if stage in ("shaken", "asked"):
        client.shake()
        if stage == "asked":
            client.sock.sendall(client.sealed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
        return
    while not (flight := client.say()):
        client.hear()
    if stage == "half a flight":
        client.sock.sendall(flight[: len(flight) // 2])


# After the handshake.


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 6, 12, 30, -1, -16])
def test_bits_of_a_record(attacked: Attacked, version: str, at: int) -> None:
    """One bit of a request's record is another: no answer, and the connection is lost."""
    with attacked.client(version) as client:
        client.shake()
        sealed = client.sealed(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        client.sock.sendall(_bent(sealed, at))
        client.end()
        assert client.lost() == b""


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("manner", ["repeated", "swapped", "cut", "plain", "too long", "no record"])
def test_records_that_are_wrong(attacked: Attacked, version: str, manner: str) -> None:
    """Whole records that are not what is due: the connection is lost behind what was good."""
    with attacked.client(version) as client:
        client.shake()
        first = client.sealed(b"GET / HTTP/1.1\r\n")
        second = client.sealed(b"host: a.example\r\n\r\n")
        client.sock.sendall(
            {
                "repeated": first + first + second,
                "swapped": second + first,
                "cut": first + second[:-1],
                "plain": first + record(DATA, b"host: a.example\r\n\r\n") + second,
                "too long": first + record(DATA, bytes(0x4801)) + second,
                "no record": first + bytes(100) + second,
            }[manner]
        )
        client.end()
        # HTTP may tell what it thinks of a head without an end; there is no answer to a request.
        assert b"200 OK" not in client.lost()


def _floods(client: RawClient) -> dict[str, Callable[[], bytes]]:
    seal = client.writer()

    def updates(wanted: bool) -> bytes:
        made = []
        for _ in range(1000):
            made.append(seal.record(HANDSHAKE, key_update(wanted)))
            seal.renew()
        return b"".join(made)

    def each(kind: int, content: bytes, pad: int = 0) -> Callable[[], bytes]:
        return lambda: b"".join(seal.record(kind, content, pad) for _ in range(1000))

    return {
        "key updates": lambda: updates(False),
        "key updates that ask for others": lambda: updates(True),
        "empty data": each(DATA, b""),
        "padding": each(DATA, b"", 1000),
        "warnings": each(ALERT, b"\x01\x5a"),
        "empty handshakes": each(HANDSHAKE, b""),
        "hellos": each(HANDSHAKE, HELLO),
        "tickets": each(HANDSHAKE, b"\x04\x00\x00\x10" + bytes(16)),
        "plain changes of ciphers": lambda: record(CHANGE_CIPHER_SPEC, b"\x01") * 1000,
        "plain warnings": lambda: record(ALERT, b"\x01\x5a") * 1000,
        "nothing inside": lambda: seal.record(0, b""),
        "a kind of its own": each(99, b"hello"),
    }


FLOODS = (
    "key updates",
    "key updates that ask for others",
    "empty data",
    "padding",
    "warnings",
    "empty handshakes",
    "hellos",
    "tickets",
    "plain changes of ciphers",
    "plain warnings",
    "nothing inside",
    "a kind of its own",
)


@pytest.mark.parametrize("flood", FLOODS)
def test_floods(attacked: Attacked, tmp_path: Path, flood: str) -> None:
    """
    A thousand records that move nothing: either they cost the connection, or it does as before
    behind them.
    """
    with attacked.client(secrets=tmp_path / "secrets") as client:
        client.shake()
        data = _floods(client)[flood]()
        memory = resident(attacked.proxy)
        try:
            client.sock.sendall(data)
        except ConnectionError:
            pass
        client.end()
        assert client.lost() == b""
        assert resident(attacked.proxy) - memory < 5 * MIB

"""What comes first is read and left there: by real sockets, on every reactor that polls."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from meshproxy.net.proxy_protocol import encode_v1, encode_v2
from meshproxy.net.reactor import MeshReactor
from meshproxy.tls import preface
from meshproxy.tls.hello import MAX_HELLO
from meshproxy.tls.preface import (
    BAD_HEADER,
    BAD_HELLO,
    CLIENT_GONE,
    NOT_TLS,
    PLAIN_HTTP,
    Preface,
    is_http,
)
from tests.net import live
from tests.net.live import turn, turn_until
from tests.tls.hellos import extension, hello, message, named, of_openssl, records

if TYPE_CHECKING:
    from collections.abc import Iterator

REACTORS = {
    "mesh": MeshReactor,
    "epoll": EPollReactor,
    "poll": PollReactor,
    "select": SelectReactor,
}
SOURCE, DESTINATION = ("192.0.2.7", 4711), ("198.51.100.1", 443)
V1 = encode_v1(SOURCE, DESTINATION)
V2 = encode_v2(SOURCE, DESTINATION, tlvs=((4, b"padding"),), checksum=True)


class Watched(socket.socket):
    """Counts how often it is looked at."""

    looks = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As any."""
        self.looks += bool(flags & socket.MSG_PEEK)
        return super().recv(size, flags)


class Scene:
    """A client, our end of its connection, and what came of it."""

    def __init__(self, reactor: Any, family: str) -> None:
        self.reactor = reactor
        self.idle = set(reactor.getReaders())
        if family == "unix":
            self.client, ours = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                self.client = socket.create_connection(server.getsockname())
                ours = server.accept()[0]
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.settimeout(20)
        self.sock = Watched(ours.family, ours.type, ours.proto, ours.detach())
        self.sock.setblocking(False)
        self.came: list[tuple[Any, Any, str]] = []
        self.preface: Preface | None = None

    def begin(self, **options: Any) -> Preface:
        """Begin to read."""
        options.setdefault("proxy_protocol", False)
        found = Preface(self.reactor, self.sock, lambda *what: self.came.append(what), **options)
        self.preface = found
        found.begin()
        return found

    def until_came(self) -> tuple[Any, Any, str]:
        """What came; nothing is left behind then."""
        turn_until(self.reactor, lambda: self.came)
        self.clean()
        assert len(self.came) == 1
        return self.came[0]

    def clean(self) -> None:
        """No descriptor registered, no timer running, the socket as it was."""
        assert set(self.reactor.getReaders()) == self.idle
        assert not self.reactor.getDelayedCalls()
        if self.sock.fileno() >= 0:
            assert self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1

    def arrive(self) -> None:
        """Let what was sent be looked at."""
        looks = self.sock.looks
        turn_until(self.reactor, lambda: self.sock.looks > looks or self.came)

    def rest(self) -> bytes:
        """What was left in the socket."""
        self.client.shutdown(socket.SHUT_WR)
        self.sock.setblocking(True)
        data = b""
        while more := self.sock.recv(65536):
            data += more
        return data

    def close(self) -> None:
        """The end."""
        if self.preface is not None:
            self.preface.cancel()
        self.clean()
        self.client.close()
        self.sock.close()


@pytest.fixture(params=list(REACTORS))
def reactor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A reactor of its own."""
    made: Any = REACTORS[request.param]()
    yield made
    live.close(made)


@pytest.fixture(params=["tcp", "unix"])
def scene(reactor: Any, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A connection over TCP, and one over a UNIX socket."""
    made = Scene(reactor, request.param)
    yield made
    made.close()


@pytest.fixture
def tcp(reactor: Any) -> Iterator[Scene]:
    """A connection over TCP."""
    made = Scene(reactor, "tcp")
    yield made
    made.close()


def send(scene: Scene, data: bytes) -> None:
    """Send, and see that it is there."""
    scene.client.sendall(data)


def test_at_once(scene: Scene) -> None:
    """A hello that is there already costs one look, and no registration."""
    data = hello(b"a.example", b"h2")
    send(scene, data + b"more")
    scene.begin()
    header, found, reason = scene.came[0]
    assert (header, reason, found.server_name) == (None, "", b"a.example")
    assert scene.sock.looks == 1
    scene.clean()
    assert scene.rest() == data + b"more"


def test_later(scene: Scene) -> None:
    """One that comes later is waited for by a reader."""
    data = of_openssl(b"a.example")
    scene.begin()
    assert len(scene.reactor.getReaders()) == len(scene.idle) + 1
    send(scene, data)
    assert scene.until_came()[1].size == len(data)
    assert scene.sock.looks == 2
    assert scene.rest() == data


def test_byte_by_byte(scene: Scene) -> None:
    """However slowly it comes, it is not looked at for every byte."""
    data = of_openssl(b"slow.example")
    # The kernel keeps a UNIX socket's writes apart, and not very many of them.
    step = 50 if scene.sock.family == socket.AF_UNIX else 1
    scene.begin()
    for at in range(0, len(data), step):
        send(scene, data[at : at + step])
        if not at % 16:
            turn(scene.reactor, 1)
    assert scene.until_came()[1].server_name == b"slow.example"
    assert scene.sock.looks <= 20
    assert scene.rest() == data


def test_no_spinning(scene: Scene) -> None:
    """An incomplete hello leaves the reactor at rest; only timers look, ever more seldom."""
    data = hello(b"a.example", pad=500)
    send(scene, data[:100])
    scene.begin()
    looks = scene.sock.looks
    for _ in range(50):
        scene.reactor.doIteration(0)
    assert scene.sock.looks == looks
    if scene.sock.family == socket.AF_UNIX:
        delays = []
        for _ in range(12):
            (call,) = scene.reactor.getDelayedCalls()
            delays.append(preface_delay(scene))
            call.reset(0)
            scene.reactor.runUntilCurrent()
        assert delays == sorted(delays)
        assert delays[-1] == preface.LATEST
    send(scene, data[100:])
    assert scene.until_came()[2] == ""


def preface_delay(scene: Scene) -> float:
    """Seconds before the look after the next."""
    assert scene.preface is not None
    return scene.preface._delay


def test_records_of_one_byte(tcp: Scene) -> None:
    """A peer that sends one byte a record is cut off after a few looks."""
    data = records(message(named(b"a.example")), 1)
    tcp.begin()
    for at in range(0, len(data), 6):
        send(tcp, data[at : at + 6])
        turn(tcp.reactor, 1)
        if tcp.came:
            break
    assert tcp.until_came()[2] == BAD_HELLO
    assert tcp.sock.looks <= 20


def test_the_longest(scene: Scene) -> None:
    """As much as a hello may be is waited for in the socket itself."""
    room = MAX_HELLO - 4 * 5 - len(message(named(b"a.example"))) - 4
    data = records(message(named(b"a.example"), extension(21, bytes(room))))
    scene.begin()
    scene.client.setblocking(False)
    left = data

    def sent() -> bool:
        nonlocal left
        try:
            left = left[scene.client.send(left[:20000]) :] if left else left
        except BlockingIOError:
            pass
        return bool(scene.came)

    turn_until(scene.reactor, sent)
    assert scene.until_came()[1].size == MAX_HELLO


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", PLAIN_HTTP),
        (b"PO", PLAIN_HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PLAIN_HTTP),
        (b"SSH-2.0-OpenSSH\r\n", NOT_TLS),
        (b"\x00", NOT_TLS),
        (b"get / HTTP/1.1\r\n", NOT_TLS),
        (b"\x16\x03\x01\x00\x01\x02", BAD_HELLO),
    ],
)
def test_something_else(scene: Scene, data: bytes, reason: str) -> None:
    """What is no hello is told as what it is, and left where it is."""
    scene.begin()
    send(scene, data)
    assert scene.until_came() == (None, None, reason)
    assert scene.rest() == data


@pytest.mark.parametrize("sent", [0, 1, 60])
@pytest.mark.parametrize("late", [False, True])
def test_an_end(scene: Scene, sent: int, late: bool) -> None:
    """Who ends its sending with the hello incomplete is gone, whenever that is seen."""
    send(scene, hello(b"a.example")[:sent])
    if late:
        scene.begin()
    scene.client.shutdown(socket.SHUT_WR)
    if not late:
        scene.begin()
    assert scene.until_came() == (None, None, CLIENT_GONE)


def test_an_end_behind_the_hello(scene: Scene) -> None:
    """Who ends its sending behind a whole hello said one."""
    send(scene, hello(b"a.example"))
    scene.client.shutdown(socket.SHUT_WR)
    scene.begin()
    assert scene.until_came()[2] == ""


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x01"])
def test_a_reset(tcp: Scene, sent: bytes) -> None:
    """A reset ends it."""
    send(tcp, sent)
    tcp.begin()
    tcp.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp.client.close()
    assert tcp.until_came() == (None, None, CLIENT_GONE)


def test_a_reactor_that_saw_it_vanish(scene: Scene) -> None:
    """A reactor may tell of the loss itself."""
    scene.begin().connectionLost(Failure(OSError()))
    assert scene.came == [(None, None, CLIENT_GONE)]
    assert scene.preface is not None
    assert scene.preface.logPrefix()


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("cut", [1, 7, 20, 1000])
def test_header_then_hello(scene: Scene, header: bytes, cut: int) -> None:
    """The header is taken exactly, the hello behind it left, however they are cut."""
    said = hello(b"a.example") + b"rest"
    scene.begin(proxy_protocol=True)
    # The last byte of the header comes with the first ones of the hello.
    for data, step in ((header[:-1], cut), (header[-1:] + said, max(cut, 7))):
        for at in range(0, len(data), step):
            send(scene, data[at : at + step])
            turn(scene.reactor, 1)
    found, heard, reason = scene.until_came()
    assert (found.source, found.destination, reason) == (SOURCE, DESTINATION, "")
    assert heard.server_name == b"a.example"
    assert scene.rest() == said


@pytest.mark.parametrize("header", [V1, V2])
def test_header_alone(scene: Scene, header: bytes) -> None:
    """Where no hello is asked for, the header is all; what follows is nobody's here."""
    send(scene, header[:10])
    scene.begin(proxy_protocol=True, hello=False)
    send(scene, header[10:] + b"payload")
    found, heard, reason = scene.until_came()
    assert (found.source, heard, reason) == (SOURCE, None, "")
    assert scene.rest() == b"payload"


def test_header_then_something_else(scene: Scene) -> None:
    """The header is told with whatever is behind it."""
    send(scene, V1 + b"SSH-2.0-x\r\n")
    scene.begin(proxy_protocol=True)
    found, heard, reason = scene.until_came()
    assert (found.source, heard, reason) == (SOURCE, None, NOT_TLS)
    assert scene.rest() == b"SSH-2.0-x\r\n"


def test_header_then_an_end(scene: Scene) -> None:
    """The header is known even of a client that said nothing more."""
    scene.begin(proxy_protocol=True)
    send(scene, V2)
    turn_until(scene.reactor, lambda: scene.preface is None or scene.preface.header)
    assert not scene.came
    scene.client.shutdown(socket.SHUT_WR)
    found, heard, reason = scene.until_came()
    assert (found.source, heard, reason) == (SOURCE, None, CLIENT_GONE)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", V1[:10] + b"\0\0\0\0\0\r\n", V2[:12] + V2])
def test_bad_header(scene: Scene, data: bytes) -> None:
    """Anything else than the header that is asked for is refused, and left."""
    send(scene, data)
    scene.begin(proxy_protocol=True)
    assert scene.until_came() == (None, None, BAD_HEADER)


@pytest.mark.parametrize("sent", [b"", hello(b"a.example")[:50]])
def test_cancelled(scene: Scene, sent: bytes) -> None:
    """Cancelled is forgotten: whatever comes then."""
    send(scene, sent)
    found = scene.begin()
    found.cancel()
    scene.clean()
    send(scene, hello(b"a.example"))
    turn(scene.reactor)
    assert scene.came == []
    found.cancel()


@pytest.mark.parametrize("data", [b"G", b"GET ", b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0"])
def test_http(data: bytes) -> None:
    """A request, or its first bytes."""
    assert is_http(data)


@pytest.mark.parametrize("data", [b"GETX", b"PRIVMSG a", b"QUIT\r\n", b"\r\n", b"get "])
def test_no_http(data: bytes) -> None:
    """Other protocols have words too."""
    assert not is_http(data)

"""Connections go where their ClientHello leads, every byte of it included, and unread behind it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.protocol import Factory

from meshproxy.net.proxy_protocol import encode_v1, encode_v2, parse
from meshproxy.tcp import spliced
from meshproxy.tls.hello import Hello, parse_hello
from tests.tcp.filters import Judge, Keep, filtered
from tests.tcp.mesh import Mesh, rst
from tests.tls.hellos import hello, message, named, of_openssl, records

if TYPE_CHECKING:
    from meshproxy.tcp.listener import TcpListener

SOURCE, DESTINATION = ("192.0.2.7", 4711), ("198.51.100.1", 443)
V1 = encode_v1(SOURCE, DESTINATION)
ROUTES: list[dict[str, Any]] = [
    {"match": {"server_names": ["db.example"], "alpn": ["postgresql"]}, "to": "db"},
    {"match": {"server_names": ["*.internal.example"]}, "to": "internal"},
    {"to": "rest"},
]


class Fixture:
    """A listener with :data:`ROUTES` before the servers that they lead to."""

    def __init__(self, mesh: Mesh, routes: list[dict[str, Any]] = ROUTES, **options: Any) -> None:
        self.mesh = mesh
        self.servers = {name: mesh.server() for name in ("db", "internal", "rest")}
        for name, server in self.servers.items():
            mesh.cluster(name, server.getsockname())
        tcp = {"routes": routes, **options.pop("tcp", {})}
        self.listener: TcpListener = mesh.listener(tcp=tcp, **options)
        self.where = mesh.bind(self.listener)

    def leads(self, data: bytes, name: str) -> None:
        """``data`` goes to the cluster ``name``, and so does what follows; the rest comes back."""
        client = self.mesh.connect(self.where)
        client.send(data)
        upstream = self.mesh.accept(self.servers[name])
        assert self.mesh.read(upstream, len(data)) == data
        client.send(b"more")
        assert self.mesh.read(upstream, 4) == b"more"
        upstream.send(b"back")
        assert self.mesh.read(client, 4) == b"back"
        client.close()
        upstream.close()
        self.mesh.turn(lambda: self.mesh.records)
        record = self.mesh.records[-1]
        assert (record["cluster_name"], record["flags"]) == (name.encode(), b"-")
        assert (record["bytes_received"], record["bytes_sent"]) == (len(data) + 4, 4)


@pytest.mark.parametrize(
    ("data", "name", "server_name"),
    [
        (hello(b"db.example", b"postgresql"), "db", b"db.example"),
        (hello(b"DB.example", b"h2", b"postgresql"), "db", b"db.example"),
        (hello(b"db.example"), "rest", b"db.example"),
        (of_openssl(b"a.internal.example", b"h2"), "internal", b"a.internal.example"),
        (records(message(named(b"x.internal.example")), 20), "internal", b"x.internal.example"),
        (hello(b"a.internal.example", pad=40000), "internal", b"a.internal.example"),
        (hello(b"internal.example"), "rest", b"internal.example"),
        (hello(), "rest", b""),
        (b"SSH-2.0-OpenSSH\r\n", "rest", b""),
        (b"GET / HTTP/1.1\r\n\r\n", "rest", b""),
        (b"\x16\x03\x01\x00\x01\x02", "rest", b""),
    ],
    ids=range(11),
)
def test_where_it_goes(mesh: Mesh, data: bytes, name: str, server_name: bytes) -> None:
    """By name and protocol, or with the rest; with all that was read, which the log can tell."""
    Fixture(mesh).leads(data, name)
    assert mesh.records[0]["server_name"] == server_name


@pytest.mark.parametrize("step", [1, 40])
def test_in_pieces(mesh: Mesh, step: int) -> None:
    """A hello may come byte by byte."""
    fixture = Fixture(mesh)
    data = hello(b"a.internal.example")
    client = mesh.connect(fixture.where)
    for at in range(0, len(data), step):
        client.send(data[at : at + step])
        mesh.reactor.iterate(0)
    assert mesh.read(mesh.accept(fixture.servers["internal"]), len(data)) == data


def test_the_end_behind_the_hello(mesh: Mesh) -> None:
    """A client may end its sending behind its hello."""
    fixture = Fixture(mesh)
    client = mesh.connect(fixture.where)
    client.send(hello(b"a.internal.example") + b"bye")
    client.shutdown(socket.SHUT_WR)
    upstream = mesh.accept(fixture.servers["internal"])
    assert mesh.end(upstream) == hello(b"a.internal.example") + b"bye"


@pytest.mark.parametrize("data", [hello(b"other.example"), hello(), b"SSH-2.0-x\r\n"])
def test_no_route(mesh: Mesh, data: bytes) -> None:
    """What no route takes is reset, counted, and logged with what it asked for."""
    fixture = Fixture(mesh, ROUTES[:2])
    client = mesh.connect(fixture.where)
    client.send(data)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    record = mesh.records[0]
    assert (record["flags"], record["details"]) == (b"NR", b"no_route")
    assert (record["upstream"], record["attempts"]) == (b"", 0)
    assert record["server_name"] == (b"other.example" if b"other" in data else b"")
    assert mesh.value("listener_no_route_total", listener="in") == 1


def test_a_hello_that_never_ends(mesh: Mesh) -> None:
    """A hello is waited for as long as is written, and no longer."""
    fixture = Fixture(mesh, tcp={"hello_timeout": 3.0})
    for sent in (b"", hello(b"db.example")[:50]):
        client = mesh.connect(fixture.where)
        client.send(sent)
        mesh.turn(lambda: fixture.listener.active)
        mesh.settle()
        mesh.pass_time(2)
        assert fixture.listener.active
        mesh.pass_time(1.5)
        assert mesh.was_reset(client)
        mesh.turn(lambda: not fixture.listener.active)
    assert [record["details"] for record in mesh.records] == [b"hello_timeout"] * 2
    assert mesh.value("listener_hello_timeouts_total", listener="in") == 2


@pytest.mark.parametrize("how", ["end", "reset", "stop"])
@pytest.mark.parametrize("sent", [0, 50])
def test_gone_before_the_hello(mesh: Mesh, how: str, sent: int) -> None:
    """A client that leaves, or a listener that stops, before the hello is whole ends it."""
    fixture = Fixture(mesh)
    client = mesh.connect(fixture.where)
    client.send(hello(b"db.example")[:sent])
    mesh.turn(lambda: fixture.listener.active)
    mesh.settle()
    if how == "stop":
        fixture.listener.stop()
    elif how == "end":
        client.shutdown(socket.SHUT_WR)
    else:
        rst(client)
    mesh.turn(lambda: mesh.records)
    record = mesh.records[0]
    assert (record["upstream"], record["cluster_name"]) == (b"", b"")
    if how != "stop":
        assert record["flags"] == b"DC"


@pytest.mark.parametrize("pieces", [1, 0])
def test_behind_a_proxy_header(mesh: Mesh, pieces: int) -> None:
    """The header first, then the hello; the upstream is told the one and sent the other."""
    fixture = Fixture(mesh, proxy_protocol=True)
    mesh.clusters.pop("internal")
    server = fixture.servers["internal"]
    mesh.cluster("internal", server.getsockname(), proxy_protocol="v2")
    where = mesh.bind(listener := mesh.listener(tcp={"routes": ROUTES}, proxy_protocol=True))
    data = V1 + hello(b"a.internal.example")
    client = mesh.connect(where)
    for at in range(0, len(data), 30) if not pieces else [0]:
        client.send(data[at : at + 30] if not pieces else data)
        mesh.settle()
    expected = encode_v2(SOURCE, DESTINATION) + data[len(V1) :]
    assert mesh.read(mesh.accept(server), len(expected)) == expected
    assert listener.active == 1


def test_a_header_but_no_hello(mesh: Mesh) -> None:
    """What did not come in time is named: the header, or the hello behind it."""
    fixture = Fixture(mesh, proxy_protocol=True)
    for sent in (V1[:10], V1):
        client = mesh.connect(fixture.where)
        client.send(sent)
        mesh.turn(lambda: fixture.listener.active)
        mesh.settle()
        mesh.pass_time(16)
        assert mesh.was_reset(client)
        mesh.turn(lambda: not fixture.listener.active)
    details = [record["details"] for record in mesh.records]
    assert details == [b"PROXY_header_timeout", b"hello_timeout"]
    assert mesh.records[1]["client"] == b"192.0.2.7:4711"


def test_weights_and_labels(mesh: Mesh) -> None:
    """A route leads to several clusters by weight, and to the endpoints that it names."""
    one, two = mesh.server(), mesh.server()
    endpoints = [
        {"address": f"127.0.0.1:{server.getsockname()[1]}", "labels": {"zone": zone}}
        for server, zone in ((one, "a"), (two, "b"))
    ]
    mesh.cluster("both", *endpoints)
    routes = [
        {"match": {"alpn": ["b"]}, "to": {"both": 1}, "subset": {"zone": "b"}},
        {"to": "both", "subset": {"zone": "a"}},
    ]
    where = mesh.bind(mesh.listener(tcp={"routes": routes}))
    for data, server in ((hello(b"x.example", b"b"), two), (hello(b"x.example"), one)) * 2:
        client = mesh.connect(where)
        client.send(data)
        assert mesh.read(mesh.accept(server), len(data)) == data


def test_a_twisted_transport(mesh: Mesh) -> None:
    """A listener that Twisted makes from a description routes as well."""
    fixture = Fixture(mesh)
    factory: Factory = fixture.listener.factory()
    port = mesh.reactor.listenTCP(0, factory, interface="127.0.0.1")
    mesh.ports.append(port)
    fixture.where = ("127.0.0.1", port.getHost().port)
    fixture.leads(hello(b"a.internal.example"), "internal")


def test_filters_know_the_name(mesh: Mesh) -> None:
    """A filter judges a connection whose route, and the name it asks for, are known."""
    fixture = Fixture(mesh)
    keep = Keep()
    seen: list[Any] = []
    judge = Judge(lambda one: seen.append((one.server_name, one.cluster_name)))
    listener = filtered(mesh, judge, keep, routes=ROUTES)
    client = mesh.connect(mesh.bind(listener))
    data = hello(b"a.internal.example")
    client.send(data)
    mesh.turn(lambda: keep.waiting)
    keep.waiting[0].callback(None)
    assert mesh.read(mesh.accept(fixture.servers["internal"]), len(data)) == data
    assert seen == [(b"a.internal.example", b"internal")]


def test_an_error_behind_the_hello(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error costs its connection, resets it, and leaves the counts right."""
    if not mesh.watching:
        pytest.skip("only bare sockets are read by a preface")
    fixture = Fixture(mesh)
    client = mesh.connect(fixture.where)
    mesh.turn(lambda: fixture.listener.active)
    with monkeypatch.context() as patch:
        patch.setattr(spliced, "prepare", lambda sock: 1 / 0)
        client.send(hello(b"db.example"))
        assert mesh.was_reset(client)
    mesh.records.clear()
    fixture.leads(hello(b"a.internal.example"), "internal")


def test_nothing_is_read_without_routes(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener without routes asks for an upstream before its client said a word."""
    monkeypatch.setattr(spliced, "Preface", None)
    where, server = mesh.proxy()
    mesh.connect(where)
    mesh.accept(server)


@pytest.mark.parametrize("judged", [False, True])
def test_passed_on(mesh: Mesh, judged: bool) -> None:
    """A socket whose hello somebody else has read goes where that leads, as it came."""
    server = mesh.server()
    mesh.cluster("up", mesh.server().getsockname())
    cluster = mesh.cluster("aside", server.getsockname(), proxy_protocol="v1")
    listener = filtered(mesh, Judge(lambda one: None)) if judged else mesh.listener()
    data = hello(b"a.example")
    found, header = parse_hello(data), parse(V1)
    assert isinstance(found, Hello)
    with socket.create_server(("127.0.0.1", 0)) as front:
        client = mesh.connect(front.getsockname())
        sock, peer = front.accept()
    sock.setblocking(False)
    client.send(data)
    listener.passed(sock, peer, header, found, cluster.group)
    expected = encode_v1(SOURCE, DESTINATION) + data
    upstream = mesh.accept(server)
    assert mesh.read(upstream, len(expected)) == expected
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    record = mesh.records[0]
    assert (record["server_name"], record["client"]) == (b"a.example", b"192.0.2.7:4711")
    assert record["cluster_name"] == b"aside"


def test_too_many_to_pass_on(mesh: Mesh) -> None:
    """One over the listener's limit is closed, whoever read its hello."""
    cluster = mesh.cluster("up", mesh.server().getsockname())
    listener = mesh.listener(max_connections=1)
    mesh.connect(mesh.bind(listener))
    mesh.turn(lambda: listener.active)
    client, sock = socket.socketpair()
    found = parse_hello(hello())
    assert isinstance(found, Hello)
    listener.passed(sock, "", None, found, cluster.group)
    assert client.recv(1) == b""
    client.close()

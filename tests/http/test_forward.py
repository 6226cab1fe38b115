"""What a proxy adds: who the client is cannot be forged, and what is added is well formed."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from meshproxy.http.forward import RequestIds, trusted_client
from tests.http.world import PLAIN, World, get, head, ok

Make = Callable[..., World]
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def configured(*settings: str) -> str:
    """The plain configuration with these settings of the listener."""
    return PLAIN.replace("routes:", "\n      ".join([*settings, "routes:"]))


def forwarded(made: World, *lines: bytes, ip: bytes = b"192.0.2.1") -> list[tuple[bytes, bytes]]:
    """The fields that the endpoint gets for a request with these lines."""
    made.client(get(b"/", *lines), ip)
    block = made.upstream.take().partition(b"\r\n\r\n")[0]
    pairs = [line.partition(b": ") for line in block.split(b"\r\n")[2:]]
    return [(name, value) for name, _, value in pairs]


def test_what_is_added(world: Make) -> None:
    """Address, scheme, host and a new id, in this order, behind the client's own fields."""
    made = world()
    fields = forwarded(made, b"X-One: 1")
    assert [name for name, _ in fields] == [
        b"x-one",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-request-id",
    ]
    held = dict(fields)
    assert held[b"x-forwarded-for"] == b"192.0.2.1"
    assert held[b"x-forwarded-proto"] == b"http"
    assert held[b"x-forwarded-host"] == b"a.example"
    assert UUID.fullmatch(held[b"x-request-id"])
    made.upstream.receive(ok())
    assert made.records[0].request_id == held[b"x-request-id"]
    made.settle()


def test_a_client_cannot_make_its_own_address(world: Make) -> None:
    """Without trusted hops its claims are replaced, and its list is continued by the truth."""
    made = world()
    fields = forwarded(
        made,
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Forwarded-For: 10.0.0.2, 10.0.0.3",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: forged",
        b"X-Request-Id: forged",
        b"X-One: 1",
    )
    held = dict(fields)
    assert len(held) == len(fields)
    assert held[b"x-forwarded-for"] == b"10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1"
    assert held[b"x-forwarded-proto"] == b"http"
    assert held[b"x-forwarded-host"] == b"a.example"
    assert UUID.fullmatch(held[b"x-request-id"])
    assert fields[0] == (b"x-one", b"1")
    made.upstream.receive(ok())
    assert made.records[0].client_ip == b"192.0.2.1"
    made.settle()


def test_trusted_hops(world: Make) -> None:
    """What a trusted proxy in front says stays, and the client is who it says."""
    made = world(configured("trusted_hops: 1"))
    fields = dict(
        forwarded(
            made,
            b"X-Forwarded-For: 10.0.0.1, 198.51.100.7",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: outer.example",
            b"X-Request-Id: given",
        )
    )
    assert fields[b"x-forwarded-for"] == b"10.0.0.1, 198.51.100.7, 192.0.2.1"
    assert fields[b"x-forwarded-proto"] == b"https"
    assert fields[b"x-forwarded-host"] == b"outer.example"
    assert fields[b"x-request-id"] == b"given"
    made.upstream.receive(ok())
    assert (made.records[0].client_ip, made.records[0].request_id) == (b"198.51.100.7", b"given")
    made.settle()


def test_trusted_hops_without_anything_said(world: Make) -> None:
    """The connection's own address, and everything is added as usual."""
    made = world(configured("trusted_hops: 2"))
    fields = dict(forwarded(made, b"X-Forwarded-For: 10.0.0.1"))
    assert fields[b"x-forwarded-for"] == b"10.0.0.1, 192.0.2.1"
    assert fields[b"x-forwarded-proto"] == b"http"
    made.upstream.receive(ok())
    assert made.records[0].client_ip == b"192.0.2.1"
    made.settle()


@pytest.mark.parametrize(
    ("values", "hops", "client"),
    [
        ([b"a, b, c"], 1, b"c"),
        ([b"a, b, c"], 2, b"b"),
        ([b"a", b"b , c"], 3, b"a"),
        ([b"a"], 2, None),
        ([b"a, "], 1, None),
        ([], 1, None),
    ],
)
def test_trusted_client(values: list[bytes], hops: int, client: bytes | None) -> None:
    """The entry that the outermost trusted hop appended."""
    assert trusted_client(values, hops) == client


def test_request_ids_can_be_off(world: Make) -> None:
    """Then a client's passes as any other field."""
    made = world(configured("request_id: false"))
    assert b"x-request-id" not in dict(forwarded(made))
    made.settle()
    made = world(configured("request_id: false"))
    assert dict(forwarded(made, b"X-Request-Id: theirs"))[b"x-request-id"] == b"theirs"
    made.settle()


@pytest.mark.parametrize(
    ("ip", "element"),
    [
        (b"192.0.2.1", b'for=192.0.2.1;host="a.example";proto=http'),
        (b"2001:db8::1", b'for="[2001:db8::1]";host="a.example";proto=http'),
    ],
)
def test_forwarded_on_demand(world: Make, ip: bytes, element: bytes) -> None:
    """RFC 7239: appended to what is there, addresses of IPv6 quoted."""
    made = world(configured("forwarded: true"))
    assert dict(forwarded(made, ip=ip))[b"forwarded"] == element
    made.settle()
    made = world(configured("forwarded: true"))
    fields = dict(forwarded(made, b"Forwarded: for=10.0.0.1", ip=ip))
    assert fields[b"forwarded"] == b"for=10.0.0.1, " + element
    made.settle()


def test_forwarded_passes_without_demand(world: Make) -> None:
    """It is the client's then, and stays as it is."""
    made = world()
    assert dict(forwarded(made, b"Forwarded: for=10.0.0.1"))[b"forwarded"] == b"for=10.0.0.1"
    made.settle()


def test_via_on_demand(world: Make) -> None:
    """Appended both ways, with the version that was received."""
    made = world(configured("via: mesh"))
    client = made.client(get(b"/", b"Via: 1.0 outer"))
    assert head(made.upstream.take())[b"via"] == b"1.0 outer, 1.1 mesh"
    made.upstream.receive(ok(b"", b"Via: 1.1 inner"))
    assert client.take().count(b"via: ") == 2
    old = made.client(b"GET / HTTP/1.0\r\n\r\n")
    assert head(made.upstream.take())[b"via"] == b"1.0 mesh"
    made.upstream.receive(ok())
    assert head(old.take())[b"via"] == b"1.1 mesh"
    made.settle()


def test_server_and_date(world: Make) -> None:
    """server is replaced, date only added where it is absent, and it goes on."""
    made = world()
    client = made.client(get())
    made.upstream.receive(ok(b"", b"Server: theirs", b"Date: yesterday"))
    answer = client.take()
    assert answer.count(b"server: ") == answer.count(b"date: ") == 1
    assert head(answer)[b"server"] == b"meshproxy"
    assert head(answer)[b"date"] == b"yesterday"
    client.receive(get())
    made.upstream.receive(ok())
    assert re.fullmatch(
        rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", head(client.take())[b"date"]
    )
    made.settle()


def test_server_passes_when_told(world: Make) -> None:
    """An empty name leaves the endpoint's, and adds none."""
    made = world(configured('server: ""'))
    client = made.client(get())
    made.upstream.receive(ok(b"", b"Server: theirs"))
    assert head(client.take())[b"server"] == b"theirs"
    client.receive(get())
    made.upstream.receive(ok())
    assert b"server" not in head(client.take())
    made.settle()


def test_request_ids() -> None:
    """Version 4, random variant bits, never the same twice over several batches."""
    ids = RequestIds()
    made = [ids.next() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(UUID.fullmatch(number) for number in made)


def test_memory_is_bounded(world: Make) -> None:
    """Hosts and addresses that clients invent do not stay for ever."""
    made = world()
    client = made.client()
    forward = made.listener.forward
    for number in range(4200):
        client.receive(get().replace(b"a.example", b"h%d" % number))
        made.upstream.receive(ok())
        client.take()
        made.upstream.take()
        made.records.clear()
    assert len(forward._hosts) <= 4096  # type: ignore[attr-defined]
    made.settle()

"""
The headers that a proxy removes, replaces and adds, both ways (RFC 9110, 7.6; RFC 7239).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest

from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.wire import Client, ask

CONFIG = """
listeners:
  web: { listen: '127.0.0.1:$web', http: { routes: [{ to: site }] } }
  signed:
    listen: '127.0.0.1:$signed'
    http: { routes: [{ to: site }], forwarded: true, via: edge, server: '' }
  behind:
    listen: '127.0.0.1:$behind'
    http: { routes: [{ to: site }], trusted_hops: 1 }
  plain:
    listen: '127.0.0.1:$plain'
    http: { routes: [{ to: site }], request_id: false, server: front }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
"""

DRESSED = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver: theirs\r\n"
    b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\nconnection: x-private, keep-alive\r\n"
    b"keep-alive: timeout=5\r\nx-private: no\r\nproxy-connection: x\r\n"
    b"set-cookie: a=1\r\nset-cookie: b=2\r\nX-MiXed: Kept As Is\r\n\r\n"
)


def _answer(request: Received) -> bytes:
    if request.target == b"/dressed":
        return DRESSED
    return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[HttpUpstream]:
    """Keeps what it got; ``/dressed`` is answered with every kind of header."""
    with HttpUpstream(_answer) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: HttpUpstream) -> Iterator[Proxy]:
    """The proxy before it."""
    with Proxy(CONFIG, ports={"site": upstream.port}) as running:
        yield running


def last(upstream: HttpUpstream) -> Received:
    """The request that came last."""
    return upstream.requests[-1]


def test_hop_by_hop_headers_of_requests(proxy: Proxy, upstream: HttpUpstream) -> None:
    """What belongs to the client's hop stays there; everything else is as it was, in order."""
    with Client.to(proxy) as client:
        client.send(
            b"GET /h HTTP/1.1\r\nHost: a\r\nConnection: close, X-Private\r\nx-private: 1\r\n"
            b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n"
            b"Upgrade: h2c\r\nX-One: 1\r\nx-two:  2 \t\r\nX-One: 3\r\nCookie: c\r\n\r\n"
        )
        assert client.response().status == 200
    request = last(upstream)
    for name in (b"connection", b"x-private", b"keep-alive", b"proxy-connection", b"upgrade"):
        assert request.values(name) == [], name
    assert request.values(b"te") == [b"trailers"]
    lines = request.head.split(b"\r\n")
    kept = [line for line in lines if line.startswith((b"x-one", b"x-two", b"cookie"))]
    assert kept == [b"x-one: 1", b"x-two: 2", b"x-one: 3", b"cookie: c"]


def test_headers_of_responses(proxy: Proxy) -> None:
    """Hop-by-hop headers go, ``server`` is ours, ``date`` is theirs, repetition stays."""
    response = ask(proxy, "/dressed")
    assert response.get("server") == "meshproxy"
    assert response.get("date") == "Sun, 06 Nov 1994 08:49:37 GMT"
    for name in ("connection", "keep-alive", "x-private", "proxy-connection"):
        assert response.all(name) == []
    assert response.all("set-cookie") == ["a=1", "b=2"]
    assert response.get("x-mixed") == "Kept As Is"


def test_server_and_date(proxy: Proxy) -> None:
    """``date`` is added where it is absent; ``server`` can be another's or passed on."""
    date = ask(proxy, "/x").get("date")
    assert date is not None
    assert parsedate_to_datetime(date).year >= 2024
    assert ask(proxy, "/dressed", listener="plain").get("server") == "front"
    assert ask(proxy, "/dressed", listener="signed").get("server") == "theirs"


def test_forwarded_for_and_its_kin(proxy: Proxy, upstream: HttpUpstream) -> None:
    """The client cannot say who it is: the address we saw is the last, the rest is ours."""
    ask(proxy, "/x", host="Shop.example:8080")
    request = last(upstream)
    assert request.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.values(b"x-forwarded-proto") == [b"http"]
    assert request.values(b"x-forwarded-host") == [b"Shop.example:8080"]
    assert request.values(b"host") == [b"Shop.example:8080"]
    ask(
        proxy,
        "/x",
        x_forwarded_for="6.6.6.6",
        x_forwarded_proto="https",
        x_forwarded_host="evil",
        x_request_id="mine",
    )
    request = last(upstream)
    assert request.values(b"x-forwarded-for") == [b"6.6.6.6, 127.0.0.1"]
    assert request.values(b"x-forwarded-proto") == [b"http"]
    assert request.values(b"x-forwarded-host") == [b"test.example"]
    assert request.values(b"x-request-id") != [b"mine"]


def test_trusted_hops(proxy: Proxy, upstream: HttpUpstream) -> None:
    """Behind a trusted proxy its word is kept, and our own view is appended."""
    ask(
        proxy,
        "/x",
        listener="behind",
        x_forwarded_for="6.6.6.6, 203.0.113.9",
        x_forwarded_proto="https",
        x_forwarded_host="www.example",
        x_request_id="theirs",
    )
    request = last(upstream)
    assert request.values(b"x-forwarded-for") == [b"6.6.6.6, 203.0.113.9, 127.0.0.1"]
    assert request.values(b"x-forwarded-proto") == [b"https"]
    assert request.values(b"x-forwarded-host") == [b"www.example"]
    assert request.values(b"x-request-id") == [b"theirs"]


def test_request_id(proxy: Proxy, upstream: HttpUpstream) -> None:
    """Every request has a new random UUID, unless that is switched off."""
    with Client.to(proxy) as client:
        for _ in range(3):
            client.ask("/x")
    numbers = [request.values(b"x-request-id")[0].decode() for request in upstream.requests[-3:]]
    assert len(set(numbers)) == 3
    assert all(uuid.UUID(number).version == 4 for number in numbers)
    ask(proxy, "/x", listener="plain")
    assert last(upstream).values(b"x-request-id") == []
    ask(proxy, "/x", listener="plain", x_request_id="kept")
    assert last(upstream).values(b"x-request-id") == [b"kept"]


def test_via_and_forwarded_on_demand(proxy: Proxy, upstream: HttpUpstream) -> None:
    """Both are absent unless configured; then they are appended (RFC 9110, 7.6.3; RFC 7239)."""
    ask(proxy, "/x")
    assert last(upstream).values(b"via") == last(upstream).values(b"forwarded") == []
    response = ask(proxy, "/x", listener="signed", via="1.0 first", forwarded="for=1.1.1.1")
    assert response.get("via") == "1.1 edge"
    request = last(upstream)
    assert request.values(b"via") == [b"1.0 first, 1.1 edge"]
    (value,) = request.values(b"forwarded")
    assert re.fullmatch(
        rb'for=1\.1\.1\.1, *for="?127\.0\.0\.1"?;host="?test\.example"?;proto=http', value
    )

"""
HTTP/1.1 messages through the proxy: what goes in at one side comes out at the other, and only
what a proxy must change is changed (RFC 9110, 7.6; RFC 9112).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.wire import Client, RawUpstream, Response, ask, eventually

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]

CONFIG = """
listeners:
  web: { listen: '127.0.0.1:$web', http: { routes: [{ to: site }] } }
  raw: { listen: '127.0.0.1:$raw', http: { routes: [{ to: raw }] } }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
  raw: { endpoints: ['127.0.0.1:$echo'] }
"""

RESPONSES = {
    b"/none": b"HTTP/1.1 204 No Content\r\nx-kind: none\r\n\r\n",
    b"/same": b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\ncontent-length: 99\r\n\r\n',
    b"/early": (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    ),
    b"/until-close": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end",
    b"/old": b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold",
    b"/old-until-close": b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nold and long",
    b"/chunked": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
        b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 42\r\n\r\n"
    ),
}


def _answer(request: Received) -> bytes:
    if request.line.startswith(b"HEAD "):
        return b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\nx-kind: head\r\n\r\n"
    found = RESPONSES.get(request.target)
    if found is not None:
        return found
    body = request.line.split(b" ")[0] + b" " + request.body
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def upstream() -> Iterator[HttpUpstream]:
    """Answers by target, else with the method and the body."""
    with HttpUpstream(_answer) as server:
        yield server


@pytest.fixture(scope="module")
def raw() -> Iterator[RawUpstream]:
    """Keeps requests byte for byte."""
    with RawUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: HttpUpstream, raw: RawUpstream) -> Iterator[Proxy]:
    """The proxy before both."""
    with Proxy(CONFIG, ports={"site": upstream.port, "echo": raw.port}) as running:
        yield running


def last(upstream: HttpUpstream) -> Received:
    """The request that came last."""
    return upstream.requests[-1]


@pytest.mark.parametrize("method", METHODS)
def test_methods(proxy: Proxy, upstream: HttpUpstream, method: str) -> None:
    """Every method passes as it is, and HEAD has no body but the length of one."""
    response = ask(proxy, "/m?q=1", method)
    assert response.status == 200
    assert last(upstream).line == f"{method} /m?q=1 HTTP/1.1".encode()
    if method == "HEAD":
        assert (response.get("content-length"), response.body) == ("12345", b"")
    else:
        assert response.body.startswith(method.encode())


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_a_body_with_any_method(proxy: Proxy, method: str) -> None:
    """A body is the method's own affair (RFC 9110, 9.3)."""
    assert ask(proxy, "/b", method, body=b"payload").body == method.encode() + b" payload"


def test_options_asterisk(proxy: Proxy, upstream: HttpUpstream) -> None:
    """``OPTIONS *`` is about the server, and keeps its asterisk."""
    assert ask(proxy, "*", "OPTIONS").status == 200
    assert last(upstream).line == b"OPTIONS * HTTP/1.1"


def test_keep_alive_and_head_between(proxy: Proxy) -> None:
    """Many requests on one connection, those without a body among them, stay in step."""
    with Client.to(proxy) as client:
        for number in range(20):
            assert client.ask("/x", "HEAD").status == 200
            assert client.ask("/none").status == 204
            assert client.ask("/same").status == 304
            assert client.ask("/x", "POST", body=b"%d" % number).body == b"POST %d" % number


def test_pipelining(proxy: Proxy) -> None:
    """Requests sent at once are answered in their order, with bodies and without."""
    with Client.to(proxy) as client:
        requests = [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody",
            b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"\r\nDELETE / HTTP/1.1\r\nhost: a\r\n\r\n",
        ] * 10
        client.send(b"".join(requests))
        for _ in range(10):
            assert client.response().body == b"GET "
            assert client.response().body == b"POST body"
            assert client.response().body == b"PUT abc"
            assert client.response("HEAD").status == 200
            assert client.response().body == b"DELETE "


def test_requests_in_pieces(proxy: Proxy) -> None:
    """A request that comes byte by byte is the same request."""
    data = (
        b"POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        b"4;a=b\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n"
    )
    with Client.to(proxy) as client:
        for index in range(len(data)):
            client.send(data[index : index + 1])
        assert client.response().body == b"POST wikipedia"


def test_responses_without_a_body(proxy: Proxy) -> None:
    """204 says no length, 304 and HEAD keep the one they have (RFC 9110, 8.6)."""
    none = ask(proxy, "/none")
    assert (none.status, none.get("content-length"), none.get("x-kind")) == (204, None, "none")
    same = ask(proxy, "/same")
    assert (same.status, same.get("content-length"), same.get("etag")) == (304, "99", '"1"')


def test_early_hints(proxy: Proxy) -> None:
    """A 103 passes before its response; an HTTP/1.0 client never sees one."""
    response = ask(proxy, "/early")
    assert [inform.status for inform in response.informs] == [103]
    assert response.informs[0].get("link") == "</a.css>; rel=preload"
    assert response.body == b"ok"
    with Client.to(proxy) as client:
        old = client.send(b"GET /early HTTP/1.0\r\nhost: a\r\n\r\n").response()
        assert (old.informs, old.body) == ([], b"ok")


def test_until_close_becomes_chunked(proxy: Proxy) -> None:
    """A body that ends with its connection is told apart from a cut one, by chunks."""
    with Client.to(proxy) as client:
        for target in ("/until-close", "/old-until-close"):
            response = client.ask(target)
            assert response.framing == "chunked"
            assert response.body in (b"until the end", b"old and long")
        assert client.ask("/x").status == 200  # the client's connection lives on


def test_http_1_0_upstream(proxy: Proxy) -> None:
    """A response of HTTP/1.0 is forwarded as one of HTTP/1.1."""
    response = ask(proxy, "/old")
    assert (response.version, response.body) == ("HTTP/1.1", b"old")


def test_http_1_0_client(proxy: Proxy) -> None:
    """It gets no chunks, and its connection closed unless it asks to keep it."""
    with Client.to(proxy) as client:
        response = client.send(b"GET /chunked HTTP/1.0\r\nhost: a\r\n\r\n").response()
        assert (response.framing, response.body) == ("close", b"hello world")
    with Client.to(proxy) as client:
        for _ in range(3):
            client.send(b"GET /x HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            response = client.response()
            assert (response.get("connection"), response.body) == ("keep-alive", b"GET ")
    with Client.to(proxy) as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")  # nor does it need a Host
        assert client.response().body == b"GET "
        assert client.ended()


def test_connection_close(proxy: Proxy) -> None:
    """The client's wish to close is met, and never the upstream's concern."""
    with Client.to(proxy) as client:
        assert client.ask("/x", connection="close").get("connection") == "close"
        assert client.ended()


def test_chunked_response_and_trailers(proxy: Proxy) -> None:
    """Chunks stay chunks, their extensions are dropped, and trailers arrive."""
    response = ask(proxy, "/chunked", te="trailers")
    assert (response.framing, response.body) == ("chunked", b"hello world")
    assert response.trailers == [("x-sum", "42")]
    assert response.get("trailer") == "x-sum"


@pytest.mark.parametrize("pieces", ["at once", "apart"])
@pytest.mark.parametrize("connection", ["fresh", "kept"])
def test_request_trailers(raw: RawUpstream, pieces: str, connection: str) -> None:
    """A request's trailers reach the upstream, however the request comes and waits."""
    head = b"POST /t HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"5\r\nhello\r\n0\r\nx-sum: 42\r\nhost: evil\r\ncontent-length: 3\r\n\r\n"
    ports = {"site": raw.port, "echo": raw.port}
    with Proxy(CONFIG, ports=ports) as own, Client.to(own, "raw") as client:
        if connection == "kept":
            assert client.ask("/first").status == 200
        before = len(raw.received)
        if pieces == "at once":
            client.send(head + body)
        else:
            client.send(head)
            client.send(body)
        assert client.response().status == 200
        got = raw.received[before]
        assert got.endswith(b"\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n")
        assert b"\r\ntransfer-encoding: chunked\r\n" in got
        assert b"evil" not in got


def test_expect_continue(proxy: Proxy, upstream: HttpUpstream) -> None:
    """The proxy answers the expectation, and the upstream hears nothing of it."""
    with Client.to(proxy) as client:
        client.send(
            b"POST /e HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        )
        assert client.take(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.send(b"body").response().body == b"POST body"
    assert last(upstream).values(b"expect") == []


def test_absolute_form(proxy: Proxy, upstream: HttpUpstream) -> None:
    """An absolute target's host wins over the Host header, and the upstream gets a path."""
    with Client.to(proxy) as client:
        client.send(b"GET http://one.example:81/a?b HTTP/1.1\r\nhost: two.example\r\n\r\n")
        assert client.response().status == 200
    assert last(upstream).line == b"GET /a?b HTTP/1.1"
    assert last(upstream).values(b"host") == [b"one.example:81"]


def test_many_clients_at_once(proxy: Proxy) -> None:
    """Connections do not get each other's answers."""
    wrong: list[Response] = []

    def talk(name: bytes) -> None:
        with Client.to(proxy) as client:
            for number in range(50):
                body = b"%b %d" % (name, number)
                response = client.ask("/x", "POST", body=body)
                if response.body != b"POST " + body:
                    wrong.append(response)

    threads = [threading.Thread(target=talk, args=(b"c%d" % n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    eventually(lambda: not _active(proxy), "the connections to be gone")


def _active(proxy: Proxy) -> int:
    text = proxy.get("admin", "/listeners").body
    return sum(int(number) for number in re.findall(rb'"connections": ?(\d+)', text))

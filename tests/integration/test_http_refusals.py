"""
Bad input: what is not plainly HTTP/1.1 gets its status and a closed connection, nothing of it
reaches the upstream, and the next client is served. An upstream is judged as strictly.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy
from tests.integration.wire import LOG, Client, RawUpstream, ask, eventually, log_lines, metric

CONFIG = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    http: {{ routes: [{{ to: site }}], {LOG} }}
clusters:
  site: {{ endpoints: ['127.0.0.1:$site'] }}
"""

GET = b"GET /bad HTTP/1.1\r\n"
HOST = b"host: a\r\n"
POST = b"POST /bad HTTP/1.1\r\nhost: a\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "garbage": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "a word": (400, b"hello\r\n\r\n"),
    "two words": (400, b"GET /bad\r\n" + HOST + b"\r\n"),
    "four words": (400, b"GET /bad now HTTP/1.1\r\n" + HOST + b"\r\n"),
    "two spaces": (400, b"GET  /bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a tab for a space": (400, b"GET\t/bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a space before the method": (400, b" GET /bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "version in lower case": (400, b"GET /bad http/1.1\r\n" + HOST + b"\r\n"),
    "another protocol": (400, b"GET /bad RTSP/1.0\r\n" + HOST + b"\r\n"),
    "version 9.9": (426, b"GET /bad HTTP/9.9\r\n" + HOST + b"\r\n"),
    "HTTP/2 preface": (426, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "unknown method": (400, b"BREW /bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "method in lower case": (400, b"get /bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "raw UTF-8 in the path": (400, "GET /bäd HTTP/1.1\r\n".encode() + HOST + b"\r\n"),
    "NUL in the path": (400, b"GET /b\0d HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a fragment": (400, b"GET /bad#part HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a path without a slash": (400, b"GET bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "an asterisk to GET": (400, b"GET * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "user information": (400, b"GET http://me@a/bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "another scheme": (400, b"GET ftp://a/bad HTTP/1.1\r\n" + HOST + b"\r\n"),
    "no Host": (400, GET + b"\r\n"),
    "two Hosts": (400, GET + HOST + HOST + b"\r\n"),
    "two Hosts in one": (400, GET + b"host: a, b\r\n\r\n"),
    "a bad Host": (400, GET + b"host: a/b\r\n\r\n"),
    "a Host with a user": (400, GET + b"host: u@a\r\n\r\n"),
    "a space before the colon": (400, GET + HOST + b"x-a : 1\r\n\r\n"),
    "a space in a name": (400, GET + HOST + b"x a: 1\r\n\r\n"),
    "no name": (400, GET + HOST + b": 1\r\n\r\n"),
    "no colon": (400, GET + HOST + b"x-a\r\n\r\n"),
    "a name that is no token": (400, GET + HOST + b"x(a): 1\r\n\r\n"),
    "NUL in a value": (400, GET + HOST + b"x-a: 1\x002\r\n\r\n"),
    "CR in a value": (400, GET + HOST + b"x-a: 1\r2\r\n\r\n"),
    "DEL in a value": (400, GET + HOST + b"x-a: 1\x7f2\r\n\r\n"),
    "a folded line": (400, GET + HOST + b"x-a: 1\r\n 2\r\n\r\n"),
    "a folded first line": (400, GET + b" host: a\r\n\r\n"),
    "bare LF": (400, b"GET /bad HTTP/1.1\nhost: a\n\n"),
    "bare LF between": (400, GET + HOST + b"x-a: 1\nx-b: 2\r\n\r\n"),
    "bare LF at the end": (400, GET + b"host: a\r\n\n"),
    "CL and TE": (
        400,
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    ),
    "TE and CL": (
        400,
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    ),
    "two lengths": (
        400,
        POST + b"content-length: 0\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    ),
    "two equal lengths": (400, POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
    "a list of lengths": (400, POST + b"content-length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, POST + b"content-length: +3\r\n\r\nabc"),
    "a negative length": (400, POST + b"content-length: -3\r\n\r\nabc"),
    "a hexadecimal length": (400, POST + b"content-length: 0x3\r\n\r\nabc"),
    "a length with an underscore": (400, POST + b"content-length: 1_0\r\n\r\n0123456789"),
    "an empty length": (400, POST + b"content-length:\r\n\r\n"),
    "an endless length": (400, POST + b"content-length: " + b"9" * 40 + b"\r\n\r\nabc"),
    "a length that Connection names": (
        400,
        POST + b"connection: content-length\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    ),
    "another coding": (501, POST + b"transfer-encoding: gzip\r\n\r\nabc"),
    "two codings": (501, POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (501, POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "identity": (501, POST + b"transfer-encoding: identity\r\n\r\n" + HIDDEN),
    "a coding in disguise": (501, POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "a vertical tab": (400, POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "two TE headers": (
        400,
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    "TE in HTTP/1.0": (
        400,
        b"POST /bad HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    ),
    "a chunk size of no digits": (400, CHUNKED + b"\r\nabc\r\n0\r\n\r\n"),
    "a chunk size of letters": (400, CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with 0x": (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a signed chunk size": (400, CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
    "a negative chunk size": (400, CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with a space before": (400, CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size that overflows": (400, CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    "a chunk that is too long": (400, CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    "a chunk with a bare LF": (400, CHUNKED + b"3\nabc\n0\n\n"),
    "a chunk ended by LF": (400, CHUNKED + b"3\r\nabc\n0\r\n\r\n"),
    "a bare LF in an extension": (400, CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    "a bare CR in an extension": (400, CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    "an endless extension": (400, CHUNKED + b"3;" + b"a" * 9000 + b"\r\nabc\r\n0\r\n\r\n"),
    "a bad trailer": (400, CHUNKED + b"0\r\nx a: 1\r\n\r\n"),
    "a folded trailer": (400, CHUNKED + b"0\r\nx-a: 1\r\n 2\r\n\r\n"),
    "an upgrade with a body": (
        400,
        POST + b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 3\r\n\r\nabc",
    ),
    "101 headers": (431, GET + HOST + b"x-a: 1\r\n" * 100 + b"\r\n"),
    "60 KiB of headers": (431, GET + HOST + b"x-a: " + b"a" * 61440 + b"\r\n\r\n"),
    "60 KiB of path": (431, b"GET /" + b"a" * 61440 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "headers without an end": (431, GET + HOST + b"x-a: 1\r\n" * 9000),
    "a line without an end": (431, b"GET /" + b"a" * 70000),
    "another expectation": (417, POST + b"expect: tea\r\n\r\n"),
    "CONNECT": (404, b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n"),
}

SERVED = {
    "empty lines before": b"\r\n\r\nGET /good HTTP/1.1\r\nhost: a\r\n\r\n",
    "Latin-1 in a value": b"GET /good HTTP/1.1\r\nhost: a\r\nx-a: caf\xe9\r\n\r\n",
    "100 headers": b"GET /good HTTP/1.1\r\nhost: a\r\n" + b"x-a: 1\r\n" * 99 + b"\r\n",
    "a body to GET": b"GET /good HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok",
    "an empty value": b"GET /good HTTP/1.1\r\nhost: a\r\nx-a:\r\n\r\n",
    "a host with a port": b"GET /good HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n",
    "capitals": b"POST /good HTTP/1.1\r\nHOST: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[HttpUpstream]:
    """Says 200 to whatever comes."""
    with HttpUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: HttpUpstream) -> Iterator[Proxy]:
    """The proxy before it."""
    with Proxy(CONFIG, ports={"site": upstream.port}) as running:
        yield running


@pytest.mark.parametrize("name", REFUSED)
def test_refused(proxy: Proxy, upstream: HttpUpstream, name: str) -> None:
    """The status of the table, then the end; nothing hidden reached the upstream."""
    status, data = REFUSED[name]
    del upstream.requests[:]
    with Client.to(proxy) as client:
        response = client.send(data).response()
        assert response.status == status
        assert response.get("connection") == "close"
        assert client.ended()
    served = ask(proxy, "/next")
    assert (served.status, served.body) == (200, b"ok\n")
    # A chunked body is refused where it goes wrong, so its head may have been sent on; it is
    # then never completed, and what hides behind it is never a request.
    targets = {request.target for request in upstream.requests}
    assert targets == {b"/next"}


@pytest.mark.parametrize("name", SERVED)
def test_served(proxy: Proxy, name: str) -> None:
    """What is unusual but plain is served."""
    with Client.to(proxy) as client:
        assert client.send(SERVED[name]).response().status == 200
        assert client.ask("/next").status == 200


@pytest.mark.parametrize("name", ["two lengths", "CL and TE", "no Host", "a bad trailer"])
def test_refused_after_a_good_one(proxy: Proxy, name: str) -> None:
    """Pipelined behind a good request it is refused all the same, and in its turn."""
    status, data = REFUSED[name]
    with Client.to(proxy) as client:
        client.send(b"GET /good HTTP/1.1\r\nhost: a\r\n\r\n" + data)
        assert client.response().status == 200
        assert client.response().status == status
        assert client.ended()


@pytest.mark.parametrize("name", ["CL and TE", "a bad Host", "101 headers", "garbage"])
def test_refused_in_pieces(proxy: Proxy, name: str) -> None:
    """It makes no difference how the bytes arrive."""
    status, data = REFUSED[name]
    with Client.to(proxy) as client:
        for start in range(0, len(data), 7):
            client.send(data[start : start + 7])
        assert client.response().status == status
        assert client.ended()


def test_refusals_are_logged(proxy: Proxy) -> None:
    """A refusal has a line in the access log, with the flag and the reason, and is counted."""
    with Client.to(proxy) as client:
        assert client.send(b"nonsense\r\n\r\n").response().status == 400
    line = log_lines(proxy, status=400)[-1]
    assert (line["flags"], line["details"]) == ("DPE", "http1.codec_error")
    assert metric(proxy, "meshproxy_listener_responses_total", listener="web", **{"class": "4xx"})


def test_chunk_extensions_do_not_pass() -> None:
    """What the client said beside a chunk's size is dropped, and the sizes are our own."""
    with (
        RawUpstream() as upstream,
        Proxy(CONFIG, ports={"site": upstream.port}) as own,
        Client.to(own) as client,
    ):
        assert client.ask("/first").status == 200
        client.send(b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send(b'003 ; a="b\t\xe9"\r\nabc\r\n0;last\r\n\r\n')
        assert client.response().status == 200
        eventually(lambda: len(upstream.received) == 2, "the request")
        assert upstream.received[1].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


UPSTREAM_NONSENSE = {
    "garbage": b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "version 2": b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "version in lower case": b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 No\r\ncontent-length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 No\r\ncontent-length: 0\r\n\r\n",
    "CL and TE": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "two equal lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
    "another coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
    "101 headers": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + b"x-a: 1\r\n" * 100 + b"\r\n",
    "headers without an end": b"HTTP/1.1 200 OK\r\n" + b"x-a: 1\r\n" * 9000,
    "a folded line": b"HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\ncontent-length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
    "a space in a name": b"HTTP/1.1 200 OK\r\nx a: 1\r\ncontent-length: 0\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nx-a: \0\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": b"HTTP/1.1 200 OK\r\nx-a: 1\r2\r\ncontent-length: 0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    "a bad chunk in the first bytes": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", UPSTREAM_NONSENSE)
def test_upstream_nonsense(name: str, nonsense: tuple[Proxy, list[bytes]]) -> None:
    """The client gets 502 in Envoy's words, the log UPE; nothing ambiguous is forwarded."""
    proxy, answer = nonsense
    answer[0] = UPSTREAM_NONSENSE[name]
    target = "/" + name.replace(" ", "-")
    response = ask(proxy, target)
    assert response.status == 502
    assert response.body == (
        b"upstream connect error or disconnect/reset before headers. reset reason: protocol error"
    )


def test_upstream_nonsense_is_logged(nonsense: tuple[Proxy, list[bytes]]) -> None:
    """Each has the flag UPE in the access log."""
    proxy, answer = nonsense
    for name, data in UPSTREAM_NONSENSE.items():
        answer[0] = data
        ask(proxy, "/logged/" + name.replace(" ", "-"))
    log_lines(proxy, path="/logged/" + name.replace(" ", "-"))
    found = {line["path"]: line["flags"] for line in log_lines(proxy)}
    for name in UPSTREAM_NONSENSE:
        assert found["/logged/" + name.replace(" ", "-")] == "UPE", name


@pytest.fixture(scope="module")
def nonsense() -> Iterator[tuple[Proxy, list[bytes]]]:
    """The proxy before an upstream that says the one entry of the list, and closes."""
    answer = [b""]

    def say(data: bytes, sock: object) -> bytes:
        return answer[0]

    with RawUpstream(say) as upstream, Proxy(CONFIG, ports={"site": upstream.port}) as running:
        yield running, answer


def test_what_follows_a_response_is_nobodys(nonsense: tuple[Proxy, list[bytes]]) -> None:
    """Bytes behind a response are not the next client's response (response splitting)."""
    proxy, answer = nonsense
    answer[0] = (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"
    )
    for _ in range(5):
        response = ask(proxy, "/split")
        assert (response.status, response.body) == (200, b"ok")


def test_limits_can_be_moved() -> None:
    """``max_headers`` is for requests and responses, ``max_header_size`` for requests."""
    many = b"x-a: 1\r\n" * 150
    config = CONFIG.replace("routes:", "max_headers: 200, max_header_size: 8KiB, routes:")
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + many + b"\r\n"
    with (
        HttpUpstream(reply) as upstream,
        Proxy(config, ports={"site": upstream.port}) as own,
        Client.to(own) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n" + many + b"\r\n")
        response = client.response()
        assert (response.status, len(response.all("x-a"))) == (200, 150)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-a: " + b"a" * 8192 + b"\r\n\r\n")
        assert client.response().status == 431
        assert client.ended()

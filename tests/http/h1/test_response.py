"""Response heads: judged as strictly as requests."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.http.h1.memo import Memo
from meshproxy.http.h1.response import CHUNKED, UNTIL_CLOSE, ResponseHead, parse_response
from tests.http.h1.test_request import lines

OK = b"HTTP/1.1 200 OK"


def parse(*parts: bytes, method: bytes = b"GET", most: int = 100) -> ResponseHead:
    """The head of these lines."""
    return parse_response(b"\r\n".join(parts), method, most)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"200 OK",
        b"HTTP/1.1",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 99 Low",
        b"HTTP/1.1 099 Low",
        b"HTTP/1.1 600 High",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK",
        b"\r\nHTTP/1.1 200 OK",
    ],
)
def test_bad_status_lines(line: bytes) -> None:
    """Refused, asked once or again."""
    for _ in range(2):
        with pytest.raises(ValueError, match="bad status line"):
            parse(line, b"Content-Length: 0")


@pytest.mark.parametrize("line", [OK, b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 caf\xe9"])
def test_good_status_lines(line: bytes) -> None:
    """A reason is not needed, and may be of any text."""
    assert parse(line, b"Content-Length: 0").status == 200


@pytest.mark.parametrize(
    "extra",
    [
        (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 3", b"Content-Length: 3"),
        (b"Content-Length: 3", b"Content-Length: 4"),
        (b"Content-Length: +3",),
        (b"Content-Length: 3, 3",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: gzip, chunked",),
        (b"Transfer-Encoding: identity",),
        (b"Transfer-Encoding: chunked\x0b",),
        (b"Transfer-Encoding : chunked",),
        (b"X: folded", b" here"),
        (b"X: a\nb",),
        (b"X: a\rb",),
        (b"X: a\x00b",),
        (b"no colon",),
        (b"Connection: content-length", b"Content-Length: 3"),
    ],
)
def test_ambiguous_responses(extra: tuple[bytes, ...]) -> None:
    """What a client might read differently is never forwarded."""
    with pytest.raises(ValueError, match=r"\w"):
        parse(OK, *extra)


def test_chunked_in_http_1_0() -> None:
    """HTTP/1.0 has no transfer codings."""
    with pytest.raises(ValueError, match="transfer-encoding"):
        parse(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked")


def test_too_many_headers() -> None:
    """One line more than the limit."""
    extra = [b"X-%d: 1" % number for number in range(10)]
    assert parse(OK, *extra, most=10).status == 200
    with pytest.raises(ValueError, match="too many"):
        parse(OK, *extra, b"Y: 1", most=10)


@pytest.mark.parametrize(
    ("line", "method", "extra", "length"),
    [
        (OK, b"GET", (b"Content-Length: 3",), 3),
        (OK, b"GET", (b"Transfer-Encoding: chunked",), CHUNKED),
        (OK, b"GET", (), UNTIL_CLOSE),
        (OK, b"HEAD", (b"Content-Length: 3",), 0),
        (OK, b"HEAD", (b"Transfer-Encoding: chunked",), 0),
        (OK, b"HEAD", (), 0),
        (b"HTTP/1.1 204 No Content", b"GET", (), 0),
        (b"HTTP/1.1 204 No Content", b"GET", (b"Transfer-Encoding: chunked",), 0),
        (b"HTTP/1.1 304 Not Modified", b"GET", (b"Content-Length: 3",), 0),
        (b"HTTP/1.1 103 Early Hints", b"GET", (b"Content-Length: 3",), 0),
    ],
)
def test_lengths(line: bytes, method: bytes, extra: tuple[bytes, ...], length: int) -> None:
    """RFC 9112, 6.3: where a body ends, and where there is none."""
    assert parse(line, *extra, method=method).length == length


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        (OK, True),
        (b"HTTP/1.1 304 Not Modified", True),
        (b"HTTP/1.1 204 No Content", False),
        (b"HTTP/1.1 103 Early Hints", False),
    ],
)
def test_lengths_that_pass(line: bytes, passes: bool) -> None:
    """RFC 9110, 8.6: no statement of a length with 1xx and 204."""
    names = [field[0] for field in parse(line, b"Content-Length: 3", b"X: 1").fields]
    assert names == ([b"content-length", b"x"] if passes else [b"x"])


@pytest.mark.parametrize(
    ("line", "extra", "keep"),
    [
        (OK, (b"Content-Length: 0",), True),
        (OK, (b"Content-Length: 0", b"Connection: close"), False),
        (OK, (b"Content-Length: 0", b"Connection: x, Close"), False),
        (OK, (), False),
        (b"HTTP/1.0 200 OK", (b"Content-Length: 0",), False),
        (b"HTTP/1.0 200 OK", (b"Content-Length: 0", b"Connection: keep-alive"), True),
        (b"HTTP/1.0 200 OK", (b"Content-Length: 0", b"Connection: x,keep-alive"), True),
    ],
)
def test_keep_alive(line: bytes, extra: tuple[bytes, ...], keep: bool) -> None:
    """A connection is kept only when both sides will and the body ends before it."""
    assert parse(line, *extra).keep_alive is keep


def test_hop_by_hop_fields_are_taken_out() -> None:
    """Those of RFC 9110, and those that Connection names."""
    head = parse(
        OK,
        b"A: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: x",
        b"Connection: B, upgrade",
        b"B: 2",
        b"Upgrade: WebSocket",
        b"Transfer-Encoding: chunked",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
    )
    assert [field[:2] for field in head.fields] == [
        (b"a", b"1"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]
    assert head.upgrade == b"websocket"


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([OK, b"HTTP/1.1 404 X", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 Y"]),
    st.lists(lines, max_size=6),
)
def test_what_is_accepted_h11_reads_alike(first: bytes, extra: list[bytes]) -> None:
    """Whatever this parser accepts, h11 accepts, with the same status, fields and body length."""
    block = b"\r\n".join([first, *extra])
    if b"\r\n\r\n" in block or block.endswith(b"\r\n"):
        return
    try:
        head = parse_response(block, b"GET", 100)
    except ValueError:
        return
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("host", "a.example")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(block + b"\r\n\r\n")
    event = peer.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == head.status
    theirs = list(event.headers)
    named = {
        token.strip().lower()
        for name, value in theirs
        if name == b"connection"
        for token in value.split(b",")
    }
    gone = named | {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"host"}
    gone |= {b"transfer-encoding"} | ({b"content-length"} if head.status == 204 else set())
    mine = [field[:2] for field in head.fields]
    assert mine == [(name, value) for name, value in theirs if name not in gone]
    length = [int(value) for name, value in theirs if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in theirs)
    if head.status != 204:
        assert head.length == (CHUNKED if chunked else length[0] if length else UNTIL_CLOSE)


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=200) | st.lists(lines, max_size=6).map(lambda x: b"\r\n".join([OK, *x])),
    st.sampled_from([b"GET", b"HEAD"]),
    st.integers(1, 10),
)
def test_no_bytes_raise_anything_but_value_error(block: bytes, method: bytes, most: int) -> None:
    """Arbitrary bytes, and nearly good heads, are accepted or refused."""
    memo = Memo()
    for _ in range(3):
        try:
            parse_response(block, method, most, memo)
        except ValueError:
            continue

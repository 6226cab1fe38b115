"""Request heads: what is refused and with what, what is read, and that nothing is ambiguous."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshproxy.http.h1.memo import Memo
from meshproxy.http.h1.request import (
    AUTHORITY,
    EMPTY_LINES,
    METHODS,
    Refused,
    RequestHead,
    parse_request,
    valid_authority,
)

HOST = b"Host: a.example"


def parse(*lines: bytes, most: int = 100) -> RequestHead:
    """The head of these lines."""
    return parse_request(b"\r\n".join(lines), most)


def refusal(*lines: bytes, most: int = 100) -> int:
    """The status with which the head of these lines is refused; 0 when it is accepted."""
    try:
        parse(*lines, most=most)
    except Refused as refused:
        return refused.reply.status
    return 0


def with_lines(*lines: bytes) -> tuple[bytes, ...]:
    """A good request with these lines behind its Host."""
    return (b"POST / HTTP/1.1", HOST, *lines)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / http/1.1",
        b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/11",
        b"GET / HTTP/1.10",
        b"GET / HTTP /1.1",
        b"GET / HTPP/1.1",
        b"get / HTTP/1.1",
        b"FOO / HTTP/1.1",
        b"PRI * HTTP/2.0"[:5] + b" HTTP/1.1",
        b"\x16\x03\x01\x00\xa5",
        b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\n HTTP/1.1",
        b"GET /caf\xc3\xa9 HTTP/1.1",
        b"GET /#top HTTP/1.1",
        b"GET relative HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET ftp://a.example/ HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET http://user@a.example/ HTTP/1.1",
        b"GET http://a.example/#top HTTP/1.1",
        b"GET http://a.example/caf\xc3\xa9 HTTP/1.1",
        b"GET http://a example/ HTTP/1.1",
        b"CONNECT /path HTTP/1.1",
        b"GET //\\\x01 HTTP/1.1",
    ],
)
def test_bad_request_lines(line: bytes) -> None:
    """400: garbage, unknown methods, versions in lower case, targets of no form, raw UTF-8."""
    assert refusal(line, HOST) == 400


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9"])
def test_other_versions(version: bytes) -> None:
    """426 for well-formed versions that are not served."""
    assert refusal(b"GET / " + version, HOST) == 426


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 3"),
        (b"Content-Length: 3", b"Content-Length: 3"),
        (b"Content-Length: 3", b"Content-Length: 4"),
        (b"Content-Length: 3", b"content-length: 3"),
        (b"Content-Length: 3, 3",),
        (b"Content-Length: +3",),
        (b"Content-Length: -3",),
        (b"Content-Length: 0x3",),
        (b"Content-Length: 3 3",),
        (b"Content-Length: 3_0",),
        (b"Content-Length: \xb3",),
        (b"Content-Length: 1.0",),
        (b"Content-Length:",),
        (b"Content-Length: 9999999999999999999",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked\x0b",),
        (b"Transfer-Encoding: chunked\x00",),
        (b"Transfer-Encoding : chunked",),
        (b"Transfer-Encoding\t: chunked",),
        (b" Transfer-Encoding: chunked",),
        (b"\tTransfer-Encoding: chunked",),
        (b"Transfer-Encoding:", b" chunked"),
        (b"Transfer\x00-Encoding: chunked",),
        (b"X: a\nTransfer-Encoding: chunked",),
        (b"X: a\rTransfer-Encoding: chunked",),
        (b"X: a\x00b",),
        (b"X: a\x7fb",),
        (b"X: folded", b" here"),
        (b"X: folded", b"\there"),
        (b"X",),
        (b": empty name",),
        (b"",),
        (b"X y: 1",),
        (b"X\xe9: 1",),
        (b"X(y): 1",),
        (b"Connection: content-length", b"Content-Length: 3"),
        (b"Connection: close, Content-Length", b"Content-Length: 3"),
        (b"Host: a.example",),
        (b"Host: b.example",),
        (b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 3"),
    ],
)
def test_smuggling(lines: tuple[bytes, ...]) -> None:
    """400 for whatever another parser might read differently."""
    assert refusal(*with_lines(*lines)) == 400


@pytest.mark.parametrize(
    "value",
    [
        b"identity",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked, identity",
        b"xchunked",
        b"chunkedx",
        b'"chunked"',
        b"chunked;q=1",
        b"",
        b",chunked",
        b"chunked,",
    ],
)
def test_other_codings(value: bytes) -> None:
    """501 for a transfer coding that is not chunked alone."""
    assert refusal(*with_lines(b"Transfer-Encoding: " + value)) == 501


def test_codings_in_http_1_0() -> None:
    """400: HTTP/1.0 has no transfer codings, and who sends one there is confused or lying."""
    assert refusal(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked") == 400


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"\tchunked", b" chunked \t"])
def test_chunked(value: bytes) -> None:
    """Any case, and white space around the value, which every parser drops."""
    head = parse(*with_lines(b"Transfer-Encoding:" + value))
    assert head.length == -1
    assert head.fields == []


def test_too_many_headers() -> None:
    """431 for one line more than the limit, which counts the hop-by-hop ones."""
    lines = [b"X-%d: 1" % number for number in range(9)]
    assert refusal(b"GET / HTTP/1.1", HOST, *lines, most=10) == 0
    assert refusal(b"GET / HTTP/1.1", HOST, *lines, b"Keep-Alive: 1", most=10) == 431


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a b",
        b"user@a.example",
        b"a.example/path",
        b"a.example:port",
        b"a.example:123456",
        b"a.example, b.example",
        b"a,b:1:2",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[g::1]",
        b"caf\xc3\xa9.example",
        b"a\\b",
        b'a"b',
        b"<script>",
        b"a" * (AUTHORITY + 1),
    ],
)
def test_bad_hosts(host: bytes) -> None:
    """400 for a Host that is no authority, also when an absolute target overrides it."""
    assert refusal(b"GET / HTTP/1.1", b"Host: " + host) == 400
    assert refusal(b"GET http://a.example/ HTTP/1.1", b"Host: " + host) == 400
    assert not valid_authority(host)


@pytest.mark.parametrize(
    "host",
    [b"a.example", b"A.Example:80", b"127.0.0.1", b"[::1]:80", b"[fe80::1%25eth0]", b"a:", b"x_y"],
)
def test_good_hosts(host: bytes) -> None:
    """Names, addresses and ports of RFC 3986, asked once or again."""
    assert parse(b"GET / HTTP/1.1", b"Host: " + host).authority == host
    assert valid_authority(host)


def test_a_missing_host() -> None:
    """400 in HTTP/1.1, whatever the target; HTTP/1.0 needs none."""
    assert refusal(b"GET / HTTP/1.1") == 400
    assert refusal(b"GET http://a.example/ HTTP/1.1") == 400
    assert parse(b"GET / HTTP/1.0").authority == b""
    assert parse(b"GET http://a.example/ HTTP/1.0").authority == b"a.example"


@pytest.mark.parametrize(
    ("line", "authority", "target"),
    [
        (b"GET http://b.example/x?y HTTP/1.1", b"b.example", b"/x?y"),
        (b"GET HTTP://b.example:81 HTTP/1.1", b"b.example:81", b"/"),
        (b"GET https://b.example?y HTTP/1.1", b"b.example", b"/?y"),
        (b"OPTIONS http://b.example HTTP/1.1", b"b.example", b"*"),
        (b"OPTIONS * HTTP/1.1", b"a.example", b"*"),
        (b"GET //x HTTP/1.1", b"a.example", b"//x"),
        (b"GET /http://x/ HTTP/1.1", b"a.example", b"/http://x/"),
        (b"GET /a%20b;c=1?d=%23&e HTTP/1.1", b"a.example", b"/a%20b;c=1?d=%23&e"),
    ],
)
def test_forms_of_targets(line: bytes, authority: bytes, target: bytes) -> None:
    """The absolute form's host wins over the field; paths are not touched."""
    head = parse(line, HOST)
    assert (head.authority, head.target) == (authority, target)


def test_connect_has_no_route() -> None:
    """404 for a tunnel to anywhere: Envoy's answer without a CONNECT route."""
    assert refusal(b"CONNECT a.example:443 HTTP/1.1", HOST) == 404


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method(method: bytes) -> None:
    """Every registered method is served."""
    assert parse(method + b" / HTTP/1.1", HOST).method == method


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"Close", False),
        (b"1.1", b"x, CLOSE ,y", False),
        (b"1.1", b"close, keep-alive", False),
        (b"1.1", b"keep-alive", True),
        (b"1.0", None, False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"x, Keep-Alive", True),
        (b"1.0", b"close", False),
    ],
)
def test_keep_alive(version: bytes, connection: bytes | None, keep: bool) -> None:
    """The defaults of both versions, and what Connection says of them."""
    lines = [] if connection is None else [b"Connection: " + connection]
    assert parse(b"GET / HTTP/" + version, HOST, *lines).keep_alive is keep


def test_hop_by_hop_fields_are_taken_out() -> None:
    """Those of RFC 9110, and those that Connection names; Host and framing are never hidden."""
    head = parse(
        b"GET / HTTP/1.1",
        HOST,
        b"X-A: 1",
        b"X-B: 2",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Upgrade: websocket",
        b"TE: gzip",
        b"Connection: x-a, Host, Transfer-Encoding",
        b"Connection: X-C",
        b"X-C: 3",
        b"X-D: 4",
    )
    assert [field[0] for field in head.fields] == [b"x-b", b"x-d"]
    assert head.authority == b"a.example"
    assert head.upgrade == b""


def test_te_trailers_stays() -> None:
    """``te: trailers`` is the one value that a proxy may pass on."""
    head = parse(b"GET / HTTP/1.1", HOST, b"TE: Trailers", b"Connection: TE")
    assert [field[:2] for field in head.fields] == [(b"te", b"Trailers")]


def test_fields_keep_their_order_and_their_duplicates() -> None:
    """Names in lower case, values trimmed, lines ready to be sent."""
    head = parse(b"GET / HTTP/1.1", b"B:  2\t", HOST, b"a: 1", b"b: caf\xe9", b"C:")
    assert [field[:3] for field in head.fields] == [
        (b"b", b"2", b"b: 2\r\n"),
        (b"a", b"1", b"a: 1\r\n"),
        (b"b", b"caf\xe9", b"b: caf\xe9\r\n"),
        (b"c", b"", b"c: \r\n"),
    ]


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((b"Connection: Upgrade", b"Upgrade: WebSocket"), b"websocket"),
        ((b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"), b"websocket"),
        ((b"Upgrade: websocket",), b""),
        ((b"Connection: Upgrade",), b""),
        ((b"Connection: Upgrade", b"Upgrade: h2c"), b""),
        ((b"Connection: Upgrade", b"Upgrade: a", b"Upgrade: b"), b"a,b"),
    ],
)
def test_upgrades(lines: tuple[bytes, ...], upgrade: bytes) -> None:
    """An upgrade needs both fields; h2c is ignored; HTTP/1.0 knows none."""
    assert parse(b"GET / HTTP/1.1", HOST, *lines).upgrade == upgrade
    assert parse(b"GET / HTTP/1.0", HOST, *lines).upgrade == b""


def test_expectations() -> None:
    """100-continue is noted (not of HTTP/1.0) and taken out; others are 417."""
    head = parse(*with_lines(b"Expect: 100-Continue", b"Content-Length: 3"))
    assert head.expect_continue
    assert [field[0] for field in head.fields] == [b"content-length"]
    assert not parse(b"POST / HTTP/1.0", b"Expect: 100-continue").expect_continue
    assert refusal(*with_lines(b"Expect: miracles")) == 417


def test_empty_lines_are_found_in_linear_time() -> None:
    """However many there are; a bare CR or LF is none."""
    for data, end in ((b"", 0), (b"GET", 0), (b"\r\nGET", 2), (b"\nGET", 0), (b"\r\n\r", 2)):
        match = EMPTY_LINES(data)
        assert match is not None
        assert match.end() == end
    match = EMPTY_LINES(b"\r\n" * 500_000)
    assert match is not None
    assert match.end() == 1_000_000


# Differential tests

tokens = st.text("!#$%&'*+-.^_`|~abcXYZ019", min_size=1, max_size=8).map(str.encode)
values = st.binary(max_size=12)
interesting = st.sampled_from(
    [
        HOST,
        b"Host: b.example:81",
        b"Content-Length: 5",
        b"Content-Length: 05",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Connection: close",
        b"Connection: upgrade, x-y",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"TE: trailers",
        b" folded",
        b"X : y",
        b"X-Y: \x00",
    ]
)
lines = st.one_of(interesting, st.builds(lambda n, v: n + b": " + v, tokens, values), values)
targets = st.one_of(
    st.sampled_from([b"/", b"*", b"http://b.example/x", b"b.example:80", b"/a b", b"/#", b"/\xe9"]),
    st.binary(max_size=8).map(lambda rest: b"/" + rest),
)
first_lines = st.one_of(
    st.builds(
        lambda method, target, version: b" ".join((method, target, version)),
        st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT", b"get", b"G\x00T"]),
        targets,
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"]),
    ),
    st.binary(max_size=20),
)
heads = st.builds(
    lambda first, rest: b"\r\n".join([first, *rest]),
    first_lines,
    st.lists(lines, max_size=6).map(lambda found: [HOST, *found]) | st.lists(lines, max_size=6),
)

#: What a proxy takes out or moves.
TAKEN = {b"host", b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"expect", b"te"}


@settings(deadline=None, max_examples=400)
@given(heads)
@example(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: x-y\r\nx-y: 1")
@example(b"GET http://b.example/x HTTP/1.1\r\nHost: a.example")
def test_what_is_accepted_h11_reads_alike(block: bytes) -> None:
    """Whatever this parser accepts, h11 accepts, with the same method, target and fields."""
    if b"\r\n\r\n" in block or block.startswith(b"\r\n") or block.endswith(b"\r\n"):
        return  # another head, as far as the connection is concerned
    try:
        head = parse_request(block, 100)
    except Refused:
        return
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(block + b"\r\n\r\n")
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == head.method
    assert event.http_version == (b"1.0" if head.old else b"1.1")
    target = head.target
    if event.target[:1] not in (b"/", b"*"):
        assert event.target.lower().startswith((b"http://", b"https://"))
        assert head.authority in event.target
        assert target in (b"*", b"/", b"/" + target[1:])
        assert event.target.endswith(target[1:])
    else:
        assert event.target == target
    theirs = list(event.headers)
    named = {
        token.strip().lower()
        for name, value in theirs
        if name == b"connection"
        for token in value.split(b",")
    }
    length = [int(value) for name, value in theirs if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in theirs)
    assert head.length == (-1 if chunked else length[0] if length else 0)
    gone = TAKEN | named | {b"transfer-encoding"}
    mine = [(name, value) for name, value, _, _ in head.fields if name != b"te"]
    assert mine == [(name, value) for name, value in theirs if name not in gone]


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=200) | heads, st.integers(1, 10))
def test_no_bytes_raise_anything_but_refused(block: bytes, most: int) -> None:
    """Arbitrary bytes, and nearly good heads, are accepted or refused."""
    memo = Memo()
    for _ in range(3):
        try:
            parse_request(block, most, memo)
        except Refused:
            continue

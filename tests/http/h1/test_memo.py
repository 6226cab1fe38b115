"""The memo changes how much is parsed, never what comes out of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.http.h1.memo import BYTES, PATIENCE, Memo
from meshproxy.http.h1.request import Refused, RequestHead, parse_request
from meshproxy.http.h1.response import ResponseHead, parse_response

_LINES = [
    b"Host: a.example",
    b"Host: b.example",
    b"User-Agent: probe/1",
    b"Accept: */*",
    b"Connection: keep-alive",
    b"Connection: close, x-one",
    b"Keep-Alive: timeout=5",
    b"X-One: 1",
    b"X-Forwarded-For: 192.0.2.1",
    b"Content-Length: 3",
    b"Content-Length: 4",
    b"Transfer-Encoding: chunked",
    b"TE: trailers",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Bad Name: 1",
]
_HEAD = st.lists(st.sampled_from(_LINES), min_size=1, max_size=8)
# Heads in a row that share a beginning, as those of one client do.
_HEADS = st.builds(
    lambda begin, ends: [begin + end for end in ends],
    _HEAD,
    st.lists(_HEAD, min_size=2, max_size=8),
)


def _said(head: RequestHead | ResponseHead) -> list[object]:
    return [getattr(head, name) for name in head.__slots__]


def _request(lines: list[bytes], memo: Memo | None) -> list[object] | str:
    try:
        return _said(parse_request(b"\r\n".join([b"GET / HTTP/1.1", *lines]), 8, memo))
    except Refused as refused:
        return refused.reply.details.decode()


def _response(lines: list[bytes], memo: Memo | None) -> list[object] | str:
    try:
        return _said(parse_response(b"\r\n".join([b"HTTP/1.1 200 OK", *lines]), b"GET", 8, memo))
    except ValueError:
        return "refused"


@given(_HEADS)
def test_requests_mean_the_same_with_a_memo(heads: list[list[bytes]]) -> None:
    """Whatever was sent before on the connection, a head is read as if it were the first."""
    memo = Memo()
    for lines in heads:
        assert _request(lines, memo) == _request(lines, None)


@given(_HEADS)
def test_responses_mean_the_same_with_a_memo(heads: list[list[bytes]]) -> None:
    """The same for what an upstream sends."""
    memo = Memo()
    for lines in heads:
        assert _response(lines, memo) == _response(lines, None)


def _lines(count: int, last: bytes) -> list[bytes]:
    return [b"Host: a", *[b"X-%d: 1" % number for number in range(count)], last]


def test_two_heads_teach_it() -> None:
    """After two heads with the same beginning, that beginning is known, and no more than it."""
    memo = Memo()
    memo.learn(_lines(3, b"X-Id: 1"))
    assert memo.raw == b""
    memo.learn(_lines(3, b"X-Id: 2"))
    assert memo.raw == b"Host: a\r\nX-0: 1\r\nX-1: 1\r\nX-2: 1\r\n"
    assert memo.count == 4
    assert memo.host == b"a"


def test_it_ends_before_the_length() -> None:
    """A line about the body is never part of what is known."""
    memo = Memo()
    for _ in range(2):
        memo.learn([*_lines(3, b"Content-Length: 1"), b"X-Last: 1"])
    assert memo.raw.endswith(b"X-2: 1\r\n")


def test_a_difference_makes_it_forget() -> None:
    """A head that begins otherwise is parsed whole, and the next two teach anew."""
    memo = Memo()
    for _ in range(2):
        memo.learn(_lines(3, b"X-Id: 1"))
    memo.learn([b"X-B: b", *_lines(3, b"X-Id: 1")])
    assert memo.raw == b""
    memo.learn([b"X-B: b", *_lines(3, b"X-Id: 1")])
    assert memo.raw.startswith(b"X-B: b\r\n")


def test_it_gives_up_for_a_while() -> None:
    """Where heads have nothing in common it does not keep on comparing them."""
    memo = Memo()
    for number in range(2):
        memo.learn([b"X-Id: %d" % number, *_lines(3, b"X-Last: 1")])
    for _ in range(PATIENCE):
        memo.learn(_lines(3, b"X-Last: 1"))
        assert memo.raw == b""
    for _ in range(2):
        memo.learn(_lines(3, b"X-Last: 1"))
    assert memo.raw


def test_it_is_bounded() -> None:
    """However long the heads, at most BYTES of them are kept."""
    memo = Memo()
    for _ in range(2):
        memo.learn(_lines(500, b"X-Id: 1"))
    assert 0 < len(memo.raw) <= BYTES

"""The filter ``decompress``: what it decodes, what it says of it, and what it refuses."""

from __future__ import annotations

import gzip
import random
import zlib
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from pydantic import ValidationError

from meshproxy.api import Response
from meshproxy.filters.decompress import Decompress
from meshproxy.interfaces import IRequestBodyFilter, IResponseBodyFilter
from meshproxy.testing import Kit, drive

TEXT = b"a line of text that comes again and again\n" * 100
STREAMS = {
    b"gzip": gzip.compress(TEXT),
    b"x-gzip": gzip.compress(TEXT),
    b"deflate": zlib.compress(TEXT),
    b"br": brotli.compress(TEXT),
    b"zstd": zstandard.ZstdCompressor().compress(TEXT),
    b"deflate, gzip": gzip.compress(zlib.compress(TEXT)),
    b"identity, GZIP": gzip.compress(TEXT),
}


def decompress(**options: Any) -> Decompress:
    """The filter with these options."""
    return Decompress(Decompress.Options(**options))


def upload(coding: bytes, body: bytes | None, held: Decompress | None = None, **more: Any) -> Any:
    """A POST of this coding."""
    headers = {b"content-encoding": coding, **more.pop("headers", {})}
    return drive(held or decompress(), method=b"POST", headers=headers, body=body, **more)


def page(body: bytes, coding: bytes = b"gzip", status: int = 200, **headers: str) -> Response:
    """A response of this coding; keywords are its headers."""
    pairs = [(name.replace("_", "-").encode(), held.encode()) for name, held in headers.items()]
    return Response(status, body, [(b"content-encoding", coding), *pairs])


# Requests.


@pytest.mark.parametrize("coding", STREAMS)
def test_a_request_is_decompressed(coding: bytes) -> None:
    """The endpoint gets the plain body, its length, and no word of a coding."""
    digests = {b"content-md5": b"x", b"content-digest": b"x", b"repr-digest": b"x", b"digest": b"x"}
    d = upload(coding, STREAMS[coding], headers=digests)
    assert d.status == 200
    sent = d.upstream
    assert sent.body == TEXT
    assert sent.headers.get(b"content-length") == str(len(TEXT)).encode()
    assert [name for name in (b"content-encoding", *digests) if name in sent.headers] == []
    assert d.counters == {
        "bodies{of=request}": 1,
        "bytes_in": len(STREAMS[coding]),
        "bytes_out": len(TEXT),
    }


def test_a_request_in_pieces() -> None:
    """What is decoded goes on when it comes, and the end is the end."""
    d = upload(b"gzip", None)
    stream = STREAMS[b"gzip"]
    for at in range(0, len(stream), 7):
        d.send(stream[at : at + 7])
    assert d.upstream.body == TEXT
    assert not d.upstream.complete
    d.end()
    assert d.upstream.complete
    assert d.upstream.body == TEXT
    assert d.status == 200


@pytest.mark.parametrize("coding", [b"", b"identity", b" ,identity"])
def test_a_plain_request_is_left_alone(coding: bytes) -> None:
    """Its length stays announced, and no body method is called."""
    d = upload(coding, b"plain")
    assert d.upstream.body == b"plain"
    assert d.upstream.headers.get(b"content-encoding") == coding.strip()
    assert d.upstream.headers.get(b"content-length") == b"5"
    assert d.counters == {}


def test_a_request_without_a_body() -> None:
    """There is nothing to decode, whatever its headers say."""
    d = drive(decompress(), headers={b"content-encoding": b"br"})
    assert d.status == 200
    assert d.upstream is not None
    d = drive(
        decompress(requests=False),
        method=b"POST",
        body=b"x",
        headers={b"content-encoding": b"gzip"},
    )
    assert d.upstream is not None
    assert d.upstream.body == b"x"


@pytest.mark.parametrize(
    "coding", [b"compress", b"gzip, nonsense", b"gzip,gzip,gzip,gzip", b"aes128gcm"]
)
def test_an_unknown_coding(coding: bytes) -> None:
    """415 with what is taken (RFC 9110, 15.5.16); the endpoint is not asked."""
    d = upload(coding, b"x")
    assert (d.status, d.details) == (415, b"unsupported_coding")
    assert d.headers.get(b"accept-encoding") == b"zstd, br, gzip, deflate"
    assert d.upstream is None
    assert d.counters["refused{reason=coding}"] == 1


def test_a_coding_that_is_not_taken() -> None:
    """The option decides what is."""
    d = upload(b"br", STREAMS[b"br"], decompress(codings=["gzip"]))
    assert d.status == 415
    assert d.headers.get(b"accept-encoding") == b"gzip"


@pytest.mark.parametrize(
    "body", [b"not gzip at all", STREAMS[b"gzip"][:-1], STREAMS[b"gzip"] + b"more"]
)
def test_a_broken_request(body: bytes) -> None:
    """400: no stream, a cut one, one with something behind it."""
    d = upload(b"gzip", body)
    assert (d.status, d.details) == (400, b"broken_coding")
    assert d.upstream is None
    assert d.counters["refused{reason=broken}"] == 1
    assert "active" not in d.counters


def test_a_request_that_breaks_on_the_way() -> None:
    """The endpoint's request is given up, and the client told."""
    d = upload(b"gzip", None)
    d.send(STREAMS[b"gzip"][:-8])
    assert d.upstream is not None
    d.send(bytes(8))  # a checksum that is wrong
    assert d.status == 400
    assert d.stream is not None
    assert d.stream.cancelled
    assert not d.upstream.complete
    assert not any(name.startswith("errors") for name in d.counters)


@pytest.mark.parametrize("options", [{"max_bytes": 1 << 20, "max_ratio": 0}, {"max_bytes": 0}, {}])
def test_a_bomb(options: dict[str, Any]) -> None:
    """413, by size or by ratio; without limits it goes on."""
    bomb = gzip.compress(bytes(8 << 20))
    d = upload(b"gzip", bomb, decompress(**options))
    assert (d.status, d.details) == (413, b"decompressed_too_large")
    assert d.counters["refused{reason=too_large}"] == 1
    d = upload(b"gzip", bomb, decompress(max_bytes=0, max_ratio=0))
    assert d.status == 200
    assert len(d.upstream.body) == 8 << 20


def test_a_large_piece_is_decoded_in_turns() -> None:
    """A megabyte at once leaves the reactor to others in between; what is wrong is found."""
    data = random.Random(1).randbytes(1 << 20)
    for body, status in ((gzip.compress(data), 200), (gzip.compress(data)[:-1], 400)):
        kit = Kit()
        headers = {b"content-encoding": b"gzip"}
        d = kit.drive(decompress(), method=b"POST", headers=headers, body=body)
        assert (d.status, d.over) == (0, False)
        kit.advance(0.5)
        assert d.status == status
        assert "active" not in kit.counters
        assert (d.upstream is not None and d.upstream.body == data) is (status == 200)


def test_a_client_that_leaves_while_it_is_decoded() -> None:
    """Nothing stays behind, and no error is counted."""
    kit = Kit()
    body = gzip.compress(random.Random(1).randbytes(1 << 20))
    headers = {b"content-encoding": b"gzip"}
    d = kit.drive(decompress(), method=b"POST", headers=headers, body=body)
    d.disconnect()
    kit.advance(0.5)
    assert d.upstream is None
    assert "active" not in kit.counters
    assert not any(name.startswith("errors") for name in kit.counters)


def test_no_more_at_once_than_told() -> None:
    """503 above the number; an end, or a client's leaving, makes room."""
    kit = Kit()
    held = decompress(at_once=1)
    asks: dict[str, Any] = {"method": b"POST", "headers": {b"content-encoding": b"gzip"}}
    first = kit.drive(held, body=None, **asks)
    assert kit.counters["active"] == 1
    second = kit.drive(held, body=STREAMS[b"gzip"], **asks)
    assert (second.status, second.details) == (503, b"decompress_busy")
    assert kit.drive(held, body=b"plain", method=b"POST").status == 200
    first.disconnect()
    assert "active" not in kit.counters
    assert kit.drive(held, body=STREAMS[b"gzip"], **asks).status == 200
    assert "active" not in kit.counters


def test_an_answer_before_the_end_leaves_nothing() -> None:
    """The endpoint answers, and the client goes: what was being decoded is forgotten."""
    d = upload(b"gzip", None, response=None)
    d.send(STREAMS[b"gzip"][:40])
    d.answer(200, {}, b"enough")
    d.disconnect()
    assert "active" not in d.counters


def test_a_side_that_is_not_asked_for_costs_nothing() -> None:
    """The chain calls no method for it."""
    sides = [
        (IRequestBodyFilter.providedBy(held), IResponseBodyFilter.providedBy(held))
        for held in (decompress(), decompress(requests=False, responses=True))
    ]
    assert sides == [(True, False), (False, True)]


# Responses.


def test_a_response_is_left_alone_unless_told() -> None:
    """By default only requests are."""
    d = drive(decompress(), response=page(STREAMS[b"gzip"]))
    assert d.body == STREAMS[b"gzip"]
    assert d.headers.get(b"content-encoding") == b"gzip"
    assert d.headers.get(b"content-length") == str(len(d.body)).encode()


@pytest.mark.parametrize("coding", STREAMS)
def test_a_response_is_decompressed(coding: bytes) -> None:
    """The client gets it plain, without what was true of the compressed one."""
    response = page(
        STREAMS[coding], coding, etag='"1"', accept_ranges="bytes", digest="x", vary="origin"
    )
    d = drive(decompress(responses=True), response=response)
    assert d.body == TEXT
    assert d.headers.get(b"content-length") == str(len(TEXT)).encode()
    assert d.headers.get(b"etag") == b'W/"1"'
    assert d.headers.get(b"vary") == b"origin"
    gone = (b"content-encoding", b"accept-ranges", b"digest")
    assert [name for name in gone if name in d.headers] == []


@pytest.mark.parametrize(
    "response",
    [
        page(STREAMS[b"gzip"], b"nonsense"),
        page(STREAMS[b"gzip"], b"gzip", cache_control="No-Transform"),
        page(b"part", b"gzip", 206, content_range="bytes 0-3/100"),
        page(b"", b"gzip"),
        Response(304, b"", {b"content-encoding": b"gzip", b"etag": b'"1"'}),
        Response(200, b"plain", {b"etag": b'"1"'}),
    ],
    ids=lambda held: f"{held.status}{list(held.headers)}",
)
def test_a_response_that_stays(response: Response) -> None:
    """It leaves as it came."""
    d = drive(decompress(responses=True), response=response)
    assert d.body == response.body
    assert [pair for pair in response.headers if pair not in list(d.headers)] == []
    assert d.counters == {}


def test_head_says_what_get_would() -> None:
    """The head of the plain body, without a length."""
    d = drive(decompress(responses=True), method=b"HEAD", response=page(STREAMS[b"gzip"]))
    assert b"content-encoding" not in d.headers
    assert b"content-length" not in d.headers
    assert (d.status, d.body, d.finished) == (200, b"", True)
    assert d.counters == {}


def test_a_broken_response_that_has_not_begun() -> None:
    """502, since nothing was sent."""
    d = drive(decompress(responses=True), response=page(b"nonsense"))
    assert (d.status, d.details) == (502, b"upstream_broken")
    assert b"content-encoding" not in d.headers
    assert d.counters["refused{reason=broken}"] == 1
    assert "active" not in d.counters


def test_a_broken_response_that_has_begun() -> None:
    """The connection is cut: nobody takes what came for the whole."""
    d = drive(decompress(responses=True), response=None)
    d.answer(200, {b"content-encoding": b"gzip"}, STREAMS[b"gzip"][:-1], end=False)
    assert (d.status, d.body) == (200, TEXT)
    d.answer_end()
    assert d.aborted
    assert d.details == b"filter_error[decompress]"
    assert d.counters["refused{reason=broken}"] == 1


def test_a_response_that_becomes_too_large() -> None:
    """As a broken one."""
    bomb = gzip.compress(bytes(8 << 20))
    d = drive(decompress(responses=True), response=page(bomb))
    assert (d.status, d.details) == (502, b"upstream_too_large")


def test_responses_above_the_number_stay() -> None:
    """Nothing fails for want of room: they go as they came."""
    kit = Kit()
    held = decompress(responses=True, at_once=1)
    first = kit.drive(held, response=None)
    first.answer(200, {b"content-encoding": b"gzip"}, STREAMS[b"gzip"][:60], end=False)
    second = kit.drive(held, response=page(STREAMS[b"gzip"]))
    assert second.body == STREAMS[b"gzip"]
    assert second.headers.get(b"content-encoding") == b"gzip"
    assert kit.counters["refused{reason=busy}"] == 1


@pytest.mark.parametrize("options", [{"codings": []}, {"codings": ["x"]}, {"max_ratio": -1}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    """They are refused."""
    with pytest.raises(ValidationError):
        Decompress.Options(**options)

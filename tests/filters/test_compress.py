"""The filter ``compress``: which responses it compresses, what it says of them, and when."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from pydantic import ValidationError

from meshproxy.api import Response
from meshproxy.filters.compress import Compress, _remember
from meshproxy.testing import Driven, Kit, drive

TEXT = b"a line of text that comes again and again\n" * 100
ASKS = {b"accept-encoding": b"gzip"}


def compress(**options: Any) -> Compress:
    """The filter with these options."""
    return Compress(Compress.Options(**options))


def page(body: bytes = TEXT, status: int = 200, **headers: str) -> Response:
    """A response that is compressed for whoever asks; keywords are its headers."""
    fields = {"content_type": "text/plain", **headers}
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in fields.items()]
    return Response(status, body, pairs)


def unzstd(stream: bytes) -> bytes:
    """The frame's content."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(stream)


@pytest.mark.parametrize(
    ("accepted", "coding", "decode"),
    [
        (b"gzip, deflate", b"gzip", gzip.decompress),
        (b"gzip, deflate, br", b"br", brotli.decompress),
        (b"gzip, deflate, br, zstd", b"zstd", unzstd),
    ],
)
def test_a_response_is_compressed(accepted: bytes, coding: bytes, decode: Any) -> None:
    """In the coding that the client takes, of the right length, and counted."""
    d = drive(compress(), headers={b"accept-encoding": accepted}, response=page(etag='"1"'))
    assert d.headers.get(b"content-encoding") == coding
    assert decode(d.body) == TEXT
    assert len(d.body) < len(TEXT) / 10
    assert d.headers.get(b"vary") == b"accept-encoding"
    assert d.headers.get(b"etag") == b'W/"1"'
    assert d.headers.get(b"content-length") == str(len(d.body)).encode()
    assert d.counters == {
        f"responses{{coding={coding.decode()}}}": 1,
        "bytes_in": len(TEXT),
        "bytes_out": len(d.body),
    }
    assert d.finished


def test_the_upstream_is_asked_as_the_client_asked() -> None:
    """The request is left alone."""
    d = drive(compress(), headers=ASKS, response=page())
    assert d.upstream is not None
    assert d.upstream.headers.get(b"accept-encoding") == b"gzip"


def test_the_order_of_the_codings() -> None:
    """The option decides where the client does not, and what is not in it is not used."""
    everything = {b"accept-encoding": b"gzip, br, zstd"}
    d = drive(compress(codings=["gzip", "br"]), headers=everything, response=page())
    assert d.headers.get(b"content-encoding") == b"gzip"
    only = {b"accept-encoding": b"zstd"}
    d = drive(compress(codings=["gzip"]), headers=only, response=page())
    assert b"content-encoding" not in d.headers


def test_several_fields_of_accept_encoding() -> None:
    """They are one list."""
    pairs = [(b"accept-encoding", b"deflate"), (b"accept-encoding", b"br")]
    d = drive(compress(), headers=pairs, response=page())
    assert d.headers.get(b"content-encoding") == b"br"


def test_a_client_that_does_not_ask() -> None:
    """It gets the response as it is, which says that others would not."""
    d = drive(compress(), response=page(etag='"1"', accept_ranges="bytes"))
    assert d.body == TEXT
    assert d.headers.get(b"vary") == b"accept-encoding"
    assert d.headers.get(b"etag") == b'"1"'
    assert d.headers.get(b"accept-ranges") == b"bytes"
    assert d.headers.get(b"content-length") == str(len(TEXT)).encode()
    assert d.counters == {}


UNTOUCHED = [
    page(content_type="image/png"),
    page(content_type="application/grpc"),
    page(content_type="application/grpc-web+json"),
    page(b"x" * 1023),
    page(b""),
    page(content_encoding="gzip"),
    page(content_encoding="identity, br"),
    page(cache_control="public, No-Transform"),
    page(status=206, content_range="bytes 0-4199/9000"),
    Response(204, b"", {b"content-type": b"text/plain"}),
    Response(205, b"", {b"content-type": b"text/plain"}),
]


@pytest.mark.parametrize(
    "response", UNTOUCHED, ids=lambda held: f"{held.status}{list(held.headers)[1:]}"
)
def test_what_is_never_compressed(response: Response) -> None:
    """It leaves byte by byte as it came, without a word about it."""
    before = list(response.headers)
    d = drive(
        compress(types=["text/*", "*+json", "application/grpc"]), headers=ASKS, response=response
    )
    assert d.body == response.body
    after = [pair for pair in d.headers if pair[0] not in (b"content-length", b"date", b"server")]
    assert [pair for pair in after if pair in before] == before
    assert b"vary" not in d.headers
    assert d.counters == {}


def test_a_body_of_no_type() -> None:
    """What nobody knows to be text is not compressed."""
    d = drive(compress(), headers=ASKS, response=None)
    d.answer(200, {}, TEXT)
    assert d.body == TEXT
    assert b"vary" not in d.headers


@pytest.mark.parametrize(
    "kind",
    [
        "text/html; charset=utf-8",
        "TEXT/HTML",
        "application/json",
        "application/problem+json",
        "image/svg+xml",
        "application/wasm",
        "text/event-stream",
    ],
)
def test_what_is_compressed_without_being_told(kind: str) -> None:
    """The default types, in any case, with parameters."""
    d = drive(compress(), headers=ASKS, response=page(content_type=kind))
    assert gzip.decompress(d.body) == TEXT


def test_the_types_that_are_told() -> None:
    """They take the place of the defaults."""
    mine = compress(types=["Application/X-Mine"])
    d = drive(mine, headers=ASKS, response=page(content_type="application/x-mine"))
    assert b"content-encoding" in d.headers
    d = drive(mine, headers=ASKS, response=page())
    assert b"content-encoding" not in d.headers


def test_identity_written_out_is_no_coding() -> None:
    """A response of the coding ``identity`` is compressed, and says gzip alone."""
    d = drive(compress(), headers=ASKS, response=page(content_encoding="identity"))
    assert d.headers.get_all(b"content-encoding") == [b"gzip"]


def test_errors_are_compressed_too() -> None:
    """What counts is the body, not the status."""
    d = drive(compress(), headers=ASKS, response=page(status=500))
    assert gzip.decompress(d.body) == TEXT


def test_a_client_that_forbids_it() -> None:
    """``no-transform`` of a request holds for the response (RFC 9111, 5.2.1.6)."""
    d = drive(compress(), headers={**ASKS, b"cache-control": b"no-transform"}, response=page())
    assert d.body == TEXT


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("origin", b"origin, accept-encoding"),
        ("Accept-Encoding", b"Accept-Encoding"),
        ("origin, ACCEPT-encoding", b"origin, ACCEPT-encoding"),
        ("*", b"*"),
    ],
)
def test_vary_grows(before: str, after: bytes) -> None:
    """What is there stays, and nothing is named twice."""
    d = drive(compress(), headers=ASKS, response=page(vary=before))
    assert d.headers.get_all(b"vary") == [after]


def test_validators_and_digests_of_other_bytes() -> None:
    """Digests go, ranges are no longer offered, a weak ETag stays, a strong one can go."""
    response = page(
        etag='W/"1"',
        accept_ranges="bytes",
        content_md5="x",
        digest="x",
        content_digest="x",
        repr_digest="x",
    )
    d = drive(compress(), headers=ASKS, response=response)
    assert d.headers.get(b"etag") == b'W/"1"'
    gone = (b"accept-ranges", b"content-md5", b"digest", b"content-digest", b"repr-digest")
    assert [name for name in gone if name in d.headers] == []
    d = drive(compress(etag="remove"), headers=ASKS, response=page(etag='"1"'))
    assert b"etag" not in d.headers


def test_head_says_what_get_would() -> None:
    """The same head, but for the length, which nobody knows; and no body."""
    d = drive(compress(), method=b"HEAD", headers=ASKS, response=page(etag='"1"'))
    assert d.headers.get(b"content-encoding") == b"gzip"
    assert d.headers.get(b"etag") == b'W/"1"'
    assert d.headers.get(b"vary") == b"accept-encoding"
    assert b"content-length" not in d.headers
    assert d.body == b""
    assert d.finished
    assert d.counters == {}
    plain = drive(compress(), method=b"HEAD", response=page(etag='"1"'))
    assert plain.headers.get(b"content-length") == str(len(TEXT)).encode()


@pytest.mark.parametrize(
    ("asked", "etag"),
    [(b'W/"1"', b'W/"1"'), (b'"0", W/"1"', b'W/"1"'), (b'"1"', b'"1"'), (b'W/"2"', b'"1"')],
)
def test_not_modified_names_what_the_client_has(asked: bytes, etag: bytes) -> None:
    """A 304 to a client that holds the compressed form has that form's ETag."""
    response = Response(304, b"", {b"etag": b'"1"'})
    d = drive(compress(), headers={**ASKS, b"if-none-match": asked}, response=response)
    assert d.headers.get(b"etag") == etag
    assert (b"vary" in d.headers) is (etag[:2] == b"W/")


def test_an_event_stream_is_not_held_up() -> None:
    """Each event can be read by the client when it was sent, and the stream ends well."""
    d = drive(compress(), headers=ASKS, response=None)
    d.answer(200, {b"content-type": b"text/event-stream"}, b"data: 1\n\n", end=False)
    reader = zlib.decompressobj(31)
    assert reader.decompress(d.body) == b"data: 1\n\n"
    for number in range(2, 5):
        sent = len(d.body)
        event = b"data: %d\n\n" % number
        d.answer_data(event)
        assert reader.decompress(d.body[sent:]) == event
    sent = len(d.body)
    d.answer_end()
    assert reader.decompress(d.body[sent:]) == b""
    assert reader.eof
    assert d.headers.get(b"content-encoding") == b"gzip"
    assert "active" not in d.counters


def test_a_body_of_known_length_is_gathered() -> None:
    """It is not cut in pieces by flushing: nothing leaves before there is enough."""
    d = drive(compress(), headers=ASKS, response=None)
    d.answer(200, {b"content-type": b"text/plain"}, TEXT[:2000], end=False, length=len(TEXT))
    assert len(d.body) <= 10  # gzip's own head
    assert d.counters["active"] == 1
    d.answer_end(TEXT[2000:])
    assert gzip.decompress(d.body) == TEXT


def test_an_empty_stream() -> None:
    """A body of unknown length that turns out to be none is still a whole gzip stream."""
    d = drive(compress(), headers=ASKS, response=None)
    d.answer(200, {b"content-type": b"text/plain"}, end=False)
    d.answer_end()
    assert gzip.decompress(d.body) == b""
    assert d.body


def test_a_large_piece_is_encoded_in_turns() -> None:
    """A megabyte at once leaves the reactor to others in between."""
    kit = Kit()
    body = bytes(range(256)) * 4096
    d = kit.drive(compress(), headers=ASKS, response=page(body))
    assert d.body == b""
    kit.advance(0.5)
    assert gzip.decompress(d.body) == body
    assert d.counters["bytes_in"] == len(body)
    assert "active" not in d.counters


def test_a_client_that_leaves_while_it_is_encoded() -> None:
    """Nothing stays behind, and no error is counted."""
    kit = Kit()
    d = kit.drive(compress(), headers=ASKS, response=page(bytes(1 << 20)))
    d.disconnect()
    kit.advance(0.5)
    assert d.body == b""
    assert "active" not in d.counters
    assert not any(name.startswith("errors") for name in d.counters)


def streaming(kit: Kit, held: Compress) -> Driven:
    """A response on its way."""
    d = kit.drive(held, headers=ASKS, response=None)
    d.answer(200, {b"content-type": b"text/plain"}, b"x", end=False)
    return d


def test_no_more_at_once_than_told() -> None:
    """Above the number responses go uncompressed; an end, or a client's leaving, makes room."""
    kit = Kit()
    held = compress(at_once=2)
    first, second, third = (streaming(kit, held) for _ in range(3))
    assert [b"content-encoding" in d.headers for d in (first, second, third)] == [True, True, False]
    assert third.headers.get(b"vary") == b"accept-encoding"
    assert third.body == b"x"
    assert kit.counters["busy"] == 1
    assert kit.counters["active"] == 2
    first.disconnect()
    assert kit.counters["active"] == 1
    fourth = streaming(kit, held)
    assert b"content-encoding" in fourth.headers
    assert kit.counters["active"] == 2


def test_cookies_can_be_a_reason() -> None:
    """With ``skip_cookies`` a request with a cookie gets no compressed response."""
    asks = {**ASKS, b"cookie": b"session=1"}
    assert drive(compress(skip_cookies=True), headers=asks, response=page()).body == TEXT
    assert drive(compress(skip_cookies=True), headers=ASKS, response=page()).body != TEXT
    assert drive(compress(), headers=asks, response=page()).body != TEXT


def test_what_is_remembered_is_bounded() -> None:
    """A client that invents values fills nothing."""
    kit = Kit()
    held = compress()
    for number in range(600):
        odd = b"gzip;q=0.%d" % number
        kit.drive(
            held, headers={b"accept-encoding": odd}, response=page(content_type=f"a/{number}")
        )
    assert len(held._chosen) <= 256
    assert len(held._wanted) <= 256


def test_levels() -> None:
    """A higher level is smaller."""
    data = bytes((n * n * 7 + n // 3) % 251 for n in range(60_000))
    sizes = [
        len(drive(compress(levels={"gzip": n}), headers=ASKS, response=page(data)).body)
        for n in (1, 9)
    ]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"types": ["text"]}, "a media type such as text/html"),
        ({"types": ["*/*"]}, "a media type such as"),
        ({"codings": []}, "at least 1"),
        ({"codings": ["deflate"]}, "zstd"),
        ({"levels": {"gzip": 10}}, "less than or equal to 9"),
        ({"at_once": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    """They are refused, and the message says what is wanted."""
    with pytest.raises(ValidationError, match=text):
        Compress.Options(**options)


def test_long_values_are_not_remembered() -> None:
    """What a client writes into accept-encoding is judged, and takes no memory for good."""
    table: dict[bytes, Any] = {}
    _remember(table, b"gzip," * 1000, None)
    assert not table
    _remember(table, b"gzip", b"gzip")
    assert table

"""Content codings: what is chosen, encoded and decoded, and what is refused."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from itertools import pairwise

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._coding import (
    Broken,
    Decoding,
    TooLarge,
    codings_of,
    encoder_of,
    preferred,
)

ALL = (b"zstd", b"br", b"gzip", b"deflate")
OURS = (b"zstd", b"br", b"gzip")


def encoded(coding: bytes, data: bytes) -> bytes:
    """``data`` as a library other than the filters' own path makes it."""
    if coding == b"gzip":
        return gzip.compress(data)
    if coding == b"deflate":
        return zlib.compress(data)
    if coding == b"br":
        return bytes(brotli.compress(data, quality=5))
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def decoded(stream: bytes, *codings: bytes, limit: int = 0, ratio: int = 0) -> bytes:
    """The whole stream decoded in one piece."""
    return Decoding(codings, limit, ratio).decode(stream, True)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """``data`` in the pieces between these places."""
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip, br", b"br"),
        (b"GZIP", b"gzip"),
        (b"x-gzip", b"gzip"),
        (b"deflate", None),
        (b"", None),
        (b"identity", None),
        (b"*", b"zstd"),
        (b"gzip;q=0.8, br;q=0.5", b"gzip"),
        (b"gzip;q=1.0, *;q=0.1", b"gzip"),
        (b"zstd;q=0, *", b"br"),
        (b"gzip;q=0", None),
        (b"*;q=0", None),
        (b"gzip;q=0.5, identity", None),
        (b"gzip, identity;q=0.5", b"gzip"),
        (b"gzip;q=0.5, identity;q=0.5", b"gzip"),
        (b"identity;q=0, gzip;q=0.1", b"gzip"),
        (b"gzip ; q=0.3 , br ; q=0.2", b"gzip"),
        (b"gzip;q=nonsense", None),
        (b"gzip;q=nan", None),
        (b"gzip;q=2", None),
        (b"gzip;q=-1, br;q=inf", None),
        (b"gzip;x=1", b"gzip"),
        (b",, ,gzip", b"gzip"),
    ],
)
def test_the_coding_that_is_preferred(accepted: bytes, chosen: bytes | None) -> None:
    """Weights decide, then our order; identity counts where it is weighed (RFC 9110, 12.5.3)."""
    assert preferred(accepted, OURS) == chosen


@given(st.binary(max_size=80))
def test_no_accept_encoding_is_too_strange(accepted: bytes) -> None:
    """Whatever a client sends, it is one of ours or none."""
    assert preferred(accepted, OURS) in (None, *OURS)


def test_the_codings_of_a_message() -> None:
    """Several fields, any case, aliases, and identity that is no coding."""
    assert codings_of([b"GZip, br", b"identity", b"x-gzip ,, zstd"]) == [
        b"gzip",
        b"br",
        b"gzip",
        b"zstd",
    ]
    assert codings_of([b" identity "]) == []


@pytest.mark.parametrize("coding", OURS)
@given(data=st.binary(max_size=3000), at=st.lists(st.integers(0, 5000), max_size=4))
def test_what_is_encoded_can_be_decoded(coding: bytes, data: bytes, at: list[int]) -> None:
    """Whatever the pieces, other decoders read it; after a flush, all that went in is out."""
    encoder = encoder_of(coding.decode(), 2)()
    reader = Decoding([coding], 0, 0)
    out = b""
    came = b""
    went = b""
    for piece in cut(data, at):
        made = encoder.encode(piece, True, False)
        out += made
        came += reader.decode(made, False)
        went += piece
        assert came == went
    out += encoder.encode(b"", False, True)
    if coding == b"gzip":
        assert gzip.decompress(out) == data
    elif coding == b"br":
        assert brotli.decompress(out) == data
    else:
        assert zstandard.ZstdDecompressor().decompressobj().decompress(out) == data


@pytest.mark.parametrize("coding", ALL)
@given(
    parts=st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 4000)), max_size=4),
    at=st.lists(st.integers(0, 5000), max_size=4),
)
def test_what_others_encode_is_decoded(
    coding: bytes, parts: list[tuple[bytes, int]], at: list[int]
) -> None:
    """Whatever the data and the pieces in which it comes."""
    data = b"".join(part * times for part, times in parts)
    reader = Decoding([coding], 0, 0)
    pieces = cut(encoded(coding, data), at)
    out = b"".join(reader.decode(piece, False) for piece in pieces)
    assert out + reader.decode(b"", True) == data


@pytest.mark.parametrize("coding", ALL)
def test_a_stream_byte_by_byte(coding: bytes) -> None:
    """No place in a stream is one where it must not be cut."""
    data = bytes(range(256)) * 20
    reader = Decoding([coding], 0, 0)
    out = b"".join(reader.decode(bytes([byte]), False) for byte in encoded(coding, data))
    assert out + reader.decode(b"", True) == data


@pytest.mark.parametrize("coding", ALL)
@given(junk=st.binary(min_size=1, max_size=60), data=st.binary(max_size=60))
def test_what_is_behind_the_end_is_refused(coding: bytes, junk: bytes, data: bytes) -> None:
    """Bytes behind the stream's end that are no stream themselves are not passed over."""
    try:
        out = decoded(encoded(coding, data) + junk, coding)
    except Broken:
        return
    # Two codings may be several streams in a row; then the rest was one.
    assert coding in (b"gzip", b"zstd")
    assert out == data + decoded(junk, coding)


@pytest.mark.parametrize("coding", ALL)
def test_what_ends_too_early_is_refused(coding: bytes) -> None:
    """Every true beginning of a stream is broken, but nothing at all is a body of nothing."""
    whole = encoded(coding, b"a little text, and a little text again")
    for size in range(1, len(whole)):
        with pytest.raises(Broken):
            decoded(whole[:size], coding)
    assert decoded(b"", coding) == b""


@pytest.mark.parametrize("coding", ALL)
@given(junk=st.binary(min_size=1, max_size=200))
def test_nothing_but_broken_comes_of_garbage(coding: bytes, junk: bytes) -> None:
    """Garbage decodes or is refused; no other exception comes out."""
    try:
        decoded(junk, coding, limit=100_000)
    except (Broken, TooLarge):
        pass


@pytest.mark.parametrize("coding", ALL)
def test_a_bomb_is_refused(coding: bytes) -> None:
    """Much output of little input stops at the ratio, and at the size; exactly that is let in."""
    size = 64 << 20
    bomb = encoded(coding, bytes(size))
    with pytest.raises(TooLarge):
        decoded(bomb, coding, ratio=100)
    with pytest.raises(TooLarge):
        decoded(bomb, coding, limit=size - 1)
    assert len(decoded(bomb, coding, limit=size)) == size
    small = encoded(coding, bytes(1 << 20))
    assert len(decoded(small, coding, ratio=1)) == 1 << 20


@pytest.mark.parametrize("coding", ALL)
def test_a_bomb_is_not_unpacked_first(coding: bytes) -> None:
    """What is made before it is refused is the limit and a step (of zstd 16 MiB), not the bomb."""
    bomb = encoded(coding, bytes(100 << 20))
    reader = Decoding([coding], 2 << 20, 0)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            reader.decode(bomb, True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (24 << 20 if coding == b"zstd" else 4 << 20)


def test_several_codings() -> None:
    """They are taken off in the reverse order, and each may grow as far as all may."""
    data = b"hello " * 1000
    both = encoded(b"br", encoded(b"gzip", data))
    assert decoded(both, b"gzip", b"br") == data
    with pytest.raises(Broken):
        decoded(both, b"br", b"gzip")
    inner = encoded(b"gzip", bytes(300 << 20))
    nested = encoded(b"gzip", inner)
    with pytest.raises(TooLarge):
        decoded(nested, b"gzip", b"gzip", ratio=100)


def test_streams_in_a_row() -> None:
    """gzip may be several members (RFC 1952, 2.2), zstd several frames, also skippable ones."""
    assert decoded(gzip.compress(b"one ") + gzip.compress(b"two"), b"gzip") == b"one two"
    frames = [encoded(b"zstd", b"one "), b"\x50\x2a\x4d\x18\x03\0\0\0abc", encoded(b"zstd", b"two")]
    assert decoded(b"".join(frames), b"zstd") == b"one two"
    assert decoded(gzip.compress(b"") * 500, b"gzip") == b""


def test_deflate_without_its_head() -> None:
    """Some senders leave zlib's two bytes out."""
    raw = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = raw.compress(b"some text") + raw.flush()
    assert decoded(stream, b"deflate") == b"some text"
    with pytest.raises(Broken):
        decoded(stream + b"x", b"deflate")


def test_a_checksum_counts() -> None:
    """A changed byte of the data is found where the coding has a checksum."""
    stream = bytearray(gzip.compress(b"some text", mtime=0))
    stream[-8] ^= 1
    with pytest.raises(Broken):
        decoded(bytes(stream), b"gzip")
    frame = bytearray(encoded(b"zstd", b"some text"))
    frame[-1] ^= 1
    with pytest.raises(Broken):
        decoded(bytes(frame), b"zstd")


def test_a_window_that_is_too_large() -> None:
    """A zstd frame that wants more than 8 MiB of memory is refused (RFC 9659)."""
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = wide.compress(b"x" * 100) + wide.flush()
    with pytest.raises(Broken):
        decoded(stream, b"zstd")

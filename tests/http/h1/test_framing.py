"""Lengths and chunks: every split of the bytes gives the same body, or the same refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.http.h1.framing import SIZE_LINE, ChunkedDecoder, parse_length

Outcome = tuple[bytes, bool, bytes, list[tuple[bytes, bytes]] | None] | str


def decode(pieces: list[bytes], limit: int = 61440) -> Outcome:
    """Body, whether it is complete, what follows, trailers; or ``"refused"``."""
    decoder = ChunkedDecoder(limit)
    body = b""
    rest = b""
    try:
        for piece in pieces:
            if decoder.finished:
                rest += piece
            else:
                body += decoder.feed(piece)
    except ValueError:
        return "refused"
    trailers = None if decoder.trailers is None else list(decoder.trailers)
    return body, decoder.finished, decoder.rest + rest, trailers


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` cut at these places (any numbers)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


cuts = st.lists(st.integers(0, 10_000), max_size=12)
extensions = st.sampled_from([b"", b";a", b"; a=b", b' ;a="b c"', b";", b"\t;x"])
chunks = st.lists(st.tuples(st.binary(min_size=1, max_size=300), extensions), max_size=8)
trailers = st.lists(
    st.sampled_from(
        [
            (b"X-Sum", b"1"),
            (b"x-other", b"a b"),
            (b"Content-Length", b"3"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Host", b"b.example"),
            (b"Connection", b"x"),
            (b"Trailer-Empty", b""),
        ]
    ),
    max_size=4,
)
FORBIDDEN = {b"content-length", b"transfer-encoding", b"host", b"connection"}


@settings(deadline=None)
@given(chunks, trailers, st.binary(max_size=20), cuts, st.booleans())
def test_round_trip(
    parts: list[tuple[bytes, bytes]],
    fields: list[tuple[bytes, bytes]],
    after: bytes,
    at: list[int],
    upper: bool,
) -> None:
    """What was encoded comes out, wherever the bytes were split, and what follows is kept."""
    data = b""
    for piece, extension in parts:
        size = b"%X" % len(piece) if upper else b"%x" % len(piece)
        data += size + extension + b"\r\n" + piece + b"\r\n"
    data += b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + after
    kept = [(n.lower(), v) for n, v in fields if n.lower() not in FORBIDDEN]
    body = b"".join(piece for piece, _ in parts)
    assert decode(split(data, at)) == (body, True, after, kept or None)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [b"5", b"0", b"\r\n", b"\r", b"\n", b"hello", b";", b"a", b"-1", b" ", b"A: b", b"\x00"]
        )
        | st.binary(max_size=4),
        max_size=14,
    ).map(b"".join),
    cuts,
)
def test_any_bytes_mean_the_same_in_any_pieces(data: bytes, at: list[int]) -> None:
    """Splitting neither makes a bad body good nor a good one bad; a refusal may come earlier."""
    whole = decode([data])
    pieces = decode(split(data, at))
    if "refused" in (whole, pieces):
        # The same bytes may be refused only when more of them are seen together.
        assert decode([data, b"\r\n\r\n"]) == "refused" or whole == pieces
    else:
        assert whole == pieces


@pytest.mark.parametrize(
    "data",
    [
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\r\n",
        b"\r\n",
        b";a\r\n",
        b"g\r\n",
        b"5_0\r\n",
        b"\xb5\r\n",
        b"5\x00\r\n",
        b"5;a\x00b\r\n",
        b"5;a\rb\r\n",
        b"5;a\nb\r\n",
        b"1" * 16 + b"\r\n",
        b"f" * 100 + b"\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\nX",
        b"5\r\nhello\rX",
        b"5\r\nhello5\r\n",
        b"5;" + b"a" * SIZE_LINE + b"\r\n",
        b"5;" + b"a" * (SIZE_LINE + 10),
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n",
    ],
)
def test_broken_codings(data: bytes) -> None:
    """Sizes that are not hexadecimal digits alone, missing CRLFs, bad extensions and trailers."""
    assert decode([data]) == "refused"
    assert decode([data[i : i + 1] for i in range(len(data))]) == "refused"


def test_the_longest_size_line() -> None:
    """The bound is the same wherever the line is split."""
    line = b"1;" + b"a" * (SIZE_LINE - 2)
    data = line + b"\r\nx\r\n0\r\n\r\n"
    assert decode([data]) == (b"x", True, b"", None)
    for cut in (SIZE_LINE - 1, SIZE_LINE, SIZE_LINE + 1):
        assert decode([data[:cut], data[cut:]]) == (b"x", True, b"", None)


def test_the_largest_trailers() -> None:
    """Bounded by the limit given, wherever they are split; beyond it nothing is kept."""
    data = b"0\r\nA: " + b"b" * 17 + b"\r\n\r\n"
    for cut in range(len(data)):
        assert decode([data[:cut], data[cut:]], 20) == (b"", True, b"", [(b"a", b"b" * 17)])
    assert decode([b"0\r\nA: " + b"b" * 18 + b"\r\n\r\n"], 20) == "refused"
    assert decode([b"0\r\nA: " + b"b" * 50], 20) == "refused"


def test_a_huge_chunk_is_streamed() -> None:
    """A size of 15 digits is accepted, and its payload is handed out as it comes."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"f" * 15 + b"\r\nabc") == b"abc"
    assert decoder.feed(b"def") == b"def"
    assert not decoder.finished


@pytest.mark.parametrize("value", [b"0", b"3", b"007", b"9" * 18])
def test_lengths(value: bytes) -> None:
    """Digits alone."""
    assert parse_length(value) == int(value)


@pytest.mark.parametrize(
    "value", [b"", b"+3", b"-3", b" 3", b"3 ", b"3,3", b"0x3", b"3\n", b"\xb2", b"9" * 19]
)
def test_bad_lengths(value: bytes) -> None:
    """Anything else."""
    with pytest.raises(ValueError, match="content-length"):
        parse_length(value)

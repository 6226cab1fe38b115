"""
Content codings: gzip, deflate, br and zstd, a piece at a time (RFC 9110, 8.4; RFC 1950 to 1952,
RFC 7932, RFC 8878).

The laws it keeps: what was fed with ``flush`` can be decoded by who got what came out; what is
decoded never grows by more than one step beyond what it may; and what is not a whole, well-formed
stream, with nothing behind it, is said to be broken.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

__all__ = [
    "Broken",
    "Decoding",
    "Encoder",
    "TooLarge",
    "codings_of",
    "encoder_of",
    "preferred",
]

#: Bytes of output at a time while decoding.
_STEP = 1 << 16

#: Bytes of zstd input at a time: a block of 4 bytes may be 128 KiB of output, so 16 MiB at most.
_ZSTD_SLICE = 512

#: The largest window that RFC 9659 lets zstd have as a content coding.
_ZSTD_WINDOW = 1 << 23

#: The window of what is encoded here: more of it costs memory and gains nothing at these levels.
_WINDOW_BITS = 18

#: Output below this is never too much for its input: 100 KiB of blanks are a few bytes.
_FLOOR = 1 << 20

_ALIASES = {b"x-gzip": b"gzip"}


class Broken(ValueError):
    """The bytes are no such stream."""


class TooLarge(ValueError):
    """The stream decodes to more than it may."""


# Which coding.


def codings_of(values: Iterable[bytes]) -> list[bytes]:
    """The codings of ``content-encoding`` fields, in the order they were applied, no identity."""
    found = []
    for value in values:
        for word in value.lower().split(b","):
            name = word.strip(b" \t")
            if name and name != b"identity":
                found.append(_ALIASES.get(name, name))
    return found


def preferred(accepted: bytes, ours: Iterable[bytes]) -> bytes | None:
    """
    The coding to use for a client whose ``accept-encoding`` is ``accepted`` (RFC 9110, 12.5.3).

    The one that it weighs highest, among equals the first of ``ours``; None for none: when it
    takes no coding of ours, or would rather have none. A weight that is none counts as 0.
    """
    weights: dict[bytes, float] = {}
    for part in accepted.lower().split(b","):
        name, *parameters = part.split(b";")
        name = name.strip(b" \t")
        if name:
            weights.setdefault(_ALIASES.get(name, name), _weight(parameters))
    others = weights.get(b"*", 0.0)
    best, chosen = weights.get(b"identity", 0.0), None
    for coding in ours:
        weight = weights.get(coding, others)
        if weight > best or (weight == best and weight and chosen is None):
            best, chosen = weight, coding
    return chosen


def _weight(parameters: list[bytes]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip(b" \t") == b"q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0.0 <= weight <= 1.0 else 0.0
    return 1.0


# Encoding.


class Encoder(Protocol):
    """A stream being encoded."""

    def encode(self, data: bytes, flush: bool, end: bool) -> bytes:
        """
        What is to be sent for ``data``. With ``flush`` all of it can be decoded by then; ``end``:
        these are the last bytes.
        """


class _GzipEncoder:
    __slots__ = ("_stream",)

    def __init__(self, level: int) -> None:
        self._stream = zlib.compressobj(level, zlib.DEFLATED, 31)

    def encode(self, data: bytes, flush: bool, end: bool) -> bytes:
        out = self._stream.compress(data)
        if end:
            return out + self._stream.flush()
        if flush and data:
            return out + self._stream.flush(zlib.Z_SYNC_FLUSH)
        return out


class _BrotliEncoder:
    __slots__ = ("_stream",)

    def __init__(self, level: int) -> None:
        self._stream = brotli.Compressor(quality=level, lgwin=_WINDOW_BITS)

    def encode(self, data: bytes, flush: bool, end: bool) -> bytes:
        out: bytes = self._stream.process(data)
        if end:
            out += self._stream.finish()
        elif flush and data:
            out += self._stream.flush()
        return out


class _ZstdEncoder:
    __slots__ = ("_stream",)

    def __init__(self, parameters: zstandard.ZstdCompressionParameters) -> None:
        self._stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def encode(self, data: bytes, flush: bool, end: bool) -> bytes:
        out = self._stream.compress(data)
        if end:
            return out + self._stream.flush()
        if flush and data:
            return out + self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        return out


def encoder_of(coding: str, level: int) -> Callable[[], Encoder]:
    """What makes an encoder of gzip (levels 1 to 9), br (0 to 11) or zstd (1 to 19)."""
    if coding == "gzip":
        return lambda: _GzipEncoder(level)
    if coding == "br":
        return lambda: _BrotliEncoder(level)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=_WINDOW_BITS, write_content_size=False
    )
    return lambda: _ZstdEncoder(parameters)


# Decoding.


class _Layer(Protocol):
    """
    One coding of a stream: ``done`` when it could end here, ``produced`` bytes so far.

    ``decode`` returns the output for the input; it raises :class:`Broken`, and
    :class:`TooLarge` for more than ``room`` bytes.
    """

    done: bool
    produced: int

    def decode(self, data: bytes, room: int) -> bytes: ...


class _Inflated:
    """gzip, of any number of members, and deflate."""

    __slots__ = ("_bits", "_head", "_stream", "done", "produced")

    def __init__(self, gzip: bool) -> None:
        self.done = False
        self.produced = 0
        self._bits = 31 if gzip else 0
        self._head = b""
        self._stream: Any = None

    def _begin(self, data: bytes) -> None:
        bits = self._bits
        if not bits:
            # Deflate is a zlib stream; some send it without zlib's two bytes around it.
            zlib_head = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            bits = 15 if zlib_head else -15
        self._stream = zlib.decompressobj(bits)

    def decode(self, data: bytes, room: int) -> bytes:
        pieces = []
        try:
            while data:
                if self._stream is None:
                    if self.done and not self._bits:
                        raise Broken("there are bytes behind its end")
                    data = self._head + data
                    if len(data) < 2:
                        self._head, self.done = data, False
                        break
                    self._head = b""
                    self._begin(data)
                    self.done = False
                stream = self._stream
                more = True
                while more:
                    piece = stream.decompress(data, _STEP)
                    room -= len(piece)
                    if room < 0:
                        raise TooLarge
                    pieces.append(piece)
                    data = stream.unconsumed_tail
                    # A full step may leave output inside, with all of the input consumed.
                    more = not stream.eof and (bool(data) or len(piece) == _STEP)
                if stream.eof:
                    data = stream.unused_data
                    self._stream, self.done = None, True
        except zlib.error as error:
            raise Broken(str(error)) from None
        return b"".join(pieces)


class _Brotli:
    __slots__ = ("_stream", "done", "produced")

    def __init__(self) -> None:
        self.done = False
        self.produced = 0
        self._stream = brotli.Decompressor()

    def decode(self, data: bytes, room: int) -> bytes:
        if not data:
            return b""
        if self.done:
            raise Broken("there are bytes behind its end")
        stream = self._stream
        pieces = []
        try:
            piece = stream.process(data, output_buffer_limit=_STEP)
            while piece or not stream.can_accept_more_data():
                room -= len(piece)
                if room < 0:
                    raise TooLarge
                pieces.append(piece)
                piece = stream.process(b"", output_buffer_limit=_STEP)
        except brotli.error as error:
            raise Broken(str(error)) from None
        self.done = stream.is_finished()
        return b"".join(pieces)


class _Zstd:
    """zstd, of any number of frames."""

    __slots__ = ("_decompressor", "_stream", "done", "produced")

    def __init__(self) -> None:
        self.done = False
        self.produced = 0
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._stream: Any = None

    def decode(self, data: bytes, room: int) -> bytes:
        pieces = []
        try:
            for start in range(0, len(data), _ZSTD_SLICE):
                part = data[start : start + _ZSTD_SLICE]
                while part:
                    if self._stream is None:
                        self._stream = self._decompressor.decompressobj(write_size=_STEP)
                        self.done = False
                    piece = self._stream.decompress(part)
                    room -= len(piece)
                    if room < 0:
                        raise TooLarge
                    pieces.append(piece)
                    part = b""
                    if self._stream.eof:
                        part = self._stream.unused_data
                        self._stream, self.done = None, True
        except zstandard.ZstdError as error:
            raise Broken(str(error)) from None
        return b"".join(pieces)


def _layer(coding: bytes) -> _Layer:
    if coding == b"br":
        return _Brotli()
    if coding == b"zstd":
        return _Zstd()
    return _Inflated(coding == b"gzip")


class Decoding:
    """
    A stream being decoded, of ``codings`` in the order they were applied.

    It may become ``max_bytes`` (0: any number), and ``max_ratio`` times (0: any) what was fed,
    or 1 MiB where that is more.
    """

    __slots__ = ("_layers", "_max_bytes", "_max_ratio", "_received")

    def __init__(self, codings: Iterable[bytes], max_bytes: int, max_ratio: int) -> None:
        self._layers: list[_Layer] = [_layer(coding) for coding in reversed(list(codings))]
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._received = 0

    def decode(self, data: bytes, end: bool) -> bytes:
        """
        What ``data`` decodes to. Raises :class:`Broken` or :class:`TooLarge`.

        A stream of no bytes at all is one of nothing.
        """
        self._received = received = self._received + len(data)
        allowed = self._max_bytes or 1 << 62
        if self._max_ratio:
            allowed = min(allowed, max(_FLOOR, received * self._max_ratio))
        for layer in self._layers:
            data = layer.decode(data, allowed - layer.produced)
            layer.produced += len(data)
        if end and received and not all(layer.done for layer in self._layers):
            raise Broken("it ends too early")
        return data

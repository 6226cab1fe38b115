"""
Compress responses for clients that can take it.

The laws it keeps (RFC 9110, 8.4, 8.8, 12.5.3, 15.4.5):

- A response is compressed once or not at all: never one with a coding, a part of one (206), one
  that forbids it (``no-transform``), or a gRPC stream.
- A cache between here and the client is told (``vary``) of every response that another client
  would get in another form, and no validator stays strong that names bytes which changed.
- Bytes of a body whose length nobody knows beforehand, such as an event stream, leave when they
  come.
- No more than ``at_once`` encoders exist, and a piece of any size holds up the others for a few
  milliseconds only.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from zope.interface import implementer

from meshproxy.api import Field, Options, Size, Unfit
from meshproxy.filters._coding import Encoder, codings_of, encoder_of, preferred
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterContext,
    IRequestFilter,
    IResponseBodyFilter,
    IResponseFilter,
)

__all__ = ["Compress"]

#: Bytes that are encoded in one go: a millisecond or two.
_STEP = 1 << 17

#: Header values whose meaning is kept; what clients send is then worked out once.
_REMEMBERED = 256
_LONGEST_KEY = 512

_TYPES = (
    "text/*",
    "*+json",
    "*+xml",
    "application/json",
    "application/javascript",
    "application/x-javascript",
    "application/xml",
    "application/x-ndjson",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/x-icon",
)

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/(\*|[a-z0-9!#$&^_.+-]+)|\*\+[a-z0-9!#$&^_.-]+")


def _media_type(value: str) -> str:
    value = value.lower()
    if not _TYPE.fullmatch(value):
        raise Unfit(f"a media type such as text/html, text/* or *+json is expected, not '{value}'")
    return value


_MediaType = Annotated[str, AfterValidator(_media_type)]


class Levels(Options):
    """How hard each coding tries: higher is smaller, and slower."""

    gzip: int = Field(default=2, ge=1, le=9, description="The level of gzip.")
    br: int = Field(default=2, ge=0, le=11, description="The quality of Brotli.")
    zstd: int = Field(default=3, ge=1, le=19, description="The level of Zstandard.")


class _Stream:
    """A response that is being compressed: in the notes of its exchange, after the coding."""

    __slots__ = ("encoder", "flush")

    def __init__(self, encoder: Encoder, flush: bool) -> None:
        self.encoder: Encoder | None = encoder
        self.flush = flush


@implementer(
    IContextFilter, IRequestFilter, IResponseFilter, IResponseBodyFilter, IExchangeObserver
)
class Compress:
    """Compress responses for clients that can take it."""

    keeps_length = False

    class Options(Options):
        """What is compressed, and how."""

        codings: list[Literal["zstd", "br", "gzip"]] = Field(
            default=["zstd", "br", "gzip"],
            min_length=1,
            description="What is used, the first preferred, where the client has no preference.",
        )
        types: list[_MediaType] = Field(
            default=list(_TYPES),
            description="The media types of what is compressed: `text/html`, `text/*` or `*+json`.",
        )
        min_size: Size = Field(
            default=1024,
            description="A body known to be shorter is sent as it is.",
        )
        levels: Levels = Field(default=Levels(), description="How hard each coding tries.")
        etag: Literal["weak", "remove"] = Field(
            default="weak",
            description="What becomes of a strong ETag: it is made weak, or removed.",
        )
        skip_cookies: bool = Field(
            default=False,
            description="Send responses to requests with a cookie as they are, so that no secret "
            "can be guessed from their size (BREACH).",
        )
        at_once: int = Field(
            default=256,
            ge=1,
            le=100_000,
            description="Responses that are compressed at the same time; what comes while there "
            "are as many is sent as it is. Each takes 0.3 to 1.5 MB.",
        )

    def __init__(self, options: Options) -> None:
        self._ours = tuple(coding.encode() for coding in options.codings)
        self._make = {
            coding.encode(): encoder_of(coding, getattr(options.levels, coding))
            for coding in options.codings
        }
        names = [name.encode() for name in options.types]
        self._exact = frozenset(name for name in names if b"*" not in name)
        self._prefixes = tuple(name[:-1] for name in names if name.endswith(b"/*"))
        self._suffixes = tuple(name[1:] for name in names if name.startswith(b"*+"))
        self._min_size = options.min_size
        self._weak = options.etag == "weak"
        self._skip_cookies = options.skip_cookies
        self._at_once = options.at_once
        self._chosen: dict[bytes, bytes | None] = {}
        self._wanted: dict[bytes, bool] = {}
        self._active = 0

    def attach(self, context: IFilterContext) -> None:
        """Ask for the counters."""
        self._sleep = context.sleep
        self._responses = {
            coding: context.counter(
                "responses", "Responses that were compressed", coding=coding.decode()
            )
            for coding in self._ours
        }
        self._busy = context.counter("busy", "Responses sent as they are because of at_once")
        self._bytes_in = context.counter("bytes_in", "Bytes before compression")
        self._bytes_out = context.counter("bytes_out", "Bytes after compression")
        self._gauge = context.gauge("active", "Responses that are being compressed")

    # What the client takes, before another filter takes it out of the request.

    def request(self, exchange: Any) -> None:
        """Remember the coding that the client takes."""
        accepted = None
        skip_cookies = self._skip_cookies
        # One look at the fields: this is on the path of every request.
        for name, value, _, _ in exchange.request.headers.fields:
            if name == b"accept-encoding":
                accepted = value if accepted is None else b"%b,%b" % (accepted, value)
            elif name == b"cache-control":
                if b"no-transform" in value.lower():
                    return
            elif skip_cookies and name == b"cookie":
                return
        if accepted is None or exchange.upgrade:
            return
        try:
            coding = self._chosen[accepted]
        except KeyError:
            coding = preferred(accepted, self._ours)
            _remember(self._chosen, accepted, coding)
        if coding is not None:
            exchange.notes[self] = coding

    # The head.

    def response(self, exchange: Any) -> None:
        """Decide, and say in the head what will come."""
        coding: bytes | None = None
        response = exchange.response
        headers = response.headers
        status = exchange.status
        if status == 304:
            self._not_modified(exchange, headers)
        elif self._fits(status, response, headers):
            coding = exchange.notes.get(self)
            _vary(headers)
            if coding is not None and self._active >= self._at_once:
                self._busy.inc()
                coding = None
        if coding is None:
            exchange.skip_body(self)
            return
        headers.set(b"content-encoding", coding)
        headers.remove(b"accept-ranges")
        for name in (b"content-md5", b"digest", b"content-digest", b"repr-digest"):
            headers.remove(name)
        etag = headers.get(b"etag")
        if etag is not None and not etag.startswith(b"W/"):
            if self._weak:
                headers.set(b"etag", b"W/" + etag)
            else:
                headers.remove(b"etag")
        if response.bodiless:
            return  # HEAD: what GET would have said
        exchange.notes[self] = _Stream(self._make[coding](), response.length < 0)
        self._active += 1
        self._gauge.inc()
        self._responses[coding].inc()

    def _fits(self, status: int, response: Any, headers: Any) -> bool:
        """Whether this response would be compressed for a client that takes it."""
        if status in (101, 204, 205, 206) or status < 200:
            return False
        kind = headers.get(b"content-type")
        if kind is None:
            return False
        try:
            wanted = self._wanted[kind]
        except KeyError:
            wanted = self._is_wanted(kind)
            _remember(self._wanted, kind, wanted)
        if not wanted or 0 <= response.length < self._min_size or response.length == 0:
            return False
        codings = headers.get_all(b"content-encoding")
        if codings and codings_of(codings):
            return False
        return b"content-range" not in headers and not _forbids(headers)

    def _is_wanted(self, kind: bytes) -> bool:
        name = kind.partition(b";")[0].strip(b" \t").lower()
        if name.startswith(b"application/grpc"):
            return False
        return (
            name in self._exact or name.startswith(self._prefixes) or name.endswith(self._suffixes)
        )

    def _not_modified(self, exchange: Any, headers: Any) -> None:
        """
        A 304 names the representation that the client has, so its ETag has to be that one's.

        Which is the weak one exactly where the client asked with it.
        """
        etag = headers.get(b"etag")
        if etag is None or etag.startswith(b"W/"):
            return
        weak = b"W/" + etag
        for value in exchange.request.headers.get_all(b"if-none-match"):
            if weak in value:
                headers.set(b"etag", weak)
                _vary(headers)
                return

    # The body.

    def response_data(self, exchange: Any, data: bytes, end: bool) -> Any:
        """Encode a piece; a large one in steps between which others have their turn."""
        stream = exchange.notes[self]
        if len(data) > 2 * _STEP:
            return self._encode_in_steps(stream, data, end)
        out = stream.encoder.encode(data, stream.flush, end)
        self._bytes_in.inc(len(data))
        self._bytes_out.inc(len(out))
        if end:
            self._ended(stream)
        return out

    async def _encode_in_steps(self, stream: _Stream, data: bytes, end: bool) -> bytes:
        pieces = []
        for start in range(0, len(data), _STEP):
            if start:
                await self._sleep(0)
            encoder = stream.encoder
            if encoder is None:
                break  # the exchange is over
            last = start + _STEP >= len(data)
            piece = data[start : start + _STEP]
            pieces.append(encoder.encode(piece, stream.flush and last, end and last))
        out = b"".join(pieces)
        self._bytes_in.inc(len(data))
        self._bytes_out.inc(len(out))
        if end:
            self._ended(stream)
        return out

    def finished(self, exchange: Any) -> None:
        """Give up what an exchange that ended early has left."""
        stream = exchange.notes.get(self) if self._active else None
        if isinstance(stream, _Stream):
            self._ended(stream)

    def _ended(self, stream: _Stream) -> None:
        if stream.encoder is not None:
            stream.encoder = None
            self._active -= 1
            self._gauge.dec()


def _remember(table: dict[bytes, Any], key: bytes, value: Any) -> None:
    if len(key) > _LONGEST_KEY:
        return
    if len(table) >= _REMEMBERED:
        table.clear()
    table[key] = value


def _forbids(headers: Any) -> bool:
    """Whether ``cache-control: no-transform`` is there (RFC 9111, 5.2.1.6 and 5.2.2.6)."""
    control = headers.get(b"cache-control")
    if control is None:
        return False
    return any(b"no-transform" in value.lower() for value in headers.get_all(b"cache-control"))


def _vary(headers: Any) -> None:
    """Name ``accept-encoding`` among what the response depends on."""
    values = headers.get_all(b"vary")
    if not values:
        headers.add(b"vary", b"accept-encoding")
        return
    names = [name.strip(b" \t").lower() for value in values for name in value.split(b",")]
    if b"accept-encoding" not in names and b"*" not in names:
        headers.set(b"vary", b", ".join((*values, b"accept-encoding")))

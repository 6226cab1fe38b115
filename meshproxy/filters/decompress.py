"""
Decompress bodies on their way: requests for the upstream, responses for the client.

The laws it keeps (RFC 9110, 8.4 and 15.5.16):

- What goes on is the decoded body, whole and well-formed, without ``content-encoding`` and
  without what is true of the encoded one alone: length, digests, strong validators, ranges.
- A request that cannot be decoded is refused: 415 for a coding, with those that are taken, 400 for
  a broken stream, 413 for one that becomes too large. Nothing of a response that cannot be
  decoded looks complete: 502 while nothing of it was sent, else the connection is cut.
- A few bytes cannot become many: what is decoded is bounded in bytes and in ratio, and so is the
  number of bodies that are decoded at the same time.
"""

from __future__ import annotations

from typing import Any, Literal

from zope.interface import alsoProvides, implementer

from meshproxy.api import Field, Options, Response, Size
from meshproxy.filters._coding import Broken, Decoding, TooLarge, codings_of
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterContext,
    IRequestBodyFilter,
    IRequestFilter,
    IResponseBodyFilter,
    IResponseFilter,
)

__all__ = ["Decompress"]

#: Codings on top of each other that anybody could mean.
_MOST_LAYERS = 3

#: Bytes that are decoded in one go.
_STEP = 1 << 16

#: What is true of the encoded bytes only (RFC 1864, RFC 3230, RFC 9530).
_DIGESTS = (b"content-md5", b"digest", b"content-digest", b"repr-digest")


class _Kept:
    """What is being decoded for an exchange."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request: Decoding | None = None
        self.response: Decoding | None = None


@implementer(IContextFilter, IExchangeObserver)
class Decompress:
    """Decompress request and response bodies."""

    keeps_length = False

    class Options(Options):
        """What is decompressed, and how much it may become."""

        requests: bool = Field(
            default=True, description="Decompress the bodies of requests, for the upstream."
        )
        responses: bool = Field(
            default=False, description="Decompress the bodies of responses, for the client."
        )
        codings: list[Literal["zstd", "br", "gzip", "deflate"]] = Field(
            default=["zstd", "br", "gzip", "deflate"],
            min_length=1,
            description="The codings that are taken; requests in others get a 415, responses "
            "in others stay as they are.",
        )
        max_bytes: Size = Field(
            default=64 << 20,
            description="What one body may become; 0 for any size. A longer request gets a 413.",
        )
        max_ratio: int = Field(
            default=100,
            ge=0,
            description="How many times as long as it came a body may become; 0 for any. The "
            "first MiB is not judged.",
        )
        at_once: int = Field(
            default=256,
            ge=1,
            le=100_000,
            description="Bodies that are decompressed at the same time: more requests get a 503, "
            "more responses stay as they are. Each may take up to 16 MiB.",
        )

    def __init__(self, options: Options) -> None:
        # A side that is not asked for costs nothing: the chain does not know of it.
        if options.requests:
            alsoProvides(self, IRequestFilter, IRequestBodyFilter)
        if options.responses:
            alsoProvides(self, IResponseFilter, IResponseBodyFilter)
        self._codings = frozenset(coding.encode() for coding in options.codings)
        self._max_bytes = options.max_bytes
        self._max_ratio = options.max_ratio
        self._at_once = options.at_once
        self._active = 0
        taken = ", ".join(dict.fromkeys(options.codings)).encode()
        self._taken = {b"accept-encoding": taken}

    def attach(self, context: IFilterContext) -> None:
        """Ask for the counters."""
        self._sleep = context.sleep
        self._decoded = {
            side: context.counter("bodies", "Bodies that were decompressed", of=side)
            for side in ("request", "response")
        }
        self._refused = {
            reason: context.counter(
                "refused", "Bodies that could not be decompressed", reason=reason
            )
            for reason in ("broken", "too_large", "coding", "busy")
        }
        self._bytes_in = context.counter("bytes_in", "Bytes before decompression")
        self._bytes_out = context.counter("bytes_out", "Bytes after decompression")
        self._gauge = context.gauge("active", "Bodies that are being decompressed")

    # Requests.

    def request(self, exchange: Any) -> Response | None:
        """Refuse what cannot be decoded; else say in the head what will come."""
        request = exchange.request
        if request.length == 0:
            return None
        headers = request.headers
        codings = codings_of(headers.get_all(b"content-encoding"))
        if not codings or exchange.upgrade:
            exchange.skip_body(self)
            return None
        if len(codings) > _MOST_LAYERS or not self._codings.issuperset(codings):
            self._refused["coding"].inc()
            return Response(
                415, b"unsupported content-encoding", self._taken, details=b"unsupported_coding"
            )
        if self._active >= self._at_once:
            self._refused["busy"].inc()
            return Response(503, b"too many bodies to decompress", details=b"decompress_busy")
        kept = exchange.notes[self] = _Kept()
        kept.request = self._begin("request", codings)
        _unmark(headers)
        return None

    def request_data(self, exchange: Any, data: bytes, end: bool) -> Any:
        """Decode a piece; a large one in steps between which others have their turn."""
        if len(data) > 2 * _STEP:
            return self._in_steps(self._request_piece, exchange, data, end)
        return self._request_piece(exchange, data, end)

    def _request_piece(self, exchange: Any, data: bytes, end: bool) -> bytes | Response:
        kept = exchange.notes[self]
        made = self._decoded_piece(kept.request, data, end)
        if end or not isinstance(made, bytes):
            kept.request = None
            self._ended()
        if isinstance(made, bytes):
            return made
        if made is Broken:
            return Response(400, b"broken content-encoding", details=b"broken_coding")
        return Response(413, b"Payload Too Large", details=b"decompressed_too_large")

    # Responses.

    def response(self, exchange: Any) -> None:
        """Say in the head what will come."""
        response = exchange.response
        headers = response.headers
        codings = self._codings_of(exchange.status, response)
        if not codings:
            exchange.skip_body(self)
            return
        bodiless = response.bodiless
        if not bodiless and self._active >= self._at_once:
            self._refused["busy"].inc()
            exchange.skip_body(self)
            return
        _unmark(headers)
        headers.remove(b"accept-ranges")
        etag = headers.get(b"etag")
        if etag is not None and not etag.startswith(b"W/"):
            headers.set(b"etag", b"W/" + etag)
        if bodiless:
            return  # HEAD: what GET would have said
        kept = exchange.notes.get(self)
        if kept is None:
            kept = exchange.notes[self] = _Kept()
        kept.response = self._begin("response", codings)

    def _codings_of(self, status: int, response: Any) -> list[bytes]:
        """The codings to be taken off; none for what is left alone."""
        headers = response.headers
        if status in (101, 204, 205, 206, 304) or response.length == 0:
            return []
        if any(b"no-transform" in value.lower() for value in headers.get_all(b"cache-control")):
            return []
        codings = codings_of(headers.get_all(b"content-encoding"))
        if len(codings) > _MOST_LAYERS or not self._codings.issuperset(codings):
            return []
        return codings

    def response_data(self, exchange: Any, data: bytes, end: bool) -> Any:
        """As :meth:`request_data`."""
        if len(data) > 2 * _STEP:
            return self._in_steps(self._response_piece, exchange, data, end)
        return self._response_piece(exchange, data, end)

    def _response_piece(self, exchange: Any, data: bytes, end: bool) -> bytes | Response:
        kept = exchange.notes[self]
        made = self._decoded_piece(kept.response, data, end)
        if end or not isinstance(made, bytes):
            kept.response = None
            self._ended()
        if isinstance(made, bytes):
            return made
        if exchange.bytes_sent:
            # Nobody can answer any more: the connection is cut, and the log says why.
            raise made("the upstream's body is broken, or becomes too large")
        details = b"upstream_broken" if made is Broken else b"upstream_too_large"
        return Response(502, b"the upstream's body is broken", details=details)

    # Both.

    def _begin(self, side: str, codings: list[bytes]) -> Decoding:
        self._active += 1
        self._gauge.inc()
        self._decoded[side].inc()
        return Decoding(codings, self._max_bytes, self._max_ratio)

    def _decoded_piece(
        self, decoding: Decoding, data: bytes, end: bool
    ) -> bytes | type[Broken | TooLarge]:
        """What the piece decodes to, or why it does not."""
        try:
            out = decoding.decode(data, end)
        except Broken:
            self._refused["broken"].inc()
            return Broken
        except TooLarge:
            self._refused["too_large"].inc()
            return TooLarge
        self._bytes_in.inc(len(data))
        self._bytes_out.inc(len(out))
        return out

    async def _in_steps(
        self, piece: Any, exchange: Any, data: bytes, end: bool
    ) -> bytes | Response:
        pieces = []
        for start in range(0, len(data), _STEP):
            if start:
                await self._sleep(0)
            last = start + _STEP >= len(data)
            made = piece(exchange, data[start : start + _STEP], end and last)
            if isinstance(made, Response):
                return made
            pieces.append(made)
        return b"".join(pieces)

    def _ended(self) -> None:
        self._active -= 1
        self._gauge.dec()

    def finished(self, exchange: Any) -> None:
        """Give up what an exchange that ended early has left."""
        kept = exchange.notes.pop(self, None) if self._active else None
        if kept is not None:
            for decoding in (kept.request, kept.response):
                if decoding is not None:
                    self._ended()


def _unmark(headers: Any) -> None:
    headers.remove(b"content-encoding")
    for name in _DIGESTS:
        headers.remove(name)

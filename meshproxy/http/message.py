"""
A response that a filter makes.

The law it keeps: what a filter hands over can be sent as it is: names and values are checked,
framing headers are the proxy's own, and a body that the status forbids is refused, all when the
response is made, where the filter's author sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshproxy.http.headers import FRAMING, HOST, Field, Headers, make_field

__all__ = ["Response"]

_FRAMING = FRAMING - {HOST}
_TEXT = make_field(b"content-type", b"text/plain")


class Response:
    """
    A complete response: ``status`` (200 to 599), ``body`` (bytes) and ``headers``.

    ``headers`` are pairs or a mapping of bytes, or Headers; ``content-type`` is text/plain for a
    body that comes without one, and ``content-length`` is added when it is sent. ``details`` is
    one word that says why in the access log, ``flags`` Envoy's response flags.

    Raises ``ValueError`` for a status out of range, a header that cannot be sent or frames the
    message, and a body where there can be none (204, 205, 304).
    """

    __slots__ = ("body", "details", "flags", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] | Headers = (),
        *,
        details: bytes = b"",
        flags: bytes = b"-",
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"a response's status is 200 to 599, not {status}")
        if not isinstance(body, bytes):
            raise ValueError(f"a response's body is bytes, not {type(body).__name__}")
        if body and status in (204, 205, 304):
            raise ValueError(f"a response {status} has no body")
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = [make_field(name, value) for name, value in pairs]
        for field in fields:
            if field[3] in _FRAMING:
                raise ValueError(f"{field[0].decode()} frames the message: the proxy sets it")
        if body and not any(field[0] == b"content-type" for field in fields):
            fields.append(_TEXT)
        self.status = status
        self.body = body
        self.headers = Headers(fields)
        self.details = details
        self.flags = flags

    @classmethod
    def of(
        cls,
        status: int,
        body: bytes,
        fields: list[Field],
        *,
        details: bytes = b"",
        flags: bytes = b"-",
    ) -> Response:
        """
        A response of fields that were checked before (such as those of a stored response): nothing
        is checked again, and nothing added.
        """
        made = cls.__new__(cls)
        made.status = status
        made.body = body
        made.headers = Headers(fields)
        made.details = details
        made.flags = flags
        return made

    def __repr__(self) -> str:
        return f"Response({self.status}, {self.body[:64]!r}, {list(self.headers)!r})"

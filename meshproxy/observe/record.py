"""
What a line of the access log is made of.

The law it keeps: the log sees a request or a connection through :class:`AccessRecord` alone, so
that a protocol room needs to know nothing of formats, and a format nothing of protocols.

Texts are bytes as they were received, ``b""`` where there is nothing to say; times are seconds of
one monotonic clock (the one given to :func:`meshproxy.observe.access.compile_format`), 0.0 for
what never happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class HeaderValues(Protocol):
    """Header fields by name."""

    def get(self, name: bytes, /) -> bytes | None:
        """The first value of ``name``, in lower case, or None."""


class Facts:
    """What filters noted (``metadata``), as the log reads it: texts by name."""

    __slots__ = ("_metadata",)

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def get(self, name: bytes, /) -> bytes | None:
        """A fact as text; None where there is none."""
        value = self._metadata.get(name.decode())
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, bool):
            return b"true" if value else b"false"
        return str(value).encode("utf-8", "backslashreplace")


class AccessRecord(Protocol):
    """One request and its response, or one connection, when it is over."""

    @property
    def protocol(self) -> bytes:
        """``b"HTTP/1.1"``, ``b"TCP"``."""

    @property
    def method(self) -> bytes:
        """As received."""

    @property
    def path(self) -> bytes:
        """As received, with the query."""

    @property
    def authority(self) -> bytes:
        """Host, and the port where it was given."""

    @property
    def scheme(self) -> bytes:
        """``b"http"`` or ``b"https"``."""

    @property
    def request_headers(self) -> HeaderValues | None:
        """None where there are none, as for TCP."""

    @property
    def response_headers(self) -> HeaderValues | None:
        """None where there are none, as for TCP or a request without an answer."""

    @property
    def status(self) -> int:
        """0 when there was no response."""

    @property
    def flags(self) -> bytes:
        """Envoy's response flags joined by commas, or ``b"-"``."""

    @property
    def details(self) -> bytes:
        """Why the response is what it is, in one word (Envoy's RESPONSE_CODE_DETAILS)."""

    @property
    def bytes_received(self) -> int:
        """Bytes of the request's body, or from the client."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of the response's body, or to the client."""

    @property
    def start(self) -> float:
        """The first byte came."""

    @property
    def end(self) -> float:
        """All was over."""

    @property
    def request_end(self) -> float:
        """The request was complete."""

    @property
    def upstream_start(self) -> float:
        """An upstream connection was asked for."""

    @property
    def connected_at(self) -> float:
        """The upstream connection was there."""

    @property
    def response_start(self) -> float:
        """The upstream's response began."""

    @property
    def client(self) -> bytes:
        """``b"ip:port"``."""

    @property
    def client_ip(self) -> bytes:
        """The same without the port."""

    @property
    def local(self) -> bytes:
        """``b"ip:port"`` that the client connected to."""

    @property
    def upstream(self) -> bytes:
        """``b"ip:port"`` of the endpoint."""

    @property
    def upstream_local(self) -> bytes:
        """``b"ip:port"`` of the proxy's end of the upstream connection."""

    @property
    def cluster_name(self) -> bytes:
        """As configured."""

    @property
    def route_name(self) -> bytes:
        """As configured."""

    @property
    def listener_name(self) -> bytes:
        """As configured."""

    @property
    def request_id(self) -> bytes:
        """``x-request-id`` as sent upstream."""

    @property
    def tls(self) -> Any:
        """Facts about the client's TLS (:class:`meshproxy.tls.facts.Facts`); None without it."""

    @property
    def server_name(self) -> bytes:
        """What the client asked for by SNI where its TLS passed unread."""

    @property
    def facts(self) -> HeaderValues | None:
        """What filters noted (``exchange.metadata``), by name; None where they cannot."""

    @property
    def attempts(self) -> int:
        """How often an upstream was asked."""

"""
The proxy's own words: status texts, error bodies and response flags (Envoy's, see the
operating guide for the table).

The law it keeps: every reply that the proxy makes itself has a flag or a detail that says why,
so that "why did I get this 503" is answered by the access log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

REASONS: dict[int, bytes] = {status.value: status.phrase.encode() for status in HTTPStatus}
REASONS[413] = b"Payload Too Large"
REASONS[416] = b"Range Not Satisfiable"
REASONS[422] = b"Unprocessable Entity"

#: ``HTTP/1.1 200 OK CRLF`` for every status that a message may carry.
STATUS_LINES: list[bytes] = [
    b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Unknown")) for status in range(1000)
]


class Reply(NamedTuple):
    """A reply made by the proxy: status, body, response flag, details for the access log."""

    status: int
    body: bytes
    flags: bytes
    details: bytes
    overloaded: bool = False


_BEFORE = b"upstream connect error or disconnect/reset before headers. reset reason: "


def insecure(reply: Reply, reason: str) -> Reply:
    """
    ``reply`` to a connection that failed because of TLS: the access log has the whole ``reason``
    (:mod:`meshproxy.tls.reasons`), the client what is before its colon, for names that a
    certificate has are not the client's affair.
    """
    shown = reason.partition(":")[0]
    if shown == "alert":
        shown = reason
    return reply._replace(
        body=b"%b, transport failure reason: TLS_error: %b" % (reply.body, shown.encode()),
        details=b"%b|TLS_error:_%b" % (reply.details, reason.replace(" ", "_").encode()),
    )


NO_ROUTE = Reply(404, b"", b"NR", b"route_not_found")
NO_ENDPOINT = Reply(503, b"no healthy upstream", b"UH", b"no_healthy_upstream")
UNKNOWN_UPGRADE = Reply(403, b"", b"-", b"upgrade_failed")
CONNECT_FAILED = Reply(
    503, _BEFORE + b"remote connection failure", b"UF", b"remote_connection_failure"
)
CONNECT_TIMEOUT = Reply(503, _BEFORE + b"connection timeout", b"UF", b"connection_timeout")
TERMINATED = Reply(503, _BEFORE + b"connection termination", b"UC", b"connection_termination")
PROTOCOL_ERROR = Reply(502, _BEFORE + b"protocol error", b"UPE", b"upstream_protocol_error")
OVERFLOW = Reply(503, _BEFORE + b"overflow", b"UO", b"overflow", True)
ROUTE_TIMEOUT = Reply(504, b"upstream request timeout", b"UT", b"response_timeout")
STREAM_IDLE = Reply(504, b"stream timeout", b"SI", b"stream_idle_timeout")
REQUEST_IDLE = Reply(408, b"stream timeout", b"SI", b"stream_idle_timeout")
TOO_LARGE = Reply(413, b"Payload Too Large", b"-", b"request_payload_too_large")
FILTER_ERROR = Reply(500, b"internal error", b"-", b"filter_error")
EXPECTATION = Reply(417, b"", b"-", b"expectation_failed")

BAD_REQUEST = Reply(400, b"", b"DPE", b"http1.codec_error")
REQUEST_TIMEOUT = Reply(408, b"request timeout", b"-", b"request_overall_timeout")
HEADERS_TIMEOUT = Reply(408, b"request header timeout", b"-", b"request_header_timeout")
HEADERS_TOO_LARGE = Reply(431, b"", b"DPE", b"http1.headers_too_large")
UPGRADE_REQUIRED = Reply(426, b"", b"DPE", b"low_version")
NOT_IMPLEMENTED = Reply(501, b"", b"DPE", b"http1.unsupported_transfer_encoding")

"""The proxy's own words."""

from __future__ import annotations

import pytest

from meshproxy.http import replies
from meshproxy.http.replies import STATUS_LINES, Reply

ALL = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_reply_says_why(name: str) -> None:
    """An error status, a flag or detail for the access log, a text without line ends."""
    reply = ALL[name]
    assert 400 <= reply.status <= 599
    assert reply.details
    assert reply.flags
    assert not set(b"\r\n") & set(reply.body)


def test_status_lines() -> None:
    """One for every status that may be forwarded."""
    assert STATUS_LINES[200] == b"HTTP/1.1 200 OK\r\n"
    assert STATUS_LINES[413] == b"HTTP/1.1 413 Payload Too Large\r\n"
    assert STATUS_LINES[599] == b"HTTP/1.1 599 Unknown\r\n"
    assert all(line.endswith(b"\r\n") for line in STATUS_LINES)


@pytest.mark.parametrize(
    ("reply", "status", "flags"),
    [
        (replies.NO_ROUTE, 404, b"NR"),
        (replies.NO_ENDPOINT, 503, b"UH"),
        (replies.CONNECT_FAILED, 503, b"UF"),
        (replies.CONNECT_TIMEOUT, 503, b"UF"),
        (replies.TERMINATED, 503, b"UC"),
        (replies.PROTOCOL_ERROR, 502, b"UPE"),
        (replies.OVERFLOW, 503, b"UO"),
        (replies.ROUTE_TIMEOUT, 504, b"UT"),
        (replies.STREAM_IDLE, 504, b"SI"),
    ],
)
def test_envoys_table(reply: Reply, status: int, flags: bytes) -> None:
    """The statuses and flags that operators know."""
    assert (reply.status, reply.flags) == (status, flags)


def test_what_tls_failed_for() -> None:
    """All of it for the log; for the client nothing that a certificate or a server said."""
    reply = replies.insecure(replies.CONNECT_FAILED, "hostname mismatch: the certificate is for x")
    assert (reply.status, reply.flags) == (503, b"UF")
    assert reply.body.endswith(
        b"remote connection failure, transport failure reason: TLS_error: hostname mismatch"
    )
    told = b"remote_connection_failure|TLS_error:_hostname_mismatch:_the_certificate_is_for_x"
    assert reply.details == told
    alert = replies.insecure(replies.CONNECT_FAILED, "alert: unknown ca")
    assert alert.body.endswith(b"TLS_error: alert: unknown ca")

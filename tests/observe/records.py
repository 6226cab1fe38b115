"""A record to log: an ordinary request, any attribute of which a test may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

START = 1_700_000_000.25


class Record:
    """Satisfies :class:`meshproxy.observe.record.AccessRecord`."""

    def __init__(self, **changed: Any) -> None:
        self.protocol = b"HTTP/1.1"
        self.method = b"GET"
        self.path = b"/api/users?page=2"
        self.authority = b"api.example.com"
        self.scheme = b"http"
        self.request_headers: Mapping[bytes, bytes] | None = {
            b"user-agent": b"curl/8",
            b"x-forwarded-for": b"10.0.0.1",
        }
        self.response_headers: Mapping[bytes, bytes] | None = {b"content-type": b"text/plain"}
        self.status = 200
        self.flags = b"-"
        self.details = b"via_upstream"
        self.bytes_received = 0
        self.bytes_sent = 1234
        self.start = START
        self.end = START + 0.5
        self.request_end = START + 0.125
        self.upstream_start = START + 0.125
        self.connected_at = START + 0.1875
        self.response_start = START + 0.375
        self.client = b"127.0.0.1:45678"
        self.client_ip = b"127.0.0.1"
        self.local = b"127.0.0.1:8080"
        self.upstream = b"127.0.0.1:9001"
        self.upstream_local = b"127.0.0.1:3333"
        self.cluster_name = b"api"
        self.route_name = b"users"
        self.listener_name = b"web"
        self.request_id = b"5b8f3e2a"
        self.attempts = 1
        self.tls: Any = None
        self.server_name = b""
        self.facts: Mapping[bytes, bytes] | None = {b"user": b"alice"}
        for name, value in changed.items():
            if not hasattr(self, name):
                raise AttributeError(name)
            setattr(self, name, value)


def tcp_record() -> Record:
    """A connection's record: no heads, no status."""
    return Record(
        protocol=b"TCP",
        method=b"",
        path=b"",
        authority=b"",
        scheme=b"",
        request_headers=None,
        response_headers=None,
        status=0,
        response_start=0.0,
        request_id=b"",
        route_name=b"",
        facts=None,
    )

"""
The health check that asks by HTTP/1.1.

The law it keeps: a head that the proxy would not forward passes no check either (the parser is the
same), and nothing after the final head is read: each check has a connection of its own, which is
closed then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.errors import CheckFailed
from meshproxy.http.h1.response import parse_response
from meshproxy.interfaces import IHealthCheck
from meshproxy.upstream.checks.stream import Secure, converse
from meshproxy.upstream.checks.target import Target, target_of
from meshproxy.upstream.checks.tcp import preamble

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.tls.client import ClientTls
    from meshproxy.upstream.endpoint import Endpoint

#: Bytes of heads that are read, interim ones included; the limit of forwarded responses.
LIMIT = 61440

_MAX_HEADERS = 100
_BEGINNING = b"HTTP/1."
_SWITCHING = 101


@implementer(IHealthCheck)
class HttpCheck:
    """
    ``config.http`` says what to ask and which statuses pass.

    ``proxy_protocol`` is the cluster's: its endpoints take no connection without such a header.
    ``tls`` is the cluster's too: then it asks by HTTPS.
    """

    name = "http"

    def __init__(
        self,
        config: HealthCheck,
        reactor: Any,
        proxy_protocol: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        http = config.http
        assert http is not None
        self._reactor = reactor
        self._timeout: float = config.timeout
        self._port = config.port
        self._preamble = preamble(proxy_protocol)
        self._tls = tls
        self._method = http.method.encode("ascii")
        self._host = http.host
        self._statuses = frozenset(status for text in http.statuses for status in _range_of(text))
        fields = {"user-agent": "meshproxy-health", "accept": "*/*"}
        if http.method in ("POST", "PUT", "PATCH"):
            fields["content-length"] = "0"
        fields.update({name.lower(): value for name, value in http.headers.items()})
        fields["connection"] = "close"
        self._first = f"{http.method} {http.path} HTTP/1.1\r\nhost: ".encode("latin-1")
        lines = "".join(f"\r\n{name}: {value}" for name, value in fields.items())
        self._rest = lines.encode("utf-8") + b"\r\n\r\n"

    def check(self, endpoint: Endpoint) -> Deferred[None]:
        """Ask once; see :class:`meshproxy.interfaces.IHealthCheck`."""
        target = target_of(endpoint, self._port)
        host = self._host or _host_of(endpoint, target, 80 if self._tls is None else 443)
        return converse(
            self._reactor,
            target,
            self._timeout,
            self._first + host.encode("utf-8") + self._rest,
            self._heard,
            LIMIT,
            before=self._preamble,
            secure=None if self._tls is None else Secure(self._tls, endpoint),
        )

    def _heard(self, data: bytearray) -> bool:
        """Whether the final head is there, and passes."""
        begin = 0
        while True:
            if not _BEGINNING.startswith(bytes(data[begin : begin + len(_BEGINNING)])):
                raise CheckFailed("what comes is not HTTP/1")
            end = data.find(b"\r\n\r\n", begin)
            if end < 0:
                return False
            try:
                head = parse_response(bytes(data[begin:end]), self._method, _MAX_HEADERS)
            except ValueError as error:
                raise CheckFailed(f"protocol error: {error}") from None
            status = head.status
            if status >= 200 or status == _SWITCHING:
                if status not in self._statuses:
                    raise CheckFailed(f"status {status}")
                return True
            begin = end + 4


def _range_of(text: str) -> range:
    """``200`` or ``200-299``, as the configuration has judged it."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _host_of(endpoint: Endpoint, target: Target, usual: int) -> str:
    """
    What Host says: the name that the endpoint was found by, else its address. The port of a name
    is left out when it is the ``usual`` one.
    """
    if not target.is_internet:
        return endpoint.spec.name or "localhost"
    name = endpoint.spec.name.rstrip(".")
    if not name:
        return target.text
    return name if target.port == usual else f"{name}:{target.port}"

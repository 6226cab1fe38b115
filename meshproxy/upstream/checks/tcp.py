"""
The health check that connects, and may say something and expect something; over TLS where the
cluster speaks it, and then the handshake and all that is verified belong to it.

The law it keeps: what is expected is looked for in the first 64 KiB, wherever the pieces are cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.interfaces import IHealthCheck
from meshproxy.net.proxy_protocol import encode_v1, encode_v2
from meshproxy.upstream.checks.stream import Secure, converse
from meshproxy.upstream.checks.target import target_of

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.tls.client import ClientTls
    from meshproxy.upstream.endpoint import Endpoint

#: Bytes of what comes that are looked at.
LIMIT = 65536


def preamble(proxy_protocol: str | None) -> bytes:
    """
    The PROXY header of a connection that is the proxy's own (``v1``, ``v2`` or None).

    An endpoint that wants such headers takes no connection without one. Version 2 has LOCAL for
    this, version 1 UNKNOWN (the PROXY protocol, 2.1 and 2.2).
    """
    if proxy_protocol is None:
        return b""
    return encode_v1(None, None) if proxy_protocol == "v1" else encode_v2(None, None)


def bytes_of(text: str | None) -> bytes:
    """What a configuration's text stands for: UTF-8, or ``hex:`` and digits; None: nothing."""
    if text is None:
        return b""
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode("utf-8")


@implementer(IHealthCheck)
class TcpCheck:
    """``config.tcp`` says what to send and to expect; ``tls`` is the cluster's."""

    name = "tcp"

    def __init__(
        self,
        config: HealthCheck,
        reactor: Any,
        proxy_protocol: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        assert config.tcp is not None
        self._reactor = reactor
        self._timeout: float = config.timeout
        self._port = config.port
        self._tls = tls
        self._preamble = preamble(proxy_protocol)
        self._send = bytes_of(config.tcp.send)
        self._expect = bytes_of(config.tcp.expect)

    def check(self, endpoint: Endpoint) -> Deferred[None]:
        """Ask once; see :class:`IHealthCheck`."""
        expect = self._expect
        if not expect:
            heard = None
        else:
            looked = 0

            def heard(data: bytearray) -> bool:
                nonlocal looked
                found = data.find(expect, max(0, looked - len(expect) + 1)) >= 0
                looked = len(data)
                return found

        target = target_of(endpoint, self._port)
        return converse(
            self._reactor,
            target,
            self._timeout,
            self._send,
            heard,
            LIMIT,
            before=self._preamble,
            secure=None if self._tls is None else Secure(self._tls, endpoint),
        )

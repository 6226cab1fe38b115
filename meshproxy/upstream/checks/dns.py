"""
The health check that asks a name server, by UDP.

The law it keeps: each query has a random ID and a port of its own, and only an answer to it, from
where it was sent, counts; of that answer the header and the question are looked at.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from meshproxy.errors import CheckFailed
from meshproxy.interfaces import IHealthCheck
from meshproxy.upstream.checks.datagram import ask
from meshproxy.upstream.checks.target import target_of

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.upstream.endpoint import Endpoint


@implementer(IHealthCheck)
class DnsCheck:
    """
    ``config.dns`` says what to ask, and which response codes pass.

    Raises ``dns.exception.DNSException`` for a name or a type that cannot be.
    """

    name = "dns"

    def __init__(self, config: HealthCheck, reactor: Any) -> None:
        assert config.dns is not None
        self._reactor = reactor
        self._port = config.port
        self._asked = (config.dns.name, config.dns.type)
        self._passing = frozenset(dns.rcode.from_text(text) for text in config.dns.rcodes)
        dns.message.make_query(*self._asked)

    def check(self, endpoint: Endpoint) -> Deferred[None]:
        """Ask once; see :class:`IHealthCheck`."""
        target = target_of(endpoint, self._port)
        if not target.is_internet:
            return fail(CheckFailed("DNS is not asked on a UNIX socket"))
        query = dns.message.make_query(*self._asked)

        def answers(data: bytes) -> bool:
            if len(data) < 12 or data[:2] != query.id.to_bytes(2, "big"):
                return False  # late, or somebody guesses
            try:
                reply = dns.message.from_wire(data, question_only=True)
            except (dns.exception.DNSException, ValueError):
                raise CheckFailed("a malformed answer") from None
            if not query.is_response(reply):
                raise CheckFailed("an answer to another question")
            if reply.rcode() not in self._passing:
                raise CheckFailed(dns.rcode.to_text(reply.rcode()))
            return True

        return ask(
            self._reactor,
            lambda: socket.socket(target.family, socket.SOCK_DGRAM),
            target.sockaddr,
            query.to_wire(),
            answers,
        )

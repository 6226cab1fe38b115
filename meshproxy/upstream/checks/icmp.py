"""
The health check that pings: an ICMP echo request by an unprivileged socket.

The law it keeps: only the reply to this very request passes. The kernel matches the identifier
(icmp(7): a ping socket has its own) and the address; the sequence number and 16 random bytes of
data are compared here (RFC 792; RFC 4443, 4.1 and 4.2).
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from meshproxy.errors import CheckFailed
from meshproxy.interfaces import IHealthCheck
from meshproxy.upstream.checks.datagram import ask
from meshproxy.upstream.checks.target import target_of

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.upstream.endpoint import Endpoint

#: Type of the request and of the reply, by family.
_ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}

_RANGE = Path("/proc/sys/net/ipv4/ping_group_range")


def open_socket(family: int) -> socket.socket:
    """A ping socket. Raises ``OSError`` where the kernel forbids it or knows none."""
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    return socket.socket(family, socket.SOCK_DGRAM, protocol)


def forbidden(family: int) -> str | None:
    """Why this process cannot ping addresses of ``family``, for its user; None when it can."""
    try:
        open_socket(family).close()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            return f"no ICMP socket can be opened: {error.strerror}"
        try:
            allowed = " to ".join(_RANGE.read_text().split())
        except OSError:
            allowed = "unknown"
        return (
            "the kernel forbids ICMP sockets to this process: none of its groups "
            f"({', '.join(map(str, sorted({os.getegid(), *os.getgroups()})))}) is in "
            f"net.ipv4.ping_group_range ({allowed}); set it with sysctl, "
            'such as net.ipv4.ping_group_range="0 2147483647"'
        )
    return None


@implementer(IHealthCheck)
class IcmpCheck:
    """One echo request; the timeout is the asker's."""

    name = "icmp"

    def __init__(self, config: HealthCheck, reactor: Any) -> None:
        self._reactor = reactor

    def check(self, endpoint: Endpoint) -> Deferred[None]:
        """Ask once; see :class:`IHealthCheck`."""
        target = target_of(endpoint)
        kinds = _ECHO.get(socket.AddressFamily(target.family))
        if kinds is None:
            return fail(CheckFailed("a UNIX socket cannot be pinged"))
        request, reply = kinds
        _, _, *rest = target.sockaddr
        # Two bytes of sequence number and sixteen of data.
        token = os.urandom(18)

        def answers(data: bytes) -> bool:
            return len(data) == 24 and data[0] == reply and data[1] == 0 and data[6:] == token

        # The kernel fills in the checksum and the identifier.
        return ask(
            self._reactor,
            lambda: open_socket(target.family),
            (target.host, 0, *rest),
            bytes((request, 0, 0, 0, 0, 0)) + token,
            answers,
        )

"""
Where a health check asks: an endpoint's address, or another port of its host.

The law it keeps: ports are for IP addresses; a UNIX socket is asked where it is.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.net.transport import SocketAddress
    from meshproxy.upstream.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Target:
    """
    ``sockaddr`` is for ``socket.connect`` with ``family``; ``host`` is the number without brackets
    and ``port`` the port ("" and 0 for a UNIX socket); ``text`` is both, as ``[::1]:80``.
    """

    family: int
    sockaddr: SocketAddress
    host: str
    port: int
    text: str

    @property
    def is_internet(self) -> bool:
        """Whether it has a host and a port."""
        return self.family != socket.AF_UNIX


def target_of(endpoint: Endpoint, port: int | None = None) -> Target:
    """Where to ask ``endpoint``: at its own ``check_port``, else at ``port``, else at its port."""
    spec = endpoint.spec
    if spec.family == socket.AF_UNIX:
        return Target(spec.family, spec.sockaddr, "", 0, spec.text)
    host, own, *rest = spec.sockaddr
    number = spec.check_port or port or own
    text = f"[{host}]:{number}" if spec.family == socket.AF_INET6 else f"{host}:{number}"
    return Target(spec.family, (host, number, *rest), host, number, text)

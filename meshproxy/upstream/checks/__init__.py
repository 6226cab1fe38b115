"""
Ways of asking an endpoint whether it is well, those that need no protocol's room.

Asking by HTTP is :mod:`meshproxy.http.check`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.upstream.checks.command import CommandCheck
from meshproxy.upstream.checks.icmp import IcmpCheck
from meshproxy.upstream.checks.tcp import TcpCheck

if TYPE_CHECKING:
    from meshproxy.config.health import HealthCheck
    from meshproxy.interfaces import IHealthCheck
    from meshproxy.tls.client import ClientTls


def make_check(
    config: HealthCheck,
    reactor: Any,
    proxy_protocol: str | None = None,
    tls: ClientTls | None = None,
) -> IHealthCheck:
    """
    The check that ``config`` asks for: tcp, icmp, dns or command.

    ``proxy_protocol`` is the cluster's: its endpoints take no connection without such a header.
    ``tls`` is the cluster's too, for the check by TCP; the others speak protocols of their own.
    Raises ``ValueError`` when ``config`` asks for another one (http).
    """
    if config.tcp is not None:
        return TcpCheck(config, reactor, proxy_protocol, tls)
    if config.icmp is not None:
        return IcmpCheck(config, reactor)
    if config.dns is not None:
        # dnspython is large: only who asks by DNS pays for it.
        from meshproxy.upstream.checks.dns import DnsCheck

        return DnsCheck(config, reactor)
    if config.command is not None:
        return CommandCheck(config, reactor)
    raise ValueError("a check that is made elsewhere")

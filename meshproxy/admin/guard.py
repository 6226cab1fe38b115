"""
Who may ask the admin what.

The laws it keeps:

- On a loopback connection the Host must be a loopback name or address, or the address that was
  connected to: a page whose name was made to resolve to 127.0.0.1 (DNS rebinding) is refused.
- What changes state is refused when a browser says that it comes from another site: by
  Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata/) or by Origin (RFC 6454, 7).

Each function gives the reason for refusing, or None.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?").fullmatch


def host_refused(hosts: Sequence[bytes], local: str | None, version: bytes) -> str | None:
    """
    Judge the values of Host.

    ``local`` is the IP address that was connected to, None for a UNIX socket, which no browser can
    reach; ``version`` is the request's (``b"HTTP/1.0"`` may come without a Host).
    """
    if local is None or not _loopback(local):
        return None
    if not hosts and version == b"HTTP/1.0":
        return None
    match = _HOST(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return "one good Host header is needed"
    name = match[1].decode("ascii").strip("[]").lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost") or name == local or _loopback(name):
        return None
    return "the Host header names neither localhost nor a loopback address"


def post_refused(
    host: bytes | None, origins: Sequence[bytes], sites: Sequence[bytes], secure: bool
) -> str | None:
    """Judge a request that changes state, by its Host, Origins and Sec-Fetch-Sites."""
    if any(site not in (b"same-origin", b"none") for site in sites):
        return "this request comes from another site"
    own = (b"https://" if secure else b"http://") + (host or b"")
    if any(origin.lower() != own.lower() for origin in origins):
        return "this request comes from another origin"
    return None


def _loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)

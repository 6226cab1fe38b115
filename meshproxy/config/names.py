"""Names that certificates are for, and that clients ask for.

Law: a name is kept in lower case; an IP address is a name only where it says so.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

from meshproxy.config.unfit import Unfit, quoted

__all__ = ["NamePattern", "ServerName", "is_address"]

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z", re.IGNORECASE)


def is_address(value: str) -> bool:
    """Return whether `value` is an IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _dns_name(value: str) -> bool:
    labels = value.removesuffix(".").split(".")
    return len(value) <= 253 and all(_LABEL.match(label) for label in labels)


def _server_name(value: str) -> str:
    if not is_address(value) and not _dns_name(value):
        raise Unfit(f"a DNS name or an IP address is expected, not {quoted(value)}")
    return value.lower()


ServerName = Annotated[str, AfterValidator(_server_name)]
"""What a certificate must be for: a DNS name or an IP address."""


def _name_pattern(value: str) -> str:
    if value == "*":
        return value
    name = value.removeprefix("*.")
    if "*" in name or not _dns_name(name) or is_address(name):
        raise Unfit(
            f"a DNS name such as `a.example`, `*.example` or `*` is expected, not {quoted(value)}"
        )
    return value.lower().removesuffix(".")


NamePattern = Annotated[str, AfterValidator(_name_pattern)]

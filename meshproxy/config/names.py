"""Names that certificates are for, and that clients ask for.

Laws:
- A name is kept in lower case and without the dot at its end, an IP address in its shortest form.
- An IP address is a name only where it says so: no client asks for one (RFC 6066 section 3).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

from meshproxy.config.unfit import Unfit, quoted

__all__ = ["NamePattern", "ServerName", "covers_name", "is_address"]

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE | re.ASCII)
_LONGEST = 253
_WITH_PORT = re.compile(r"(?P<name>\[[^\]]*\]|[^:]+):\d{1,5}", re.ASCII)


def _address(value: str) -> str | None:
    """Return `value` in its one form if it is an IP address, else None."""
    try:
        number = ipaddress.ip_address(value)
    except ValueError:
        return None
    # A zone means something on one machine only, so no certificate has one.
    return None if "%" in value else str(number)


def is_address(value: str) -> bool:
    """Return whether `value` is an IP address."""
    return _address(value) is not None


def _dns_name(value: str) -> str | None:
    """Return `value` in its one form if it is a DNS name, else None."""
    name = value.removesuffix(".").lower()
    labels = name.split(".")
    good = len(name) <= _LONGEST and all(_LABEL.fullmatch(label) for label in labels)
    # No top-level domain is a number: what ends so is an address with a slip in it.
    return name if good and not labels[-1].isdigit() else None


def _suggested(value: str) -> str | None:
    """Return the name that `value` was probably meant to be, or None."""
    text = value.strip()
    if len(text) > _LONGEST:
        return None
    if "://" in text:
        text = text.split("://", 1)[1].split("/", 1)[0]
    match = _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match["name"]
    text = text.removeprefix("[").removesuffix("]")
    if not text.isascii():
        try:
            text = text.encode("idna").decode()
        except UnicodeError:
            return None  # no such name can exist, so there is nothing to suggest
    found = _address(text) or _dns_name(text)
    return found if found != value else None


def _server_name(value: str) -> str:
    found = _address(value) or _dns_name(value)
    if found is not None:
        return found
    if "*" in value:
        raise Unfit(f"one DNS name or IP address is expected, not {quoted(value)}")
    raise Unfit(f"a DNS name or an IP address is expected, not {quoted(value)}", _suggested(value))


ServerName = Annotated[str, AfterValidator(_server_name)]
"""What a certificate must be for: a DNS name or an IP address."""


def _name_pattern(value: str) -> str:
    if value == "*":
        return value
    prefix = "*." if value.startswith("*.") else ""
    name = value.removeprefix(prefix)
    found = _dns_name(name)
    if found is not None:
        return prefix + found
    if "*" in name:
        raise Unfit(f"'*' stands alone or as '*.' at the beginning, unlike in {quoted(value)}")
    if is_address(name.removeprefix("[").removesuffix("]")):
        raise Unfit(f"clients never ask for an IP address such as {quoted(value)} by name")
    hint = _suggested(name)
    raise Unfit(
        f"a DNS name such as a.example, '*.example' or '*' is expected, not {quoted(value)}",
        None if hint is None or is_address(hint) else prefix + hint,
    )


NamePattern = Annotated[str, AfterValidator(_name_pattern)]
"""What a client asks for: a DNS name, `*.suffix` for all names below one, or `*` for any."""


def covers_name(wide: str, narrow: str) -> bool:
    """Return whether the pattern `wide` takes every name that `narrow` takes."""
    if wide in ("*", narrow):
        return True
    # "*.b.example" takes what "a.b.example" and "*.a.b.example" do.
    return wide.startswith("*.") and narrow.endswith(wide[1:])

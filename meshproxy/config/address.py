"""Addresses: where a listener listens and where an endpoint is.

Laws:
- A parsed address needs no look-up: its host is a number, so nothing here or later blocks on DNS.
- `Address.text` is canonical: two texts that mean the same address give the same one.
- The functions raise `Unfit` and nothing else.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from meshproxy.config.unfit import LATER, Unfit, quoted

__all__ = ["Address", "is_name", "parse_endpoint", "parse_listen", "parse_target"]

_LONGEST_PATH = 107
"""Bytes of a UNIX socket's path: `sun_path` holds 108 with the closing NUL (unix(7))."""

_DESCRIPTION = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(.*)", re.DOTALL)
_SERVER_PREFIXES = frozenset({"tcp", "tcp6", "unix", "ssl", "tls", "systemd", "haproxy", "stdio"})
"""Twisted's own server endpoints; others are known by a second colon or an `=`."""

_UNIX_OPTION = re.compile(r":(mode|backlog|lockfile|wantPID)=")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # RFC 1035 section 2.3.4, and "_"
_NAME = re.compile(rf"(?=.{{1,254}}$){_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """One address, ready for socket.bind or socket.connect.

    `text` is canonical: `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`, or an endpoint
    description as it was written. `family` is AF_INET, AF_INET6 or AF_UNIX, and 0 for a
    description or a host name to look up. `host` and `port` are for the first two and for a name,
    `path` for AF_UNIX, `description` for `twisted.internet.endpoints.serverFromString`; the
    others are empty or 0.
    """

    text: str
    family: int
    host: str = ""
    port: int = 0
    path: str = ""
    description: str = ""

    @property
    def sockaddr(self) -> tuple[str, int] | str:
        """What socket.bind and socket.connect take. Raises ValueError for a description."""
        if self.family == socket.AF_UNIX:
            return self.path
        if self.family == 0:
            what = "a host name" if self.host else "an endpoint description"
            raise ValueError(f"{what} has no socket address: {self.text}")
        return (self.host, self.port)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it; False for a description, which none can tell."""
        if self.family == socket.AF_UNIX:
            return True
        return self.family != 0 and ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return self.text


def parse_listen(value: object) -> Address:
    """Return where to listen: `127.0.0.1:80`, `:80`, `[::1]:80`, `unix:/p`, or a description.

    `:80` is every IPv4 address; port 0 lets the system choose. Raises `Unfit`.
    """
    if isinstance(value, Address):
        return value
    text = _text_of(value)
    if isinstance(value, int) or (text.isascii() and text.isdigit()):
        hint = f":{text}" if len(text) <= 5 else None
        raise Unfit(f"an address is needed, and {quoted(value)} is only a number", hint)
    if text.startswith("unix:") and not _UNIX_OPTION.search(text):
        return _unix(text)
    _refuse_bare_ipv6(text)
    match = _DESCRIPTION.fullmatch(text)
    if match and (match[1] in _SERVER_PREFIXES or ":" in match[2] or "=" in match[2]):
        return _described(text, match[1], match[2])
    host, port = _split(text)
    if host == "":
        host = "0.0.0.0"
    elif host == "*":
        raise Unfit("'*' is not an address; for every address leave it out", f":{port}")
    number = _number(host)
    if number is None:
        raise Unfit(f"a listener needs an IP address or localhost, and {quoted(host)} is a name")
    return _internet(number, port)


def parse_endpoint(value: object) -> Address:
    """Return where an endpoint is: `127.0.0.1:80`, `localhost:80`, `[::1]:80` or `unix:/p`.

    `localhost` is 127.0.0.1 (RFC 6761 section 6.3). Raises `Unfit`, also for a host name.
    """
    address = parse_target(value)
    if address.family == 0:
        raise Unfit(f"an IP address is needed, and {quoted(address.host)} is a name")
    return address


def is_name(value: object) -> bool:
    """Return whether `value` is an endpoint by a host name, which must be looked up."""
    try:
        address = parse_target(value)
    except Unfit:
        return False  # the field itself reports it
    return address.family == 0


def parse_target(value: object) -> Address:
    """As `parse_endpoint`, but a host name is taken too: `family` is 0 and `host` the name."""
    if isinstance(value, Address):
        return value
    text = _text_of(value)
    if isinstance(value, int) or (text.isascii() and text.isdigit()):
        hint = f"127.0.0.1:{text}" if len(text) <= 5 else None
        raise Unfit(f"an address is needed, and {quoted(value)} is only a number", hint)
    if text.startswith("unix:"):
        return _unix(text)
    _refuse_bare_ipv6(text)
    host, port = _split(text)
    if host == "":
        raise Unfit("an endpoint needs a host before the port", f"127.0.0.1:{port}")
    number = _number(host)
    if number is None and not _NAME.fullmatch(host):
        raise Unfit(f"neither an IP address nor a host name: {quoted(host)}")
    if port == 0:
        raise Unfit("an endpoint's port is 1 to 65535, not 0")
    if number is None:
        host = host.lower()
        return Address(f"{host}:{port}", 0, host, port)
    if number.is_unspecified:
        local = f"127.0.0.1:{port}" if number.version == 4 else f"[::1]:{port}"
        raise Unfit(f"{number} means every address, and nobody can connect to that", local)
    return _internet(number, port)


def _text_of(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Unfit(f"an address such as 127.0.0.1:80 is expected, not {quoted(value)}")
    text = str(value) if isinstance(value, str) or abs(value) < 10**12 else "0" * 12
    if not text:
        raise Unfit("an address such as 127.0.0.1:80 is expected, not nothing")
    if len(text) > 1024 or not text.isprintable() or text != text.strip():
        raise Unfit(f"an address such as 127.0.0.1:80 is expected, not {quoted(value)}")
    if "://" in text:
        rest = text.split("://", 1)[1].split("/", 1)[0]
        hint = rest if re.fullmatch(r"[0-9.]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", rest) else None
        raise Unfit(f"an address has no scheme or path: {quoted(value)}", hint)
    return text


def _refuse_bare_ipv6(text: str) -> None:
    """Raise `Unfit` for an IPv6 address that lacks its brackets, or its port."""
    if text.startswith("["):
        return
    host, _, port = text.rpartition(":")
    if host.count(":") >= 2 and port.isdigit() and len(port) <= 5 and _ipv6(host) is not None:
        raise Unfit("an IPv6 address with a port is written in brackets", f"[{host}]:{port}")
    if text.count(":") >= 2 and _ipv6(text) is not None:
        raise Unfit(f"the port is missing: write [{text}]:PORT")


def _split(text: str) -> tuple[str, int]:
    """Return the host (without brackets, may be empty) and the port of `host:port`."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not host:
            raise Unfit(f"an IPv6 address is written as [::1]:80, not {quoted(text)}")
        if _ipv6(host) is None:
            raise Unfit(f"not an IPv6 address: {quoted(host)}")
        if not rest.startswith(":"):
            raise Unfit(f"the port is missing: write [{host}]:PORT")
        port = rest[1:]
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise Unfit(f"the port is missing: write {text[:64]}:PORT")
    if not _is_port(port):
        raise Unfit(f"a port is a number from 0 to 65535, not {quoted(port)}")
    return host, int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _ipv6(host: str) -> ipaddress.IPv6Address | None:
    try:
        number = ipaddress.IPv6Address(host)
    except ValueError:
        return None
    if number.scope_id is not None:
        raise Unfit(f"an IPv6 zone ('%{number.scope_id}') is {LATER}")
    return number


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that `host` is, or None for a name. Raises `Unfit` for a bad number."""
    if host.lower() == "localhost":
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", host):
            raise Unfit(f"not an IPv4 address: {quoted(host)}") from None
    return _ipv6(host)


def _internet(number: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Address:
    host = str(number)
    if number.version == 4:
        return Address(f"{host}:{port}", socket.AF_INET, host, port)
    return Address(f"[{host}]:{port}", socket.AF_INET6, host, port)


def _unix(text: str) -> Address:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise Unfit(f"a UNIX socket's path begins with '/': {quoted(text)}")
    if path.endswith("/"):
        raise Unfit(f"a UNIX socket's path names a file, not a directory: {quoted(text)}")
    if len(path.encode("utf-8", "surrogatepass")) > _LONGEST_PATH:
        raise Unfit(f"a UNIX socket's path is at most {_LONGEST_PATH} bytes")
    return Address(text, socket.AF_UNIX, path=path)


def _described(text: str, prefix: str, rest: str) -> Address:
    """Return a description; its prefix and the port of tcp are all that can be judged here."""
    if prefix in ("tcp", "tcp6"):
        port = rest.split(":", 1)[0].removeprefix("port=")
        if "=" not in port and not _is_port(port):
            raise Unfit(
                f"'{prefix}:' begins an endpoint description, as in {prefix}:8080; "
                f"{quoted(port)} is not a port"
            )
    return Address(text, 0, description=text)

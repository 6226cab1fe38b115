"""
What the machine knows of names: /etc/hosts and /etc/resolv.conf.

The law it keeps: a line that makes no sense is passed over, as the C library does, and costs the
others nothing; that is why dnspython's reader of resolv.conf, which refuses the file for one such
line, is not used. A file is read again when it changed, and at most 1 MiB of it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HOSTS = "/etc/hosts"
RESOLV_CONF = "/etc/resolv.conf"

_LONGEST = 1 << 20
_MOST_SERVERS = 16
_MOST_SUFFIXES = 32
_MOST_DOTS = 15  # resolv.conf(5)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Whom to ask, and what for.

    ``search`` are the suffixes for names that have fewer than ``ndots`` dots.
    """

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", 53),)
    search: tuple[str, ...] = ()
    ndots: int = 1


class _Watched:
    """A file that is read when it is not what it was."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: Any = None

    def fresh(self) -> list[list[str]] | None:
        """Words by line, comments left out; None when the file is what it was, [] without one."""
        try:
            found = os.stat(self._path)
            seen: Any = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            seen = ()
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            with open(self._path, "rb") as file:
                text = file.read(_LONGEST).decode("utf-8", "replace")
        except OSError:
            return []
        return list(_lines(text))


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line[:1] not in ("#", ";") and (words := line.split("#", 1)[0].split()):
            yield words


class Hosts:
    """/etc/hosts (hosts(5))."""

    def __init__(self, path: str = HOSTS) -> None:
        self._file = _Watched(path)
        self._names: dict[str, list[str]] = {}

    def find(self, name: str) -> list[str]:
        """The addresses of ``name`` (lower case, no dot at its end), in the file's order."""
        lines = self._file.fresh()
        if lines is not None:
            self._names = {}
            for address, *names in lines:
                if _is_address(address):
                    for known in names:
                        held = self._names.setdefault(known.lower().removesuffix("."), [])
                        if address not in held:
                            held.append(address)
        return self._names.get(name, [])


class ResolvConf:
    """/etc/resolv.conf (resolv.conf(5)): ``nameserver``, ``search``, ``domain``, ``ndots``."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._file = _Watched(path)
        self._settings = Settings()

    def settings(self) -> Settings:
        """What the file says now."""
        lines = self._file.fresh()
        if lines is not None:
            self._settings = _settings(lines)
        return self._settings


def _settings(lines: list[list[str]]) -> Settings:
    servers: list[tuple[str, int]] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for word, *rest in lines:
        if word == "nameserver" and rest and _is_address(rest[0]):
            servers.append((rest[0], 53))
        elif word in ("search", "domain"):
            search = tuple(suffix.strip(".").lower() for suffix in rest if suffix.strip("."))
        elif word == "options":
            for option in rest:
                number = option.removeprefix("ndots:")
                if number != option and number.isascii() and number.isdigit():
                    ndots = min(int(number[:4]), _MOST_DOTS)
    if not servers:
        return Settings(search=search[:_MOST_SUFFIXES], ndots=ndots)
    return Settings(tuple(servers[:_MOST_SERVERS]), search[:_MOST_SUFFIXES], ndots)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

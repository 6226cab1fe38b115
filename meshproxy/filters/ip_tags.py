"""
Names for clients, by their address.

The law it keeps: what a client says of itself is taken out; an address that was seen costs one
look-up, another one a look-up for each length of prefix that is in use, however many networks there
are. A file that is wrong changes nothing: what was read last stays.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, HeaderName, Headers, Unfit
from meshproxy.filters._networks import (
    CACHED,
    LONGEST,
    UNIX,
    Network,
    check_network,
    number_of,
)
from meshproxy.filters._own_headers import OwnHeaders
from meshproxy.interfaces import IContextFilter, IFilterContext, IFilterService, IRequestFilter

__all__ = ["IpTags", "Tags", "read_tags"]

_TAG = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LONGEST_FILE = 64 << 20
_LOOK = 1.0
"""Seconds between two looks at the file."""


def _tag(value: str) -> str:
    if not _TAG.fullmatch(value):
        raise Unfit(f"a tag is up to 64 letters, digits and '_.:-', not '{value[:64]}'")
    return value


class Tags:
    """``pairs`` of network and tag, ready for looking up. Raises ``Unfit`` for a bad network."""

    def __init__(self, pairs: Iterable[tuple[str, str]], longest: bool) -> None:
        self._longest = longest
        self._unix: tuple[bytes, ...] = ()
        self.size = 0
        # bits of the family -> how far to shift -> prefix -> tags
        tables: dict[int, dict[int, dict[int, tuple[bytes, ...]]]] = {32: {}, 128: {}}
        for text, name in pairs:
            self.size += 1
            tag = name.encode()
            if text == "unix":
                self._unix = (*self._unix, tag)
                continue
            bits, shift, prefix = _prefix(text)
            table = tables[bits].setdefault(shift, {})
            held = table.get(prefix, ())
            if tag not in held:
                table[prefix] = (*held, tag)
        # The longest prefixes first.
        self._tables = {bits: sorted(found.items()) for bits, found in tables.items()}
        self._remembered = lru_cache(CACHED)(self._of)

    def of(self, ip: bytes) -> bytes:
        """The tags of the address ``ip`` (as ``client_ip``, so any text), joined by commas."""
        return self._remembered(ip) if len(ip) <= LONGEST else b""

    def _of(self, ip: bytes) -> bytes:
        bits, number = number_of(ip)
        if not bits:
            return b",".join(self._unix) if ip == UNIX else b""
        found: dict[bytes, None] = {}
        for shift, table in self._tables[bits]:
            tags = table.get(number >> shift)
            if tags is not None:
                found.update(dict.fromkeys(tags))
                if self._longest:
                    break
        return b",".join(found)


def _prefix(text: str) -> tuple[int, int, int]:
    """Bits of the family, bits of the host and the prefix of a network. Raises ``Unfit``."""
    address, slash, length = text.partition("/")
    bits, number = number_of(address.encode())
    wide = bits
    if bits == 32 and ":" in address:  # mapped into IPv6
        wide = 128
    if bits and (not slash or (length.isascii() and length.isdigit() and len(length) < 4)):
        shift = wide - int(length) if slash else 0
        if 0 <= shift <= bits and not number & ((1 << shift) - 1):
            return bits, shift, number >> shift
    network = ipaddress.ip_network(check_network(text))  # it says what is wrong
    return (
        network.max_prefixlen,
        network.max_prefixlen - network.prefixlen,
        int(network.network_address) >> (network.max_prefixlen - network.prefixlen),
    )


def read_tags(text: str, name: str) -> Iterator[tuple[str, str]]:
    """
    The networks and tags of a file: ``10.0.0.0/8 office`` a line; ``#`` begins a comment.

    Raises ``ValueError`` that names the line.
    """
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if len(words) != 2:
                raise Unfit("a line is a network and a tag")
            if words[0] != "unix":
                _prefix(words[0])
            yield words[0], _tag(words[1])
        except Unfit as error:
            raise ValueError(f"{name}:{number}: {error.message}") from None


@implementer(IRequestFilter, IContextFilter, IFilterService)
class IpTags:
    """
    Tell who a client is by its address: ``ip_tags`` in the metadata, and a request header.

    Several tags are joined by commas, those of the longest prefix first.
    """

    class Options(api.Options):
        """Networks and their names."""

        tags: dict[Annotated[str, AfterValidator(_tag)], list[Network]] = Field(
            default={}, description="Tags, and the addresses and networks that have them."
        )
        file: str | None = Field(
            default=None,
            min_length=1,
            description="A file with a network and a tag a line, `10.0.0.0/8 office`, relative to "
            "the configuration; read again when it changes.",
        )
        match: Literal["all", "longest"] = Field(
            default="all",
            description="`all` tags of an address, or those of its `longest` prefix alone.",
        )
        header: HeaderName | None = Field(
            default="x-envoy-ip-tags",
            description="The request header that endpoints see; a client's own is taken out.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield a filter without tags."""
            yield from super().faults(given)
            if "tags" not in given and "file" not in given:
                yield Unfit("write 'tags', 'file' or both")

    def __init__(self, options: Options) -> None:
        self._longest = options.match == "longest"
        self._inline = tuple(
            (network, tag) for tag, networks in options.tags.items() for network in networks
        )
        self._tags = Tags(self._inline, self._longest)
        self._given_file = options.file
        self._file = ""
        self._header = options.header.encode() if options.header is not None else b""
        self._own = OwnHeaders(() if options.header is None else [options.header])
        #: A header is made once for those who have the same tags.
        self._field = lru_cache(CACHED)(self._make_field)
        self._seen: tuple[int, int, int] | None = None
        self._look_at = float("inf")

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._context = context
        self._now = context.now
        self._tagged = context.counter("tagged", "Requests of clients that have a tag")
        self._untagged = context.counter("untagged", "Requests of clients that have none")
        self._reloads = context.counter("reloads", "Times that the file was read again")
        self._failures = context.counter("reload_failures", "Times that the file was wrong")
        self._networks = context.gauge("networks", "Networks that have a tag")
        self._networks.set(self._tags.size)
        if self._given_file is not None:
            self._file = context.path(self._given_file)

    def start(self) -> None:
        """Part of ``IFilterService``. Raises ``OSError`` and ``ValueError`` for the file."""
        if self._file:
            self._seen = self._state()
            self._read()
            self._look_at = self._now() + _LOOK

    def stop(self) -> None:
        """Part of ``IFilterService``."""

    def request(self, exchange: Any) -> None:
        """Part of ``IRequestFilter``."""
        if self._file and self._now() >= self._look_at:
            self._look()
        found = self._tags.of(exchange.client_ip)
        self._own.remove_from(exchange.request.headers)
        if not found:
            self._untagged.inc()
            return
        self._tagged.inc()
        exchange.metadata["ip_tags"] = found
        if self._header:
            exchange.request.headers.fields.append(self._field(found))

    def _make_field(self, tags: bytes) -> Any:
        return Headers.of([(self._header, tags)]).fields[0]

    def _state(self) -> tuple[int, int, int]:
        found = os.stat(self._file)
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _look(self) -> None:
        """Read the file again if it changed; a wrong one is told once."""
        self._look_at = self._now() + _LOOK
        try:
            state = self._state()
            if state == self._seen:
                return
            self._seen = state
            self._read()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                if self._seen == (0, 0, 0):
                    return
                self._seen = (0, 0, 0)
            self._failures.inc()
            self._context.log(f"the file of tags stays as it was: {error}")
        else:
            self._reloads.inc()

    def _read(self) -> None:
        with open(self._file, encoding="utf-8") as file:
            text = file.read(_LONGEST_FILE + 1)
        if len(text) > _LONGEST_FILE:
            raise ValueError(f"{self._file} is longer than 64 MiB")
        self._tags = Tags(
            (*self._inline, *read_tags(text, self._file)),
            self._longest,
        )
        self._networks.set(self._tags.size)

"""
What a proxy adds to the messages it forwards.

The law it keeps (Envoy's, with ``use_remote_address``): the address we saw is appended to
``x-forwarded-for``; ``x-forwarded-proto``, ``x-forwarded-host`` and ``x-request-id`` are ours,
unless ``trusted_hops`` says that proxies in front of us are to be believed. A client cannot
make its own address.
"""

from __future__ import annotations

import os
import struct
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from meshproxy.http.headers import (
    DATE,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    REQUEST_ID,
    SERVER,
    TE,
    VIA,
    Field,
    Headers,
    make_field,
)

if TYPE_CHECKING:
    from meshproxy.config import Http
    from meshproxy.http.exchange import Exchange

_CACHED = 4096
_BATCH = 256  # request ids drawn from the kernel at a time


class RequestIds:
    """Random UUIDs (version 4, RFC 9562) as bytes, drawn from the kernel in batches."""

    __slots__ = ("_ids",)

    # The digits of version and variant are fixed; those drawn for them are skipped.
    _split = struct.Struct("8s4sx3sx3s12s" * _BATCH).unpack
    _form = b" ".join([b"%b-%b-4%b-a%b-%b"] * _BATCH)

    def __init__(self) -> None:
        self._ids: list[bytes] = []

    def next(self) -> bytes:
        """A new id, 36 bytes."""
        if not self._ids:
            digits = os.urandom(16 * _BATCH).hex().encode()
            self._ids = (self._form % self._split(digits)).split(b" ")
        return self._ids.pop()


def trusted_client(values: list[bytes], hops: int) -> bytes | None:
    """
    The client's address by ``x-forwarded-for`` when the last ``hops`` proxies are trusted: the
    entry that the outermost of them appended. None when there are fewer entries.
    """
    entries = [entry.strip() for entry in b",".join(values).split(b",")]
    if len(entries) < hops or not entries[-hops]:
        return None
    return entries[-hops]


class Forward:
    """Adds the forwarding headers to a request; called with the exchange."""

    def __init__(self, http: Http, scheme: bytes) -> None:
        self._hops: int = http.trusted_hops
        self._ids = RequestIds() if http.request_id else None
        self._proto = make_field(b"x-forwarded-proto", scheme)
        self._scheme = scheme
        self._forwarded: bool = http.forwarded
        self._via = http.via.encode() if http.via else b""
        self._addresses: dict[bytes, Field] = {}
        self._hosts: dict[bytes, Field] = {}

    def __call__(self, exchange: Exchange) -> None:
        headers = exchange.request_headers
        fields = headers.fields
        if headers.marks:
            for field in fields:
                if field[3] > TE:
                    self._with_predecessors(exchange)
                    return
        address = exchange.client_ip
        fields.append(self._addresses.get(address) or self._address_field(address))
        fields.append(self._proto)
        authority = exchange.authority
        if authority:  # HTTP/1.0 may name none
            fields.append(self._hosts.get(authority) or self._host_field(authority))
        ids = self._ids
        if ids is not None:
            exchange.request_id = number = ids.next()
            fields.append((b"x-request-id", number, b"x-request-id: %b\r\n" % number, REQUEST_ID))
        if self._forwarded or self._via:
            self._on_demand(exchange, [], [])

    def _address_field(self, address: bytes) -> Field:
        field = make_field(b"x-forwarded-for", address)
        if len(self._addresses) >= _CACHED:
            self._addresses.clear()
        self._addresses[address] = field
        return field

    def _host_field(self, authority: bytes) -> Field:
        field = make_field(b"x-forwarded-host", authority)
        if len(self._hosts) >= _CACHED:
            self._hosts.clear()
        self._hosts[authority] = field
        return field

    def _with_predecessors(self, exchange: Exchange) -> None:
        """The request carries forwarding headers already."""
        held = exchange.request_headers.fields
        kept: list[Field] = []
        found: dict[int, list[Field]] = {}
        for field in held:
            if field[3] > TE and field[3] not in (SERVER, DATE):
                found.setdefault(field[3], []).append(field)
            else:
                kept.append(field)
        hops = self._hops
        values = [field[1] for field in found.get(FORWARDED_FOR, ())]
        address = exchange.stream.client_ip
        kept.append(make_field(b"x-forwarded-for", b", ".join([*values, address])))
        proto = found.get(FORWARDED_PROTO)
        kept.append(proto[0] if hops and proto else self._proto)
        host = found.get(FORWARDED_HOST)
        if hops and host:
            kept.append(host[0])
        elif exchange.authority:
            kept.append(self._host_field(exchange.authority))
        number = found.get(REQUEST_ID)
        if number and (hops or self._ids is None):
            kept.append(number[0])
            exchange.request_id = number[0][1]
        elif self._ids is not None:
            exchange.request_id = fresh = self._ids.next()
            kept.append(make_field(b"x-request-id", fresh))
        exchange.request_headers.fields = kept
        self._on_demand(exchange, found.get(FORWARDED, []), found.get(VIA, []))

    def _on_demand(self, exchange: Exchange, forwarded: list[Field], via: list[Field]) -> None:
        fields = exchange.request_headers.fields
        values = [field[1] for field in forwarded]
        if self._forwarded:
            address = exchange.stream.client_ip
            if b":" in address:
                address = b'"[%b]"' % address
            values.append(
                b'for=%b;host="%b";proto=%b' % (address, exchange.authority, self._scheme)
            )
        if values:
            fields.append(make_field(b"forwarded", b", ".join(values)))
        values = [field[1] for field in via]
        if self._via:
            version = exchange.protocol[5:]
            values.append(b"%b %b" % (version, self._via))
        if values:
            fields.append(make_field(b"via", b", ".join(values)))


class Adorn:
    """Puts ``server`` and ``date`` into responses."""

    def __init__(self, http: Http) -> None:
        self._server = make_field(b"server", http.server.encode()) if http.server else None
        self._via = http.via.encode() if http.via else b""
        self._date = make_field(b"date", b"")
        self._until = 0.0

    def adorn(self, headers: Headers, now: float) -> None:
        """``server`` is replaced (unless it is to pass), ``date`` added where it is absent."""
        fields = headers.fields
        server = self._server
        served = dated = False
        for number, field in enumerate(fields):
            kind = field[3]
            if kind:
                if kind == DATE:
                    dated = True
                elif kind == SERVER:
                    served = True
                    if server is not None:
                        fields[number] = server
        if not dated:
            if now >= self._until:
                self._until = now + 1.0 - time.time() % 1.0
                self._date = make_field(b"date", formatdate(usegmt=True).encode())
            fields.append(self._date)
        if server is not None and not served:
            fields.append(server)
        if self._via:
            fields.append(make_field(b"via", b"1.1 %b" % self._via))

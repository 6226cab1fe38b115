"""
Which endpoint a client's requests belong to: by a hash of something in them, or by a cookie.

The law it keeps: what is hashed is compiled once; the same value gives the same number in every
process. A cookie never names an endpoint's address, and what a client puts into one can do no more
than choose among endpoints that are well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from meshproxy.http.headers import Headers, make_field
from meshproxy.upstream.hashing import hash64

if TYPE_CHECKING:
    from meshproxy.config import HashBy, HashCookie
    from meshproxy.http.exchange import Exchange
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

Value = Callable[["Exchange"], bytes | None]


def cookie_value(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first cookie of that name (RFC 6265, 4.2), or None."""
    for field in headers.fields:
        if field[0] == b"cookie":
            for part in field[1].split(b";"):
                held, equals, value = part.strip().partition(b"=")
                if equals and held == name:
                    return value
    return None


def query_value(path: bytes, name: bytes) -> bytes | None:
    """The value of the first parameter of that name in a target's query, decoded, or None."""
    _, mark, query = path.partition(b"?")
    if not mark:
        return None
    for part in query.split(b"&"):
        held, _, value = part.partition(b"=")
        if unquote_to_bytes(held) == name:
            return unquote_to_bytes(value)
    return None


def _client(exchange: Exchange) -> bytes | None:
    return exchange.client_ip


def _compile(key: HashBy) -> Value:
    if key.header is not None:
        name = key.header.encode()
        if name == b"host":  # the codec took it out of the others
            return lambda exchange: exchange.authority or None
        return lambda exchange: exchange.request_headers.get(name)
    if key.cookie is not None:
        cookie = key.cookie.name.encode()
        return lambda exchange: cookie_value(exchange.request_headers, cookie) or None
    if key.query is not None:
        parameter = key.query.encode()
        return lambda exchange: query_value(exchange.target, parameter)
    return _client


class _Issue:
    """Makes the ``set-cookie`` fields of one cookie."""

    __slots__ = ("_head", "_tail", "name")

    def __init__(self, cookie: HashCookie) -> None:
        self.name = cookie.name.encode()
        self._head = self.name + b"="
        tail = f"; Path={cookie.path}; HttpOnly; SameSite=Lax"
        if cookie.ttl:
            tail += f"; Max-Age={int(cookie.ttl) or 1}"
        self._tail = tail.encode()

    def put(self, headers: Headers, value: bytes, secure: bool) -> None:
        tail = self._tail + b"; Secure" if secure else self._tail
        headers.fields.append(make_field(b"set-cookie", self._head + value + tail))


class Affinity:
    """The choice of an endpoint of ``group`` by what a request holds."""

    __slots__ = ("_group", "_hashes", "_issue", "_sticky", "_values")

    def __init__(self, group: Group, keys: Sequence[HashBy] | None) -> None:
        self._group = group
        config = group.cluster.config
        sticky = config.sticky
        self._sticky = _Issue(sticky.cookie) if sticky is not None else None
        self._hashes = group.by_hash
        keys = keys or config.hash_by or ()
        self._values: list[Value] = [_compile(key) for key in keys] or [_client]
        # The cookie that a client is given when nothing else of its request decides.
        issued = next((key.cookie for key in keys if key.cookie is not None), None)
        self._issue = _Issue(issued) if issued is not None and self._hashes else None
        if self._sticky is not None:
            self._issue = None

    @property
    def marks(self) -> bool:
        """Whether responses may get a cookie."""
        return self._sticky is not None or self._issue is not None

    def choose(self, exchange: Exchange) -> Endpoint | None:
        """The endpoint for a request; None when none is to be had."""
        group = self._group
        sticky = self._sticky
        if sticky is not None:
            token = cookie_value(exchange.request_headers, sticky.name)
            if token is not None:
                exchange.cookie = token
                endpoint = group.cluster.by_token(token, group)
                if endpoint is not None:
                    return endpoint
        number = self.number_of(exchange)
        return group.pick() if number is None else group.pick_by(number)

    def number_of(self, exchange: Exchange) -> int | None:
        """What a hash goes by; None when nothing does."""
        if not self._hashes:
            return None
        for value_of in self._values:
            value = value_of(exchange)
            if value is not None:
                return hash64(value)
        if self._issue is None:
            return None
        if not exchange.cookie:
            exchange.cookie = os.urandom(8).hex().encode()
        return hash64(exchange.cookie)

    def mark(self, exchange: Exchange, headers: Headers) -> None:
        """Give the client the cookie that brings it back, unless it has it."""
        secure = exchange.scheme == b"https"
        sticky = self._sticky
        if sticky is not None:
            token = exchange.endpoint.token  # type: ignore[union-attr]
            if token != exchange.cookie:
                sticky.put(headers, token, secure)
        elif self._issue is not None and exchange.cookie:
            self._issue.put(headers, exchange.cookie, secure)


class Affinities:
    """The same for a route with several groups: each has its own."""

    __slots__ = ("_by_group",)

    def __init__(self, by_group: dict[Group, Affinity]) -> None:
        self._by_group = by_group

    @property
    def marks(self) -> bool:
        """See :attr:`Affinity.marks`."""
        return any(affinity.marks for affinity in self._by_group.values())

    def choose(self, exchange: Exchange) -> Endpoint | None:
        """See :meth:`Affinity.choose`."""
        return self._by_group[exchange.group].choose(exchange)

    def number_of(self, exchange: Exchange) -> int | None:
        """See :meth:`Affinity.number_of`."""
        return self._by_group[exchange.group].number_of(exchange)

    def mark(self, exchange: Exchange, headers: Headers) -> None:
        """See :meth:`Affinity.mark`."""
        self._by_group[exchange.group].mark(exchange, headers)


def compile_affinity(
    groups: Sequence[Group], keys: Sequence[HashBy] | None
) -> Affinity | Affinities | None:
    """
    What chooses for a route to ``groups``; ``keys`` are the route's ``hash_by``.

    None when its clusters choose without looking at the request.
    """
    if not any(g.by_hash or g.cluster.config.sticky is not None for g in groups):
        return None
    if len(groups) == 1:
        return Affinity(groups[0], keys)
    return Affinities({group: Affinity(group, keys) for group in groups})

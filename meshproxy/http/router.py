"""
Which route takes a request.

The law it keeps: the first route of the file that matches wins, and a table of a thousand
routes is not scanned for it. What a path can match is found by exact and prefix look-ups, kept
in a bounded cache, and only the candidates are asked about methods, headers and query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meshproxy.http.predicates import compile_predicate

if TYPE_CHECKING:
    from meshproxy.config import Match
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.headers import Headers
    from meshproxy.upstream.cluster import Cluster

#: Paths remembered for each table, and the longest of them in bytes.
PATHS = 4096
PATH = 512
#: Hosts remembered for each listener.
HOSTS = 1024


class Route:
    """
    A compiled route. Exactly one of ``act``, ``cluster`` and ``pick_cluster`` is set:
    ``act(exchange)`` answers by itself.
    """

    __slots__ = (
        "act",
        "cluster",
        "edit_response",
        "match",
        "name_bytes",
        "pick_cluster",
        "predicate",
        "prepare",
        "responses",
        "timeout",
        "upgrades",
    )

    def __init__(self, name: str, match: Match) -> None:
        self.name_bytes = name.encode()
        self.match = match
        self.predicate = compile_predicate(match)
        self.act: Callable[[Exchange], None] | None = None
        self.cluster: Cluster | None = None
        self.pick_cluster: Callable[[], Cluster] | None = None
        self.prepare: Callable[[Exchange], None] | None = None
        self.edit_response: Callable[[Headers], None] | None = None
        self.timeout = 0.0
        self.upgrades: frozenset[bytes] = frozenset()
        self.responses: list[int] = []


class Table:
    """The routes of one host (or of the rest)."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = list(routes)
        self._exact: dict[bytes, list[int]] = {}
        # length -> prefix -> [(number, on segment boundaries)]
        prefixes: dict[int, dict[bytes, list[tuple[int, bool]]]] = {}
        self._regexes: list[tuple[int, Callable[[bytes], object]]] = []
        self._any: list[int] = []
        self._cache: dict[bytes, tuple[Route, ...]] = {}
        for number, route in enumerate(self._routes):
            match = route.match
            if match.path is not None:
                self._exact.setdefault(match.path.encode(), []).append(number)
            elif match.prefix is not None:
                prefix = match.prefix.encode()
                whole = match.on_segments and not prefix.endswith(b"/")
                by_length = prefixes.setdefault(len(prefix), {})
                by_length.setdefault(prefix, []).append((number, whole))
            elif match.regex is not None:
                self._regexes.append((number, re.compile(match.regex.encode()).fullmatch))
            else:
                self._any.append(number)
        self._prefixes = sorted(prefixes.items())

    def match(self, exchange: Exchange) -> Route | None:
        """The first route that takes the exchange, by its path, then by everything else."""
        path = exchange.path
        candidates = self._cache.get(path)
        if candidates is None:
            candidates = self._candidates(path)
        for route in candidates:
            predicate = route.predicate
            if predicate is None or predicate(exchange):
                return route
        return None

    def _candidates(self, target: bytes) -> tuple[Route, ...]:
        path, query, _ = target.partition(b"?")
        if query:
            # Queries are too many to be remembered with their paths.
            found = self._cache.get(path)
            if found is not None:
                return found
        numbers = list(self._any)
        numbers += self._exact.get(path, ())
        length = len(path)
        for size, by_prefix in self._prefixes:
            if size > length:
                break
            for number, whole in by_prefix.get(path[:size], ()):
                if not whole or size == length or path[size] == 0x2F:
                    numbers.append(number)
        numbers += [number for number, matches in self._regexes if matches(path)]
        numbers.sort()
        routes = []
        for number in numbers:
            route = self._routes[number]
            routes.append(route)
            if route.predicate is None:
                break  # takes all: nothing behind it is ever asked
        candidates = tuple(routes)
        if length <= PATH:
            if len(self._cache) >= PATHS:
                self._cache.clear()
            self._cache[path] = candidates
        return candidates


def host_name(authority: bytes) -> bytes:
    """The host of an authority, in lower case, without its port (RFC 3986, 3.2)."""
    authority = authority.lower()
    if authority.startswith(b"["):
        return authority.partition(b"]")[0] + b"]"
    return authority.partition(b":")[0]


class Router:
    """Tables by host: exact names, then the longest ``*.suffix``, then the rest."""

    def __init__(self, hosts: dict[str, Sequence[Route]], rest: Sequence[Route]) -> None:
        self._exact: dict[bytes, Table] = {}
        suffixes: list[tuple[bytes, Table]] = []
        default = list(rest)
        for name, routes in hosts.items():
            if name == "*":
                default = [*routes, *default]
            elif name.startswith("*."):
                suffixes.append((name[1:].lower().encode(), Table(routes)))
            else:
                self._exact[name.lower().encode()] = Table(routes)
        self._suffixes = sorted(suffixes, key=lambda item: -len(item[0]))
        self._default = Table(default)
        self._cache: dict[bytes, Table] = {}
        #: Resolved at start: without hosts there is nothing to look up.
        self.match = self._by_host if hosts.keys() - {"*"} else self._default.match

    def _by_host(self, exchange: Exchange) -> Route | None:
        authority = exchange.authority
        table = self._cache.get(authority)
        if table is None:
            table = self._table(host_name(authority))
            if len(self._cache) >= HOSTS:
                self._cache.clear()
            self._cache[authority] = table
        return table.match(exchange)

    def _table(self, host: bytes) -> Table:
        table = self._exact.get(host)
        if table is not None:
            return table
        for suffix, table in self._suffixes:
            if host.endswith(suffix) and len(host) > len(suffix):
                return table
        return self._default

"""
Which route takes a request.

The law it keeps: the first route of the file that matches wins, and a table of a thousand
routes is not scanned for it: what a path can match is found by exact and prefix look-ups (where
those are many, kept in a bounded cache), and only the candidates are asked about methods,
headers and query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from meshproxy.http.predicates import compile_predicate

if TYPE_CHECKING:
    from meshproxy.config import Match
    from meshproxy.http.chain import Chain
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.headers import Headers
    from meshproxy.http.mirror import Mirror
    from meshproxy.http.retry import RetryPolicy
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

#: Paths remembered for each table, and the longest of them in bytes.
PATHS = 4096
PATH = 512
#: A table whose prefixes have more different lengths than this remembers what it found.
LENGTHS = 12
#: Hosts remembered for each listener.
HOSTS = 1024
#: Bytes of a request's body that are kept for sending it again, unless a route says more.
REPLAY_LIMIT = 65536


class Route:
    """
    A compiled route. Exactly one of ``act``, ``group`` and ``pick_group`` is set:
    ``act(exchange)`` answers by itself.
    """

    __slots__ = (
        "act",
        "active",
        "chain",
        "choose",
        "duration_base",
        "duration_sum",
        "edit_response",
        "group",
        "keep",
        "mark",
        "match",
        "mirror",
        "name_bytes",
        "number",
        "number_of",
        "per_try",
        "pick_group",
        "predicate",
        "prepare",
        "responses",
        "retry",
        "stream_idle",
        "strict_timeout",
        "timeout",
        "upgrades",
    )

    def __init__(self, name: str, match: Match) -> None:
        self.name_bytes = name.encode()
        #: Its place in its table.
        self.number = 0
        self.match = match
        self.predicate = compile_predicate(match)
        #: The filters of its requests, or None.
        self.chain: Chain | None = None
        self.act: Callable[[Exchange], None] | None = None
        self.group: Group | None = None
        self.pick_group: Callable[[], Group] | None = None
        self.prepare: Callable[[Exchange], None] | None = None
        self.edit_response: Callable[[Headers], None] | None = None
        self.timeout = 0.0
        #: The timeout was written for this route or its clusters.
        self.strict_timeout = False
        self.per_try = 0.0
        #: Seconds, or None for the listener's.
        self.stream_idle: float | None = None
        #: Bytes of a request's body that are kept while it may have to be sent again.
        self.keep = REPLAY_LIMIT
        self.retry: RetryPolicy | None = None
        self.mirror: Mirror | None = None
        # Of an affinity: what takes the place of the group's pick, what a hash goes by, and
        # what marks a response with a cookie.
        self.choose: Callable[[Exchange], Endpoint | None] | None = None
        self.number_of: Callable[[Exchange], int | None] | None = None
        self.mark: Callable[[Exchange, Headers], None] | None = None
        self.upgrades: frozenset[bytes] = frozenset()
        # Slots of the registry.
        self.responses: list[int] = []
        self.active = 0
        self.duration_base = 0
        self.duration_sum = 0


Routes = tuple[Route, ...]


class Table:
    """
    The routes of one host (or of the rest).

    Every exact path and every prefix holds the routes that may take what matches it, those that
    take any path merged in, in the order of the file and cut behind the first that takes all.
    So a request that matches one entry needs nothing but its look-up.
    """

    def __init__(self, routes: Sequence[Route], chain: Chain | None = None) -> None:
        #: The filters of requests that no route takes.
        self.chain = chain
        exact: dict[bytes, list[Route]] = {}
        prefixes: dict[bytes, list[Route]] = {}
        self._regexes: list[tuple[Route, Callable[[bytes], object]]] = []
        for number, route in enumerate(routes):
            route.number = number
        self._any = _ordered([r for r in routes if _takes_any(r.match)])
        for route in routes:
            match = route.match
            if match.path is not None:
                exact.setdefault(match.path.encode(), []).append(route)
            elif match.prefix is not None:
                prefixes.setdefault(match.prefix.encode(), []).append(route)
            elif match.regex is not None:
                self._regexes.append((route, re.compile(match.regex.encode()).fullmatch))
        self._exact = {path: _ordered([*held, *self._any]) for path, held in exact.items()}
        # length -> prefix -> (what may follow at a segment's boundary, what may follow elsewhere)
        by_length: dict[int, dict[bytes, tuple[Routes, Routes]]] = {}
        for prefix, held in prefixes.items():
            inside = [r for r in held if prefix.endswith(b"/") or not r.match.on_segments]
            by_length.setdefault(len(prefix), {})[prefix] = (
                _ordered([*held, *self._any]),
                _ordered([*inside, *self._any]),
            )
        self._prefixes = sorted(by_length.items())
        # With few lengths of prefixes the look-ups cost less than remembering their outcome.
        self._remembers = len(self._prefixes) > LENGTHS or bool(self._regexes)
        self._cache: dict[bytes, Routes] = {}

    def match(self, exchange: Exchange) -> Route | None:
        """The first route that takes the exchange, by its path, then by everything else."""
        path = exchange.target
        query = path.find(b"?")
        if query >= 0:
            path = path[:query]
        candidates = self._remembered(path) if self._remembers else self._find(path)
        for route in candidates:
            predicate = route.predicate
            if predicate is None or predicate(exchange):
                return route
        return None

    def _find(self, path: bytes) -> Routes:
        found = self._exact.get(path)
        length = len(path)
        for size, by_prefix in self._prefixes:
            if size > length:
                break
            entry = by_prefix.get(path[:size])
            if entry is not None:
                more = entry[0] if size == length or path[size] == 0x2F else entry[1]
                found = more if found is None else _ordered([*found, *more])
        if found is None:
            return self._any
        return found

    def _remembered(self, path: bytes) -> Routes:
        candidates = self._cache.get(path)
        if candidates is None:
            candidates = self._find(path)
            matching = [route for route, matches in self._regexes if matches(path)]
            if matching:
                candidates = _ordered([*candidates, *matching])
            if len(path) <= PATH:
                if len(self._cache) >= PATHS:
                    self._cache.clear()
                self._cache[path] = candidates
        return candidates


def _takes_any(match: Match) -> bool:
    return match.path is None and match.prefix is None and match.regex is None


def _ordered(routes: Sequence[Route]) -> Routes:
    """In the order of the file, each once, cut behind the first that takes every request."""
    found: list[Route] = []
    for route in sorted(set(routes), key=lambda route: route.number):
        found.append(route)
        if route.predicate is None:
            break  # nothing behind it is ever asked
    return tuple(found)


def host_name(authority: bytes) -> bytes:
    """The host of an authority, in lower case, without its port (RFC 3986, 3.2)."""
    authority = authority.lower()
    if authority.startswith(b"["):
        return authority.partition(b"]")[0] + b"]"
    return authority.partition(b":")[0]


class Router:
    """
    Tables by host: exact names, then the longest ``*.suffix``, then the rest. ``chains`` are the
    filters of requests that none of a host's routes takes, ``chain`` those of the rest.
    """

    def __init__(
        self,
        hosts: Mapping[str, Sequence[Route]],
        rest: Sequence[Route],
        chains: Mapping[str, Chain | None] | None = None,
        chain: Chain | None = None,
    ) -> None:
        chains = chains or {}
        self._exact: dict[bytes, Table] = {}
        suffixes: list[tuple[bytes, Table]] = []
        default = list(rest)
        for name, routes in hosts.items():
            if name == "*":
                default = [*routes, *default]
                chain = chains.get(name, chain)
            elif name.startswith("*."):
                suffixes.append((name[1:].lower().encode(), Table(routes, chains.get(name))))
            else:
                self._exact[name.lower().encode()] = Table(routes, chains.get(name))
        self._suffixes = sorted(suffixes, key=lambda item: -len(item[0]))
        self._default = Table(default, chain)
        self._cache: dict[bytes, Table] = {}
        self._hosted = bool(hosts.keys() - {"*"})
        #: Resolved at start: without hosts there is nothing to look up.
        self.match = self._by_host if self._hosted else self._default.match

    def chain_without_route(self, exchange: Exchange) -> Chain | None:
        """The filters of a request that no route takes."""
        if not self._hosted:
            return self._default.chain
        # The table has been looked for to find no route; only a full cache forgot it since.
        authority = exchange.authority
        return (self._cache.get(authority) or self._table(host_name(authority))).chain

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

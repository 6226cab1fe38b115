"""
A shared cache (RFC 9111).

The law it keeps: a client gets a stored response only where RFC 9111 lets a shared cache give it
one, and with it the age that it has; everything else goes to the origin as it came, but for the
validators of what is stored. Where the RFC leaves a choice, the answer that cannot be wrong is
taken. What the cache cannot do (a full disk, a broken file, an origin that answers nonsense) makes
it slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.api import Headers, Response
from meshproxy.filters import _cache_options
from meshproxy.filters._cache_collapse import ALONE, LEAD, READY
from meshproxy.filters._cache_control import NOTHING, Directives
from meshproxy.filters._cache_key import Keys, vary_values
from meshproxy.filters._cache_policy import Rules, displaces, request_directives
from meshproxy.filters._cache_serve import answer, of_entry
from meshproxy.filters._cache_shelf import Shelf, background_visit
from meshproxy.filters._cache_store import Entry, Line
from meshproxy.filters._cache_visit import Visit
from meshproxy.filters._match import compile_applies
from meshproxy.filters._networks import Networks
from meshproxy.filters._places import VERIFIED
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterService,
    IRequestFilter,
    IResponseBodyFilter,
    IResponseFilter,
)

#: Fields of a request that make it more than a plain one.
_SPECIAL = frozenset(
    b"cache-control if-match if-modified-since if-none-match if-range if-unmodified-since pragma "
    b"range".split()
)
#: Conditions that only the origin can judge (RFC 9111, 4.3.2).
_ORIGIN_ONLY = (b"if-match", b"if-unmodified-since")
_CONDITIONS = (b"if-none-match", b"if-modified-since")

#: Methods that change nothing (RFC 9110, 9.2.1, and the IANA registry): the others invalidate.
_SAFE = frozenset(b"GET HEAD OPTIONS TRACE PROPFIND REPORT SEARCH QUERY".split())

#: RFC 5861, 4.
_ERRORS = frozenset((500, 502, 503, 504))

# How far a stored response can be used.
_NO = 0
_FRESH = 1
_STALE = 2
_BEHIND = 3  # stale, and to be asked for anew meanwhile

_HIT = b"cache_hit"
_STALE_HIT = b"cache_stale"
_REVALIDATED = b"cache_revalidated"


@implementer(
    IRequestFilter,
    IResponseFilter,
    IResponseBodyFilter,
    IExchangeObserver,
    IContextFilter,
    IFilterService,
)
class Cache:
    """Keep responses and serve them again."""

    Options = _cache_options.Options
    keeps_length = True

    def __init__(self, options: _cache_options.Options) -> None:
        self._options = options
        self._rules = Rules(
            options.heuristic,
            options.lifetime,
            options.stale_while_revalidate,
            options.stale_if_error,
            options.set_cookie,
        )
        key = options.key
        self._keys = Keys([name.encode() for name in key.ignore_query], key.sort_query)
        self._key = self._keys.key
        self._passes = _compile_passes(options)
        self._obeys = options.client_control
        self._purgers = None if options.purge is None else Networks(options.purge.networks)
        self._says = options.cache_status.encode()

    def attach(self, context: Any) -> None:
        """See :class:`meshproxy.interfaces.IContextFilter`."""
        self._shelf = shelf = Shelf(self._options, self._rules, context)
        self._store = shelf.store
        self._resources = shelf.store.resources
        self._now = context.now
        self._counters = shelf.counters
        self._hit = shelf.counters.hits.inc
        context.show(shelf.describe)

    def start(self) -> None:
        """See :class:`meshproxy.interfaces.IFilterService`."""
        self._shelf.start()

    def stop(self) -> None:
        """See :class:`meshproxy.interfaces.IFilterService`."""
        self._shelf.stop()

    # A request.

    def request(self, exchange: Any) -> Any:
        """Answer from what is stored, wait for one that is like it, or let it go on."""
        request = exchange.request
        method = request.method
        headers = request.headers
        if method != b"GET" and method != b"HEAD":
            return self._other(exchange, method)
        plain = True
        for field in headers.fields:
            if field[0] in _SPECIAL:
                plain = False
                break
        if exchange.upgrade or request.length:
            return self._bypass(exchange)
        passes = self._passes
        if passes is not None and passes(exchange):
            return self._bypass(exchange)
        key = self._key(exchange.scheme, request.authority, request.target)
        resource = self._resources.get(key)
        entry = None
        if resource is not None:
            names = resource.names
            route = exchange.route_name
            entry = resource.variants.get(vary_values(route, names, headers) if names else (route,))
            if plain and entry is not None and entry.body is not None:
                age = entry.age + self._now() - entry.received
                if age < entry.lifetime and not entry.always_ask:
                    entry.visited = True
                    self._hit()
                    response = of_entry(entry, age, _HIT)
                    if self._says:
                        self._mark(response.headers, b"hit; ttl=%d" % (entry.lifetime - age))
                    return response
        return self._look(exchange, key, entry, plain, resource is not None)

    def _bypass(self, exchange: Any) -> None:
        self._counters.bypassed.inc()
        exchange.metadata["cache"] = "bypass"

    def _other(self, exchange: Any, method: bytes) -> Response | None:
        """A method that nothing is stored for."""
        if method == b"PURGE" and self._purgers is not None:
            return self._purge(exchange)
        if method in _SAFE:
            self._bypass(exchange)
            return None
        request = exchange.request
        key = self._key(exchange.scheme, request.authority, request.target)
        visit = Visit(key, exchange.route_name, method, Headers(), NOTHING, b"method")
        exchange.notes[self] = visit
        exchange.metadata["cache"] = "bypass"
        return None

    def _look(
        self,
        exchange: Any,
        key: bytes,
        entry: Entry | None,
        plain: bool,
        known: bool,
    ) -> Any:
        """A request that is not the plain one for a fresh response in memory."""
        request = exchange.request
        headers = request.headers
        asked = NOTHING
        if not plain:
            if self._obeys:
                asked = request_directives(headers)
            if any(name in headers for name in _ORIGIN_ONLY):
                return self._bypass(exchange)
        use = _NO
        if entry is not None:
            age = entry.age + self._now() - entry.received
            use = _usable(entry, age, asked)
        if use and entry is not None:
            if entry.body is None:
                return self._load(exchange, key, entry)
            return self._serve(exchange, key, entry, age, use, False)
        if asked.only_if_cached:
            response = Response(504, b"not in the cache", details=b"only_if_cached")
            self._mark(response.headers, b"detail=only-if-cached")
            return response
        if b"range" in headers:
            # A part of what is not here: let it through, and nothing is made of it.
            return self._bypass(exchange)
        why = b"uri-miss"
        if entry is not None:
            fresh = entry.age + self._now() - entry.received < entry.lifetime
            why = b"request" if fresh and not entry.always_ask else b"stale"
        elif known:
            why = b"vary-miss"
        # What it looks like before a filter, or this one, changes it.
        own = Headers.parsed(headers.fields.copy(), True)
        visit = Visit(key, exchange.route_name, request.method, own, asked, why)
        if entry is not None and entry.body is None:
            return self._load(exchange, key, entry)
        conditional = entry is None and not plain and any(n in headers for n in _CONDITIONS)
        if request.method == b"GET" and not asked.no_store:
            return self._queue(exchange, visit, entry, conditional)
        return self._go(exchange, visit, entry)

    def _queue(self, exchange: Any, visit: Visit, entry: Entry | None, conditional: bool) -> Any:
        """Wait for a request like this one, or go ahead of others."""
        flights = self._shelf.flights
        resource = self._resources.get(visit.key)
        names = () if resource is None else resource.names
        key = (visit.key, vary_values(visit.route, names, visit.own))
        if not visit.asked.no_cache:
            waiter = flights.join(key)
            if waiter is not None:
                self._counters.collapsed.inc()
                return waiter.addCallback(self._woken, exchange, visit, flights.of(key))
        if not conditional:
            # What answers a condition that nothing here can judge may be a 304, of no use to
            # those who wait.
            visit.flight = flights.lead(key)
        return self._go(exchange, visit, entry)

    def _woken(self, outcome: int, exchange: Any, visit: Visit, flight: Any) -> Any:
        entry = self._find(visit)
        if outcome == LEAD:
            visit.flight = flight
            return self._go(exchange, visit, entry)
        if outcome == READY and entry is not None:
            age = entry.age + self._now() - entry.received
            use = _usable(entry, age, visit.asked)
            if use and entry.body is not None:
                return self._serve(exchange, visit.key, entry, age, use, True)
        return self._go(exchange, visit, entry)

    def _find(self, visit: Visit) -> Entry | None:
        resource = self._resources.get(visit.key)
        if resource is None:
            return None
        return resource.variants.get(vary_values(visit.route, resource.names, visit.own))

    def _load(self, exchange: Any, key: bytes, entry: Entry) -> Deferred[Any]:
        """The entry is on disk."""

        def loaded(there: bool) -> Any:
            # While it was read it may have been replaced: look again, as if it had just come.
            resource = self._resources.get(key)
            found = None
            if resource is not None:
                found = resource.variants.get(
                    vary_values(exchange.route_name, resource.names, exchange.request.headers)
                )
                if found is not None and found.body is None:
                    found = None  # no room for it, or gone: it is asked for
            plain = not any(field[0] in _SPECIAL for field in exchange.request.headers.fields)
            return self._look(exchange, key, found, plain, resource is not None)

        return self._shelf.load(entry).addCallback(loaded)

    def _serve(
        self, exchange: Any, key: bytes, entry: Entry, age: float, use: int, collapsed: bool
    ) -> Response:
        entry.visited = True
        request = exchange.request
        if use == _FRESH:
            self._hit()
        else:
            self._counters.stale.inc()
        if use == _BEHIND:
            own = Headers.parsed(request.headers.fields.copy(), True)
            visit = background_visit(key, exchange.route_name, own)
            visit.authorized = VERIFIED in exchange.notes
            self._shelf.refresh(exchange, entry, visit)
        details = _HIT if use == _FRESH else _STALE_HIT
        response = answer(entry, age, request.method, request.headers, details)
        if self._says:
            words = b"hit; ttl=%d" % (entry.lifetime - age)
            self._mark(response.headers, words + b"; collapsed" if collapsed else words)
        return response

    def _go(self, exchange: Any, visit: Visit, entry: Entry | None) -> None:
        """On to the origin."""
        self._counters.misses.inc()
        exchange.notes[self] = visit
        exchange.metadata["cache"] = "miss" if entry is None else "stale"
        if visit.method == b"GET" and not visit.asked.no_store:
            self._shelf.begin(visit)
        else:
            visit.started = self._now()
        if entry is None or entry.body is None or visit.asked.no_store:
            return
        visit.hold(entry)
        if visit.method == b"GET" and (entry.etag or entry.modified):
            visit.validating = True
            headers = exchange.request.headers
            for name in (*_CONDITIONS, b"if-range"):
                headers.remove(name)
            if entry.etag:
                headers.set(b"if-none-match", entry.etag)
            if entry.modified:
                headers.set(b"if-modified-since", entry.modified)

    def _purge(self, exchange: Any) -> Response:
        assert self._purgers is not None
        if not self._purgers.contains(exchange.client_ip):
            return Response(403, b"purging is not allowed", details=b"purge_denied")
        request = exchange.request
        target = request.target
        shelf = self._shelf
        count = 0
        for scheme in (b"http", b"https"):
            if target.endswith(b"*"):
                origin = self._keys.origin(scheme, request.authority)
                count += shelf.invalidate_prefix(origin + target[:-1])
            else:
                count += shelf.invalidate(self._key(scheme, request.authority, target))
        return Response(200, b"%d purged" % count, details=b"purged")

    # A response.

    def response(self, exchange: Any) -> Response | None:
        """Decide what is stored; put a stored response in the place of a 304 or of an error."""
        visit: Visit | None = exchange.notes.get(self)
        if visit is None:
            self._forward(exchange, b"bypass", False)
            exchange.skip_body(self)
            return None
        response = exchange.response
        status = response.status
        shelf = self._shelf
        # Whichever of the two stands first in the chain.
        visit.authorized = VERIFIED in exchange.notes
        if visit.method not in (b"GET", b"HEAD"):
            if 200 <= status < 400:
                self._invalidate(visit.key, response.headers)
            self._forward(exchange, b"method", False)
            exchange.skip_body(self)
            return None
        if visit.validating and status == 304 and not response.local:
            return self._revalidated(exchange, visit, response)
        if status in _ERRORS and visit.entry is not None:
            instead = self._instead(visit)
            if instead is not None:
                return instead
        if visit.method == b"HEAD":
            if not response.local:
                self._compare(visit, status, response.headers)
            self._forward(exchange, visit.why, False)
            exchange.skip_body(self)
            return None
        why = "local"
        if not response.local and response.delimited:
            why = shelf.consider(visit, status, response.headers, response.length)
        plan = visit.plan
        if plan is None:
            shelf.land(visit, ALONE, not response.local and why != "changed")
            changed = not response.local and why != "authorization" and displaces(status)
            if changed and visit.entry is not None:
                # What the origin gives now is not to be stored: nor is what it gave before.
                shelf.drop(visit.entry)
            self._forward(exchange, visit.why, False)
            exchange.skip_body(self)
            return None
        entry = plan.entry
        if entry.always_ask or entry.lifetime <= entry.age:
            shelf.land(visit, ALONE, True)
        self._forward(exchange, visit.why, True)
        if response.bodiless or plan.length == 0:
            self._keep(visit)
            exchange.skip_body(self)
        return None

    def response_data(self, exchange: Any, data: bytes, end: bool) -> None:
        """Keep a copy of the body, as long as it may be stored."""
        visit: Visit | None = exchange.notes.get(self)
        plan = None if visit is None else visit.plan
        if visit is None or plan is None:
            return
        if not self._shelf.add(visit, data):
            self._shelf.land(visit, ALONE, True)
        elif end:
            self._keep(visit)

    def finished(self, exchange: Any) -> None:
        """The exchange is over: whoever waits for it must not wait any longer."""
        if exchange.details is _HIT:
            return  # nothing was noted
        visit: Visit | None = exchange.notes.get(self)
        if visit is None:
            return
        shelf = self._shelf
        shelf.abandon(visit)
        flight, visit.flight = visit.flight, None
        if flight is not None:
            if exchange.flags == b"DC" or not exchange.status:
                # Its client went away. That says nothing of the response: the next one asks.
                shelf.flights.give_up(flight)
            else:
                shelf.flights.land(flight, ALONE)
        shelf.end(visit)

    def _keep(self, visit: Visit) -> None:
        stored = self._shelf.keep(visit)
        self._shelf.land(visit, READY if stored else ALONE)

    def _revalidated(self, exchange: Any, visit: Visit, response: Any) -> Response:
        shelf = self._shelf
        cookies: list[Line] = [f for f in response.headers.fields if f[0] == b"set-cookie"]
        entry = shelf.confirm(visit, 304, response.headers)
        age = entry.age + self._now() - entry.received
        made = answer(entry, age, visit.method, visit.own, _REVALIDATED)
        made.headers.fields += cookies
        exchange.metadata["cache"] = "revalidated"
        if self._says:
            words = b"fwd=%b; fwd-status=304" % visit.why
            self._mark(made.headers, words)
        fresh = age < entry.lifetime and not entry.always_ask
        shelf.land(visit, READY if fresh else ALONE, not fresh)
        return made

    def _instead(self, visit: Visit) -> Response | None:
        """A stale response in place of an error (RFC 5861, 4)."""
        entry = visit.entry
        assert entry is not None
        if not entry.may_be_stale or visit.asked.no_cache or visit.asked.max_age is not None:
            return None
        age = entry.age + self._now() - entry.received
        limit = max(entry.if_error, visit.asked.if_error or 0)
        if age - entry.lifetime > limit or limit <= 0:
            return None
        if entry.body is None:
            entry = entry.detached(visit.fields, visit.body)
            if entry.body is None:
                return None  # it was too large to be read into memory
        self._counters.stale.inc()
        made = answer(entry, age, visit.method, visit.own, _STALE_HIT)
        if self._says:
            words = b"hit; ttl=%d; detail=error" % (entry.lifetime - age)
            self._mark(made.headers, words)
        self._shelf.land(visit, ALONE)
        return made

    def _compare(self, visit: Visit, status: int, headers: Headers) -> None:
        """A HEAD's response says whether what is stored of the GET still holds (4.3.5)."""
        entry = visit.entry
        if entry is None or status != 200 or entry.status != 200:
            return
        length = headers.get(b"content-length")
        same = (
            (headers.get(b"etag") or b"") == entry.etag
            and (headers.get(b"last-modified") or b"") == entry.modified
            and (length is None or length == b"%d" % entry.length)
        )
        if not same:
            self._shelf.drop(entry)
        elif entry.etag or entry.modified:
            self._shelf.confirm(visit, 200, headers)

    def _invalidate(self, key: bytes, headers: Headers) -> None:
        """RFC 9111, 4.4."""
        shelf = self._shelf
        shelf.invalidate(key)
        for name in (b"location", b"content-location"):
            value = headers.get(name)
            other = None if value is None else self._keys.location(key, value)
            if other is not None and other != key:
                shelf.invalidate(other)

    # What it did.

    def _forward(self, exchange: Any, why: bytes, stored: bool) -> None:
        if self._says:
            words = b"fwd=%b; fwd-status=%d" % (why, exchange.status)
            self._mark(exchange.response.headers, words + b"; stored" if stored else words)

    def _mark(self, headers: Headers, words: bytes) -> None:
        if self._says:
            value = b"%b; %b" % (self._says, words)
            headers.fields.append((b"cache-status", value, b"cache-status: %b\r\n" % value, 0))


def _usable(entry: Entry, age: float, asked: Directives) -> int:
    """How far a stored response can be used without asking (RFC 9111, 4.2 and 5.2.1)."""
    if asked.no_cache or entry.always_ask:
        return _NO
    if asked.max_age is not None and age > asked.max_age:
        return _NO
    left = entry.lifetime - age
    if asked.min_fresh is not None and left < asked.min_fresh:
        return _NO
    if left > 0:
        return _FRESH
    if not entry.may_be_stale:
        return _NO
    if asked.max_stale is not None and -left <= asked.max_stale:
        return _STALE
    if asked.max_age is None and asked.min_fresh is None and -left < entry.while_revalidate:
        return _BEHIND
    return _NO


def _compile_passes(options: _cache_options.Options) -> Callable[[Any], bool] | None:
    """Whether a request goes past the cache, or None where none does."""
    tests: list[Callable[[Any], bool]] = []
    applies = compile_applies(options.match)
    if applies is not None:
        tests.append(lambda exchange: not applies(exchange))
    headers = [name.encode() for name in options.bypass.headers]
    if headers:
        tests.append(lambda exchange: any(name in exchange.request.headers for name in headers))
    cookies = [name.encode() for name in options.bypass.cookies]
    if cookies:
        tests.append(
            lambda exchange: any(exchange.request.cookie(name) is not None for name in cookies)
        )
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    return lambda exchange: any(test(exchange) for test in tests)

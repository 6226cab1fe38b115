"""
Everything that one cache holds: responses in memory and on disk, and what is on its way there.

The law it keeps: nothing is put on it that was asked for before its URL was changed or purged;
what a response costs is counted; and a response is asked for anew beside the exchanges once at a
time, a bounded number of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred

from meshproxy.api import BodyTooLarge, Headers
from meshproxy.filters._cache_collapse import ALONE, READY, Flights
from meshproxy.filters._cache_control import NOTHING
from meshproxy.filters._cache_disk import Disk
from meshproxy.filters._cache_policy import Rules, displaces
from meshproxy.filters._cache_serve import same_etag
from meshproxy.filters._cache_store import Entry, Store
from meshproxy.filters._cache_visit import Visit, freshen, plan, size_of

if TYPE_CHECKING:
    from meshproxy.filters._cache_options import Options

__all__ = ["Counters", "Shelf"]

#: What a confirmation changes of an entry, beside its fields.
_RENEWED = (
    *("age", "received", "wall", "etag", "modified"),
    *("lifetime", "always_ask", "may_be_stale", "while_revalidate", "if_error"),
)


class Counters:
    """The numbers of a cache, by their names in the metrics."""

    def __init__(self, context: Any) -> None:
        counter = context.counter
        self.hits = counter("hits", "Requests answered with a fresh stored response")
        self.misses = counter("misses", "Requests sent on that nothing stored could answer")
        self.stale = counter("stale", "Requests answered with a stale stored response")
        self.revalidated = counter("revalidated", "Stored responses that the origin confirmed")
        self.bypassed = counter("bypassed", "Requests that went past the cache")
        self.stored = counter("stored", "Responses stored")
        self.evicted = counter("evicted", "Responses that had to leave the memory")
        self.collapsed = counter("collapsed", "Requests that waited for another one")
        self.purged = counter("purged", "Responses dropped by PURGE or by an unsafe method")
        self.refreshes = counter("refreshes", "Responses asked for anew beside the exchanges")
        self.failures = counter("refresh_failures", "Those that failed")
        self.broken = counter("disk_failures", "Files that could not be read or written")
        self.bytes = context.gauge("bytes", "Bytes of memory in use")
        self.entries = context.gauge("entries", "Responses in memory")
        self.disk_bytes = context.gauge("disk_bytes", "Bytes of the files")
        self.disk_entries = context.gauge("disk_entries", "Responses in files")


class Shelf:
    """The responses of one cache. ``now`` and ``time`` are those of ``context``."""

    def __init__(self, options: Options, rules: Rules, context: Any) -> None:
        self.rules = rules
        self.counters = counters = Counters(context)
        self.now: Callable[[], float] = context.now
        self._time: Callable[[], float] = context.time
        self.store = store = Store(options.memory, options.variants)
        store.evicted = counters.evicted.inc
        self.largest = min(options.max_entry, options.memory)
        collapse = options.collapse
        reactor = context.reactor

        def later(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
            return reactor.callLater(seconds, function, *arguments)

        self.flights = Flights(collapse.waiters, collapse.wait, collapse.apart, later, context.now)
        self._under_way: dict[bytes, set[Visit]] = {}
        self._refreshing: set[Deferred[Any]] = set()
        self._loading: dict[Entry, list[Deferred[bool]]] = {}
        #: Bytes of bodies that are not complete yet, and how many there may be.
        self.filling = 0
        self._most = max(self.largest, options.memory // 4)
        self._background = options.background
        self.disk: Disk | None = None
        if options.disk is not None:
            self.disk = Disk(
                context.path(options.disk.directory),
                options.disk.size,
                options.disk.files,
                _runner(reactor),
                later,
                self._adopt,
                self._lost,
                self.measure,
                context.log,
            )
            store.forget = self.disk.forget

    # Its life.

    def start(self) -> None:
        """Open the directory. Raises ``OSError`` or ``ValueError`` where that cannot be."""
        if self.disk is not None:
            self.disk.start()

    def stop(self) -> None:
        """Cancel everything."""
        self.flights.stop()
        for deferred in list(self._refreshing):
            deferred.cancel()
        if self.disk is not None:
            self.disk.stop()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        counters = self.counters
        counters.bytes.set(self.store.bytes)
        counters.entries.set(self.store.warm)
        disk = self.disk
        if disk is not None:
            counters.disk_bytes.set(disk.bytes)
            counters.disk_entries.set(disk.entries)
            counters.broken.inc(disk.failures - counters.broken.value)

    def describe(self) -> dict[str, Any]:
        """For the admin."""
        disk = self.disk
        return {
            "entries": self.store.warm,
            "bytes": self.store.bytes,
            "limit": self.store.limit,
            "urls": len(self.store.resources),
            "in_flight": len(self.flights),
            "waiting": self.flights.waiting,
            "refreshing": len(self._refreshing),
            "disk": None
            if disk is None
            else {"entries": disk.entries, "bytes": disk.bytes, "limit": disk.limit},
        }

    # Reading.

    def load(self, entry: Entry) -> Deferred[bool]:
        """Bring a cold entry into memory; whether it is there now. It is read once for all."""
        waiter: Deferred[bool] = Deferred()
        waiting = self._loading.get(entry)
        if waiting is not None:
            waiting.append(waiter)
            return waiter
        self._loading[entry] = [waiter]

        def loaded(result: tuple[Entry, bytes]) -> None:
            held, body = result
            self.store.warm_up(entry, held.fields or [], body)

        def over(_: Any) -> None:
            self.measure()
            for waiter in self._loading.pop(entry):
                waiter.callback(entry.body is not None)

        assert self.disk is not None
        # What cannot be read is counted there, and dropped.
        self.disk.get(entry).addCallback(loaded).addErrback(lambda _: None).addCallback(over)
        return waiter

    # Writing.

    def begin(self, visit: Visit) -> None:
        """A request goes to the origin whose response may be stored."""
        visit.started = self.now()
        visit.keeps = True
        self._under_way.setdefault(visit.key, set()).add(visit)

    def end(self, visit: Visit) -> None:
        """It is over."""
        if visit.keeps:
            visit.keeps = False
            visits = self._under_way[visit.key]
            visits.discard(visit)
            if not visits:
                del self._under_way[visit.key]

    def consider(self, visit: Visit, status: int, headers: Headers, length: int) -> str:
        """A response's head: make ``visit.plan``, if it is to be stored, else say why not."""
        if not visit.keeps or visit.doomed:
            return "changed"
        if length > self.largest:
            return "large"
        visit.plan, why = plan(visit, status, headers, length, self.now(), self._time(), self.rules)
        return why

    def add(self, visit: Visit, data: bytes) -> bool:
        """More of the body; whether there is room for it. Without, nothing of it is kept."""
        made = visit.plan
        assert made is not None
        if made.size + len(data) > self.largest or self.filling + len(data) > self._most:
            self.abandon(visit)
            return False
        made.add(data)
        self.filling += len(data)
        return True

    def abandon(self, visit: Visit) -> None:
        """Nothing is gathered for it any more."""
        made, visit.plan = visit.plan, None
        if made is not None:
            self.filling -= made.size

    def keep(self, visit: Visit) -> bool:
        """Its body is complete: store it. Whether that was done."""
        made = visit.plan
        self.abandon(visit)
        if made is None:
            return False
        entry = made.complete()
        if entry is None or not self.store.put(entry, made.names):
            return False
        self.counters.stored.inc()
        if self.disk is not None:
            self.disk.put(entry, made.names)
        self.measure()
        return True

    def confirm(self, visit: Visit, status: int, headers: Headers) -> Entry:
        """
        The origin says that the entry of ``visit`` still holds, by a 304 or to HEAD: freshen it.

        Returns the entry to answer with: a copy, since the stored one may leave the memory by
        this.
        """
        stored = visit.entry
        fields, body = visit.fields, visit.body
        assert stored is not None
        assert fields is not None
        assert body is not None
        told = headers.get(b"etag")
        # An origin that confirms by another name (Apache does, of what it compressed) means the
        # response that it was asked about; but which one is stored is in doubt.
        odd = (
            status == 304
            and told is not None
            and bool(stored.etag)
            and not same_etag(told, stored.etag)
        )
        self.counters.revalidated.inc()
        if odd:
            self.store.drop(stored)
            self.measure()
            answer = stored.detached(fields, body)
            answer.age, answer.received = 0.0, self.now()
            return answer
        now = self.now()
        answer = stored.detached(fields, body)
        why = freshen(
            answer,
            fields,
            headers,
            now - visit.started,
            now,
            self._time(),
            self.rules,
            visit.own,
            authorized=visit.authorized,
        )
        resource = stored.resource
        if resource is not None and not why:
            self._renew(stored, answer, size_of(stored, fields, answer.fields or []))
            if self.disk is not None and stored.warm:
                self.disk.put(stored, resource.names)
        elif why != "authorization":
            # What confirmed it to one client alone (RFC 9111, 3.5) says nothing to the others.
            self.store.drop(stored)
        self.measure()
        return answer

    def _renew(self, stored: Entry, by: Entry, size: int) -> None:
        """A stored entry is now what ``by`` says of it; it may have to leave the memory."""
        for name in _RENEWED:
            setattr(stored, name, getattr(by, name))
        if stored.warm:
            stored.fields = by.fields
            self.store.resized(stored, size)
        else:
            stored.size = size
            self.store.warm_up(stored, by.fields or [], by.body or b"")

    # Dropping.

    def drop(self, entry: Entry) -> None:
        """Drop one."""
        self.store.drop(entry)
        self.measure()

    def invalidate(self, key: bytes) -> int:
        """Drop all of a key, and what is under way for it; how many there were."""
        resource = self.store.resources.get(key)
        count = 0 if resource is None else self.store.remove(resource)
        for visit in self._under_way.get(key, ()):
            self._doom(visit)
        if count:
            self.counters.purged.inc(count)
            self.measure()
        return count

    def invalidate_prefix(self, prefix: bytes) -> int:
        """Drop all keys that begin so; how many responses there were."""
        keys = [key for key in self.store.resources if key.startswith(prefix)]
        keys += [key for key in self._under_way if key.startswith(prefix)]
        return sum(self.invalidate(key) for key in dict.fromkeys(keys))

    def _doom(self, visit: Visit) -> None:
        visit.doomed = True
        self.abandon(visit)
        flight, visit.flight = visit.flight, None
        if flight is not None:
            self.flights.land(flight, ALONE)

    def _adopt(self, entry: Entry, names: tuple[bytes, ...]) -> bool:
        """An entry that was found on disk."""
        # A wall clock that went back makes it no younger than just received.
        entry.received = self.now() - max(0.0, self._time() - entry.wall)
        if entry.length > self.largest:
            return False
        return self.store.put_cold(entry, names)

    def _lost(self, entry: Entry) -> None:
        self.store.no_file(entry)

    # Asking anew.

    def refresh(self, exchange: Any, entry: Entry, visit: Visit) -> None:
        """
        Ask for a warm, stale entry beside the exchange, unless that is done already. ``visit``
        is one of its own: it never belongs to an exchange.
        """
        if entry.refreshing or len(self._refreshing) >= self._background:
            return
        visit.hold(entry)
        headers: dict[bytes, bytes | None] = {
            b"if-none-match": entry.etag or None,
            b"if-modified-since": entry.modified or None,
            b"if-range": None,
            b"range": None,
            b"cache-control": None,
            b"pragma": None,
        }
        self.counters.refreshes.inc()
        entry.refreshing = True
        self.begin(visit)
        deferred = maybeDeferred(exchange.fetch, headers=headers, limit=self.largest)
        self._refreshing.add(deferred)

        def over(result: Any) -> Any:
            self._refreshing.discard(deferred)
            entry.refreshing = False
            self.end(visit)
            return result

        deferred.addBoth(over)
        deferred.addCallbacks(self._refreshed, self._unrefreshed, (visit,), errbackArgs=(visit,))

    def _refreshed(self, result: Any, visit: Visit) -> None:
        # ``end`` was called: what a purge would have doomed is doomed by now.
        entry = visit.entry
        assert entry is not None
        visit.keeps = True
        if result.status == 304:
            self.confirm(visit, 304, result.headers)
        elif result.status < 500:
            why = self.consider(visit, result.status, result.headers, len(result.body))
            if why and displaces(result.status):
                self.drop(entry)
            elif visit.plan is not None:
                self.add(visit, result.body)
                self.keep(visit)
        else:
            self.counters.failures.inc()
        visit.keeps = False

    def _unrefreshed(self, failure: Any, visit: Visit) -> None:
        self.counters.failures.inc()
        if failure.check(BodyTooLarge) is not None and visit.entry is not None:
            self.drop(visit.entry)  # it has become another, and that is too large to store

    def land(self, visit: Visit, outcome: int = READY, apart: bool = False) -> None:
        """Whoever waits for this visit goes on."""
        flight, visit.flight = visit.flight, None
        if flight is not None:
            self.flights.land(flight, outcome, apart)


def background_visit(key: bytes, route: bytes, own: Headers) -> Visit:
    """The visit of a request beside the exchanges; its headers are those of the one it goes by."""
    return Visit(key, route, b"GET", own, NOTHING, b"stale")


def _runner(reactor: Any) -> Callable[..., Any]:
    """What runs a function in a thread of the reactor, or at once where that is but a clock."""
    pool = getattr(reactor, "getThreadPool", None)
    if pool is None:
        return maybeDeferred

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        from twisted.internet.threads import deferToThreadPool

        return deferToThreadPool(reactor, pool(), function, *arguments)

    return run

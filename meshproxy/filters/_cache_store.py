"""
The stored responses of one cache, in memory, with an index of those on disk.

The law it keeps: what is in memory never takes more bytes than it may, what it costs to hold a
response beside its body included; a URL has a bounded number of variants; and what goes first is
what nobody asked for since the hand came by last (SIEVE, Zhang et al., NSDI '24: one bit set by a
hit, nothing moved). Every entry is in the index exactly once, warm (in memory), cold (on disk) or
both; what is neither is gone from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.filters._cache_policy import Freshness

__all__ = ["Entry", "Line", "Resource", "Store"]

#: A header field as :class:`meshproxy.api.Headers` keeps it.
Line = tuple[bytes, bytes, bytes, int]

#: Bytes that an entry takes beside its fields and body, and a field beside its text: measured
#: with sys.getsizeof, rounded up.
ENTRY = 1200
FIELD = 220


class Entry:
    """
    A stored response.

    ``age`` is the one it had (seconds) when it was received, ``received`` when that was (seconds
    of the monotonic clock), ``wall`` the same in seconds since 1970. ``fields`` and ``body`` are
    None while it is on disk only; ``length`` is the body's.
    """

    __slots__ = (
        "age",
        "always_ask",
        "body",
        "etag",
        "fields",
        "file",
        "if_error",
        "key",
        "length",
        "lifetime",
        "may_be_stale",
        "modified",
        "newer",
        "older",
        "received",
        "refreshing",
        "resource",
        "size",
        "status",
        "values",
        "visited",
        "wall",
        "warm",
        "while_revalidate",
    )

    def __init__(
        self,
        key: bytes,
        values: tuple[bytes | None, ...],
        status: int,
        fields: list[Line],
        body: bytes,
        fresh: Freshness,
        age: float,
        received: float,
        wall: float,
    ) -> None:
        self.key = key
        self.values = values
        self.status = status
        self.fields: list[Line] | None = fields
        self.body: bytes | None = body
        self.length = len(body)
        self.age = age
        self.received = received
        self.wall = wall
        self.file = ""
        self.refreshing = False
        self.visited = False
        self.warm = False
        self.newer: Entry | None = None
        self.older: Entry | None = None
        self.resource: Resource | None = None
        self.judge(fresh)
        self.etag = self.modified = b""
        for field in fields:
            if field[0] == b"etag":
                self.etag = field[1]
            elif field[0] == b"last-modified":
                self.modified = field[1]
        self.size = (
            self.length
            + ENTRY
            + 2 * len(key)
            + sum(len(value) for value in values if value)
            + sum(FIELD + 2 * len(field[2]) for field in fields)
        )

    def judge(self, fresh: Freshness) -> None:
        """Take over how long it may be used."""
        self.lifetime = fresh.lifetime
        self.always_ask = fresh.always_ask
        self.may_be_stale = fresh.may_be_stale
        self.while_revalidate = fresh.while_revalidate
        self.if_error = fresh.if_error

    def detached(self, fields: list[Line] | None, body: bytes | None) -> Entry:
        """A copy outside of any store, with these contents."""
        made = Entry.__new__(Entry)
        for name in Entry.__slots__:
            setattr(made, name, getattr(self, name))
        made.resource = made.newer = made.older = None
        made.warm = False
        made.file = ""
        made.fields = fields
        made.body = body
        return made

    def __repr__(self) -> str:
        return f"<entry {self.key!r} {self.status}, {self.length} bytes>"


class Resource:
    """The variants of one key: ``names`` are the fields that its latest response varied by."""

    __slots__ = ("key", "names", "variants")

    def __init__(self, key: bytes, names: tuple[bytes, ...]) -> None:
        self.key = key
        self.names = names
        self.variants: dict[tuple[bytes | None, ...], Entry] = {}


class Store:
    """
    At most ``limit`` bytes in memory, and ``variants`` of a key.

    ``forget(entry)`` is called for an entry with a file that leaves the index, ``evicted()`` for
    every entry that had to leave the memory.
    """

    def __init__(self, limit: int, variants: int) -> None:
        self.limit = limit
        self.bytes = 0
        #: Entries in memory.
        self.warm = 0
        self.resources: dict[bytes, Resource] = {}
        self.forget: Callable[[Entry], None] = lambda entry: None
        self.evicted: Callable[[], None] = lambda: None
        self._variants = variants
        self._newest: Entry | None = None
        self._oldest: Entry | None = None
        self._hand: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        for resource in self.resources.values():
            yield from resource.variants.values()

    def put(self, entry: Entry, names: tuple[bytes, ...]) -> bool:
        """
        Store a warm entry in place of the one of the same variant; False if it is too large.

        Variants that varied by other fields than ``names`` are dropped.
        """
        resource = self.resources.get(entry.key)
        if resource is not None and resource.names != names:
            self.remove(resource)
            resource = None
        if resource is None:
            resource = self.resources[entry.key] = Resource(entry.key, names)
        old = resource.variants.pop(entry.values, None)
        if old is not None:
            self._leave(old)
        if entry.size > self.limit:
            if not resource.variants:
                self.resources.pop(entry.key, None)
            return False
        while len(resource.variants) >= self._variants:
            self._leave(resource.variants.pop(next(iter(resource.variants))))
            self.evicted()
        resource.variants[entry.values] = entry
        entry.resource = resource
        self._warm(entry)
        return True

    def put_cold(self, entry: Entry, names: tuple[bytes, ...]) -> bool:
        """
        Take an entry that is on disk only into the index, in place of older ones of its variant;
        False when what is there is newer.
        """
        resource = self.resources.get(entry.key)
        if resource is not None and resource.names != names:
            if any(held.wall >= entry.wall for held in resource.variants.values()):
                return False
            self.remove(resource)
            resource = None
        if resource is None:
            resource = Resource(entry.key, names)
        held = resource.variants.get(entry.values)
        if held is not None:
            if held.wall >= entry.wall:
                return False
            self.drop(held)
        elif len(resource.variants) >= self._variants:
            return False
        self.resources[entry.key] = resource
        resource.variants[entry.values] = entry
        entry.resource = resource
        return True

    def warm_up(self, entry: Entry, fields: list[Line], body: bytes) -> None:
        """A cold entry was read: it is in memory again, if there is room for it at all."""
        if entry.resource is None or entry.warm or entry.size > self.limit:
            return
        entry.fields = fields
        entry.body = body
        self._warm(entry)

    def resized(self, entry: Entry, size: int) -> None:
        """The fields of a warm entry changed, and so does what it takes; it may have to go."""
        self.bytes += size - entry.size
        entry.size = size
        self._make_room(0)

    def remove(self, resource: Resource) -> int:
        """Drop every variant of a key; how many there were."""
        count = len(resource.variants)
        for entry in list(resource.variants.values()):
            self.drop(entry)
        return count

    def drop(self, entry: Entry) -> None:
        """Drop an entry; one that is gone already is no error."""
        resource = entry.resource
        if resource is None:
            return
        del resource.variants[entry.values]
        if not resource.variants:
            self.resources.pop(resource.key, None)
        self._leave(entry)

    def no_file(self, entry: Entry) -> None:
        """An entry's file is gone."""
        entry.file = ""
        if not entry.warm:
            self.drop(entry)

    def _leave(self, entry: Entry) -> None:
        """An entry is out of its resource."""
        entry.resource = None
        if entry.warm:
            self._unlink(entry)
        if entry.file:
            self.forget(entry)

    # The queue of SIEVE: new ones at one end, the hand goes from the other.

    def _warm(self, entry: Entry) -> None:
        self._make_room(entry.size)
        entry.warm = True
        entry.visited = False
        entry.older = self._newest
        entry.newer = None
        if self._newest is not None:
            self._newest.newer = entry
        else:
            self._oldest = entry
        self._newest = entry
        self.bytes += entry.size
        self.warm += 1

    def _unlink(self, entry: Entry) -> None:
        if self._hand is entry:
            self._hand = entry.newer
        if entry.newer is not None:
            entry.newer.older = entry.older
        else:
            self._newest = entry.older
        if entry.older is not None:
            entry.older.newer = entry.newer
        else:
            self._oldest = entry.newer
        entry.newer = entry.older = None
        entry.warm = False
        self.bytes -= entry.size
        self.warm -= 1

    def _make_room(self, size: int) -> None:
        """Let entries go until ``size`` more bytes fit."""
        while self.bytes + size > self.limit:
            entry = self._hand or self._oldest
            if entry is None:
                return
            self._hand = entry.newer
            if entry.visited:
                entry.visited = False
            else:
                self._cool(entry)

    def _cool(self, entry: Entry) -> None:
        """Out of memory: cold if it has a file, else gone."""
        self.evicted()
        if entry.file:
            self._unlink(entry)
            entry.fields = entry.body = None
        else:
            self.drop(entry)

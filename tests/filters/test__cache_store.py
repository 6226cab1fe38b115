"""The store: bounds, variants and what goes first."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshproxy.api import Headers
from meshproxy.filters._cache_policy import Freshness
from meshproxy.filters._cache_store import ENTRY, Entry, Store

FRESH = Freshness(60.0, False, True, 0.0, 0.0)


def entry(key: bytes, size: int = 100, value: bytes = b"", wall: float = 0.0) -> Entry:
    """A stored response with a body of so many bytes."""
    fields = Headers.of([(b"etag", b'"1"'), (b"last-modified", b"x")]).fields
    return Entry(key, (b"route", value), 200, fields, b"x" * size, FRESH, 0.0, 0.0, wall)


def vars_of(held: Entry) -> tuple[object, object]:
    """What is in memory of it."""
    return held.fields, held.body


ONE = entry(b"k0").size


def test_what_an_entry_takes() -> None:
    """Its body, its fields and what it costs to hold it."""
    made = entry(b"k", 1000)
    assert made.size > 1000 + ENTRY
    assert (made.etag, made.modified, made.length) == (b'"1"', b"x", 1000)


def test_a_detached_copy() -> None:
    """It has all of the entry, and is in no store."""
    store = Store(5 * ONE, 4)
    held = entry(b"k")
    store.put(held, ())
    held.file = "f"
    copy = held.detached(None, b"other")
    assert (copy.key, copy.lifetime, copy.etag) == (held.key, held.lifetime, held.etag)
    assert (copy.fields, copy.body, copy.resource, copy.file) == (None, b"other", None, "")
    store.drop(copy)
    assert list(store) == [held]


def test_the_bound_holds() -> None:
    """The oldest goes, and its key with it."""
    store = Store(3 * ONE, 4)
    gone = []
    store.evicted = lambda: gone.append(1)
    for number in range(5):
        assert store.put(entry(b"k%d" % number), ())
    assert sorted(store.resources) == [b"k2", b"k3", b"k4"]
    assert store.bytes == 3 * ONE
    assert store.warm == 3
    assert len(gone) == 2


def test_what_was_asked_for_stays() -> None:
    """SIEVE: the hand passes over what was visited, once."""
    store = Store(3 * ONE, 4)
    for number in range(3):
        store.put(entry(b"k%d" % number), ())
    next(iter(store.resources[b"k0"].variants.values())).visited = True
    store.put(entry(b"k3"), ())
    assert sorted(store.resources) == [b"k0", b"k2", b"k3"]
    store.put(entry(b"k4"), ())
    store.put(entry(b"k5"), ())
    assert b"k0" in store.resources
    for held in store:
        held.visited = held.key != b"k0"
    store.put(entry(b"k6"), ())
    assert b"k0" not in store.resources


def test_a_scan_does_not_empty_it() -> None:
    """What is asked for often outlives any number of what is asked for once."""
    store = Store(10 * ONE, 4)
    hot = entry(b"hot")
    store.put(hot, ())
    for number in range(1000):
        hot.visited = True
        store.put(entry(b"k%03d" % number), ())
    assert b"hot" in store.resources


def test_too_large_for_all() -> None:
    """It is refused, and what was there for the variant is gone: it is out of date."""
    store = Store(2 * ONE, 4)
    store.put(entry(b"k"), ())
    assert not store.put(entry(b"k", 10 * ONE), ())
    assert not store.resources
    assert store.bytes == 0


def test_variants_are_bounded() -> None:
    """The oldest variant makes room."""
    store = Store(100 * ONE, 3)
    for number in range(5):
        store.put(entry(b"k", 10, b"%d" % number), (b"x",))
    held = store.resources[b"k"].variants
    assert [values[1] for values in held] == [b"2", b"3", b"4"]
    assert store.warm == 3


def test_another_vary_replaces_all() -> None:
    """The fields to tell variants by are those of the latest response."""
    store = Store(100 * ONE, 3)
    store.put(entry(b"k", 10, b"a"), (b"x",))
    store.put(entry(b"k", 10, b"b"), (b"y",))
    assert store.resources[b"k"].names == (b"y",)
    assert [values[1] for values in store.resources[b"k"].variants] == [b"b"]
    assert store.warm == 1


def test_with_a_file_it_becomes_cold() -> None:
    """What leaves the memory and has a file stays in the index; read, it is back."""
    store = Store(2 * ONE, 4)
    first = entry(b"k0")
    store.put(first, ())
    first.file = "f"
    fields, body = first.fields, first.body
    assert fields is not None
    assert body is not None
    store.put(entry(b"k1"), ())
    store.put(entry(b"k2"), ())
    assert first not in [held for held in store if held.warm]
    assert first in list(store)
    assert vars_of(first) == (None, None)
    store.warm_up(first, fields, body)
    assert vars_of(first) == (fields, body)
    assert store.bytes == 2 * ONE
    assert len(list(store)) == 2
    store.warm_up(first, fields, body)
    assert store.warm == 2


def test_a_file_that_is_gone() -> None:
    """A cold entry goes with it, a warm one stays; whoever drops an entry says so of its file."""
    store = Store(5 * ONE, 4)
    forgotten: list[Entry] = []
    store.forget = forgotten.append
    cold, warm = entry(b"cold"), entry(b"warm")
    cold.fields = cold.body = None
    cold.file = warm.file = "f"
    assert store.put_cold(cold, ())
    store.put(warm, ())
    store.no_file(cold)
    store.no_file(warm)
    assert list(store.resources) == [b"warm"]
    assert forgotten == []
    warm.file = "g"
    store.drop(warm)
    store.drop(warm)
    assert forgotten == [warm]
    assert store.bytes == 0


def test_of_two_files_the_newer_one_counts() -> None:
    """What is found at the start does not take the place of what is newer."""
    store = Store(5 * ONE, 2)
    old, new, other = (entry(b"k", wall=wall) for wall in (1.0, 2.0, 3.0))
    assert store.put_cold(old, ())
    assert store.put_cold(new, ())
    assert not store.put_cold(old, ())
    assert list(store) == [new]
    assert not store.put_cold(entry(b"k", wall=1.0), (b"x",))
    assert store.put_cold(other, (b"x",))
    assert list(store) == [other]
    assert store.put_cold(entry(b"k", 1, b"a"), (b"x",))
    assert not store.put_cold(entry(b"k", 1, b"b"), (b"x",))


def test_growing_makes_room() -> None:
    """Fields that become longer cost others their place."""
    store = Store(2 * ONE, 4)
    first, second = entry(b"k0"), entry(b"k1")
    store.put(first, ())
    store.put(second, ())
    second.visited = True
    store.resized(second, ONE + 10)
    assert list(store) == [second]
    assert store.bytes == ONE + 10


class Machine(RuleBasedStateMachine):
    """Any order of what can happen to a store."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(6 * ONE, 2)
        self.forgotten: set[int] = set()
        self.store.forget = lambda gone: self.forgotten.add(id(gone))
        self.contents: dict[int, tuple[Entry, object, object]] = {}

    @rule(key=st.integers(0, 5), value=st.integers(0, 2), size=st.integers(0, 3 * ONE))
    def put(self, key: int, value: int, size: int) -> None:
        made = entry(b"k%d" % key, size, b"%d" % value)
        self.contents[id(made)] = (made, made.fields, made.body)
        self.store.put(made, (b"x",))

    @rule(at=st.integers(0, 20), what=st.sampled_from(["visit", "file", "drop", "lost", "warm"]))
    def touch(self, at: int, what: str) -> None:
        held = list(self.store)
        if not held:
            return
        one = held[at % len(held)]
        if what == "visit":
            one.visited = True
        elif what == "file":
            one.file = "f"
        elif what == "drop":
            self.store.drop(one)
        elif what == "lost":
            self.store.no_file(one)
        elif not one.warm:
            _, fields, body = self.contents[id(one)]
            self.store.warm_up(one, fields, body)  # type: ignore[arg-type]

    @invariant()
    def holds(self) -> None:
        held = list(self.store)
        warm = [one for one in held if one.warm]
        assert self.store.bytes == sum(one.size for one in warm) <= self.store.limit
        assert self.store.warm == len(warm)
        assert all(one.warm is (one.body is not None) for one in held)
        assert all(one.warm or one.file for one in held)
        assert all(resource.variants for resource in self.store.resources.values())
        queue = []
        at = self.store._oldest
        while at is not None:
            queue.append(at)
            at = at.newer
        assert sorted(map(id, queue)) == sorted(map(id, warm))
        assert self.store._hand is None or self.store._hand in queue


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

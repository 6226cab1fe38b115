"""What a cache holds, with files: the parts that need a disk, in the real chain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from meshproxy.api import Response
from meshproxy.filters import _cache_shelf
from meshproxy.filters._cache_shelf import _runner
from meshproxy.filters.cache import Cache
from meshproxy.testing import Kit

MINUTE = (b"cache-control", b"max-age=60")
ETAG = (b"etag", b'"1"')
BODY = b"x" * 5000


def placed(directory: Path, wall: float = 1_700_000_000.0, **options: Any) -> tuple[Kit, Cache]:
    """A cache with files, and memory for two responses or so."""
    kit = Kit(wall=wall, directory=directory)
    kit.advance(1.0)
    held = Cache(
        Cache.Options.model_validate({"memory": 18_000, "disk": {"directory": "c"}} | options)
    )
    return kit, held


def fill(kit: Kit, held: Cache, count: int) -> None:
    """So many URLs."""
    for number in range(count):
        response = Response(200, BODY, [MINUTE, ETAG, (b"x-n", b"%d" % number)])
        kit.drive(held, target=b"/%d" % number, response=response)


def test_more_than_the_memory_holds(tmp_path: Path) -> None:
    """What had to leave the memory is read again, whole."""
    kit, held = placed(tmp_path)
    fill(kit, held, 6)
    assert kit.counters["entries"] == 2
    assert kit.counters["disk_entries"] == 6
    for number in range(6):
        hit = kit.drive(held, target=b"/%d" % number)
        assert (hit.upstream, hit.status, hit.body) == (None, 200, BODY)
        assert hit.headers.get(b"x-n") == b"%d" % number
    assert kit.counters["bytes"] <= 18_000
    condition = kit.drive(held, target=b"/0", headers={b"if-none-match": b'"1"'})
    assert condition.status == 304
    kit.stop(held)


def test_after_a_restart(tmp_path: Path) -> None:
    """It is found, with the age that it has got meanwhile; what is too old is asked about."""
    kit, held = placed(tmp_path)
    fill(kit, held, 2)
    kit.stop(held)
    kit, held = placed(tmp_path, wall=1_700_000_030.0)
    hit = kit.drive(held, target=b"/1")
    assert (hit.upstream, hit.body) == (None, BODY)
    assert 29 <= int(hit.headers.get(b"age") or b"0") <= 31
    kit.stop(held)
    kit, held = placed(tmp_path, wall=1_700_000_090.0)
    again = kit.drive(held, target=b"/1", response=Response(304, b"", [MINUTE, ETAG]))
    assert again.upstream is not None
    assert again.upstream.headers.get(b"if-none-match") == b'"1"'
    assert (again.status, again.body) == (200, BODY)
    kit.stop(held)
    kit, held = placed(tmp_path, wall=1_700_000_100.0)
    assert kit.drive(held, target=b"/1").upstream is None
    kit.stop(held)


def test_a_clock_that_went_back(tmp_path: Path) -> None:
    """What was stored in the future is as old as if it had just come, not younger."""
    kit, held = placed(tmp_path)
    fill(kit, held, 1)
    kit.stop(held)
    kit, held = placed(tmp_path, wall=1_600_000_000.0)
    hit = kit.drive(held, target=b"/0")
    assert int(hit.headers.get(b"age") or b"-1") in (0, 1)
    kit.stop(held)


def test_a_broken_file_is_a_miss(tmp_path: Path) -> None:
    """It is counted and removed, and the origin is asked."""
    kit, held = placed(tmp_path)
    fill(kit, held, 1)
    kit.stop(held)
    (name,) = [n for n in os.listdir(tmp_path / "c") if n != "lock"]
    path = tmp_path / "c" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"y")
    kit, held = placed(tmp_path)
    missed = kit.drive(held, target=b"/0", response=Response(200, b"new"))
    assert missed.body == b"new"
    assert not path.exists()
    assert kit.counters["disk_failures"] == 1
    kit.stop(held)


def test_purged_from_the_disk_too(tmp_path: Path) -> None:
    """By URL and by prefix, with their files."""
    kit, held = placed(tmp_path, purge={"networks": ["192.0.2.0/24"]})
    fill(kit, held, 6)
    assert kit.drive(held, method=b"PURGE", target=b"/0").body == b"1 purged"
    assert kit.drive(held, method=b"PURGE", target=b"/*").body == b"5 purged"
    assert os.listdir(tmp_path / "c") == ["lock"]
    assert kit.counters.get("disk_entries", 0) == 0
    kit.stop(held)


def test_dropped_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge between the question and the file is a miss; a client that goes harms nothing."""
    waiting: list[Any] = []
    wait = False

    def runner(reactor: Any) -> Any:
        def run(function: Any, *arguments: Any) -> Deferred[Any]:
            if not wait:
                return maybeDeferred(function, *arguments)
            done: Deferred[Any] = Deferred()
            waiting.append(lambda: maybeDeferred(function, *arguments).chainDeferred(done))
            return done

        return run

    monkeypatch.setattr(_cache_shelf, "_runner", runner)
    kit, held = placed(tmp_path)
    fill(kit, held, 4)
    wait = True
    asked = kit.drive(held, target=b"/0", response=Response(200, b"new"))
    assert asked.waiting
    held._shelf.invalidate(b"http://test.example/0")
    for work in waiting:
        work()
    assert asked.body == b"new"
    waiting.clear()
    left = kit.drive(held, target=b"/1")
    assert left.waiting
    left.disconnect()
    for work in waiting:
        work()
    wait = False
    assert kit.drive(held, target=b"/1").upstream is None
    assert kit.counters.get("errors", 0) == 0
    kit.stop(held)


def test_a_file_is_read_once_for_all_who_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the others still, when the first of them goes away."""
    waiting: list[Any] = []

    def runner(reactor: Any) -> Any:
        def run(function: Any, *arguments: Any) -> Deferred[Any]:
            if function.__name__ != "read":
                return maybeDeferred(function, *arguments)
            done: Deferred[Any] = Deferred()
            waiting.append(lambda: maybeDeferred(function, *arguments).chainDeferred(done))
            return done

        return run

    monkeypatch.setattr(_cache_shelf, "_runner", runner)
    kit, held = placed(tmp_path)
    fill(kit, held, 4)
    asked = [kit.drive(held, target=b"/0") for _ in range(5)]
    assert len(waiting) == 1
    asked[0].disconnect()
    waiting[0]()
    assert [one.body for one in asked[1:]] == [BODY] * 4
    assert held._shelf._loading == {}
    kit.stop(held)


def test_a_head_and_a_stale_one_are_read_as_well(tmp_path: Path) -> None:
    """Whatever needs the body of a response on disk reads it first."""
    kit, held = placed(tmp_path, stale_while_revalidate="1h")
    fill(kit, held, 6)
    head = kit.drive(held, target=b"/0", method=b"HEAD")
    assert (head.upstream, head.headers.get(b"content-length")) == (None, b"5000")
    kit.beside = Response(304, b"", [MINUTE, ETAG])
    kit.advance(90.0)
    stale = kit.drive(held, target=b"/1")
    assert (stale.upstream, stale.body, stale.details) == (None, BODY, b"cache_stale")
    assert kit.drive(held, target=b"/1").details == b"cache_hit"
    kit.stop(held)


def test_confirmed_after_it_left_the_memory(tmp_path: Path) -> None:
    """What was asked about stays whole until the answer is there."""
    for disk in ({"directory": "c"}, None):
        kit, held = placed(tmp_path, disk=disk)
        fill(kit, held, 1)
        kit.advance(61.0)
        asked = kit.drive(held, target=b"/0", response=None)
        assert asked.upstream is not None
        (entry,) = held._store
        held._store._cool(entry)
        asked.answer(304, [MINUTE, ETAG])
        assert (asked.status, asked.body) == (200, BODY)
        kit.stop(held)


def test_an_error_after_it_left_the_memory(tmp_path: Path) -> None:
    """The stale response is served all the same, and takes no memory that is not counted."""
    kit, held = placed(tmp_path, stale_if_error="1h")
    fill(kit, held, 1)
    kit.advance(61.0)
    asked = kit.drive(held, target=b"/0", response=None)
    (entry,) = held._store
    held._store._cool(entry)
    asked.answer(503, [])
    assert (asked.status, asked.body) == (200, BODY)
    assert all(one.warm or one.body is None for one in held._store)
    kit.stop(held)


def test_what_is_shown(tmp_path: Path) -> None:
    """In the admin: how much of what may be."""
    kit, held = placed(tmp_path)
    fill(kit, held, 1)
    shown = kit.shown["cache"]()
    assert shown["entries"] == shown["urls"] == shown["disk"]["entries"] == 1
    assert 5000 < shown["bytes"] < shown["limit"] == 18_000
    kit.stop(held)


def test_work_is_done_in_a_thread_of_the_reactor() -> None:
    """Where there is one; a clock does it at once."""

    class Pool:
        def callInThreadWithCallback(self, done: Any, function: Any, *arguments: Any) -> None:
            done(True, function(*arguments))

    class Reactor:
        def getThreadPool(self) -> Pool:
            return Pool()

        def callFromThread(self, function: Any, *arguments: Any) -> None:
            function(*arguments)

    for reactor in (Reactor(), object()):
        found: list[int] = []
        _runner(reactor)(lambda a, b: a + b, 1, 2).addCallback(found.append)
        assert found == [3]

"""The filter quota, in the real chain over fake transports and a real file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import current_thread
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface.verify import verifyObject

from meshproxy.api import Response
from meshproxy.filters._quota_ledger import Ledger
from meshproxy.filters.quota import OTHERS, Quota
from meshproxy.interfaces import IExchangeObserver, IFilterService, IResponseFilter
from meshproxy.testing import Kit

#: A Monday, 12:00 UTC.
NOON = 1_795_435_200.0
DAY = 86_400


def _at_once(call: Callable[..., Any], *given: Any) -> Deferred[Any]:
    return maybeDeferred(call, *given)


def made(in_thread: Callable[..., Deferred[Any]] = _at_once, **options: Any) -> Quota:
    """A filter with these options, whose thread is this one."""
    held = Quota(Quota.Options.model_validate(options))
    held.in_thread = in_thread
    return held


def statuses(kit: Kit, held: Quota, count: int, user: bytes = b"", **request: Any) -> list[int]:
    """The statuses of so many requests, of ``user``."""
    if user:
        request["headers"] = {b"x-user": user}
    return [kit.drive(held, **request).status for _ in range(count)]


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A place at noon, whose files are in a directory of their own."""
    return Kit(wall=NOON, directory=tmp_path)


USER = {"header": "x-user"}


def test_an_allowance_of_requests(kit: Kit) -> None:
    """So many requests pass; the next is told when the day is over, and then it begins anew."""
    held = made(requests=2)
    first = kit.drive(held)
    assert first.headers.get(b"ratelimit-policy") == b'"quota";q=2;w=86400'
    assert first.headers.get(b"ratelimit") == b'"quota";r=1;t=43200'
    assert statuses(kit, held, 1) == [200]
    refused = kit.drive(held)
    assert (refused.status, refused.body, refused.details) == (
        429,
        b"quota_exceeded",
        b"quota_exceeded",
    )
    assert refused.upstream is None
    assert refused.headers.get(b"retry-after") == b"43200"
    assert refused.headers.get(b"ratelimit") == b'"quota";r=0;t=43200'
    assert kit.counters["refused"] == 1
    assert statuses(kit, held, 1, client=b"192.0.2.2:1") == [200]
    kit.clock.advance(DAY / 2 - 1)
    assert statuses(kit, held, 1) == [429]
    kit.clock.advance(1)
    assert statuses(kit, held, 3) == [200, 200, 429]


def test_an_allowance_of_bytes(kit: Kit) -> None:
    """Responses count when they end; the one that crosses the line is not cut."""
    held = made(bytes=100, per="month")
    body = Response(200, b"x" * 60)
    assert IExchangeObserver.providedBy(held)
    first = kit.drive(held, response=body)
    policy = b'"quota";q=100;qu="content-bytes";w=2592000'
    assert first.headers.get(b"ratelimit-policy") == policy
    second = kit.drive(held, response=body)
    assert b'"quota";r=40;' in dict(second.headers)[b"ratelimit"]
    assert (second.status, len(second.body)) == (200, 60)
    assert kit.drive(held, response=body).status == 429
    assert not IExchangeObserver.providedBy(made(requests=1))


def test_bytes_of_a_response_that_is_broken_off(kit: Kit) -> None:
    """What was sent before the client went away counts."""
    held = made(bytes=100)
    driven = kit.drive(held, response=None)
    driven.answer(200, {}, b"x" * 150, end=False)
    assert kit.shown["quota"]()["top"] == []
    driven.disconnect()
    assert kit.shown["quota"]()["top"][0]["used"] == 150
    assert kit.drive(held).status == 429


def test_bytes_count_in_the_period_in_which_they_end() -> None:
    """A download over midnight is the new day's."""
    kit = Kit(wall=NOON + DAY / 2 - 1)
    held = made(bytes=100)
    driven = kit.drive(held, response=None)
    driven.answer(200, {}, b"x" * 99, end=False)
    kit.advance(1.5)
    driven.answer_end(b"x")
    assert kit.shown["quota"]()["top"][0]["used"] == 100
    assert kit.shown["quota"]()["period"]["start"] == NOON + DAY / 2


def test_named_allowances(kit: Kit) -> None:
    """Some have more, some none; everybody else has the default."""
    held = made(requests=1, by=USER, allowances={"ann": 3, "bob": 0, "x" * 60: 2})
    assert statuses(kit, held, 4, b"ann") == [200, 200, 200, 429]
    assert statuses(kit, held, 1, b"bob") == [429]
    assert statuses(kit, held, 2, b"eve") == [200, 429]
    assert statuses(kit, held, 3, b"x" * 60) == [200, 200, 429]


@pytest.mark.parametrize(
    ("missing", "expected"), [("share", [200, 429]), ("skip", [200, 200]), ("refuse", [400, 400])]
)
def test_who_does_not_say_who_he_is(kit: Kit, missing: str, expected: list[int]) -> None:
    """As everywhere: one allowance together, none, or a refusal."""
    assert statuses(kit, made(requests=1, by=USER, missing=missing), 2) == expected


def test_only_what_matches_counts(kit: Kit) -> None:
    """Other requests pass, and are told nothing."""
    held = made(requests=1, match={"methods": ["POST"]})
    assert statuses(kit, held, 3) == [200] * 3
    assert b"ratelimit" not in kit.drive(held).headers
    assert statuses(kit, held, 2, method=b"POST") == [200, 429]


def test_what_is_told(kit: Kit) -> None:
    """The older headers, none on allowed responses, or none at all."""
    legacy = kit.drive(made(requests=5, headers="legacy"))
    assert legacy.headers.get(b"x-ratelimit-remaining") == b"4"
    assert legacy.headers.get(b"x-ratelimit-reset") == b"43200"
    for held in (made(requests=5, on_allowed=False), made(requests=5, headers="off")):
        assert not IResponseFilter.providedBy(held)
        assert b"ratelimit" not in kit.drive(held).headers
    own = Response(200, b"", {b"ratelimit": b'"own";r=1'})
    both = kit.drive(made(requests=5), response=own)
    assert both.headers.get_all(b"ratelimit") == [b'"own";r=1', b'"quota";r=4;t=43200']


@pytest.mark.parametrize(("full", "passing"), [("share", 2), ("refuse", 0)])
def test_more_keys_than_places(kit: Kit, full: str, passing: int) -> None:
    """New keys have one allowance together or none; those with a place or a name are not hurt."""
    held = made(requests=2, by=USER, keys=3, full=full, allowances={"ann": 2})
    for user in (b"a", b"b", b"c"):
        assert statuses(kit, held, 1, user) == [200]
    crowd = [statuses(kit, held, 1, b"new%d" % number)[0] for number in range(20)]
    assert crowd.count(200) == passing
    assert kit.counters["crowded"] == 20
    assert statuses(kit, held, 2, b"a") == [200, 429]
    assert statuses(kit, held, 3, b"ann") == [200, 200, 429]
    assert len(held._used) <= 5


def test_bytes_of_more_keys_than_places(kit: Kit) -> None:
    """Two new keys in flight for the last place: the second is counted with the others."""
    held = made(bytes=100, by=USER, keys=1, show_keys=True)
    flying = [kit.drive(held, response=None, headers={b"x-user": user}) for user in (b"a", b"b")]
    for driven in flying:
        driven.answer(200, {}, b"x" * 70)
    top = kit.shown["quota"]()["top"]
    assert {entry["key"]: entry["used"] for entry in top} == {"a": 70, "(others)": 70}


def test_clocks_that_are_set_back(kit: Kit) -> None:
    """A clock set back over midnight gives no new allowance; one that was far ahead is forgiven."""
    held = made(requests=1)
    kit.clock.advance(DAY / 2)
    assert statuses(kit, held, 1) == [200]
    times = [NOON + DAY / 2 - 5.0]
    held._time = lambda: times[0]
    assert statuses(kit, held, 1) == [429]
    times[0] = NOON - 2 * DAY
    assert statuses(kit, held, 2) == [200, 429]


# The file.


def test_counts_outlive_the_process(kit: Kit) -> None:
    """After a stop another instance goes on where this one was."""
    held = made(requests=3, by=USER, file="quota.db")
    assert statuses(kit, held, 2, b"ann") == [200, 200]
    kit.stop(held)
    again = made(requests=3, by=USER, file="quota.db", name=None)
    again_kit = Kit(wall=NOON, directory=kit._directory)
    assert statuses(again_kit, again, 2, b"ann") == [200, 429]
    assert statuses(again_kit, again, 1, b"eve") == [200]
    again_kit.stop(again)


def test_a_killed_process_loses_one_interval(kit: Kit) -> None:
    """What was counted before the last flush is there, though nobody stopped anything."""
    held = made(requests=3, file="quota.db", flush="2s")
    statuses(kit, held, 1)
    kit.advance(2.01)
    statuses(kit, held, 1)
    again = made(requests=3, file="quota.db")
    again_kit = Kit(wall=NOON, directory=kit._directory)
    assert statuses(again_kit, again, 3) == [200, 200, 429]


def test_an_idle_quota_has_no_timer(kit: Kit) -> None:
    """A timer is there only while something is to be written, and none after the stop."""
    held = made(requests=9, file="quota.db")
    kit.attach(held)
    idle = len(kit.clock.getDelayedCalls())
    statuses(kit, held, 2)
    kit.advance(1.01)
    kit.advance(5.0)
    assert len(kit.clock.getDelayedCalls()) == idle
    statuses(kit, held, 1)
    assert held._timer is not None
    kit.stop(held)
    assert held._timer is None
    again = Ledger(str(Path(kit._directory) / "quota.db"), "test/quota requests day")
    assert list(again.load(held._period, 9).values()) == [3]


def test_two_processes_count_together(kit: Kit) -> None:
    """Each knows after a flush what the other counted, and neither undoes the other."""
    one, two = (made(requests=10, file="quota.db", name="api") for _ in range(2))
    statuses(kit, one, 4)
    statuses(kit, two, 4)
    kit.advance(1.01)
    statuses(kit, one, 1)
    statuses(kit, two, 1)
    kit.advance(1.01)
    assert list(one._used.values()) == [9] or list(two._used.values()) == [10]
    statuses(kit, one, 1)
    kit.advance(1.01)
    assert kit.drive(one).status == 429


class _Thread:
    """A thread that does what it is given when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, call: Callable[..., Any], *given: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append((done, call, given))
        return done

    def work(self) -> None:
        """Do the next job."""
        done, call, given = self.jobs.pop(0)
        try:
            result = call(*given)
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)


def test_counts_that_come_while_the_disk_works(kit: Kit) -> None:
    """One batch at a time; what is counted meanwhile is in the next, and in the count at once."""
    thread = _Thread()
    held = made(thread, requests=100, file="quota.db")
    statuses(kit, held, 2)
    kit.advance(1.01)
    statuses(kit, held, 3)
    kit.advance(10.0)
    assert len(thread.jobs) == 1
    thread.work()
    assert list(held._used.values()) == [5]
    kit.advance(1.01)
    thread.work()
    kit.stop(held)
    again = made(requests=6, file="quota.db")
    assert statuses(Kit(wall=NOON, directory=kit._directory), again, 2) == [200, 429]


@pytest.mark.parametrize("late", [True, False])
def test_a_stop_while_the_disk_works(kit: Kit, late: bool) -> None:
    """A batch is written once, whether its thread comes before the stop or after it."""
    thread = _Thread()
    held = made(thread, requests=9, file="quota.db")
    statuses(kit, held, 2)
    kit.advance(1.01)
    statuses(kit, held, 1)
    done, call, given = thread.jobs[0]
    if late:
        kit.stop(held)
        thread.work()
    else:
        totals = call(*given)
        kit.stop(held)
        done.callback(totals)
    ledger = Ledger(str(Path(kit._directory) / "quota.db"), "test/quota requests day")
    assert list(ledger.load(held._period, 9).values()) == [3]


def test_a_reload_forgets_nothing(kit: Kit) -> None:
    """
    The new filter starts before the old one stops: it learns what that had not written when it
    writes itself.
    """
    old, new = (made(requests=5, file="quota.db", name="api") for _ in range(2))
    statuses(kit, old, 4)
    kit.attach(new)
    kit.stop(old)
    assert statuses(kit, new, 1) == [200]
    kit.advance(1.01)
    assert statuses(kit, new, 1) == [429]


class _Reactor:
    """As much of a reactor as threads need: the test calls what they hand back."""

    def __init__(self) -> None:
        self.pool = ThreadPool(0, 1)
        self.calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def getThreadPool(self) -> ThreadPool:
        return self.pool

    def callFromThread(self, call: Callable[..., Any], *given: Any) -> None:
        self.calls.put((call, given))


def test_it_writes_in_a_thread(kit: Kit) -> None:
    """The disk's work is done by a thread of the reactor's pool, and its result comes back here."""
    reactor = _Reactor()
    held = Quota(Quota.Options.model_validate({"requests": 5, "file": "quota.db"}))
    threads: list[str] = []

    def in_thread(call: Callable[..., Any], *given: Any) -> Deferred[Any]:
        def noted() -> Any:
            threads.append(current_thread().name)
            return call(*given)

        clock, held._context.reactor = held._context.reactor, reactor
        try:
            return Quota.in_thread(held, noted)
        finally:
            held._context.reactor = clock

    held.in_thread = in_thread
    statuses(kit, held, 2)
    reactor.pool.start()
    try:
        kit.advance(1.01)
        assert kit.shown["quota"]()["keys"] == 1
        call, given = reactor.calls.get(timeout=60)
        call(*given)
    finally:
        reactor.pool.stop()
    assert held._batch is None
    assert threads not in ([], [current_thread().name])
    with sqlite3.connect(Path(kit._directory) / "quota.db") as file:
        assert file.execute("SELECT used FROM quota").fetchall() == [(2,)]


def test_a_file_that_is_locked(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves on, counts each failure, logs the first, and writes all of it when it can."""
    monkeypatch.setattr("meshproxy.filters._quota_ledger._PATIENCE", 0.0)
    path = Path(kit._directory) / "quota.db"
    held = made(requests=5, file="quota.db")
    kit.attach(held)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        assert statuses(kit, held, 1) == [200]
        kit.advance(1.01)
    assert kit.counters["file_errors"] == 3
    assert len(kit.log) == 1
    assert "locked" in kit.log[0]
    other.execute("ROLLBACK")
    kit.advance(1.01)
    assert other.execute("SELECT used FROM quota").fetchall() == [(3,)]
    assert statuses(kit, held, 3) == [200, 200, 429]
    other.execute("BEGIN IMMEDIATE")
    kit.advance(1.01)
    assert len(kit.log) == 2
    kit.stop(held)
    assert kit.counters["lost"] == 2


def test_a_file_that_is_locked_at_the_start(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts without its counts, and learns them when the file is free again."""
    monkeypatch.setattr("meshproxy.filters._quota_ledger._PATIENCE", 0.0)
    before = made(requests=5, file="quota.db", name="api")
    statuses(kit, before, 4)
    kit.stop(before)
    other = sqlite3.connect(Path(kit._directory) / "quota.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    held = made(requests=5, file="quota.db", name="api")
    assert statuses(kit, held, 1) == [200]
    assert kit.counters["file_errors"] == 1
    other.execute("ROLLBACK")
    kit.advance(1.01)
    assert statuses(kit, held, 1) == [429]


def test_a_disk_that_stays_full_for_days(kit: Kit) -> None:
    """Counts of two periods wait; what is older is given up, and counted as lost."""

    def full(call: Callable[..., Any], *given: Any) -> Deferred[Any]:
        def fails() -> None:
            raise sqlite3.OperationalError("database or disk is full")

        return maybeDeferred(fails)

    held = made(full, requests=5, per="hour", file="quota.db")
    for hour in range(4):
        statuses(kit, held, hour + 1)
        kit.clock.advance(3600.0)
    assert len(held._pending) == 2
    assert kit.counters["lost"] == 3
    held.in_thread = _at_once
    kit.advance(1.01)
    assert held._pending == {}


def test_files_that_can_never_be_used(kit: Kit) -> None:
    """A directory that is not there, or another program's file, keeps the proxy from starting."""
    with pytest.raises(ValueError, match=r"'no/quota.db' cannot be used: .*No such file"):
        kit.attach(made(requests=1, file="no/quota.db"))
    (Path(kit._directory) / "text").write_text("this is not a database at all " * 99)
    with pytest.raises(ValueError, match="'text' cannot be used: file is not a database"):
        kit.attach(made(requests=1, file="text"))


def test_old_periods_are_pruned(kit: Kit) -> None:
    """What ended more than a day ago is gone from the file."""
    held = made(requests=5, file="quota.db")
    for _ in range(3):
        statuses(kit, held, 1)
        kit.advance(1.01)
        kit.clock.advance(DAY)
    statuses(kit, held, 1)
    kit.advance(1.01)
    with sqlite3.connect(Path(kit._directory) / "quota.db") as file:
        starts = [row[0] for row in file.execute("SELECT start FROM quota ORDER BY start")]
    assert starts == [NOON + DAY * day - DAY / 2 for day in (2, 3)]


@pytest.mark.parametrize("shown", [False, True])
def test_keys_are_secrets_unless_they_are_not(kit: Kit, shown: bool) -> None:
    """Neither the file nor the admin has a key, only hashes, unless the option says so."""
    held = made(requests=9, by=USER, file="quota.db", show_keys=shown, allowances={"s3cret": 8})
    statuses(kit, held, 2, b"s3cret")
    statuses(kit, held, 1, b"other")
    kit.stop(held)
    page = kit.shown["quota"]()
    assert [(entry["used"], entry["allowance"]) for entry in page["top"]] == [(2, 8), (1, 9)]
    assert ("s3cret" in json.dumps(page)) is shown
    files = b"".join(path.read_bytes() for path in Path(kit._directory).iterdir())
    assert (b"s3cret" in files) is shown


def test_the_admin_page_is_bounded(kit: Kit) -> None:
    """It shows the largest users only, and those without a place by a word."""
    held = made(requests=9, by=USER, keys=50, top=3, show_keys=True)
    for number in range(60):
        statuses(kit, held, 1, b"%d" % number)
    statuses(kit, held, 2, b"7")
    top = kit.shown["quota"]()["top"]
    assert [(entry["key"], entry["used"]) for entry in top[:2]] == [("(others)", 9), ("7", 3)]
    assert len(top) == 3
    assert len(OTHERS) > 48


def test_it_is_a_service() -> None:
    """It provides what it promises."""
    assert verifyObject(IFilterService, made(requests=1))

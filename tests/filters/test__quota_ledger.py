"""The file of quotas: nothing lost, nothing written twice, whoever else writes it."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from meshproxy.filters._quota_ledger import PASSING, Batch, Ledger
from tests.harness import ROOT, environment

DAY = (86_400, 172_800)
NEXT = (172_800, 259_200)


def test_counts_are_added_and_found_again(tmp_path: Path) -> None:
    """A batch adds to what is there and says what there is then; another process finds it."""
    path = str(tmp_path / "quota.db")
    one = Ledger(path, "api")
    assert one.load(DAY, 10) == {}
    assert one.add(Batch({DAY: {b"a": 2, b"b": 1}})) == {DAY: {b"a": 2, b"b": 1}}
    other = Ledger(path, "api")
    assert other.add(Batch({DAY: {b"a": 5}, NEXT: {b"a": 1}})) == {DAY: {b"a": 7}, NEXT: {b"a": 1}}
    assert one.add(Batch({DAY: {b"a": 1}})) == {DAY: {b"a": 8}}
    one.close()
    other.close()
    again = Ledger(path, "api")
    assert again.load(DAY, 10) == {b"a": 8, b"b": 1}
    assert again.load(DAY, 1) == {b"a": 8}
    assert Ledger(path, "other").load(DAY, 10) == {}


def test_a_batch_is_written_once(tmp_path: Path) -> None:
    """Not twice, and not once it was withdrawn."""
    ledger = Ledger(str(tmp_path / "q"), "api")
    batch = Batch({DAY: {b"a": 2}})
    ledger.add(batch)
    assert ledger.add(batch) == {}
    assert not ledger.withdraw(batch)
    late = Batch({DAY: {b"a": 3}})
    assert ledger.withdraw(late)
    assert ledger.add(late) == {}
    assert ledger.load(DAY, 10) == {b"a": 2}


def test_a_locked_file_takes_nothing_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process has the file, a batch fails whole, and can be given again."""
    monkeypatch.setattr("meshproxy.filters._quota_ledger._PATIENCE", 0.0)
    path = str(tmp_path / "q")
    ledger = Ledger(path, "api")
    ledger.load(DAY, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    batch = Batch({DAY: {b"a": 2}})
    with pytest.raises(sqlite3.OperationalError) as caught:
        ledger.add(batch)
    assert caught.value.sqlite_errorcode in PASSING
    other.execute("ROLLBACK")
    assert ledger.add(batch) == {DAY: {b"a": 2}}


def test_a_full_disk_writes_no_half_batch(tmp_path: Path) -> None:
    """When the file can grow no more, the batch is rolled back whole."""
    ledger = Ledger(str(tmp_path / "q"), "api")
    ledger.add(Batch({DAY: {b"a": 1}}))
    assert ledger._file is not None
    pages = ledger._file.execute("PRAGMA page_count").fetchone()[0]
    ledger._file.execute(f"PRAGMA max_page_count = {pages}")
    batch = Batch({DAY: {b"a": 1, **{b"%048d" % number: 1 for number in range(500)}}})
    with pytest.raises(sqlite3.OperationalError) as caught:
        ledger.add(batch)
    assert caught.value.sqlite_errorcode == sqlite3.SQLITE_FULL
    assert ledger.load(DAY, 1000) == {b"a": 1}
    ledger._file.execute("PRAGMA max_page_count = 100000")
    assert len(ledger.add(batch)[DAY]) == 501


def test_old_periods_go(tmp_path: Path) -> None:
    """What ended more than a day ago is forgotten, of whatever name."""
    path = str(tmp_path / "q")
    one, other = Ledger(path, "api"), Ledger(path, "gone")
    for ledger in (one, other):
        ledger.add(Batch({DAY: {b"a": 1}, NEXT: {b"a": 2}}))
    one.prune(DAY[1] + 86_400 + 1)
    for ledger in (one, other):
        assert ledger.load(DAY, 1) == {}
        assert ledger.load(NEXT, 1) == {b"a": 2}


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """The file and its companions may hold keys: nobody else can read them."""
    path = tmp_path / "q"
    before = os.umask(0)
    try:
        Ledger(str(path), "api").add(Batch({DAY: {b"a": 1}}))
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_files_that_are_something_else(tmp_path: Path) -> None:
    """A file of another program, of a later version, or in no directory is not touched."""
    text = tmp_path / "text"
    text.write_bytes(b"not a database, but long enough to be looked at as one" * 40)
    with pytest.raises(sqlite3.DatabaseError):
        Ledger(str(text), "api").load(DAY, 1)
    later = tmp_path / "later"
    with sqlite3.connect(later) as file:
        file.execute("PRAGMA user_version = 7")
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        Ledger(str(later), "api").load(DAY, 1)
    with pytest.raises(OSError, match="No such file"):
        Ledger(str(tmp_path / "nowhere" / "q"), "api").load(DAY, 1)


def test_threads_one_after_the_other(tmp_path: Path) -> None:
    """A call in one thread waits for that in another; withdrawing waits for what is written."""
    ledger = Ledger(str(tmp_path / "q"), "api")
    ledger.load(DAY, 1)
    batches = [Batch({DAY: {b"%d" % number: 1, b"all": 1}}) for number in range(40)]
    go = Event()

    def write(part: list[Batch]) -> None:
        go.wait(10)
        for batch in part:
            ledger.add(batch)

    threads = [Thread(target=write, args=(batches[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(30)
    assert not any(ledger.withdraw(batch) for batch in batches)
    assert ledger.load(DAY, 1) == {b"all": 40}


_WRITER = """
import sys
from meshproxy.filters._quota_ledger import Batch, Ledger
ledger = Ledger(sys.argv[1], "api")
for number in range(int(sys.argv[2])):
    ledger.add(Batch({(86400, 172800): {b"all": 1, b"%d" % (number % 7): 1}}))
    if number == 20:
        print("going", flush=True)
"""


def _writer(path: Path, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(count)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
    )


def test_several_processes_on_one_file(tmp_path: Path) -> None:
    """Three processes that add at once lose nothing of each other's."""
    path = tmp_path / "q"
    writers = [_writer(path, 100) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    for writer in writers:
        writer.communicate()
    counts = Ledger(str(path), "api").load(DAY, 100)
    assert counts.pop(b"all") == 300
    assert sum(counts.values()) == 300


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """After a kill -9 in the middle of writing, the file is whole, and each batch in it too."""
    path = tmp_path / "q"
    writer = _writer(path, 1_000_000)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"going\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(60) == -signal.SIGKILL
    writer.communicate()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    counts = Ledger(str(path), "api").load(DAY, 100)
    assert counts.pop(b"all") == sum(counts.values()) >= 21

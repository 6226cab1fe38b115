"""Stored responses in files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshproxy.api import Headers
from meshproxy.filters._cache_disk import (
    BLOCK,
    PENDING,
    SLICE,
    Broken,
    Disk,
    pack,
    scan,
    unpack,
    unpack_head,
    write,
)
from meshproxy.filters._cache_policy import Freshness
from meshproxy.filters._cache_store import Entry, Store

FRESH = Freshness(60.0, True, False, -1.0, 5.5)


def entry(key: bytes = b"k", body: bytes = b"hello", wall: float = 5.0) -> Entry:
    """A stored response."""
    fields = Headers.of([(b"etag", b'"\xe9"'), (b"date", b"x"), (b"x-a", b"")]).fields
    return Entry(key, (b"r", None, b"\xff"), 203, fields, body, FRESH, 1.5, 0.0, wall)


class Held:
    """A disk with a store, whose thread is this one, or a list of what is to be done."""

    def __init__(self, directory: Path, size: int = 1 << 20, files: int = 100) -> None:
        self.clock = Clock()
        self.store = Store(1 << 20, 4)
        self.log: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.wait = False
        self.disk = Disk(
            str(directory),
            size,
            files,
            self.run,
            self.clock.callLater,
            self.store.put_cold,
            self.store.no_file,
            lambda: None,
            self.log.append,
        )
        self.store.forget = self.disk.forget

    def run(self, function: Any, *arguments: Any) -> Deferred[Any]:
        """In a thread."""
        if not self.wait:
            return maybeDeferred(function, *arguments)
        done: Deferred[Any] = Deferred()

        def work() -> None:
            maybeDeferred(function, *arguments).chainDeferred(done)

        self.later.append(work)
        return done

    def put(self, made: Entry) -> Entry:
        """Store it, in memory and on disk."""
        self.store.put(made, (b"a", b"b"))
        self.disk.put(made, (b"a", b"b"))
        return made


def files(directory: Path) -> list[str]:
    """The files with responses."""
    return sorted(name for name in os.listdir(directory) if name != "lock")


def result(deferred: Deferred[Any]) -> Any:
    """What it fired with."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    return found[0]


def test_what_is_written_is_read() -> None:
    """Every field, value and number, whatever bytes they are of."""
    made = entry()
    data = pack(made, (b"x", b"y"))
    cold, names = unpack_head(data, len(data))
    read, body = unpack(data)
    assert body == b"hello"
    assert names == (b"x", b"y")
    assert cold.body is None
    for name in Entry.__slots__:
        if name not in ("body", "received"):
            assert getattr(read, name) == getattr(made, name), name
            assert getattr(cold, name) == getattr(made, name), name


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_found(at: int, by: int) -> None:
    """Wherever it is, and whatever it has become."""
    data = bytearray(pack(entry(), ()))
    at %= len(data)
    if data[at] == by:
        by ^= 1
    data[at] = by
    with pytest.raises(Broken):
        unpack(bytes(data))


@given(st.integers(0, 1000))
def test_a_cut_file_is_found(length: int) -> None:
    """And one with something behind it."""
    data = pack(entry(), ())
    if length < len(data):
        with pytest.raises(Broken):
            unpack(data[:length])
    with pytest.raises(Broken):
        unpack(data + b"x")


def test_a_head_that_lies_is_found() -> None:
    """A good checksum over something else does not help."""
    import struct
    import zlib

    for head in (b"{}", b"[]", b"1", b'{"key": 1}', b"\xff"):
        data = struct.pack(">8sIIII", b"mpcache1", len(head), zlib.crc32(head), 0, 0) + head
        with pytest.raises(Broken):
            unpack(data)


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Nothing is there under the name before all of it is; a failure leaves nothing."""
    write(str(tmp_path / "a"), b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="b"):
        write(str(tmp_path / "no" / "b"), b"x")
    (tmp_path / "d").mkdir()
    with pytest.raises(OSError, match="d"):
        write(str(tmp_path / "d"), b"x")
    assert sorted(os.listdir(tmp_path)) == ["a", "d"]


def test_it_outlives_the_process(tmp_path: Path) -> None:
    """What one has written the next one finds, and reads when it is asked for."""
    first = Held(tmp_path / "c")
    first.disk.start()
    made = first.put(entry())
    assert made.file
    first.disk.stop()
    second = Held(tmp_path / "c")
    second.disk.start()
    (found,) = second.store
    assert found.body is None
    assert (found.key, found.values, found.etag) == (made.key, made.values, made.etag)
    assert second.store.resources[b"k"].names == (b"a", b"b")
    assert second.disk.bytes == BLOCK
    read, body = result(second.disk.get(found))
    assert (read.fields, body) == (made.fields, b"hello")
    second.disk.stop()


def test_a_great_many_are_taken_in_slices(tmp_path: Path) -> None:
    """No turn of the reactor is long; the oldest files are the first to go."""
    first = Held(tmp_path, 1 << 30, SLICE * 3)
    first.disk.start()
    for number in range(SLICE + 10):
        first.put(entry(b"%d" % number))
    first.disk.stop()
    second = Held(tmp_path, 1 << 30, SLICE * 3)
    second.disk.start()
    assert second.disk.entries == SLICE
    second.clock.advance(0)
    assert second.disk.entries == SLICE + 10
    second.disk.stop()
    third = Held(tmp_path)
    third.disk.start()
    assert third.disk.entries == 100
    assert len(files(tmp_path)) == 100
    third.disk.stop()


def test_stopping_while_it_is_taken(tmp_path: Path) -> None:
    """No timer stays."""
    first = Held(tmp_path, 1 << 30, SLICE * 3)
    first.disk.start()
    for number in range(SLICE + 10):
        first.put(entry(b"%d" % number))
    first.disk.stop()
    second = Held(tmp_path, 1 << 30, SLICE * 3)
    second.disk.start()
    second.disk.stop()
    assert second.clock.getDelayedCalls() == []


def test_rubbish_is_removed(tmp_path: Path) -> None:
    """Cut files, others' files under such names, what a crash left; and nothing else."""
    held = Held(tmp_path)
    held.disk.start()
    good = held.put(entry())
    held.disk.stop()
    data = (tmp_path / good.file).read_bytes()
    (tmp_path / "cut.response").write_bytes(data[:-1])
    (tmp_path / "none.response").write_bytes(b"")
    (tmp_path / "other.response").write_bytes(b"x" * 5000)
    (tmp_path / "crash.response.tmp").write_bytes(data)
    (tmp_path / "mine.txt").write_bytes(b"x")
    (tmp_path / "folder.response").mkdir()
    again = Held(tmp_path)
    again.disk.start()
    assert files(tmp_path) == sorted([good.file, "folder.response", "mine.txt"])
    assert again.disk.failures == 4
    assert again.disk.entries == 1
    again.disk.stop()


def test_of_two_files_for_one_the_newer_is_taken(tmp_path: Path) -> None:
    """A crash may leave both; one of them goes."""
    write(str(tmp_path / "a.response"), pack(entry(wall=2.0, body=b"new"), ()))
    write(str(tmp_path / "b.response"), pack(entry(wall=1.0, body=b"old"), ()))
    os.utime(tmp_path / "a.response", (1, 1))
    held = Held(tmp_path)
    held.disk.start()
    assert files(tmp_path) == ["a.response"]
    held.disk.stop()


def test_the_size_is_bounded(tmp_path: Path) -> None:
    """In bytes and in files; what was asked for stays longer."""
    held = Held(tmp_path, 3 * BLOCK)
    held.disk.start()
    made = [held.put(entry(b"%d" % number)) for number in range(3)]
    made[0].visited = True
    made.append(held.put(entry(b"3")))
    assert held.disk.bytes == 3 * BLOCK
    assert [bool(one.file) for one in made] == [True, False, True, True]
    assert len(files(tmp_path)) == 3
    assert len(list(held.store)) == 4  # those without a file are in memory still
    held.put(entry(b"large", b"x" * 4 * BLOCK))
    assert held.disk.entries == 3
    held.disk.stop()
    few = Held(tmp_path / "few", 1 << 20, 2)
    few.disk.start()
    for number in range(5):
        few.put(entry(b"%d" % number))
    assert few.disk.entries == len(files(tmp_path / "few")) == 2
    few.disk.stop()


def test_a_broken_file_is_gone(tmp_path: Path) -> None:
    """It is found when it is read: the entry goes, and so does the file."""
    held = Held(tmp_path)
    held.disk.start()
    made = held.put(entry())
    held.store._cool(made)
    assert list(held.store) == [made]
    path = tmp_path / made.file
    path.write_bytes(path.read_bytes()[:-1])
    failure = result(held.disk.get(made))
    assert isinstance(failure, Failure)
    assert failure.check(Broken)
    assert list(held.store) == []
    assert files(tmp_path) == []
    assert (held.disk.bytes, held.disk.failures) == (0, 1)
    held.disk.stop()


def test_nobody_waits_for_a_file_any_more(tmp_path: Path) -> None:
    """That is no fault of the file's."""
    held = Held(tmp_path)
    held.disk.start()
    made = held.put(entry())
    held.wait = True
    reading = held.disk.get(made)
    reading.addErrback(lambda failure: None)
    reading.cancel()
    assert made.file
    assert held.disk.failures == 0
    held.disk.stop()


def test_what_is_dropped_while_it_is_written(tmp_path: Path) -> None:
    """Its file is not kept."""
    held = Held(tmp_path)
    held.disk.start()
    held.wait = True
    made = held.put(entry())
    again = held.put(entry())
    assert held.disk.pending > 0
    held.wait = False
    for work in held.later:
        work()
    assert not made.file
    assert files(tmp_path) == [again.file]
    assert held.disk.pending == 0
    held.disk.put(again, ())  # its fields changed
    assert files(tmp_path) == [again.file]
    held.store.drop(again)
    assert files(tmp_path) == []
    assert held.disk.bytes == 0
    held.disk.stop()


def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    """A slow disk costs no memory without end."""
    held = Held(tmp_path, 1 << 40)
    held.disk.start()
    held.wait = True
    for number in range(40):
        held.disk.put(entry(b"%d" % number, bytes(1 << 20)), ())
    assert held.disk.pending <= PENDING
    assert len(held.later) < 20
    held.disk.stop()
    for work in held.later:
        work()
    assert held.disk.entries == 0


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """It is said once, and counted every time."""
    directory = tmp_path / "c"
    held = Held(directory)
    held.disk.start()
    (directory / "lock").unlink()
    directory.rmdir()
    for _ in range(3):
        assert not held.put(entry()).file
    assert held.disk.failures == 3
    assert len(held.log) == 1
    held.disk.stop()


def test_a_second_cache_takes_over(tmp_path: Path) -> None:
    """As at a reload: the first one goes on without the files, and touches none of them."""
    first, second = Held(tmp_path), Held(tmp_path)
    first.disk.start()
    warm = first.put(entry(b"warm"))
    cold = first.put(entry(b"cold"))
    first.store._cool(cold)
    second.disk.start()
    assert list(first.store) == [warm]
    assert "takes" in first.log[0]
    first.put(entry(b"more"))
    first.store.drop(warm)
    assert len(list(second.store)) == len(files(tmp_path)) == 2
    first.disk.stop()
    assert second.put(entry(b"x")).file
    second.disk.stop()


def test_another_process_is_refused(tmp_path: Path) -> None:
    """Two of them would remove each other's files."""
    code = (
        "import fcntl, os, sys\n"
        "lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process"):
            Held(tmp_path).disk.start()
        other.stdin.close()
    held = Held(tmp_path)
    held.disk.start()
    held.disk.stop()


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    """It keeps the proxy from starting."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        Held(tmp_path / "file").disk.start()


def test_a_scan_of_nothing(tmp_path: Path) -> None:
    """An empty directory holds nothing."""
    assert scan(str(tmp_path), 10) == ([], 0)

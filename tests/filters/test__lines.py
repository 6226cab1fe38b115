"""A file of lines: when it is written, how long it becomes, and what happens when it cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from meshproxy.filters._lines import LineFile

LINE = b"x" * 99 + b"\n"


class Place:
    """A file in a directory, its clock, and what it said."""

    def __init__(self, directory: Path, limit: int = 1000) -> None:
        self.path = directory / "lines"
        self.clock = Clock()
        self.log: list[str] = []
        self.dropped = 0
        self.limit = limit
        self.file = self.another()

    def another(self) -> LineFile:
        """A second writer to the same path."""
        held = LineFile(str(self.path), self.limit, self.clock, self.log.append, self._drop)
        held.open()
        return held

    def _drop(self, lines: int) -> None:
        self.dropped += lines

    def later(self) -> None:
        """After the time that a line may wait."""
        self.clock.advance(1)

    @property
    def text(self) -> bytes:
        """What is in the file."""
        return self.path.read_bytes()

    @property
    def before(self) -> bytes:
        """What is in the one before it."""
        return self.path.with_name("lines.1").read_bytes()


def test_lines_are_written_together(tmp_path: Path) -> None:
    """After a second, once, and no timer is left."""
    place = Place(tmp_path)
    place.file.add(b"one\n")
    place.file.add(b"two\n")
    assert place.text == b""
    place.later()
    assert place.text == b"one\ntwo\n"
    assert place.clock.getDelayedCalls() == []
    place.file.add(b"three\n")
    place.later()
    assert place.text == b"one\ntwo\nthree\n"


def test_much_is_written_at_once(tmp_path: Path) -> None:
    """64 KiB do not wait for the clock."""
    place = Place(tmp_path, 1 << 20)
    for _ in range(656):
        place.file.add(LINE)
    assert len(place.text) == 65600


def test_the_end_writes_what_waits(tmp_path: Path) -> None:
    """And cancels the timer."""
    place = Place(tmp_path)
    place.file.add(b"one\n")
    place.file.close()
    assert place.text == b"one\n"
    assert place.clock.getDelayedCalls() == []


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """It may hold what others must not see."""
    place = Place(tmp_path)
    assert place.path.stat().st_mode & 0o777 == 0o600


def test_one_before_it_is_kept(tmp_path: Path) -> None:
    """At the limit it is moved away; there are two files and no third, none over the limit."""
    place = Place(tmp_path)
    for number in range(25):
        place.file.add(b"%99d\n" % number)
        place.later()
    assert [int(line) for line in place.before.splitlines()] == list(range(10, 20))
    assert [int(line) for line in place.text.splitlines()] == list(range(20, 25))
    assert sorted(os.listdir(tmp_path)) == ["lines", "lines.1"]
    assert place.dropped == 0


def test_a_batch_that_is_longer_than_the_file(tmp_path: Path) -> None:
    """It is cut between lines."""
    place = Place(tmp_path)
    for number in range(25):
        place.file.add(b"%99d\n" % number)
    place.later()
    assert len(place.before) == 1000
    assert [int(line) for line in place.text.splitlines()] == list(range(20, 25))


def test_a_line_that_is_longer_than_the_file(tmp_path: Path) -> None:
    """It is dropped, and counted; the next is written."""
    place = Place(tmp_path)
    place.file.add(b"x" * 1000 + b"\n")
    place.file.add(b"one\n")
    place.later()
    assert (place.text, place.dropped) == (b"one\n", 1)


def test_what_was_there_stays(tmp_path: Path) -> None:
    """It is added to, and counts for the limit."""
    (tmp_path / "lines").write_bytes(LINE * 9)
    place = Place(tmp_path)
    place.file.add(LINE)
    place.later()
    assert place.text == LINE * 10
    place.file.add(LINE)
    place.later()
    assert (place.before, place.text) == (LINE * 10, LINE)


def test_two_share_a_path(tmp_path: Path) -> None:
    """When one moves the file away, the other follows; both count for the limit."""
    place = Place(tmp_path)
    other = place.another()
    for number in range(15):
        (place.file, other)[number % 2].add(b"%99d\n" % number)
        place.later()
    assert [int(line) for line in (place.before + place.text).splitlines()] == list(range(15))
    assert len(place.before) == 1000


def test_a_file_that_is_taken_away(tmp_path: Path) -> None:
    """It is made again, as by those who rotate logs."""
    place = Place(tmp_path)
    place.path.rename(tmp_path / "away")
    place.file.add(b"one\n")
    place.later()
    assert place.text == b"one\n"


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    """Each line that is lost is counted; the log hears of the first, and of one after a success."""
    place = Place(tmp_path)
    place.path.unlink()
    place.path.mkdir()
    for _ in range(3):
        place.file.add(b"one\n")
        place.later()
    assert place.dropped == 3
    assert place.log == [f"cannot write to {place.path}: Is a directory"]
    place.path.rmdir()
    place.file.add(b"two\n")
    place.later()
    assert place.text == b"two\n"
    place.path.unlink()
    place.path.mkdir()
    place.file.add(b"one\n")
    place.later()
    assert len(place.log) == 2


def test_half_a_batch_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full in the middle of it, what stays are whole lines."""
    place = Place(tmp_path)
    place.file.add(b"one\n")
    place.later()
    real = os.write

    def full(held: int, data: bytes) -> int:
        if data != b"two\nthree\n":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(held, data[:6])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        place.file.add(b"two\n")
        place.file.add(b"three\n")
        place.later()
    assert (place.text, place.dropped) == (b"one\n", 2)
    place.file.add(b"four\n")
    place.later()
    assert place.text == b"one\nfour\n"


def test_a_fifo_without_a_reader(tmp_path: Path) -> None:
    """It is an error and not a wait."""
    os.mkfifo(tmp_path / "lines")
    with pytest.raises(OSError, match="No such device"):
        Place(tmp_path)


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    """The beginning says so."""
    with pytest.raises(OSError, match="No such file"):
        Place(tmp_path / "nowhere")

"""A file of lines, written behind."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher

from meshproxy.observe.logfile import BYTES, LINES, SECONDS, LogFile


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What is logged meanwhile."""
    logged: list[Any] = []
    observer = cast("ILogObserver", logged.append)
    globalLogPublisher.addObserver(observer)
    yield logged
    globalLogPublisher.removeObserver(observer)


def test_lines_wait_for_the_second(tmp_path: Path) -> None:
    """A line reaches the file a second later; with nothing waiting there is no timer."""
    clock = Clock()
    path = tmp_path / "log"
    log = LogFile(str(path), clock)
    log.open()
    assert not clock.getDelayedCalls()
    log.write(b"1\n")
    log.write(b"2\n")
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(SECONDS * 0.9)
    assert path.read_bytes() == b""
    clock.advance(SECONDS * 0.2)
    assert path.read_bytes() == b"1\n2\n"
    assert not clock.getDelayedCalls()
    assert (log.written, log.dropped) == (2, 0)
    log.close()


@pytest.mark.parametrize(("line", "count"), [(b"x\n", LINES), (b"x" * 1023 + b"\n", BYTES // 1024)])
def test_many_lines_do_not_wait(tmp_path: Path, line: bytes, count: int) -> None:
    """The bounds of lines and of bytes are reached without the clock."""
    clock = Clock()
    path = tmp_path / "log"
    log = LogFile(str(path), clock)
    for _ in range(count - 1):
        log.write(line)
    assert not path.exists()
    log.write(line)
    assert path.read_bytes() == line * count
    assert not clock.getDelayedCalls()
    log.close()


def test_close_flushes_and_later_lines_are_dropped(tmp_path: Path) -> None:
    """Nothing waits after the end, nothing is kept, nothing is raised."""
    clock = Clock()
    path = tmp_path / "log"
    log = LogFile(str(path), clock)
    log.write(b"1\n")
    log.close()
    log.write(b"2\n")
    log.reopen()
    log.close()
    assert path.read_bytes() == b"1\n"
    assert (log.written, log.dropped) == (1, 1)
    assert not clock.getDelayedCalls()


def test_reopen_after_a_rotation(tmp_path: Path) -> None:
    """What waited goes to the old file, what comes after to a new one."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    log = LogFile(str(path), Clock())
    log.open()
    log.write(b"1\n")
    path.rename(moved)
    log.reopen()
    log.write(b"2\n")
    log.close()
    assert moved.read_bytes() == b"1\n"
    assert path.read_bytes() == b"2\n"


def test_files_are_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    """An existing file is kept; a new one is 0640 at most."""
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    log = LogFile(str(path), Clock())
    log.write(b"1\n")
    log.close()
    assert path.read_bytes() == b"before\n1\n"
    path.unlink()
    again = LogFile(str(path), Clock())
    again.open()
    again.close()
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


def test_a_bad_path_is_known_at_start(tmp_path: Path) -> None:
    """open raises; write does not, counts, and tries again with the next batch."""
    path = tmp_path / "none" / "log"
    clock = Clock()
    log = LogFile(str(path), clock)
    with pytest.raises(FileNotFoundError):
        log.open()
    log.write(b"1\n")
    clock.advance(SECONDS)
    assert (log.written, log.dropped) == (0, 1)
    path.parent.mkdir()
    log.write(b"2\n")
    clock.advance(SECONDS)
    assert path.read_bytes() == b"2\n"
    log.close()


def test_a_failed_reopen_keeps_the_old_file(tmp_path: Path, events: list[Any]) -> None:
    """When the new file cannot be made, lines still go to the old one, and the log says so."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = LogFile(str(folder / "log"), Clock())
    log.open()
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.write(b"1\n")
    log.close()
    assert (tmp_path / "moved" / "log").read_bytes() == b"1\n"
    assert [event["path"] for event in events if "path" in event] == [str(folder / "log")]


def test_a_full_disk_is_logged_once(events: list[Any]) -> None:
    """Lines that a full device refuses are counted; the first loss alone is logged."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    log = LogFile("/dev/full", Clock())
    for _ in range(3 * LINES):
        log.write(b"x\n")
    log.close()
    assert (log.written, log.dropped) == (0, 3 * LINES)
    assert len([event for event in events if event.get("path") == "/dev/full"]) == 1


def test_a_pipe_that_nobody_reads(tmp_path: Path, events: list[Any]) -> None:
    """A full pipe loses lines without waiting; once it is read, whole lines follow."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = LogFile(str(path), Clock())
    line = b"x" * 998 + b"\n"
    for _ in range(300):
        log.write(line)
    log.flush()
    assert log.written + log.dropped == 300
    assert log.dropped > 0
    received = os.read(reader, 1 << 20)
    log.write(b"after\n")
    log.close()
    received += os.read(reader, 1 << 20)
    lines = received.split(b"\n")
    os.close(reader)
    assert lines[-2:] == [b"after", b""]
    assert lines.count(line[:-1]) == log.written - 1
    assert sum(part not in (line[:-1], b"after", b"") for part in lines) <= 1
    assert len([event for event in events if event.get("path") == str(path)]) == 1


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """A dash is standard output, which reopening and closing leave open."""
    log = LogFile("-", Clock())
    log.write(b"1\n")
    log.reopen()
    log.write(b"2\n")
    log.reopen()
    log.write(b"3\n")
    log.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "1\n2\n3\nstill open\n"


def test_standard_output_that_nobody_reads() -> None:
    """A blocking pipe as standard output is never waited for."""
    reader, writer = os.pipe()
    saved = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        log = LogFile("-", Clock())
        for _ in range(10 * LINES):
            log.write(b"x" * 99 + b"\n")
        log.close()
        assert log.dropped > 0
        assert log.written + log.dropped == 10 * LINES
        received = os.read(reader, 1 << 20)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    os.close(reader)
    assert received.count(b"\n") == log.written

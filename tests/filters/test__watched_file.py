"""A file that changes while somebody depends on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshproxy.filters import _watched_file
from meshproxy.filters._watched_file import WatchedFile


class Watching:
    """A watched file with a clock, and what it told."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.changed: list[str] = []
        self.failed: list[str] = []
        self.parsed = 0
        self.file: WatchedFile[str] = WatchedFile(
            str(path), self.parse, lambda: self.now, self.changed.append, self.failed.append
        )

    def parse(self, content: bytes) -> str:
        self.parsed += 1
        text = content.decode()
        if text.startswith("bad"):
            raise ValueError("line 1: no")
        return text

    def look(self, later: float = 1.0) -> None:
        self.now += later
        self.file.look()


def write(path: Path, text: str | bytes, stamp: int) -> None:
    """Write with a time of its own, whatever the file system's resolution is."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, ns=(stamp, stamp))


def test_it_is_read_when_it_changes(tmp_path: Path) -> None:
    """A change is seen, at most once a second; nothing is read without one."""
    path = tmp_path / "f"
    write(path, "one", 1)
    held = Watching(path)
    assert held.file.load() == "one"
    held.look()
    assert held.parsed == 1
    write(path, "two", 2)
    held.look(0.5)
    assert held.changed == []
    held.look(0.5)
    assert held.changed == ["two"]
    assert held.file.value == "two"


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    """The former value stays, it is told once, and the next good file is taken."""
    path = tmp_path / "f"
    write(path, "one", 1)
    held = Watching(path)
    held.file.load()
    write(path, "bad secret", 2)
    held.look()
    held.look()
    assert held.failed == [f"{path}: line 1: no"]
    assert held.file.value == "one"
    path.unlink()
    held.look()
    held.look()
    assert held.failed[1:] == [f"{path}: No such file or directory"]
    write(path, b"\xff secret", 3)
    held.look()
    assert held.failed[2:] == [f"{path}: it is not UTF-8"]
    write(path, "three", 4)
    held.look()
    assert held.changed == ["three"]


def test_the_first_reading_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, broken or too long keeps the proxy from starting."""
    path = tmp_path / "f"
    with pytest.raises(ValueError, match="f: No such file"):
        Watching(path).file.load()
    write(path, "bad", 1)
    with pytest.raises(ValueError, match="line 1: no"):
        Watching(path).file.load()
    monkeypatch.setattr(_watched_file, "LONGEST", 2)
    with pytest.raises(ValueError, match="longer than"):
        Watching(path).file.load()

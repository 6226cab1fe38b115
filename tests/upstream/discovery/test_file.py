"""Endpoints from a file that changes, breaks, vanishes and comes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IDiscovery
from meshproxy.upstream.discovery.file import FileDiscovery
from meshproxy.upstream.endpoint import EndpointSpec
from tests.net.logged import errors
from tests.upstream.discovery.waiting import Told


class Bench:
    """A source that looks at a file, by a fake clock."""

    def __init__(self, path: Path, interval: float | None = None) -> None:
        self.path = path
        self.clock = Clock()
        self.told = Told()
        self.source = FileDiscovery(self.clock, str(path), interval)

    def start(self) -> None:
        """Start the source."""
        self.source.start(self.told.update, self.told.failed)

    def put(self, text: str) -> None:
        """Put another file in its place, and let the source look."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)
        self.clock.advance(1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """The file does not exist yet."""
    return Bench(tmp_path / "roster.yaml")


def test_it_is_a_source(bench: Bench) -> None:
    """It provides what it says."""
    assert verifyObject(IDiscovery, bench.source)


def test_read_at_start(bench: Bench) -> None:
    """Within the call."""
    bench.path.write_text("- 127.0.0.1:1\n- { address: 127.0.0.1:2, weight: 3 }\n")
    bench.start()
    assert [(spec.key, spec.weight) for spec in bench.told.updates[0]] == [
        ("127.0.0.1:1", 1),
        ("127.0.0.1:2", 3),
    ]


def test_replaced(bench: Bench) -> None:
    """Another file by rename; the same words in another file are no news."""
    bench.path.write_text("[127.0.0.1:1]")
    bench.start()
    bench.put("[127.0.0.1:1, 127.0.0.1:2]")
    bench.put("[127.0.0.1:1, 127.0.0.1:2] # the same")
    bench.put("[]")
    assert [[spec.key for spec in specs] for specs in bench.told.updates] == [
        ["127.0.0.1:1"],
        ["127.0.0.1:1", "127.0.0.1:2"],
        [],
    ]
    assert bench.told.failures == []


def test_written_in_place(bench: Bench) -> None:
    """Seen, too."""
    bench.path.write_text("[127.0.0.1:1]")
    bench.start()
    bench.path.write_text("[127.0.0.1:1, 127.0.0.1:2]")
    bench.clock.advance(1)
    assert bench.told.keys == ["127.0.0.1:1", "127.0.0.1:2"]


def test_not_read_while_it_is_what_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is a stat."""
    bench.path.write_text("[127.0.0.1:1]")
    bench.start()
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))
    for _ in range(3):
        bench.clock.advance(1)
    assert opened == []


def empty(path: Path) -> None:
    """As a write that was cut short leaves it."""
    path.write_text("")


def wrong(path: Path) -> None:
    """A mistake in it."""
    path.write_text("- 127.0.0.1:1\n- 127.0.0.1\n")


def binary(path: Path) -> None:
    """No text."""
    path.write_bytes(b"\xff\xfe\x00")


def huge(path: Path) -> None:
    """More than anybody reads."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def directory(path: Path) -> None:
    """A directory in its place."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """A pipe without a writer."""
    path.unlink()
    os.mkfifo(path)


def absent(path: Path) -> None:
    """Nothing."""
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (empty, "{}:1:1: the text is empty; where there are no endpoints it says []"),
        (wrong, "{}:2:3: [1]: the port is missing: write 127.0.0.1:PORT"),
        (binary, "{}:1:1: a roster is written in UTF-8, and this byte is not"),
        (huge, "{}:1:1: the text is longer than 4 MiB"),
        (directory, "{}: it is no regular file"),
        (pipe, "{}: it is no regular file"),
        (absent, "{}: No such file or directory"),
    ],
)
def test_spoilt(bench: Bench, spoil: Callable[[Path], None], reason: str) -> None:
    """The last good set stays; the failure is told once, and so is the recovery."""
    bench.path.write_text("[127.0.0.1:1]")
    bench.start()
    spoil(bench.path)
    for _ in range(3):
        bench.clock.advance(1)
    assert bench.told.failures == [reason.format(bench.path)]
    assert len(bench.told.updates) == 1
    assert bench.source.describe()["last_error"] == bench.told.failures[0]
    if bench.path.is_dir():
        bench.path.rmdir()
    bench.put("[127.0.0.1:1]")
    assert [[spec.key for spec in specs] for specs in bench.told.updates] == [["127.0.0.1:1"]] * 2
    bench.clock.advance(5)
    assert (len(bench.told.updates), len(bench.told.failures)) == (2, 1)


def test_wrong_in_another_way(bench: Bench) -> None:
    """Each state of the file is told."""
    bench.start()
    bench.put("x")
    bench.put("y: 1")
    assert len(bench.told.failures) == 3
    assert bench.told.updates == []
    bench.put("[127.0.0.1:1]")
    assert bench.told.keys == ["127.0.0.1:1"]


def test_a_path_that_is_none() -> None:
    """A NUL in it cannot be asked for; that is a failure like any other."""
    told = Told()
    source = FileDiscovery(Clock(), "/tmp/\0")
    with errors() as logged:
        source.start(told.update, told.failed)
    assert len(told.failures) == 1
    assert [failure.type for failure in logged] == [ValueError]
    source.stop()


@pytest.mark.parametrize(("interval", "wait"), [(None, 1.0), (2.5, 2.5)])
def test_the_interval(tmp_path: Path, interval: float | None, wait: float) -> None:
    """The configuration's, or a second."""
    bench = Bench(tmp_path / "r", interval)
    bench.start()
    (call,) = bench.clock.getDelayedCalls()
    assert call.getTime() == wait


def test_stop(bench: Bench) -> None:
    """No timer is left; nothing is told any more. Twice is once."""
    bench.path.write_text("[127.0.0.1:1]")
    bench.start()
    bench.source.stop()
    bench.source.stop()
    assert bench.clock.getDelayedCalls() == []
    bench.put("[]")
    assert len(bench.told.updates) == 1


def test_stop_from_within_update(bench: Bench) -> None:
    """Whoever is told may end it."""
    bench.path.write_text("[127.0.0.1:1]")
    bench.source.start(lambda specs: bench.source.stop(), bench.told.failed)
    assert bench.clock.getDelayedCalls() == []


def test_what_raises_in_update_ends_nothing(bench: Bench) -> None:
    """Logged and told as a failure; the file is looked at again."""
    bench.path.write_text("[127.0.0.1:1]")

    def broken(_: Sequence[EndpointSpec]) -> None:
        raise RuntimeError("a defect")

    with errors() as logged:
        bench.source.start(broken, bench.told.failed)
    assert [failure.type for failure in logged] == [RuntimeError]
    assert bench.told.failures == [f"{bench.path}: a defect"]
    assert len(bench.clock.getDelayedCalls()) == 1


def test_describe(bench: Bench) -> None:
    """Where it looks, how many endpoints it found, when, and what went wrong last."""
    assert bench.source.describe() == {
        "kind": "file",
        "where": str(bench.path),
        "endpoints": None,
        "last_success": None,
        "last_error": "",
    }
    bench.start()
    bench.put("[127.0.0.1:1]")
    said = bench.source.describe()
    assert said["endpoints"] == 1
    assert said["last_success"] > 1e9
    assert "No such file" in said["last_error"]

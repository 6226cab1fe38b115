"""Looking at files."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from meshproxy.tls.watch import INTERVAL, Watch


class Seen:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def watch() -> Watch:
    """One that looks when told."""
    return Watch(Clock())


def test_changes(tmp_path: Path, watch: Watch) -> None:
    """A file written, replaced, gone and come back is a change each; several at once are one."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    seen, other = Seen(), Seen()
    watch.add([str(one), str(two)], seen)
    watch.add([str(tmp_path / "three")], other)
    watch.look()
    assert seen.count == 0
    one.write_bytes(b"12")
    two.write_bytes(b"x")
    watch.look()
    watch.look()
    assert seen.count == 1
    # The same size and time, another file.
    stat = one.stat()
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"21")
    os.utime(fresh, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fresh.replace(one)
    watch.look()
    assert seen.count == 2
    two.unlink()
    watch.look()
    assert seen.count == 3
    assert other.count == 0


def test_a_link_that_leads_elsewhere(tmp_path: Path, watch: Watch) -> None:
    """As volumes of orchestrators are swapped."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.pem").write_bytes(b"same")
    link = tmp_path / "current"
    link.symlink_to("old")
    seen = Seen()
    watch.add([str(link / "a.pem")], seen)
    (tmp_path / "swap").symlink_to("new")
    (tmp_path / "swap").replace(link)
    watch.look()
    assert seen.count == 1


def test_what_changed_before_it_was_watched(tmp_path: Path, watch: Watch) -> None:
    """Known looks are those of the time of reading."""
    path = str(tmp_path / "a")
    seen = Seen()
    watch.add([path], seen, {path: (1, 2, 3)})
    watch.look()
    watch.look()
    assert seen.count == 1


def test_an_end(tmp_path: Path, watch: Watch) -> None:
    """What has ended is called no more, whoever ends it and when."""
    path = tmp_path / "a"
    seen, after = Seen(), Seen()
    end = watch.add([str(path)], seen)
    watch.add([str(path)], lambda: end())
    end_after = watch.after(after)
    path.write_bytes(b"")
    watch.look()
    path.write_bytes(b"1")
    watch.look()
    assert (seen.count, after.count) == (1, 2)
    end_after()
    end_after()
    end()
    watch.look()
    assert after.count == 2


class TimerTests(TestCase):
    """The one timer, and what raises."""

    def test_the_timer(self) -> None:
        """It looks every five seconds while started, and leaves nothing behind."""
        clock = Clock()
        watch = Watch(clock)
        after = Seen()
        watch.after(after)
        watch.start()
        watch.start()
        assert len(clock.getDelayedCalls()) == 1
        clock.advance(INTERVAL - 0.1)
        assert after.count == 0
        clock.advance(0.1)
        clock.advance(INTERVAL)
        assert after.count == 2
        watch.stop()
        watch.stop()
        assert clock.getDelayedCalls() == []

    def test_stopped_while_looking(self) -> None:
        """Whoever is called may stop it."""
        clock = Clock()
        watch = Watch(clock)
        watch.after(watch.stop)
        watch.start()
        clock.advance(INTERVAL)
        assert clock.getDelayedCalls() == []

    def test_what_raises(self) -> None:
        """It is logged, and costs the others nothing."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "a"
        watch = Watch(Clock())
        seen, after = Seen(), Seen()

        def broken() -> None:
            raise ZeroDivisionError

        watch.add([str(path)], broken)
        watch.add([str(path)], seen)
        watch.after(broken)
        watch.after(after)
        path.write_bytes(b"")
        watch.look()
        assert (seen.count, after.count) == (1, 1)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 2

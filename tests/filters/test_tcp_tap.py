"""The filter tap, of connections."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from meshproxy.filters.tcp_tap import Tap
from meshproxy.interfaces import IBytesFilter
from meshproxy.tcp.kit import ConnectionContext, DrivenConnection, drive_connection


class Tapped:
    """A filter that several connections go through."""

    def __init__(self, source: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.context = ConnectionContext(self.clock)
        chosen = Tap.Options(**options)
        self.filter = Tap(chosen) if source is None else Tap(chosen, source)
        self.filter.attach(self.context)

    def connect(self, **kwargs: Any) -> DrivenConnection:
        """One more."""
        return drive_connection(self.filter, clock=self.clock, contexts=[self.context], **kwargs)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What the admin shows."""
        json.dumps(self.context.shown())
        connections: list[dict[str, Any]] = self.context.shown()["connections"]
        return connections


def test_a_connection() -> None:
    """Who, when, how long, how much and how it ended; and the beginnings of what was said."""
    tapped = Tapped(bytes=4)
    driven = tapped.connect(received=[b"he", b"llo"], sent=[b"you there"])
    assert tapped.shown == []
    tapped.clock.advance(2.5)
    driven.disconnect()
    (entry,) = tapped.shown
    assert base64.b64decode(entry["received"]) == b"hell"
    assert base64.b64decode(entry["sent"]) == b"you "
    assert entry["time"] == "2023-11-14T22:13:20.000Z"
    assert (entry["duration"], entry["client"]) == (2.5, "192.0.2.1:5000")
    assert (entry["bytes_received"], entry["bytes_sent"]) == (5, 9)
    assert (entry["cluster"], entry["flags"]) == ("up", "DC")
    assert tapped.context.numbers["recorded"].value == 1
    assert (driven.upstream, driven.client_got) == (b"hello", b"you there")


def test_without_bytes_the_kernel_moves_them() -> None:
    """Only who records what is said wants the bytes; else nothing of it is in the record."""
    assert not IBytesFilter.providedBy(Tap(Tap.Options()))
    assert IBytesFilter.providedBy(Tap(Tap.Options(bytes=1)))
    tapped = Tapped()
    tapped.connect(received=[b"secret"]).disconnect()
    assert "received" not in tapped.shown[0]


def test_only_some() -> None:
    """By the client's network, and by chance."""
    tapped = Tapped(clients=["198.51.100.0/24"])
    tapped.connect().disconnect()
    tapped.connect(client=b"198.51.100.7:1").disconnect()
    assert [entry["client"] for entry in tapped.shown] == ["198.51.100.7:1"]
    numbers = iter([0.5, 0.49])
    half = Tapped(lambda: next(numbers), percent=50)
    half.connect(client=b"192.0.2.1:1").disconnect()
    half.connect(client=b"192.0.2.2:1").disconnect()
    assert [entry["client"] for entry in half.shown] == ["192.0.2.2:1"]


def test_only_the_last_ones_are_kept() -> None:
    """Newest first, never more than told."""
    tapped = Tapped(keep=2)
    for port in range(5):
        tapped.connect(client=b"192.0.2.1:%d" % (port + 1)).disconnect()
    assert [entry["client"] for entry in tapped.shown] == ["192.0.2.1:5", "192.0.2.1:4"]
    assert tapped.context.shown()["recorded"] == 5


def test_the_file(tmp_path: Path) -> None:
    """One line of JSON a connection, written within a second or when the proxy stops."""
    path = tmp_path / "tap.jsonl"
    tapped = Tapped(keep=0, file=str(path))
    assert tapped.context.shown is None
    tapped.filter.start()
    tapped.connect().disconnect()
    tapped.clock.advance(1)
    tapped.connect(client=b"[2001:db8::1]:9").disconnect()
    tapped.filter.stop()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["client"] for line in lines] == ["192.0.2.1:5000", "[2001:db8::1]:9"]


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """It is moved away once, in place of the one before, and begun anew."""
    path = tmp_path / "tap.jsonl"
    tapped = Tapped(keep=0, file=str(path), max_file=1 << 16, bytes="8KiB")
    tapped.filter.start()
    for _ in range(40):
        tapped.connect(received=[bytes(8192)]).disconnect()
        tapped.clock.advance(1)
    tapped.filter.stop()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tap.jsonl", "tap.jsonl.1"]
    assert all(p.stat().st_size <= 1 << 16 for p in tmp_path.iterdir())


def test_what_does_nothing() -> None:
    """Somewhere has to be written to, and memory has a bound."""
    assert list(Tap.Options.faults({"keep": 0}))
    assert list(Tap.Options.faults({"max_file": 1 << 20}))
    with pytest.raises(ValueError, match="64 MiB"):
        Tap(Tap.Options(bytes=1 << 20, keep=1000))

"""The filter bandwidth, of connections."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from meshproxy.filters.tcp_bandwidth import Bandwidth
from meshproxy.tcp.kit import ConnectionContext, DrivenConnection, drive_connection

KIB = 1024


class Slow:
    """A filter that several connections go through."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.context = ConnectionContext(self.clock)
        self.filter = Bandwidth(Bandwidth.Options(**options))
        self.filter.attach(self.context)

    def connect(self, client: bytes = b"192.0.2.1:1") -> DrivenConnection:
        """One more."""
        return drive_connection(
            self.filter, client=client, clock=self.clock, contexts=[self.context]
        )


def test_up() -> None:
    """After the burst a piece waits for its allowance; every byte arrives, then the end."""
    slow = Slow(up={"rate": "10KiB", "burst": "20KiB"})
    driven = slow.connect()
    driven.send(bytes(20 * KIB))
    assert len(driven.upstream) == 20 * KIB
    driven.send(b"x" * 10 * KIB)
    driven.end()
    assert (len(driven.upstream), driven.waiting) == (20 * KIB, True)
    driven.advance(0.9)
    assert len(driven.upstream) == 20 * KIB
    driven.advance(0.2)
    assert driven.upstream[20 * KIB :] == b"x" * 10 * KIB
    assert driven.upstream_ended
    assert slow.context.numbers["delayed{direction=up}"].value == 1


def test_the_other_way_is_free() -> None:
    """Only the direction that has a pace is slowed."""
    slow = Slow(down={"rate": "1KiB"})
    driven = slow.connect()
    driven.send(bytes(100 * KIB))
    assert len(driven.upstream) == 100 * KIB
    driven.answer(bytes(KIB))
    driven.answer(bytes(KIB))
    assert len(driven.client_got) == KIB
    driven.advance(1.1)
    assert len(driven.client_got) == 2 * KIB


@pytest.mark.parametrize(
    ("by", "client", "waits"),
    [
        ("connection", b"192.0.2.1:2", False),
        ("client_ip", b"192.0.2.1:2", True),
        ("client_ip", b"192.0.2.2:2", False),
        ("listener", b"192.0.2.2:2", True),
    ],
)
def test_who_shares(by: str, client: bytes, waits: bool) -> None:
    """An allowance is a connection's, a client's or all connections'."""
    slow = Slow(up={"rate": "10KiB"}, by=by)
    slow.connect().send(bytes(10 * KIB))
    second = slow.connect(client)
    second.send(bytes(10 * KIB))
    assert second.waiting is waits
    second.advance(1.1)
    assert len(second.upstream) == 10 * KIB


def test_who_leaves_gives_back() -> None:
    """What was set aside for a client that went away is there for others."""
    slow = Slow(up={"rate": "10KiB"}, by="listener")
    first, second = slow.connect(), slow.connect()
    first.send(bytes(10 * KIB))
    first.send(bytes(50 * KIB))
    first.disconnect()
    second.send(bytes(10 * KIB))
    second.advance(1.1)
    assert len(second.upstream) == 10 * KIB
    assert not slow.clock.getDelayedCalls() or second.errors == 0


def test_what_does_nothing() -> None:
    """A pace is needed, not too slow for the pieces that bytes come in."""
    assert list(Bandwidth.Options.faults({}))
    assert list(Bandwidth.Options.faults({"up": {"rate": 2048}, "max_clients": 5}))
    with pytest.raises(ValidationError):
        Bandwidth.Options(up={"rate": 1023})  # type: ignore[arg-type]

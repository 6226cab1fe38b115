"""The filter echo."""

from __future__ import annotations

from meshproxy.filters.echo import Echo
from meshproxy.tcp.kit import drive_connection


def test_everything_comes_back() -> None:
    """Bytes in order, then the end; no upstream is asked for."""
    driven = drive_connection(Echo(), received=[b"hello ", b"you"])
    assert (driven.client_got, driven.closed, driven.asked) == (b"hello you", False, False)
    driven.end()
    assert (driven.client_got, driven.ended, driven.reset) == (b"hello you", True, False)
    assert driven.errors == 0


def test_a_client_that_does_not_read() -> None:
    """It is not read from any more; when it reads, it gets everything."""
    driven = drive_connection(Echo())
    driven.client_end.reads = False
    for _ in range(20):
        driven.send(bytes(20000))
    assert driven.client_end.buffered < 150_000
    assert driven.client_end.unread > 200_000
    driven.client_end.reads = True
    driven.advance(0)
    assert len(driven.client_got) == 400_000

"""The relay over transports, on transports that a test can look into."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from meshproxy.net.relay_stock import LINGER, LOOKS, Side, TransportRelay
from meshproxy.net.splice import CLIENT_RESET, CLOSED, UPSTREAM_RESET


class Transport:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.written = b""
        self.producer: Any = None
        self.buffered = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda: self.calls.append(name)


class Bench:
    """A relay between two such transports."""

    def __init__(self, **options: bytes) -> None:
        self.clock = Clock()
        self.reasons: list[str] = []
        self.relay = TransportRelay(self.clock, self.reasons.append, **options)
        self.client, self.upstream = Transport(), Transport()
        for side, transport in self.pairs():
            side.makeConnection(transport)

    def pairs(self) -> tuple[tuple[Side, Any], tuple[Side, Any]]:
        """Each side with its transport."""
        return (self.relay.client, self.client), (self.relay.upstream, self.upstream)

    def gone(self, side: Side, error: Exception) -> None:
        """The transport of ``side`` reports its end."""
        side.connectionLost(Failure(error))

    def calls(self) -> set[str]:
        """What either transport was told since the last time."""
        told = {*self.client.calls, *self.upstream.calls}
        self.client.calls.clear()
        self.upstream.calls.clear()
        return told


def test_nothing_before_start() -> None:
    """Both sides are paused until the start; what came first, or slipped through, goes first."""
    bench = Bench(from_client=b"a", from_upstream=b"x")
    assert bench.calls() == {"pauseProducing"}
    bench.relay.client.dataReceived(b"b")
    assert bench.relay.buffered == 3
    bench.relay.start()
    assert bench.calls() == {"resumeProducing"}
    bench.relay.client.dataReceived(b"c")
    assert (bench.upstream.written, bench.client.written) == (b"abc", b"x")
    assert (bench.relay.bytes_received, bench.relay.bytes_sent) == (2, 0)


def test_each_is_the_others_producer() -> None:
    """Backpressure is the transports' own: what one cannot send pauses the other's reading."""
    bench = Bench()
    bench.relay.start()
    assert bench.client.producer is bench.upstream
    assert bench.upstream.producer is bench.client


def test_half_close() -> None:
    """One end closes the other side's writing only; both ends close both."""
    bench = Bench()
    bench.relay.start()
    bench.calls()
    bench.relay.client.readConnectionLost()
    assert (bench.client.calls, bench.upstream.calls) == ([], ["loseWriteConnection"])
    bench.relay.upstream.writeConnectionLost()
    bench.relay.upstream.readConnectionLost()
    assert bench.client.calls == ["loseConnection"]
    for side, _ in bench.pairs():
        assert not bench.reasons
        bench.gone(side, ConnectionDone())
    assert bench.reasons == [CLOSED]
    assert not bench.clock.getDelayedCalls()


def test_end_before_start() -> None:
    """An end that was read before the start is passed on by it."""
    bench = Bench()
    bench.relay.client.dataReceived(b"word")
    bench.relay.client.readConnectionLost()
    assert bench.calls() == {"pauseProducing"}
    bench.relay.start()
    assert bench.upstream.written == b"word"
    assert "loseWriteConnection" in bench.upstream.calls


def test_tls_cannot_half_close() -> None:
    """A transport that speaks TLS is closed instead, after what was written."""
    bench = Bench()
    alsoProvides(bench.upstream, ISSLTransport)
    bench.relay.start()
    bench.calls()
    bench.relay.client.readConnectionLost()
    assert bench.calls() == {"loseConnection"}


@pytest.mark.parametrize("number", [0, 1])
def test_reset(number: int) -> None:
    """A side lost uncleanly aborts the other; the reason says which."""
    bench = Bench()
    bench.relay.start()
    bench.calls()
    (lost, _), (other, transport) = (
        bench.pairs() if number == 0 else (bench.pairs()[1], bench.pairs()[0])
    )
    bench.gone(lost, ConnectionLost())
    assert transport.calls == ["abortConnection"]
    bench.gone(other, ConnectionDone())
    assert bench.reasons == [(CLIENT_RESET, UPSTREAM_RESET)[number]]


def test_close_is_bounded() -> None:
    """A side that does not take its last bytes is aborted after a second."""
    bench = Bench()
    bench.relay.start()
    bench.calls()
    bench.relay.close("idle")
    bench.relay.abort("too late")
    assert bench.calls() == {"loseConnection"}
    bench.gone(bench.relay.client, ConnectionDone())
    bench.clock.advance(LINGER)
    assert (bench.client.calls, bench.upstream.calls) == ([], ["abortConnection"])
    bench.gone(bench.relay.upstream, ConnectionDone())
    assert bench.reasons == ["idle"]


def test_activity() -> None:
    """``last_activity`` is when bytes last moved."""
    bench = Bench()
    bench.relay.start()
    bench.clock.advance(3)
    assert bench.relay.last_activity == 0
    bench.relay.upstream.dataReceived(b"x")
    assert bench.relay.last_activity == 3


def test_one_side_never_came() -> None:
    """Lost before there was an upstream: finished at once."""
    clock = Clock()
    reasons: list[str] = []
    relay = TransportRelay(clock, reasons.append)
    transport: Any = Transport()
    relay.client.makeConnection(transport)
    relay.client.connectionLost(Failure(ConnectionDone()))
    assert reasons == [CLOSED]
    assert not clock.getDelayedCalls()


def test_opening() -> None:
    """What is said to the upstream first comes before all that the client said."""
    bench = Bench(from_client=b"b")
    bench.relay.start(b"a")
    assert bench.upstream.written == b"ab"
    assert bench.client.written == b""


def test_a_slow_reader_gets_its_last_bytes() -> None:
    """After both ends, a side that takes some of what is left each second is waited for."""
    bench = Bench()
    bench.relay.start()
    bench.client.buffered = 5000
    bench.relay.close()
    assert bench.relay.over
    bench.calls()
    for left in (4000, 3000, 2999):
        bench.client.buffered = left
        bench.clock.advance(LINGER)
        assert bench.calls() == set()
    bench.clock.advance(LINGER)
    assert bench.client.calls == ["abortConnection"]


def test_patience_ends() -> None:
    """A byte a second is not enough for ever, and who may wait no longer forces the end."""
    bench = Bench()
    bench.relay.start()
    bench.client.buffered = 100_000
    bench.relay.close()
    for left in range(LOOKS):
        bench.client.buffered = 90_000 - left
        bench.clock.advance(LINGER)
        assert "abortConnection" not in bench.calls()
    bench.client.buffered = 0
    bench.clock.advance(LINGER)
    assert "abortConnection" in bench.calls()

    forced = Bench()
    forced.relay.start()
    forced.client.buffered = 5000
    forced.relay.close()
    forced.client.buffered = 4000
    forced.calls()
    forced.relay.force()
    assert forced.calls() == {"abortConnection"}
    assert not forced.clock.getDelayedCalls()

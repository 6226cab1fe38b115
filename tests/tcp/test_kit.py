"""The kit by which filters of TCP are tested: that it behaves as connections do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import defer
from zope.interface import implementer

from meshproxy.api import Refuse
from meshproxy.interfaces import (
    IBytesFilter,
    IConnectionFilter,
    IConnectionObserver,
    IConnectionServer,
    IContextFilter,
)
from meshproxy.tcp.kit import ConnectionContext, drive_connection


@implementer(IContextFilter, IConnectionFilter, IBytesFilter, IConnectionObserver)
class Shout:
    """Counts connections, and shouts at the upstream."""

    def __init__(self) -> None:
        self.over: list[bytes] = []

    def attach(self, context: Any) -> None:
        """Ask for a number."""
        self.count = context.counter("connections", "Connections")

    def connected(self, connection: Any) -> Refuse | None:
        """Refuse who is unwanted."""
        self.count.inc()
        connection.metadata["ip"] = connection.client_ip
        if connection.client_ip == b"192.0.2.66":
            return Refuse(data=b"no\n", details=b"unwanted")
        return None

    def received(self, connection: Any, data: bytes, end: bool) -> bytes:
        """Shout."""
        return data.upper()

    def sent(self, connection: Any, data: bytes, end: bool) -> None:
        """Whatever."""

    def closed(self, connection: Any) -> None:
        """Remember."""
        self.over.append(connection.client)


def test_both_ways() -> None:
    """What is sent passes the filter and comes out at the other end; the end passes too."""
    shout = Shout()
    driven = drive_connection(shout, received=[b"hello ", b"you"], sent=[b"Fine"])
    assert (driven.upstream, driven.client_got) == (b"HELLO YOU", b"Fine")
    assert driven.counters == {"connections": 1}
    assert driven.metadata == {"ip": b"192.0.2.1"}
    driven.end()
    assert (driven.upstream_ended, driven.ended) == (True, False)
    driven.answer_end()
    assert (driven.closed, driven.ended) == (True, True)
    assert not driven.reset
    assert shout.over == [b"192.0.2.1:5000"]


def test_a_refusal_with_a_word() -> None:
    """The client gets the word and the end; no upstream is asked for."""
    driven = drive_connection(Shout(), client=b"192.0.2.66:1", received=[b"hello"])
    assert (driven.client_got, driven.asked, driven.details) == (b"no\n", False, b"unwanted")
    assert driven.ended
    driven.end()
    assert driven.closed
    assert not driven.reset


def test_an_upstream_that_refuses() -> None:
    """upstream=False: the client is reset, with Envoy's flags."""
    driven = drive_connection(Shout(), upstream=False)
    assert driven.reset
    assert driven.closed
    assert driven.flags == b"UF"


def test_the_clients_address() -> None:
    """IPv6 and UNIX clients have the addresses that the log knows them by."""
    assert drive_connection(Shout(), client=b"[2001:db8::1]:9").metadata["ip"] == b"2001:db8::1"
    assert drive_connection(Shout(), client=b"unix:").metadata["ip"] == b"unix:"


def test_a_client_that_does_not_read() -> None:
    """reads = False keeps what is sent in the proxy, which stops the upstream."""
    driven = drive_connection(Shout())
    driven.client_end.reads = False
    for _ in range(10):
        driven.answer(bytes(30000))
    assert driven.client_got == b""
    assert driven.upstream_end is not None
    assert driven.upstream_end.unread > 100000
    driven.client_end.reads = True
    driven.advance(0)
    assert len(driven.client_got) == 300000


def test_a_client_that_goes_away() -> None:
    """disconnect is a reset of the client's; the upstream is reset too."""
    driven = drive_connection(Shout(), received=[b"x"])
    driven.disconnect()
    assert driven.flags == b"DC"
    assert driven.upstream_end is not None
    assert driven.upstream_end.reset


def test_waiting_and_time() -> None:
    """waiting tells that a filter waits, and advance moves the clock that it waits by."""

    @implementer(IContextFilter, IConnectionFilter)
    class Late:
        def attach(self, context: Any) -> None:
            self.sleep = context.sleep

        def connected(self, connection: Any) -> Any:
            return self.sleep(2)

    driven = drive_connection(Late(), received=[b"x"])
    assert (driven.waiting, driven.asked) == (True, False)
    driven.advance(2)
    assert (driven.waiting, driven.asked) == (False, True)
    assert driven.upstream == b"x"


def test_a_server() -> None:
    """A filter that serves needs no upstream."""

    @implementer(IConnectionServer)
    class Hello:
        def serve(self, connection: Any) -> None:
            connection.write(b"hello\n")

        def serve_data(self, connection: Any, data: bytes, end: bool) -> None:
            connection.write(data)

    driven = drive_connection(Hello(), received=[b"you"])
    assert driven.client_got == b"hello\nyou"
    assert not driven.asked


def test_errors_are_counted() -> None:
    """errors says how often filters raised."""

    @implementer(IConnectionFilter)
    class Bad:
        def connected(self, connection: Any) -> None:
            raise KeyError("x")

    driven = drive_connection(Bad())
    assert driven.errors == 1
    assert driven.reset
    assert driven.details == b"filter_error[filter0]"


def test_the_context() -> None:
    """Numbers are the same by name and labels; sleeping can be cancelled."""
    driven = drive_connection(Shout())
    context = ConnectionContext(driven.clock)
    context.counter("a", "A", who="x").inc(2)
    context.gauge("a", "A", who="x").dec()
    context.histogram("b", "B").observe(0.5)
    assert {name: number.value for name, number in context.numbers.items()} == {
        "a{who=x}": 1,
        "b": 0.5,
    }
    sleeping = context.sleep(5)
    sleeping.cancel()
    with pytest.raises(defer.CancelledError):
        raise _error(sleeping)
    assert context.path("x") == "x"
    context.log("a line")
    assert context.lines == ["a line"]


def _error(deferred: defer.Deferred[None]) -> BaseException:
    caught: list[Any] = []
    deferred.addErrback(caught.append)
    error: BaseException = caught[0].value
    return error


def test_a_filter_that_starts_tls_gets_the_facts_that_the_test_made_up() -> None:
    """``start_tls`` answers at once, and once; without facts it raises as it does elsewhere."""
    facts = SimpleNamespace(server_name=b"mail.test")

    @implementer(IBytesFilter)
    class Starts:
        def received(self, connection: Any, data: bytes, end: bool) -> Any:
            if connection.tls is None and data == b"STARTTLS":
                return self.begin(connection)
            return None

        async def begin(self, connection: Any) -> bytes:
            return bytes((await connection.start_tls()).server_name)

        def sent(self, connection: Any, data: bytes, end: bool) -> None:
            pass

    driven = drive_connection(Starts(), received=[b"STARTTLS", b"data"], tls=facts)
    assert driven.upstream == b"mail.testdata"
    assert driven.connection.tls is facts
    with pytest.raises(RuntimeError, match="on_demand"):
        driven.connection.start_tls()
    assert drive_connection(Starts(), received=[b"STARTTLS"]).reset

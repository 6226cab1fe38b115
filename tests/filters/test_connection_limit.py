"""The filter connection_limit."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from meshproxy.api import Unfit
from meshproxy.filters.connection_limit import ConnectionLimit
from meshproxy.net.door import Door
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry
from meshproxy.tcp.kit import ConnectionContext, DrivenConnection, drive_connection


class Limited:
    """A filter that several connections go through."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.context = ConnectionContext(self.clock)
        self.filter = ConnectionLimit(ConnectionLimit.Options(**options))
        self.filter.attach(self.context)

    def connect(self, client: bytes = b"192.0.2.1:1") -> DrivenConnection:
        """One more."""
        return drive_connection(
            self.filter, client=client, clock=self.clock, contexts=[self.context]
        )

    def number(self, name: str) -> float:
        """A counter or gauge."""
        return self.context.numbers[name].value


def test_in_all() -> None:
    """One over the number is refused with nothing asked for; when one leaves there is room."""
    limited = Limited(connections=2)
    first, second = limited.connect(), limited.connect(b"192.0.2.2:1")
    third = limited.connect(b"192.0.2.3:1")
    assert (first.asked, second.asked, third.asked) == (True, True, False)
    assert (third.closed, third.reset) == (True, False)
    assert (third.flags, third.details) == (b"-", b"connection_limit")
    assert limited.number("refused{limit=connections}") == 1
    assert limited.number("open") == 2
    first.disconnect()
    assert limited.number("open") == 1
    assert limited.connect().asked


def test_for_each_client() -> None:
    """Each client has its own number; the limit of all is not used up by who is refused."""
    limited = Limited(connections=3, per_client=1, reset=True)
    kept = [limited.connect(b"192.0.2.1:1"), limited.connect(b"192.0.2.2:1")]
    refused = limited.connect(b"192.0.2.1:2")
    assert (refused.asked, refused.reset) == (False, True)
    assert limited.number("refused{limit=per_client}") == 1
    kept.append(limited.connect(b"192.0.2.3:1"))
    assert [one.asked for one in kept] == [True] * 3
    kept[0].disconnect()
    assert limited.connect(b"192.0.2.1:3").asked


def test_a_client_is_a_network() -> None:
    """Addresses with the same prefix are one client: a /64 of IPv6 unless told otherwise."""
    limited = Limited(per_client=1, v4=24)
    assert limited.connect(b"192.0.2.1:1").asked
    assert not limited.connect(b"192.0.2.200:1").asked
    assert limited.connect(b"[2001:db8::1]:1").asked
    assert not limited.connect(b"[2001:db8::2]:1").asked
    assert limited.connect(b"[2001:db8:0:1::2]:1").asked


def test_who_is_exempt() -> None:
    """per_client does not hold for them, connections does."""
    limited = Limited(connections=2, per_client=1, exempt=["192.0.2.0/24"])
    assert limited.connect().asked
    assert limited.connect().asked
    assert not limited.connect().asked


def test_what_is_remembered_goes_with_the_connections() -> None:
    """After the last connection of a client nothing of it is left."""
    limited = Limited(per_client=5)
    open_ = [limited.connect(b"192.0.2.%d:1" % (n % 3)) for n in range(9)]
    assert len(limited.filter._clients) == 3
    for one in open_:
        one.disconnect()
    assert limited.filter._clients == {}
    assert limited.number("open") == 0


def test_at_the_door() -> None:
    """As a listener's filter it counts sockets, whatever is spoken on them."""
    limited = Limited(connections=1)
    inside: list[Any] = []
    registry = Registry()
    door = Door(
        [Fitted(limited.filter, "limit", "in", registry, limited.clock.seconds)],
        TimerWheel(limited.clock),
        "in",
        lambda sock, peer: inside.append(sock),
    )
    pairs = [socket.socketpair() for _ in range(3)]
    door.accept(pairs[0][0], "")
    door.accept(pairs[1][0], "")
    assert len(inside) == 1
    assert pairs[1][1].recv(1) == b""
    inside[0].close()
    door.accept(pairs[2][0], "")
    assert len(inside) == 2
    for sock in (*inside, *(theirs for _, theirs in pairs)):
        sock.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
def test_never_more_than_allowed(steps: list[tuple[bool, int]]) -> None:
    """However connections come and go, neither number is exceeded, and the count is right."""
    limited = Limited(connections=4, per_client=2)
    held: list[Any] = []
    for come, client in steps:
        if come:
            one = SimpleNamespace(client_ip=b"192.0.2.%d" % client, notes={})
            if limited.filter.connected(one) is None:
                held.append(one)
            else:
                limited.filter.closed(one)  # a refused one ends as well
        elif held:
            limited.filter.closed(held.pop(client % len(held)))
        assert len(held) <= 4
        assert all(sum(o.client_ip == b"192.0.2.%d" % n for o in held) <= 2 for n in range(4))
        assert limited.number("open") == len(held)


@pytest.mark.parametrize("options", [{}, {"connections": 1, "v4": 24}])
def test_options_that_do_nothing(options: dict[str, Any]) -> None:
    """A limit is needed, and what is about clients needs one of clients."""
    assert list(ConnectionLimit.Options.faults(options))
    with pytest.raises((Unfit, ValueError)):
        ConnectionLimit.Options(**options)

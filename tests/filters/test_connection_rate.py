"""The filter connection_rate."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from meshproxy.filters.connection_rate import ConnectionRate
from meshproxy.tcp.kit import ConnectionContext, DrivenConnection, drive_connection


class Limited:
    """A filter that several connections go through."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.context = ConnectionContext(self.clock)
        self.filter = ConnectionRate(ConnectionRate.Options(**options))
        self.filter.attach(self.context)

    def connect(self, client: bytes = b"192.0.2.1:1") -> DrivenConnection:
        """One more."""
        return drive_connection(
            self.filter, client=client, clock=self.clock, contexts=[self.context]
        )

    def passes(self, client: bytes = b"192.0.2.1:1") -> bool:
        """Whether one more is let in."""
        return self.connect(client).asked

    def number(self, name: str) -> float:
        """A counter."""
        return self.context.numbers[name].value


def test_in_all() -> None:
    """The burst goes at once, then one comes back at a time; a refusal takes nothing."""
    limited = Limited(connections=2, per="1s")
    assert [limited.passes() for _ in range(4)] == [True, True, False, False]
    limited.clock.advance(0.5)
    assert [limited.passes() for _ in range(2)] == [True, False]
    assert limited.number("refused{limit=connections}") == 3
    refused = limited.connect()
    assert (refused.closed, refused.reset) == (True, False)
    assert (refused.flags, refused.details) == (b"RL", b"connection_rate")


def test_for_each_client() -> None:
    """Clients do not use up each other's rate."""
    limited = Limited(per_client=1, per="10s", reset=True)
    assert limited.passes(b"192.0.2.1:1")
    refused = limited.connect(b"192.0.2.1:2")
    assert (refused.asked, refused.reset) == (False, True)
    assert limited.passes(b"192.0.2.2:1")
    assert limited.passes(b"[2001:db8::1]:1")
    assert not limited.passes(b"[2001:db8::2]:1")
    limited.clock.advance(10)
    assert limited.passes(b"192.0.2.1:3")


def test_bursts() -> None:
    """Each limit's burst is its own."""
    limited = Limited(connections=1, burst=3, per_client=1, per_client_burst=2)
    assert [limited.passes() for _ in range(3)] == [True, True, False]
    assert [limited.passes(b"192.0.2.2:1") for _ in range(2)] == [True, False]


def test_what_all_refuse_costs_the_client_nothing() -> None:
    """When there is room again, the client has its whole rate."""
    limited = Limited(connections=1, per_client=1, per_client_burst=2, per="1s")
    assert limited.passes(b"192.0.2.2:1")
    for _ in range(5):
        assert not limited.passes()
    limited.clock.advance(1)
    assert limited.passes()
    assert limited.number("refused{limit=per_client}") == 0


def test_exempt_and_shadow() -> None:
    """Who is exempt is not counted; in the shadow everybody passes, and is counted."""
    limited = Limited(connections=1, exempt=["192.0.2.0/24"])
    assert all(limited.passes() for _ in range(5))
    assert limited.passes(b"198.51.100.1:1")
    assert not limited.passes(b"198.51.100.1:1")
    shadow = Limited(connections=1, shadow=True)
    assert all(shadow.passes() for _ in range(3))
    assert shadow.number("refused{limit=connections}") == 2


def test_a_flood_of_clients_resets_nobody() -> None:
    """While the table is full, who has spent its rate stays refused, and newcomers share one."""
    limited = Limited(per_client=1, per="100s", keys=10)
    assert limited.passes(b"192.0.2.1:1")
    let_in = sum(limited.passes(b"198.51.%d.%d:1" % divmod(n, 250)) for n in range(500))
    assert let_in == 9 + 1
    assert not limited.passes(b"192.0.2.1:1")
    assert limited.number("crowded") > 0
    assert len(limited.filter._table) == 10


def test_a_full_table_may_refuse() -> None:
    """full: refuse lets no newcomer in while nobody can be forgotten."""
    limited = Limited(per_client=1, per="100s", keys=2, full="refuse")
    assert [limited.passes(b"192.0.2.%d:1" % n) for n in range(4)] == [True, True, False, False]
    limited.clock.advance(101)
    assert limited.passes(b"192.0.2.3:1")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"connections": 1, "v4": 24},
        {"per_client": 1, "burst": 2},
        {"connections": 1, "keys": 5},
    ],
)
def test_options_that_do_nothing(options: dict[str, Any]) -> None:
    """A rate is needed, and what is about one needs it."""
    assert list(ConnectionRate.Options.faults(options))


def test_what_cannot_be_counted() -> None:
    """More than a million a second is refused by name."""
    with pytest.raises(ValueError, match="connections a second"):
        ConnectionRate(ConnectionRate.Options(connections=2_000_000))

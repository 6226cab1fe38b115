"""The filter access, of connections."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from meshproxy.filters.tcp_access import Access
from meshproxy.interfaces import IConnectionFilter, IListenerFilter
from meshproxy.tcp.kit import ConnectionContext, drive_connection


def passes(client: bytes, **options: Any) -> bool:
    """Whether a client is let in."""
    return drive_connection(Access(Access.Options(**options)), client=client).asked


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (b"10.1.1.1:1", True),
        (b"10.66.1.1:1", False),
        (b"[2001:db8::1]:1", True),
        (b"192.0.2.1:1", False),
        (b"unix:", False),
    ],
)
def test_allowed_and_denied(client: bytes, expected: bool) -> None:
    """What is allowed passes unless it is denied; the rest does not."""
    rules = {"allow": ["10.0.0.0/8", "2001:db8::/32"], "deny": "10.66.0.0/16"}
    assert passes(client, **rules) is expected


def test_what_holds_for_others() -> None:
    """Without allow everybody else passes; default says it either way."""
    assert passes(b"192.0.2.1:1", deny=["10.0.0.0/8"])
    assert not passes(b"10.0.0.1:1", deny=["10.0.0.0/8"])
    assert passes(b"192.0.2.1:1", allow="10.0.0.0/8", default="allow")
    assert not passes(b"192.0.2.1:1", default="deny")
    assert passes(b"unix:", allow="unix")


def test_how_it_is_refused() -> None:
    """In order, or by a reset; the log says why."""
    driven = drive_connection(Access(Access.Options(default="deny")))
    assert (driven.closed, driven.reset, driven.details) == (True, False, b"access_denied")
    assert driven.counters == {"allowed": 0, "denied": 1}
    assert drive_connection(Access(Access.Options(default="deny", reset=True))).reset


def test_in_the_shadow() -> None:
    """Everybody passes; who would not is counted, marked, and logged once a second at most."""
    clock = Clock()
    context = ConnectionContext(clock)
    access = Access(Access.Options(deny=["192.0.2.0/24"], shadow=True))
    access.attach(context)
    for _ in range(3):
        driven = drive_connection(access, clock=clock, contexts=[context])
        assert driven.asked
        assert driven.metadata == {"access": "shadow_denied"}
    assert context.numbers["denied"].value == 3
    assert context.lines == ["would deny 192.0.2.1"]
    clock.advance(1)
    drive_connection(access, clock=clock, contexts=[context])
    assert len(context.lines) == 2


def test_it_serves_at_the_door_too() -> None:
    """The same code judges what a listener accepts."""
    access = Access(Access.Options(default="deny"))
    assert verifyObject(IListenerFilter, access)
    assert verifyObject(IConnectionFilter, access)
    assert Access.accepted is Access.connected


def test_rules_that_say_nothing() -> None:
    """At least one rule is needed."""
    assert list(Access.Options.faults({"shadow": True}))
    assert not list(Access.Options.faults({"default": "deny"}))

"""The filter fault, of connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshproxy.filters.tcp_fault import Fault
from meshproxy.interfaces import IBytesFilter
from meshproxy.tcp.kit import DrivenConnection, drive_connection


def chance(*numbers: float) -> Any:
    """A source that returns these numbers, one after the other."""
    drawn: Iterator[float] = iter(numbers)
    return lambda: next(drawn)


def drive(source: Any, options: dict[str, Any], **kwargs: Any) -> DrivenConnection:
    """A connection through the filter."""
    return drive_connection(Fault(Fault.Options(**options), source), **kwargs)


def test_delay() -> None:
    """The upstream is asked for when the time is over."""
    driven = drive(chance(0.0), {"delay": {"fixed": "2s"}})
    assert (driven.waiting, driven.asked) == (True, False)
    driven.advance(2)
    assert (driven.waiting, driven.asked) == (False, True)
    assert driven.counters["made{fault=delay}"] == 1


def test_refuse() -> None:
    """Closed in order, with Envoy's flag."""
    driven = drive(chance(0.0), {"refuse": {}})
    assert (driven.closed, driven.reset, driven.asked) == (True, False, False)
    assert (driven.flags, driven.details) == (b"FI", b"fault_refuse")
    assert driven.counters["made{fault=refuse}"] == 1


def test_reset_at_once() -> None:
    """Reset before an upstream is asked for; the bytes need not come through the process."""
    driven = drive(chance(0.0), {"reset": {}})
    assert (driven.reset, driven.asked) == (True, False)
    assert driven.counters["made{fault=reset}"] == 1
    assert not IBytesFilter.providedBy(Fault(Fault.Options(reset={})))  # type: ignore[arg-type]


def test_reset_after_bytes() -> None:
    """Both directions count together; the piece that reaches the number is not delivered."""
    driven = drive(chance(0.0), {"reset": {"after": 10}}, received=[b"12345"], sent=[b"1234"])
    assert not driven.closed
    driven.send(b"6")
    assert driven.reset
    assert (driven.upstream, driven.client_got) == (b"12345", b"1234")
    assert (driven.flags, driven.details) == (b"FI", b"fault_reset")
    assert driven.upstream_end is not None
    assert driven.upstream_end.closed


def test_slow() -> None:
    """Each direction has the rate for itself."""
    driven = drive(chance(0.0), {"slow": {"rate": "1KiB"}})
    driven.send(bytes(1024))
    driven.answer(bytes(1024))
    assert (driven.upstream, driven.client_got) == (b"", b"")
    driven.advance(1)
    assert (len(driven.upstream), len(driven.client_got)) == (1024, 1024)
    assert driven.counters["made{fault=slow}"] == 1


def test_percentages() -> None:
    """Each fault is drawn on its own, in the order delay, refuse, reset, slow."""
    options = {
        "delay": {"fixed": "1s", "percentage": 50},
        "refuse": {"percentage": 10},
        "reset": {"percentage": 25},
    }
    assert drive(chance(0.5, 0.1, 0.25), options).asked
    late = drive(chance(0.49, 0.09, 0.9), options)
    assert late.waiting
    late.advance(1)
    assert late.details == b"fault_refuse"
    assert drive(chance(0.9, 0.9, 0.2), options).reset
    assert drive(chance(0.0), {"reset": {"percentage": 0}}).asked


def test_only_some_clients() -> None:
    """Others suffer nothing, and nothing is drawn for them."""
    options = {"refuse": {}, "clients": ["198.51.100.0/24"]}
    assert drive(chance(), options).asked
    assert not drive(chance(0.0), options, client=b"198.51.100.7:1").asked


def test_a_fault_is_needed() -> None:
    """No fault at all is a mistake."""
    assert list(Fault.Options.faults({"clients": ["10.0.0.0/8"]}))

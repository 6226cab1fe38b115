"""The filter fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.api import Response
from meshproxy.filters.fault import Fault
from meshproxy.testing import Kit, drive


def made(*numbers: float, **options: Any) -> Fault:
    """The filter with these options; ``numbers`` are what chance brings."""
    chance: Iterator[float] = iter(numbers)
    return Fault(Fault.Options.model_validate(options), lambda: next(chance))


def test_an_abort_is_an_answer() -> None:
    """The endpoint is not asked; the log says who did it."""
    driven = drive(made(abort={"status": 503}))
    assert driven.upstream is None
    assert (driven.status, driven.body) == (503, b"fault filter abort")
    assert (driven.flags, driven.details) == (b"FI", b"fault_filter_abort")
    assert driven.counters["aborted"] == 1
    assert "active" not in driven.counters


def test_an_abort_can_cut_the_connection() -> None:
    """The client gets nothing but the end."""
    driven = drive(made(abort={"reset": True}))
    driven.advance(0.1)
    assert (driven.aborted, driven.status, driven.over) == (True, 0, True)
    assert (driven.flags, driven.details) == (b"FI", b"fault_filter_abort")
    assert driven.upstream is None
    assert "errors" not in driven.counters


def test_a_client_that_goes_before_it_is_cut() -> None:
    """Nothing is cut twice."""
    driven = drive(made(abort={"reset": True}))
    driven.disconnect()
    driven.advance(0.1)
    assert driven.over
    assert not driven.aborted
    assert driven.kit.clock.getDelayedCalls() == []


def test_a_delay() -> None:
    """The request waits, then goes on; the flag says so."""
    driven = drive(made(delay={"fixed": "2s"}))
    driven.advance(1.9)
    assert driven.waiting
    assert (driven.status, driven.upstream) == (0, None)
    driven.advance(0.2)
    assert driven.status == 200
    assert driven.flags == b"DI"
    assert driven.counters["delayed"] == 1


def test_a_delay_ends_with_its_client() -> None:
    """No timer is left, and the place is free again."""
    kit = Kit()
    held = made(delay={"fixed": "2s"}, max_active=1)
    driven = kit.drive(held)
    driven.disconnect()
    kit.advance(3)
    assert driven.upstream is None
    assert "active" not in kit.counters
    assert kit.drive(held).waiting


def test_an_abort_behind_a_delay() -> None:
    """Both happen, one after the other."""
    driven = drive(made(delay={"fixed": "1s"}, abort={"status": 500}))
    assert driven.status == 0
    driven.advance(1.1)
    assert (driven.status, driven.flags) == (500, b"DI,FI")
    cut = drive(made(delay={"fixed": "1s"}, abort={"reset": True}))
    cut.advance(1.2)
    assert (cut.aborted, cut.flags) == (True, b"DI,FI")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"500", 0.5), (b"999999999", 5.0), (b"0", 0), (b"-1", 0), (b"1e3", 0), (b"9" * 5000, 0)],
)
def test_a_delay_that_a_client_asks_for(value: bytes, seconds: float) -> None:
    """It is in milliseconds and bounded; nonsense asks for nothing."""
    driven = drive(
        made(delay={"from_headers": True, "longest": "5s"}),
        headers={b"x-envoy-fault-delay-request": value},
    )
    assert driven.waiting is (seconds > 0)
    if seconds:
        driven.advance(seconds - 0.05)
        assert driven.status == 0
        driven.advance(0.1)
    assert driven.status == 200


def test_without_the_header_there_is_no_delay() -> None:
    """And a fixed one is not asked for by a header."""
    assert drive(made(delay={"from_headers": True})).status == 200
    fixed = made(delay={"fixed": "1s"})
    driven = drive(fixed, headers={b"x-envoy-fault-delay-request": b"1"})
    driven.advance(0.9)
    assert driven.waiting


def test_chance_decides() -> None:
    """Of each fault, its percentage."""
    kit = Kit()
    held = made(0.2499, 0.25, 0.9, abort={"status": 503, "percentage": 25})
    assert [kit.drive(held).status for _ in range(3)] == [503, 200, 200]
    never = made(0.0, abort={"status": 503, "percentage": 0})
    assert drive(never).status == 200
    both = made(
        0.9, 0.1, delay={"fixed": "1s", "percentage": 50}, abort={"status": 503, "percentage": 50}
    )
    assert drive(both).status == 503


def test_which_requests() -> None:
    """Those whose headers and path are as written; one of several paths is enough."""
    held = made(
        abort={"status": 503},
        match={"headers": {"x-test": {"present": True}}, "paths": ["/a", {"prefix": "/b/"}]},
    )
    kit = Kit()
    tested = {b"x-test": b"1"}
    assert kit.drive(held, target=b"/b/c", headers=tested).status == 503
    assert kit.drive(held, target=b"/a?b", headers=tested).status == 503
    assert kit.drive(held, target=b"/c", headers=tested).status == 200
    assert kit.drive(held, target=b"/a").status == 200


def test_no_more_than_so_many_at_a_time() -> None:
    """Those on top pass as they are, and a place that is free again is used."""
    kit = Kit()
    held = made(delay={"fixed": "1s"}, max_active=2)
    waiting = [kit.drive(held) for _ in range(2)]
    assert kit.counters["active"] == 2
    assert kit.drive(held).status == 200
    assert kit.counters["overflow"] == 1
    kit.advance(1.1)
    assert [driven.status for driven in waiting] == [200, 200]
    assert kit.drive(held).waiting


def test_a_slow_response() -> None:
    """Its bytes come at the rate, and all of them come."""
    driven = drive(made(bandwidth={"rate": 1000}), response=None)
    driven.answer(200, {}, b"a" * 500, end=False, length=1000)
    driven.advance(0.25)
    assert 150 <= len(driven.body) <= 250
    driven.advance(0.3)
    assert len(driven.body) == 500
    driven.answer_end(b"b" * 500)
    driven.advance(0.25)
    assert 650 <= len(driven.body) <= 750
    driven.advance(0.3)
    assert driven.body == b"a" * 500 + b"b" * 500
    assert driven.finished
    assert driven.counters["slowed"] == 1
    assert "active" not in driven.counters


def test_responses_that_are_not_slow() -> None:
    """Chance spares a response: its body does not pass this filter."""
    driven = drive(
        made(0.9, bandwidth={"rate": 1, "percentage": 50}), response=Response(200, b"x" * 1000)
    )
    assert driven.body == b"x" * 1000
    assert "slowed" not in driven.counters


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"delay": {}},
        {"delay": {"fixed": "0s"}},
        {"delay": {"fixed": "1s", "from_headers": True}},
        {"delay": {"from_headers": False}},
        {"delay": {"fixed": "1s", "longest": "5s"}},
        {"delay": {"fixed": "1s", "percentage": 101}},
        {"abort": {}},
        {"abort": {"reset": False}},
        {"abort": {"status": 503, "reset": True}},
        {"abort": {"status": 204}},
        {"abort": {"status": 99}},
        {"bandwidth": {"rate": 0}},
        {"abort": {"status": 503}, "match": {"headers": {"host": "a"}}},
        {"abort": {"status": 503}, "max_active": 0},
    ],
)
def test_faults_that_are_none_are_refused(options: dict[str, Any]) -> None:
    """What would do nothing, or two things at once, is found at start."""
    with pytest.raises(ValidationError):
        Fault.Options.model_validate(options)

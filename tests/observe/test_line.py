"""The generated function."""

from __future__ import annotations

from twisted.internet.task import Clock

from meshproxy.observe.escape import escape_text
from meshproxy.observe.line import FRAGMENTS, Line
from meshproxy.observe.wall import Wall
from tests.observe.records import START, Record


def line(missing: bytes = b"-", microseconds: bool = False) -> Line:
    """An empty line in text."""
    clock = Clock().seconds
    return Line(missing, b"never", microseconds, escape_text, Wall(clock, clock))


def test_parts_come_in_their_order() -> None:
    """Literals, kept runs, texts, numbers and dates are where they were put, percent signs too."""
    made = line()
    made.literal(b"<%b>")
    made.text("listener_name")
    made.literal(b" ")
    made.number("status")
    made.start_time(None)
    made.text("route_name")
    made.start_time("%s")
    made.text("path")
    made.number("bytes_sent")
    made.literal(b"%")
    function = made.compiled()
    expected = b"<%b>web 2002023-11-14T22:13:20.250Zusers1700000000/api/users?page=21234%"
    assert [function(Record()), function(Record())] == [expected, expected]


def test_a_kept_run_follows_its_values() -> None:
    """A run is never written for other values than its own, however many there were."""
    made = line()
    for attribute in ("status", "attempts"):
        made.number(attribute)
        made.literal(b" ")
    made.text("flags")
    function = made.compiled()
    for number in range(FRAGMENTS + 2):
        record = Record(attempts=number, flags=b"UF" if number % 2 else b"")
        assert function(record) == b"200 %d %b" % (number, b"UF" if number % 2 else b"-")


def test_numbers_of_any_size() -> None:
    """The table of small numbers ends nowhere that shows."""
    made = line()
    made.number("bytes_sent")
    function = made.compiled()
    for number in (-1, 0, 7, 999, 1000, 1 << 70):
        assert function(Record(bytes_sent=number)) == b"%d" % number


def test_spans() -> None:
    """Milliseconds; never negative; never a span from or to what did not happen."""
    made = line(microseconds=True)
    made.span("start", "end")
    made.literal(b" ")
    made.span("upstream_start", "connected_at")
    made.literal(b" ")
    made.span("upstream_start", "response_start", "start")
    function = made.compiled()
    assert function(Record()) == b"500.000 62.500 250.000"
    assert function(Record(upstream_start=0.0)) == b"500.000 never 375.000"
    assert function(Record(end=START - 1, response_start=0.0)) == b"0.000 62.500 never"


def test_headers() -> None:
    """The first that is not empty, cut; credentials as asterisks; no headers, nothing found."""
    made = line(b"?")
    made.header("request_headers", [b"x-none", b"user-agent"], 4)
    made.header("response_headers", [b"*content-type", "path"], None)
    function = made.compiled()
    assert function(Record()) == b"curl***"
    assert function(Record(request_headers=None, response_headers={})) == b"?/api/users?page=2"


def test_a_line_without_parts() -> None:
    """Nothing but literals is a line, too, and so is nothing."""
    assert line().compiled()(Record()) == b""
    made = line()
    made.literal(b"x")
    assert made.compiled()(Record()) == b"x"

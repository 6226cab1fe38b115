"""The record that the log sees."""

from __future__ import annotations

from meshproxy.observe.access import compile_format
from meshproxy.observe.record import AccessRecord, Facts
from tests.observe.records import Record, tcp_record


def test_a_plain_object_is_a_record() -> None:
    """Whatever has the attributes satisfies the protocol, for mypy as well as for a format."""
    records: list[AccessRecord] = [Record(), tcp_record()]
    assert [bool(compile_format("text")(record)) for record in records] == [True, True]


def test_facts_are_texts() -> None:
    """Whatever a filter noted is bytes in a line, and what it did not note is absent."""
    facts = Facts(
        {"a": "\u00e9", "b": b"\xff", "c": True, "d": False, "e": 1, "f": 0.5, "g": "\ud800"}
    )
    found = {name: facts.get(name) for name in (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"none")}
    assert found == {
        b"a": b"\xc3\xa9",
        b"b": b"\xff",
        b"c": b"true",
        b"d": b"false",
        b"e": b"1",
        b"f": b"0.5",
        b"g": b"\\ud800",
        b"none": None,
    }

"""The record that the log sees."""

from __future__ import annotations

from meshproxy.observe.access import compile_format
from meshproxy.observe.record import AccessRecord
from tests.observe.records import Record, tcp_record


def test_a_plain_object_is_a_record() -> None:
    """Whatever has the attributes satisfies the protocol, for mypy as well as for a format."""
    records: list[AccessRecord] = [Record(), tcp_record()]
    assert [bool(compile_format("text")(record)) for record in records] == [True, True]

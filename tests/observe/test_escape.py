"""What is written of bytes that somebody else chose."""

from __future__ import annotations

import ast
import json

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.observe.escape import ODD, escape_json, escape_text

PRINTABLE = frozenset(range(0x20, 0x7F))


@given(st.binary(max_size=80))
def test_text_is_printable_and_means_the_bytes(value: bytes) -> None:
    """Printable ASCII comes out, no quotation mark ends it, and the value can be read back."""
    escaped = escape_text(value)
    assert set(escaped) <= PRINTABLE
    assert ast.literal_eval(f'b"{escaped.decode()}"') == value


@given(st.binary(max_size=80))
def test_json_is_the_inside_of_a_string(value: bytes) -> None:
    """It parses in quotation marks, and UTF-8 comes back as the characters that it means."""
    escaped = escape_json(value)
    assert set(escaped) <= PRINTABLE
    assert json.loads(b'"%b"' % escaped) == value.decode("utf-8", "backslashreplace")


@given(st.binary(max_size=80))
def test_odd_tells_what_needs_escaping(value: bytes) -> None:
    """A value that the table leaves alone is escaped to itself, and only such a value is."""
    plain = value.translate(ODD) == value
    assert (escape_text(value) == value) is plain
    if plain:
        assert escape_json(value) == value

"""A bounded table of what holds for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._remembered import Remembered


def test_a_value_until_its_time() -> None:
    """What is remembered is there until its time, and not at it."""
    table: Remembered[str] = Remembered(10)
    table.put(b"k", "v", 5.0)
    assert table.get(b"k", 4.9) == "v"
    assert table.get(b"k", 5.0) is None
    assert len(table) == 0


def test_it_is_bounded() -> None:
    """The oldest makes room; what is put again is new."""
    table: Remembered[int] = Remembered(2)
    table.put(b"a", 1, 9.0)
    table.put(b"b", 2, 9.0)
    table.put(b"a", 3, 9.0)
    table.put(b"c", 4, 9.0)
    assert [table.get(key, 0.0) for key in (b"a", b"b", b"c")] == [3, None, 4]


def test_size_0_remembers_nothing() -> None:
    """A table of no size is always empty, and what is forgotten is gone."""
    table: Remembered[int] = Remembered(0)
    table.put(b"a", 1, 9.0)
    assert len(table) == 0
    table = Remembered(3)
    table.put(b"a", 1, 9.0)
    table.forget(b"a")
    table.forget(b"a")
    assert table.get(b"a", 0.0) is None
    table.put(b"b", 1, 9.0)
    table.clear()
    assert len(table) == 0


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_keys_are_of_their_parts(one: list[bytes], other: list[bytes]) -> None:
    """Two lists of parts have one key only if they are equal, unless they are a part alone."""
    table: Remembered[int] = Remembered(1)
    if len(one) != 1 and len(other) != 1:
        assert (table.key(*one) == table.key(*other)) == (one == other)
    assert table.key(*one) == table.key(*one)


def test_a_key_is_of_this_process() -> None:
    """Another table gives another key: whoever sees one cannot guess what it stands for."""
    assert Remembered[int](1).key(b"x") != Remembered[int](1).key(b"x")

"""Names and wildcards."""

from __future__ import annotations

import pytest

from meshproxy.tls.names import NameTable


def _table() -> NameTable[int]:
    table: NameTable[int] = NameTable()
    assert table.add(b"a.example", 1)
    assert table.add(b"*.example", 2)
    assert table.add(b"*.b.example", 3)
    assert table.add(b"localhost", 4)
    return table


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"a.example", 1),
        (b"z.example", 2),
        (b"b.example", 2),
        (b"x.b.example", 3),
        (b"localhost", 4),
        (b"example", None),
        (b"x.y.example", None),
        (b"x.a.example", None),
        (b".example", 2),
        (b"other", None),
        (b"", None),
    ],
)
def test_get(name: bytes, value: int | None) -> None:
    """Exact before wildcard; a wildcard is one label, never none and never two."""
    assert _table().get(name) == value


def test_the_first_stays() -> None:
    """A name that is there keeps its value."""
    table = _table()
    assert not table.add(b"a.example", 9)
    assert not table.add(b"*.example", 9)
    assert (table.get(b"a.example"), table.get(b"q.example")) == (1, 2)
    assert set(table) == {b"a.example", b"*.example", b"*.b.example", b"localhost"}
    assert len(table) == 4


@pytest.mark.parametrize("name", [b"", b"*", b"*.", b"f*.example", b"a.*.example", b"*.*.example"])
def test_what_is_no_name(name: bytes) -> None:
    """Wildcards of any form but ``*.NAME`` match nothing."""
    table: NameTable[int] = NameTable()
    assert not table.add(name, 1)
    assert len(table) == 0

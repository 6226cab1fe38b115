"""Suggestions and how a user's value is shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.unfit import Unfit, closest, quoted


def test_closest_finds_slips() -> None:
    """A letter missing, letters swapped, another case, or a dash for an underscore."""
    known = ("listen", "max_connections", "http")
    assert closest("lisen", known) == "listen"
    assert closest("lsiten", known) == "listen"
    assert closest("HTTP", known) == "http"
    assert closest("max-connections", known) == "max_connections"


def test_closest_does_not_guess() -> None:
    """A word that is like none of them gives nothing, nor does one of any length."""
    assert closest("zebra", ("listen", "http")) is None
    assert closest("h" * 100_000, ("http",)) is None
    assert closest("x", ()) is None


def test_quoted_is_short_and_plain() -> None:
    """A message stays on one line, however long or odd the value."""
    assert quoted("a") == "'a'"
    assert quoted(True) == "true"
    assert quoted(5) == "5"
    assert quoted("a\nb\x1b") == r"'a\nb\x1b'"
    assert len(quoted("x" * 1000)) < 80
    assert len(quoted([1] * 1000)) < 80


@given(st.one_of(st.text(), st.binary(), st.floats(), st.lists(st.text())))
def test_quoted_never_breaks_a_line(value: object) -> None:
    """Whatever it is given, what comes out can be printed on one line of a terminal."""
    assert quoted(value).isprintable()


def test_unfit_is_a_value_error() -> None:
    """Validation takes it for what it is, and it carries its parts."""
    error = Unfit("no", "yes", ("a", 0))
    assert isinstance(error, ValueError)
    assert (str(error), error.suggestion, error.at) == ("no", "yes", ("a", 0))

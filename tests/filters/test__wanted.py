"""What headers and facts must be."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from meshproxy.api import Headers, PositiveSize, StringMatch, ValueMatch
from meshproxy.filters._wanted import header_test, no_host, text_of


def test_text_alone_is_the_whole_value() -> None:
    """A text stands for ``exact``; a mapping is taken as it is."""
    adapter: TypeAdapter[StringMatch] = TypeAdapter(ValueMatch)
    assert adapter.validate_python("a").exact == "a"
    assert adapter.validate_python({"prefix": "a"}).prefix == "a"


@pytest.mark.parametrize(
    ("values", "one", "all_of_them"),
    [
        ([], False, False),
        ([b"a"], True, True),
        ([b"b"], False, False),
        ([b"a", b"b"], True, False),
        ([b"b", b"a"], True, False),
        ([b"a", b"a"], True, True),
    ],
)
def test_a_header_that_comes_several_times(
    values: list[bytes], one: bool, all_of_them: bool
) -> None:
    """Whoever asks decides whether one value is enough; a second field hides nothing."""
    headers = Headers.of((b"x", value) for value in values)
    assert header_test("X", StringMatch(exact="a"), every=False)(headers) is one
    assert header_test("X", StringMatch(exact="a"), every=True)(headers) is all_of_them


def test_a_size_of_nothing_is_refused() -> None:
    """A pace or a bound of 0 would let nothing through."""
    adapter: TypeAdapter[int] = TypeAdapter(PositiveSize)
    assert adapter.validate_python("1KiB") == 1024
    with pytest.raises(ValidationError):
        adapter.validate_python(0)


def test_absence_can_be_asked_for() -> None:
    """``present: false`` holds where there is no such header."""
    absent = header_test("x", StringMatch(present=False), every=True)
    assert absent(Headers())
    assert not absent(Headers.of([(b"x", b"")]))


def test_the_host_is_no_header() -> None:
    """A test of Host, which filters do not see, would never match: it is refused."""
    (fault,) = no_host({"headers": {"Host": "a"}}, "'hosts'")
    assert fault.at == ("headers", "Host")
    assert not list(no_host({"headers": {"x": "a"}}, "'hosts'"))
    assert not list(no_host({}, "'hosts'"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (b"a", b"a"),
        ("ä", "ä".encode()),
        (True, b"true"),
        (False, b"false"),
        (7, b"7"),
    ],
)
def test_facts_as_text(value: object, text: bytes | None) -> None:
    """Whatever a filter may leave can be compared with text."""
    assert text_of(value) == text

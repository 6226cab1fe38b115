"""What sections have in common: frozen, strict, and faults between keys."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from meshproxy.config import Configuration, Match, Mirror, Respond, Route
from meshproxy.config.fields import Size
from meshproxy.config.section import Section, written


def every_section() -> set[type[Section]]:
    """All classes of sections there are."""
    found: set[type[Section]] = set()
    left = [Section]
    while left:
        for section in left.pop().__subclasses__():
            if section.__module__.startswith("meshproxy."):
                found.add(section)
                left.append(section)
    return found


def test_a_section_is_frozen() -> None:
    """What was checked cannot be changed afterwards."""
    with pytest.raises(ValidationError, match="frozen"):
        Match().prefix = "/"


def test_a_section_converts_nothing() -> None:
    """Text is no number and a number no truth, so nothing means what was not written."""
    for data in ({"status": "200"}, {"body": 1}, {"status": True}, {"status": 200.0}):
        with pytest.raises(ValidationError):
            Respond.model_validate(data)


def test_faults_hold_in_python_too() -> None:
    """Who builds a section without a text gets the same checks, nested values or not."""
    with pytest.raises(ValidationError, match="only one of"):
        Route(to={"a": 1}, respond=Respond())
    with pytest.raises(ValidationError, match=r"rewrite\.prefix"):
        Route.model_validate({"to": "a", "rewrite": {"prefix": "/"}, "match": Match(regex="x")})


def test_written_is_what_was_given() -> None:
    """Defaults do not count as written; a shorthand has no keys."""
    assert written(Match(prefix="/a")) == {"prefix": "/a"}
    assert written({"a": 1}) == {"a": 1}
    assert written("text") == {}
    assert written(None) == {}


def test_every_field_is_described() -> None:
    """The reference page is made of these descriptions, so none is missing."""
    assert Configuration in every_section()
    for section in every_section():
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description.endswith("."), f"{section.__name__}.{name}"


def test_nothing_is_both_built_and_to_come() -> None:
    """A key that is refused as not supported is not accepted, and none is refused for nothing."""
    for section in every_section():
        assert not section.later & section.model_fields.keys()
        for group in (*section.at_most_one, section.exactly_one):
            assert {*group} <= section.model_fields.keys()
        assert section.references <= section.model_fields.keys()
        assert section.one_or_several <= section.model_fields.keys()
        assert section.shorthand == "" or section.shorthand in section.model_fields
        assert not section.elsewhere.keys() & (section.later | section.model_fields.keys())


def test_numbers_are_finite() -> None:
    """Neither infinity nor what is no number gets into any section, from Python neither."""
    for number in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValidationError, match="finite"):
            Mirror(to="a", percent=number)


def test_a_bound_that_would_do_nothing_is_refused() -> None:
    """Whoever writes one beside a type that checks by itself is told so, and how it works."""
    with pytest.raises(TypeError, match=r"Bounded\.size: .*Annotated"):

        class Bounded(Section):
            size: Size = Field(default=1, ge=1)

    class Right(Section):
        size: Annotated[Size, Field(ge=1)] = 1

    with pytest.raises(ValidationError):
        Right(size=0)
    assert Right(size=1).size == 1

"""Routes that are never reached: what is found, and that nothing is found wrongly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import Match, Route
from meshproxy.config.shadow import covers, shadowed


def match(**keys: object) -> Match:
    """A match as it would be written."""
    return Match.model_validate(keys)


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        (match(), match(), True),
        (match(), match(path="/a", methods=["GET"]), True),
        (match(prefix="/"), match(path="/a"), True),
        (match(prefix="/"), match(path="*"), False),
        (match(prefix="/"), match(), False),
        (match(prefix="/"), match(regex="/a"), False),
        (match(path="/a"), match(path="/a"), True),
        (match(path="/a"), match(path="/b"), False),
        (match(path="/a"), match(prefix="/a"), False),
        (match(prefix="/a"), match(path="/a/b"), True),
        (match(prefix="/a"), match(path="/ab"), False),
        (match(prefix="/a", on_segments=False), match(path="/ab"), True),
        (match(prefix="/a"), match(prefix="/a"), True),
        (match(prefix="/a"), match(prefix="/a/b"), True),
        (match(prefix="/a"), match(prefix="/a/"), True),
        (match(prefix="/a/"), match(prefix="/a"), False),
        (match(prefix="/a"), match(prefix="/a", on_segments=False), False),
        (match(prefix="/a/"), match(prefix="/a/", on_segments=False), True),
        (match(prefix="/a"), match(prefix="/a/b", on_segments=False), True),
        (match(regex="/a+"), match(regex="/a+"), True),
        (match(regex="/a+"), match(path="/aa"), False),
        (match(regex=".*"), match(prefix="/aa"), True),
        (match(regex="/.*"), match(path="*"), False),
        (match(methods=["GET"]), match(), False),
        (match(methods=["GET", "POST"]), match(methods=["POST"]), True),
        (match(methods=["GET"]), match(methods=["GET", "POST"]), False),
        (match(headers={"a": "b"}), match(), False),
        (match(headers={"a": "b"}), match(headers={"A": "b", "c": "d"}), True),
        (match(headers={"a": "b"}), match(headers={"a": "c"}), False),
        (match(query={"a": {"present": True}}), match(query={"a": {"present": True}}), True),
        (match(query={"a": "b"}), match(headers={"a": "b"}), False),
    ],
)
def test_covers(wide: Match, narrow: Match, covered: bool) -> None:
    """Whether one match certainly takes all that another does."""
    assert covers(wide, narrow) is covered


def routes(*matches: Match) -> list[Route]:
    """A route for each match."""
    return [Route(match=one, to={"a": 1}) for one in matches]


def test_each_is_told_the_first_that_takes_its_requests() -> None:
    """The earliest of several is named; what comes before is never shadowed by what follows."""
    table = routes(
        match(path="/x"), match(prefix="/a"), match(), match(path="/a/b"), match(path="/x")
    )
    assert shadowed(table) == {3: 1, 4: 0}


def test_the_last_catch_all_shadows_nothing() -> None:
    """The usual table ends with a route for the rest."""
    assert shadowed(routes(match(path="/x"), match(prefix="/a"), match())) == {}


paths = st.sampled_from(["/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/b", "*"])
prefixes = st.sampled_from(["/", "/a", "/a/", "/ab", "/a/b"])
matches = st.one_of(
    st.builds(match),
    st.builds(match, path=paths),
    st.builds(match, prefix=prefixes, on_segments=st.booleans()),
    st.builds(match, regex=st.sampled_from([".*", "/.*", "/a.*"])),
)


def takes(one: Match, path: str) -> bool:
    """Whether a match takes a path, said as simply as can be."""
    if one.path is not None:
        return path == one.path
    if one.prefix is not None:
        rest = path.removeprefix(one.prefix)
        whole = not one.on_segments or one.prefix.endswith("/") or rest[:1] in ("", "/")
        return path.startswith(one.prefix) and whole
    return one.regex is None or re.fullmatch(one.regex, path) is not None


@settings(max_examples=300)
@given(st.lists(matches, max_size=6), paths)
def test_a_shadowed_route_takes_nothing(table: list[Match], path: str) -> None:
    """Whatever a shadowed route would take, an earlier one takes."""
    for number, earlier in shadowed(routes(*table)).items():
        assert earlier < number
        assert takes(table[earlier], path) or not takes(table[number], path)

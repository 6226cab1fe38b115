"""Routes that are never reached: what is found, and that nothing is found wrongly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import Match, Route, TlsMatch
from meshproxy.config.shadow import covers, covers_hello, shadowed, shadowed_hellos


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


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        (None, {}, True),
        ({}, None, False),
        ({}, {}, True),
        ({}, {"client_certificate": True}, True),
        ({"client_certificate": True}, {}, False),
        ({"client_certificate": True}, {"client_certificate": True, "san": "a"}, True),
        ({"client_certificate": True}, {"san": "a"}, True),
        ({"client_certificate": True}, {"client_certificate": False}, False),
        ({"client_certificate": False}, {"subject": "a"}, False),
        ({"san": "a"}, {"san": "a", "subject": "b"}, True),
        ({"san": "a"}, {"san": "b"}, False),
        ({"subject": "a"}, {"subject": "a"}, True),
        ({"server_names": ["a.b"]}, {}, False),
        ({"server_names": ["*"]}, {}, True),
        ({"server_names": ["*.b"]}, {"server_names": ["a.b", "*.c.b"]}, True),
        ({"server_names": ["*.b"]}, {"server_names": ["a.b", "c"]}, False),
        ({"server_names": ["*.b", "c"]}, {"server_names": ["a.b", "c"]}, True),
    ],
)
def test_covers_what_clients_tls_is(
    wide: dict[str, object] | None, narrow: dict[str, object] | None, covered: bool
) -> None:
    """A route by the client's TLS takes no request without it, and not all with it."""
    matches = [match() if tls is None else match(tls=tls) for tls in (wide, narrow)]
    assert covers(*matches) is covered


def hello(*names: str, alpn: tuple[str, ...] = ()) -> TlsMatch:
    """A match of hellos."""
    return TlsMatch(server_names=[*names], alpn=[*alpn])


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        (None, None, True),
        (None, hello("a"), True),
        (hello("*"), None, False),
        (hello("*"), hello(alpn=("x",)), True),
        (hello("*"), hello("a", "*.b"), True),
        (hello(alpn=("x", "y")), hello("a", alpn=("x",)), True),
        (hello(alpn=("x",)), hello("a", alpn=("x", "y")), False),
        (hello(alpn=("x",)), hello("a"), False),
        (hello("*.b", alpn=("x",)), hello("a.b", alpn=("x",)), True),
        (hello("*.b", "c"), hello("a.b", "c"), True),
        (hello("*.b"), hello("a.b", "c"), False),
        (hello("a"), hello(alpn=("x",)), False),
    ],
)
def test_covers_hellos(wide: TlsMatch | None, narrow: TlsMatch | None, covered: bool) -> None:
    """Whether one match certainly takes all the clients that another does."""
    assert covers_hello(wide, narrow) is covered


def test_each_match_of_hellos_is_told_the_first_that_takes_its_clients() -> None:
    """By names, by protocols, or because all is taken; the last for the rest shadows nothing."""
    table = [
        hello("a.b"),
        hello("*.c", "d"),
        hello("x.y.c"),
        hello(alpn=("p",)),
        hello("e", alpn=("p",)),
        hello("*.y.c", "d", alpn=("q",)),
        None,
        hello("f"),
        None,
    ]
    assert shadowed_hellos(table) == {2: 1, 4: 3, 5: 1, 7: 6, 8: 6}
    assert shadowed_hellos([hello("a"), hello("*"), None]) == {}


hellos = st.builds(
    lambda names, alpn: TlsMatch(server_names=names, alpn=alpn) if names or alpn else None,
    st.lists(st.sampled_from(["a", "a.b", "*.b", "c.a.b", "*.a.b", "*"]), max_size=3),
    st.lists(st.sampled_from(["x", "y"]), max_size=2),
)


def takes_hello(one: TlsMatch | None, name: str, alpn: set[str]) -> bool:
    """Whether a match takes a client, said as simply as can be."""
    if one is None:
        return True
    named = not one.server_names or any(
        pattern in ("*", name) or (pattern[0] == "*" and name.endswith(pattern[1:]))
        for pattern in one.server_names
    )
    return named and (not one.alpn or bool(alpn & {*one.alpn}))


@settings(max_examples=300)
@given(
    st.lists(hellos, max_size=6),
    st.sampled_from(["", "a", "a.b", "c.a.b", "d.b"]),
    st.sets(st.sampled_from(["x", "y", "z"])),
)
def test_a_shadowed_match_takes_nobody(
    table: list[TlsMatch | None], name: str, alpn: set[str]
) -> None:
    """Whomever a shadowed match would take, an earlier one takes."""
    for number, earlier in shadowed_hellos(table).items():
        assert earlier < number
        assert takes_hello(table[earlier], name, alpn) or not takes_hello(table[number], name, alpn)


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

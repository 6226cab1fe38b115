"""The first entry that matches is found, whatever the table is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.tls.hello import Hello
from meshproxy.tls.routes import HelloRoutes


@dataclass
class Match:
    """As the configuration's."""

    server_names: list[str] = field(default_factory=list)
    alpn: list[str] = field(default_factory=list)


def said(name: str, *alpn: str) -> Hello:
    """A hello."""
    return Hello(name.encode(), tuple(one.encode() for one in alpn), (), b"", False, 0)


TABLE = HelloRoutes(
    [
        (Match(["db.example"], ["postgresql"]), "postgres"),
        (Match(["DB.example.", "cache.example"]), "db"),
        (Match(["*.internal.example"], ["h2"]), "internal-h2"),
        (Match(["one.internal.example"]), "one"),
        (Match(["*.example"]), "example"),
        (Match([], ["acme-tls/1"]), "acme"),
        (Match(["*"]), "named"),
        (None, "rest"),
        (None, "never"),
    ]
)


@pytest.mark.parametrize(
    ("hello", "value"),
    [
        (said("db.example", "postgresql"), "postgres"),
        (said("db.example", "h2", "postgresql"), "postgres"),
        (said("db.example", "h2"), "db"),
        (said("db.example"), "db"),
        (said("cache.example"), "db"),
        (said("one.internal.example", "h2"), "internal-h2"),
        (said("one.internal.example"), "one"),
        (said("a.b.internal.example", "h2"), "internal-h2"),
        (said("a.b.internal.example"), "example"),
        (said("internal.example", "h2"), "example"),
        (said("example"), "named"),
        (said("other.test", "acme-tls/1"), "acme"),
        (said("", "acme-tls/1"), "acme"),
        (said("other.test"), "named"),
        (said(""), "named"),
        (None, "rest"),
    ],
)
def test_the_first_that_matches(hello: Hello | None, value: str) -> None:
    """Names in any case, wildcards of one label or several, protocols; then everything else."""
    assert TABLE.find(hello) == value


def test_nothing_matches() -> None:
    """Without an entry that takes everything, what suits none is None."""
    table = HelloRoutes([(Match(["a.example"]), 1), (Match(["*.b.example"], ["h2"]), 2)])
    assert table.find(None) is None
    assert table.find(said("")) is None
    assert table.find(said("b.example", "h2")) is None
    assert table.find(said("x.b.example", "h3")) is None
    assert table.find(said("x.b.example", "h2")) == 2


def test_everything_before_the_rest() -> None:
    """An entry without conditions hides those behind it."""
    table = HelloRoutes([(Match(["a.example"]), 1), (None, 2), (Match(["b.example"]), 3)])
    assert table.find(said("a.example")) == 1
    assert table.find(said("b.example")) == 2


def test_no_match_and_an_empty_one() -> None:
    """A match that asks for nothing is none."""
    assert HelloRoutes([(Match(), 1)]).find(None) == 1


NAMES = st.sampled_from(["a", "b.a", "c.b.a", "d.c.b.a", "x.a", "x.b.a", ""])
PATTERNS = st.sampled_from(["a", "b.a", "c.b.a", "*.a", "*.b.a", "*.c.b.a", "*", "x.a"])
PROTOCOLS = st.lists(st.sampled_from(["h2", "h3"]), max_size=2)
MATCHES = st.none() | st.builds(Match, st.lists(PATTERNS, max_size=3), PROTOCOLS)


@given(st.lists(MATCHES, max_size=6), NAMES, PROTOCOLS)
def test_as_if_looked_through(matches: list[Match | None], name: str, alpn: list[str]) -> None:
    """The table answers as a look through all entries in order would."""

    def suits(match: Match | None) -> bool:
        if match is None:
            return True
        named = not match.server_names or any(
            one == "*" or one == name or (one[:2] == "*." and name.endswith(one[1:]))
            for one in match.server_names
        )
        return named and (not match.alpn or bool({*match.alpn} & {*alpn}))

    expected = next((number for number, one in enumerate(matches) if suits(one)), None)
    table = HelloRoutes([(one, number) for number, one in enumerate(matches)])
    assert table.find(said(name, *alpn)) == expected

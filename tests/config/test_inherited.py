"""What hosts and routes may do with the filters that they inherit."""

from __future__ import annotations

import pytest

from tests.config.texts import filtered, lines_of

ROUTE = "12:21: listeners.web.http.routes[0].filters[0]"


@pytest.mark.parametrize(
    ("host", "route", "problems"),
    [
        ("t_bare: false", "t_bare: false, { t_limit: { size: 5 }, as: outer }", []),
        ("t_short", "t_short", []),
        (
            "",
            "t_short: false",
            [f"{ROUTE}.t_short: no filter 't_short' is inherited here, so it cannot be switched o"],
        ),
        (
            "",
            "oter: false",
            [
                (
                    f"{ROUTE}.oter: no filter 'oter' is inherited here, so it cannot be switched "
                    "off; did you mean 'outer'?"
                )
            ],
        ),
        (
            "{ t_bare: false, as: outer }",
            "",
            [
                (
                    "9:45: listeners.web.http.hosts.a.filters[0].as: 'as' does nothing here: write "
                    "'outer: false'"
                )
            ],
        ),
        (
            "{ t_bare: {}, as: outer }",
            "",
            [
                (
                    "9:24: listeners.web.http.hosts.a.filters[0]: what is called 'outer' is a "
                    "filter 't_limit' where it is inherited from; give this one another name with "
                    "'as'"
                )
            ],
        ),
        (
            "",
            "t_bare: false, t_bare: false",
            ["12:36: listeners.web.http.routes[0].filters[1]: 't_bare' is there already; give o"],
        ),
        (
            "",
            "{ t_limit: { size: x }, as: outer }",
            ["12:40: listeners.web.http.routes[0].filters[0].t_limit.size: a size such as"],
        ),
    ],
)
def test_inherited(host: str, route: str, problems: list[str]) -> None:
    """What is inherited may be replaced by its like or switched off, and nothing else may."""
    found = lines_of(filtered("t_bare, { t_limit: { requests: 1 }, as: outer }", host, route))
    assert len(found) == len(problems), found
    for line, beginning in zip(found, problems, strict=True):
        assert line.startswith(beginning), line


def test_a_route_inherits_from_its_host() -> None:
    """What a host switched off or added is what its routes can switch off."""
    text = filtered("t_bare", "t_bare: false, t_short").replace(
        "routes: []", "routes: [{ respond: {}, filters: [t_bare: false, t_short: false] }]"
    )
    assert lines_of(text) == [
        (
            "9:83: listeners.web.http.hosts.a.routes[0].filters[0].t_bare: no filter 't_bare' is "
            "inherited here, so it cannot be switched off"
        )
    ]

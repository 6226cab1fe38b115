"""Which requests a route takes, as it is written."""

from __future__ import annotations

import pytest

from tests.config.texts import messages_of, one_route, with_routes


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("{}", []),
        ("{ path: '*', methods: [OPTIONS] }", []),
        ("{ prefix: /a, on_segments: false }", []),
        (
            "{ path: /a, prefix: /b }",
            ["'path' is there already, and only one of 'path', 'prefix' "],
        ),
        ("{ on_segments: false }", ["'on_segments' does nothing without 'prefix'"]),
        ("{ methods: [get] }", ["methods are in capitals, and 'get' is not; did you mean 'GET'?"]),
        ("{ methods: GET }", ["a list is expected, not the text 'GET'; did you mean '[GET]'?"]),
        ("{ headers: { 'a b': x } }", ["not the name of a header: 'a b'"]),
        ("{ headers: { a: x, A: y } }", ["this is the same header as 'a'; case does not matter"]),
        ("{ headers: { a: 1 } }", ["a mapping (key: value) is expected, not the number 1"]),
        (
            "{ headers: { a: {} } }",
            ["one of 'exact', 'prefix', 'suffix', 'contains', 'regex' and "],
        ),
        ("{ headers: { a: { exact: b, prefix: c } } }", ["'exact' is there already, and only one"]),
        ("{ headers: { a: { prefix: '' } } }", ["this cannot be empty"]),
        ("{ headers: { a: { regex: '(' } } }", ["not a regular expression: missing )"]),
        ("{ headers: { a: { present: yes } } }", ["true or false is expected, not the text 'yes'"]),
        ("{ query: { a: { regx: b } } }", ["unknown key 'regx'; did you mean 'regex'?"]),
        ("{ tls: {} }", []),
        ("{ tls: { server_names: ['*.a'], client_certificate: true, subject: a, san: b } }", []),
        ("{ tls: { subject: { present: true }, san: { suffix: a } } }", []),
        ("{ tls: { server_names: ['*a'] } }", ["'*' stands alone or as '*.' at the beginning"]),
        (
            "{ tls: { client_certificate: false, san: a } }",
            ["'san' can match nothing beside 'client_certificate: false'"],
        ),
        (
            "{ tls: { client_certificate: false, subject: a } }",
            ["'subject' can match nothing beside 'client_certificate: false'"],
        ),
        ("{ tls: { san: { exact: a, invert: true } } }", ["one name that is another is enough"]),
        ("{ tls: { san: { present: false } } }", ["a name is compared here, so that 'present'"]),
        ("{ tls: true }", ["a mapping (key: value) is expected, not true"]),
        ("{ cookies: { a: b } }", ["'cookies' is not supported by this version"]),
        ("/a", ["a mapping (key: value) is expected, not the text '/a'"]),
    ],
)
def test_matches(match: str, expected: list[str]) -> None:
    """Every condition is checked, in words that say what to write."""
    found = messages_of(with_routes(f"- match: {match}\n  to: api"))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_text_is_an_exact_match() -> None:
    """A header's or parameter's text alone means the whole value."""
    match = one_route('- match: { headers: { X-A: "1" }, query: { Q: x } }\n  to: api').match
    assert (match.headers["x-a"].exact, match.headers["x-a"].invert) == ("1", False)
    assert match.query["Q"].exact == "x"


def test_a_match_in_the_wrong_place_is_pointed_to() -> None:
    """`prefix` written in the route itself is said to belong in `match`."""
    found = messages_of(with_routes("- methods: [GET]\n  to: api"))
    assert found == ["unknown key 'methods' here; it belongs in 'match'"]

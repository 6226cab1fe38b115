"""What a route answers, where it redirects to, and what it changes."""

from __future__ import annotations

import pytest

from tests.config.texts import messages_of, one_route, with_routes


def said(keys: str, match: str = "{ prefix: /a }") -> list[str]:
    """What is wrong with a route that goes to a cluster and holds `keys`."""
    return messages_of(with_routes(f"- match: {match}\n  to: api\n  {keys}\n"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{ set: { a: b }, add: { A: c }, remove: [d] }", []),
        ("{ set: { host: a } }", ["the Host header is changed by 'host_rewrite'"]),
        (
            "{ add: { Content-Length: '1' } }",
            ["'content-length' frames the message, so the proxy alone sets it"],
        ),
        (
            "{ remove: [Transfer-Encoding, connection] }",
            [
                "'transfer-encoding' frames the message, so the proxy alone sets it",
                "'connection' frames the message, so the proxy alone sets it",
            ],
        ),
        (
            '{ set: { a: "b\\r\\nc" } }',
            [r"a header cannot hold '\r', which is character 2 of this"],
        ),
        ("{ set: { a: 1 } }", ['text is expected, not the number 1; put it in quotes: "1"']),
        ("{ set: { a: b, A: c } }", ["this is the same header as 'a'; case does not matter"]),
        ("{ set: { a: b }, remove: [A] }", ["'A' is set as well, which replaces it anyway"]),
        ("{ remove: a }", ["a list is expected, not the text 'a'; did you mean '[a]'?"]),
    ],
)
def test_header_edits(keys: str, expected: list[str]) -> None:
    """Names and values are checked, and the headers that frame a message are left alone."""
    for which in ("request_headers", "response_headers"):
        assert said(f"{which}: {keys}") == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{ prefix: / }", []),
        ("{ path: /x }", []),
        ("{ regex: '^/(a)', substitution: '/\\1/\\g<1>' }", []),
        ("{ regex: a, substitution: '' }", []),
        ("{ prefix: /, path: /x }", ["'prefix' is there already, and only one of "]),
        ("{ regex: a }", ["'regex' needs 'substitution', which may be empty"]),
        ("{ path: /x, substitution: b }", ["'substitution' does nothing without 'regex'"]),
        ("{ regex: a, substitution: '\\1' }", ["it does not fit 'regex': invalid group refer"]),
        ("{ regex: a, substitution: '\\g<n>' }", ["it does not fit 'regex': unknown group na"]),
        ("{ regex: a, substitution: 'b c' }", ["what goes into a path is written percent-enc"]),
        ("{ regex: a, substitution: 'b?c' }", ["what goes into a path is written percent-enc"]),
        ("{ regex: '(', substitution: '\\1' }", ["not a regular expression: missing )"]),
        ("{ regex: a, substitution: 5 }", ["text is expected, not the number 5"]),
        ("{}", ["one of 'prefix', 'path' and 'regex' is needed"]),
        ("/x", ["a mapping (key: value) is expected, not the text '/x'"]),
    ],
)
def test_rewrites(keys: str, expected: list[str]) -> None:
    """One way of rewriting, and an expression that its substitution fits."""
    found = said(f"rewrite: {keys}")
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_a_prefix_needs_one_that_matched() -> None:
    """A prefix replaces the part that matched, so there must be one."""
    (message,) = said("rewrite: { prefix: / }", match="{ regex: /a }")
    assert message == (
        "rewrite.prefix replaces what match.prefix or match.path matched, and there is neither"
    )
    assert said("rewrite: { prefix: / }", match="{ path: /a }") == []
    (message,) = messages_of(with_routes("- redirect: { prefix: / }"))
    assert message.startswith("redirect.prefix replaces")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{ https: true }", []),
        ("{ strip_query: true, status: 307 }", []),
        ("{ scheme: http, host: 'A.example', port: 81, path: /x }", []),
        ("{ https: true, scheme: http }", ["'https' is there already, and only one of"]),
        ("{ path: /x, prefix: /y }", ["'path' is there already, and only one of"]),
        ("{ status: 302 }", ["nothing is changed, so the client would come back for ever"]),
        ("{ https: false }", ["nothing is changed, so the client would come back for ever"]),
        ("{ path: /x, status: 200 }", ["301, 302, 303, 307 or 308 is expected, not the number"]),
        ("{ scheme: 'https://' }", ["a scheme such as https is expected, not 'https://'; did y"]),
        ("{ host: 'a.example/x' }", ["not the name of a host: 'a.example/x'"]),
        ("{ port: 0 }", ["this must be at least 1, and it is 0"]),
        ("{ path: '/x?y' }", ["a path has no '?'"]),
    ],
)
def test_redirects(keys: str, expected: list[str]) -> None:
    """A redirect leads somewhere else, to a place that can be written in a Location."""
    found = messages_of(with_routes(f"- match: {{ path: /a }}\n  redirect: {keys}"))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{}", []),
        ("{ status: 204 }", []),
        ("{ status: 599, body: x, headers: { A: b } }", []),
        ("{ status: 204, body: x }", ["a response 204 has no body"]),
        ("{ status: 304, body: x }", ["a response 304 has no body"]),
        ("{ status: 100 }", ["this must be at least 200, and it is 100"]),
        ("{ status: 600 }", ["this must be at most 599, and it is 600"]),
        ("{ status: '200' }", ["a whole number is expected; take the quotes off '200'"]),
        ("{ headers: { a: b, A: c } }", ["this is the same header as 'a'; case does not matter"]),
        ("{ headers: { content-length: '1' } }", ["'content-length' frames the message, so the p"]),
        ("{ body: [x] }", ["text is expected, not a list"]),
    ],
)
def test_responses(keys: str, expected: list[str]) -> None:
    """A final status, and a body only where there can be one."""
    found = messages_of(with_routes(f"- respond: {keys}"))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_names_are_in_lower_case() -> None:
    """Headers are compared in lower case everywhere, so they are kept so."""
    route = one_route(
        "- to: api\n  request_headers: { set: { X-A: B }, add: { X-C: D }, remove: [X-E] }"
    )
    assert route.request_headers.set == {"x-a": "B"}
    assert route.request_headers.add == {"x-c": "D"}
    assert route.request_headers.remove == ["x-e"]

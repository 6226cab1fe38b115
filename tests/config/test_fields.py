"""Single values: names, headers, paths, hosts, expressions."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from meshproxy.config import fields
from meshproxy.config.unfit import Unfit


def outcome(kind: Any, value: object) -> object:
    """The value that `kind` makes of `value`, or `Unfit` as its message and suggestion."""
    try:
        return TypeAdapter[Any](kind).validate_python(value, strict=True)
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
    return f"{cause.message} -> {cause.suggestion}" if isinstance(cause, Unfit) else cause


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (fields.HeaderName, "X-Beta", "x-beta"),
        (fields.HeaderName, "x beta", "not the name of a header: 'x beta' -> None"),
        (fields.HeaderName, "X-Beta:", "not the name of a header: 'X-Beta:' -> x-beta"),
        (fields.HeaderName, "", "not the name of a header: '' -> None"),
        (fields.HeaderName, "é", "not the name of a header: 'é' -> None"),
        (fields.HeaderName, ":path", "not the name of a header: ':path' -> None"),
        (fields.HeaderText, "a\tb é", "a\tb é"),
        (fields.HeaderText, "", ""),
        (fields.HeaderText, "a\r\nb: c", r"a header cannot hold '\r', which is character 2 of th"),
        (fields.HeaderText, "a\0", r"a header cannot hold '\x00', which is character 2 of this"),
        (fields.HeaderText, "a ", "a header's value can neither begin nor end with a space"),
        (fields.Truth, True, True),
        (fields.Truth, False, "true is expected, not false; without it leave the key out -> None"),
        (fields.Truth, 1, "true is expected, not 1; without it leave the key out -> None"),
        (fields.TargetAddress, "a b:1", "neither an IP address nor a host name: 'a b' -> None"),
        (fields.Method, "GET", "GET"),
        (fields.Method, "PURGE", "PURGE"),
        (fields.Method, "get", "methods are in capitals, and 'get' is not -> GET"),
        (fields.Method, "DELTE", "not a known method: 'DELTE' -> DELETE"),
        (fields.Method, "GE T", "a word of letters, digits and dashes is expected"),
        (fields.PathText, "/a/%20b", "/a/%20b"),
        (fields.PathText, "a/b", "a path begins with '/', and 'a/b' does not -> /a/b"),
        (fields.PathText, "", "a path begins with '/', and '' does not -> None"),
        (fields.PathText, "/a?b", "a path has no '?': '/a?b' holds a query -> None"),
        (fields.PathText, "/a#b", "a path has no '#': '/a#b' holds a fragment -> None"),
        (fields.PathText, "/a b", "a path is written percent-encoded"),
        (fields.PathText, "/é", "a path is written percent-encoded"),
        (fields.PathText, "*", "a path begins with '/'"),
        (fields.MatchPath, "*", "*"),
        (fields.HostPattern, "A.Example", "a.example"),
        (fields.HostPattern, "*.A.example", "*.a.example"),
        (fields.HostPattern, "*", "*"),
        (fields.HostPattern, "[::1]", "[::1]"),
        (fields.HostPattern, "a.*", "'*' stands alone or as '*.' at the beginning"),
        (fields.HostPattern, "a.example:80", "a host without a port is expected"),
        (fields.HostPattern, "*.a.example:80", "a host without a port is expected, not 'a.ex"),
        (fields.HostPattern, "bücher.example", "not the name of a host: 'bücher.example' -> xn--b"),
        (fields.HostPattern, "http://a", "not the name of a host"),
        (fields.HostPattern, "a..b", "not the name of a host"),
        (fields.HostPattern, "", "not the name of a host"),
        (fields.Authority, "A:8080", "a:8080"),
        (fields.Authority, "a", "a"),
        (fields.Authority, "a:0", "a port is 1 to 65535, unlike that of 'a:0'"),
        (fields.Authority, "a\r\nb", "not the name of a host"),
        (fields.EntryName, "by-name.v2_x", "by-name.v2_x"),
        (fields.EntryName, "a b", "a name is letters"),
        (fields.EntryName, "", "a name is letters"),
        (fields.EntryName, "x" * 129, "a name is letters"),
        (fields.EntryName, 'a"} 1\n', "a name is letters"),
        (fields.Upgrade, "WebSocket", "websocket"),
        (fields.Upgrade, "h2c", "an h2c tunnel would walk past every route"),
        (fields.Regex, "/a+", "/a+"),
        (fields.Regex, "[[a]", "[[a]"),
        (fields.Regex, "(", "not a regular expression: missing ), unterminated subpattern at ch"),
        (fields.Regex, "a**", "not a regular expression: multiple repeat at character 3"),
        (fields.Regex, r"\u00e9", r"not a regular expression: bad escape \u at character 1"),
        (fields.Regex, "(?u)a", "not a regular expression: "),
        (fields.Regex, "a{99999999999}", "not a regular expression: "),
        (fields.Regex, "(" * 3000 + ")" * 3000, "a regular expression is at most 4096"),
        (fields.Regex, "(" * 2000 + ")" * 2000, "not a regular expression: "),
        (fields.Keepalive, True, True),
        (fields.Keepalive, False, False),
        (fields.Keepalive, "30s", 30.0),
        (fields.Keepalive, "1s", 1.0),
        (fields.Keepalive, "500ms", "keepalive's duration is from 1s to 32767s"),
        (fields.Keepalive, 30, "true, false or a duration such as 30s is expected, not 30 -> 30s"),
        (fields.Keepalive, "yes", "true, false or a duration such as 30s is expected"),
        (fields.PositiveDuration, "0", "this duration cannot be 0"),
        (fields.PositiveDuration, "1ms", 0.001),
        (fields.Weights, "api", {"api": 1}),
        (fields.Weights, {"a": 1, "b": 9}, {"a": 1, "b": 9}),
    ],
)
def test_values(kind: object, value: object, expected: object) -> None:
    """Each value is made canonical, or refused in words with what was meant."""
    found = outcome(kind, value)
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert found.startswith(expected)
    else:
        assert (type(found), found) == (type(expected), expected)


@given(st.one_of(st.text(), st.from_regex(r"[()\[\]{}|?*+^$\\a-z0-9<>=!:-]{0,20}")))
def test_an_accepted_expression_compiles(text: str) -> None:
    """What is accepted compiles as bytes where it is used; nothing else is raised."""
    try:
        fields.check_regex(text)
    except Unfit:
        return
    re.compile(text.encode())


@given(st.text())
def test_an_accepted_header_cannot_split_a_message(text: str) -> None:
    """No accepted name or value holds what ends a line or a header."""
    for kind in (fields.HeaderName, fields.HeaderText, fields.Authority, fields.PathText):
        try:
            value = TypeAdapter[str](kind).validate_python(text, strict=True)
        except ValidationError:
            continue
        assert not {*value} & {"\r", "\n", "\0"}
        value.encode()

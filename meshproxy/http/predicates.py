"""
What a route asks of a request beside its path: methods, headers, query.

The law: everything is compiled once; a request costs one call for each condition, and a route
without conditions costs nothing (its predicate is None).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from meshproxy.config import Match, StringMatch
    from meshproxy.http.exchange import Exchange

Predicate = Callable[["Exchange"], bool]
Test = Callable[[bytes | None], bool]


def compile_test(wanted: str | StringMatch) -> Test:
    """A test of one value; None stands for an absent one. A plain string must be equal."""
    if isinstance(wanted, str):
        exact = wanted.encode()
        return lambda value: value == exact
    test: Test
    if wanted.exact is not None:
        exact = wanted.exact.encode()

        def test(value: bytes | None) -> bool:
            return value == exact

    elif wanted.prefix is not None:
        prefix = wanted.prefix.encode()

        def test(value: bytes | None) -> bool:
            return value is not None and value.startswith(prefix)

    elif wanted.suffix is not None:
        suffix = wanted.suffix.encode()

        def test(value: bytes | None) -> bool:
            return value is not None and value.endswith(suffix)

    elif wanted.contains is not None:
        part = wanted.contains.encode()

        def test(value: bytes | None) -> bool:
            return value is not None and part in value

    elif wanted.regex is not None:
        fullmatch = re.compile(wanted.regex.encode()).fullmatch

        def test(value: bytes | None) -> bool:
            return value is not None and fullmatch(value) is not None

    else:
        present = bool(wanted.present)

        def test(value: bytes | None) -> bool:
            return (value is not None) is present

    if wanted.invert:
        return lambda value: not test(value)
    return test


def query_value(target: bytes, name: bytes) -> bytes | None:
    """The first value of a query parameter, percent-decoded; None when it is absent."""
    query = target.partition(b"?")[2]
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if unquote_to_bytes(key.replace(b"+", b" ")) == name:
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None


def _header(name: bytes, test: Test) -> Predicate:
    if name == b"host":
        return lambda exchange: test(exchange.authority)
    return lambda exchange: test(exchange.request_headers.get(name))


def _query(name: bytes, test: Test) -> Predicate:
    return lambda exchange: test(query_value(exchange.target, name))


def compile_predicate(match: Match) -> Predicate | None:
    """The conditions of ``match`` beside its path as one function, or None without any."""
    conditions: list[Predicate] = []
    if match.methods:
        methods = frozenset(method.upper().encode() for method in match.methods)
        conditions.append(lambda exchange: exchange.method in methods)
    for name, wanted in match.headers.items():
        conditions.append(_header(name.lower().encode(), compile_test(wanted)))
    for name, wanted in match.query.items():
        conditions.append(_query(name.encode(), compile_test(wanted)))
    if not conditions:
        return None
    if len(conditions) == 1:
        return conditions[0]
    return lambda exchange: all(condition(exchange) for condition in conditions)

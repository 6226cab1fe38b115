"""
Which requests a filter applies to: the option ``match``, compiled to one test.

The law it keeps: all that is written must hold; nothing is compiled for a request, and without
the option there is no test at all (None).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from meshproxy.api import Field, HeaderName, Method, Options, StringMatch, ValueMatch, string_test

__all__ = ["Applies", "Test", "compile_applies"]

Test = Callable[[Any], bool]


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


_Texts = Annotated[
    list[ValueMatch],
    BeforeValidator(_several, json_schema_input_type=str | StringMatch | list[str | StringMatch]),
]


class Applies(Options):
    """Which requests it is about; all that is written must hold, the rest goes by untouched."""

    one_or_several: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: _Texts = Field(
        default=[],
        description="The path without the query, one of these: text for the whole, or a mapping "
        "such as `{prefix: /api/}`.",
    )
    methods: list[Method] = Field(default=[], description="The method, one of these.")
    headers: dict[HeaderName, ValueMatch] = Field(
        default={}, description="What headers must be: text for the whole value, or a mapping."
    )


def compile_applies(match: Applies | None) -> Test | None:
    """The test of ``match``, or None where every request passes it."""
    if match is None:
        return None
    tests: list[Test] = []
    if match.methods:
        methods = frozenset(method.encode() for method in match.methods)
        tests.append(lambda exchange: exchange.request.method in methods)
    if match.paths:
        paths = tuple(map(string_test, match.paths))

        def path(exchange: Any) -> bool:
            held = exchange.request.path
            return any(test(held) for test in paths)

        tests.append(path)
    for name, wanted in match.headers.items():
        tests.append(_header(name.encode(), string_test(wanted)))
    if len(tests) <= 1:
        return tests[0] if tests else None
    return lambda exchange: all(test(exchange) for test in tests)


def _header(name: bytes, test: Callable[[bytes | None], bool]) -> Test:
    if name == b"host":  # it is not among the others
        return lambda exchange: test(exchange.request.authority)
    return lambda exchange: test(exchange.request.headers.get(name))

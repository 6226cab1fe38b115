"""
Tests of values, as :class:`~meshproxy.config.match.StringMatch` describes them.

The law: a test is compiled once, and costs one call for each value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.config.match import StringMatch

__all__ = ["Test", "compile_test"]

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

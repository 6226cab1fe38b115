"""Tests of values."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config.compare import compile_test
from meshproxy.config.match import StringMatch


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        ("v1", [b"v1"], [b"v", b"v11", b"V1", b"", None]),
        ({"exact": "v1"}, [b"v1"], [b"v2", None]),
        ({"prefix": "ab"}, [b"ab", b"abc"], [b"a", b"xab", None]),
        ({"suffix": "yz"}, [b"yz", b"xyz"], [b"z", b"yzx", None]),
        ({"contains": "mid"}, [b"amidst", b"mid"], [b"m", None]),
        ({"regex": "[0-9]+"}, [b"12"], [b"12a", b"", None]),
        ({"present": True}, [b"", b"x"], [None]),
        ({"present": False}, [None], [b"", b"x"]),
        ({"exact": "v1", "invert": True}, [b"v2", None], [b"v1"]),
        ({"prefix": "ab", "invert": True}, [b"x", None], [b"abc"]),
    ],
)
def test_tests_of_a_value(wanted: Any, good: list[Any], bad: list[Any]) -> None:
    """Every kind of test, with None for a value that is not there."""
    test = compile_test(wanted if isinstance(wanted, str) else StringMatch.model_validate(wanted))
    assert [value for value in good if not test(value)] == []
    assert [value for value in bad if test(value)] == []

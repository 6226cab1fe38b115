"""Mistakes of YAML's syntax, in words for a newcomer, at the right place."""

from __future__ import annotations

import pytest

from meshproxy.config.reader import read
from meshproxy.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: b\n\tc: d\n", "2:1: a tab cannot begin a line or a value in YAML; use spaces"),
        ("a: @x", "1:4: a value cannot begin with '@'; put it in quotes"),
        ("a: `x`", "1:4: a value cannot begin with '`'; put it in quotes"),
        ("a: %x", "1:4: a value cannot begin with '%'; put it in quotes"),
        ("a: 'x\nb: y\n", "1:4: this quote is never closed"),
        ("a: [1, 2\n", "2:1: the text ends here, inside what begins in line 1"),
        ("a: [1\nb: 2\n", "2:2: ',' or ']' is expected in the list that begins in line 1"),
        ("a: {b: 1\nc: 2", "2:2: ',' or '}' is expected in the mapping that begins in line 1"),
        ("a: {b: 1, ?", "1:12: the text ends here, inside what begins in line 1"),
        ("a: [::1]:80", "1:9: nothing can follow the closing ] here; quote a whole value such as"),
        ("{a: [::1]:80}", "1:10: nothing can follow the closing ] here"),
        ("a: {b: 1}}", "1:10: nothing can follow the closing } here"),
        ('a: "x" y', '1:8: nothing can follow the closing " here'),
        ("a: [*]", "1:6: a value that begins with '*' goes in quotes"),
        ("a: [b, ,]", "1:8: "),
        ("a: b: c", "1:5: this ':' cannot be here"),
        ("a:\n  b: 1\n c: 2", "3:2: this does not belong to what is above it"),
        ("- a\nb: c", "2:1: this does not belong to what is above it"),
        ("a: 1\nbcd\ne: 2", "2:1: a ':' and a value are missing after this key"),
        ('a: "\\d"', "1:6: no such escape in double quotes"),
        ("a: \x01", "1:4: the character U+0001 cannot be in YAML"),
        ("a: 1\nb: \x07", "2:4: the character U+0007 cannot be in YAML"),
        ('"\\UFFFFFFFF": 1', "1:1: not valid YAML: an escape such as \\U names no character"),
        ("a: ]", "1:4: "),
    ],
)
def test_what_is_said(text: str, complaint: str) -> None:
    """Each common mistake has its own words and its own place."""
    with pytest.raises(ConfigError) as caught:
        read(text, "f")
    assert str(caught.value.problems[-1]).removeprefix("f:").startswith(complaint)

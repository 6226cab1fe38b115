"""The access log's settings."""

from __future__ import annotations

import pytest

from tests.config.texts import messages_of, with_routes


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("{ path: '-' }", []),
        ("{ path: /var/log/a.log, format: json }", []),
        ("{ path: '-', format: '100%% %REQ(A?B):5% %START_TIME(%s)% %PROTOCOL%' }", []),
        ("{ format: json }", ["one of 'path' and 'plugin' is needed"]),
        ("'-'", ["a mapping (key: value) is expected, not the text '-'"]),
        ("{ path: '' }", ["the path of a file is needed, or '-' for standard output"]),
        ("{ path: /var/log/ }", ["a file is needed, and '/var/log/' is a directory"]),
        ("{ path: '-', format: jsn }", ["text, json or a line with %OPERATORS% is expected, not"]),
        ("{ path: '-', format: JSON }", ["text, json or a line with %OPERATORS% is expected, n"]),
        ("{ path: '-', format: '' }", ["text, json or a line with %OPERATORS% is expected"]),
        ("{ path: '-', format: 'a %PROTOCOL' }", ["the '%' at character 3 begins no operator"]),
        ("{ path: '-', format: '%REQ(a%' }", ["the '%' at character 1 begins no operator"]),
        ("{ path: '-', format: '%protocol%' }", ["the '%' at character 1 begins no operator"]),
        ("{ path: '-', format: '%PROTOCOL% 100%' }", ["the '%' at character 15 begins no operat"]),
        ("{ path: '-', rotate: daily }", ["'rotate' is not supported by this version"]),
    ],
)
def test_access_logs(log: str, expected: list[str]) -> None:
    """A place for the lines, and a format whose percent signs all belong to something."""
    found = messages_of(with_routes("- to: api", f"access_log: {log}\n"))
    assert len(found) == len(expected)
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)

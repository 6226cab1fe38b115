"""Which options of ``quota`` make sense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.filters._quota_options import QuotaOptions


@pytest.mark.parametrize(
    "options",
    [
        {"requests": 1000},
        {"bytes": "10GiB", "per": "month", "zone": "Europe/Berlin", "file": "quota.db"},
        {"requests": 0, "by": {"claim": "sub"}, "allowances": {"alice": 1000}},
        {"requests": 5, "file": "q", "flush": "5s"},
    ],
)
def test_what_is_taken(options: dict[str, Any]) -> None:
    """These say something that can be done."""
    QuotaOptions.model_validate(options)


def test_bytes_are_sizes() -> None:
    """Allowances of bytes may be written with a unit, the named ones too."""
    options = QuotaOptions.model_validate({"bytes": "1KiB", "allowances": {"a": "2MiB"}})
    assert (options.bytes, options.allowances) == (1024, {"a": 2 << 20})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "'requests' and 'bytes' is needed"),
        ({"requests": 1, "bytes": 1}, "is there already"),
        ({"requests": -1}, "greater than or equal to 0"),
        ({"requests": 1, "per": "year"}, "'hour', 'day', 'week' or 'month'"),
        ({"requests": 1, "zone": "Mars/Olympus"}, "no time zone"),
        ({"requests": 1, "by": ["route", "method"], "allowances": {"a": 1}}, "has several"),
        ({"requests": 1, "headers": "off", "on_allowed": True}, "does nothing"),
        ({"requests": 1, "flush": "5s"}, "does nothing without 'file'"),
        ({"requests": 1, "keys": 0}, "greater than or equal to 1"),
        ({"requests": 1, "file": ""}, "at least 1 character"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    """What does nothing or cannot be is told in words."""
    with pytest.raises(ValidationError, match=said):
        QuotaOptions.model_validate(options)

"""Which options of ``rate_limit`` make sense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.filters._rate_limit_options import Cost, Limit, RateLimitOptions


@pytest.mark.parametrize(
    "options",
    [
        {"requests": 5},
        {"requests": 100, "per": "1m30s", "burst": 7, "by": ["client_ip", {"header": "x"}]},
        {"requests": 5, "cost": 5},
        {"requests": 100, "cost": {"header": "x-cost"}},
        {"limits": [{"requests": 5}, {"requests": 100, "per": "1h", "name": "hour"}]},
        {"requests": 5, "match": {"paths": "/login"}, "status": 503, "body": "slow down"},
    ],
)
def test_what_is_taken(options: dict[str, Any]) -> None:
    """These say something that can be done."""
    RateLimitOptions.model_validate(options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "'requests' and 'limits' is needed"),
        ({"requests": 0}, "greater than or equal to 1"),
        ({"requests": 1, "per": 0}, "cannot be 0"),
        ({"requests": 1, "limits": [{"requests": 1}]}, "is there already"),
        ({"limits": []}, "at least 1"),
        ({"limits": [{"requests": 1}], "by": "route"}, "it belongs in 'limits'"),
        ({"limits": [{"requests": 1}], "burst": 1}, "it belongs in 'limits'"),
        ({"limits": [{"requests": 1, "name": "a"}, {"requests": 2, "name": "a"}]}, "two limits"),
        ({"limits": [{"requests": 1, "name": "limit-2"}, {"requests": 2}]}, "two limits"),
        ({"limits": [{"requests": 1, "name": 'a"'}]}, "pattern"),
        ({"requests": 5, "cost": 6}, "no bucket of 5 can ever give"),
        ({"requests": 5, "burst": 2, "cost": 3}, "no bucket of 2"),
        ({"requests": 5, "cost": {"header": "x-cost"}}, "no bucket of 5"),
        ({"requests": 5, "cost": {"header": "x-cost", "max": 6}}, "may cost 6"),
        ({"limits": [{"requests": 9}, {"requests": 5}], "cost": 6}, "no bucket of 5"),
        ({"requests": 9, "cost": {"fixed": 2, "max": 3}}, "'max' does nothing"),
        ({"requests": 9, "cost": {"header": "x", "max": 3, "default": 4}}, "more than 'max'"),
        ({"requests": 9, "headers": "off", "on_allowed": True}, "does nothing"),
        ({"requests": 9, "status": 200}, "greater than or equal to 400"),
        ({"requests": 9, "colour": "red"}, "Extra inputs"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    """What does nothing, or no request could pass, is told in words."""
    with pytest.raises(ValidationError, match=said):
        RateLimitOptions.model_validate(options)


def test_built_in_python() -> None:
    """Sections made in Python are judged likewise."""
    with pytest.raises(ValidationError, match="no bucket of 5"):
        RateLimitOptions(limits=[Limit(requests=5)], cost=Cost(fixed=6))
    RateLimitOptions(limits=[Limit(requests=6)], cost=Cost(fixed=6))

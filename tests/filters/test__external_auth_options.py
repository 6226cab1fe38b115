"""Which options of external_auth go together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.filters._external_auth_options import ExternalAuthOptions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "auth.example"},
        {"url": "ftp://auth.example"},
        {"url": "http://auth.example/a b"},
        {"headers": ["host"]},
        {"headers": ["X-Forwarded-For"]},
        {"headers": ["x_forwarded_for"]},
        {"request_headers": ["content-length"]},
        {"request_headers": ["x-forwarded-for"]},
        {"response_headers": ["transfer-encoding"]},
        {"client_headers": ["connection"]},
        {"max_body": "1KiB"},
        {"max_body": "1KiB", "method": "POST", "cache": {"ttl": "1s"}},
        {"cache": {"ttl": "1s"}, "response_headers": ["Set-Cookie"]},
        {"cache": {}},
        {"status_on_error": 200},
        {"fail": "maybe"},
        {"concurrency": 0},
    ],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    """No service, headers that frame a message, a body with GET, decisions that leak."""
    if options:
        options = {"url": "http://auth.example/", **options}
    with pytest.raises(ValidationError):
        ExternalAuthOptions.model_validate(options)


def test_the_least() -> None:
    """A url is enough."""
    assert ExternalAuthOptions(url="http://127.0.0.1:9000/auth?x=1").fail == "closed"

"""Which options of jwt go together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.filters._jwt_options import JwtOptions
from tests.filters.tokens import jwk, jwks


def made(provider: dict[str, Any], **more: Any) -> JwtOptions:
    """Options with this provider."""
    return JwtOptions.model_validate({"providers": {"p": provider}, **more})


GOOD: dict[str, Any] = {"jwks_file": "keys.json"}


@pytest.mark.parametrize(
    "provider",
    [
        {},
        {"jwks_file": "a", "secret_file": "b"},
        {**GOOD, "algorithms": ["none"]},
        {**GOOD, "algorithms": ["None"]},
        {**GOOD, "algorithms": []},
        {"public_key_file": "a", "algorithms": ["HS256"]},
        {"secret_file": "a", "algorithms": ["RS256"]},
        {**GOOD, "refresh": "1m"},
        {**GOOD, "unavailable": 401},
        {"jwks": {}},
        {"jwks": jwks()},
        {"jwks": jwks({"kty": "RSA"})},
        {"jwks": jwks(jwk()), "algorithms": ["HS256"]},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "https://a b"},
        {**GOOD, "claims": {"a": []}},
        {**GOOD, "claims": {"a": {"b": 1}}},
        {**GOOD, "audience": "x"},
    ],
)
def test_providers_that_are_refused(provider: dict[str, Any]) -> None:
    """No keys, two sources, `none`, a secret's algorithm for public keys, idle options."""
    with pytest.raises(ValidationError):
        made(provider)


@pytest.mark.parametrize(
    "more",
    [
        {"claims_to_headers": {"host": "sub"}},
        {"claims_to_headers": {"x-a": "sub", "X-A": "iss"}},
        {"claims_to_headers": {"x-a": {"claim": "sub", "encoding": "rot13"}}},
        {"look_in": []},
        {"providers": {}},
        {"providers": {"a b": GOOD}},
    ],
)
def test_filters_that_are_refused(more: dict[str, Any]) -> None:
    """Headers that frame a message or come twice, nowhere to look, nobody to trust."""
    with pytest.raises(ValidationError):
        JwtOptions.model_validate({"providers": {"p": GOOD}, **more})


def test_short_forms() -> None:
    """One audience, one value, one claim need no list and no mapping."""
    options = made(
        {**GOOD, "audiences": "shop", "claims": {"role": "admin"}},
        claims_to_headers={"X-User": "sub"},
    )
    provider = options.providers["p"]
    assert provider.audiences == ["shop"]
    assert provider.claims == {"role": ["admin"]}
    assert options.claims_to_headers["x-user"].claim == "sub"


def test_inline_keys_are_in_no_repr() -> None:
    """A set may hold a secret."""
    secret = jwk("secret")
    assert secret["k"] not in repr(made({"jwks": jwks(secret)}))

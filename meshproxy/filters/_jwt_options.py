"""
The options of the filter ``jwt``.

The law it keeps: a provider says what it trusts: where its keys are and, where that is not plain
from the keys, which algorithms they are for. ``none`` cannot be written, and a secret's algorithm
cannot be written beside public keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from meshproxy.api import (
    Duration,
    Field,
    HeaderName,
    HeaderText,
    Options,
    PositiveDuration,
    Size,
    Unfit,
)
from meshproxy.filters._jwt_keys import SYMMETRIC, AlgorithmName, KeySet, read_jwks
from meshproxy.filters._own_headers import no_framing
from meshproxy.filters._places import LookIn, Place
from meshproxy.filters._web_body import HttpUrl

__all__ = ["ClaimHeader", "JwtOptions", "ProviderOptions"]

Scalar = str | bool | int | float
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


_Wanted = Annotated[
    list[Scalar],
    Field(min_length=1),
    BeforeValidator(_several, json_schema_input_type=Scalar | list[Scalar]),
]


class ClaimHeader(Options):
    """A claim as a header. The claim's name alone stands for `{claim: NAME}`."""

    shorthand: ClassVar[str] = "claim"

    claim: str = Field(
        min_length=1, description="The claim; `realm_access.roles` is one inside another."
    )
    encoding: Literal["text", "percent", "base64url"] = Field(
        default="text",
        description="`text`: as it is, and a token whose claim is not plain ASCII text is refused; "
        "`percent`: UTF-8, percent-encoded; `base64url`: UTF-8 in base64url, without padding. "
        "Lists and mappings are written as JSON first.",
    )


def _claim(value: Any) -> Any:
    return {"claim": value} if isinstance(value, str) else value


_ClaimHeader = Annotated[
    ClaimHeader, BeforeValidator(_claim, json_schema_input_type=str | ClaimHeader)
]


class ProviderOptions(Options):
    """Somebody whose tokens are trusted."""

    exactly_one: ClassVar[tuple[str, ...]] = (
        "jwks",
        "jwks_file",
        "jwks_url",
        "public_key_file",
        "secret_file",
    )
    one_or_several: ClassVar[frozenset[str]] = frozenset({"audiences"})

    issuer: str | None = Field(
        default=None,
        min_length=1,
        description="What `iss` must be; without it, tokens of every issuer are tried with these "
        "keys.",
    )
    audiences: Annotated[
        list[str], BeforeValidator(_several, json_schema_input_type=str | list[str])
    ] = Field(
        default=[],
        description="`aud` must be, or have, one of these; without it, `aud` is not looked at.",
    )
    algorithms: list[AlgorithmName] | None = Field(
        default=None,
        min_length=1,
        description="The algorithms that are taken; without it, those that the keys are for. "
        "`none` never is.",
    )
    jwks: dict[str, Any] | None = Field(
        default=None, repr=False, description="The keys: a JWK set (RFC 7517)."
    )
    jwks_file: str | None = Field(
        default=None,
        min_length=1,
        description="A file with a JWK set, relative to the configuration's; read again when it "
        "changes.",
    )
    jwks_url: HttpUrl | None = Field(
        default=None,
        description="Where the JWK set is published. It is asked for at the start, before it is "
        "too old, and when a token names a key that is not in it.",
    )
    public_key_file: str | None = Field(
        default=None,
        min_length=1,
        description="A PEM file of public keys or certificates; read again when it changes.",
    )
    secret_file: str | None = Field(
        default=None,
        min_length=1,
        description="A file whose content is the secret of HS256, HS384 and HS512, at least 32 "
        "bytes; read again when it changes. The end of its last line does not belong to it.",
    )
    refresh: PositiveDuration = Field(
        default=600.0,
        description="How old keys of `jwks_url` may be, where the answer has no `max-age`.",
    )
    cooldown: PositiveDuration = Field(
        default=30.0, description="The shortest time between two requests to `jwks_url`."
    )
    timeout: PositiveDuration = Field(
        default=5.0, description="How long `jwks_url` may take to answer."
    )
    unavailable: Literal[401, 503] = Field(
        default=503,
        description="The status while `jwks_url` has never answered with keys.",
    )
    leeway: Duration = Field(
        default=60.0, description="How far clocks may be apart, where times are compared."
    )
    require_expiry: bool = Field(
        default=True, description="Refuse tokens without `exp`, which are good for ever."
    )
    claims: dict[str, _Wanted] = Field(
        default={},
        description="Claims that a token must have: a value, or a list of which one is enough; "
        "where the claim is a list, one of its values. `realm_access.roles` is inside another.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield algorithms that do not go with the keys, inline keys that are none, idle keys."""
        yield from super().faults(given)
        listed = given.get("algorithms")
        names = listed if isinstance(listed, list) else []
        for index, name in enumerate(names):
            if "public_key_file" in given and name in SYMMETRIC:
                yield Unfit(
                    f"{name} wants a secret, and a public key is none", at=("algorithms", index)
                )
            elif "secret_file" in given and isinstance(name, str) and name not in SYMMETRIC:
                yield Unfit(f"{name} wants a public key, not a secret", at=("algorithms", index))
        for key in ("refresh", "cooldown", "timeout", "unavailable"):
            if key in given and "jwks_url" not in given:
                yield Unfit(f"'{key}' does nothing without 'jwks_url'", at=(key,))
        if isinstance(given.get("jwks"), Mapping):
            try:
                KeySet(read_jwks(given["jwks"]), [n for n in names if isinstance(n, str)] or None)
            except ValueError as error:
                yield Unfit(str(error), at=("jwks",))


class JwtOptions(Options):
    """Whose tokens are taken, where they are, and what is made of their claims."""

    providers: dict[_Name, ProviderOptions] = Field(
        min_length=1,
        description="Who is trusted, by a name. A token is tried with those whose `issuer` it "
        "names, and with those that have none, in this order.",
    )
    look_in: LookIn = Field(
        default=[Place(bearer=True)],
        description="Where the token is looked for, in this order: `bearer`, `{header: NAME}`, "
        "`{cookie: NAME}` or `{parameter: NAME}` of the query.",
    )
    optional: bool = Field(
        default=False,
        description="Let requests without a token pass; one that is no good is refused all the "
        "same.",
    )
    forward: bool = Field(
        default=False, description="Send the token on, instead of taking it out of the request."
    )
    claims_to_headers: dict[HeaderName, _ClaimHeader] = Field(
        default={},
        description="Headers that tell the upstream claims: `{x-user: sub}`. A client's own are "
        "removed, also where the claim or the token is missing.",
    )
    metadata: list[str] | None = Field(
        default=None,
        description="The claims that are in the metadata as `jwt.CLAIM`; without it, all of the "
        "first level.",
    )
    realm: HeaderText = Field(
        default="api", description="What the `www-authenticate` of a 401 calls this place."
    )
    max_token: Size = Field(default=8192, description="The longest token that is looked at.")
    remembered: int = Field(
        default=1000,
        ge=0,
        le=100000,
        description="How many tokens are remembered, so that their signature is verified once.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield headers that cannot be set, and headers of one name."""
        yield from super().faults(given)
        headers = given.get("claims_to_headers")
        names = list(headers) if isinstance(headers, Mapping) else []
        yield from no_framing(names, "claims_to_headers")
        seen: set[str] = set()
        for name in names:
            if isinstance(name, str):
                if name.lower() in seen:
                    yield Unfit("this header is there already", at=("claims_to_headers", name))
                seen.add(name.lower())

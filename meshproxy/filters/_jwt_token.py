"""
A JSON Web Token, taken apart (RFC 7515, RFC 7519).

The law it keeps: a token is measured before it is looked at, and what it says of itself is believed
only when its signature was verified; everything wrong with it has one of the reasons below, and no
reason holds a part of it.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["REASONS", "Refused", "Token", "check_times", "claim_of", "has_audience", "holds"]

REASONS: dict[str, str] = {
    "missing": "Jwt is missing",
    "ambiguous": "more than one Jwt",
    "too_long": "Jwt is too long",
    "malformed": "Jwt is not in the form of Header.Payload.Signature",
    "critical": "Jwt has a critical header that is not known",
    "issuer": "Jwt issuer is not configured",
    "algorithm": "Jwt algorithm is not allowed",
    "unknown_key": "Jwks doesn't have key to match kid or alg from Jwt",
    "wrong_signature": "Jwt verification fails",
    "expired": "Jwt is expired",
    "no_expiry": "Jwt has no expiry",
    "not_yet_valid": "Jwt not yet valid",
    "audience": "Audiences in Jwt are not allowed",
    "claim": "Jwt has not the claims that are needed",
    "header": "a claim of the Jwt cannot be sent as a header",
    "unavailable": "Jwks remote fetch is failed",
}
"""Why a token is refused: the end of ``details``, and the text of the answer."""

_FORM = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_LONGEST_KID = 1024


_VAGUE = ("issuer", "algorithm", "unknown_key", "wrong_signature", "unavailable")


class Refused(Exception):
    """A token is no good; ``reason`` is one of :data:`REASONS`, ``status`` that of the answer."""

    def __init__(self, reason: str, status: int = 401) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status

    def or_rather(self, other: Refused) -> Refused:
        """Of two refusals by two providers the one that says more; this one if both do."""
        return other if _rank(other.reason) > _rank(self.reason) else self


def _rank(reason: str) -> int:
    return _VAGUE.index(reason) if reason in _VAGUE else len(_VAGUE)


class Token:
    """
    A token that has the form of one. Nothing of it is verified.

    Raises :class:`Refused`.
    """

    __slots__ = ("algorithm", "claims", "kid", "signature", "signed")

    def __init__(self, text: bytes, longest: int) -> None:
        if len(text) > longest:
            raise Refused("too_long")
        found = _FORM.fullmatch(text)
        if found is None:
            raise Refused("malformed")
        header = _mapping(found[1])
        self.claims = _mapping(found[2])
        self.signature = _decoded(found[3])
        self.signed = text[: found.end(2)]
        if "crit" in header:
            raise Refused("critical")
        algorithm = header.get("alg")
        kid = header.get("kid")
        if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
            raise Refused("malformed")
        if kid is not None and len(kid) > _LONGEST_KID:
            raise Refused("malformed")
        self.algorithm = algorithm
        self.kid = kid

    def __repr__(self) -> str:
        return "<Token>"


def _decoded(part: bytes) -> bytes:
    try:
        padded = part.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(part) % 4)
        return binascii.a2b_base64(padded, strict_mode=True)
    except binascii.Error:
        raise Refused("malformed") from None


def _mapping(part: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_decoded(part), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Refused("malformed") from None
    if not isinstance(value, dict):
        raise Refused("malformed")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name comes twice")
    return made


def claim_of(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name, or, by its dots, one inside another; None where there is none."""
    if path in claims:
        return claims[path]
    held: Any = claims
    for name in path.split("."):
        if not isinstance(held, dict):
            return None
        held = held.get(name)
    return held


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("malformed")
    try:
        seconds = float(value)
    except OverflowError:
        raise Refused("malformed") from None
    if not math.isfinite(seconds):
        raise Refused("malformed")
    return seconds


def check_times(
    claims: Mapping[str, Any], now: float, leeway: float, require_expiry: bool
) -> float:
    """
    The time at which the token ends, in seconds since 1970; infinite for one that never does.

    Raises :class:`Refused` for one that has ended or not begun, ``leeway`` seconds granted.
    """
    expiry = _time(claims, "exp")
    begin = _time(claims, "nbf")
    if expiry is None:
        if require_expiry:
            raise Refused("no_expiry")
        end = math.inf
    else:
        end = expiry + leeway
    if now >= end:
        raise Refused("expired")
    if begin is not None and now < begin - leeway:
        raise Refused("not_yet_valid")
    return end


def has_audience(claims: Mapping[str, Any], audiences: Collection[str]) -> bool:
    """Whether the token is for one of these."""
    held = claims.get("aud")
    if isinstance(held, str):
        return held in audiences
    return isinstance(held, list) and any(isinstance(one, str) and one in audiences for one in held)


def holds(claim: Any, wanted: Collection[Any]) -> bool:
    """Whether a claim is one of ``wanted``, or a list that has one of them. True is not 1."""
    values = claim if isinstance(claim, list) else (claim,)
    return any(_equal(value, one) for value in values for one in wanted)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)

"""What has the form of a token, and what its claims come to."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._jwt_token import (
    REASONS,
    Refused,
    Token,
    check_times,
    claim_of,
    has_audience,
    holds,
)
from tests.filters.tokens import b64, token


def reason_of(text: bytes, longest: int = 8192) -> str:
    """Why a token is refused."""
    with pytest.raises(Refused) as raised:
        Token(text, longest)
    return raised.value.reason


def test_a_token_is_taken_apart() -> None:
    """Header, claims, signature and what is signed."""
    text = token()
    found = Token(text, 8192)
    assert (found.algorithm, found.kid, found.claims["sub"]) == ("RS256", "k1", "ann")
    assert text == found.signed + b"." + b64(found.signature)
    assert repr(found) == "<Token>"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"..",
        b"a.b",
        b"a.b.c.d",
        b"a.b.c.d.e",
        b"e30.e30.AA==",
        b"e30.e30.AAAAA",
        b"e30.e30.",
        b" " + token(),
        token() + b"\n",
        token(header=b"[]"),
        token(header=b"nonsense"),
        token(header=b"\xff"),
        token(header={"alg": 1}),
        token(header={"alg": "RS256", "kid": {"a": 1}}),
        token(header={"alg": "RS256", "kid": "x" * 2000}),
        token(header=b'{"alg":"none","alg":"RS256"}'),
        token(claims=b"[]"),
        token(claims=b"[" * 3000),
        token(header=b'{"a":' * 1000),
        token(claims=b'{"sub":"ann","sub":"root"}'),
        token(claims=b'{"exp":' + b"9" * 5000 + b"}"),
    ],
)
def test_what_is_no_token(text: bytes) -> None:
    """Cut short, not base64url, not JSON, nested to the sky, names that come twice."""
    assert reason_of(text) == "malformed"


def test_long_tokens_and_critical_headers() -> None:
    """A token is measured before it is looked at; extensions that must be known are not."""
    assert reason_of(b"." * 101, 100) == "too_long"
    header = {"alg": "RS256", "crit": ["b64"], "b64": False}
    assert reason_of(token(header=header)) == "critical"
    assert reason_of(token(header={"alg": "RS256", "crit": []})) == "critical"


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes(header: bytes, claims: bytes, signature: bytes) -> None:
    """Whatever comes is refused, and raises nothing else."""
    for text in (header, header + b"." + claims + b"." + signature):
        reason_of(text)
    reason_of(b".".join(map(b64, (header, claims, signature))))


def test_times() -> None:
    """exp ends and nbf begins a token, each with leeway."""
    assert check_times({"exp": 100}, 99, 0, True) == 100
    assert check_times({"exp": 100}, 105, 10, True) == 110
    assert check_times({}, 5, 0, False) == math.inf
    assert check_times({"nbf": 10.5, "exp": 20}, 10.5, 0, True) == 20
    for claims, reason in (
        ({"exp": 100}, "expired"),
        ({"nbf": 121, "exp": 200}, "not_yet_valid"),
        ({}, "no_expiry"),
        ({"exp": None}, "no_expiry"),
        ({"exp": True}, "malformed"),
        ({"exp": "200"}, "malformed"),
        ({"exp": math.nan}, "malformed"),
        ({"exp": math.inf}, "malformed"),
        ({"exp": 10**400}, "malformed"),
        ({"exp": 200, "nbf": "0"}, "malformed"),
        ({"exp": [200]}, "malformed"),
    ):
        with pytest.raises(Refused) as raised:
            check_times(claims, 110, 10, True)
        assert raised.value.reason == reason, claims


@pytest.mark.parametrize(
    ("aud", "ok"),
    [
        ("shop", True),
        (["x", "shop"], True),
        ("shop2", False),
        ("", False),
        ([], False),
        ([["shop"]], False),
        ({"shop": 1}, False),
        (None, False),
        (1, False),
    ],
)
def test_audiences(aud: Any, ok: bool) -> None:
    """aud is a text or a list of texts that has one of the audiences, whole."""
    assert has_audience({"aud": aud}, {"shop"}) is ok


def test_claims_by_their_way() -> None:
    """A claim's whole name comes before a way through others."""
    claims = {"a": {"b": {"c": 1}}, "https://x.example/role": "r", "a.b": 2}
    assert claim_of(claims, "a.b.c") == 1
    assert claim_of(claims, "https://x.example/role") == "r"
    assert claim_of(claims, "a.b") == 2
    assert claim_of(claims, "a.x") is None
    assert claim_of(claims, "a.b.c.d") is None


def test_required_values() -> None:
    """A claim is one of the values, or a list with one; true is not 1, text not a number."""
    assert holds("a", ["a", "b"])
    assert holds(["x", "b"], ["a", "b"])
    assert holds(True, [True])
    assert holds(1, [1.0])
    for claim, wanted in ((True, 1), (1, True), ("1", 1), ("admins", "admin"), (None, "None")):
        assert not holds(claim, [wanted])
    assert not holds([["a"]], ["a"])
    assert not holds({"a": 1}, ["a"])


def test_the_refusal_that_says_more() -> None:
    """Of two providers' refusals, what came of a verified token counts, then what is known."""
    order = ["issuer", "algorithm", "unknown_key", "wrong_signature", "unavailable", "expired"]
    for less, more in pairwise(order):
        assert Refused(less).or_rather(Refused(more)).reason == more
        assert Refused(more).or_rather(Refused(less)).reason == more
    assert Refused("expired").or_rather(Refused("audience")).reason == "expired"
    assert set(order) <= set(REASONS)

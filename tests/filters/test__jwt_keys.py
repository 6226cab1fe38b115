"""Keys, and the algorithms that they are for."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._jwt_keys import KeySet, read_jwks, read_pem, read_secret
from tests.filters.tokens import SECRET, jwk, jwks, key, pem, private_pem

RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [
        ("rsa", RSA),
        ("ES256", {"ES256"}),
        ("ES384", {"ES384"}),
        ("ES512", {"ES512"}),
        ("EdDSA", {"EdDSA"}),
        ("secret", {"HS256", "HS384", "HS512"}),
    ],
)
def test_a_key_is_for_algorithms_of_its_kind(kind: str, algorithms: set[str]) -> None:
    """A key's kind and curve decide; its `alg` narrows it down."""
    assert KeySet(read_jwks(jwks(jwk(kind)))).algorithms == algorithms
    one = min(algorithms)
    assert KeySet(read_jwks(jwks(jwk(kind, alg=one)))).algorithms == {one}
    if kind != "secret":
        assert KeySet(read_pem(pem(kind))).algorithms == algorithms


def test_keys_that_are_left_out() -> None:
    """Keys for encryption, of an unknown kind or with a foreign `alg` are not for tokens."""
    found = read_jwks(
        jwks(
            jwk(use="enc"),
            jwk(key_ops=["encrypt"]),
            jwk(alg="HS256"),
            jwk(alg="none"),
            {"kty": "new"},
            jwk(kid="good", use="sig", key_ops=["verify"]),
        )
    )
    assert [one.kid for one in found] == ["good"]


@pytest.mark.parametrize(
    "bad",
    [
        {"kty": "RSA", "n": "AQAB"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": "oct", "k": "c2hvcnQ"},
        {"kty": "oct"},
        jwk("rsa-short"),
        jwk("ES256K"),
        jwk(d="AQAB"),
        7,
    ],
)
def test_keys_that_are_no_good(bad: Any) -> None:
    """Damaged, short, private and unknown keys are refused; a service's others are still taken."""
    with pytest.raises(ValueError, match=r"keys\[1\]"):
        read_jwks(jwks(jwk(), bad))
    assert len(read_jwks(jwks(jwk(), bad), strict=False)) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": 1}', b"[" * 100_000, b"\xff"])
def test_what_is_no_set(content: bytes) -> None:
    """What is not a JWK set is a ValueError, however deep it is nested."""
    with pytest.raises(ValueError, match="JWK set"):
        read_jwks(content)


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["keys", "kty", "n", "e", "x", "y", "crv", "k", "alg", "use", "kid"]
                ),
                x,
            )
        ),
    )
)
def test_any_json(value: Any) -> None:
    """Whatever a service sends, it is keys or a ValueError."""
    for given_ in (value, {"keys": [value]}, {"keys": [{"kty": "RSA", "n": value, "e": value}]}):
        try:
            read_jwks(json.dumps(given_).encode())
        except ValueError:
            continue


def test_pem() -> None:
    """Several keys, and certificates; no private key."""
    assert len(read_pem(pem("rsa") + b"\n" + pem("ES256"))) == 2
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    day = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key("rsa").public_key(), 1, day, day)
    certificate = builder.sign(key("rsa"), SHA256())
    assert read_pem(certificate.public_bytes(Encoding.PEM))[0].algorithms == RSA
    with pytest.raises(ValueError, match="private key"):
        read_pem(private_pem())
    for content in (b"", SECRET, pem()[:100], pem().replace(b"MII", b"AAA")):
        with pytest.raises(ValueError, match="PEM"):
            read_pem(content)


def test_a_public_key_is_no_secret() -> None:
    """What is public in any form is refused as a secret, as is a short one."""
    assert KeySet(read_secret(SECRET[:32] + b"\r\n")).algorithms == {"HS256"}
    for content in (pem(), pem("ES256"), json.dumps(jwk()).encode(), json.dumps(jwks()).encode()):
        if b"kty" in content or b"PUBLIC" in content:
            with pytest.raises(ValueError, match="a public key is no secret"):
                read_secret(content)
    for content in (b"", b"\n", SECRET[:31]):
        with pytest.raises(ValueError, match="secret"):
            read_secret(content)


def test_a_set_has_what_is_allowed() -> None:
    """Algorithms that are written narrow the keys down, and none left is refused."""
    found = read_jwks(jwks(jwk(), jwk("ES256", "k2")))
    assert KeySet(found, ["ES256"]).algorithms == {"ES256"}
    with pytest.raises(ValueError, match="no key for HS256"):
        KeySet(found, ["HS256"])
    with pytest.raises(ValueError, match="no key"):
        KeySet([])
    with pytest.raises(ValueError, match="more than 64"):
        KeySet(found * 33)


def test_which_keys_a_token_is_tried_with() -> None:
    """A name is compared and nothing else; a key without one may have signed anything."""
    found = KeySet(read_jwks(jwks(jwk("rsa", "a"), jwk("rsa2", None), jwk("ES256", "c"))))
    assert [one.kid for one in found.for_token("a", "RS256")] == ["a", None]
    assert [one.kid for one in found.for_token(None, "RS256")] == ["a", None]
    assert [one.kid for one in found.for_token("../../a' OR 1=1", "RS256")] == [None]
    assert [one.kid for one in found.for_token("a", "ES256")] == []
    assert found.for_token("a", "none") == []
    (only,) = found.for_token("c", "ES256")
    assert not only.verifies("RS256", b"", b"")
    assert not only.verifies("ES256", b"x", b"")
    assert "n" not in repr(only).replace("none", "").split()

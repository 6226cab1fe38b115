"""Keys and tokens for the tests of the filter jwt: made by hand, so that they can be wrong."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import (
    ECAlgorithm,
    HMACAlgorithm,
    OKPAlgorithm,
    RSAAlgorithm,
    get_default_algorithms,
)

#: The time at which a kit's clock begins.
NOW = 1_700_000_000
ISSUER = "https://login.example"
SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"


@cache
def key(kind: str = "rsa") -> Any:
    """A private key; the same for the same name (``rsa``, ``rsa2``, ``ES256``, ``EdDSA`` ...)."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, 1024 if kind == "rsa-short" else 2048)
    curves: dict[str, ec.EllipticCurve] = {
        "ES256": ec.SECP256R1(),
        "ES384": ec.SECP384R1(),
        "ES512": ec.SECP521R1(),
        "ES256K": ec.SECP256K1(),
    }
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    return ed25519.Ed25519PrivateKey.generate()


def jwk(kind: str = "rsa", kid: str | None = "k1", **more: Any) -> dict[str, Any]:
    """The public key of ``key(kind)`` as a JWK; ``secret`` is SECRET."""
    if kind == "secret":
        made = HMACAlgorithm.to_jwk(SECRET, as_dict=True)
    elif kind.startswith("rsa"):
        made = RSAAlgorithm.to_jwk(key(kind).public_key(), as_dict=True)
    elif kind.startswith("ES"):
        made = ECAlgorithm.to_jwk(key(kind).public_key(), as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(key(kind).public_key(), as_dict=True)
    if kid is not None:
        made["kid"] = kid
    return {**made, **more}


def jwks(*keys: dict[str, Any]) -> dict[str, Any]:
    """A JWK set."""
    return {"keys": list(keys)}


def pem(kind: str = "rsa") -> bytes:
    """The public key of ``key(kind)`` in PEM."""
    made: bytes = (
        key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return made


def private_pem(kind: str = "rsa") -> bytes:
    """The private key in PEM, which no verifier should have."""
    made: bytes = key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def b64(data: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(
    claims: Any = None,
    *,
    signed_by: Any = "rsa",
    alg: str = "RS256",
    kid: str | None = "k1",
    header: Any = None,
    **more: Any,
) -> bytes:
    """
    A token. ``claims`` None are good ones, with ``more``; ``signed_by`` is a kind of key, or the
    bytes of a secret; ``header`` stands in place of the whole header.
    """
    if claims is None:
        claims = {"iss": ISSUER, "sub": "ann", "aud": "shop", "exp": NOW + 300, **more}
    if header is None:
        header = {"alg": alg, "typ": "JWT"}
        if kid is not None:
            header["kid"] = kid
    parts = [
        b64(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, claims)
    ]
    signed = b".".join(parts)
    private = signed_by if isinstance(signed_by, bytes) else key(signed_by)
    signature = get_default_algorithms()[alg].sign(signed, None if alg == "none" else private)
    return signed + b"." + b64(signature)

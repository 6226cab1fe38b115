"""
The keys that tokens are verified with.

The law it keeps: a key knows the algorithms that it may be used with, by its kind and by what was
said of it, and a token's header chooses among these alone: a public key is never a secret, ``none``
is no algorithm, and a name of a key (``kid``) is compared and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import (
    Algorithm,
    ECAlgorithm,
    HMACAlgorithm,
    OKPAlgorithm,
    RSAAlgorithm,
    get_default_algorithms,
)
from jwt.exceptions import InvalidKeyError

__all__ = ["ASYMMETRIC", "SYMMETRIC", "AlgorithmName", "Key", "KeySet", "read_jwks", "read_pem"]
__all__ += ["read_secret"]

AlgorithmName = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
"""An algorithm of RFC 7518, or EdDSA (RFC 8037)."""

_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, 3.2
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
SYMMETRIC = frozenset(_SECRET_BYTES)
ASYMMETRIC = frozenset((*_RSA, *_CURVES.values(), "EdDSA"))

_MOST_KEYS = 64
_RSA_BITS = range(2048, 8193)
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_VERIFIERS: dict[str, Algorithm] = get_default_algorithms()


class Key:
    """A key: its name (``kid``) or None, and the algorithms that it may be used with."""

    __slots__ = ("_key", "algorithms", "kid")

    def __init__(self, key: Any, kid: str | None, algorithms: Collection[str]) -> None:
        self._key = key
        self.kid = kid
        self.algorithms = frozenset(algorithms)

    def __repr__(self) -> str:
        return f"<Key {self.kid!r} {sorted(self.algorithms)}>"

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether this is the signature of these bytes."""
        if algorithm not in self.algorithms:
            return False
        return _VERIFIERS[algorithm].verify(signed, self._key, signature)


class KeySet:
    """Keys of one issuer. Raises ``ValueError`` when none goes with ``allowed``."""

    __slots__ = ("_keys", "algorithms")

    def __init__(self, keys: Sequence[Key], allowed: Collection[str] | None = None) -> None:
        wanted = None if allowed is None else frozenset(allowed)
        if len(keys) > _MOST_KEYS:
            raise ValueError(f"more than {_MOST_KEYS} keys")
        self._keys = tuple(
            Key(key._key, key.kid, key.algorithms if wanted is None else key.algorithms & wanted)
            for key in keys
            if wanted is None or key.algorithms & wanted
        )
        if not self._keys:
            names = "any algorithm" if wanted is None else ", ".join(sorted(wanted))
            raise ValueError(f"there is no key for {names}")
        self.algorithms = frozenset().union(*(key.algorithms for key in self._keys))

    def __len__(self) -> int:
        return len(self._keys)

    def for_token(self, kid: str | None, algorithm: str) -> list[Key]:
        """The keys that may have signed a token; a key without a name may have signed any."""
        return [
            key
            for key in self._keys
            if algorithm in key.algorithms and (kid is None or key.kid is None or key.kid == kid)
        ]


def _algorithms_of(key: Any) -> tuple[str, ...]:
    """The algorithms of a public key. Raises ``ValueError``."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits: 2048 to 8192 are taken")
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name)
        if name is None:
            raise ValueError(f"no algorithm is known for the curve {key.curve.name}")
        return (name,)
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return ("EdDSA",)
    raise ValueError("a public RSA, EC or Ed25519 key is expected")


def _from_jwk(jwk: dict[str, Any]) -> Key | None:
    """A key, None for one that is not for signatures. Raises ``ValueError``."""
    operations = jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (
        isinstance(operations, list) and "verify" not in operations
    ):
        return None
    kind = jwk.get("kty")
    if kind != "oct" and "d" in jwk:
        raise ValueError("this is a private key: its public one is wanted")
    try:
        key: Any
        if kind == "RSA":
            key = RSAAlgorithm.from_jwk(jwk)
        elif kind == "EC":
            key = ECAlgorithm.from_jwk(jwk)
        elif kind == "OKP":
            key = OKPAlgorithm.from_jwk(jwk)
        elif kind == "oct":
            key = HMACAlgorithm.from_jwk(jwk)
        else:
            return None
    except (InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        # The library's text may hold the key.
        raise ValueError("this is not a key") from None
    algorithms = _for_secret(key) if kind == "oct" else _algorithms_of(key)
    named = jwk.get("alg")
    if named is not None:
        algorithms = tuple(name for name in algorithms if name == named)
        if not algorithms:
            return None
    kid = jwk.get("kid")
    return Key(key, kid if isinstance(kid, str) else None, algorithms)


def _for_secret(secret: bytes) -> tuple[str, ...]:
    names = tuple(name for name, least in _SECRET_BYTES.items() if len(secret) >= least)
    if not names:
        raise ValueError(f"a secret of {len(secret)} bytes: RFC 7518 wants 32 at least")
    return names


def read_jwks(given: Any, *, strict: bool = True) -> list[Key]:
    """
    The keys of a JWK set (RFC 7517): a mapping, or JSON in bytes.

    Keys for something else than signatures are left out; without ``strict`` also those that are
    no good. Raises ``ValueError``, whose text holds no key.
    """
    if isinstance(given, bytes):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise ValueError("a JWK set is expected, which is JSON") from None
    listed = given.get("keys") if isinstance(given, dict) else None
    if not isinstance(listed, list):
        raise ValueError("a JWK set is expected: a mapping with a list 'keys'")
    keys = []
    for number, jwk in enumerate(listed[: _MOST_KEYS + 1]):
        try:
            if not isinstance(jwk, dict):
                raise ValueError("this is not a key")
            key = _from_jwk(jwk)
        except ValueError as error:
            if strict:
                raise ValueError(f"keys[{number}]: {error}") from None
            continue
        if key is not None:
            keys.append(key)
    return keys


def read_pem(content: bytes) -> list[Key]:
    """The public keys and certificates of a PEM file. Raises ``ValueError``."""
    keys = []
    for found in _PEM.finditer(content):
        kind = found[1]
        if kind.endswith(b"PRIVATE KEY"):
            raise ValueError("this is a private key: its public one is wanted")
        try:
            if kind == b"CERTIFICATE":
                key: Any = x509.load_pem_x509_certificate(found[0]).public_key()
            else:
                key = load_pem_public_key(found[0])
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("a PEM block is damaged, or of a kind that is not known") from None
        keys.append(Key(key, None, _algorithms_of(key)))
    if not keys:
        raise ValueError("a public key or certificate in PEM is expected")
    return keys


def read_secret(content: bytes) -> list[Key]:
    """
    The secret in a file: its bytes, without the end of the last line. Raises ``ValueError`` for
    one that is short, or that looks like a key of another kind: what is public is no secret.
    """
    secret = content.removesuffix(b"\n").removesuffix(b"\r")
    try:
        secret = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        raise ValueError(
            "a secret is expected, and this is empty or a key of another kind: a public key is "
            "no secret"
        ) from None
    return [Key(secret, None, _for_secret(secret))]

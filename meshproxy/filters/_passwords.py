"""
Hashes of passwords: bcrypt, argon2, and the weak ``{SHA}`` of old htpasswd files.

The law it keeps: a hash is understood when it is read, not when somebody logs in; what is not a
known hash is refused, so that a password in plain text is never taken. Nothing here is quick, and
nothing that it raises or shows holds a hash.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections import Counter
from collections.abc import Callable
from hashlib import sha1

import argon2
import bcrypt
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = ["Hash", "Users", "parse_hash", "parse_htpasswd", "parse_user"]

_BCRYPT = re.compile(rb"\$2[aby]\$(0[4-9]|1[0-9]|2[0-9]|3[01])\$[./A-Za-z0-9]{53}")
_BCRYPT_LONGEST = 72
"""Bytes of a password that bcrypt looks at; every htpasswd leaves out the rest."""

_MOST_USERS = 100_000


class Hash:
    """A hash: ``check(password)`` says whether it is the password's; ``cost`` its kind and cost."""

    __slots__ = ("check", "cost")

    def __init__(self, check: Callable[[bytes], bool], cost: str) -> None:
        self.check = check
        self.cost = cost

    def __repr__(self) -> str:
        return f"<Hash {self.cost}>"


def parse_hash(text: str, allow_weak: bool = False) -> Hash:
    """Read a hash. Raises ``ValueError``, whose text does not repeat it."""
    value = text.encode()
    if value.startswith((b"$2a$", b"$2b$", b"$2y$")):
        if not _BCRYPT.fullmatch(value):
            raise ValueError("this bcrypt hash is cut short or damaged")
        return Hash(_bcrypt(value), f"bcrypt {text[4:6]}")
    if text.startswith("$argon2"):
        try:
            parameters = argon2.extract_parameters(text)
        except InvalidHashError:
            raise ValueError("this argon2 hash is damaged") from None
        cost = (
            f"argon2 {parameters.type.name} t={parameters.time_cost} m={parameters.memory_cost} "
            f"p={parameters.parallelism}"
        )
        return Hash(_argon2(value, parameters.type), cost)
    if text.startswith("{SHA}"):
        if not allow_weak:
            raise ValueError(
                "{SHA} is broken in seconds by whoever gets the file: use bcrypt (htpasswd -B), "
                "or write 'allow_weak: true'"
            )
        try:
            digest = base64.b64decode(text[5:], validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != 20:
            raise ValueError("this {SHA} hash is damaged")
        return Hash(_sha(digest), "sha")
    if text.startswith(("$apr1$", "$1$", "$5$", "$6$")):
        raise ValueError("a hash of this kind is not known: use bcrypt (htpasswd -B) or argon2")
    raise ValueError("a bcrypt or argon2 hash is expected (htpasswd -B); plain text is refused")


def _bcrypt(held: bytes) -> Callable[[bytes], bool]:
    def check(password: bytes) -> bool:
        try:
            return bcrypt.checkpw(password[:_BCRYPT_LONGEST], held)
        except ValueError:
            return False

    return check


def _argon2(held: bytes, kind: argon2.Type) -> Callable[[bytes], bool]:
    verify = argon2.low_level.verify_secret

    def check(password: bytes) -> bool:
        try:
            return verify(held, password, kind)
        except VerificationError:
            return False

    return check


def _sha(held: bytes) -> Callable[[bytes], bool]:
    return lambda password: hmac.compare_digest(sha1(password).digest(), held)


def parse_user(name: str) -> bytes:
    """A user's name as clients send it (RFC 7617, 2). Raises ``ValueError``."""
    if not name or ":" in name or not name.isprintable() or name != name.strip():
        raise ValueError("a user's name has no ':' and no control characters, and is not empty")
    if len(name) > 256:
        raise ValueError("a user's name has at most 256 characters")
    return name.encode()


class Users:
    """
    Users and their hashes.

    ``check`` takes as long for a user that is not there as for one that is: it tries somebody
    else's hash, of the kind and cost that most have, and says no.
    """

    __slots__ = ("_decoy", "_hashes")

    def __init__(self, hashes: dict[bytes, Hash]) -> None:
        if not hashes:
            raise ValueError("there is no user")
        self._hashes = hashes
        usual = Counter(held.cost for held in hashes.values()).most_common(1)[0][0]
        self._decoy = next(held for held in hashes.values() if held.cost == usual)

    def __len__(self) -> int:
        return len(self._hashes)

    def hash_of(self, user: bytes) -> Hash | None:
        """The user's hash, None for one that is not there."""
        return self._hashes.get(user)

    def check(self, user: bytes, password: bytes) -> bool:
        """Whether this is the user's password. Slow: not for the reactor's thread."""
        held = self._hashes.get(user)
        if held is None:
            self._decoy.check(password)
            return False
        return held.check(password)


def parse_htpasswd(content: bytes, allow_weak: bool = False) -> Users:
    """
    Read an htpasswd file: ``USER:HASH`` a line; empty lines and those that begin with ``#`` are
    none. Raises ``ValueError``, which names the line.
    """
    hashes: dict[bytes, Hash] = {}
    for number, line in enumerate(content.decode().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, mark, rest = line.partition(":")
        if not mark:
            raise ValueError(f"line {number}: USER:HASH is expected")
        try:
            user = parse_user(name)
            held = parse_hash(rest.partition(":")[0], allow_weak)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if user in hashes:
            raise ValueError(f"line {number}: this user is there already")
        if len(hashes) >= _MOST_USERS:
            raise ValueError(f"more than {_MOST_USERS} users")
        hashes[user] = held
    return Users(hashes)

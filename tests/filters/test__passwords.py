"""Which hashes are understood, and which files."""

from __future__ import annotations

import argon2
import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters._passwords import Hash, Users, parse_hash, parse_htpasswd, parse_user

# Fixed, so that every process of a parallel run collects the same tests.
SALT = b"$2b$04$abcdefghijklmnopqrstuu"
BCRYPT = bcrypt.hashpw(b"secret", SALT).decode()
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SHA = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="  # of "secret"


@pytest.mark.parametrize(
    "text",
    [
        BCRYPT,
        "$2y$" + BCRYPT[4:],
        "$2a$" + BCRYPT[4:],
        CHEAP.hash("secret", salt=b"0123456789abcdef"),
        argon2.PasswordHasher(1, 8, 1, type=argon2.Type.I).hash("secret", salt=b"0123456789abcdef"),
        argon2.PasswordHasher(1, 8, 1, type=argon2.Type.D).hash("secret", salt=b"0123456789abcdef"),
        SHA,
    ],
)
def test_good_hashes(text: str) -> None:
    """Every kind verifies its password and no other one."""
    held = parse_hash(text, allow_weak=True)
    assert held.check(b"secret")
    for wrong in (b"", b"Secret", b"secret\0", b"\xff", b"x" * 5000):
        assert not held.check(wrong)
    assert text not in repr(held)


def test_bcrypt_looks_at_72_bytes() -> None:
    """A longer password is taken as every htpasswd takes it, and raises nothing."""
    held = parse_hash(bcrypt.hashpw(b"x" * 72, SALT).decode())
    assert held.check(b"x" * 100)
    assert not held.check(b"x" * 71)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("secret", "plain text is refused"),
        ("", "plain text is refused"),
        (SHA, "allow_weak"),
        (BCRYPT[:-1], "cut short"),
        ("$2b$99$" + BCRYPT[7:], "cut short"),
        ("$argon2id$v=19$m=8", "damaged"),
        ("$apr1$x$y", "not known"),
        ("$6$x$y", "not known"),
    ],
)
def test_hashes_that_are_none(text: str, why: str) -> None:
    """Anything else is refused when it is read, and the message does not repeat it."""
    with pytest.raises(ValueError, match=why) as raised:
        parse_hash(text)
    assert not text or text not in str(raised.value)


def test_a_damaged_weak_hash() -> None:
    """A {SHA} hash has 20 bytes."""
    for text in ("{SHA}AAAA", "{SHA}!!"):
        with pytest.raises(ValueError, match="damaged"):
            parse_hash(text, allow_weak=True)


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", " a", "x" * 257])
def test_names_that_are_none(name: str) -> None:
    """A colon ends a name on the wire, so that none has one."""
    with pytest.raises(ValueError, match="name"):
        parse_user(name)


def test_an_unknown_user_costs_what_a_known_one_does() -> None:
    """For somebody who is not there a hash of the usual cost is tried, and the answer is no."""
    tried: list[str] = []

    def making(name: str) -> Hash:
        def check(_: bytes) -> bool:
            tried.append(name)
            return True

        return Hash(check, name.rstrip("1234"))

    users = Users({b"1": making("slow1"), b"2": making("fast2"), b"3": making("slow3")})
    assert not users.check(b"nobody", b"x")
    assert tried == ["slow1"]
    assert users.check(b"2", b"x")
    assert users.hash_of(b"nobody") is None
    with pytest.raises(ValueError, match="no user"):
        Users({})


def test_an_htpasswd_file() -> None:
    """Comments and empty lines are none, what follows the hash is not looked at."""
    content = f"# users\n\nann:{BCRYPT}\r\n bob:{BCRYPT}:x\nzoë:{BCRYPT}\n".encode()
    users = parse_htpasswd(content)
    assert len(users) == 3
    assert users.check("zoë".encode(), b"secret")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no user"),
        (b"\nann", "line 2: USER:HASH"),
        (b"ann:secret", "line 1: a bcrypt"),
        pytest.param(b":" + BCRYPT.encode(), "line 1: a user's name", id="nobody"),
        pytest.param(
            f"a:{BCRYPT}\na:{BCRYPT}".encode(), "line 2: this user is there already", id="twice"
        ),
        (b"\xff:x", "utf-8"),
    ],
)
def test_files_that_are_none(content: bytes, why: str) -> None:
    """A file with anything wrong is refused whole; no line is repeated."""
    with pytest.raises(ValueError, match=why) as raised:
        parse_htpasswd(content)
    assert "secret" not in str(raised.value)


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    """Whatever a file holds, it is users or a ValueError."""
    try:
        parse_htpasswd(content)
    except ValueError:
        return
    raise AssertionError("random bytes are no users")

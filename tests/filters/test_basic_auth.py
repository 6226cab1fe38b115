"""Users and passwords: who comes in, what it costs, and what an attacker gets."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred

from meshproxy.filters.basic_auth import BasicAuth
from meshproxy.testing import Driven, Kit

# Fixed, so that every process of a parallel run collects the same tests.
SALT = b"$2b$04$abcdefghijklmnopqrstuu"
HASH = bcrypt.hashpw(b"secret", SALT).decode()
ZOE = bcrypt.hashpw("pässword:with colon".encode(), SALT).decode()


class Threads:
    """Threads in which a verification ends when the test says so."""

    def __init__(self, at_once: bool = True) -> None:
        self.at_once = at_once
        self.calls: list[tuple[Callable[[bytes, bytes], bool], bytes, bytes, Deferred[bool]]] = []
        self.asked = 0

    def __call__(
        self, function: Callable[[bytes, bytes], bool], user: bytes, password: bytes
    ) -> Deferred[bool]:
        done: Deferred[bool] = Deferred()
        self.asked += 1
        self.calls.append((function, user, password, done))
        if self.at_once:
            self.end()
        return done

    def end(self) -> None:
        """The oldest one ends."""
        function, user, password, done = self.calls.pop(0)
        done.callback(function(user, password))


def made(threads: Threads | None = None, **options: Any) -> BasicAuth:
    """A filter with the users ann and zoë."""
    if "file" not in options:
        options.setdefault("users", {"ann": HASH, "zoë": ZOE})
    return BasicAuth(BasicAuth.Options.model_validate(options), threads or Threads())


def credentials(user: str | bytes = "ann", password: str | bytes = "secret") -> dict[bytes, bytes]:
    """The header of a client."""
    user, password = (part.encode() if isinstance(part, str) else part for part in (user, password))
    return {b"authorization": b"Basic " + base64.b64encode(user + b":" + password)}


def test_the_right_password() -> None:
    """It passes, the user is known, and the upstream does not see the password."""
    driven = Kit().drive(made(), headers=credentials())
    assert driven.status == 200
    assert driven.metadata["user"] == "ann"
    assert driven.upstream is not None
    assert b"authorization" not in driven.upstream.headers
    assert driven.counters["allowed"] == 1


def test_utf8_and_colons_in_a_password() -> None:
    """The first colon ends the user; names and passwords are UTF-8 (RFC 7617, 2.1)."""
    driven = Kit().drive(
        made(forward_user="X-User"), headers=credentials("zoë", "pässword:with colon")
    )
    assert driven.status == 200
    assert driven.upstream is not None
    assert driven.upstream.headers.get(b"x-user") == "zoë".encode()


def test_no_password() -> None:
    """A browser is asked for one; another scheme is none."""
    for headers in ({}, {b"authorization": b"Bearer x"}):
        driven = Kit().drive(made(realm='a"b\\'), headers=headers)
        assert (driven.status, driven.details) == (401, b"basic_auth_missing")
        assert driven.headers.get(b"www-authenticate") == (
            b'Basic realm="a\\"b\\\\", charset="UTF-8"'
        )


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ann", "Secret"),
        ("ann", ""),
        ("", "secret"),
        ("bob", "secret"),
        ("ann:secret", "secret"),
        (b"\xff\xfe", b"secret"),
        (b"ann\0", b"secret"),
        ("ann", "secret\0"),
        ("zoe\u0308", "pässword:with colon"),
        pytest.param("ann", HASH, id="the hash itself"),
    ],
)
def test_wrong_passwords(user: str | bytes, password: str | bytes) -> None:
    """Whatever is near is not right; unknown users are verified like the others."""
    threads = Threads()
    driven = Kit().drive(made(threads), headers=credentials(user, password))
    assert (driven.status, driven.details) == (401, b"basic_auth_wrong")
    assert driven.upstream is None
    assert threads.asked == 1
    assert driven.counters["wrong"] == 1
    assert "errors" not in driven.counters


GOOD = credentials()[b"authorization"]


@pytest.mark.parametrize(
    "values",
    [
        [b"Basic"],
        [b"Basic YW5u"],
        [b"Basic " + base64.b64encode(b"ann:secret")[:-1]],
        [b"Basic !" + base64.b64encode(b"ann:secret")],
        [b"Basic " + b"A" * 5000],
        [GOOD, GOOD],
        [GOOD, b"Bearer x"],
    ],
)
def test_malformed_credentials(values: list[bytes]) -> None:
    """What is cut short, garbage, too long or there twice is refused without verifying."""
    threads = Threads()
    pairs = [(b"authorization", value) for value in values]
    driven = Kit().drive(made(threads), headers=pairs)
    assert (driven.status, driven.details) == (401, b"basic_auth_malformed")
    assert threads.asked == 0


@pytest.mark.parametrize("name", [b"x-user", b"X-USER", b"x_user"])
def test_nobody_names_himself(name: bytes) -> None:
    """A client's own forwarded header is dropped in every spelling."""
    driven = Kit().drive(made(forward_user="X-User"), headers={**credentials(), name: b"root"})
    assert driven.upstream is not None
    assert b"root" not in [value for _, value in driven.upstream.headers]
    assert driven.upstream.headers.get(b"x-user") == b"ann"


def test_credentials_that_are_sent_on() -> None:
    """With `forward_credentials` the upstream gets the header."""
    driven = Kit().drive(made(forward_credentials=True), headers=credentials())
    assert driven.upstream is not None
    assert driven.upstream.headers.get(b"authorization") == GOOD


def test_a_password_is_remembered_for_a_while() -> None:
    """It is verified once, then again when its time is over; a wrong one every time."""
    threads = Threads()
    kit, held = Kit(), made(threads, remember="10s")
    for _ in range(3):
        assert kit.drive(held, headers=credentials()).status == 200
    assert threads.asked == 1
    assert kit.drive(held, headers=credentials("ann", "wrong")).status == 401
    assert kit.drive(held, headers=credentials("ann", "wrong")).status == 401
    assert threads.asked == 3
    kit.advance(10.1)
    assert kit.drive(held, headers=credentials()).status == 200
    assert threads.asked == 4
    kit.stop(held)


def test_remember_0() -> None:
    """Without remembering every request is verified."""
    threads = Threads()
    kit, held = Kit(), made(threads, remember=0)
    for _ in range(2):
        kit.drive(held, headers=credentials())
    assert threads.asked == 2


def test_the_reactor_never_verifies() -> None:
    """A request waits while another thread verifies, and the next one passes it by."""
    threads = Threads(at_once=False)
    kit, held = Kit(), made(threads)
    driven = kit.drive(held, headers=credentials())
    assert driven.waiting
    assert driven.upstream is None
    assert kit.drive(held).status == 401
    threads.end()
    assert (driven.status, driven.waiting) == (200, False)


def waiting(kit: Kit, held: BasicAuth, *passwords: str) -> list[Driven]:
    """Requests with these passwords."""
    return [kit.drive(held, headers=credentials("ann", one)) for one in passwords]


def test_so_many_at_a_time() -> None:
    """Two are verified, two wait, the fifth is told to come back."""
    threads = Threads(at_once=False)
    kit, held = Kit(), made(threads, verifications=2, queue=2)
    driven = waiting(kit, held, "1", "2", "3", "4", "5")
    assert [one.status for one in driven] == [0, 0, 0, 0, 503]
    assert driven[4].headers.get(b"retry-after") == b"1"
    assert driven[4].details == b"basic_auth_overflow"
    assert threads.asked == 2
    threads.end()
    assert threads.asked == 3
    for _ in range(3):
        threads.end()
    assert [one.status for one in driven[:4]] == [401, 401, 401, 401]
    assert kit.counters["overflow"] == 1


def test_no_queue() -> None:
    """A queue of 0 has room for those alone that are verified at once."""
    threads = Threads(at_once=False)
    kit, held = Kit(), made(threads, verifications=1, queue=0)
    assert [one.status for one in waiting(kit, held, "1", "2")] == [0, 503]


def test_a_client_that_comes_several_times_at_once() -> None:
    """The same credentials, waiting, are verified once."""
    threads = Threads(at_once=False)
    kit, held = Kit(), made(threads, verifications=1)
    driven = waiting(kit, held, "secret", "secret", "secret")
    threads.end()
    assert [one.status for one in driven] == [200, 200, 200]
    assert threads.asked == 1


def test_a_client_that_goes() -> None:
    """One that waits gives up its place; one that is verified keeps it until the thread ends."""
    threads = Threads(at_once=False)
    kit, held = Kit(), made(threads, verifications=1, queue=2)
    driven = waiting(kit, held, "1", "2", "secret")
    driven[1].disconnect()
    driven[0].disconnect()
    assert threads.asked == 1
    threads.end()
    assert [call[2] for call in threads.calls] == [b"secret"]
    threads.end()
    assert driven[2].status == 200
    assert driven[0].status == driven[1].status == 0


def test_a_verification_that_fails() -> None:
    """An error in a thread costs that request, and its place is free again."""
    threads = Threads(at_once=False)
    kit, held = Kit(), made(threads, verifications=1)
    driven = waiting(kit, held, "1", "secret")
    threads.calls.pop(0)[3].errback(RuntimeError("no thread"))
    threads.end()
    assert [one.status for one in driven] == [500, 200]


def write(path: Path, text: str, stamp: int) -> None:
    """Write with a time of its own."""
    path.write_text(text)
    os.utime(path, ns=(stamp, stamp))


def test_a_file(tmp_path: Path) -> None:
    """Users from a file; a change forgets what was remembered, a broken file changes nothing."""
    path = tmp_path / "users"
    write(path, f"ann:{HASH}\n", 1)
    kit, held = Kit(directory=tmp_path), made(file="users")
    assert kit.drive(held, headers=credentials()).status == 200
    write(path, "ann:secret\n", 2)
    kit.advance(1.1)
    assert kit.drive(held, headers=credentials()).status == 200
    assert kit.counters["file_failures"] == 1
    assert "plain text is refused" in kit.log[0]
    write(path, f"bob:{HASH}\n", 3)
    kit.advance(1.1)
    assert kit.drive(held, headers=credentials()).status == 401
    assert kit.drive(held, headers=credentials("bob")).status == 200
    assert not any("secret" in line or HASH in line for line in kit.log)


def test_a_file_that_changes_while_a_password_is_verified(tmp_path: Path) -> None:
    """What the former file's hash verified is not remembered for the next file's."""
    path = tmp_path / "users"
    write(path, f"ann:{HASH}\n", 1)
    threads = Threads(at_once=False)
    kit, held = Kit(directory=tmp_path), made(threads, file="users")
    kit.drive(held, headers=credentials())
    write(path, f"ann:{ZOE}\n", 2)
    kit.advance(1.1)
    assert kit.drive(held).status == 401
    threads.end()
    driven = kit.drive(held, headers=credentials())
    threads.end()
    assert driven.status == 401


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there keeps the proxy from starting."""
    with pytest.raises(ValueError, match="No such file"):
        Kit(directory=tmp_path).attach(made(file="users"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"users": {}},
        {"users": {"ann": "secret"}},
        {"users": {"a:b": HASH}},
        {"users": {"ann": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="}},
        {"users": {"ann": HASH}, "file": "x"},
        {"users": {"ann": HASH}, "forward_user": "content-length"},
    ],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    """No users, plain text, weak hashes unasked, impossible names; nothing secret is told."""
    with pytest.raises(ValidationError):
        BasicAuth.Options.model_validate(options)


def test_weak_hashes_when_asked_for() -> None:
    """{SHA} works with allow_weak; hashes are in no repr."""
    weak = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
    held = made(users={"ann": weak}, allow_weak=True)
    assert Kit().drive(held, headers=credentials()).status == 200
    assert HASH not in repr(BasicAuth.Options(users={"ann": HASH}))


@given(st.binary(max_size=60))
def test_any_header(value: bytes) -> None:
    """Whatever is sent is answered 401, and is no error."""
    value = bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
    for sent in (value, b"Basic " + value, b"Basic " + base64.b64encode(value)):
        driven = Kit().drive(made(), headers={b"authorization": sent})
        assert driven.status == 401
        assert "errors" not in driven.counters

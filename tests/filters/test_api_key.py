"""Who comes in with a key, and what the upstream sees of it."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshproxy.api import Unfit
from meshproxy.filters.api_key import ApiKey, parse_keys
from meshproxy.testing import Kit, drive

KEY = "correct horse battery staple"
DIGEST = sha256(KEY.encode()).hexdigest()


def made(**options: Any) -> ApiKey:
    """A filter with ann's key."""
    if "file" not in options:
        options.setdefault("keys", {"ann": DIGEST})
    return ApiKey(ApiKey.Options.model_validate(options))


def test_a_good_key() -> None:
    """It passes, its name and facts are known, and the upstream does not get it."""
    held = made(keys={"ann": {"sha256": DIGEST.upper(), "facts": {"plan": "gold", "level": 3}}})
    driven = drive(held, headers={b"X-Api-Key": KEY.encode()})
    assert driven.status == 200
    assert driven.metadata == {"api_key": "ann", "api_key.plan": "gold", "api_key.level": 3}
    assert driven.upstream is not None
    assert b"x-api-key" not in driven.upstream.headers
    assert driven.counters == {"allowed": 1}


def test_no_key_and_a_wrong_one() -> None:
    """401 for both, with a challenge; the status of a wrong one can be 403."""
    driven = drive(made(realm='my "api"'))
    assert (driven.status, driven.details) == (401, b"api_key_missing")
    assert driven.headers.get(b"www-authenticate") == b'ApiKey realm="my \\"api\\""'
    driven = drive(made(), headers={b"x-api-key": b"wrong"})
    assert (driven.status, driven.details, driven.upstream) == (401, b"api_key_wrong", None)
    driven = drive(made(wrong_status=403), headers={b"x-api-key": b"wrong"})
    assert driven.status == 403
    assert b"www-authenticate" not in driven.headers


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", KEY.encode()), (b"X-API-KEY", b"other")],
        [(b"x-api-key", KEY.encode()), (b"x-api-key", KEY.encode())],
    ],
)
def test_two_keys(headers: list[tuple[bytes, bytes]]) -> None:
    """Two keys are ambiguous: the upstream might read the other one."""
    driven = drive(made(), headers=headers)
    assert (driven.status, driven.details) == (401, b"api_key_ambiguous")


@pytest.mark.parametrize(
    "key",
    [DIGEST.encode(), KEY.encode() + b"x", KEY.encode() * 1000, b"\xff\xfe", KEY.upper().encode()],
)
def test_what_is_no_key(key: bytes) -> None:
    """A digest is not a key, nor is anything near one, too long or not UTF-8."""
    assert drive(made(), headers={b"x-api-key": key}).status == 401


def test_other_places() -> None:
    """A key in a parameter, cookie or Authorization is found and taken out of there."""
    places = [{"parameter": "key"}, {"cookie": "key"}, "bearer"]
    quoted = KEY.replace(" ", "%20").encode()
    driven = drive(made(look_in=places), target=b"/x?a=1&key=" + quoted + b"&b=2")
    assert driven.upstream is not None
    assert driven.upstream.target == b"/x?a=1&b=2"
    driven = drive(made(look_in=places), headers={b"cookie": b"a=b; key=" + KEY.encode()})
    assert driven.upstream is not None
    assert driven.upstream.headers.get(b"cookie") == b"a=b"
    driven = drive(made(look_in=places), headers={b"authorization": b"Bearer " + KEY.encode()})
    assert driven.upstream is not None
    assert b"authorization" not in driven.upstream.headers
    assert drive(made(look_in=places)).headers.get(b"www-authenticate") == b'Bearer realm="api"'


@pytest.mark.parametrize("key", [KEY.replace(" ", "+"), "wrong", "wrong&key=twice"])
def test_the_log_has_no_key(key: str) -> None:
    """The access log shows the query without the key, whether or not it is a good one."""
    held = made(look_in=[{"parameter": "key"}])
    driven = drive(held, target=b"/x?a=1&k%65y=" + key.encode() + b"&b")
    shown = driven.exchange.path
    assert shown.startswith(b"/x?a=1&k%65y=***&")
    assert key.partition("&")[0].encode() not in shown
    assert b"twice" not in shown
    assert drive(held, target=b"/x?a=1").exchange.path == b"/x?a=1"


def test_a_key_that_is_sent_on() -> None:
    """With `forward` the key that was verified stays, one elsewhere does not."""
    held = made(forward=True, look_in=[{"header": "x-api-key"}, {"parameter": "key"}])
    driven = drive(held, headers={b"x-api-key": KEY.encode()}, target=b"/?key=other")
    assert driven.upstream is not None
    assert driven.upstream.headers.get(b"x-api-key") == KEY.encode()
    assert driven.upstream.target == b"/"


@pytest.mark.parametrize("name", [b"x-key-name", b"X-Key-Name", b"x_key_name", b"X-KEY_NAME"])
def test_nobody_names_himself(name: bytes) -> None:
    """The upstream gets the key's name; a client's own is dropped in every spelling."""
    driven = drive(
        made(forward_name="X-Key-Name"), headers={b"x-api-key": KEY.encode(), name: b"root"}
    )
    assert driven.upstream is not None
    assert list(driven.upstream.headers)[:1] == [(b"x-key-name", b"ann")]
    assert not [value for _, value in driven.upstream.headers if value == b"root"]


def test_a_plain_key() -> None:
    """A key may be written as it is, if it is long; it is in no repr."""
    held = made(keys={"bob": {"plain": KEY}})
    assert drive(held, headers={b"x-api-key": KEY.encode()}).metadata["api_key"] == "bob"
    options = ApiKey.Options.model_validate({"keys": {"bob": {"plain": KEY}}})
    assert KEY not in repr(options)
    with pytest.raises(Unfit, match="'bob' has the key of 'ann'"):
        made(keys={"ann": DIGEST, "bob": {"plain": KEY}})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keys": {}},
        {"keys": {"ann": "secret"}},
        {"keys": {"ann": {"plain": "short"}}},
        {"keys": {"a b": DIGEST}},
        {"keys": {"ann": DIGEST}, "file": "x"},
        {"keys": {"ann": DIGEST}, "forward_name": "Host"},
        {"keys": {"ann": {"sha256": DIGEST, "facts": {"a b": 1}}}},
    ],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    """What would let nobody in, or anybody, does not start."""
    with pytest.raises(ValidationError):
        ApiKey.Options.model_validate(options)


def test_a_file(tmp_path: Path) -> None:
    """Keys from a file, with facts; a change counts, a broken one changes nothing."""
    path = tmp_path / "keys"
    path.write_text(f"# keys\n\nann:{DIGEST} plan=gold\n")
    kit = Kit(directory=tmp_path)
    held = made(file="keys")
    driven = kit.drive(held, headers={b"x-api-key": KEY.encode()})
    assert driven.metadata == {"api_key": "ann", "api_key.plan": "gold"}
    path.write_text("nonsense")
    os.utime(path, ns=(1, 1))
    kit.advance(1.1)
    assert kit.drive(held, headers={b"x-api-key": KEY.encode()}).status == 200
    assert kit.counters["file_failures"] == 1
    assert "line 1" in kit.log[0]
    assert "nonsense" not in kit.log[0]
    path.write_text(f"bob:{sha256(b'another one').hexdigest()}\n")
    os.utime(path, ns=(2, 2))
    kit.advance(1.1)
    assert kit.drive(held, headers={b"x-api-key": KEY.encode()}).status == 401
    assert kit.drive(held, headers={b"x-api-key": b"another one"}).status == 200
    kit.stop(held)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there keeps the proxy from starting."""
    with pytest.raises(ValueError, match="No such file"):
        Kit(directory=tmp_path).attach(made(file="keys"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no key"),
        (b"ann", "line 1: NAME:SHA256"),
        (b"ann:" + KEY.encode(), "line 1: NAME:SHA256"),
        (f"ann:{DIGEST} x".encode(), "line 1: FACT=VALUE"),
        (f"ann:{DIGEST}\nbob:{DIGEST}".encode(), "line 2: another name"),
    ],
)
def test_files_that_are_none(content: bytes, why: str) -> None:
    """Anything wrong refuses the file, with the line."""
    with pytest.raises(ValueError, match=why):
        parse_keys(content)


@given(st.binary(max_size=100))
def test_any_key_and_any_file(value: bytes) -> None:
    """Random bytes are neither a key nor a file of keys, and raise nothing else."""
    with pytest.raises(ValueError):  # noqa: PT011
        parse_keys(value)
    value = bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
    driven = drive(made(), headers={b"x-api-key": value})
    assert driven.status == 401
    assert "errors" not in driven.counters

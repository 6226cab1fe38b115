"""What a client's context is made of, and who shares it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL, crypto

from meshproxy.tls import trust
from meshproxy.tls.material import TlsFileError
from meshproxy.tls.trust import Trust, load_trust
from tests.tls.authority import Authority
from tests.tls.origin import settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that a configuration can name."""
    authority = Authority()
    authority.write(tmp_path)
    authority.issue(subject="me", client=True).write(tmp_path, "me")
    Authority("another").issue("x").write(tmp_path, "other")
    (tmp_path / "crl.pem").write_bytes(authority.crl())
    (tmp_path / "text").write_text("nothing that is read here")
    return tmp_path


def load(folder: Path, **fields: Any) -> Trust:
    return load_trust(settings(**fields), str(folder))


MINE = {"chain": "me.pem", "key": "me.key"}


def test_equal_settings_share_a_context(folder: Path) -> None:
    """By what files hold, wherever they are; another setting is another context."""
    (folder / "copy.pem").write_bytes((folder / "ca.pem").read_bytes())
    everything: dict[str, Any] = {
        "ca": "ca.pem",
        "crl": "crl.pem",
        "certificate": MINE,
        "alpn": ["http/1.1"],
        "ciphers": ["TLS_AES_128_GCM_SHA256"],
        "curves": ["X25519"],
    }
    one = load(folder, **everything)
    assert load(folder, **{**everything, "ca": "copy.pem"}).context is one.context
    # What is verified by Python is no part of it.
    more = {"names": ["a"], "server_name": "b", "resume": False}
    assert load(folder, **everything, **more).context is one.context
    others: list[dict[str, Any]] = [
        {"crl": None},
        {"certificate": None},
        {"alpn": ["x"]},
        {"ciphers": []},
        {"curves": []},
        {"depth": 1},
        {"min_version": "1.3"},
        {"key_log": "keys.log"},
    ]
    made = [load(folder, **{**everything, **other}).context for other in others]
    assert len({id(context) for context in (one.context, *made)}) == len(others) + 1


def test_nobody_keeps_a_context_that_is_not_used(folder: Path) -> None:
    """It goes with the last of its clusters."""
    made = load(folder, ca="ca.pem", depth=7)
    # What tests before this one left in cycles goes first.
    gc.collect()
    count = len(trust._contexts)
    del made
    gc.collect()
    assert len(trust._contexts) == count - 1


def test_what_is_verified(folder: Path) -> None:
    """Everything, unless that is written to be otherwise."""
    context = load(folder, ca="ca.pem", depth=2).context
    assert (context.get_verify_mode(), context.get_verify_depth()) == (SSL.VERIFY_PEER, 2)
    assert load(folder).context.get_verify_mode() == SSL.VERIFY_PEER
    assert load(folder, verify=False).context.get_verify_mode() == SSL.VERIFY_NONE


def test_what_it_was_made_of(folder: Path) -> None:
    """Every file, with how it looked."""
    made = load(folder, ca="ca.pem", crl="crl.pem", certificate=MINE)
    names = {"ca.pem", "crl.pem", "me.pem", "me.key"}
    assert set(made.looks) == {str(folder / name) for name in names}
    assert all(made.looks.values())
    assert made.pair is not None
    assert made.pair.files == (str(folder / "me.pem"), str(folder / "me.key"))


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"ca": "none"}, ("ca",)),
        ({"ca": "text"}, ("ca",)),
        ({"ca": "ca.pem", "crl": "text"}, ("crl",)),
        ({"ca": "ca.pem", "crl": "none"}, ("crl",)),
        ({"ciphers": ["NONSENSE"]}, ("ciphers",)),
        ({"curves": ["NONSENSE"]}, ("curves",)),
        ({"certificate": {"chain": "none", "key": "me.key"}}, ("certificate", "chain")),
        ({"certificate": {"chain": "me.pem", "key": "other.key"}}, ("certificate", "key")),
    ],
)
def test_what_cannot_be_used(folder: Path, fields: Any, at: tuple[str, ...]) -> None:
    """The option at fault is named, and what it holds is not told."""
    with pytest.raises(TlsFileError) as caught:
        load(folder, **fields)
    error = caught.value
    assert getattr(error, "at", (error.key,)) == at
    assert "nothing that is read" not in str(error)
    # Nor is it usable the second time, while the first is still told of.
    with pytest.raises(TlsFileError):
        load(folder, **fields)


def test_what_openssl_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a fault of the file like others."""

    def refuse(*_: object) -> None:
        raise crypto.Error([("a", "b", "c")])

    monkeypatch.setattr(crypto.X509Store, "add_cert", refuse)
    with pytest.raises(TlsFileError, match=r"OpenSSL cannot use .*ca\.pem") as caught:
        load(folder, ca="ca.pem")
    assert caught.value.key == "ca"

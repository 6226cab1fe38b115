"""What all contexts have in common."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.tls import settings
from meshproxy.tls.settings import BadSetting, KeyLog, apply, key_log_at
from tests.tls.authority import Authority
from tests.tls.exchange import Exchange


def _made(**given: Any) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    apply(context, **given)
    return context


def _hello(context: SSL.Context) -> bytes:
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65536)


def _extension(hello: bytes, wanted: int) -> bytes:
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at] + 2
    while at < len(hello):
        kind, size = (int.from_bytes(hello[at + i : at + i + 2], "big") for i in (0, 2))
        if kind == wanted:
            return hello[at + 4 : at + 4 + size]
        at += 4 + size
    raise AssertionError("no such extension")


def test_the_defaults() -> None:
    """The ciphers and curves are ours in our order, and no signature with SHA-1 is offered."""
    context = _made()
    names = SSL.Connection(context, None).get_cipher_list()
    assert names == [*settings.CIPHERSUITES, *settings.CIPHERS]
    hello = _hello(context)
    groups = _extension(hello, 10)[2:].hex(" ", 2).split()
    assert groups == ["11ec", "001d", "0017", "0018"]
    algorithms = _extension(hello, 13)[2:].hex(" ", 2).split()
    assert "0403" in algorithms
    assert not [one for one in algorithms if one.startswith(("01", "02"))]
    assert _extension(hello, 43) == b"\x04\x03\x04\x03\x03"


def test_options_and_mode() -> None:
    """Renegotiation and compression are off, and idle connections release their buffers."""
    context = _made()
    options: int = settings.binding.SSL_CTX_set_options(vars(context)["_context"], 0)
    for wanted in (
        SSL.OP_NO_COMPRESSION,
        settings.binding.SSL_OP_NO_RENEGOTIATION,
        SSL.OP_CIPHER_SERVER_PREFERENCE,
    ):
        assert options & wanted
    mode = settings.binding.SSL_CTX_set_mode(vars(context)["_context"], 0)
    assert mode & settings.binding.SSL_MODE_RELEASE_BUFFERS
    assert mode & settings.binding.SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER


def test_versions() -> None:
    """Each bound is kept; a bad one, or the two the wrong way round, is refused by its key."""
    hello = _hello(_made(min_version="1.3"))
    assert _extension(hello, 43) == b"\x02\x03\x04"
    with pytest.raises(BadSetting, match="'1.1' is not a version") as caught:
        _made(min_version="1.1")
    assert caught.value.key == "min_version"
    with pytest.raises(BadSetting, match="1.3 is above max_version, 1.2"):
        _made(min_version="1.3", max_version="1.2")


def test_ciphers() -> None:
    """Named ciphers are split by version; a version that none is named of keeps its defaults."""
    named = ["ECDHE-RSA-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384"]
    connection = SSL.Connection(_made(ciphers=named), None)
    assert connection.get_cipher_list() == named[::-1]
    connection = SSL.Connection(_made(ciphers=["TLS_AES_256_GCM_SHA384"]), None)
    assert connection.get_cipher_list() == ["TLS_AES_256_GCM_SHA384", *settings.CIPHERS]


@pytest.mark.parametrize(
    "name",
    [
        "TLS_AES_129_GCM_SHA256",
        "ECDHE-RSA-AES129-GCM-SHA256",
        "HIGH",
        "ALL:@SECLEVEL=0",
        "aNULL",
        "",
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384",
    ],
)
def test_unknown_ciphers(name: str) -> None:
    """What is no cipher's name is refused with its name, beside a good one too."""
    with pytest.raises(BadSetting, match="OpenSSL knows no cipher named") as caught:
        _made(ciphers=["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", name])
    assert caught.value.key == "ciphers"
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["NULL-SHA256", "ECDHE-ECDSA-NULL-SHA", "ADH-AES128-GCM-SHA256"])
def test_ciphers_that_are_none(name: str) -> None:
    """A cipher without encryption or without authentication is refused."""
    with pytest.raises(BadSetting, match="leaves out|knows no"):
        _made(ciphers=[name])


@pytest.mark.parametrize("name", ["ECDHE-PSK-CHACHA20-POLY1305", "PSK-AES128-GCM-SHA256"])
def test_ciphers_that_no_certificate_is_for(name: str) -> None:
    """No handshake could agree on one: it is refused, not taken and never used."""
    with pytest.raises(BadSetting, match=r"for secrets that are shared") as caught:
        _made(ciphers=[name])
    assert caught.value.key == "ciphers"


def test_curves() -> None:
    """Named curves are offered in their order; an unknown one is refused with its name."""
    hello = _hello(_made(curves=["P-384", "X25519"]))
    assert _extension(hello, 10)[2:].hex(" ", 2).split() == ["0018", "001d"]
    for bad in ("P-257", "?X25519", "X25519:P-256", "DEFAULT", ""):
        with pytest.raises(BadSetting, match="knows no curve") as caught:
            _made(curves=["X25519", bad])
        assert (caught.value.key, repr(bad) in str(caught.value)) == ("curves", True)


def test_errors_leave_nothing_behind() -> None:
    """A refusal leaves no error in OpenSSL's queue for somebody else to trip over."""
    with pytest.raises(BadSetting):
        _made(curves=["P-257"])
    with pytest.raises(BadSetting):
        _made(ciphers=["TLS_NOPE"])
    assert settings.binding.ERR_peek_error() == 0


def test_key_log(tmp_path: Path) -> None:
    """Secrets are appended to a file of the owner's; those that name it share it."""
    path = tmp_path / "keys.log"
    path.write_bytes(b"# before\n")
    path.unlink()
    one = key_log_at(str(path))
    assert key_log_at(os.path.join(str(tmp_path), ".", "keys.log")) is one
    assert not path.exists()
    one.secret(None, b"CLIENT_RANDOM aa bb")
    one.secret(None, b"CLIENT_RANDOM cc dd")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"CLIENT_RANDOM aa bb\nCLIENT_RANDOM cc dd\n"
    one.close()
    one.secret(None, b"CLIENT_RANDOM ee ff")
    assert path.read_bytes().count(b"\n") == 3
    _made(key_log=one)


def test_a_key_log_that_cannot_be_written(tmp_path: Path) -> None:
    """It loses secrets and counts them; it does not raise."""
    lost = KeyLog(str(tmp_path / "none" / "keys.log"))
    lost.secret(None, b"x")
    lost.secret(None, b"x")
    assert lost.lost == 2


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("X25519MLKEM768:*X25519", "X25519"),
        ("*X25519MLKEM768:*X25519", "X25519MLKEM768"),
        ("*P-256:X25519MLKEM768", "secp256r1"),
        ("*P-256:*X25519", "X25519"),
    ],
)
def test_no_extra_round_trip_for_a_better_curve(offered: str, chosen: str) -> None:
    """Of the curves that a client sent a share of, ours comes first; another is not asked for."""
    issued = Authority().issue("a.example")
    server: Any = _made()
    server.use_certificate(issued.cert)
    server.use_privatekey(issued.key)
    client = SSL.Context(SSL.TLS_CLIENT_METHOD)
    lib = settings.binding
    assert lib.SSL_CTX_set1_curves_list(vars(client)["_context"], offered.encode()) == 1
    done = Exchange(server, client)
    assert done.good
    assert done.client.get_group_name().lower() == chosen.lower()


def test_old_signatures_are_refused() -> None:
    """A client of TLS 1.2 that takes SHA-1 only is turned away."""
    issued = Authority().issue("a.example", kind="rsa")
    server: Any = _made()
    server.use_certificate(issued.cert)
    server.use_privatekey(issued.key)
    for algorithms, good in (("RSA+SHA1", False), ("RSA+SHA256", True)):
        client: Any = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_max_proto_version(SSL.TLS1_2_VERSION)
        client.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        pointer = vars(client)["_context"]
        assert settings.binding.SSL_CTX_set1_sigalgs_list(pointer, algorithms.encode()) == 1
        assert Exchange(server, client).good is good

"""What is asked of client certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import Name
from OpenSSL import SSL

from meshproxy.config.match import StringMatch
from meshproxy.tls.clients import NAMES_SENT, Clients, names_in
from meshproxy.tls.material import TlsFileError
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import Exchange, client, listener_tls


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who is trusted."""
    return Authority("clients")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Issued:
    """The server's own."""
    return authority.issue("a.example")


def made(tmp_path: Path, server: Issued, *parts: bytes, **given: Any) -> SSL.Context:
    """A server that asks for the clients of these CAs."""
    (tmp_path / "ca.pem").write_bytes(b"".join(parts))
    clients = Clients(listener_tls(client_ca="ca.pem", **given), str(tmp_path))
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    context: Any = made
    context.use_certificate(server.cert)
    context.use_privatekey(server.key)
    context.set_session_id(b"x")
    clients.apply(context)
    context.set_app_data(clients)
    return made


def comes_in(context: SSL.Context, one: Issued | None) -> bool:
    """Whether a client gets in."""
    return Exchange(context, client(issued=one)).good


def test_several_authorities(tmp_path: Path, authority: Authority, server: Issued) -> None:
    """Whoever any of them vouches for comes in; their names are sent, for clients to choose by."""
    other = Authority("others")
    context = made(tmp_path, server, authority.pem, other.pem)
    for one in (authority, other):
        done = Exchange(context, client(issued=one.issue("c", client=True)))
        assert done.good
        names: list[Name] = [name.commonName for name in done.client.get_client_ca_list()]
        assert names == ["clients", "others"]
    assert not comes_in(context, Authority("clients").issue("c", client=True))
    assert not comes_in(context, None)


def test_too_many_names(
    tmp_path: Path, authority: Authority, server: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a great many authorities none is named; they are trusted all the same."""
    assert NAMES_SENT >= 100
    monkeypatch.setattr("meshproxy.tls.clients.NAMES_SENT", 1)
    context = made(tmp_path, server, authority.pem, Authority("others").pem)
    done = Exchange(context, client(issued=authority.issue("c", client=True)))
    assert (done.good, done.client.get_client_ca_list()) == (True, [])


def test_an_intermediate_is_trusted_by_itself(tmp_path: Path, server: Issued) -> None:
    """Its root need not be there, and others of that root do not come in."""
    root = Authority("root")
    below = root.intermediate("below")
    context = made(tmp_path, server, below.pem)
    assert comes_in(context, below.issue("c", client=True))
    assert not comes_in(context, root.issue("c", client=True))


def test_depth(tmp_path: Path, authority: Authority, server: Issued) -> None:
    """The number of intermediate certificates is bounded."""
    one = authority.intermediate("1")
    two = one.intermediate("2")
    context = made(tmp_path, server, authority.pem, client_depth=1)
    assert comes_in(context, one.issue("c", client=True))
    refused = Exchange(context, client(issued=two.issue("c", client=True)))
    assert refused.refused == "certificate chain too long"
    assert comes_in(made(tmp_path, server, authority.pem), two.issue("c", client=True))
    none = made(tmp_path, server, authority.pem, client_depth=0)
    assert comes_in(none, authority.issue("c", client=True))
    assert not comes_in(none, one.issue("c", client=True))


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        ("a.example", "a.example", "b.example"),
        ({"exact": "a.example"}, "a.example", "a.example.org"),
        ({"prefix": "spiffe://mesh/"}, "spiffe://mesh/x", "spiffe://other/x"),
        ({"suffix": ".a.example"}, "x.a.example", "a.example"),
        ({"contains": "@a"}, "me@a.example", "me@b.example"),
        ({"regex": "[ab].example"}, "b.example", "c.example"),
        ({"exact": "127.0.0.1"}, "127.0.0.1", "127.0.0.2"),
        ({"prefix": "x", "invert": True}, "y.example", "x.example"),
        ({"present": True}, "y.example", ""),
    ],
)
def test_names(
    tmp_path: Path, authority: Authority, server: Issued, wanted: Any, good: str, bad: str
) -> None:
    """One name must match; who is refused gets an alert, and the reason is to be had."""

    def issue(name: str) -> Issued:
        if "://" in name:
            return authority.issue(client=True, uris=["urn:other", name])
        if "@" in name:
            return authority.issue(client=True, emails=[name])
        return authority.issue(*([name] if name else []), client=True, subject="a.example")

    test = wanted if isinstance(wanted, str) else StringMatch(**wanted)
    context = made(tmp_path, server, authority.pem, client_names=["nobody", test])
    assert comes_in(context, issue(good))
    done = Exchange(context, client(issued=issue(bad)))
    assert done.refused == "certificate rejected"
    assert "bad certificate" in done.alert


def test_names_do_not_stand_in_for_trust(
    tmp_path: Path, authority: Authority, server: Issued
) -> None:
    """The right name from the wrong CA is refused for the CA."""
    context = made(tmp_path, server, authority.pem, client_names=["a.example"])
    forged = Authority("clients").issue("a.example", client=True)
    assert not comes_in(context, forged)
    assert not comes_in(context, authority.issue("a.example", client=True, days=-1))


def test_optional_with_names(tmp_path: Path, authority: Authority, server: Issued) -> None:
    """None is good, one without the name is not."""
    given: Any = {"client_names": ["a.example"], "require_client_certificate": False}
    context = made(tmp_path, server, authority.pem, **given)
    assert comes_in(context, None)
    assert not comes_in(context, authority.issue("b.example", client=True))


def test_broken_files(tmp_path: Path, authority: Authority, server: Issued) -> None:
    """What is wrong is told by its option."""
    with pytest.raises(TlsFileError) as caught:
        made(tmp_path, server, b"")
    assert caught.value.key == "client_ca"
    (tmp_path / "crl.pem").write_bytes(b"x")
    with pytest.raises(TlsFileError) as caught:
        made(tmp_path, server, authority.pem, client_crl="crl.pem")
    assert caught.value.key == "client_crl"


def test_digest(tmp_path: Path, authority: Authority) -> None:
    """It tells whether the same are trusted."""

    def digest(ca: bytes, crl: bytes | None) -> bytes:
        (tmp_path / "ca.pem").write_bytes(ca)
        (tmp_path / "crl.pem").write_bytes(crl or b"")
        config = listener_tls(client_ca="ca.pem", client_crl=None if crl is None else "crl.pem")
        return Clients(config, str(tmp_path)).digest

    crl = authority.crl()
    found = [
        digest(authority.pem, None),
        digest(authority.pem, crl),
        digest(authority.pem, authority.crl([authority.issue("c")])),
        digest(Authority("o").pem, None),
    ]
    assert len(set(found)) == 4
    assert digest(authority.pem, crl) == found[1]


def test_names_in(authority: Authority) -> None:
    """All that is text, in order; nothing without a SAN."""
    one = authority.issue("a.example", "::1", uris=["spiffe://a"], emails=["a@b"])
    assert names_in(one.cert) == ["a.example", "::1", "spiffe://a", "a@b"]
    assert names_in(authority.issue(subject="x").cert) == []

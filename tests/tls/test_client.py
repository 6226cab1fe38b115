"""TLS as a client: who is believed and who is refused, against servers of Python's ssl."""

from __future__ import annotations

import hashlib
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls.client import ClientTls
from meshproxy.tls.material import TlsFileError
from tests.harness import Server
from tests.net import live
from tests.tls.authority import Authority, Issued, self_signed
from tests.tls.origin import (
    Asking,
    TlsServer,
    authority,
    endpoint_at,
    issued,
    server_context,
    settings,
)


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    made = MeshReactor()
    yield made
    live.close(made)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the authority's certificate."""
    return str(authority().write(tmp_path_factory.mktemp("ca")))


def pin(one: Any) -> str:
    """The pin of a certificate's key."""
    spki = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256/" + b64encode(hashlib.sha256(spki).digest()).decode()


def outcome(
    reactor: MeshReactor, folder: Path, own: Issued | None = None, name: str = "a.example",
    **fields: Any
) -> str:  # fmt: skip
    """What becomes of a connection to a server that has the certificate ``own``."""
    with TlsServer(server_context(folder, own)) as server:
        return Asking(reactor, settings(**fields)).ask(server.port, name)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_good_server(reactor: MeshReactor, tmp_path: Path, ca: str, version: str) -> None:
    """It is asked for by name, believed, and counted; bytes go both ways."""
    asking = Asking(reactor, settings(ca=ca))
    with TlsServer(server_context(tmp_path, version=version)) as server:
        assert asking.ask(server.port) == ""
    assert server.seen == ["a.example"]
    assert (asking.count("handshakes"), asking.count("resumed")) == (1, 0)
    assert asking.transport is not None
    assert asking.transport.facts.version == f"TLSv{version}".encode()


@pytest.mark.parametrize(
    ("name", "fields", "seen", "reason"),
    [
        ("x.b.example", {}, "x.b.example", ""),
        ("x.y.b.example", {}, "x.y.b.example", "is for a.example, *.b.example"),
        ("b.example", {}, "b.example", "is for a.example, *.b.example"),
        ("", {"server_name": "A.example."}, "a.example", ""),
        ("wrong.example", {"server_name": "a.example"}, "a.example", ""),
        ("c.example", {"names": ["d.example", "a.example"]}, "c.example", ""),
        ("a.example", {"names": ["d.example"]}, "a.example", "is for a.example, *.b.example"),
        ("", {}, None, "is for a.example, *.b.example"),
        ("c.example", {"verify": False}, "c.example", ""),
    ],
)
def test_names(
    reactor: MeshReactor, tmp_path: Path, ca: str, name: str, fields: Any, seen: Any, reason: str
) -> None:
    """What is asked for, and what is verified: fixed, the endpoint's, another, or the address."""
    fields = fields if fields.get("verify") is False else {"ca": ca, **fields}
    asking = Asking(reactor, settings(**fields))
    with TlsServer(server_context(tmp_path)) as server:
        told = asking.ask(server.port, name)
    assert server.seen == [seen]
    assert told == (f"hostname mismatch: the certificate {reason}" if reason else "")
    assert asking.count("failures", reason="name") == bool(reason)


def test_an_address_is_verified_as_one(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """By the IP addresses in the certificate; a name that looks like it is none."""
    good, looks = authority().issue("127.0.0.1"), authority().issue("127.0.0.2")
    assert outcome(reactor, tmp_path, good, "", ca=ca) == ""
    assert outcome(reactor, tmp_path, good, "x.example", ca=ca, names=["127.0.0.1"]) == ""
    assert outcome(reactor, tmp_path, good, "", ca=ca, server_name="127.0.0.1") == ""
    told = outcome(reactor, tmp_path, looks, "", ca=ca)
    assert told == "hostname mismatch: the certificate is for 127.0.0.2"


def test_who_is_refused(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """Expired, self-signed, of another authority, for clients, without names: each by its name."""
    cases = {
        "certificate has expired": authority().issue("a.example", days=-1),
        "self-signed certificate": self_signed("a.example"),
        "unable to get local issuer certificate": Authority("other").issue("a.example"),
        "unsuitable certificate purpose": authority().issue("a.example", client=True),
        "hostname mismatch: the certificate is for no name": authority().issue(subject="a.example"),
    }
    for reason, own in cases.items():
        assert outcome(reactor, tmp_path, own, ca=ca) == reason
        assert outcome(reactor, tmp_path, own, verify=False) == ""
    # And by the system's roots, which know none of it.
    assert outcome(reactor, tmp_path).startswith("unable to ")


def test_depth(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """So many intermediate certificates and no more; one that is trusted itself ends the chain."""
    middle = authority().intermediate("one")
    own = middle.intermediate("two").issue("a.example")
    assert outcome(reactor, tmp_path, own, ca=ca, depth=2) == ""
    assert outcome(reactor, tmp_path, own, ca=ca, depth=1) == "certificate chain too long"
    path = middle.write(tmp_path, "middle")
    assert outcome(reactor, tmp_path, own, ca=str(path), depth=1) == ""


def test_revoked(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """By the list of its issuer; a list that is out of date lets nobody pass."""
    good, bad = issued(), authority().issue("a.example")
    for days, expected in ((30, ["", "certificate revoked"]), (-1, ["CRL has expired"] * 2)):
        path = tmp_path / f"crl{days}.pem"
        path.write_bytes(authority().crl([bad], days=days))
        told = [outcome(reactor, tmp_path, own, ca=ca, crl=str(path)) for own in (good, bad)]
        if days < 0:
            told[1] = told[1].replace("certificate revoked", "CRL has expired")
        assert told == expected


def test_pins(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """Of the leaf, of any that vouches for it, the root too; unverified the leaf's alone."""
    middle = authority().intermediate("one")
    own = middle.issue("a.example")
    other = pin(Authority("other").cert)
    for good in (own.cert, middle.cert, authority().cert):
        assert outcome(reactor, tmp_path, own, ca=ca, pins=[other, pin(good)]) == ""
    assert outcome(reactor, tmp_path, own, ca=ca, pins=[other]) == "pin mismatch"
    assert outcome(reactor, tmp_path, own, verify=False, pins=[pin(own.cert)]) == ""
    told = outcome(reactor, tmp_path, own, verify=False, pins=[pin(middle.cert)])
    assert told == "pin mismatch"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_certificate(reactor: MeshReactor, tmp_path: Path, ca: str, version: str) -> None:
    """It is presented; without it the server refuses, in TLS 1.3 after the handshake."""
    context = server_context(tmp_path, version=version)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    authority().issue(subject="me", client=True).write(tmp_path, "me")
    mine = {"chain": "me.pem", "key": "me.key"}
    with TlsServer(context) as server:
        own = Asking(reactor, settings(ca=ca, certificate=mine), tmp_path)
        assert own.ask(server.port) == ""
        (shown,) = own.tls.described()
        assert (shown["cluster"], shown["subject"]) == ("site", "CN=me")
        told = Asking(reactor, settings(ca=ca)).ask(server.port)
    if version == "1.2":
        assert told == "alert: handshake failure"
    else:
        assert told == "after the handshake: tlsv13 alert certificate required"


def test_alpn(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """What is offered is agreed on; a server that knows none of it agrees on none, or refuses."""
    context = server_context(tmp_path)
    context.set_alpn_protocols(["http/1.1"])
    with TlsServer(context) as server:
        asking = Asking(reactor, settings(ca=ca, alpn=["x", "http/1.1"]))
        assert asking.ask(server.port) == ""
        assert asking.transport is not None
        assert asking.transport.facts.alpn == b"http/1.1"
        assert Asking(reactor, settings(ca=ca, alpn=["x"])).ask(server.port) in (
            "",
            "alert: no application protocol",
        )


def test_a_protocol_that_was_not_offered(ca: str) -> None:
    """OpenSSL refuses it, and so do we."""
    connection: Any = SimpleNamespace(get_alpn_proto_negotiated=lambda: b"h2\n")
    tls = ClientTls(settings(ca=ca, alpn=["http/1.1"]), "")
    told = tls.judge(connection, b"a.example", ("127.0.0.1", 1))
    assert told == "ALPN: h2? was not offered"


@pytest.mark.parametrize("verify", [True, False])
def test_a_server_without_a_certificate(ca: str, verify: bool) -> None:
    """It is nobody, where anything is to be verified."""
    connection: Any = SimpleNamespace(
        get_alpn_proto_negotiated=bytes, get_peer_certificate=lambda **_: None
    )
    fields: Any = {"ca": ca} if verify else {"verify": False, "pins": [pin(issued().cert)]}
    tls = ClientTls(settings(**fields), "")
    assert tls.judge(connection, b"a.example", ("127.0.0.1", 1)) == "no certificate"


def test_a_certificate_that_cannot_be_read(
    reactor: MeshReactor, tmp_path: Path, ca: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised: it is logged, and that connection is refused."""
    logged: list[Any] = []
    monkeypatch.setattr("meshproxy.tls.client.log.err", lambda *a: logged.append(a))
    monkeypatch.setattr("meshproxy.tls.client.identity_of", lambda _: 1 / 0)
    assert outcome(reactor, tmp_path, ca=ca) == "the certificate cannot be read"
    assert len(logged) == 1


def test_versions_without_one_in_common(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """The server's alert names it."""
    with TlsServer(server_context(tmp_path, version="1.2")) as server:
        told = Asking(reactor, settings(ca=ca, min_version="1.3")).ask(server.port)
    assert told == "alert: protocol version"


@pytest.mark.parametrize(
    ("said", "reason", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not TLS", "not_tls"),
        (b"SSH-2.0-OpenSSH\r\n", "not TLS", "not_tls"),
        (b"", "connection closed", "closed"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "alert: handshake failure", "alert"),
        (b"\x16\x03\x03\x00\x05hello", "unexpected message", "other"),
    ],
)
def test_what_is_no_server_of_tls(
    reactor: MeshReactor, said: bytes, reason: str, kind: str
) -> None:
    """It is told what it is, and counted."""

    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(said)

    asking = Asking(reactor, settings())
    with Server(serve) as server:
        assert asking.ask(server.port) == reason
    assert asking.count("failures", reason=kind) == 1


def test_silence(reactor: MeshReactor) -> None:
    """It ends with the time that is left; of none nothing is begun."""
    asking = Asking(reactor, settings())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert asking.ask(port, timeout=0.01) == "handshake timeout"
        assert asking.ask(port, timeout=0.0) == "handshake timeout"
    assert asking.count("failures", reason="timeout") == 2
    assert not reactor.getDelayedCalls()


def test_cancelled(reactor: MeshReactor) -> None:
    """Nothing is called, nothing is left, and the socket is closed."""
    asking = Asking(reactor, settings())
    told: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()
        sock = socket.create_connection(where)
        sock.setblocking(False)
        attempt = asking.tls.secure(
            reactor, sock, where, endpoint_at(where[1]), 20.0, told.append, told.append
        )
        assert attempt is not None
        live.turn(reactor)
        attempt.cancel()
        attempt.cancel()
        live.turn(reactor)
    assert (told, sock.fileno(), reactor.getDelayedCalls()) == ([], -1, [])


def test_a_name_that_cannot_be_asked_for(
    reactor: MeshReactor, tmp_path: Path, ca: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect costs that connection."""
    logged: list[Any] = []
    monkeypatch.setattr("meshproxy.tls.client.log.err", lambda *a: logged.append(a))
    assert outcome(reactor, tmp_path, name="x\0", ca=ca) == "internal error"
    assert len(logged) == 1


def test_a_unix_socket_has_no_name(reactor: MeshReactor, tmp_path: Path, ca: str) -> None:
    """It is refused unless somebody said what to verify."""
    asking = Asking(reactor, settings(ca=ca))
    with TlsServer(server_context(tmp_path)) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setblocking(False)
        told: list[Any] = []
        asking.tls.secure(
            reactor, sock, "/run/x", endpoint_at(server.port), 20.0, told.append, told.append
        )
        live.turn_until(reactor, lambda: told)
    assert told == ["no name to verify: server_name is missing"]


def test_files_that_change(reactor: MeshReactor, tmp_path: Path) -> None:
    """They count when they are loaded again; a bad one changes nothing and is told."""
    path = Authority("other").write(tmp_path)
    asking = Asking(reactor, settings(ca="ca.pem"), tmp_path)
    with TlsServer(server_context(tmp_path)) as server:
        authority().write(tmp_path)
        assert asking.ask(server.port).startswith("unable to get local issuer")
        asking.tls.reload()
        assert asking.ask(server.port) == ""
        path.write_text("nothing")
        with pytest.raises(TlsFileError) as caught:
            asking.tls.reload()
        assert caught.value.key == "ca"
        assert asking.ask(server.port) == ""
    assert list(asking.tls.trust.looks) == [str(path)]


def test_a_bad_pin() -> None:
    """The configuration judges them; what comes by another way is refused too."""
    config = settings().model_copy(update={"pins": ["sha256/AAAA"]})
    with pytest.raises(TlsFileError, match="32 bytes"):
        ClientTls(config, "")

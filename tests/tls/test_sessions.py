"""Sessions: what is resumed, for how long, and what makes a session worthless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls import sessions
from meshproxy.tls.revocation import load_crls
from tests.net import live
from tests.tls.origin import Asking, TlsServer, authority, endpoint_at, server_context, settings

pytestmark = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    made = MeshReactor()
    yield made
    live.close(made)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the authority's certificate."""
    return str(authority().write(tmp_path_factory.mktemp("ca")))


@pytest.fixture
def server(tmp_path: Path, version: str) -> Iterator[TlsServer]:
    with TlsServer(server_context(tmp_path, version=version)) as made:
        yield made


def test_the_second_connection_resumes(reactor: MeshReactor, server: TlsServer, ca: str) -> None:
    """And the third what the second was given; all is counted."""
    asking = Asking(reactor, settings(ca=ca))
    at = endpoint_at(server.port, "a.example")
    for _ in range(4):
        assert asking.ask(server.port, endpoint=at) == ""
    assert server.reused == [False, True, True, True]
    assert (asking.count("handshakes"), asking.count("resumed")) == (4, 3)


def test_a_connection_that_was_cut(reactor: MeshReactor, server: TlsServer, ca: str) -> None:
    """Its session is as good as before (OpenSSL would mark it)."""
    asking = Asking(reactor, settings(ca=ca))
    at = endpoint_at(server.port, "a.example")
    for _ in range(3):
        assert asking.ask(server.port, endpoint=at, abort=True) == ""
    assert server.reused == [False, True, True]


def test_each_endpoint_has_its_own(reactor: MeshReactor, server: TlsServer, ca: str) -> None:
    """A new one begins anew: what belonged to the old one is gone with it."""
    asking = Asking(reactor, settings(ca=ca))
    for _ in range(2):
        assert asking.ask(server.port) == ""
    assert server.reused == [False, False]


def test_not_where_that_is_not_wanted(reactor: MeshReactor, server: TlsServer, ca: str) -> None:
    """``resume: false``: nothing is offered, and nothing kept."""
    asking = Asking(reactor, settings(ca=ca, resume=False))
    at = endpoint_at(server.port, "a.example")
    for _ in range(2):
        assert asking.ask(server.port, endpoint=at) == ""
    assert server.reused == [False, False]
    assert at.session is None


def test_another_name_is_another_server(reactor: MeshReactor, server: TlsServer, ca: str) -> None:
    """A session for one name is not offered for another."""
    asking = Asking(reactor, settings(ca=ca))
    at = endpoint_at(server.port, "a.example")
    assert asking.ask(server.port, endpoint=at) == ""
    at.server_name = b"x.b.example"
    assert asking.ask(server.port, endpoint=at) == ""
    assert server.reused == [False, False]


def test_what_was_verified_is_believed_for_an_hour(
    reactor: MeshReactor, server: TlsServer, ca: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the full handshake on, however often it was resumed since."""
    now = [1e9]
    clock: Any = type("Clock", (), {"time": staticmethod(lambda: now[0])})
    monkeypatch.setattr("meshproxy.tls.client.time", clock)
    monkeypatch.setattr(sessions, "time", clock)
    asking = Asking(reactor, settings(ca=ca))
    at = endpoint_at(server.port, "a.example")
    for later in (0, 1800, 1700, 200, 0):
        now[0] += later
        assert asking.ask(server.port, endpoint=at) == ""
    assert server.reused == [False, True, True, False, True]


def test_nor_longer_than_the_certificate(
    reactor: MeshReactor, ca: str, tmp_path: Path, version: str
) -> None:
    """Its session ends with it."""
    own = authority().issue("a.example", days=0.01)
    asking = Asking(reactor, settings(ca=ca))
    with TlsServer(server_context(tmp_path, own, version)) as server:
        at = endpoint_at(server.port, "a.example")
        assert asking.ask(server.port, endpoint=at) == ""
    assert at.session is not None
    assert at.session.until == own.cert.not_valid_after_utc.timestamp()


def test_nor_longer_than_the_revocation_list(
    reactor: MeshReactor, server: TlsServer, ca: str, tmp_path: Path
) -> None:
    """A whole handshake would be refused then; clusters with the same list share its end."""
    (tmp_path / "crl.pem").write_bytes(authority().crl(days=0.01))
    (crl,) = load_crls("crl", "crl.pem", (tmp_path / "crl.pem").read_bytes())
    asking = [Asking(reactor, settings(ca=ca, crl="crl.pem"), tmp_path) for _ in range(2)]
    for each in asking:
        at = endpoint_at(server.port, "a.example")
        assert each.ask(server.port, endpoint=at) == ""
        assert at.session is not None
        assert crl.next_update_utc is not None
        assert at.session.until == crl.next_update_utc.timestamp()


def test_new_files_end_them(reactor: MeshReactor, server: TlsServer, tmp_path: Path) -> None:
    """What other authorities vouched for is verified anew; what did not change stays."""
    path = authority().write(tmp_path, "authority")
    asking = Asking(reactor, settings(ca=str(path)))
    at = endpoint_at(server.port, "a.example")
    assert asking.ask(server.port, endpoint=at) == ""
    asking.tls.reload()
    assert asking.ask(server.port, endpoint=at) == ""
    path.write_bytes(path.read_bytes() + b"\n")
    asking.tls.reload()
    assert asking.ask(server.port, endpoint=at) == ""
    assert server.reused == [False, True, False]


def test_nothing_is_resumed_where_nobody_can_tell(
    reactor: MeshReactor, server: TlsServer, ca: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pyOpenSSL that does not say so, what is resumed would go unverified."""
    monkeypatch.setattr(sessions, "_CAN_TELL", False)
    asking = Asking(reactor, settings(ca=ca))
    at = endpoint_at(server.port, "a.example")
    for _ in range(2):
        assert asking.ask(server.port, endpoint=at) == ""
    assert server.reused == [False, False]


def test_a_server_that_forgot(reactor: MeshReactor, ca: str, tmp_path: Path, version: str) -> None:
    """A full handshake takes place, and everything is verified."""
    asking = Asking(reactor, settings(ca=ca))
    with TlsServer(server_context(tmp_path, version=version)) as server:
        at = endpoint_at(server.port, "a.example")
        assert asking.ask(server.port, endpoint=at) == ""
        other = authority().issue("other.example")
        server.context = server_context(tmp_path, other, version)
        told = asking.ask(server.port, endpoint=at)
    assert told == "hostname mismatch: the certificate is for other.example"
    assert at.session is None

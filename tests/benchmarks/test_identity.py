"""Who servers are in a benchmark, and what is refused before anything is measured."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import load_pem_x509_certificate

from tests.benchmarks import backend, clients, identity
from tests.benchmarks.load.body_server import serve as serve_bodies
from tests.benchmarks.probe import probe_bodies, probe_http
from tests.benchmarks.tls_server import answering, server_context, serving
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.benchmarks.plan import Identity


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Who the servers are."""
    return identity.make(tmp_path_factory.mktemp("identity"), "ec")


def _running(port: int) -> Any:
    return SimpleNamespace(name="a proxy", port=port)


@pytest.mark.parametrize(
    ("kind", "key"), [("ec", ec.EllipticCurvePublicKey), ("rsa", rsa.RSAPublicKey)]
)
def test_a_key_of_either_kind(kind: Any, key: type, tmp_path: Path) -> None:
    """The files hold what they are named after."""
    made = identity.make(tmp_path, kind)
    certificate = load_pem_x509_certificate(made.chain.read_bytes())
    assert isinstance(certificate.public_key(), key)
    assert made.both.read_bytes() == made.chain.read_bytes() + made.key.read_bytes()
    certificate.verify_directly_issued_by(load_pem_x509_certificate(made.authority.read_bytes()))


def test_what_should_be_agreed_on_passes(server: Identity) -> None:
    """TLS 1.3 with the cipher of the benchmark, by whom it should be."""
    with serving(answering(server_context(server))) as port:
        identity.check(_running(port), server)


def test_a_lower_version_is_refused(server: Identity) -> None:
    """A proxy without TLS 1.3 is not measured."""
    context = server_context(server)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(answering(context)) as port, pytest.raises(LoadError, match="a proxy refused"):
        identity.check(_running(port), server)


def test_somebody_else_is_refused(server: Identity, tmp_path: Path) -> None:
    """A certificate by another authority is not the one that all proxies have."""
    other = identity.make(tmp_path, "ec")
    with (
        serving(answering(server_context(other))) as port,
        pytest.raises(LoadError, match="a proxy refused"),
    ):
        identity.check(_running(port), server)


def test_probes_see_wrong_answers(server: Identity) -> None:
    """Over TLS as without it: a body that is not the backend's is an error."""
    context = server_context(server)
    right = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (
        len(backend.BODY),
        backend.BODY.encode(),
    )
    with serving(answering(context, right)) as port:
        probe_http(_running(port), ["/a/", "/b/"], server)
    wrong = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
    with serving(answering(context, wrong)) as port:
        with pytest.raises(LoadError, match="a proxy answered 503"):
            probe_http(_running(port), ["/a/"], server)
        with pytest.raises(LoadError, match="answered GET with 503"):
            probe_bodies(_running(port), 100, server)

    def bodies(connection: socket.socket) -> None:
        serve_bodies(connection, context)

    with serving(bodies) as port:
        probe_bodies(_running(port), 100_000, server)


def test_a_failing_client_is_an_error(server: Identity, tmp_path: Path) -> None:
    """Nobody serves: LoadError with the client's reason, whichever of our clients it is."""
    with serving(answering(server_context(server))) as port:
        pass
    offer = identity.offer(tmp_path)
    with pytest.raises(LoadError, match="handshake_client through a proxy failed: .*ECONNREFUSED"):
        clients.handshake_load(
            _running(port), 0.05, 2, secured=server, offer=offer, resume=False, processes=1
        )
    with pytest.raises(LoadError, match="bulk_client through a proxy failed: .*Refused"):
        clients.bulk_load(_running(port), 0.05, 1, up=True, secured=server, offer=offer)


def test_handshakes_of_several_processes_are_added_up(server: Identity, tmp_path: Path) -> None:
    """Each has its share of the connections; another cipher than the wanted one is an error."""
    with serving(answering(server_context(server))) as port:
        found = clients.handshake_load(
            _running(port), 0.05, 4, secured=server, offer=identity.offer(tmp_path), resume=False,
            processes=2,
        )  # fmt: skip
        assert found["handshakes"] >= 4
        with pytest.raises(LoadError, match="a proxy agreed to TLS_AES_256_GCM_SHA384"):
            clients.handshake_load(
                _running(port), 0.05, 1, secured=server, offer={}, resume=False, processes=1
            )

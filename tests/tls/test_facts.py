"""Facts of a connection: asked of OpenSSL once, when somebody wants to know."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.net.reactor import MeshReactor
from meshproxy.tls.facts import Facts
from tests.net import live
from tests.tls.wire import authority, client_context, issued, server_context, tls_pair


class Counting:
    """A connection that counts what it is asked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._connection, name)


@pytest.mark.parametrize("certificate", [False, True])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_facts(version: str, certificate: bool) -> None:
    """What the handshake agreed on, and the client's certificate if there is one; each once."""
    reactor = MeshReactor()
    ours, connection, client = tls_pair(
        reactor,
        server=server_context(verify=SSL.VERIFY_PEER),
        client=client_context(certificate=certificate, version=version),
    )
    counting: Any = Counting(connection)
    facts = Facts(counting)
    assert counting.asked == []
    for _ in range(2):
        assert facts.server_name == b"a.example"
        assert facts.alpn == b"http/1.1"
        assert facts.version == b"TLSv" + version.encode()
        assert facts.cipher == client.tls.cipher()[0].encode()  # type: ignore[index]
        assert facts.certificate == (issued("client").cert if certificate else None)
    assert len(counting.asked) == len(set(counting.asked)) == 5
    assert facts.own_certificate == issued().cert
    assert not facts.resumed
    chain = [issued("client").cert, authority().cert] if certificate else []
    assert facts.chain == chain
    assert Facts(counting, b"known.example").server_name == b"known.example"
    ours.close()
    live.close(reactor)

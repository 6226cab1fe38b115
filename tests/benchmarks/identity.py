"""TLS for the benchmarks: who the servers are, what the clients offer, what was agreed on.

Every handshake of a benchmark is TLS 1.3 with one cipher and one group, since the clients offer
no others: a proxy that would choose better, or worse, by itself does the same work as the rest.
The proxies have their own defaults, so that this is all that is taken from them; whether it came
to be is asked of each proxy before it is measured.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Literal

from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname

from tests.benchmarks.plan import Identity
from tests.benchmarks.process import HOST
from tests.benchmarks.wrk import LoadError
from tests.tls.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.benchmarks.process import Running

NAME = "shop.example.com"
CIPHER = "TLS_AES_128_GCM_SHA256"
GROUP = "X25519"
Kind = Literal["ec", "rsa"]
_TIMEOUT = 10.0
_OPENSSL_CONF = f"""\
openssl_conf = benchmark
[benchmark]
ssl_conf = ssl
[ssl]
system_default = system
[system]
MinProtocol = TLSv1.3
MaxProtocol = TLSv1.3
Ciphersuites = {CIPHER}
Groups = {GROUP}
"""


def make(directory: Path, kind: Kind) -> Identity:
    """A certificate of that kind of key, ECDSA P-256 or RSA 2048, its authority's beside it."""
    authority = Authority("benchmark CA")
    issued = authority.issue(NAME, HOST, kind=kind)
    chain, key = issued.write(directory, kind)
    both = directory / f"{kind}-both.pem"
    both.write_bytes(issued.chain_pem + issued.key_pem)
    return Identity(NAME, chain, key, both, authority.write(directory, f"{kind}-ca"))


def offer(directory: Path) -> Mapping[str, str]:
    """The environment in which a program that uses OpenSSL offers CIPHER and GROUP alone."""
    path = directory / "openssl.cnf"
    path.write_text(_OPENSSL_CONF)
    return {"OPENSSL_CONF": str(path)}


def check(running: Running, identity: Identity) -> None:
    """Raises LoadError unless the proxy is who it should be, and agrees to what is measured."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHER.encode())
    context.load_verify_locations(os.fspath(identity.authority))
    context.set_verify(SSL.VERIFY_PEER, lambda connection, cert, error, depth, ok: bool(ok))
    try:
        with socket.create_connection((HOST, running.port), _TIMEOUT) as plain:
            plain.settimeout(None)  # pyOpenSSL knows blocking sockets and others, no timeouts
            secured = SSL.Connection(context, plain)
            secured.set_tlsext_host_name(identity.name.encode())
            secured.set_connect_state()
            secured.do_handshake()
            agreed = secured.get_protocol_version_name(), secured.get_cipher_name()
            verify_hostname(secured, identity.name)
            secured.shutdown()
    except Exception as error:
        raise LoadError(f"{running.name} refused a handshake: {error!r}") from error
    if agreed != ("TLSv1.3", CIPHER):
        raise LoadError(f"{running.name} agreed to {agreed}")

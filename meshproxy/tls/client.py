"""
TLS as a client, towards the endpoints of a cluster.

The laws it keeps:

- Exactly one of ``done(transport)`` and ``failed(reason)`` is called, once, unless the attempt is
  cancelled first; either may be called before :meth:`ClientTls.secure` returns. With ``failed``
  and when cancelled the socket is closed.
- ``done`` is called when the handshake is over and the server is whom we asked for: its chain ends
  at an authority that is trusted (OpenSSL judges that), one of its names is the one asked for, a
  pin fits. With ``verify: false`` only pins are looked at.
- The name asked for is the cluster's ``server_name``, else what the endpoint was written with; it
  is never one that a name server answered with. An endpoint that was written as an address is
  verified by that address. ``names`` take the place of the name that is verified, not of the one
  that is asked for (SNI).
- A resumed handshake verifies nothing anew: :mod:`meshproxy.tls.sessions` says for how long.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from OpenSSL import SSL
from twisted.python import log

from meshproxy.tls import native
from meshproxy.tls.expiry import describe
from meshproxy.tls.handshake import ClientHandshake, Handshake
from meshproxy.tls.material import TlsFileError, seen
from meshproxy.tls.reasons import KINDS, TIMEOUT, clean, kind_of
from meshproxy.tls.sessions import (
    LONGEST,
    ClientTransport,
    Session,
    await_session,
    offer,
)
from meshproxy.tls.settings import drain
from meshproxy.tls.trust import Trust, load_trust
from meshproxy.tls.verify import (
    PIN_MISMATCH,
    identity_of,
    mismatch,
    pin_bytes,
    pinned,
    reference_to,
)

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from meshproxy.config.tls import ClusterTls
    from meshproxy.net.transport import SocketAddress
    from meshproxy.observe.registry import Registry

__all__ = ["ClientTls", "Securing", "Target", "TlsFileError"]

NO_CERTIFICATE = "no certificate"
NO_NAME = "no name to verify: server_name is missing"


class Target(Protocol):
    """What of an endpoint matters here."""

    #: The name that it was written with, or that was written for it; empty for addresses.
    server_name: bytes
    sockaddr: Any
    #: This room's alone.
    session: Session | None


class _Counters:
    """The numbers of one cluster."""

    __slots__ = ("failures", "handshakes", "reload_failures", "reloads", "resumed", "values")

    def __init__(self, registry: Registry, cluster: str) -> None:
        labels = {"cluster": cluster}
        self.values = registry.values
        self.handshakes = registry.counter(
            "meshproxy_cluster_tls_handshakes_total", "TLS handshakes that succeeded", labels
        )
        self.resumed = registry.counter(
            "meshproxy_cluster_tls_resumed_total",
            "TLS handshakes that resumed an earlier session",
            labels,
        )
        self.failures = {
            kind: registry.counter(
                "meshproxy_cluster_tls_failures_total",
                "TLS handshakes that failed, or that were refused after they had succeeded",
                {**labels, "reason": kind},
            )
            for kind in KINDS
        }
        self.reloads = registry.counter(
            "meshproxy_cluster_tls_reloads_total",
            "Changes of the files of a cluster's TLS taken over",
            labels,
        )
        self.reload_failures = registry.counter(
            "meshproxy_cluster_tls_reload_failures_total",
            "Changes of the files of a cluster's TLS that were broken, so that the old ones stayed",
            labels,
        )


class ClientTls:
    """
    The ``tls`` of one cluster. ``base`` is the folder that its files are relative to.

    Raises :class:`TlsFileError` for a file or a setting that cannot be used; ``key`` says which.
    """

    def __init__(
        self,
        config: ClusterTls,
        base: str,
        registry: Registry | None = None,
        cluster: str = "",
    ) -> None:
        self._config = config
        self._base = base
        self._verify = config.verify
        self._resume = config.resume
        self._server_name = (config.server_name or "").encode("ascii")
        self._names = tuple(map(reference_to, config.names))
        self._alpn = tuple(protocol.encode("ascii") for protocol in config.alpn)
        try:
            self._pins = frozenset(map(pin_bytes, config.pins))
        except ValueError as error:
            raise TlsFileError("pins", str(error)) from None
        self._cluster = cluster
        self._counters = None if registry is None else _Counters(registry, cluster)
        #: The files as they were read last; ``trust.pair`` is the client certificate, or None.
        self.trust: Trust = load_trust(config, base)
        #: Whether the files could not be read, or used, the last time.
        self.failing = False
        # What was told of broken files, and how they looked.
        self._told: object = None

    def reload(self) -> None:
        """
        Read the files again, for the handshakes to come; no session outlives it if they changed.

        Raises :class:`TlsFileError`, and what was there stays in use.
        """
        self.trust = load_trust(self._config, self._base)

    def renew(self) -> bool:
        """
        As :meth:`reload`, but what is broken is told of, once, and counted.

        Returns whether anything changed.
        """
        before, counters = self.trust, self._counters
        try:
            self.reload()
        except TlsFileError as error:
            self.failing = True
            told = str(error), [seen(path) for path in before.looks]
            if told != self._told:
                self._told = told
                at = ".".join(map(str, error.at))
                log.msg(f"tls cluster={self._cluster} {at}: {error}; what was in force stays")
                if counters is not None:
                    counters.values[counters.reload_failures] += 1
            return False
        self.failing = False
        self._told = None
        # A context is the same as long as all that it is made of is.
        changed = self.trust.context is not before.context
        if changed:
            log.msg(f"tls cluster={self._cluster} the changed files are taken over")
            if counters is not None:
                counters.values[counters.reloads] += 1
        return changed

    def described(self) -> list[dict[str, Any]]:
        """The client certificate for ``/certs``, of what JSON can hold; nothing without one."""
        pair = self.trust.pair
        return [] if pair is None else [{"cluster": self._cluster, **describe(pair, time.time())}]

    def secure(
        self,
        reactor: Any,
        sock: socket.socket,
        peer: SocketAddress,
        endpoint: Target,
        timeout: float,
        done: Callable[[ClientTransport], None],
        failed: Callable[[str], None],
        *,
        resume: bool = True,
    ) -> Securing | None:
        """
        Speak TLS on ``sock``, which is connected to ``peer``, an address of ``endpoint``, and does
        not block; for no longer than ``timeout`` seconds.

        ``done`` gets a transport that is not started yet. Returns None when ``done`` or ``failed``
        was called already. Without ``resume`` no session is offered, or taken.
        """
        name = self._server_name or endpoint.server_name
        attempt = Securing(self, reactor, sock, peer, endpoint, name, done, failed)
        return attempt if attempt.begin(timeout, resume and self._resume) else None

    def judge(self, connection: SSL.Connection, name: bytes, peer: SocketAddress) -> float | str:
        """
        Until when (Unix time) a full handshake's server is whom we asked for; or why it is not.
        """
        alpn = connection.get_alpn_proto_negotiated()
        if alpn and alpn not in self._alpn:
            return clean(f"ALPN: {alpn.decode('latin-1')} was not offered")
        until = time.time() + LONGEST
        if not self._verify and not self._pins:
            return until
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return NO_CERTIFICATE
        if self._verify:
            identity = identity_of(certificate)
            references = self._names
            if not references:
                text = _host(peer) if not name else name.decode("latin-1")
                if not text:
                    return NO_NAME
                references = (reference_to(text),)
            reason = mismatch(identity, references)
            if reason:
                return reason
            until = min(until, identity.until)
            ends = connection.get_context().get_app_data()
            if ends is not None:
                until = min(until, ends)
        if self._pins:
            chain: Sequence[Certificate] = [certificate]
            if self._verify:
                chain = connection.get_verified_chain(as_cryptography=True) or chain
            if not pinned(chain, self._pins):
                return PIN_MISMATCH
        return until

    def new(self, sock: socket.socket, name: bytes) -> SSL.Connection:
        """A connection on ``sock`` that asks for ``name``, unless that is an address."""
        connection = SSL.Connection(self.trust.context, sock)
        connection.set_connect_state()
        if name and not _is_address(name):
            connection.set_tlsext_host_name(name.removesuffix(b"."))
        return connection

    def succeeded(self, again: bool) -> None:
        """Count a handshake; ``again``: it resumed a session."""
        counters = self._counters
        if counters is not None:
            counters.values[counters.handshakes] += 1
            if again:
                counters.values[counters.resumed] += 1

    def refused(self, reason: str) -> None:
        """Count a failure."""
        counters = self._counters
        if counters is not None:
            counters.values[counters.failures[kind_of(reason)]] += 1


class Securing:
    """One handshake and what follows it, while it lasts. Made by :meth:`ClientTls.secure`."""

    __slots__ = (
        "_call",
        "_connection",
        "_context",
        "_done",
        "_endpoint",
        "_failed",
        "_handshake",
        "_name",
        "_offered",
        "_peer",
        "_reactor",
        "_resume",
        "_sock",
        "_tls",
    )

    def __init__(
        self,
        tls: ClientTls,
        reactor: Any,
        sock: socket.socket,
        peer: SocketAddress,
        endpoint: Target,
        name: bytes,
        done: Callable[[ClientTransport], None],
        failed: Callable[[str], None],
    ) -> None:
        self._tls = tls
        self._reactor = reactor
        self._sock: socket.socket | None = sock
        self._peer = peer
        self._endpoint = endpoint
        self._name = name
        self._done = done
        self._failed = failed
        self._call: Any = None
        self._resume = False
        #: The session that was offered, for what was verified when it came to be.
        self._offered: Session | None = None

    def begin(self, timeout: float, resume: bool) -> bool:
        """Go as far as that is possible at once. Returns whether it goes on."""
        sock = self._sock
        assert sock is not None
        if timeout <= 0:
            self._fail(TIMEOUT)
            return False
        try:
            self._connection = connection = self._tls.new(sock, self._name)
        except Exception:
            # A name that OpenSSL does not take, for one.
            drain()
            log.err(None, "beginning TLS with an endpoint")
            self._fail("internal error")
            return False
        self._context = connection.get_context()
        self._resume = resume
        held = self._endpoint.session
        if held is not None and resume and offer(connection, self._context, self._name, held):
            self._offered = held
        self._call = self._reactor.callLater(timeout, self._fail, TIMEOUT)
        kind = ClientHandshake if native.IN_MEMORY else Handshake
        self._handshake = kind(self._reactor, sock, connection, self._over, self._fail)
        self._handshake.begin()
        return self._sock is not None

    def cancel(self) -> None:
        """Give up: neither ``done`` nor ``failed`` is called any more."""
        sock = self._take()
        if sock is not None:
            self._handshake.cancel()
            sock.close()

    def _over(self) -> None:
        """The handshake is over; the rest is up to us."""
        connection = self._connection
        held = self._offered
        again = held is not None and native.reused(connection)
        try:
            if again:
                assert held is not None
                judged: float | str = held.until
            else:
                judged = self._tls.judge(connection, self._name, self._peer)
        except Exception:
            # A certificate that passed OpenSSL and cannot be read.
            drain()
            log.err(None, "verifying an endpoint's certificate")
            judged = "the certificate cannot be read"
        if isinstance(judged, str):
            native.shutdown(connection)
            self._fail(judged)
            return
        sock = self._take()
        if sock is None:
            return
        self._tls.succeeded(again)
        transport = ClientTransport(self._reactor, sock, self._peer, connection)
        if self._resume:
            await_session(transport, self._context, self._endpoint, self._name, judged)
        self._done(transport)

    def _fail(self, reason: str) -> None:
        sock = self._take()
        if sock is None:
            return
        if reason == TIMEOUT and self._call is not None:
            self._handshake.cancel()
        sock.close()
        # A session that was in the way must not be so again.
        if self._offered is not None and self._endpoint.session is self._offered:
            self._endpoint.session = None
        self._tls.refused(reason)
        self._failed(reason)

    def _take(self) -> socket.socket | None:
        sock, self._sock = self._sock, None
        if sock is not None and self._call is not None and self._call.active():
            self._call.cancel()
        return sock


def _host(peer: SocketAddress) -> str:
    """The address of an endpoint without a name, as text; empty for UNIX sockets."""
    return "" if isinstance(peer, (str, bytes)) else str(peer[0])


def _is_address(name: bytes) -> bool:
    # No top-level domain is a number, and none has a colon.
    return b":" in name or name.rpartition(b".")[2].isdigit()

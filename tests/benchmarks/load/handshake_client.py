"""The client for handshakes: so many connections at a time, each closed when its handshake is over.

A handshake counts once the server has answered the client's close_notify by closing: it has then
read the client's Finished and what came after it, so nothing is counted that it has not ended.
(A session ticket would not do as a sign: BoringSSL's servers send it with their first data.)
Every connection is TLS 1.3 and was resumed, or was not, as it should be; one that was not makes
the run fail.  With ``--path`` each asks for that once, and counts when it was answered with 200
and closed.

Prints one JSON line: handshakes, seconds, p50_ms and p99_ms (from connect to the end), cipher
(and group).  Exits with status 1, saying why, when a connection fails.
"""

from __future__ import annotations

import argparse
import errno
import json
import select
import socket
import sys
import time
from typing import Any

# pyOpenSSL and not Python's ssl: the OpenSSL that comes with it shakes hands in 0.6 of the time
# of Debian's, and the client should have more hands than the server.
from OpenSSL import SSL

_TIMEOUT = 10.0
_CONNECTING = (0, errno.EINPROGRESS)


_lib: Any = SSL._lib  # type: ignore[attr-defined]  # SSL_session_reused has no other name


class HandshakeError(Exception):
    """The server refused, or agreed on something else than was wanted."""


class Load:
    """Keeps ``connections`` handshakes under way; ``latencies`` in seconds, one a handshake."""

    def __init__(
        self, port: int, name: str, connections: int, *, resume: bool = False, path: str = ""
    ):
        # Whom it meets was verified by the benchmark's probe.
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._address = ("127.0.0.1", port)
        self._name = name.encode()
        self._request = self._get(path) if path else b""
        self._connections = connections
        self._resume = resume
        self._session: SSL.Session | None = None
        self._poll = select.epoll()
        self._open: dict[int, tuple[SSL.Connection, float]] = {}
        self._shaken: set[int] = set()
        self._answered: set[int] = set()
        self.latencies: list[float] = []
        self.cipher = ""

    def run(self, seconds: float) -> float:
        """Load the server; the seconds it took until the last connection was closed."""
        if self._resume:
            self._learn()
        start = time.monotonic()
        deadline = start + seconds
        for _ in range(self._connections):
            self._connect()
        while self._open:
            events = self._poll.poll(_TIMEOUT)
            if not events:
                raise HandshakeError(f"nothing came for {_TIMEOUT:g} s")
            for descriptor, _ in events:
                if self._advance(descriptor) and time.monotonic() < deadline:
                    self._connect()
        return time.monotonic() - start

    def _get(self, path: str) -> bytes:
        return (
            f"GET {path} HTTP/1.1\r\nHost: {self._name.decode()}\r\nConnection: close\r\n\r\n"
        ).encode()

    def _learn(self) -> None:
        """One full handshake and a request, whose answer a ticket comes with at the latest."""
        with socket.create_connection(self._address, _TIMEOUT) as plain:
            plain.settimeout(None)
            secured = self._secured(plain)
            secured.do_handshake()
            secured.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % self._name)
            secured.recv(65536)
            self._session = secured.get_session()
            secured.shutdown()

    def _secured(self, plain: socket.socket) -> SSL.Connection:
        secured = SSL.Connection(self._context, plain)
        secured.set_tlsext_host_name(self._name)
        if self._session is not None:
            secured.set_session(self._session)
        secured.set_connect_state()
        return secured

    def _connect(self) -> None:
        plain = socket.socket()
        plain.setblocking(False)
        # What follows the Finished must not wait for its acknowledgement.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        if (number := plain.connect_ex(self._address)) not in _CONNECTING:
            raise OSError(number, "the connection failed")
        self._open[plain.fileno()] = (self._secured(plain), began)
        self._poll.register(plain, select.EPOLLOUT)

    def _advance(self, descriptor: int) -> bool:
        """Whether this connection is over."""
        secured, began = self._open[descriptor]
        try:
            if descriptor not in self._shaken:
                secured.do_handshake()
                self._check(secured)
                self._shaken.add(descriptor)
                self._poll.modify(descriptor, select.EPOLLIN)
                if self._request:
                    secured.sendall(self._request)
                else:
                    secured.shutdown()
            while True:
                self._received(descriptor, secured.recv(65536))
        except SSL.WantReadError:
            self._poll.modify(descriptor, select.EPOLLIN)
            return False
        except SSL.WantWriteError:
            return False
        except SSL.Error as error:
            # How it is closed differs, with a close_notify or without; an alert is a failure.
            if descriptor not in self._shaken or "alert" in str(error):
                raise
        if self._request:
            if descriptor not in self._answered:
                raise HandshakeError("a request was not answered")
            self._answered.remove(descriptor)
        self.latencies.append(time.monotonic() - began)
        self._shaken.discard(descriptor)
        del self._open[descriptor]
        secured.close()
        return True

    def _received(self, descriptor: int, data: bytes) -> None:
        """The answer's first bytes tell that it is one; without a request, nobody looks."""
        if self._request and descriptor not in self._answered:
            if not data.startswith(b"HTTP/1.1 200 "):
                raise HandshakeError(f"the answer was {data[:200]!r}")
            self._answered.add(descriptor)

    def _check(self, secured: SSL.Connection) -> None:
        """Raise unless what was agreed on is what is measured."""
        if (version := secured.get_protocol_version_name()) != "TLSv1.3":
            raise HandshakeError(f"{version} was negotiated")
        if (reused := bool(_lib.SSL_session_reused(secured._ssl))) is not self._resume:
            raise HandshakeError(f"resumed: {reused}")
        agreed = f"{secured.get_cipher_name()} {secured.get_group_name()}"
        if agreed != self.cipher:
            if self.cipher:
                raise HandshakeError(f"{self.cipher} and {agreed} were agreed on")
            self.cipher = agreed


def main() -> None:
    """Run the load and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--name", required=True, help="the server name that is asked for")
    parser.add_argument("--resume", action="store_true", help="resume one session every time")
    parser.add_argument("--path", default="", help="ask for this on every connection")
    options = parser.parse_args()
    load = Load(
        options.port,
        options.name,
        options.connections,
        resume=options.resume,
        path=options.path,
    )
    try:
        seconds = load.run(options.seconds)
    except (OSError, HandshakeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except SSL.Error as error:
        sys.exit(f"a handshake failed: {error}")
    latencies = sorted(load.latencies)
    result = {
        "handshakes": len(latencies),
        "seconds": seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1e3,
        "cipher": load.cipher,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The client for handshakes: so many connections at a time, each closed when its handshake is over.

A handshake counts once the server has answered the client's close_notify by closing: it has then
read the client's Finished and what came after it, so nothing is counted that it has not ended.
(A session ticket would not do as a sign: BoringSSL's servers send it with their first data.)
Every connection is TLS 1.3 and was resumed, or was not, as it should be; one that was not makes
the run fail.

Prints one JSON line: handshakes, seconds, p50_ms and p99_ms (from connect to the end), cipher.
Exits with status 1, saying why, when a connection fails.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import ssl
import sys
import time

_TIMEOUT = 10.0


class HandshakeError(Exception):
    """The server refused, or agreed on something else than was wanted."""


def context() -> ssl.SSLContext:
    """TLS 1.3 only; whom the server is was verified by the benchmark's probe."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_3
    return made


class Load:
    """Keeps ``connections`` handshakes under way; ``latencies`` in seconds, one a handshake."""

    def __init__(self, port: int, name: str, connections: int, *, resume: bool):
        self._context = context()
        self._port = port
        self._name = name
        self._connections = connections
        self._resume = resume
        self._session: ssl.SSLSession | None = None
        self._poll = select.epoll()
        self._open: dict[int, tuple[ssl.SSLSocket, float]] = {}
        self._shaken: set[int] = set()
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

    def _learn(self) -> None:
        """One full handshake and a request, whose answer a ticket comes with at the latest."""
        with (
            socket.create_connection(("127.0.0.1", self._port), _TIMEOUT) as plain,
            self._context.wrap_socket(plain, server_hostname=self._name) as secured,
        ):
            secured.sendall(
                f"GET / HTTP/1.1\r\nHost: {self._name}\r\nConnection: close\r\n\r\n".encode()
            )
            if not secured.recv(65536):
                raise HandshakeError("a request was not answered")
            self._session = secured.session
        if self._session is None or not self._session.has_ticket:
            raise HandshakeError("the server gave no session ticket")

    def _connect(self) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(False)
        began = time.monotonic()
        if plain.connect_ex(("127.0.0.1", self._port)) not in (0, 115):
            raise HandshakeError("the connection was refused")
        secured = self._context.wrap_socket(
            plain,
            server_hostname=self._name,
            do_handshake_on_connect=False,
            session=self._session,
        )
        descriptor = secured.fileno()
        self._open[descriptor] = (secured, began)
        self._poll.register(descriptor, select.EPOLLOUT | select.EPOLLIN)
        self._poll.modify(descriptor, select.EPOLLOUT)

    def _advance(self, descriptor: int) -> bool:
        """Whether this connection is over."""
        secured, began = self._open[descriptor]
        try:
            if descriptor not in self._shaken:
                secured.do_handshake()
                self._check(secured)
                self._shaken.add(descriptor)
                self._poll.modify(descriptor, select.EPOLLIN)
            secured.unwrap()  # sends close_notify, once, and waits for that of the server
        except ssl.SSLWantReadError:
            self._poll.modify(descriptor, select.EPOLLIN)
            return False
        except ssl.SSLWantWriteError:
            return False
        except (ssl.SSLError, ConnectionResetError) as error:
            # Closed without a close_notify, or tickets before it: rude, and common.
            if descriptor not in self._shaken or not _is_an_end(error):
                raise
        self.latencies.append(time.monotonic() - began)
        self._shaken.discard(descriptor)
        del self._open[descriptor]
        secured.close()
        return True

    def _check(self, secured: ssl.SSLSocket) -> None:
        """Raise unless what was agreed on is what is measured."""
        if secured.version() != "TLSv1.3":
            raise HandshakeError(f"{secured.version()} was negotiated")
        if secured.session_reused is not self._resume:
            raise HandshakeError(f"resumed: {secured.session_reused}")
        agreed = secured.cipher()
        name = agreed[0] if agreed else "none"
        if name != self.cipher:
            if self.cipher:
                raise HandshakeError(f"{self.cipher} and {name} were negotiated")
            self.cipher = name


def _is_an_end(error: OSError) -> bool:
    return not isinstance(error, ssl.SSLError) or (
        isinstance(error, ssl.SSLEOFError)
        or error.reason in ("APPLICATION_DATA_AFTER_CLOSE_NOTIFY", "UNEXPECTED_EOF_WHILE_READING")
    )


def main() -> None:
    """Run the load and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--name", required=True, help="the server name that is asked for")
    parser.add_argument("--resume", action="store_true", help="resume one session every time")
    options = parser.parse_args()
    load = Load(options.port, options.name, options.connections, resume=options.resume)
    try:
        seconds = load.run(options.seconds)
    except (OSError, HandshakeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
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

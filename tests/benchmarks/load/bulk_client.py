"""The client for bulk TCP: its connections all download or all upload, for the same seconds.

Prints one JSON line: bytes (that arrived: counted here when they come down, by the server when
they go up) and seconds (from the first connection to the last byte).  Exits with status 1,
saying why, when a connection fails or an upload's bytes did not all arrive.  With ``--tls NAME``
every connection is TLS 1.3; uploads go in pieces then, since Python's TLS cannot half-close.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import sys
import threading
import time

from tests.benchmarks.load.bulk_server import CHUNK, DOWN, PIECE, PIECES, UP, discard

_TIMEOUT = 30.0


class Transfer(threading.Thread):
    """One connection; ``total`` bytes moved, ``failure`` says what went wrong."""

    def __init__(self, port: int, direction: bytes, deadline: float, name: str = ""):
        super().__init__(daemon=True)
        self._name = name
        self._port = port
        self._direction = direction
        self._deadline = deadline
        self.total = 0
        self.failure = ""

    def run(self) -> None:
        """Move bytes until the deadline (time.monotonic seconds)."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), _TIMEOUT) as connection:
                if self._name:
                    self._secured(connection)
                    return
                # A timeout by the kernel keeps the socket blocking: no poll() beside each call.
                connection.settimeout(None)
                connection.sendall(self._direction)
                if self._direction == DOWN:
                    self._download(connection)
                else:
                    self._upload(connection)
        except (OSError, ValueError) as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _secured(self, plain: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the benchmark's probe has verified it
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with context.wrap_socket(plain, server_hostname=self._name) as connection:
            connection.settimeout(None)
            if self._direction == DOWN:
                connection.sendall(DOWN)
                buffer = bytearray(CHUNK)
                while time.monotonic() < self._deadline:
                    count = connection.recv_into(buffer)
                    if not count:
                        raise ConnectionError("the stream ended early")
                    self.total += count
                return
            connection.sendall(PIECES)
            chunk = bytes(CHUNK)
            sent = 0
            while time.monotonic() < self._deadline:
                for _ in range(PIECE // CHUNK):
                    connection.sendall(chunk)
                sent += 1
            connection.settimeout(_TIMEOUT)
            arrived = 0
            while arrived < sent:
                piece = connection.recv(sent)
                if not piece:
                    raise ConnectionError(f"{sent} pieces were sent and {arrived} arrived")
                arrived += len(piece)
            self.total = arrived * PIECE

    def _download(self, connection: socket.socket) -> None:
        buffer = bytearray(CHUNK)
        while time.monotonic() < self._deadline:
            count = discard(connection, buffer)
            if not count:
                raise ConnectionError("the stream ended early")
            self.total += count

    def _upload(self, connection: socket.socket) -> None:
        chunk = bytes(CHUNK)
        sent = 0
        while time.monotonic() < self._deadline:
            connection.sendall(chunk)
            sent += len(chunk)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_TIMEOUT)
        answer = b""
        while piece := connection.recv(8):
            answer += piece
        self.total = int.from_bytes(answer, "big")
        if self.total != sent:
            raise ValueError(f"{sent} bytes were sent and {self.total} arrived")


def main() -> None:
    """Run the transfers and print what they moved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--up", action="store_true", help="upload; otherwise download")
    parser.add_argument("--tls", default="", metavar="NAME", help="over TLS 1.3, to this name")
    options = parser.parse_args()
    start = time.monotonic()
    transfers = [
        Transfer(options.port, UP if options.up else DOWN, start + options.seconds, options.tls)
        for _ in range(options.connections)
    ]
    for transfer in transfers:
        transfer.start()
    for transfer in transfers:
        transfer.join(options.seconds + 2 * _TIMEOUT)
        if transfer.is_alive():
            transfer.failure = "it never ended"
    seconds = time.monotonic() - start
    failures = [transfer.failure for transfer in transfers if transfer.failure]
    if failures:
        sys.exit("; ".join(failures))
    moved = {"bytes": sum(transfer.total for transfer in transfers), "seconds": seconds}
    print(json.dumps(moved))


if __name__ == "__main__":
    main()

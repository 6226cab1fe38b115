"""The backend for bodies: answers GET /…/SIZE with so many bytes, and takes those of a PUT.

It knows as much of HTTP/1.1 as proxies send it: a head, a body with a length or in chunks.  An
upload is answered when its last byte is there, never before, with the count of its bytes.  With
a certificate it speaks TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import ssl
import threading

CHUNK = 1 << 18
MOST = 1 << 28
_ZEROS = bytes(CHUNK)


class Bodies:
    """One connection: requests one after another until the client leaves."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._buffer = bytearray(CHUNK)
        self._early = b""  # read and not used yet

    def serve(self) -> None:
        """Answer until the end of the stream."""
        while head := self._until(b"\r\n\r\n"):
            line, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = line.split(" ")
            fields = {
                name.lower(): value.strip() for name, _, value in (i.partition(":") for i in lines)
            }
            if fields.get("transfer-encoding") == "chunked":
                taken = self._chunks()
            else:
                taken = self._discard(int(fields.get("content-length", "0")))
            if method == "GET":
                self._send(min(int(target.rpartition("/")[2] or "0"), MOST))
            else:
                self._answer(str(taken).encode())

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._early:
            data = self._connection.recv(65536)
            if not data:
                return b""
            self._early += data
        found, _, self._early = self._early.partition(mark)
        return found

    def _discard(self, count: int) -> int:
        used = min(count, len(self._early))
        self._early = self._early[used:]
        left = count - used
        view = memoryview(self._buffer)
        while left:
            read = self._connection.recv_into(view[: min(left, CHUNK)])
            if not read:
                raise ConnectionError("the upload ended early")
            left -= read
        return count

    def _chunks(self) -> int:
        taken = 0
        while True:
            size = int(self._until(b"\r\n").partition(b";")[0], 16)
            taken += self._discard(size)
            self._discard(2)
            if not size:
                return taken

    def _answer(self, body: bytes) -> None:
        self._connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

    def _send(self, size: int) -> None:
        self._connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            piece = _ZEROS if left >= CHUNK else _ZEROS[:left]
            self._connection.sendall(piece)
            left -= len(piece)


def serve(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    """One connection; a client that goes away, even within a handshake, ends it quietly."""
    with contextlib.suppress(OSError), connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            Bodies(connection).serve()
        else:
            with context.wrap_socket(connection, server_side=True) as secured:
                Bodies(secured).serve()


def main() -> None:
    """Serve 127.0.0.1:PORT until killed, a thread a connection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", help="a file with chain and key")
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    with socket.create_server(("127.0.0.1", options.port), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, context), daemon=True).start()


if __name__ == "__main__":
    main()

"""The backend for bulk TCP: streams to, or sinks from, whoever connects, at little cost of its own.

The protocol: the client's first byte chooses.  ``D``: the server sends until the client closes.
``U``: the server reads until the client's FIN, then answers with the count of bytes it read (8
bytes, big-endian, the first byte not counted) and closes; a proxy that loses a half-close loses
that answer.  ``P``: the server reads pieces of PIECE bytes and sends one byte after each; so an
upload can be seen to arrive where half a connection cannot be closed, as in Python's TLS.

Reading costs no copy (MSG_TRUNC discards within the kernel); sending is plain send() of one
buffer, as a server's would be, so that what the proxy splices is memory of the socket and not of
a file.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading

CHUNK = 1 << 20
DOWN = b"D"
UP = b"U"
PIECES = b"P"
PIECE = 8 << 20


def discard(connection: socket.socket, buffer: bytearray | memoryview) -> int:
    """Read and throw away up to len(buffer) bytes; 0 at the end of the stream."""
    return connection.recv_into(buffer, len(buffer), socket.MSG_TRUNC)


def serve(connection: socket.socket) -> None:
    """One connection from its first byte to its end; a client that goes away ends it quietly."""
    with connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wanted = connection.recv(1)
        if wanted == DOWN:
            chunk = bytes(CHUNK)
            while True:
                connection.sendall(chunk)
        elif wanted == UP:
            buffer = bytearray(CHUNK)
            total = 0
            while count := discard(connection, buffer):
                total += count
            connection.sendall(total.to_bytes(8, "big"))
        elif wanted == PIECES:
            buffer = bytearray(CHUNK)
            left = PIECE
            while count := discard(connection, memoryview(buffer)[: min(left, CHUNK)]):
                left -= count
                if not left:
                    connection.sendall(PIECES)
                    left = PIECE


def main() -> None:
    """Serve 127.0.0.1:PORT until killed, a thread a connection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()

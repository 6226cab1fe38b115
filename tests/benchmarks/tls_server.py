"""A small TLS server for the tests of the benchmark's own parts."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from tests.benchmarks.process import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.plan import Identity


def server_context(identity: Identity) -> ssl.SSLContext:
    """With the identity's certificate, else Python's defaults."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.both)
    return context


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A thread a connection, each with ``serve``; the port.  OSErrors end a connection."""

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            serve(connection)

    with socket.create_server((HOST, 0), backlog=64) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)


def answering(context: ssl.SSLContext, answer: bytes = b"") -> Callable[[socket.socket], None]:
    """Handshake, answer each read with ``answer``, until the client says that it leaves."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            while secured.recv(65536):
                secured.sendall(answer)
            secured.unwrap()

    return serve


def once(context: ssl.SSLContext, answer: bytes) -> Callable[[socket.socket], None]:
    """Handshake, read a request, answer it, leave."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(answer)
            secured.unwrap()

    return serve

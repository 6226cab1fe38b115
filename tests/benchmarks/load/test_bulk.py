"""The bulk server and client, against each other."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import identity
from tests.benchmarks.load.bulk_server import CHUNK, DOWN, PIECE, PIECES, UP, serve
from tests.benchmarks.proxies.meshproxy import ROOT
from tests.benchmarks.tls_server import server_context, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[int]:
    """A bulk server in threads of this process; its port."""
    with serving(serve) as port:
        yield port


def test_an_upload_is_counted_and_answered_after_half_close(server: int) -> None:
    """The count comes back over the half that stayed open."""
    with socket.create_connection(("127.0.0.1", server), 10) as connection:
        connection.sendall(UP + b"x" * (CHUNK + 17))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(64):
            answer += piece
    assert int.from_bytes(answer, "big") == CHUNK + 17


def test_every_piece_of_an_upload_is_acknowledged(server: int) -> None:
    """One byte a piece, as soon as the piece is there, and none for what is not whole."""
    with socket.create_connection(("127.0.0.1", server), 10) as connection:
        connection.sendall(PIECES + b"x" * PIECE)
        assert connection.recv(8) == PIECES
        connection.sendall(b"x" * (2 * PIECE - 1))
        assert connection.recv(8) == PIECES
        connection.sendall(b"x")
        assert connection.recv(8) == PIECES


def test_a_download_lasts_until_the_client_leaves(server: int) -> None:
    """More than one chunk arrives, and leaving is no error for the server."""
    with socket.create_connection(("127.0.0.1", server), 10) as connection:
        connection.sendall(DOWN)
        received = 0
        while received < 2 * CHUNK:
            received += len(connection.recv(CHUNK))
    assert received >= 2 * CHUNK


@pytest.mark.parametrize("direction", [[], ["--up"]])
def test_the_client_reports_what_it_moved(server: int, direction: list[str]) -> None:
    """Both directions end, and print their bytes and seconds."""
    argv = [sys.executable, "-m", "tests.benchmarks.load.bulk_client", "--port", str(server)]
    argv += ["--seconds", "0.1", "--connections", "2", *direction]
    finished = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    moved = json.loads(finished.stdout)
    assert moved["bytes"] > 0
    assert moved["seconds"] > 0


@pytest.mark.parametrize("direction", [[], ["--up"]])
def test_the_client_speaks_tls(direction: list[str], tmp_path: Path) -> None:
    """Both directions over TLS; an upload's pieces are each acknowledged by the server."""
    who = identity.make(tmp_path, "ec")
    context = server_context(who)

    def secured(connection: socket.socket) -> None:
        """As the bulk server behind a proxy that ends TLS."""
        with context.wrap_socket(connection, server_side=True) as stream:
            assert stream.recv(1) == (PIECES if direction else DOWN)
            total = 0
            while not direction:
                stream.sendall(bytes(CHUNK))
            while data := stream.recv(CHUNK):
                before, total = total, total + len(data)
                stream.sendall(PIECES * (total // PIECE - before // PIECE))

    argv = [sys.executable, "-m", "tests.benchmarks.load.bulk_client", "--tls", who.name]
    argv += ["--seconds", "0.05", "--connections", "1", *direction]
    with serving(secured) as port:
        finished = subprocess.run(
            [*argv, "--port", str(port)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    moved = json.loads(finished.stdout)["bytes"]
    assert moved > 0
    assert moved % PIECE == 0 or not direction


def test_the_client_fails_when_nobody_serves() -> None:
    """A refused connection is status 1 with the reason, never a figure."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    argv = [sys.executable, "-m", "tests.benchmarks.load.bulk_client", "--port", str(port)]
    argv += ["--seconds", "0.1", "--connections", "1"]
    finished = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 1
    assert "ConnectionRefusedError" in finished.stderr
    assert finished.stdout == ""

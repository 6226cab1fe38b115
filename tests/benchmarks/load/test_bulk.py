"""The bulk server and client, against each other."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.load.bulk_server import CHUNK, DOWN, UP, serve
from tests.benchmarks.proxies.meshproxy import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[int]:
    """A bulk server in threads of this process; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)


def test_an_upload_is_counted_and_answered_after_half_close(server: int) -> None:
    """The count comes back over the half that stayed open."""
    with socket.create_connection(("127.0.0.1", server), 10) as connection:
        connection.sendall(UP + b"x" * (CHUNK + 17))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(64):
            answer += piece
    assert int.from_bytes(answer, "big") == CHUNK + 17


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

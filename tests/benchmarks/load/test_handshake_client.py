"""The handshake client against servers that do, and do not, what is measured."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from tests.benchmarks import identity
from tests.benchmarks.load.handshake_client import HandshakeError, Load
from tests.benchmarks.proxies.meshproxy import ROOT
from tests.benchmarks.tls_server import answering, once, server_context, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.plan import Identity

ANSWER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
SECONDS = 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Who the servers are."""
    return identity.make(tmp_path_factory.mktemp("identity"), "ec")


@pytest.mark.parametrize("resume", [False, True])
def test_handshakes_are_counted_one_a_connection(server: Identity, *, resume: bool) -> None:
    """Full or resumed, as wanted; the first ones, that give the session, are not counted."""
    context = server_context(server)
    with serving(answering(context, ANSWER)) as port:
        load = Load(port, server.name, 4, resume=resume)
        assert load.run(SECONDS) >= SECONDS
    assert len(load.latencies) >= 4
    stats = context.session_stats()
    assert stats["accept_good"] == len(load.latencies) + resume
    assert stats["hits"] == (len(load.latencies) if resume else 0)
    assert load.cipher.startswith("TLS_")


def test_a_lower_version_is_a_failure(server: Identity) -> None:
    """A server without TLS 1.3 is not measured as if it had it."""
    context = server_context(server)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(answering(context)) as port, pytest.raises(SSL.Error, match=r"(?i)version"):
        Load(port, server.name, 2, resume=False).run(SECONDS)


def test_a_request_is_answered_or_the_run_fails(server: Identity) -> None:
    """With a path, a connection counts when its answer is a 200, and not otherwise."""
    right = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with serving(once(server_context(server), right)) as port:
        load = Load(port, server.name, 2, path="/thing")
        load.run(SECONDS)
    assert len(load.latencies) >= 2
    with (
        serving(once(server_context(server), ANSWER)) as port,
        pytest.raises(HandshakeError, match="404 Not Found"),
    ):
        Load(port, server.name, 2, path="/thing").run(SECONDS)
    with (
        serving(once(server_context(server), b"")) as port,
        pytest.raises(HandshakeError, match="not answered"),
    ):
        Load(port, server.name, 2, path="/thing").run(SECONDS)


def test_an_alert_after_the_handshake_is_a_failure(server: Identity) -> None:
    """The client is done first: a server that then refuses it has ended no handshake."""
    context = server_context(server)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(server.authority)
    with serving(answering(context)) as port, pytest.raises(SSL.Error, match="alert"):
        Load(port, server.name, 2).run(SECONDS)


def test_a_server_that_resumes_nothing_is_a_failure(server: Identity) -> None:
    """Tickets that are not given, or not taken, make no resumed handshakes."""
    context = server_context(server)
    context.num_tickets = 0
    with (
        serving(answering(context, ANSWER)) as port,
        pytest.raises(HandshakeError, match="resumed: False"),
    ):
        Load(port, server.name, 2, resume=True).run(SECONDS)

    def forgetful(connection: object) -> None:
        answering(server_context(server), ANSWER)(connection)  # type: ignore[arg-type]

    with serving(forgetful) as port, pytest.raises(HandshakeError, match="resumed: False"):
        Load(port, server.name, 2, resume=True).run(SECONDS)


def test_a_server_that_is_not_there_is_a_status_and_a_reason(
    server: Identity, tmp_path: Path
) -> None:
    """As a program: 1 and the reason, no figures; with a server: one line of JSON."""
    argv = [sys.executable, "-m", "tests.benchmarks.load.handshake_client", "--port", "PORT"]
    argv += ["--seconds", str(SECONDS), "--connections", "2", "--name", server.name]

    def run(port: int) -> subprocess.CompletedProcess[str]:
        argv[4] = str(port)
        return subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
            env=dict(identity.offer(tmp_path)),
        )  # fmt: skip

    with serving(answering(server_context(server))) as port:
        found = run(port)
        assert found.returncode == 0, found.stderr
        result = json.loads(found.stdout)
    # Neither of them is OpenSSL's own first choice.
    assert result["cipher"] == f"{identity.CIPHER} x25519"
    assert result["handshakes"] >= 2
    assert result["p99_ms"] >= result["p50_ms"] > 0
    absent = run(port)
    assert absent.returncode == 1
    assert "ECONNREFUSED" in absent.stderr
    assert absent.stdout == ""

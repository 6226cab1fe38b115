"""The demonstration mesh."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from twisted.internet.testing import StringTransport

from meshproxy import config
from meshproxy.demo import Echo, EchoService, Ports, configuration, welcome
from meshproxy.errors import ListenError
from tests import harness
from tests.harness import HOST, Server, echo

# ``twistd -n meshproxy`` has fixed ports; the same service on others, in twistd's own words.
SCRIPT = """
    import sys
    from twisted.scripts.twistd import run
    from meshproxy import demo
    ports = demo.Ports(*map(int, sys.argv[1:]))
    plain = demo.demonstration
    demo.demonstration = lambda: plain(ports)
    sys.argv[:] = ["twistd", "-n", "--pidfile=", "meshproxy"]
    run()
"""


def command(ports: list[int]) -> list[str]:
    """A process that runs the demonstration on these ports."""
    return [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, ports)]


@contextmanager
def running(directory: Path) -> Iterator[tuple[Ports, Path, subprocess.Popen[bytes]]]:
    """The demonstration on free ports: the ports, its standard output, the process."""
    numbers = harness.free_ports(8)
    ports = Ports(*numbers)
    output = directory / "output"
    with open(output, "wb") as out:
        process = subprocess.Popen(
            command(numbers),
            cwd=directory,
            env=harness.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + harness.PATIENCE
        while "curl http://" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        yield ports, output, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(harness.PATIENCE)


def get(port: int, path: str, authority: str | None = None) -> tuple[int, bytes]:
    """Status and body of a GET over a connection of its own; with an authority, over TLS."""
    connection = http.client.HTTPConnection(HOST, port, timeout=harness.PATIENCE)
    if authority is not None:
        context = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection(
            HOST, port, timeout=harness.PATIENCE, context=context
        )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_it_proxies_and_says_what_to_try(tmp_path: Path) -> None:
    """HTTP over both upstreams in turn, TCP to the echo, the admin; and its words name them."""
    with running(tmp_path) as (ports, output, process):
        bodies = {get(ports.http, "/")[1] for _ in range(2)}
        assert bodies == {b"hello from upstream one\n", b"hello from upstream two\n"}
        assert get(ports.http, "/healthz") == (200, b"ok\n")
        assert get(ports.http, "/docs")[0] == 302
        assert get(ports.admin, "/ready")[0] == 200
        with harness.connect(ports.tcp) as sock:
            sock.sendall(b"hello" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            assert harness.read_to_end(sock) == b"hello" * 100_000
        text = output.read_text()
        assert f"curl http://{HOST}:{ports.http}/ " in text
        assert f"telnet://{HOST}:{ports.tcp}" in text
        assert f"curl http://{HOST}:{ports.admin}/metrics" in text
        process.terminate()
        assert process.wait(harness.PATIENCE) == -signal.SIGTERM
        assert "Traceback" not in output.read_text()


@pytest.mark.parametrize(
    ("place", "name"),
    [(0, "listener 'web'"), (1, "listener 'echo'"), (2, "listener 'upstream-one'"),
     (4, "listener 'the echo upstream'"), (5, "listener 'admin'"),
     (6, "listener 'upstream-broken'"), (7, "listener 'secure'")],
)  # fmt: skip
def test_a_busy_port_is_one_clear_line(
    place: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whichever port is taken, the listener is named, the status 1, and nothing else is said; nor are
    certificates left behind.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Server(echo) as taken:
        numbers = harness.free_ports(8)
        numbers[place] = taken.port
        ended = harness.command(command(numbers), tmp_path)
    assert ended.returncode == 1
    address = f"{HOST}:{taken.port}"
    assert ended.stderr == f"meshproxy: {name} cannot listen on {address}: Address already in use\n"
    assert "Traceback" not in ended.stdout
    assert "curl" not in ended.stdout
    assert list(tmp_path.glob("meshproxy-*")) == []


def test_it_speaks_tls(tmp_path: Path) -> None:
    """Its certificate is good for what its words name, and is gone when it is."""
    with running(tmp_path) as (ports, output, process):
        told = re.search(r"curl --cacert (\S+) https://(\S+)/", output.read_text())
        assert told is not None
        authority, address = told.groups()
        assert address == f"{HOST}:{ports.https}"
        status, body = get(ports.https, "/", authority)
        assert (status, body[:19]) == (200, b"hello from upstream")
        assert get(ports.https, "/")[0] == 400
        process.terminate()
        assert process.wait(harness.PATIENCE) == -signal.SIGTERM
        assert not Path(authority).parent.exists()


def test_its_configuration_is_good() -> None:
    """The configuration is one that a file could hold, on loopback only, without a warning."""
    loaded = config.load(configuration(Ports(), Path("/certs")), "demo")
    assert not loaded.warnings
    listeners = loaded.configuration.listeners
    assert {listener.listen.host for listener in listeners.values()} == {HOST}
    assert listeners["web"].listen.port == 8080
    assert listeners["echo"].listen.port == 8081
    assert loaded.configuration.admin is not None
    assert loaded.configuration.admin.listen.port == 9901


def test_it_hides_what_is_broken(tmp_path: Path) -> None:
    """One of two upstreams always fails: every request is answered, and its breaker opens."""
    with running(tmp_path) as (ports, _, _):
        for _ in range(10):
            assert get(ports.http, "/shaky") == (200, b"hello from upstream one\n")
        metrics = get(ports.admin, "/metrics")[1].decode()
        opened = 'meshproxy_cluster_ejections_total{cluster="shaky",reason="consecutive"} 1.0'
        assert opened in metrics
        retries = re.search(r'cluster_retries_total\{cluster="shaky"\} (\S+)', metrics)
        assert retries is not None
        assert 3 <= float(retries[1]) < 10  # the breaker's threshold, and a probe now and then
        assert 'cluster_endpoints{cluster="site",state="healthy"} 2.0' in metrics


def test_the_welcome_names_what_was_bound() -> None:
    """The commands are made of the addresses that were bound, not of constants."""
    bound = {"web": 1, "echo": 2, "admin": 3, "secure": 4}
    text = welcome({name: f"{HOST}:{port}" for name, port in bound.items()}, Path("/certs/ca.pem"))
    assert "curl http://127.0.0.1:1/ " in text
    assert "curl http://127.0.0.1:1/shaky " in text
    assert "telnet://127.0.0.1:2" in text
    assert "http://127.0.0.1:3/clusters" in text
    assert "--cacert /certs/ca.pem https://127.0.0.1:4/" in text


def test_the_echo_lets_itself_be_paused() -> None:
    """What comes goes back; the transport may pause it; the end comes after the bytes."""
    transport = StringTransport()
    protocol = Echo()
    protocol.makeConnection(transport)
    assert (transport.producer, transport.streaming) == (transport, True)
    protocol.dataReceived(b"abc")
    assert transport.value() == b"abc"
    protocol.readConnectionLost()
    assert transport.producer is None
    assert transport.disconnecting


def test_the_echos_busy_port_is_a_listen_error() -> None:
    """The echo that cannot be bound raises what every listener raises."""
    from twisted.internet import reactor

    with Server(echo) as taken, pytest.raises(ListenError, match="the echo upstream"):
        EchoService(taken.port, reactor).privilegedStartService()

"""The TLS of a whole configuration: made, watched, told of, and its errors placed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python import log

from meshproxy.certificates import Certificates
from meshproxy.config import load
from meshproxy.errors import ConfigError
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Registry
from meshproxy.tls.hello import Hello
from meshproxy.tls.watch import INTERVAL
from tests.tls.authority import Authority

_MESH = """
listeners:
  web:
    listen: 127.0.0.1:0
    tls: { certificates: [{ chain: web.pem, key: web.key }] }
    http: { routes: [{ to: up }] }
clusters:
  up:
    endpoints: ['127.0.0.1:9']
    tls: { ca: ca.pem, certificate: { chain: me.pem, key: me.key } }
"""

_HELLO = Hello(b"web.test", (b"http/1.1",), (0x0304,), b"", False, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the configuration names."""
    authority = Authority()
    authority.write(tmp_path)
    authority.issue("web.test", days=365).write(tmp_path, "web")
    authority.issue("me", client=True, days=365).write(tmp_path, "me")
    return tmp_path


class Made:
    """Certificates of a configuration in a folder, with a clock of the test's own."""

    def __init__(self, folder: Path, text: str = _MESH) -> None:
        self.clock = Clock()
        self.registry = Registry()
        self.loaded = load(text, str(folder / "mesh.yaml"))
        self.certificates = Certificates(
            self.loaded, self.registry, TimerWheel(self.clock), self.clock
        )

    def server(self) -> Any:
        """The TLS of the listener."""
        return self.certificates.server("web", self.loaded.configuration.listeners["web"])

    def client(self) -> Any:
        """The TLS towards the cluster."""
        return self.certificates.client("up", self.loaded.configuration.clusters["up"])


def logged(call: Any) -> str:
    """What was logged while ``call`` ran."""
    lines: list[str] = []
    observer = lambda event: lines.append(str(event.get("message")))  # noqa: E731
    log.addObserver(observer)
    try:
        call()
    finally:
        log.removeObserver(observer)
    return "\n".join(lines)


def test_files_are_relative_to_the_configuration(folder: Path) -> None:
    """Both sides are made of files beside the configuration, wherever the process runs."""
    made = Made(folder)
    assert made.server().contexts.pick(_HELLO) is not None
    assert made.client().trust.pair is not None


def test_where_no_tls_is_there_is_nothing(tmp_path: Path) -> None:
    """Without TLS nothing is made, nothing watched, and no timer runs."""
    text = "listeners: { web: { listen: '127.0.0.1:0', http: { routes: [{ to: up }] } } }\n"
    made = Made(tmp_path, text + "clusters: { up: { endpoints: ['127.0.0.1:9'] } }\n")
    assert made.server() is None
    assert made.client() is None
    made.certificates.start()
    assert not made.clock.getDelayedCalls()
    assert made.certificates.describe() == []
    assert made.certificates.handshakes("web") is None
    made.certificates.stop()


@pytest.mark.parametrize(
    ("gone", "place"),
    [
        ("web.pem", "listeners.web.tls.certificates[0].chain"),
        ("web.key", "listeners.web.tls.certificates[0].key"),
        ("ca.pem", "clusters.up.tls.ca"),
        ("me.key", "clusters.up.tls.certificate.key"),
    ],
)
def test_a_file_that_is_missing_is_an_error_at_its_place(
    folder: Path, gone: str, place: str
) -> None:
    """The error names the option, its line, and the file."""
    (folder / gone).unlink()
    made = Made(folder)
    make = made.server if place.startswith("listeners") else made.client
    with pytest.raises(ConfigError) as caught:
        make()
    (problem,) = caught.value.problems
    assert problem.path == place
    assert gone in problem.message
    assert problem.line > 1


def test_ciphers_that_are_unknown_are_an_error_at_their_place(folder: Path) -> None:
    """What only OpenSSL can judge is an error of the configuration too."""
    made = Made(folder, _MESH.replace("tls: { certif", "tls: { ciphers: [NO-SUCH], certif"))
    with pytest.raises(ConfigError) as caught:
        made.server()
    assert caught.value.problems[0].path.startswith("listeners.web.tls.ciphers")
    assert "NO-SUCH" in caught.value.problems[0].message


def test_a_changed_certificate_is_shown_without_a_restart(folder: Path) -> None:
    """A look after the interval finds the new files; what is broken meanwhile changes nothing."""
    made = Made(folder)
    server = made.server()
    first = server.contexts.pick(_HELLO)
    made.certificates.start()
    (folder / "web.key").write_bytes(b"nothing")
    said = logged(lambda: made.clock.advance(INTERVAL))
    assert "web.key" in said
    assert server.contexts.pick(_HELLO) is first
    Authority("another").issue("web.test", days=365).write(folder, "web")
    made.clock.advance(INTERVAL)
    assert server.contexts.pick(_HELLO) is not first
    made.certificates.stop()
    assert not made.clock.getDelayedCalls()


def test_a_changed_ca_is_believed_without_a_restart(folder: Path) -> None:
    """A cluster takes its files over likewise, and keeps them while new ones are broken."""
    made = Made(folder)
    client = made.client()
    before = client.trust
    made.certificates.start()
    (folder / "ca.pem").write_bytes(b"nothing")
    said = logged(lambda: made.clock.advance(INTERVAL))
    assert "cluster=up" in said
    assert client.trust is before
    Authority("another").write(folder)
    made.clock.advance(INTERVAL)
    assert client.trust is not before
    made.certificates.stop()


@pytest.mark.parametrize(("name", "side"), [("web.key", "server"), ("ca.pem", "client")])
def test_what_could_not_be_read_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, side: str
) -> None:
    """As a file that is the proxy's to read only later, which no look from outside tells."""
    made = Made(folder)
    tls = getattr(made, side)()
    before = tls.contexts.pick(_HELLO) if side == "server" else tls.trust
    made.certificates.start()
    Authority("another").write(folder)
    Authority("another").issue("web.test", days=365).write(folder, "web")
    real = os.open

    def refuse(path: Any, *rest: Any) -> int:
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert "Permission denied" in logged(lambda: made.clock.advance(INTERVAL))
    assert "Permission denied" not in logged(lambda: made.clock.advance(INTERVAL))
    monkeypatch.setattr(os, "open", real)
    said = logged(lambda: made.clock.advance(INTERVAL))
    after = tls.contexts.pick(_HELLO) if side == "server" else tls.trust
    assert after is not before
    assert "taken over" in said
    assert logged(lambda: made.clock.advance(INTERVAL)) == ""
    made.certificates.stop()


def test_changed_files_of_clusters_are_counted_and_told_of(folder: Path) -> None:
    """As those of listeners are: the option, the file, and whether it was taken over."""
    made = Made(folder)
    made.client()
    made.certificates.start()

    def counted() -> dict[str, float]:
        values, families = made.registry.values, made.registry.families
        found = [family for family in families if "_tls_reload" in family.name]
        return {family.name: values[family.series["up",]] for family in found}

    (folder / "ca.pem").write_bytes(b"nothing")
    said = logged(lambda: made.clock.advance(INTERVAL))
    assert "tls cluster=up ca: " in said
    assert "ca.pem holds no PEM" in said
    reloads = "meshproxy_cluster_tls_reloads_total"
    failures = "meshproxy_cluster_tls_reload_failures_total"
    assert counted() == {reloads: 0, failures: 1}
    # Looked at again, and told of once.
    assert logged(lambda: made.clock.advance(INTERVAL)) == ""
    Authority("another").write(folder)
    said = logged(lambda: made.clock.advance(INTERVAL))
    assert "tls cluster=up" in said
    assert "taken over" in said
    assert counted() == {reloads: 1, failures: 1}
    made.certificates.stop()


def test_certificates_are_told_of(folder: Path) -> None:
    """The admin gets those of listeners and of clusters; metrics say when they end."""
    made = Made(folder)
    made.server()
    made.client()
    told = made.certificates.describe()
    assert [entry.get("listener") or entry.get("cluster") for entry in told] == ["web", "up"]
    assert told[0]["names"] == ["web.test"]
    counted = made.certificates.handshakes("web")
    assert counted is not None
    assert counted["handshakes"] == 0


def test_what_ends_soon_is_warned_of(folder: Path) -> None:
    """A certificate with less than 30 days left is named as the proxy starts."""
    Authority().issue("web.test", days=29).write(folder, "web")
    made = Made(folder)
    made.server()
    said = logged(made.certificates.start)
    assert "web.pem" in said
    assert "days_left" in said
    made.certificates.stop()


def test_what_a_listener_says_of_handshakes_is_obeyed(folder: Path) -> None:
    """Its limits, a PROXY header before them, and whether plain HTTP is answered."""
    text = _MESH.replace("tls: { cert", "tls: { handshake_timeout: 3s, max_handshakes: 7, cert", 1)
    made = Made(
        folder, text.replace("    tls: {", "    proxy_protocol: true\n    tls: {", 1)
    ).server()
    assert (made.timeout, made._most, made.proxy_protocol, made.http) == (3.0, 7, True, True)
    text = _MESH.replace("http: { routes: [{ to: up }] }", "tcp: { to: up }")
    made = Made(folder, text).server()
    assert (made.timeout, made._most, made.proxy_protocol, made.http) == (10.0, 4096, False, False)

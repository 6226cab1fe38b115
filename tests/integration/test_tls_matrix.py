"""
The running proxy's TLS, asked by several libraries' clients: openssl, curl, Python, Node and Java,
whichever are here. Each row of the table is a case for each client that can do it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness import HOST, PATIENCE, HttpUpstream, Proxy, read_to_end
from tests.integration.tls_clients import (
    PASSWORD,
    Ask,
    Asker,
    Curl,
    OpenSsl,
    PythonSsl,
    command,
    java,
    node,
)
from tests.integration.wire import eventually, metric
from tests.tls.authority import Authority, Issued

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    tls: { certificates: &all [ $default, $ec, $rsa, $wild ], key_log: keys.log }
    http: &http { routes: [ { respond: { body: hello } } ] }
  refusing:
    listen: '127.0.0.1:$refusing'
    tls: { certificates: *all, unknown_names: refuse }
    http: *http
  untouched:
    listen: '127.0.0.1:$untouched'
    tls: { certificates: *all, tickets: false }
    http: *http
  latest:
    listen: '127.0.0.1:$latest'
    tls: { certificates: *all, min_version: "1.3" }
    http: *http
  mutual:
    listen: '127.0.0.1:$mutual'
    tls:
      certificates: *all
      client_ca: $folder/clients.pem
      client_crl: $folder/clients.crl
      client_names: [ { suffix: .client.example } ]
    http: *http
  optional:
    listen: '127.0.0.1:$optional'
    tls: { certificates: *all, client_ca: $folder/clients.pem, require_client_certificate: false }
    http: *http
  deep:
    listen: '127.0.0.1:$deep'
    tls: { certificates: *all, client_ca: $folder/clients.pem, client_depth: 1 }
    http: *http
  raw:
    listen: '127.0.0.1:$raw'
    tls: { certificates: *all }
    tcp: { to: site }
clusters:
  site: { endpoints: ['127.0.0.1:$site'] }
"""
LISTENERS = ("web", "refusing", "untouched", "latest", "mutual", "optional", "deep", "raw")
ANSWER = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"


@dataclass(frozen=True)
class World:
    """The proxy, and the folder with all certificates."""

    proxy: Proxy
    folder: Path

    def ask(self, listener: str, **how: Any) -> Ask:
        """``ca`` and ``certificate`` are names in the folder."""
        for key in ("ca", "certificate"):
            if key in how:
                how[key] = str(self.folder / how[key])
        return Ask(port=self.proxy.ports[listener], **how)

    def count(self, listener: str, what: str, **labels: str) -> float:
        """A counter of a listener's TLS."""
        name = f"meshproxy_listener_tls_{what}_total"
        return metric(self.proxy, name, listener=listener, **labels)


def _clients(folder: Path) -> None:
    """Certificates of clients: good ones, and one wrong in each way."""
    ours, others = Authority("client CA"), Authority("another CA")
    ours.write(folder, "clients")
    now = datetime.now(UTC)
    below = ours.intermediate("client sub CA")
    made: dict[str, Issued] = {
        "good": ours.issue("good.client.example", client=True),
        "expired": ours.issue("expired.client.example", client=True, days=-1),
        "early": ours.issue(
            "early.client.example", client=True, not_before=now + timedelta(days=1)
        ),
        "foreign": others.issue("foreign.client.example", client=True),
        "revoked": ours.issue("revoked.client.example", client=True),
        "misnamed": ours.issue("good.client.example.org", client=True),
        "server": ours.issue("server.client.example"),
        "below": below.issue("below.client.example", client=True),
        "deep": below.intermediate("client sub sub CA").issue("deep.client.example", client=True),
    }
    for stem, issued in made.items():
        issued.write(folder, stem)
        (folder / f"{stem}.p12").write_bytes(issued.pkcs12(PASSWORD))
    (folder / "clients.crl").write_bytes(ours.crl([made["revoked"]]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One proxy for the module."""
    folder = tmp_path_factory.mktemp("matrix")
    root = Authority("root CA")
    root.write(folder, "ca")
    below = root.intermediate("sub CA")
    own = {
        "default": below.issue("default.example", subject="default"),
        "ec": below.issue("a.example", HOST, subject="exact-ec"),
        "rsa": below.issue("a.example", HOST, subject="exact-rsa", kind="rsa"),
        "wild": below.issue("*.b.example", subject="wild"),
    }
    text = CONFIG
    for stem, issued in own.items():
        chain, key = issued.write(folder, stem)
        (folder / f"{stem}.ocsp").write_bytes(below.ocsp(issued))
        files = f"{{ chain: {chain}, key: {key}, ocsp: {folder}/{stem}.ocsp }}"
        text = text.replace(f"${stem},", f"{files},").replace(f"${stem} ]", f"{files} ]")
    _clients(folder)
    with HttpUpstream(ANSWER) as site:
        config = text.replace("$folder", str(folder))
        with Proxy(config, ports={"site": site.port}) as proxy:
            yield World(proxy, folder)
            assert "Traceback" not in proxy.output


_COMMANDS: list[Asker] = [OpenSsl(), Curl()]
CLIENTS: list[Asker] = [
    PythonSsl(),
    *(one for one in _COMMANDS if shutil.which(one.name) is not None),
    *(one for one in (node(), java()) if one is not None),
]


@pytest.fixture(scope="module", autouse=True)
def _ending() -> Iterator[None]:
    yield
    for one in CLIENTS:
        one.close()


@dataclass(frozen=True)
class Row:
    """
    What is asked of a listener, what must be seen (fields of :class:`Said`), or the alert that
    must come; ``needs``: what a client has to be able to do.
    """

    title: str
    listener: str
    how: dict[str, Any]
    seen: dict[str, Any]
    alert: tuple[str, ...] = ()
    needs: str = ""


def row(title: str, listener: str = "web", needs: str = "", /, **how: Any) -> Row:
    """A row without an end: see :func:`sees` and :func:`gets`."""
    return Row(title, listener, how, {}, (), needs)


def sees(one: Row, **seen: Any) -> Row:
    """``one`` is served."""
    return Row(one.title, one.listener, one.how, seen, (), one.needs)


def gets(one: Row, *alerts: str) -> Row:
    """``one`` is refused with one of these alerts."""
    return Row(one.title, one.listener, one.how, {}, alerts, one.needs)


A = {"name": "a.example", "ca": "ca.pem"}
ROWS = [
    # Versions.
    sees(row("at its best", **A), version="1.3", subject="exact-ec"),
    sees(row("TLS 1.2", **A, version="1.2"), version="1.2", subject="exact-ec"),
    sees(row("TLS 1.3", **A, version="1.3"), version="1.3", subject="exact-ec"),
    gets(row("TLS 1.1", "web", "old", name="a.example", version="1.1"), "protocol version"),
    gets(row("TLS 1.0", "web", "old", name="a.example", version="1.0"), "protocol version"),
    gets(row("TLS 1.2, 1.3 wanted", "latest", **A, version="1.2"), "protocol version"),
    # Names.
    sees(row("wildcard", name="x.b.example", ca="ca.pem"), subject="wild"),
    sees(row("wildcard, 1.2", name="x.b.example", ca="ca.pem", version="1.2"), subject="wild"),
    sees(row("no wildcard of two labels", name="x.y.b.example"), subject="default"),
    sees(row("unknown name", name="c.example"), subject="default"),
    sees(row("no name"), subject="default"),
    sees(row("known name where others are refused", "refusing", **A), subject="exact-ec"),
    sees(row("no name where others are refused", "refusing"), subject="default"),
    gets(row("refused name", "refusing", name="c.example"), "unrecognized name"),
    gets(
        row("refused name, 1.2", "refusing", name="c.example", version="1.2"), "unrecognized name"
    ),
    # Kinds of keys.
    *(
        sees(row(f"{kind} alone, {v}", "web", needs, **A, kind=kind, version=v), subject=subject)
        for kind, subject in (("ec", "exact-ec"), ("rsa", "exact-rsa"))
        for v, needs in (("1.2", "kind12"), ("1.3", "kind13"))
    ),
    gets(
        row(
            "no certificate of that kind",
            "web",
            "kind12",
            name="x.b.example",
            kind="rsa",
            version="1.2",
        ),
        "handshake failure",
    ),
    # Protocols.
    sees(row("ALPN", **A, alpn=("http/1.1",)), alpn="http/1.1"),
    sees(row("ALPN, 1.2", **A, alpn=("http/1.1",), version="1.2"), alpn="http/1.1"),
    sees(row("ALPN, one of several", "web", "alpn", **A, alpn=("h2", "http/1.1")), alpn="http/1.1"),
    sees(row("no ALPN", **A), alpn=""),
    sees(row("ALPN, nothing to agree on", "raw", **A, alpn=("http/1.1",)), alpn=""),
    gets(row("ALPN, none in common", "web", "alpn", **A, alpn=("h3",)), "no application protocol"),
    # TCP.
    sees(row("TCP", "raw", **A), version="1.3", subject="exact-ec"),
    sees(row("TCP, 1.2", "raw", **A, version="1.2"), version="1.2", subject="exact-ec"),
    # Certificates of clients.
    *(
        one
        for v in ("1.2", "1.3")
        for one in (
            sees(row(f"good, {v}", "mutual", **A, version=v, certificate="good"), version=v),
            gets(
                row(f"absent, {v}", "mutual", **A, version=v),
                "certificate required" if v == "1.3" else "handshake failure",
            ),
            gets(
                row(f"expired, {v}", "mutual", **A, version=v, certificate="expired"),
                "certificate expired",
            ),
            gets(
                row(f"not yet valid, {v}", "mutual", **A, version=v, certificate="early"),
                "bad certificate",
            ),
            gets(
                row(f"another CA's, {v}", "mutual", **A, version=v, certificate="foreign"),
                "unknown ca",
            ),
            gets(
                row(f"revoked, {v}", "mutual", **A, version=v, certificate="revoked"),
                "certificate revoked",
            ),
            gets(
                row(f"wrong name, {v}", "mutual", **A, version=v, certificate="misnamed"),
                "bad certificate",
            ),
        )
    ),
    gets(row("a server's", "mutual", **A, certificate="server"), "unsupported certificate"),
    sees(row("good, optional", "optional", **A, certificate="good"), version="1.3"),
    sees(row("absent, optional", "optional", **A), version="1.3"),
    gets(row("expired, optional", "optional", **A, certificate="expired"), "certificate expired"),
    gets(row("another CA's, optional", "optional", **A, certificate="foreign"), "unknown ca"),
    sees(row("one CA between", "deep", **A, certificate="below"), version="1.3"),
    gets(row("two CAs between", "deep", **A, certificate="deep"), "unknown ca"),
    # Resumption.
    *(
        one
        for v, needs in (("1.2", "resume12"), ("1.3", "resume13"))
        for one in (
            sees(
                row(f"resumed, {v}", "web", needs, **A, version=v, again=True),
                reused=True,
                version=v,
            ),
            sees(row(f"resumed, TCP, {v}", "raw", needs, **A, version=v, again=True), reused=True),
            sees(
                row(
                    f"resumed, mutual, {v}",
                    "mutual",
                    needs,
                    **A,
                    version=v,
                    certificate="good",
                    again=True,
                ),
                reused=True,
            ),
            sees(
                row(f"no tickets, {v}", "untouched", needs, **A, version=v, again=True),
                reused=False,
            ),
        )
    ),
    # Staples.
    sees(row("stapled", "web", "staple", **A, staple=True), stapled=True, subject="exact-ec"),
    sees(row("stapled, 1.2", "web", "staple", **A, staple=True, version="1.2"), stapled=True),
]
CASES = [
    pytest.param(one, client, id=f"{client.name}-{one.title}")
    for client in CLIENTS
    for one in ROWS
    if not one.needs or one.needs in client.can
]


@pytest.mark.parametrize(("one", "client"), CASES)
def test_matrix(world: World, one: Row, client: Asker) -> None:
    """A row of the table: what the client sees, and what is counted here."""
    tls = one.listener
    before = [world.count(tls, what) for what in ("handshakes", "failures", "resumed")]
    said = client.ask(world.ask(tls, **one.how))
    turns = 2 if one.how.get("again") else 1

    def counted() -> list[float]:
        now = [world.count(tls, what) for what in ("handshakes", "failures", "resumed")]
        return [late - early for late, early in zip(now, before, strict=True)]

    if one.alert:
        assert said.error in one.alert, said
        assert said.status == ""
        assert counted() == [0, 1, 0]
        return
    assert (said.error, said.status) == ("", "200"), said
    for key, value in one.seen.items():
        found = getattr(said, key)
        # A client that cannot tell: then we are believed.
        assert found == value or (key == "reused" and found is None), said
    assert counted() == [turns, 0, 1 if one.seen.get("reused") else 0]


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")


@needs_openssl
def test_renegotiation_is_refused(world: World) -> None:
    """A client of TLS 1.2 that wants to shake hands again is told no, and the connection ends."""
    ask = world.ask("web", **A, version="1.2")
    before = world.count("web", "handshakes")
    done = subprocess.run(
        command(ask), input=b"R\n", capture_output=True, timeout=PATIENCE, check=False
    )
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr
    assert world.count("web", "handshakes") == before + 1


@pytest.mark.parametrize(
    ("client", "version"),
    [
        pytest.param(one, version, id=f"{one.name}-{version}")
        for one in CLIENTS
        if "key_log" in one.can
        for version in ("1.2", "1.3")
    ],
)
def test_key_log(world: World, tmp_path: Path, client: Asker, version: str) -> None:
    """What the client writes of its secrets is in our file too, line by line."""
    log = tmp_path / "client.log"
    said = client.ask(world.ask("web", **A, version=version, key_log=str(log)))
    assert said.status == "200", said
    theirs = {line for line in log.read_text().splitlines() if line and line[0] != "#"}
    assert theirs
    ours = set((world.proxy.directory / "keys.log").read_text().splitlines())
    assert theirs <= ours


@pytest.mark.parametrize("method", ["GET", "POST", "PRI"])
def test_plain_http_is_told_so(world: World, method: str) -> None:
    """Plain HTTP at a port of TLS: a 400 that says why, and it is counted."""
    before = world.count("web", "failures", reason="plain_http")
    version = "2.0" if method == "PRI" else "1.1"
    target = "*" if method == "PRI" else "/"
    request = f"{method} {target} HTTP/{version}\r\nhost: a\r\n\r\n".encode()
    answer = world.proxy.exchange("web", request)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"plain HTTP was sent to an HTTPS port" in answer
    assert world.count("web", "failures", reason="plain_http") == before + 1


def test_plain_bytes_at_tcp_are_closed(world: World) -> None:
    """What is no TLS gets no answer from a TCP listener: the connection ends, and it is counted."""
    before = world.count("raw", "failures")
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1hello", b"SSH-2.0-x\r\n"):
        with world.proxy.connect("raw") as sock:
            sock.sendall(data)
            try:
                assert read_to_end(sock) == b""
            except ConnectionResetError:
                pass
    assert world.count("raw", "failures") == before + 3


def test_nothing_is_left(world: World) -> None:
    """After all that: no handshake is under way, no connection open."""

    def left() -> float:
        names = (
            "meshproxy_listener_tls_handshakes_active",
            "meshproxy_listener_connections_active",
        )
        return sum(metric(world.proxy, name, listener=each) for name in names for each in LISTENERS)

    eventually(lambda: not left(), "all to end")


def test_who_was_asked() -> None:
    """Which clients the table was gone through with; those that are not here are told."""
    missing = {"openssl", "curl", "node", "java"} - {one.name for one in CLIENTS}
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")

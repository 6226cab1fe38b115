"""
TLS towards endpoints, with real servers: who is refused gets nothing, the client a 503, and the
access record the reason.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.harness import HOST, OK, Proxy, Received, Server, free_port, read_request
from tests.integration.wire import LOG, Broken, Client, ask, eventually, log_lines, metric
from tests.tls.authority import Authority, Issued, self_signed
from tests.tls.origin import TlsServer, authority, issued, server_context

Answer = bytes | Callable[[Received], bytes | None]


class Https(TlsServer):
    """Answers requests over TLS; ``requests`` has them. None: it ends the connection."""

    def __init__(self, context: ssl.SSLContext, answer: Answer = OK) -> None:
        self.requests: list[Received] = []
        self._answer = answer
        super().__init__(context, self._serve_requests)

    def _serve_requests(self, sock: ssl.SSLSocket) -> None:
        stream = sock.makefile("rb")
        while (request := read_request(stream.readline, stream.read)) is not None:
            self.requests.append(request)
            answer = self._answer if isinstance(self._answer, bytes) else self._answer(request)
            if answer is None:
                return
            sock.sendall(answer)
            if b"\r\nconnection: close\r\n" in answer:
                return


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where ``ca.pem`` is, and all else that a configuration names."""
    authority().write(tmp_path)
    return tmp_path


def https(folder: Path, own: Issued | None = None, version: str = "", answer: Answer = OK) -> Https:
    """A server with the certificate ``own``; a good one without."""
    return Https(server_context(folder, own, version), answer)


def cluster(server: Server, *tls: str, more: str = "") -> str:
    """A cluster of ``server`` alone, called ``a.example``."""
    where = f"{{ address: '{server.address}', server_name: a.example }}"
    return f"{{ endpoints: [{where}], tls: {{ {', '.join(tls)} }}{more} }}"


def config(http: str = "", **clusters: str) -> str:
    """A listener with a route to each cluster, by its name."""
    routes = "".join(
        f"        - {{ match: {{ prefix: /{name} }}, to: {name} }}\n" for name in clusters
    )
    made = "".join(f"  {name}: {text}\n" for name, text in clusters.items())
    return (
        f"listeners:\n  web:\n    listen: '{HOST}:$web'\n    http:\n      {LOG}\n{http}"
        f"      routes:\n{routes}clusters:\n{made}"
    )


def pin(one: Issued) -> str:
    """The pin of a certificate's key."""
    key = one.cert.public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256/{b64encode(hashlib.sha256(spki).digest()).decode()}"


BODY = "upstream connect error or disconnect/reset before headers. reset reason: "


def test_who_is_refused(folder: Path) -> None:
    """Each by its reason, in the record, the body and the metrics; nobody gets a request."""
    ca = f"ca: '{folder}/ca.pem'"
    revoked = authority().issue("a.example")
    (folder / "crl.pem").write_bytes(authority().crl([revoked]))
    demanding = [server_context(folder, version=version) for version in ("1.2", "1.3")]
    for context in demanding:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.pem")
    cases: dict[str, tuple[Server, list[str], str, str]] = {
        "name": (
            https(folder, authority().issue("b.example", "c.example")),
            [ca],
            "hostname mismatch: the certificate is for b.example, c.example",
            "name",
        ),
        "expired": (
            https(folder, authority().issue("a.example", days=-1)),
            [ca],
            "certificate has expired",
            "expired",
        ),
        "self": (
            https(folder, self_signed("a.example")),
            [ca],
            "self-signed certificate",
            "untrusted",
        ),
        "other": (
            https(folder, Authority("other").issue("a.example")),
            [ca],
            "unable to get local issuer certificate",
            "untrusted",
        ),
        "system": (https(folder), [], "unable to get local issuer certificate", "untrusted"),
        "revoked": (
            https(folder, revoked),
            [ca, f"crl: '{folder}/crl.pem'"],
            "certificate revoked",
            "revoked",
        ),
        "pin": (
            https(folder),
            [ca, f"pins: ['{pin(self_signed('x'))}']"],
            "pin mismatch",
            "pin",
        ),
        "demands12": (Https(demanding[0]), [ca], "alert: handshake failure", "alert"),
        "plain": (
            Server(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            [ca],
            "not TLS",
            "not_tls",
        ),
        "demands13": (Https(demanding[1]), [ca], "alert: certificate required", ""),
    }
    clusters = {name: cluster(case[0], *case[1]) for name, case in cases.items()}
    with ExitStack() as stack:
        for server, *_ in cases.values():
            stack.enter_context(server)
        proxy = stack.enter_context(Proxy(config(**clusters)))
        responses = {name: ask(proxy, f"/{name}") for name in cases}
        text = proxy.get("admin", "/metrics").body.decode()
        for name, (server, _, reason, kind) in cases.items():
            response = responses[name]
            shown = reason if reason.startswith("alert") else reason.partition(":")[0]
            words = f"remote connection failure, transport failure reason: TLS_error: {shown}"
            assert (response.status, response.body.decode()) == (503, BODY + words)
            (line,) = log_lines(proxy, path=f"/{name}")
            told = f"remote_connection_failure|TLS_error:_{reason.replace(' ', '_')}"
            assert (line["details"], line["flags"]) == (told, "UF")
            counted = f'tls_failures_total{{cluster="{name}",reason="{kind}"}} 1'
            assert (counted in text) == bool(kind)
            assert (f'tls_handshakes_total{{cluster="{name}"}} 1' in text) == (not kind)
            assert not getattr(server, "requests", None)


def test_a_handshake_that_never_ends(folder: Path) -> None:
    """Connecting and TLS have the connect timeout together."""
    release = threading.Event()

    def serve(_: socket.socket) -> None:
        release.wait(20)

    with Server(serve) as server:
        text = config(site=cluster(server, more=", connect_timeout: 200ms"))
        with Proxy(text) as proxy:
            response = ask(proxy, "/site")
            release.set()
            assert response.status == 503
            assert b"connection timeout, transport failure reason" in response.body
            (line,) = log_lines(proxy, path="/site")
            assert line["details"] == "connection_timeout|TLS_error:_handshake_timeout"
            assert metric(proxy, "meshproxy_cluster_connect_timeouts_total") == 1
            assert metric(proxy, "meshproxy_cluster_tls_failures_total", reason="timeout") == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_requests_and_sessions(folder: Path, version: str, reactor_name: str | None) -> None:
    """Connections are kept; those that are opened later resume the session of the first."""
    with https(folder, version=version) as server:
        tls = f"ca: '{folder}/ca.pem'"
        once = cluster(server, tls, more=", pool: { max_requests: 2 }")
        text = config(site=once, never=cluster(server, tls, "resume: false"))
        with Proxy(text, reactor=reactor_name) as proxy:
            with Client.to(proxy) as client:
                for number in range(8):
                    body = b"x" * 100_000 if number == 5 else b""
                    assert client.ask("/site", "POST" if body else "GET", body).status == 200
            assert [len(one.body) for one in server.requests].count(100_000) == 1
            assert set(server.seen) == {"a.example"}
            assert sorted(server.reused) == [False, True, True, True]
            handshakes = "meshproxy_cluster_tls_handshakes_total"
            assert metric(proxy, handshakes, cluster="site") == 4
            assert metric(proxy, "meshproxy_cluster_tls_resumed_total", cluster="site") == 3
            assert ask(proxy, "/never").status == 200
            assert metric(proxy, "meshproxy_cluster_tls_resumed_total", cluster="never") == 0


def test_bodies(folder: Path) -> None:
    """Large ones both ways, with a length, in chunks and until the end, as they were sent."""
    content = bytes(range(256)) * 8192

    def answer(request: Received) -> bytes:
        kind = request.target.rpartition(b"/")[2]
        if kind == b"length":
            return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), request.body)
        if kind == b"chunks":
            piece = b"%x\r\n%b\r\n" % (len(content), request.body)
            return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % piece
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + request.body

    with https(folder, answer=answer) as server:
        text = config(site=cluster(server, f"ca: '{folder}/ca.pem'"))
        with Proxy(text) as proxy:
            for kind in ("length", "chunks", "end"):
                response = ask(proxy, f"/site/{kind}", "POST", body=content)
                assert (response.status, response.body) == (200, content)


@pytest.mark.parametrize(
    "head", [b"content-length: 10\r\n", b"transfer-encoding: chunked\r\n", b""]
)
def test_a_body_that_was_cut(folder: Path, head: bytes) -> None:
    """Without close_notify anybody may have ended it: the client must not take it for whole."""
    context = server_context(folder)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(65536)
            body = b"4\r\nhalf\r\n" if b"chunked" in head else b"half"
            wrapped.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (head, body))
            # The socket ends, TLS does not.
            socket.socket(fileno=wrapped.detach()).close()

    with Server(serve) as server:
        text = config(site=cluster(server, f"ca: '{folder}/ca.pem'"))
        with Proxy(text) as proxy, Client.to(proxy) as client:
            with pytest.raises((Broken, ConnectionError)):
                client.ask("/site")
            (line,) = log_lines(proxy, path="/site")
            assert line["flags"] == "UC"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_endpoint_that_closes_what_is_idle(folder: Path, method: str) -> None:
    """Not one error, and each request is done once, whatever its method."""
    count = 0

    def answer(_: Received) -> bytes | None:
        nonlocal count
        count += 1
        return OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1).replace(
            b"connection: close", b"x-none: x" if count % 3 else b"connection: close"
        )

    with https(folder, answer=answer) as server:
        text = config(site=cluster(server, f"ca: '{folder}/ca.pem'"))
        with Proxy(text) as proxy, Client.to(proxy) as client:
            assert [client.ask("/site", method).status for _ in range(60)] == [200] * 60
        assert len(server.requests) == 60


def test_a_client_certificate_and_the_proxy_header(folder: Path) -> None:
    """The header goes before TLS, in the open; the certificate is presented and believed."""
    authority().issue(subject="me", client=True).write(folder, "me")
    context = server_context(folder)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    lines: list[bytes] = []
    subjects: list[object] = []

    def serve(sock: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            line += sock.recv(1)
        lines.append(line)
        with context.wrap_socket(sock, server_side=True) as wrapped:
            subjects.append(wrapped.getpeercert()["subject"])  # type: ignore[index]
            stream = wrapped.makefile("rb")
            if read_request(stream.readline, stream.read) is not None:
                wrapped.sendall(OK)
                wrapped.unwrap()

    mine = f"certificate: {{ chain: '{folder}/me.pem', key: '{folder}/me.key' }}"
    with Server(serve) as server:
        tls = [f"ca: '{folder}/ca.pem'", mine]
        text = config(site=cluster(server, *tls, more=", proxy_protocol: v1"))
        with Proxy(text) as proxy, Client.to(proxy) as client:
            assert client.ask("/site").status == 200
            port = client.sock.getsockname()[1]
            assert lines[0].startswith(f"PROXY TCP4 {HOST} {HOST} {port} ".encode())
    assert subjects == [((("commonName", "me"),),)]


def test_retries_and_the_breaker(folder: Path) -> None:
    """An endpoint that cannot be believed is left out like one that cannot be reached."""
    bad = authority().issue("a.example", days=-1)
    with https(folder, bad) as one, https(folder) as two:
        text = f"""
listeners:
  web:
    listen: '{HOST}:$web'
    http:
      {LOG}
      routes:
        - {{ match: {{ prefix: /bad }}, to: bad, retry: {{ on: [connect-failure], attempts: 2 }} }}
        - {{ to: site, retry: {{ on: [connect-failure], attempts: 2 }} }}
clusters:
  site:
    endpoints:
      - {{ address: '{one.address}', server_name: a.example }}
      - {{ address: '{two.address}', server_name: a.example }}
    tls: {{ ca: '{folder}/ca.pem' }}
    circuit_breaker: {{ local_failure_threshold: 2, max_ejection_percent: 100 }}
  bad: {cluster(one, f"ca: '{folder}/ca.pem'")}
"""
        with Proxy(text) as proxy:
            for _ in range(8):
                assert ask(proxy, "/").status == 200
            assert metric(proxy, "meshproxy_cluster_tls_failures_total", cluster="site") == 2
            response = ask(proxy, "/bad")
            assert b"retried and the latest reset reason: remote connection" in response.body
            (line,) = log_lines(proxy, path="/bad")
            assert line["flags"] == "URX,UF"
            assert line["details"].endswith("|TLS_error:_certificate_has_expired")


def test_health_checks(folder: Path) -> None:
    """They speak TLS too: who cannot be believed is unhealthy, and the admin says why."""
    bad = authority().issue("a.example", days=-1)
    with https(folder, bad) as one, https(folder) as two:
        ca = f"ca: '{folder}/ca.pem'"
        check = ", health_check: { interval: 200ms, timeout: 20s, %s }"
        clusters = {
            f"{kind}{number}": cluster(server, ca, more=check % what)
            for number, server in enumerate((one, two))
            for kind, what in (("http", "http: /well"), ("tcp", "tcp: {}"))
        }
        with Proxy(config(**clusters)) as proxy:

            def reasons() -> dict[str, tuple[str, str]]:
                shown = json.loads(proxy.get("admin", "/clusters").body)
                found = {one["name"]: one["endpoints"][0]["health"] for one in shown["clusters"]}
                told = {name: (one["result"], one.get("reason", "")) for name, one in found.items()}
                return told if all(result for result, _ in told.values()) else {}

            expected = ("failed", "TLS error: certificate has expired")
            told = eventually(reasons, "results of all health checks")
            assert told["http0"] == told["tcp0"] == expected
            assert (told["http1"][0], told["tcp1"][0]) == ("passed", "passed")
            resumed = "meshproxy_cluster_tls_resumed_total"
            eventually(lambda: metric(proxy, resumed, cluster="http1"), "a check that resumes")


def test_warm_connections(folder: Path) -> None:
    """They are there, handshake and all, before anybody asks; and serve."""
    with https(folder) as server:
        more = ", pool: { warm: 2 }"
        text = config(site=cluster(server, f"ca: '{folder}/ca.pem'", more=more))
        with Proxy(text) as proxy:
            handshakes = "meshproxy_cluster_tls_handshakes_total"
            eventually(lambda: metric(proxy, handshakes) == 2, "two warm connections")
            assert ask(proxy, "/site").status == 200
            assert metric(proxy, handshakes) == 2


@pytest.fixture
def s_server(folder: Path) -> Iterator[Callable[..., int]]:
    """Start ``openssl s_server -www`` with these options; returns its port."""
    running: list[subprocess.Popen[bytes]] = []
    issued().write(folder, "good")

    def start(*options: str) -> int:
        port = free_port()
        words = ["openssl", "s_server", "-accept", f"{HOST}:{port}", "-www", "-quiet"]
        files = ["-cert", "good.pem", "-key", "good.key", "-cert_chain", "good.pem"]
        running.append(
            subprocess.Popen(
                [*words, *files, *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((HOST, port)) == 0

        eventually(listening, "openssl s_server")
        return port

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("options", [["-tls1_2"], ["-tls1_3"], ["-tls1_3", "-num_tickets", "0"]])
def test_openssl_s_server(folder: Path, s_server: Callable[..., int], options: list[str]) -> None:
    """A server that is not Python's; it says close_notify after a body without a length."""
    port = s_server(*options)
    where = f"{{ address: '{HOST}:{port}', server_name: a.example }}"
    text = config(site=f"{{ endpoints: [{where}], tls: {{ ca: '{folder}/ca.pem' }} }}")
    with Proxy(text) as proxy:
        for _ in range(3):
            response = ask(proxy, "/site")
            assert response.status == 200
            assert b"s_server" in response.body
        resumed = metric(proxy, "meshproxy_cluster_tls_resumed_total")
        assert resumed == (0 if "-num_tickets" in options else 2)

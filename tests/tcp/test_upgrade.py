"""TLS in the middle of a connection: begun by a filter, with a real client."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT, Proxy, Server, echo, read_to_end
from tests.integration.wire import eventually, log_lines, metric
from tests.tls.authority import Authority

_CONFIG = """
plugins: ['$plugins']
listeners:
  mail:
    listen: '127.0.0.1:$mail'
    tls:
      on_demand: true
      certificates: [{ chain: '$folder/mail.pem', key: '$folder/mail.key' }]
      handshake_timeout: 1s
      max_handshakes: 3
    tcp:
      filters: [starttls]
      to: echo
      access_log: { path: access.log, format: json }
clusters:
  echo: { endpoints: ['127.0.0.1:$upstream'] }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its CA."""
    made = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    authority.write(made)
    authority.issue("mail.test").write(made, "mail")
    return made


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Iterator[Proxy]:
    """The proxy before an echo."""
    text = _CONFIG.replace("$plugins", str(ROOT / "tests/integration/plugins"))
    with (
        Server(echo) as upstream,
        Proxy(text.replace("$folder", str(folder)), ports={"upstream": upstream.port}) as running,
    ):
        yield running


def asked(proxy: Proxy, data: bytes = b"STARTTLS\n") -> socket.socket:
    """A connection on which TLS may begin."""
    sock = proxy.connect("mail")
    sock.sendall(b"plain")
    assert sock.recv(5, socket.MSG_WAITALL) == b"plain"
    sock.sendall(data)
    assert sock.recv(3, socket.MSG_WAITALL) == b"GO\n"
    return sock


def context(folder: Path) -> ssl.SSLContext:
    """What a client trusts."""
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


def failures(proxy: Proxy, reason: str) -> float:
    """Handshakes that failed so."""
    labels = {"listener": "mail", "reason": reason}
    return metric(proxy, "meshproxy_listener_tls_failures_total", **labels)


def test_a_filter_begins_tls(proxy: Proxy, folder: Path) -> None:
    """What came before stays plain, what comes after is encrypted, both ways and at any length."""
    data = b"0123456789" * 30_000
    with context(folder).wrap_socket(asked(proxy), server_hostname="mail.test") as sock:
        assert sock.recv(64) == b"HELLO mail.test\n"
        got = b""
        for start in range(0, len(data), 60_000):
            sock.sendall(data[start : start + 60_000])
            wanted = min(start + 60_000, len(data))
            while len(got) < wanted:
                got += sock.recv(65536)
        assert got == data
        sock.unwrap()
    eventually(lambda: any(line["bytes_received"] > len(data) for line in log_lines(proxy)), "log")


def ended(sock: socket.socket) -> bool:
    """Whether the proxy has ended it, by whatever means."""
    try:
        return read_to_end(sock) == b""
    except ConnectionError:
        return True


def test_plain_text_is_not_taken_for_tls(proxy: Proxy) -> None:
    """Who goes on in plain text has no handshake, and is not heard."""
    with asked(proxy) as sock:
        sock.sendall(b"RCPT TO:<mallory>\n")
        assert ended(sock)
    eventually(lambda: failures(proxy, "not_tls") >= 1, "it to be counted")


def test_a_handshake_that_does_not_come_is_given_up(proxy: Proxy) -> None:
    """After handshake_timeout the connection ends, and the filter's wait with it."""
    before = failures(proxy, "timeout")
    with asked(proxy) as sock:
        assert ended(sock)
    assert failures(proxy, "timeout") == before + 1


def test_one_too_many_costs_the_oldest(proxy: Proxy, folder: Path) -> None:
    """Handshakes that a filter began are bounded as all others are; who is done counts no more."""
    before = failures(proxy, "evicted"), failures(proxy, "timeout")
    with context(folder).wrap_socket(asked(proxy), server_hostname="mail.test") as sock:
        assert sock.recv(64) == b"HELLO mail.test\n"
        waiting = [asked(proxy) for _ in range(4)]
        assert ended(waiting[0])
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
    for one in waiting[1:]:
        assert ended(one)
    for one in waiting:
        one.close()
    after = failures(proxy, "evicted"), failures(proxy, "timeout")
    assert after == (before[0] + 1, before[1] + 3)


def test_a_client_that_trusts_nobody_is_told_of(proxy: Proxy, folder: Path) -> None:
    """The client's alert is the reason in the log; the proxy goes on."""
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(asked(proxy), server_hostname="mail.test")
    eventually(
        lambda: any("unknown_ca" in json.dumps(line) for line in log_lines(proxy)), "the reason"
    )
    assert "Traceback" not in proxy.output
    test_a_filter_begins_tls(proxy, folder)

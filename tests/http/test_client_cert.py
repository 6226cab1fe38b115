"""``x-forwarded-client-cert``: nobody speaks for himself, and what is said is Envoy's format."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from meshproxy.config import load
from meshproxy.http.client_cert import NAME, Certified, element, make_forward
from meshproxy.http.exchange import Exchange
from meshproxy.http.forward import Forward
from meshproxy.http.headers import Headers
from tests.http.world import PLAIN, World, get, head
from tests.tls.authority import Authority

Make = Callable[..., World]
ROOT = Authority("root")
BETWEEN = ROOT.intermediate("between")
CLIENT = BETWEEN.issue(
    "a.example", "b.example", client=True, subject="jo", uris=["spiffe://mesh/jo"]
)
SERVER = ROOT.issue("c.example", uris=["spiffe://mesh/us", "spiffe://mesh/we"])
ALL = frozenset(("uri", "dns", "subject", "cert", "chain"))


def facts(issued: Any = CLIENT, own: Any = SERVER) -> Any:
    """The TLS of a client with this certificate, or with none."""
    return SimpleNamespace(
        certificate=None if issued is None else issued.cert,
        chain=[] if issued is None else [issued.cert, BETWEEN.cert, ROOT.cert],
        own_certificate=own.cert,
        forwarded=None,
    )


def http(setting: str) -> Any:
    """The http of a listener with this setting."""
    text = PLAIN.replace("routes:", f"{setting}\n      routes:")
    return load(text, "test.yaml").configuration.listeners["web"].http


def sent(mode: str, tls: Any, *came: bytes) -> list[bytes]:
    """The values that go on, of those that came."""
    setting = f"x_forwarded_client_cert: {mode}"
    forward = make_forward(http(setting), b"https")
    headers = Headers.of((NAME, value) for value in came)
    headers.marks = bool(came)
    exchange: Any = SimpleNamespace(
        request_headers=headers,
        stream=SimpleNamespace(tls=tls, client_ip=b"192.0.2.1"),
        client_ip=b"192.0.2.1",
        authority=b"a.example",
        protocol=b"HTTP/1.1",
    )
    forward(exchange)
    return headers.get_all(NAME)


OWN = element(facts(), frozenset(("subject", "uri", "dns")))


@pytest.mark.parametrize(
    ("mode", "bare", "shown", "shown_alone"),
    [
        ("sanitize", [], [], []),
        ("forward", [], [b"Hash=1", b"Hash=2"], []),
        ("append", [], [b"Hash=1,Hash=2," + OWN], [OWN]),
        ("set", [], [OWN], [OWN]),
    ],
)
def test_modes(mode: str, bare: list[bytes], shown: list[bytes], shown_alone: list[bytes]) -> None:
    """What came is believed of clients with a certificate alone, where the mode says so."""
    came = (b"Hash=1", b"Hash=2")
    assert sent(mode, facts(None), *came) == bare
    assert sent(mode, None, *came) == bare
    assert sent(mode, facts(), *came) == shown
    assert sent(mode, facts()) == shown_alone
    assert sent(mode, facts(), b"") == ([b""] if mode == "forward" else shown_alone)


def test_without_tls_it_is_removed(world: Make) -> None:
    """Whatever the mode: nobody has a certificate there. Nothing is spent on it otherwise."""
    for mode in ("sanitize", "append"):
        setting = http(f"x_forwarded_client_cert: {mode}")
        assert type(make_forward(setting, b"http")) is Forward
    assert type(make_forward(http("server: x"), b"https")) is Forward
    assert type(make_forward(http("x_forwarded_client_cert: set"), b"https")) is Certified
    made = world()
    made.client(get(b"/", b"X-Forwarded-Client-Cert: Hash=1", b"X: 1"))
    fields = head(made.upstream.take())
    assert b"x" in fields
    assert NAME not in fields


@pytest.mark.parametrize("mode", ["sanitize", "forward", "append", "set"])
@pytest.mark.parametrize("tls", [None, facts(None), facts()])
def test_other_spellings(mode: str, tls: Any) -> None:
    """CGI takes underscores for dashes: a client could speak for itself so."""
    names = (b"X_Forwarded_Client_Cert", b"x-forwarded_client-cert", b"x_forwarded-client_cert")
    forward = make_forward(http(f"x_forwarded_client_cert: {mode}"), b"https")
    headers = Headers.of([(b"x-other", b"1"), *((name, b"Hash=1") for name in names)])
    exchange: Any = SimpleNamespace(
        request_headers=headers,
        stream=SimpleNamespace(tls=tls, client_ip=b"192.0.2.1"),
        client_ip=b"192.0.2.1",
        authority=b"a.example",
        protocol=b"HTTP/1.1",
    )
    forward(exchange)
    assert b"Hash=1" not in [field[1] for field in headers.fields]
    assert headers.get(b"x-other") == b"1"
    assert (headers.get(NAME) == OWN) is (
        tls is not None and tls.certificate is not None and mode in ("append", "set")
    )


def test_trailers(world: Make) -> None:
    """An endpoint that joins them to the headers is told nothing there."""
    made = world()
    made.client(
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\nX-Forwarded-Client-Cert: Hash=1\r\nX_forwarded_client_cert: Hash=2\r\nx: 1\r\n\r\n"
    )
    got = made.upstream.take()
    assert got.endswith(b"0\r\nx: 1\r\n\r\n"), got
    assert b"Hash" not in got


def test_it_is_made_once() -> None:
    """All requests of a connection send the same."""
    forward: Callable[[Exchange], None] = make_forward(
        http("x_forwarded_client_cert: set"), b"https"
    )
    tls = facts()
    made = []
    for _ in range(2):
        exchange: Any = SimpleNamespace(
            request_headers=Headers(),
            stream=SimpleNamespace(tls=tls),
            client_ip=b"192.0.2.1",
            authority=b"",
        )
        forward(exchange)
        made.append(exchange.request_headers.fields[-1])
    assert made[0] is made[1]
    assert made[0][2] == NAME + b": " + OWN + b"\r\n"


def test_the_element() -> None:
    """Every pair, in Envoy's order; PEM that can be read again."""
    parts = element(facts(), ALL).decode().split(";")
    keys = [part.partition("=")[0] for part in parts]
    assert keys == ["By", "By", "Hash", "Cert", "Chain", "Subject", "URI", "DNS", "DNS"]
    values = [part.partition("=")[2] for part in parts]
    assert values[:2] == ["spiffe://mesh/us", "spiffe://mesh/we"]
    assert unquote(values[3].strip('"')).encode() == CLIENT.pem
    assert unquote(values[4].strip('"')).encode() == CLIENT.chain_pem
    assert values[5:] == ['"CN=jo"', "spiffe://mesh/jo", "a.example", "b.example"]


def test_what_is_not_there() -> None:
    """Subject and URI have their keys nevertheless, as Envoy has it; the rest has none."""
    bare = ROOT.issue(client=True, subject=x509.Name([]))
    tls = facts(bare, ROOT.issue("c.example"))
    tls.chain = []  # resumed
    value = element(tls, ALL - {"cert"}).decode()
    assert value.startswith("Hash=")
    assert value.partition('";')[2] == 'Subject="";URI='
    assert element(tls, frozenset()).count(b";") == 0


def test_nothing_ends_a_value_early() -> None:
    """What a name holds stays inside it: quotes, separators, what is no ASCII."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'M\u00fcller";Hash=0,By="x'),
            x509.NameAttribute(NameOID.COMMON_NAME, "a\r\nb"),
        ]
    )
    odd = ROOT.issue(client=True, subject=subject, uris=["urn:a;b,c=d", 'urn:"\\'])
    value = element(facts(odd, ROOT.issue("c.example")), frozenset(("subject", "uri")))
    assert value.partition(b";")[2] == (
        b'Subject="CN=a\\0D\\0Ab,O=M\\C3\\BCller\\"\\;Hash=0\\,By=\\"x";'
        b'URI="urn:a;b,c=d";URI="urn:\\"\\\\"'
    )

"""TLS, as listeners and clusters are told of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshproxy.config import (
    Certificate,
    Cluster,
    ClusterTls,
    Listener,
    ListenerTls,
    Tickets,
    TlsMatch,
    load,
)
from meshproxy.config.tls import MOST_KEYS
from meshproxy.tls import tickets
from tests.config.texts import lines_of, messages_of, with_cluster, with_listener, with_routes

E = "endpoints: ['127.0.0.1:1']"
PIN = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def secure(tls: str, spoken: str = "http: { routes: [to: api] }", listen: str = ":8443") -> str:
    """A listener whose `tls` (flow style) has a certificate and this."""
    return with_listener(
        f"listen: '{listen}'\ntls: {{ certificates: [chain: a.pem], {tls} }}\n{spoken}\n"
    )


def check(text: str, expected: list[str]) -> None:
    """These errors, in words that begin so, and no others."""
    found = messages_of(text)
    assert len(found) == len(expected), found
    for message, beginning in zip(found, expected, strict=True):
        assert message.startswith(beginning)


def test_a_listeners_defaults() -> None:
    """What a listener's TLS is when only a certificate is given; seconds."""
    tls = ListenerTls.model_validate({"certificates": [{"chain": "a.pem"}]})
    assert tls.certificates == [Certificate(chain="a.pem")]
    assert (tls.min_version, tls.max_version, tls.ciphers, tls.curves) == ("1.2", "1.3", [], [])
    assert (tls.unknown_names, tls.alpn, tls.key_log) == ("default", None, None)
    assert (tls.client_ca, tls.require_client_certificate, tls.client_depth) == (None, None, 4)
    assert (tls.client_names, tls.client_crl) == ([], None)
    assert tls.tickets == Tickets(rotate="12h", lifetime="24h")  # type: ignore[arg-type]
    assert (tls.handshake_timeout, tls.max_handshakes) == (10.0, 4096)
    assert (tls.on_demand, tls.pass_through) == (False, [])


def test_a_clusters_defaults() -> None:
    """`true` is TLS as it should be: verified, by the system's authorities."""
    tls = Cluster.model_validate({"endpoints": ["127.0.0.1:1"], "tls": True}).tls
    assert tls == ClusterTls()
    assert tls is not None
    assert (tls.verify, tls.ca, tls.server_name, tls.names, tls.pins) == (True, None, None, [], [])
    assert (tls.certificate, tls.crl, tls.depth, tls.alpn, tls.resume) == (None, None, 4, [], True)
    assert (tls.min_version, tls.max_version, tls.ciphers, tls.curves) == ("1.2", "1.3", [], [])
    assert Cluster.model_validate({"endpoints": ["127.0.0.1:1"]}).tls is None


def test_tickets_are_a_mapping_or_false() -> None:
    """Either is kept as it is, and written again likewise."""
    written = [("false", False), ("true", Tickets()), ("{}", Tickets())]
    for text, kept in written:
        listener = load(secure(f"tickets: {text}"), "m").configuration.listeners["web"]
        assert listener.tls is not None
        assert listener.tls.tickets == kept
        again = Listener.model_validate(listener.model_dump(mode="json", exclude_unset=True))
        assert again == listener


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ("{ chain: a.pem, key: a.key, password_file: pw, ocsp: a.ocsp }", []),
        ("{ pkcs12: a.p12, password_file: pw, ocsp: a.ocsp }", []),
        ("{ chain: a.pem, pkcs12: b.p12 }", ["'chain' is there already, and only one of"]),
        ("{ pkcs12: b.p12, key: a.key }", ["'pkcs12' holds the key too"]),
        ("{ key: a.key }", ["one of 'chain' and 'pkcs12' is needed"]),
        (
            "{ cert: a.pem }",
            ["one of 'chain' and 'pkcs12' is needed", "unknown key 'cert'; that is 'chain' here"],
        ),
        ("{ chain: '' }", ["the path of a file is needed"]),
        ("a.pem", ["a mapping (key: value) is expected, not the text 'a.pem'"]),
    ],
)
def test_certificates(certificate: str, expected: list[str]) -> None:
    """PEM or PKCS#12; the key is in the chain's file where it is not said."""
    text = secure("").replace("chain: a.pem", certificate).replace("[{", "[ {")
    check(text, expected)


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("alpn: [http/1.1, acme-tls/1]", []),
        ("alpn: []", []),
        ("alpn: ['']", ["a protocol such as `http/1.1` is expected, not ''"]),
        ("alpn: http/1.1", ["a list is expected, not the text 'http/1.1'"]),
        ("alpn: [h2]", ["HTTP/2 is not there yet; write 'alpn: [http/1.1]', or leave it out"]),
        ("alpn: [http/1.1, h2]", ["HTTP/2 is not there yet"]),
        ("unknown_names: reject", ["default or refuse is expected, not the text 'reject'"]),
        # Clients' certificates.
        ("client_ca: ca.pem, require_client_certificate: false, client_depth: 0", []),
        ("client_ca: ca.pem, client_names: [a, { prefix: b }], client_crl: a.crl", []),
        ("client_crl: a.crl", ["'client_crl' does nothing without 'client_ca'"]),
        ("client_depth: 0", ["'client_depth' does nothing without 'client_ca'"]),
        ("client_names: [a]", ["'client_names' does nothing without 'client_ca'"]),
        ("require_client_certificate: true", ["without 'client_ca' clients are asked for no"]),
        ("require_client_certificate: false", ["without 'client_ca' clients are asked for no"]),
        ("client_ca: ca.pem, client_depth: 17", ["this must be at most 16, and it is 17"]),
        ("client_ca: ca.pem, client_names: [{ exact: a, invert: true }]", ["one name that is"]),
        ("client_ca: ca.pem, client_names: [{ present: true }]", ["a name is compared here"]),
        # Versions, ciphers, curves.
        ("min_version: '1.3', max_version: '1.3'", []),
        ("min_version: '1.3', max_version: '1.2'", ["'min_version' is above 'max_version'"]),
        ("min_version: 1.2", ['text is expected, not 1.2; put it in quotes: "1.2"']),
        ("max_version: '1.1'", ["TLS 1.2 and 1.3 are spoken, and '1.1' is not"]),
        ("min_version: SSLv3", ["TLS 1.2 and 1.3 are spoken, and 'SSLv3' is not"]),
        ("min_version: TLSv1.2", ["1.2 or 1.3 is expected, not 'TLSv1.2'; did you mean '1.2'?"]),
        ("min_version: best", ["1.2 or 1.3 is expected, not the text 'best'"]),
        ("min_version: [a]", ["1.2 or 1.3 is expected, not a list"]),
        ("max_version: '1.2', ciphers: [ECDHE-RSA-AES128-GCM-SHA256]", []),
        ("max_version: '1.2', ciphers: [TLS_AES_128_GCM_SHA256]", ["this is a cipher suite of T"]),
        ("min_version: '1.3', ciphers: [ECDHE-RSA-AES128-GCM-SHA256, 5]",
         ["this is a cipher suite of TLS 1.2, which 'min_version'", "text is expected, not the n"]),
        ("ciphers: ['HIGH:!aNULL']", ["one name in OpenSSL's spelling is expected, not 'HIGH:!a"]),
        ("ciphers: ['A:B']", ["one name in OpenSSL's spelling is expected, not 'A:B'; the others"]),
        ("curves: [X25519, '']", ["one name in OpenSSL's spelling is expected, not ''"]),
        # Tickets.
        ("tickets: { rotate: 1h, lifetime: 16h }", []),
        ("tickets: { rotate: 1h, lifetime: 17h }",
         ["16 old keys are kept, and with a new one every 1h tickets live for 16h at most, not 1"]),
        ("tickets: { rotate: 1h }", ["16 old keys are kept, and with a new one every 1h tickets"]),
        ("tickets: { lifetime: 8d, rotate: 7d }", ["a ticket lives for 7d at most"]),
        ("tickets: { rotate: 1m, lifetime: 1m }", []),
        ("tickets: { rotate: 59s, lifetime: 1m }", ["new keys take new contexts for all certifi"]),
        ("tickets: { rotate: 0, lifetime: 1m }",
         ["new keys take new contexts for all", "this duration cannot be 0"]),
        ("tickets: { rotate: 5 }", ["a duration needs a unit"]),
        ("tickets: { life: 5s }", ["unknown key 'life'"]),
        ("tickets: 1h", ["false or a mapping (key: value) is expected, not '1h'"]),
        # Bounds.
        ("handshake_timeout: 0", ["this duration cannot be 0"]),
        ("max_handshakes: 0", ["this must be at least 1, and it is 0"]),
        ("key_log: logs/", ["a file is needed, and 'logs/' is a directory"]),
        # Passing through.
        ("pass_through: [{ match: { alpn: [h2] }, to: { api: 2 } }]", []),
        ("pass_through: [{ match: {}, to: api }]", ["'server_names' or 'alpn' is needed"]),
        ("pass_through: [{ to: api }]", ["'match' is missing"]),
        ("pass_through: [{ match: { alpn: [a] }, to: apx }]", ["there is no cluster 'apx'; did y"]),
        ("pass_through: [{ match: { server_names: [a.*] }, to: api }]", ["'*' stands alone or as"]),
        ("on_demand: true", ["on an http listener nothing starts TLS"]),
    ],
)  # fmt: skip
def test_listeners(tls: str, expected: list[str]) -> None:
    """Every key of a listener's TLS is checked, in words that say what to write."""
    check(secure(tls), expected)


def test_the_number_of_old_keys_is_that_of_those_that_are_kept() -> None:
    """What is refused here is what would be forgotten there."""
    assert MOST_KEYS == tickets.MOST


def test_places() -> None:
    """Each fault is shown where it is, deep inside too."""
    text = secure(
        "alpn: [http/1.1, h2], tickets: { rotate: 1, life: 2 }, client_crl: x, curves: [1]"
    )
    line = text.splitlines()[3]
    expected = [
        ("h2]", "alpn[1]"),
        ("1, life", "tickets.rotate"),
        ("life", "tickets.life"),
        ("client_crl", "client_crl"),
        ("1] }", "curves[0]"),
    ]
    assert [found.split(": ")[:2] for found in lines_of(text)] == [
        [f"4:{line.index(needle) + 1}", f"listeners.web.tls.{path}"] for needle, path in expected
    ]


def test_a_listener_needs_a_certificate() -> None:
    """Also one that passes all through: what its clients get otherwise is a certificate."""
    text = secure("pass_through: [{ match: { alpn: [h2] }, to: api }]")
    check(text.replace("certificates: [chain: a.pem], ", ""), ["'certificates' is missing"])
    check(text.replace("[chain: a.pem]", "[]"), ["this cannot be empty"])


TO = "to: api"
ROUTES = "routes: [{ match: { server_names: [a.example] }, to: api }, { to: api }]"
LIMIT = "filters: [connection_limit: { connections: 1 }]"
PASS = "pass_through: [{ match: { alpn: [a] }, to: api }]"


@pytest.mark.parametrize(
    ("tls", "tcp", "listen", "expected"),
    [
        ("alpn: [h2]", TO, ":1", []),
        (PASS, TO, ":1", []),
        ("", ROUTES, ":1", []),
        ("", ROUTES, "tcp:1", []),
        ("", f"{ROUTES}, hello_timeout: 5s", ":1", ["'hello_timeout' does nothing beside 'tls'"]),
        ("on_demand: true", f"{TO}, {LIMIT}", ":1", []),
        ("on_demand: true", TO, ":1", ["no filter is there that could start TLS"]),
        ("on_demand: true", f"{ROUTES}, {LIMIT}", ":1", ["'routes' go by a ClientHello, and with"]),
        (f"on_demand: true, {PASS}", f"{TO}, {LIMIT}", ":1", ["with 'on_demand' no ClientHello"]),
        (PASS, TO, "tcp:1", ["'pass_through' cannot see what an endpoint description accepts"]),
        ("", TO, "tcp:1", []),
        ("", TO, "ssl:1", ["the endpoint description 'ssl:' ends TLS itself"]),
        ("", TO, "haproxy:tls:/a:tcp:1", ["the endpoint description 'tls:' ends TLS itself"]),
        ("", TO, "1", ["an address is needed, and '1' is only a number"]),
    ],
)
def test_tcp_listeners(tls: str, tcp: str, listen: str, expected: list[str]) -> None:
    """What goes with TCP, with its routes and filters, and with what accepts."""
    check(secure(tls, f"tcp: {{ {tcp} }}", listen), expected)


@pytest.mark.parametrize(
    ("tcp", "expected"),
    [
        (ROUTES, []),
        (f"{ROUTES}, hello_timeout: 5s", []),
        ("routes: [{ match: { alpn: [a] }, to: { api: 1 }, subset: { a: b } }]", []),
        (f"{ROUTES}, to: api", ["'to' does nothing beside 'routes'"]),
        (f"{ROUTES}, subset: {{ a: b }}", ["'subset' does nothing beside 'routes'"]),
        (f"{TO}, hello_timeout: 5s", ["'hello_timeout' does nothing without 'routes'"]),
        (f"{ROUTES}, hello_timeout: 0", ["this duration cannot be 0"]),
        ("routes: []", ["this cannot be empty"]),
        ("routes: [{ match: {}, to: api }]", ["'server_names' or 'alpn' is needed"]),
        ("routes: [{ match: { alpn: [a] } }]", ["'to' is missing"]),
        ("routes: [{ to: apx }]", ["there is no cluster 'apx'; did you mean 'api'?"]),
        ("routes: [{ to: api, subset: { a: '' } }]", ["this cannot be empty"]),
        ("idle_timeout: 1s", ["'to' is missing"]),
    ],
)
def test_tcp_routes(tcp: str, expected: list[str]) -> None:
    """`routes` in place of `to`, each with its cluster."""
    check(with_listener(f"listen: ':1'\ntcp: {{ {tcp} }}\n"), expected)


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("true", []),
        ("{ verify: true, ca: ca.pem, names: [b.example, 10.0.0.1], crl: a.crl, depth: 0 }", []),
        (f"{{ verify: false, server_name: a.example, pins: ['{PIN}'] }}", []),
        ("{ certificate: { chain: a.pem } }", []),
        (
            "false",
            ["without TLS leave 'tls' out; with TLS that is not verified, write {verify: fa"],
        ),
        ("5", ["a mapping (key: value) is expected, not the number 5"]),
        ("{ verify: false, ca: ca.pem }", ["'ca' does nothing beside 'verify: false'"]),
        ("{ verify: false, names: [a] }", ["'names' does nothing beside 'verify: false'"]),
        ("{ verify: false, crl: a.crl }", ["'crl' does nothing beside 'verify: false'"]),
        ("{ verify: false, depth: 1 }", ["'depth' does nothing beside 'verify: false'"]),
        ("{ server_name: '*.example' }", ["one DNS name or IP address is expected, not '*.exam"]),
        ("{ names: ['a:1'] }", ["a DNS name or an IP address is expected, not 'a:1'; did you me"]),
        ("{ pins: [sha256/aaaa] }", ["`sha256/` and the base64 of a hash of 32 bytes is expect"]),
        ("{ pins: [x] }", ["`sha256/` and the base64 of a hash of 32 bytes is expected, not 'x'"]),
        (f"{{ pins: [sha1/{PIN[7:]}] }}", ["`sha256/` and the base64 of a hash of 32 bytes is e"]),
        (f"{{ pins: [{'e3b0c442' * 8}] }}", ["a pin is in base64, and this is a hash in hexadec"]),
        ("{ certificate: { chain: a, ocsp: b } }", ["only a server staples an OCSP response"]),
        ("{ min_version: '1.3', max_version: '1.2' }", ["'min_version' is above 'max_version'"]),
        ("{ alpn: [h2] }", []),
        ("{ resume: 'no' }", ["true or false is expected, not the text 'no'"]),
        ("{ sni: a }", ["unknown key 'sni'; that is 'server_name' here"]),
    ],
)
def test_clusters(tls: str, expected: list[str]) -> None:
    """Every key of a cluster's TLS is checked, in words that say what to write."""
    check(with_cluster(f"{E}, tls: {tls}"), expected)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("endpoints: [{ address: '127.0.0.1:1', server_name: a }], tls: true", []),
        ("endpoints: [{ address: '127.0.0.1:1', server_name: a }]",
         ["'server_name' does nothing without the cluster's 'tls'"]),
        ("endpoints: [{ address: '127.0.0.1:1', server_name: a }], tls: { server_name: b }",
         ["'server_name' does nothing beside that of the cluster's 'tls'"]),
        ("endpoints: ['unix:/x', { address: 'unix:/y', server_name: a }], tls: true",
         ["no certificate is for a UNIX socket; write 'server_name', here or in 'tls'"]),
        ("endpoints: [{ address: 'unix:/x' }], tls: {}", ["no certificate is for a UNIX socket"]),
        ("endpoints: ['unix:/x'], tls: { server_name: a }", []),
        ("endpoints: ['unix:/x'], tls: { names: [a] }", []),
        ("endpoints: ['unix:/x'], tls: { verify: false }", []),
        ("endpoints: [5, ~], tls: true",
         ["an address is needed, and 5 is only a number", "a mapping (key: value) is expected"]),
    ],
)  # fmt: skip
def test_names_of_endpoints(cluster: str, expected: list[str]) -> None:
    """One that nothing asks for is refused, and so is what can never be verified."""
    check(with_cluster(cluster), expected)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("append", []),
        ("{ mode: set, details: [dns, chain] }", []),
        ("{}", []),
        ("appnd", ["sanitize, forward, append or set is expected, not the text 'appnd'; did you"]),
        ("{ details: [dns] }", ["'details' does nothing beside 'mode: sanitize'"]),
        ("{ mode: forward, details: [dns] }", ["'details' does nothing beside 'mode: forward'"]),
        ("{ mode: set, details: [x] }", ["uri, dns, subject, cert or chain is expected, not the"]),
        ("[append]", ["a mapping (key: value) is expected, not a list"]),
    ],
)
def test_the_header_of_clients_certificates(header: str, expected: list[str]) -> None:
    """A mode, alone or with what is told."""
    check(with_routes("- to: api", f"x_forwarded_client_cert: {header}\n"), expected)


def test_sections_in_python_have_the_same_faults() -> None:
    """Built sections are judged as written ones are."""
    with pytest.raises(ValidationError, match="'client_crl' does nothing without 'client_ca'"):
        ListenerTls(certificates=[Certificate(chain="a")], client_crl="b")
    with pytest.raises(ValidationError, match="only a server staples"):
        ClusterTls(certificate=Certificate(chain="a", ocsp="b"))
    with pytest.raises(ValidationError, match="16 old keys are kept"):
        Tickets.model_validate({"rotate": "1m"})
    with pytest.raises(ValidationError, match="'server_names' or 'alpn' is needed"):
        TlsMatch()
    tls = ListenerTls(certificates=[Certificate(chain="a")], tickets=False)
    assert tls.tickets is False

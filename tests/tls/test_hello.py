"""A ClientHello is read whatever it is cut into, and nothing else is taken for one."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from OpenSSL import SSL

from meshproxy.tls.hello import (
    MAX_HELLO,
    MAX_RECORDS,
    BadHello,
    Hello,
    NotTls,
    parse_hello,
)
from tests.tls.hellos import (
    GREASE,
    VERSIONS_12_13,
    extension,
    hello,
    identities,
    message,
    named,
    of_openssl,
    of_ssl,
    protocols,
    records,
)


def read(data: bytes) -> Hello:
    """The hello, which is whole."""
    found = parse_hello(data)
    assert isinstance(found, Hello)
    return found


def told(found: Hello) -> dict[str, Any]:
    """All that is known of it but its size."""
    return {name: getattr(found, name) for name in Hello.__slots__ if name != "size"}


def arrive(data: bytes) -> tuple[Hello, int]:
    """Give the parser what it asks for, and no more, until it has the hello; and how often."""
    have = looks = 0
    while True:
        looks += 1
        found = parse_hello(data[:have])
        if isinstance(found, Hello):
            return found, looks
        assert have < found <= len(data)
        have = found


# What libraries say.


def test_of_the_standard_library() -> None:
    """Python's ssl: name, protocols and versions as it was asked to send them."""
    found = read(data := of_ssl("Example.COM", "h2", "http/1.1"))
    assert found.server_name == b"example.com"
    assert found.alpn == (b"h2", b"http/1.1")
    assert found.versions == (0x0304, 0x0303)
    assert (found.ticket, found.ech, found.size) == (b"", False, len(data))


def test_of_an_old_client() -> None:
    """Without a list of versions, the one that the client names as its highest."""
    found = read(of_ssl(None, highest=ssl.TLSVersion.TLSv1_2))
    assert (found.server_name, found.alpn, found.versions) == (b"", (), (0x0303,))


def test_of_openssl() -> None:
    """pyOpenSSL, whose hello with a post-quantum share is longer than a packet."""
    data = of_openssl(b"example.com", b"h2")
    found = read(data)
    assert (found.server_name, found.alpn, found.size) == (b"example.com", (b"h2",), len(data))
    assert arrive(data)[1] <= 5


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_of_s_client(version: str) -> None:
    """``openssl s_client``, over a socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = server.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version]
        command += ["-servername", "db.example", "-alpn", "postgresql"]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as client:
            data = b""
            with server.accept()[0] as peer:
                peer.settimeout(20)
                while not isinstance(found := parse_hello(data), Hello):
                    data += peer.recv(found - len(data))
            client.wait(20)
    assert (found.server_name, found.alpn) == (b"db.example", (b"postgresql",))
    assert found.versions == ((0x0304,) if version == "-tls1_3" else (0x0303,))


@pytest.fixture(scope="module")
def server_context() -> Any:
    """A server's context, with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    day = timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    context: Any = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.set_session_id(b"test")
    return context


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_the_key_name_of_a_ticket(server_context: SSL.Context, version: int) -> None:
    """Two tickets of one server begin with the name of its key; the hello tells it."""
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_context.set_max_proto_version(version)

    def first(session: Any) -> tuple[Hello, Any]:
        client = SSL.Connection(client_context, None)
        client.set_connect_state()
        if session is not None:
            client.set_session(session)
        server = SSL.Connection(server_context, None)
        server.set_accept_state()
        said = b""
        for _ in range(4):
            for one, other in ((client, server), (server, client)):
                try:
                    one.do_handshake()
                    one.recv(1)
                except SSL.WantReadError:
                    pass
                try:
                    data = one.bio_read(1 << 20)
                except SSL.WantReadError:
                    continue
                said = said or data
                other.bio_write(data)
        session = client.get_session()
        # OpenSSL takes a connection that goes without a farewell for a reason not to resume.
        client.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        return read(said), session

    fresh, session = first(None)
    assert fresh.ticket == b""
    again, session = first(session)
    third, _ = first(session)
    assert len(again.ticket) == 16
    assert again.ticket == third.ticket


# However it comes.


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 50, 100])
def test_cut_into_records(cut: int) -> None:
    """A hello in many records is the same hello, and a few looks are enough for it."""
    handshake = message(named(b"a.example"), protocols(b"h2"))
    count = -(-len(handshake) // cut)
    data = records(handshake, cut)
    if count > MAX_RECORDS:
        with pytest.raises(BadHello, match="records"):
            parse_hello(data)
        return
    found, looks = arrive(data)
    assert told(found) == told(read(records(handshake)))
    assert found.size == len(data)
    assert looks <= 16


def test_what_follows() -> None:
    """Bytes behind the hello are somebody else's, and not counted."""
    data = hello(b"a.example")
    assert read(data + b"\x17\x03\x03\x00\x01!").size == len(data)
    assert read(data + b"garbage").server_name == b"a.example"


@given(st.data(), st.integers(1, 2000), st.binary(max_size=40))
def test_any_cut_and_any_prefix(data: st.DataObject, cut: int, rest: bytes) -> None:
    """Every prefix asks for more than it is and no more than there is; the whole is whole."""
    handshake = message(named(b"x.example"), extension(21, bytes(800)), protocols(b"h2", b"a"))
    cut = max(cut, -(-len(handshake) // MAX_RECORDS))
    whole = records(handshake, cut)
    at = data.draw(st.integers(0, len(whole) - 1))
    needed = parse_hello(whole[:at])
    assert isinstance(needed, int)
    assert at < needed <= len(whole)
    found = read(whole + rest)
    assert (found.server_name, found.alpn) == (b"x.example", (b"h2", b"a"))
    assert found.size == len(whole)


@given(st.binary(max_size=300))
@example(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
@example(b"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00")
def test_any_bytes(data: bytes) -> None:
    """Whatever comes is a hello, asks for more, or is refused: nothing else is raised."""
    for seen in (data, b"\x16\x03\x01" + data, records(b"\x01\x00" + data[:200])):
        try:
            found = parse_hello(seen)
        except (NotTls, BadHello):
            continue
        if isinstance(found, int):
            assert len(seen) < found <= MAX_HELLO


@given(st.data())
def test_a_byte_that_is_wrong(data: st.DataObject) -> None:
    """One byte changed anywhere in a real hello is survived, and what is told stays bounded."""
    real = bytearray(of_ssl("www.example.com", "h2"))
    for _ in range(data.draw(st.integers(1, 4))):
        real[data.draw(st.integers(0, len(real) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_hello(bytes(real))
    except (NotTls, BadHello):
        return
    if isinstance(found, Hello):
        assert len(found.server_name) <= 255
        assert len(found.ticket) <= 16
        assert found.server_name.isascii()


# What is in it.


def test_grease() -> None:
    """What a client says to be misunderstood is not told."""
    versions = struct.pack("!BHHH", 6, GREASE, 0x0304, 0x0303)
    data = records(
        message(
            extension(GREASE, b""),
            named(b"a.example"),
            extension(43, versions),
            protocols(b"\x3a\x3a", b"h2"),
            extension(0xFAFA, b"\x00"),
        )
    )
    found = read(data)
    assert (found.alpn, found.versions) == ((b"h2",), (0x0304, 0x0303))


def test_encrypted_hello() -> None:
    """With ECH the name is the outer one."""
    found = read(records(message(named(b"outer.example"), extension(0xFE0D, b"\0" + bytes(200)))))
    assert (found.server_name, found.ech) == (b"outer.example", True)


def test_tickets() -> None:
    """TLS 1.3's first identity before the ticket of TLS 1.2; of each no more than a key's name."""
    old = extension(35, bytes(range(100, 200)))
    new = identities(bytes(range(50)), bytes(50))
    assert read(records(message(old))).ticket == bytes(range(100, 116))
    assert read(records(message(old, new))).ticket == bytes(range(16))
    assert read(records(message(identities(b"short")))).ticket == b"short"
    assert read(records(message(extension(35, b"")))).ticket == b""


def test_no_ticket_is_shown() -> None:
    """What would resume a session is not in a log by way of repr()."""
    found = read(records(message(named(b"a.example"), extension(35, b"secret" * 5))))
    assert "secret" not in repr(found)
    assert "a.example" in repr(found)


def test_no_extensions() -> None:
    """A hello may end behind its compression methods."""
    found = read(records(message(block=False, version=0x0301)))
    assert (found.server_name, found.alpn, found.versions) == (b"", (), (0x0301,))


def test_fields_of_unusual_length() -> None:
    """Longer lists are read as short ones are."""
    names = tuple(b"proto-%03d" % number for number in range(50))
    offered = struct.pack("!B100H", 200, *range(0x0300, 0x0364))
    found = read(records(message(protocols(*names), extension(43, offered))))
    assert found.alpn == names
    assert len(found.versions) == 100


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"A.Example", b"a.example"),
        (b"a.example.", b"a.example"),
        (b"_sip.a-b.example", b"_sip.a-b.example"),
        (b"192.0.2.1", b"192.0.2.1"),
        (b"localhost", b"localhost"),
        (b"x" * 255, b"x" * 255),
        (b"x" * 256, b""),
        (b"", b""),
        (b".", b""),
        (b"a..b", b""),
        (b".a", b""),
        (b"a\0.example", b""),
        (b"a.example\n", b""),
        ("ä.example".encode(), b""),
        (b"*.example", b""),
        (b"a b", b""),
        (b"[::1]", b""),
    ],
)
def test_server_names(sent: bytes, name: bytes) -> None:
    """What is no name is no name: never what a log or a table could misread."""
    assert read(records(message(named(sent)))).server_name == name


def test_a_list_of_one_kind() -> None:
    """Only host names are known; another kind, or a second one, is refused as OpenSSL does."""
    two = struct.pack("!BH1sBH1s", 0, 1, b"a", 0, 1, b"b")
    for bad in (
        named(b"a", kind=1),
        extension(0, struct.pack("!H", len(two)) + two),
        extension(0, b""),
        extension(0, b"\0\0"),
        extension(0, b"\0\3\0\0\5"),
        extension(0, b"\0\5\0\0\1a"),
    ):
        with pytest.raises(BadHello, match="server name"):
            parse_hello(records(message(bad)))


@pytest.mark.parametrize(
    "bad",
    [
        message(named(b"a.example"), named(b"b.example")),
        message(protocols(b"h2"), protocols(b"h3")),
        message(extension(16, b"")),
        message(extension(16, b"\0\0")),
        message(extension(16, b"\0\2\0\0")),
        message(extension(16, b"\0\3\5h2")),
        message(extension(16, b"\0\x50" + b"\x4fx" + bytes(78) + b"more")),
        message(extension(43, b"")),
        message(extension(43, b"\x02\x03")),
        message(extension(43, b"\x03\x03\x04\x03")),
        message(extension(41, b"\0")),
        message(extension(41, b"\0\x20\0\x1f" + bytes(3))),
        message(extension(41, bytes(4))),
        message(session=bytes(33)),
        message(suites=b""),
        message(suites=b"\0"),
        message(compression=b""),
        message(version=0x0203),
        message(extension(21, bytes(10)) + b"\0"),
        message(extension(21, bytes(10))[:-1]),
        message(struct.pack("!HH", 16, 60000)),
        message(block=False, tail=b"\0"),
    ],
)
def test_bad_hellos(bad: bytes) -> None:
    """What two readers could understand differently is refused."""
    with pytest.raises(BadHello):
        parse_hello(records(bad))


@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01\x00\x01\x02",
        b"\x16\x03\x01\x00\x08\x02\x00\x00\x04abcd",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01\x01\x00\x00\xff",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x05",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\xffa\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\xffa\x17",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\xffa\x16\x02\x01\x00\x02\x01\x00",
        b"\x16\x03\x01\x40\x00\x01\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    ],
)
def test_bad_records(bad: bytes) -> None:
    """Each is refused before more of it is waited for."""
    with pytest.raises(BadHello):
        parse_hello(bad)


def test_the_longest() -> None:
    """A hello of many full records is read as far as the bound, and refused beyond at once."""
    room = MAX_HELLO - 4 * 5 - len(message(named(b"a.example"))) - 4
    data = records(message(named(b"a.example"), extension(21, bytes(room))))
    assert len(data) == MAX_HELLO
    assert read(data).server_name == b"a.example"
    assert arrive(data)[0].size == MAX_HELLO
    longer = records(message(named(b"a.example"), extension(21, bytes(room + 1))))
    with pytest.raises(BadHello, match="more than"):
        parse_hello(longer[:9])


@pytest.mark.parametrize(
    "data", [b"G", b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01", b"\x16\x02", b"SSH-2.0-x\r\n"]
)
def test_no_tls(data: bytes) -> None:
    """The first byte that differs tells."""
    with pytest.raises(NotTls):
        parse_hello(data)


def test_versions_of_both() -> None:
    """The list that clients of both versions send."""
    assert read(records(message(extension(43, VERSIONS_12_13)))).versions == (0x0304, 0x0303)

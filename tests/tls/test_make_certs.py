"""The development authority: what it makes is accepted, and nothing that was there is lost."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from ruamel.yaml import YAML

from meshproxy.config.tls import ClusterTls, ListenerTls
from meshproxy.tls.make_certs import MakeCertsError, make, told
from tests.tls.authority import Authority

NAMES = ("localhost,127.0.0.1,::1", "a.example", "*.b.example", "192.0.2.7", "client:jo")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one of everything; tests do not change it."""
    directory = tmp_path_factory.mktemp("made") / "certs"
    make(directory, NAMES)
    return directory


@pytest.fixture
def certs(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "certs"))


def cert(file: Path) -> x509.Certificate:
    """The certificate in a file, which holds no more than that."""
    (one,) = x509.load_pem_x509_certificates(file.read_bytes())
    return one


def contents(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def verified(directory: Path, file: str, *options: str) -> str:
    """What ``openssl verify -x509_strict`` says."""
    run = subprocess.run(
        ("openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", *options, file),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return (run.stdout + run.stderr).strip()


def test_openssl_accepts_them(made: Path) -> None:
    """Strictly verified: each for its names and its side, and for no other."""
    server, client = ("-purpose", "sslserver"), ("-purpose", "sslclient")
    for file, option, name in [
        ("localhost.pem", "-verify_hostname", "localhost"),
        ("localhost.pem", "-verify_ip", "::1"),
        ("_.b.example.pem", "-verify_hostname", "x.b.example"),
        ("192.0.2.7.pem", "-verify_ip", "192.0.2.7"),
    ]:
        assert verified(made, file, *server, option, name) == f"{file}: OK"
    assert verified(made, "client-jo.pem", *client) == "client-jo.pem: OK"
    assert "mismatch" in verified(made, "a.example.pem", *server, "-verify_hostname", "b.example")
    assert "purpose" in verified(made, "a.example.pem", *client)
    assert "purpose" in verified(made, "client-jo.pem", *server)


def test_a_strict_handshake(made: Path) -> None:
    """Python's ssl accepts both sides with VERIFY_X509_STRICT, by name and by address."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "localhost.pem", made / "localhost.key")
    server.load_verify_locations(made / "ca.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    client = ssl.create_default_context(cafile=made / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_cert_chain(made / "client-jo.pem", made / "client-jo.key")
    for name in ("localhost", "127.0.0.1", "::1"):
        ours, theirs = socket.socketpair()
        answering = Thread(target=lambda sock=theirs: _answer(server, sock))
        answering.start()
        with client.wrap_socket(ours, server_hostname=name) as sock:
            assert sock.recv(9) == b"CN=jo"
        answering.join()


def _answer(context: ssl.SSLContext, sock: socket.socket) -> None:
    with context.wrap_socket(sock, server_side=True) as secured:
        peer = secured.getpeercert(binary_form=True)
        assert peer is not None
        subject = x509.load_der_x509_certificate(peer).subject
        secured.sendall(subject.rfc4514_string().encode())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_accepts_them(made: Path) -> None:
    """``curl --cacert`` is content with a server that has one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made / "localhost.pem", made / "localhost.key")
        answering = Thread(target=lambda: _respond(context, listening))
        answering.start()
        url = f"https://localhost:{listening.getsockname()[1]}/"
        curl = ("curl", "-s", "-S", "--noproxy", "*", "-4", "--cacert", made / "ca.pem", url)
        ended = subprocess.run(curl, capture_output=True, text=True, timeout=30)
        answering.join()
    assert (ended.stdout, ended.stderr) == ("hello\n", "")


def _respond(context: ssl.SSLContext, listening: socket.socket) -> None:
    sock, _ = listening.accept()
    with context.wrap_socket(sock, server_side=True) as secured:
        secured.recv(65536)
        secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n")


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o277])
def test_keys_are_their_owners_alone(mask: int, tmp_path: Path) -> None:
    """Whatever the umask; certificates are for all whom it lets read."""
    before = os.umask(mask)
    try:
        make(tmp_path, ["a.example"])
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {
        "ca.key": 0o600 & ~mask,
        "a.example.key": 0o600 & ~mask,
        "ca.pem": 0o644 & ~mask,
        "a.example.pem": 0o644 & ~mask,
    }


def test_names_are_added_by_the_same_authority(certs: Path) -> None:
    """A second run leaves the CA and the other certificates alone; the same name is made anew."""
    before = contents(certs)
    result = make(certs, ["c.example", "a.example"])
    after = contents(certs)
    assert not result.new_authority
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"a.example.pem", "a.example.key", "c.example.pem", "c.example.key"}
    assert verified(certs, "c.example.pem") == "c.example.pem: OK"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "a name is empty"),
        ("localhost,", "a name is empty"),
        ("client:", "a name is empty"),
        ("a b", "neither a DNS name nor an IP address"),
        ("../a", "neither a DNS name nor an IP address"),
        ("a..b", "neither a DNS name nor an IP address"),
        ("a.*.b", "neither a DNS name nor an IP address"),
        ("-a.example", "neither a DNS name nor an IP address"),
        ("a" * 64 + ".example", "neither a DNS name nor an IP address"),
        (".".join(["a" * 60] * 5), "neither a DNS name nor an IP address"),
        ("bücher.example", "has to be written in ASCII"),
        ("spiffe://mesh/a", "neither a DNS name nor an IP address"),
        ("client:" + "ä" * 65, "has to be written in ASCII"),
        ("client:a\nb", "neither a DNS name nor an IP address"),
        ("ca", "'ca' is what the files of the authority itself are called"),
        ("CA", "'ca' is what the files of the authority itself are called"),
    ],
)
def test_names_that_are_refused(name: str, said: str, tmp_path: Path) -> None:
    """Each with its reason, and nothing is written, not even for the good ones beside it."""
    with pytest.raises(MakeCertsError, match=said.replace("(", r"\(")) as refused:
        make(tmp_path / "certs", ["good.example", name])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "certs").exists()


def test_names_of_one_file(tmp_path: Path) -> None:
    """Two names that would share a file are refused; the same one twice is one."""
    with pytest.raises(MakeCertsError, match=r"would both be written to _\.example\.pem"):
        make(tmp_path, ["*.example", "_.example"])
    with pytest.raises(MakeCertsError, match="'a.example' and 'a.example,b.example' would both be"):
        make(tmp_path, ["a.example", "a.example,b.example"])
    result = make(tmp_path, ["a.example", "A.example", "a.example"])
    assert [pair.name for pair in result.pairs] == ["a.example"]


def test_what_is_in_a_certificate(tmp_path: Path) -> None:
    """Names are lower case; clients are named by URI, mail, DNS name, or by their common name."""
    long = ".".join(["a" * 30] * 4)
    make(
        tmp_path,
        ["A.Example", long, "client:spiffe://mesh/Jo", "client:jo@a.example", "client:Jo Doe"],
    )

    def names(file: str) -> list[object]:
        found = cert(tmp_path / file).extensions
        return [
            name.value for name in found.get_extension_for_class(x509.SubjectAlternativeName).value
        ]

    assert names("a.example.pem") == ["a.example"]
    assert names("client-spiffe_mesh_Jo.pem") == ["spiffe://mesh/Jo"]
    assert names("client-jo@a.example.pem") == ["jo@a.example"]
    assert cert(tmp_path / "client-Jo_Doe.pem").subject.rfc4514_string() == "CN=Jo Doe"
    # Too long for a common name: the alternative name alone says it, and has to be understood.
    assert cert(tmp_path / f"{long}.pem").subject.rfc4514_string() == ""
    assert names(f"{long}.pem") == [long]
    for file in tmp_path.glob("*.pem"):
        assert verified(tmp_path, file.name) == f"{file.name}: OK"
    make(tmp_path, [long, "client:Jo Doe"])


def test_what_others_made_is_kept(certs: Path) -> None:
    """A certificate of another CA, of another name, no certificate, a key by itself: all stay."""
    Authority().issue("a.example").write(certs, "other.example")
    (certs / "text.example.pem").write_text("hello\n")
    (certs / "lone.example.key").write_text("secret\n")
    shutil.copy(certs / "a.example.pem", certs / "moved.example.pem")
    shutil.copy(certs / "client-jo.pem", certs / "jo.pem")
    before = contents(certs)
    for name, said in [
        ("other.example", "was not made by the authority of this directory"),
        ("text.example", "holds no certificate"),
        ("lone.example", "is there without lone.example.pem"),
        ("moved.example", "was made for another name"),
        ("jo", "was made for another name"),
    ]:
        with pytest.raises(MakeCertsError, match=said):
            make(certs, ["new.example", name])
    assert contents(certs) == before


def test_half_an_authority(made: Path, tmp_path: Path) -> None:
    """A CA without its key, or the reverse, is neither used nor made anew."""
    for name, other in (("ca.pem", "ca.key"), ("ca.key", "ca.pem")):
        directory = tmp_path / name
        directory.mkdir()
        shutil.copy(made / name, directory)
        before = contents(directory)
        with pytest.raises(MakeCertsError, match=f"{name} is there without {other}"):
            make(directory, ["a.example"])
        assert contents(directory) == before


def test_two_at_the_same_time_do_not_overwrite_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA's key that came to be meanwhile is kept, and no file is left over."""
    key = tmp_path / "ca.key"
    link = os.link

    def late(source: Path, target: Path) -> None:
        key.write_text("another's\n")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(MakeCertsError, match="ca.key was made by somebody else just now"):
        make(tmp_path, ["a.example"])
    assert contents(tmp_path) == {"ca.key": b"another's\n"}


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is put in its place in the other way that there is."""

    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", source)

    monkeypatch.setattr(os, "link", refused)
    make(tmp_path, ["a.example"])
    assert len(contents(tmp_path)) == 4


def test_a_disk_that_fails(certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in hand keeps its old content, nothing half-written stays, the path is told."""
    before = contents(certs)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MakeCertsError, match="No space left on device"):
        make(certs, ["a.example"])
    assert contents(certs) == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the place of the directory is one line that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(MakeCertsError, match=f"{tmp_path}/file: File exists"):
        make(tmp_path / "file", ["a.example"])
    with pytest.raises(MakeCertsError, match=f"{tmp_path}/file/certs: Not a directory"):
        make(tmp_path / "file" / "certs", ["a.example"])


def test_what_is_told(tmp_path: Path) -> None:
    """The files, and YAML that names them, quoted where it has to be; the CA's once."""
    directory = tmp_path / "my, certs"
    text = told(make(directory, ["a.example", "client:jo", "client:al"]))
    files, _, yaml = text.partition("\n\nIn a listener:\n\n")
    listener, _, cluster = yaml.partition("\nIn a cluster:\n")
    assert [line.removeprefix(f"{directory}/").split("  ")[0] for line in files.splitlines()] == [
        "ca.pem", "ca.key", "a.example.pem", "a.example.key",
        "client-jo.pem", "client-jo.key", "client-al.pem", "client-al.key",
    ]  # fmt: skip
    read = YAML(typ="safe").load
    assert read(listener)["tls"] == {
        "certificates": [
            {"chain": f"{directory}/a.example.pem", "key": f"{directory}/a.example.key"}
        ],
        "client_ca": f"{directory}/ca.pem",
    }
    assert read(cluster)["tls"] == {
        "ca": f"{directory}/ca.pem",
        "certificate": {
            "chain": f"{directory}/client-jo.pem",
            "key": f"{directory}/client-jo.key",
        },
    }
    ListenerTls.model_validate(read(listener)["tls"])
    ClusterTls.model_validate(read(cluster)["tls"])
    text = told(make(directory, ["b.example"]))
    assert "as before" in text
    assert "ca.key" not in text
    assert "certificate:" not in text

"""Certificates and keys from files: what is taken, put right, and refused with what words."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from meshproxy.tls import material
from meshproxy.tls.material import TlsFileError, load_pair, names_of, read_file, seen, use_pair
from tests.tls.authority import Authority, Issued, Kind, pem_of_key, self_signed
from tests.tls.exchange import Exchange, certificate, client


@pytest.fixture(scope="module")
def root() -> Authority:
    """The root of all."""
    return Authority("root")


@pytest.fixture(scope="module")
def below(root: Authority) -> Authority:
    """Two floors below."""
    return root.intermediate("one").intermediate("two")


@pytest.fixture(scope="module")
def issued(below: Authority) -> Issued:
    """A leaf with a chain of three."""
    return below.issue("A.example", "*.a.example", "127.0.0.1", "::1", "a.example")


def put(folder: Path, name: str, *parts: bytes) -> str:
    """Write a file; its name."""
    (folder / name).write_bytes(b"".join(parts))
    return name


def refused(folder: Path, option: str, **given: Any) -> str:
    """Why the option is refused; the text shows no folder but the file's, and no contents."""
    with pytest.raises(TlsFileError) as caught:
        load_pair(certificate(**given), str(folder))
    assert caught.value.key == option
    assert "BEGIN" not in str(caught.value).replace("-----BEGIN", "")
    return str(caught.value).replace(f"{folder}/", "")


def pem(one: x509.Certificate) -> bytes:
    """A certificate's PEM."""
    return one.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_chain_and_key(tmp_path: Path, below: Authority, kind: Kind) -> None:
    """Two files, for each kind of key; paths are relative to the base."""
    one = below.issue("a.example", kind=kind)
    one.write(tmp_path, "a")
    pair = load_pair(certificate(chain="a.pem", key="a.key"), str(tmp_path))
    assert (pair.kind, pair.leaf, pair.chain) == (kind, one.cert, (one.cert, *one.above))
    assert pair.chain_pem == one.chain_pem
    assert pair.files == (str(tmp_path / "a.pem"), str(tmp_path / "a.key"))
    assert pair.looks == {path: seen(path) for path in pair.files}
    assert "PrivateKey" not in repr(pair)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    use_pair(context, pair)
    assert Exchange(context, client()).shown == list(pair.chain)


def test_one_file(tmp_path: Path, issued: Issued) -> None:
    """The key may be in the chain's file, before or behind it."""
    for parts in ((issued.chain_pem, issued.key_pem), (issued.key_pem, issued.chain_pem)):
        put(tmp_path, "all.pem", b"some words\n", *parts)
        assert load_pair(certificate(chain="all.pem"), str(tmp_path)).leaf == issued.cert


def test_names(tmp_path: Path, issued: Issued, root: Authority) -> None:
    """DNS names in lower case and IP addresses, each once; the common name only without a SAN."""
    assert names_of(issued.cert) == ("a.example", "*.a.example", "127.0.0.1", "::1")
    assert names_of(root.issue(subject="CN.example").cert) == ("cn.example",)
    assert names_of(root.issue("b.example", subject="cn.example").cert) == ("b.example",)
    assert names_of(root.issue(subject="x", uris=["spiffe://a/b"]).cert) == ()
    assert names_of(root.issue(subject="My Server").cert) == ()


def test_encrypted_keys(tmp_path: Path, issued: Issued) -> None:
    """A password file opens them, with or without the line's end; what does not is said."""
    put(tmp_path, "a.pem", issued.chain_pem)
    put(tmp_path, "a.key", pem_of_key(issued.key, b"sesame"))
    files = {"chain": "a.pem", "key": "a.key"}
    for words in (b"sesame", b"sesame\n", b"sesame\r\nmore"):
        put(tmp_path, "a.pw", words)
        config = certificate(**files, password_file="a.pw")
        assert load_pair(config, str(tmp_path)).leaf == issued.cert
    told = refused(tmp_path, "key", **files)
    assert told == "the key of a.key is encrypted: `password_file` is needed"
    put(tmp_path, "a.pw", b"wrong-password")
    told = refused(tmp_path, "password_file", **files, password_file="a.pw")
    assert told == "the password does not open the key of a.key, or it is damaged"
    # One that is not needed does no harm.
    put(tmp_path, "a.key", issued.key_pem)
    assert load_pair(certificate(**files, password_file="a.pw"), str(tmp_path)).leaf == issued.cert


def test_pkcs12(tmp_path: Path, issued: Issued) -> None:
    """Chain and key in one file, with a password and without."""
    put(tmp_path, "a.p12", issued.pkcs12(None))
    assert load_pair(certificate(pkcs12="a.p12"), str(tmp_path)).chain_pem == issued.chain_pem
    put(tmp_path, "a.p12", issued.pkcs12("sesame"))
    put(tmp_path, "a.pw", b"sesame\n")
    pair = load_pair(certificate(pkcs12="a.p12", password_file="a.pw"), str(tmp_path))
    # The first stands for it where it is told of: not the password's.
    assert pair.files == (str(tmp_path / "a.p12"), str(tmp_path / "a.pw"))
    assert "needs a `password_file`" in refused(tmp_path, "pkcs12", pkcs12="a.p12")
    put(tmp_path, "b.pw", b"wrong")
    told = refused(tmp_path, "password_file", pkcs12="a.p12", password_file="b.pw")
    assert "the password does not open a.p12" in told
    put(tmp_path, "c.p12", issued.chain_pem)
    assert refused(tmp_path, "pkcs12", pkcs12="c.p12") == "c.p12 is PEM: write `chain`, and `key`"


def test_order(tmp_path: Path, issued: Issued, root: Authority) -> None:
    """The certificates above a leaf are put in order; what is there twice is shown once."""
    one, two = issued.above[1], issued.above[0]
    put(tmp_path, "k", issued.key_pem)
    for above in ([one, two], [two, one, two], [issued.cert, one, two]):
        put(tmp_path, "c", issued.pem, *map(pem, above))
        pair = load_pair(certificate(chain="c", key="k"), str(tmp_path))
        assert pair.chain == (issued.cert, two, one)
    put(tmp_path, "c", issued.pem, pem(one), root.pem, pem(two))
    pair = load_pair(certificate(chain="c", key="k"), str(tmp_path))
    assert pair.chain == (issued.cert, two, one, root.cert)


def test_wrong_order(tmp_path: Path, issued: Issued) -> None:
    """A leaf that is not the first is told by its place."""
    put(tmp_path, "c", *map(pem, issued.above), issued.pem)
    put(tmp_path, "k", issued.key_pem)
    told = refused(tmp_path, "chain", chain="c", key="k")
    assert told == "c: the key's certificate is number 3; it must be the first"


def test_strangers(tmp_path: Path, issued: Issued) -> None:
    """A certificate that vouches for none of the others is refused by its name."""
    put(tmp_path, "c", issued.chain_pem, Authority("stranger").pem)
    put(tmp_path, "k", issued.key_pem)
    told = refused(tmp_path, "chain", chain="c", key="k")
    assert told == "c: the certificate of CN=stranger vouches for none of the others: leave it out"
    put(tmp_path, "c", *[Authority(str(number)).pem for number in range(17)])
    put(tmp_path, "c", issued.pem, (tmp_path / "c").read_bytes())
    assert "holds 18 certificates; 16 are the most" in refused(
        tmp_path, "chain", chain="c", key="k"
    )


def test_an_authority_with_two_certificates(tmp_path: Path, root: Authority) -> None:
    """The same intermediate by another root may be in a chain as well."""
    other = Authority("other root")
    below = root.intermediate("below")
    twin = other.intermediate("below")
    one = below.issue("a.example")
    put(tmp_path, "c", one.chain_pem, twin.pem)
    put(tmp_path, "k", one.key_pem)
    pair = load_pair(certificate(chain="c", key="k"), str(tmp_path))
    assert pair.chain == (one.cert, below.cert, twin.cert)


def test_a_key_of_somebody_else(tmp_path: Path, issued: Issued, root: Authority) -> None:
    """It is the key's fault where there is one, else the chain's."""
    put(tmp_path, "c", issued.chain_pem)
    put(tmp_path, "k", root.issue("b").key_pem)
    told = refused(tmp_path, "key", chain="c", key="k")
    assert told == "the key does not belong to the certificate of c"


@pytest.mark.parametrize(
    ("name", "content", "key", "told"),
    [
        ("c", b"", "chain", "c holds no PEM: it has no line that begins with -----BEGIN"),
        ("c", b"\x30\x82\x01\x00", "chain", "c holds no PEM"),
        (
            "c",
            b"-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n",
            "chain",
            "c holds no certificate that can be read",
        ),
        ("k", b"secret", "key", "k holds no private key in PEM"),
        (
            "k",
            b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
            "key",
            "k holds no private key that can be read",
        ),
        ("k", b"x" * (material.LONGEST + 1), "key", "k is longer than 4 MiB"),
        ("c", None, "chain", "c cannot be read: No such file or directory"),
        ("k", None, "key", "k cannot be read: No such file or directory"),
    ],
)
def test_broken_files(
    tmp_path: Path, issued: Issued, name: str, content: bytes | None, key: str, told: str
) -> None:
    """What is wrong is told by option and file, without a byte of it."""
    put(tmp_path, "c", issued.chain_pem)
    put(tmp_path, "k", issued.key_pem)
    if content is None:
        (tmp_path / name).unlink()
    else:
        put(tmp_path, name, content)
    assert refused(tmp_path, key, chain="c", key="k").startswith(told)


def test_a_chain_without_its_key(tmp_path: Path, issued: Issued) -> None:
    """Who left the key out is told how to name it."""
    put(tmp_path, "c", issued.chain_pem)
    told = refused(tmp_path, "chain", chain="c")
    assert told == "c holds no private key in PEM; write `key` if it is in a file of its own"


def test_weak_keys(tmp_path: Path, root: Authority) -> None:
    """Short keys are refused with their size, before OpenSSL does."""
    weak: Any = rsa.generate_private_key(65537, 1024)
    root.issue("a", key=weak).write(tmp_path, "a")
    assert "has 1024 bits; 2048 is the least" in refused(
        tmp_path, "key", chain="a.pem", key="a.key"
    )
    root.issue("a", key=ec.generate_private_key(ec.SECP224R1())).write(tmp_path, "a")
    assert "secp224r1, is too small" in refused(tmp_path, "key", chain="a.pem", key="a.key")


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder or a named pipe is refused; nobody waits for the pipe's other end."""
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("", "Is a directory"), ("pipe", "is no plain file")):
        with pytest.raises(TlsFileError, match=told):
            read_file("chain", str(tmp_path / name))


def test_damaged_certificates(tmp_path: Path, issued: Issued) -> None:
    """Whatever bit is wrong, it is told of as any other fault is, or does no harm."""
    der = issued.cert.public_bytes(Encoding.DER)
    put(tmp_path, "k", issued.key_pem)
    faults = 0
    for at in range(0, len(der), 3):
        bad = base64.encodebytes(der[:at] + bytes([der[at] ^ 0x21]) + der[at + 1 :])
        put(tmp_path, "c", b"-----BEGIN CERTIFICATE-----\n", bad, b"-----END CERTIFICATE-----\n")
        try:
            use_pair(
                SSL.Context(SSL.TLS_SERVER_METHOD),
                load_pair(certificate(chain="c", key="k"), str(tmp_path)),
            )
        except TlsFileError:
            faults += 1
    assert faults > 20


def test_ocsp(tmp_path: Path, below: Authority) -> None:
    """The response is read along, unless it is not asked for."""
    one = below.issue("a")
    one.write(tmp_path, "a")
    put(tmp_path, "a.ocsp", b"whatever")
    config = certificate(chain="a.pem", key="a.key", ocsp="a.ocsp")
    pair = load_pair(config, str(tmp_path))
    assert pair.ocsp == b"whatever"
    assert pair.files[-1] == str(tmp_path / "a.ocsp")
    without = load_pair(config, str(tmp_path), ocsp=False)
    assert without.ocsp is None
    assert without.digest == pair.digest


def test_without_files_in_memory(
    tmp_path: Path, issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has none, a temporary file does, and is gone afterwards."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    issued.write(tmp_path, "a")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    use_pair(context, load_pair(certificate(chain="a.pem", key="a.key"), str(tmp_path)))
    assert Exchange(context, client()).leaf == issued.cert
    assert os.listdir(tmp_path / "tmp") == []


def test_what_openssl_refuses(tmp_path: Path, issued: Issued) -> None:
    """Its reason is told; nothing stays in its queue of errors."""
    issued.write(tmp_path, "a")
    pair = load_pair(certificate(chain="a.pem", key="a.key"), str(tmp_path))
    broken: Any = self_signed("b")
    broken.write(tmp_path, "b")
    other = load_pair(certificate(chain="b.pem", key="b.key"), str(tmp_path))
    mixed = material.Pair(
        chain_pem=other.chain_pem,
        key=pair.key,
        leaf=pair.leaf,
        chain=pair.chain,
        names=pair.names,
        kind=pair.kind,
        ocsp=None,
        files=pair.files,
        looks={},
        digest=b"",
    )
    with pytest.raises(TlsFileError, match=r"OpenSSL refuses .*: key values mismatch"):
        use_pair(SSL.Context(SSL.TLS_SERVER_METHOD), mixed)
    assert vars(SSL)["_lib"].ERR_peek_error() == 0

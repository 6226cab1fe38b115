"""The tests' certificate authority makes what OpenSSL accepts, and what is refused if asked to."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from cryptography.x509 import ocsp

from tests.tls.authority import Authority, Issued, Kind, make_key, pem_of_key, self_signed

VERIFY = ("openssl", "verify", "-x509_strict")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def verified(root: Authority, one: Issued, directory: Path, *options: str) -> str:
    """What ``openssl verify -x509_strict`` says."""
    (directory / "ca.pem").write_bytes(root.pem)
    one.write(directory, "leaf")
    (directory / "above.pem").write_bytes(one.chain_pem)
    run = subprocess.run(
        (*VERIFY, "-CAfile", "ca.pem", "-untrusted", "above.pem", *options, "leaf.pem"),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return (run.stdout + run.stderr).strip()


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_openssl_agrees_with_what_is_issued(
    authority: Authority, kind: Kind, tmp_path: Path
) -> None:
    """Each kind of key passes openssl's strict verification, for its names and no other."""
    one = authority.issue("a.example", "127.0.0.1", kind=kind)
    for_host = ("-purpose", "sslserver", "-verify_hostname")
    assert verified(authority, one, tmp_path, *for_host, "a.example") == "leaf.pem: OK"
    assert "mismatch" in verified(authority, one, tmp_path, *for_host, "b.example")
    assert verified(authority, one, tmp_path, "-verify_ip", "127.0.0.1") == "leaf.pem: OK"


def test_an_intermediate_is_in_the_chains_it_issues(authority: Authority, tmp_path: Path) -> None:
    """The root alone verifies them, and the chain does not contain it."""
    one = authority.intermediate("middle").intermediate("lower").issue("a.example")
    assert verified(authority, one, tmp_path) == "leaf.pem: OK"
    chain = x509.load_pem_x509_certificates(one.chain_pem)
    assert [cert.issuer.rfc4514_string() for cert in chain] == [
        "CN=lower",
        "CN=middle",
        "CN=test CA",
    ]


def test_what_can_be_wrong(authority: Authority, tmp_path: Path) -> None:
    """Expired, of another authority, self-signed, for the other side: each is refused as such."""
    assert "has expired" in verified(authority, authority.issue("a.example", days=-1), tmp_path)
    other = Authority("other CA").issue("a.example")
    assert "unable to get local issuer" in verified(authority, other, tmp_path)
    assert "self-signed" in verified(authority, self_signed("a.example"), tmp_path)
    client = authority.issue(subject="jo", uris=["spiffe://mesh/jo"], emails=["jo@a"], client=True)
    assert verified(authority, client, tmp_path, "-purpose", "sslclient") == "leaf.pem: OK"
    assert "purpose" in verified(authority, client, tmp_path, "-purpose", "sslserver")


def test_a_revoked_certificate(authority: Authority, tmp_path: Path) -> None:
    """openssl reads the CRL and finds the revoked one in it, not the other."""
    good, bad = authority.issue("a.example"), authority.issue("a.example")
    (tmp_path / "crl.pem").write_bytes(authority.crl([bad]))
    checked = ("-crl_check", "-CRLfile", "crl.pem")
    assert verified(authority, good, tmp_path, *checked) == "leaf.pem: OK"
    assert "revoked" in verified(authority, bad, tmp_path, *checked)
    (tmp_path / "crl.pem").write_bytes(authority.crl(days=-1))
    assert "CRL has expired" in verified(authority, good, tmp_path, *checked)


def test_files_of_other_kinds(authority: Authority, tmp_path: Path) -> None:
    """PKCS#12 and OCSP responses can be read, and the files load in Python's ssl."""
    one = authority.intermediate().issue("a.example")
    key, cert, above = pkcs12.load_key_and_certificates(one.pkcs12("secret"), b"secret")
    assert key is not None
    assert (cert, len(above)) == (one.cert, 1)
    good = ocsp.load_der_ocsp_response(authority.ocsp(one))
    assert good.certificate_status is ocsp.OCSPCertStatus.GOOD
    bad = ocsp.load_der_ocsp_response(authority.ocsp(one, revoked=True))
    assert bad.certificate_status is ocsp.OCSPCertStatus.REVOKED
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*one.write(tmp_path, "leaf"))
    context.load_verify_locations(authority.write(tmp_path))


def test_keys(authority: Authority) -> None:
    """RSA's key is made once, others each time; one can be given, and one can be encrypted."""
    assert make_key("rsa") is make_key("rsa")
    key = make_key()
    assert authority.issue("a.example", key=key).key is key
    assert authority.issue("a.example").key is not authority.issue("a.example").key
    hidden = pem_of_key(key, b"secret")
    assert b"ENCRYPTED" in hidden
    assert isinstance(load_pem_private_key(hidden, b"secret"), type(key))

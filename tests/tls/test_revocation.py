"""Lists of revoked certificates."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from meshproxy.tls.material import TlsFileError
from meshproxy.tls.revocation import MOST, check_leaves, doubts, load_crls
from tests.tls.authority import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who revokes."""
    return Authority("one")


def test_pem_and_der(authority: Authority) -> None:
    """Several lists in PEM, or one in DER."""
    pem = authority.crl()
    other = Authority("two").crl()
    assert len(load_crls("client_crl", "f", b"words\n" + pem + other)) == 2
    der = x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)
    assert load_crls("client_crl", "f", der)[0].issuer == authority.cert.subject


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "f holds no revocation list"),
        (b"-----BEGIN X509 CRL-----\nc2VjcmV0\n-----END X509 CRL-----\n", "f holds no revocation"),
        (
            b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n" * (MOST + 1),
            f"f holds {MOST + 1} revocation lists; {MOST} are the most",
        ),
    ],
)
def test_broken_lists(content: bytes, told: str) -> None:
    """They are told by option and file."""
    with pytest.raises(TlsFileError) as caught:
        load_crls("crl", "f", content)
    assert caught.value.key == "crl"
    assert str(caught.value).startswith(told)


def test_the_store_looks_leaves_up(authority: Authority) -> None:
    """Who is on the list is refused, who is not comes in."""
    good, bad = authority.issue("good"), authority.issue("bad")
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(authority.cert))
    check_leaves(store, load_crls("crl", "f", authority.crl([bad])))

    def verify(one: x509.Certificate) -> None:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(one)).verify_certificate()

    verify(good.cert)
    with pytest.raises(crypto.X509StoreContextError, match="revoked"):
        verify(bad.cert)


def test_what_openssl_refuses() -> None:
    """It is a fault of the file like others."""

    class Store:
        def add_crl(self, crl: object) -> None:
            raise crypto.Error([("a", "b", "c")])

    with pytest.raises(TlsFileError, match="OpenSSL cannot use f") as caught:
        check_leaves(Store(), load_crls("crl", "f", Authority().crl()), "crl", "f")
    assert caught.value.key == "crl"


def test_doubts(authority: Authority) -> None:
    """A list that is out of date, and a CA without one, refuse everybody: that is told."""
    other = Authority("two")
    now = time.time()
    assert doubts(load_crls("crl", "f", authority.crl()), [authority.cert], now) == []
    stale = load_crls("crl", "f", authority.crl(days=-1))
    told = doubts(stale, [authority.cert, other.cert], now)
    assert told[0].startswith("the list of CN=one was to be renewed at ")
    assert told[1] == "there is no list of CN=two: what it issued itself is refused"

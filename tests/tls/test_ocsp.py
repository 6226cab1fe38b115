"""OCSP responses: which are stapled."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from OpenSSL import SSL

from meshproxy.tls.material import TlsFileError
from meshproxy.tls.ocsp import ANOTHER, SKEW, Staple, Stapler, judge
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import Exchange, client


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who answers."""
    return Authority()


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    """Who is asked about."""
    return authority.issue("a.example")


def test_good(authority: Authority, issued: Issued) -> None:
    """It is good from its beginning, give or take a clock, until its end."""
    staple = judge("f", authority.ocsp(issued, days=1), issued.cert)
    now = time.time()
    assert staple.state(now) == "good"
    assert staple.state(now + 86401) == "stale"
    assert staple.state(staple.since - SKEW + 1) == "good"
    assert staple.state(staple.since - SKEW - 1) == "early"


def test_what_is_not_stapled(authority: Authority, issued: Issued) -> None:
    """A revoked, a stale and another certificate's response say why."""
    now = time.time()
    for der, state in (
        (authority.ocsp(issued, revoked=True), "revoked"),
        (authority.ocsp(issued, days=-1), "stale"),
        (authority.ocsp(authority.issue("a.example")), ANOTHER),
    ):
        assert judge("f", der, issued.cert).state(now) == state


def test_what_is_no_response(issued: Issued) -> None:
    """It is told by its file."""
    busy = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    for content, told in (
        (b"", "f holds no OCSP response that can be read"),
        (b"-----BEGIN OCSP RESPONSE-----", "f is PEM; an OCSP response in DER is needed"),
        (busy.public_bytes(Encoding.DER), "f is a responder's refusal: try_later"),
    ):
        with pytest.raises(TlsFileError) as caught:
            judge("f", content, issued.cert)
        assert (caught.value.key, str(caught.value)) == ("ocsp", told)


def test_stapling_by_kind(authority: Authority) -> None:
    """Of two certificates in a context, the one that is shown gets its own response."""
    rsa, ec = authority.issue("a", kind="rsa"), authority.issue("a")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    for one in (rsa, ec):
        context.use_certificate(one.cert)
        context.use_privatekey(one.key)
    now = time.time()
    stapler = Stapler(lambda: now)
    stapler.apply(context)
    staple = judge("f", authority.ocsp(rsa), rsa.cert)
    stapler.replace("rsa", staple)

    def stapled(sigalgs: str, version: str = "1.3") -> bytes:
        got: list[bytes] = []
        able = client(sigalgs=sigalgs, version=version, ocsp=got)
        assert Exchange(context, able, ocsp=True).good
        return got[0]

    assert stapled("RSA-PSS+SHA256") == staple.der
    assert stapled("ECDSA+SHA256") == b""
    other = judge("f", authority.ocsp(ec), ec.cert)
    stapler.replace("ec", other)
    assert stapled("ECDSA+SHA256", "1.2") == other.der
    stapler.replace("rsa", Staple(b"", 0.0, 0.0, "broken"))
    assert stapled("RSA-PSS+SHA256") == b""
    # Who does not ask gets nothing.
    assert Exchange(context, client()).good

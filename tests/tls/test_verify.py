"""Names and pins: what a certificate is for, and what of it counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshproxy.tls.reasons import LONGEST
from meshproxy.tls.verify import (
    Identity,
    identity_of,
    mismatch,
    pin_bytes,
    pin_of,
    pinned,
    reference_to,
)
from tests.tls.authority import Authority, self_signed


def fits(name: str, *names: str) -> bool:
    """Whether a certificate for ``names`` is one for ``name``."""
    return mismatch(Identity(self_signed(*names).cert), [reference_to(name)]) == ""


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("a.example", ["a.example"], True),
        ("A.Example.", ["a.example"], True),
        ("a.example", ["A.EXAMPLE"], True),
        ("b.example", ["a.example", "b.example"], True),
        ("x.a.example", ["*.a.example"], True),
        ("a.example", ["*.a.example"], False),
        ("x.y.a.example", ["*.a.example"], False),
        ("xn--a.a.example", ["*.a.example"], False),
        ("xy.a.example", ["x*.a.example"], False),
        ("x.example", ["*.example"], False),
        ("10.0.0.1", ["10.0.0.1"], True),
        ("[::1]", ["::1"], True),
        ("0:0::1", ["::1"], True),
        ("10.0.0.1", ["10.0.0.2"], False),
        ("service", ["service"], True),
        ("bücher.example", ["xn--bcher-kva.example"], True),
        ("a..example", ["a..example"], True),
        ("a b", ["a.example"], False),
        ("", ["a.example"], False),
    ],
)
def test_names(name: str, names: list[str], expected: bool) -> None:
    """RFC 6125's rules, by service-identity; addresses as numbers."""
    assert fits(name, *names) == expected


def test_a_senseless_name_costs_itself_alone() -> None:
    """service-identity refuses the certificate for it; the others beside it are good still."""
    assert fits("a.example", "*", "a.*.example", "a.example")
    cert = Authority().issue("a.example", uris=["urn:a:b:c", "spiffe://x:8080/y"]).cert
    assert mismatch(identity_of(cert), [reference_to("a.example")]) == ""


def test_a_common_name_is_no_name() -> None:
    """A certificate without subjectAltName is for nobody."""
    cert = Authority().issue(subject="a.example").cert
    told = mismatch(identity_of(cert), [reference_to("a.example")])
    assert told == "hostname mismatch: the certificate is for no name"


def test_what_is_told_is_bounded() -> None:
    """However many and however long the names are, and whatever is in them."""
    names = [f"{'x' * 50}-{number}.example" for number in range(20)]
    told = mismatch(Identity(self_signed(*names).cert), [reference_to("a.example")])
    assert len(told) == LONGEST
    assert told.endswith("...")
    few = mismatch(Identity(self_signed(*"abcdefghij").cert), [reference_to("k")])
    assert few.endswith("for a, b, c, d, e, f, g, h, ...")
    odd: Any = SimpleNamespace(patterns=[], names=['a"\n\x1bé\\'])
    assert mismatch(odd, []) == "hostname mismatch: the certificate is for a?????"


def test_any_reference_will_do() -> None:
    """One that makes no sense fits nothing, and is in nobody's way."""
    identity = Identity(self_signed("a.example").cert)
    references = [reference_to("x"), None, reference_to("a.example")]
    assert mismatch(identity, references) == ""
    assert mismatch(identity, [None]) != ""


def test_a_certificate_is_read_once() -> None:
    """The same one, however often it comes."""
    cert = self_signed("a.example").cert
    again = x509.load_der_x509_certificate(cert.public_bytes(Encoding.DER))
    assert again is not cert
    assert identity_of(again) is identity_of(cert)
    assert identity_of(cert).until == cert.not_valid_after_utc.timestamp()


def test_pins() -> None:
    """The digest of the key, so that a renewed certificate with the same key still fits."""
    authority = Authority()
    first = authority.issue("a.example")
    renewed = authority.issue("a.example", key=first.key)
    other = authority.issue("a.example")
    pins = frozenset([pin_of(first.cert)])
    assert pinned([other.cert, renewed.cert], pins)
    assert not pinned([other.cert, authority.cert], pins)
    assert not pinned([], pins)


def test_a_key_that_nobody_can_read_fits_no_pin() -> None:
    """It is none of those that are pinned."""

    class Broken:
        def public_key(self) -> Any:
            raise ValueError

    broken: Any = Broken()
    assert pin_of(broken) == b""
    assert not pinned([broken], frozenset([bytes(32)]))


@pytest.mark.parametrize("text", ["", "sha256/", "sha256/AAAA", "sha256/!", "x" * 44])
def test_what_is_no_pin(text: str) -> None:
    """Refused with what a pin is."""
    with pytest.raises(ValueError, match="32 bytes"):
        pin_bytes(text)

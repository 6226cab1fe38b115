"""The authority for development: how long, for what and by whom; others' are not used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshproxy.tls.development import DevelopmentAuthority, MakeCertsError, pem_of_key
from tests.tls import authority as tests_own

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
NAMES = [x509.DNSName("a.example")]


@pytest.fixture(scope="module")
def authority() -> DevelopmentAuthority:
    return DevelopmentAuthority.made(NOW)


def issued(
    authority: DevelopmentAuthority,
    now: datetime = NOW,
    use: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> x509.Certificate:
    """A certificate for a.example."""
    return authority.issue(SUBJECT, NAMES, use, ec.generate_private_key(ec.SECP256R1()), now)


def test_lifetimes(authority: DevelopmentAuthority) -> None:
    """397 days at most, of which an hour is over, for clocks that are behind; the CA ten years."""
    one = issued(authority)
    assert one.not_valid_before_utc == NOW - timedelta(hours=1)
    # Both ends belong to a lifetime.
    assert one.not_valid_after_utc - one.not_valid_before_utc == timedelta(days=397, seconds=-1)
    left = authority.cert.not_valid_after_utc - NOW
    assert timedelta(days=3649) < left < timedelta(days=3650)


def test_a_leaf_ends_no_later_than_its_authority(authority: DevelopmentAuthority) -> None:
    """A CA in its last year shortens what it issues."""
    end = authority.cert.not_valid_after_utc
    assert issued(authority, end - timedelta(days=30)).not_valid_after_utc == end


def test_keys_serials_and_uses(authority: DevelopmentAuthority) -> None:
    """P-256, random serials, and the use that was asked for alone."""
    key = authority.cert.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    client = issued(authority, use=ExtendedKeyUsageOID.CLIENT_AUTH)
    serials = {one.serial_number for one in (authority.cert, client, issued(authority))}
    assert len(serials) == 3
    assert max(serials).bit_length() > 100
    uses = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_names_are_critical_where_there_is_no_subject(authority: DevelopmentAuthority) -> None:
    """As RFC 5280 asks; and a subject may be without names."""
    key = ec.generate_private_key(ec.SECP256R1())
    use = ExtendedKeyUsageOID.CLIENT_AUTH
    kind = x509.SubjectAlternativeName
    nobody = authority.issue(x509.Name([]), NAMES, use, key, NOW)
    assert nobody.extensions.get_extension_for_class(kind).critical
    assert not issued(authority).extensions.get_extension_for_class(kind).critical
    with pytest.raises(x509.ExtensionNotFound):
        authority.issue(SUBJECT, [], use, key, NOW).extensions.get_extension_for_class(kind)


def test_whose_a_certificate_is(authority: DevelopmentAuthority) -> None:
    """It knows its own from another's, also from another's of the same name."""
    assert authority.issued(issued(authority))
    assert not authority.issued(issued(DevelopmentAuthority.made(NOW)))
    name = authority.cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    for kind in ("ec", "rsa"):
        namesake = tests_own.Authority(str(name), kind=kind).issue("a.example")
        assert not authority.issued(namesake.cert)


def test_one_that_is_read_again(authority: DevelopmentAuthority, tmp_path: Path) -> None:
    """It is the same one, until it has expired."""
    pem, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    pem.write_bytes(authority.pem)
    key.write_bytes(pem_of_key(authority.key))
    again = DevelopmentAuthority.read(pem, key, NOW)
    assert (authority.new, again.new) == (True, False)
    assert authority.issued(issued(again))
    with pytest.raises(MakeCertsError, match="ca.pem has expired"):
        DevelopmentAuthority.read(pem, key, authority.cert.not_valid_after_utc)


def test_one_that_cannot_be_used(authority: DevelopmentAuthority, tmp_path: Path) -> None:
    """Another's key, an encrypted or a broken one, no CA, one that was not made here."""
    pem, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    other, rsa = tests_own.Authority(), tests_own.Authority(kind="rsa")
    leaf = other.issue("a.example")
    for a_pem, a_key, said in [
        (authority.pem, tests_own.pem_of_key(other.key), "ca.key is not the key of"),
        (authority.pem, tests_own.pem_of_key(other.key, b"secret"), "ca.key is encrypted"),
        (authority.pem, b"hello", "ca.key holds no key"),
        (b"hello", pem_of_key(authority.key), "ca.pem holds no certificate"),
        (leaf.pem, leaf.key_pem, "is no authority"),
        (tests_own.self_signed("a", key=leaf.key).pem, leaf.key_pem, "is no authority"),
        (rsa.pem, tests_own.pem_of_key(rsa.key), "is no authority that --make-certs made"),
    ]:
        pem.write_bytes(a_pem)
        key.write_bytes(a_key)
        with pytest.raises(MakeCertsError, match=said):
            DevelopmentAuthority.read(pem, key, NOW)

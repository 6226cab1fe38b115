"""The filter access."""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from types import SimpleNamespace as Some
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from meshproxy.api import Unfit
from meshproxy.filters.access import Access
from meshproxy.testing import Driven, Kit, drive


def made(*rules: dict[str, Any], **options: Any) -> Access:
    """The filter with these rules and options, as a configuration would write them."""
    return Access(Access.Options.model_validate({"rules": list(rules), **options}))


def rule(action: str = "allow", name: str = "r", **conditions: Any) -> dict[str, Any]:
    """A rule as it would be written."""
    return {"name": name, "action": action, **conditions}


def allowed(held: Access, **request: Any) -> bool:
    """Whether such a request reaches the endpoint."""
    return drive(held, **request).upstream is not None


def denied(driven: Driven, policy: bytes) -> bool:
    """Whether it was denied, by this rule."""
    return (driven.status, driven.body, driven.details) == (
        403,
        b"RBAC: access denied",
        b"rbac_access_denied_matched_policy[%b]" % policy,
    )


def test_the_first_rule_that_matches_decides() -> None:
    """Later ones are not asked; what none matches gets the default."""
    held = made(
        rule("deny", "bad", addresses=["192.0.2.66"]),
        rule("allow", "net", addresses=["192.0.2.0/24"]),
    )
    kit = Kit()
    assert denied(kit.drive(held, client=b"192.0.2.66:1"), b"bad")
    assert kit.drive(held, client=b"192.0.2.1:1").status == 200
    assert denied(kit.drive(held, client=b"198.51.100.1:1"), b"none")
    assert kit.counters == {
        "allowed": 1,
        "denied": 2,
        "answers": 2,
        "matched{rule=bad}": 1,
        "matched{rule=net}": 1,
    }


def test_the_default_can_be_to_allow() -> None:
    """Then only what a rule denies is denied."""
    held = made(rule("deny", methods=["DELETE"]), default="allow")
    assert not allowed(held, method=b"DELETE")
    assert allowed(held)


@pytest.mark.parametrize(
    ("conditions", "hit", "miss"),
    [
        ({"methods": ["GET", "PUT"]}, {"method": b"PUT"}, {"method": b"POST"}),
        (
            {"addresses": ["10.0.0.0/8", "2001:db8::/32"]},
            {"client": b"[2001:db8::1]:1"},
            {"client": b"[2001:db9::1]:1"},
        ),
        (
            {"headers": {"X-Role": {"prefix": "adm"}}},
            {"headers": {b"x-role": b"admin"}},
            {"headers": {b"x-role": b"user"}},
        ),
        ({"headers": {"x-role": {"present": False}}}, {}, {"headers": {b"x-role": b""}}),
        ({"paths": ["/a", {"prefix": "/b/"}]}, {"target": b"/b/c?d"}, {"target": b"/b"}),
        ({"paths": [{"regex": "/u/[0-9]+"}]}, {"target": b"/u/12?x"}, {"target": b"/u/12/x"}),
        (
            {"hosts": ["a.example"]},
            {"authority": b"A.example.:8080"},
            {"authority": b"b.a.example"},
        ),
        ({"hosts": ["*.example"]}, {"authority": b"x.y.example"}, {"authority": b"example"}),
        ({"hosts": ["[::1]"]}, {"authority": b"[::1]:80"}, {"authority": b"[::2]:80"}),
        ({}, {}, None),
        (
            {"methods": ["GET"], "paths": ["/a"]},
            {"target": b"/a"},
            {"target": b"/a", "method": b"PUT"},
        ),
        (
            {"methods": ["GET"], "unless": {"paths": ["/a"], "headers": {"x": "1"}}},
            {"target": b"/a"},
            {"target": b"/a", "headers": {b"x": b"1"}},
        ),
    ],
)
def test_every_condition(
    conditions: dict[str, Any], hit: dict[str, Any], miss: dict[str, Any] | None
) -> None:
    """All that is written must hold, and ``unless`` must not."""
    held = made(rule(**conditions))
    assert allowed(held, **hit)
    if miss is not None:
        assert not allowed(held, **miss)


@pytest.mark.parametrize(
    "target",
    [
        b"/admin",
        b"/%61dmin",
        b"/%61%64%6d%69%6e",
        b"/%41dmin/../admin",
        b"//admin",
        b"///admin",
        b"/x/../admin",
        b"/./admin",
        b"/x/%2e%2e/admin",
        b"/x/.%2E/admin",
        b"/..//admin",
        b"/admin/",
        b"/admin/users",
        b"/admin?x=/",
        b"/x/y/../../admin",
    ],
)
def test_a_denied_path_has_no_other_spelling(target: bytes) -> None:
    """However it is written, it is the path that was denied."""
    held = made(rule("deny", "no", paths=[{"prefix": "/admin"}]), default="allow")
    assert denied(drive(held, target=target), b"no")


@pytest.mark.parametrize(
    "target",
    [
        b"/x%2f..%2fadmin",
        b"/%2fadmin",
        b"/x/..%5cadmin",
        b"/x\\..\\admin",
        b"/x//../admin",
        b"/x/..;/admin",
        b"/admin%00",
        b"/%61dmin%",
    ],
)
def test_a_path_that_servers_read_differently_is_refused(target: bytes) -> None:
    """No rule can be right about it, so it is answered 400, and counted."""
    held = made(rule("deny", "no", paths=[{"prefix": "/admin"}]), default="allow")
    driven = drive(held, target=target)
    assert driven.upstream is None
    assert (driven.status, driven.details) == (400, b"rbac_path_has_no_normal_form")
    assert driven.counters["path_refused"] == 1


def test_encoded_slashes_by_option() -> None:
    """They can be kept (part of a segment) or taken for slashes."""
    deny = rule("deny", "no", paths=["/a/admin"])
    kept = made(deny, default="allow", encoded_slash="keep")
    assert allowed(kept, target=b"/a%2fadmin")
    decoded = made(deny, default="allow", encoded_slash="decode")
    assert not allowed(decoded, target=b"/a%2fadmin")
    assert not allowed(decoded, target=b"/x/..\\a/admin")


def test_slashes_and_parameters_by_option() -> None:
    """For endpoints that take // for another path, and for those that ignore parameters."""
    deny = rule("deny", "no", paths=["/admin"])
    assert allowed(made(deny, default="allow", merge_slashes=False), target=b"//admin")
    assert allowed(made(deny, default="allow"), target=b"/admin;x=1")
    assert not allowed(made(deny, default="allow", strip_parameters=True), target=b"/admin;x=1")


def test_a_path_that_no_rule_asks_for_is_not_judged() -> None:
    """Odd paths are refused only where a rule has to look at them."""
    assert allowed(made(rule(methods=["GET"])), target=b"/a%2fb")


def test_a_second_header_hides_nothing() -> None:
    """To deny, one value is enough; to allow, all must match, also within ``unless``."""
    both = [(b"x-role", b"admin"), (b"x-role", b"guest")]
    guest = {"x-role": "guest"}
    assert not allowed(made(rule("deny", headers=guest), default="allow"), headers=both)
    assert not allowed(made(rule("allow", headers=guest)), headers=both)
    assert not allowed(made(rule("allow", unless={"headers": guest})), headers=both)
    assert not allowed(made(rule("deny", unless={"headers": guest}), default="allow"), headers=both)


def test_facts_of_other_filters() -> None:
    """A filter before this one can say who it is."""
    from meshproxy.filters.ip_tags import IpTags

    tags = IpTags(IpTags.Options(tags={"office": ["192.0.2.0/24"]}))
    held = made(rule(metadata={"ip_tags": {"contains": "office"}}))
    kit = Kit()
    assert kit.drive(tags, held, client=b"192.0.2.1:1").status == 200
    assert kit.drive(tags, held, client=b"198.51.100.1:1").status == 403


def test_log_rules_decide_nothing() -> None:
    """They are counted and noted, and the next rules are asked."""
    held = made(
        rule("log", "one"),
        rule("log", "two", methods=["GET"]),
        rule("allow", "all"),
        default="deny",
    )
    driven = drive(held)
    assert driven.status == 200
    assert driven.metadata["access.log"] == "one,two"
    assert driven.counters["matched{rule=two}"] == 1


def test_shadow_denies_nobody() -> None:
    """What would be is counted and noted."""
    held = made(rule("deny", "no", paths=["/admin"]), default="allow", shadow=True)
    kit = Kit()
    driven = kit.drive(held, target=b"/admin")
    assert driven.status == 200
    assert driven.metadata["access.shadow"] == "denied"
    assert driven.metadata["access.shadow_rule"] == "no"
    assert kit.drive(held, target=b"/").metadata["access.shadow"] == "allowed"
    assert kit.drive(held, target=b"/x%2f").status == 200
    assert kit.counters["shadow_denied"] == 2
    assert kit.counters["shadow_allowed"] == 1
    assert "denied" not in kit.counters


def certificate(*names: x509.GeneralName) -> x509.Certificate:
    """A certificate of CN=jo with these alternative names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jo")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(key, SHA256())


def test_certificates() -> None:
    """By subject, alternative name and fingerprint; nobody has one without TLS."""
    held = certificate(
        x509.DNSName("a.example"),
        x509.UniformResourceIdentifier("spiffe://mesh/jo"),
        x509.IPAddress(ip_address("192.0.2.1")),
    )
    other = certificate()
    digits = held.fingerprint(SHA256()).hex()
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2)).upper()
    for match in (
        {"san": {"prefix": "spiffe://mesh/"}},
        {"san": "a.example"},
        {"san": "192.0.2.1"},
        {"fingerprint": [colons]},
        {"subject": "CN=jo", "san": "a.example", "fingerprint": [digits]},
    ):
        access = made(rule(certificate=match))
        assert allowed(access, tls=Some(certificate=held)), match
        assert not allowed(access, tls=Some(certificate=other)), match
        assert not allowed(access, tls=Some(certificate=None)), match
        assert not allowed(access), match
    present = made(rule(certificate={"present": True}))
    assert allowed(present, tls=Some(certificate=other))
    assert not allowed(present, tls=Some(certificate=None))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rules": []},
        {"rules": [rule(name="a"), rule(name="a")]},
        {"rules": [rule(name="a b")]},
        {"rules": [rule(action="refuse")]},
        {"rules": [rule(addresses=[])]},
        {"rules": [rule(addresses=["10.0.0.1/8"])]},
        {"rules": [rule(hosts=["a.example:80"])]},
        {"rules": [rule(hosts=["a.*"])]},
        {"rules": [rule(headers={"host": "a"})]},
        {"rules": [rule(unless={})]},
        {"rules": [rule(certificate={})]},
        {"rules": [rule(certificate={"fingerprint": ["abc"]})]},
        {"rules": [rule(methods=["get"])]},
        {"rules": [{**rule(), "not": {"methods": ["GET"]}}]},
    ],
)
def test_rules_that_say_nothing_are_refused(options: dict[str, Any]) -> None:
    """A rule that can never match, or has no name of its own, is found at start."""
    with pytest.raises(ValidationError):
        Access.Options.model_validate(options)


@pytest.mark.parametrize("path", ["/%61dmin", "//admin", "/a/../b", "/a%2fb", "admin"])
def test_paths_that_no_request_has_are_refused(path: str) -> None:
    """A rule compares with normal forms, so it must be written in one."""
    with pytest.raises(Unfit):
        made(rule(paths=[path]))
    with pytest.raises(Unfit):
        made(rule(paths=["/"], unless={"paths": [{"prefix": path}]}))

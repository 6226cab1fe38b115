"""Tokens, good and forged: who comes in, and what the upstream is told."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.filters.jwt import Jwt
from meshproxy.testing import Driven, Kit
from tests.filters.tokens import ISSUER, NOW, SECRET, b64, jwk, jwks, pem, token

PROVIDER: dict[str, Any] = {"issuer": ISSUER, "jwks": jwks(jwk()), "audiences": "shop"}


def made(provider: dict[str, Any] | None = None, **options: Any) -> Jwt:
    """A filter with one provider, ``PROVIDER`` changed by ``provider``."""
    held = {**PROVIDER, **(provider or {})}
    return Jwt(Jwt.Options.model_validate({"providers": {"p": held}, **options}))


def bearer(text: bytes) -> dict[bytes, bytes]:
    """The header of a client."""
    return {b"authorization": b"Bearer " + text}


def send(text: bytes, held: Jwt | None = None, kit: Kit | None = None, **more: Any) -> Driven:
    """A request with this token."""
    headers = {**bearer(text), **more.pop("headers", {})}
    return (kit or Kit()).drive(held if held is not None else made(), headers=headers, **more)


def test_a_good_token() -> None:
    """It passes, its claims are in the metadata, and the upstream does not get it."""
    driven = send(token(admin=True, roles=["a", "b"], level=3))
    assert driven.status == 200
    assert driven.metadata["jwt.sub"] == "ann"
    assert driven.metadata["jwt.admin"] is True
    assert driven.metadata["jwt.level"] == 3
    assert driven.metadata["jwt.roles"] == '["a","b"]'
    assert driven.metadata["jwt_provider"] == "p"
    assert driven.upstream is not None
    assert b"authorization" not in driven.upstream.headers
    assert driven.counters == {"allowed": 1, "verified": 1}


@pytest.mark.parametrize(
    ("alg", "kind"),
    [
        *((alg, "rsa") for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        *((alg, alg) for alg in ("ES256", "ES384", "ES512", "EdDSA")),
    ],
)
def test_every_algorithm(alg: str, kind: str) -> None:
    """Each is verified with a key of its kind, and a changed token is not."""
    held = made({"jwks": jwks(jwk(kind))})
    good = token(signed_by=kind, alg=alg)
    assert send(good, held).status == 200
    head, _, signature = good.split(b".")
    forged = b".".join((head, b64(b'{"iss":"%b","sub":"root"}' % ISSUER.encode()), signature))
    driven = send(forged, made({"jwks": jwks(jwk(kind))}))
    assert (driven.status, driven.details) == (401, b"jwt_wrong_signature")


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_secrets(alg: str, tmp_path: Path) -> None:
    """A secret in a file, without the end of its line."""
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    provider = {"issuer": ISSUER, "secret_file": "secret"}
    held = Jwt(Jwt.Options.model_validate({"providers": {"p": provider}}))
    kit = Kit(directory=tmp_path)
    assert send(token(signed_by=SECRET, alg=alg, kid=None), held, kit).status == 200
    assert send(token(signed_by=SECRET + b"\n", alg=alg), held, kit).status == 401


def no_alg(name: str) -> bytes:
    """A token without a signature."""
    return token(header={"alg": name, "kid": "k1"}, alg="none")


def confused(alg: str, public: bytes) -> bytes:
    """A token that is signed with the public key as if that were a secret."""
    return token(signed_by=public, alg=alg)


@pytest.mark.parametrize(
    ("text", "details"),
    [
        (no_alg("none"), b"jwt_algorithm"),
        (no_alg("None"), b"jwt_algorithm"),
        (no_alg("RS256"), b"jwt_wrong_signature"),
        (no_alg(""), b"jwt_algorithm"),
        (confused("HS256", pem()), b"jwt_algorithm"),
        (confused("HS256", pem().rstrip()), b"jwt_algorithm"),
        (confused("HS512", base64.urlsafe_b64decode(jwk()["n"] + "==")), b"jwt_algorithm"),
        (token(signed_by="rsa2"), b"jwt_wrong_signature"),
        (token(signed_by="rsa", alg="PS256", header={"alg": "RS256", "kid": "k1"}),
         b"jwt_wrong_signature"),
        (token(signed_by="ES256", alg="ES256"), b"jwt_algorithm"),
        (token(kid="other"), b"jwt_unknown_key"),
        (token(kid="../../../dev/null"), b"jwt_unknown_key"),
        (token(kid="' UNION SELECT 'x"), b"jwt_unknown_key"),
        (token(header={"alg": "RS256", "kid": "k1", "jwk": jwk("rsa2")}, signed_by="rsa2"),
         b"jwt_wrong_signature"),
        (token(header={"alg": "RS256", "kid": "k1", "jku": "http://evil.example"},
               signed_by="rsa2"), b"jwt_wrong_signature"),
        (token(header={"alg": "RS256", "kid": "k1", "crit": ["exp"]}), b"jwt_critical"),
        (token(exp=NOW - 61), b"jwt_expired"),
        (token(nbf=NOW + 61), b"jwt_not_yet_valid"),
        (token(exp=None), b"jwt_no_expiry"),
        (token(exp="9999999999"), b"jwt_malformed"),
        (token(aud="other"), b"jwt_audience"),
        (token(aud=None), b"jwt_audience"),
        (token(iss="https://evil.example"), b"jwt_issuer"),
        (token(iss=None), b"jwt_issuer"),
        (token(iss=[ISSUER]), b"jwt_issuer"),
        (token()[:-1], b"jwt_wrong_signature"),
        (token()[:-2], b"jwt_wrong_signature"),
        (token()[:-40], b"jwt_wrong_signature"),
        (token() + b"=", b"jwt_malformed"),
        (b"x", b"jwt_malformed"),
        (b"\xff\xfe.a.b", b"jwt_malformed"),
        (b"a" * 9000, b"jwt_too_long"),
        (token(header={"alg": "dir", "enc": "A256GCM"}) + b".AA.AA", b"jwt_malformed"),
    ],
)  # fmt: skip
def test_what_an_attacker_tries(text: bytes, details: bytes) -> None:
    """Each forgery is refused for its reason, and nothing of it is told."""
    kit = Kit()
    driven = send(text, kit=kit)
    # A token cut by a letter or two may be no base64url any more.
    assert driven.details in (details, b"jwt_malformed")
    assert driven.status == 401
    assert driven.upstream is None
    assert driven.metadata == {}
    challenge = driven.headers.get(b"www-authenticate") or b""
    assert challenge.startswith(b'Bearer realm="api", error="invalid_token", error_description="')
    assert text not in challenge + driven.body
    assert kit.log == []
    reason = driven.details.removeprefix(b"jwt_").decode()
    assert driven.counters[f"refused{{reason={reason}}}"] == 1
    assert "errors" not in driven.counters


def test_no_token() -> None:
    """A challenge without an error (RFC 6750, 3.1); another scheme is no token."""
    for headers in ({}, {b"authorization": b"Basic eA=="}, {b"authorization": b"Bearer"}):
        driven = Kit().drive(made(), headers=headers)
        assert (driven.status, driven.details) == (401, b"jwt_missing")
        assert driven.headers.get(b"www-authenticate") == b'Bearer realm="api"'


def test_two_authorizations() -> None:
    """Two headers are refused: the upstream might read the other one."""
    pairs = [(b"authorization", b"Bearer " + token()), (b"authorization", b"Bearer " + token())]
    assert Kit().drive(made(), headers=pairs).details == b"jwt_ambiguous"
    pairs = [(b"authorization", b"Basic eA=="), (b"Authorization", b"Bearer " + token())]
    assert Kit().drive(made(), headers=pairs).details == b"jwt_ambiguous"


def test_an_optional_token() -> None:
    """None is let through without claims, a bad one is not."""
    held = made(optional=True, claims_to_headers={"x-user": "sub"})
    driven = Kit().drive(held, headers={b"x-user": b"root"})
    assert driven.status == 200
    assert driven.upstream is not None
    assert b"x-user" not in driven.upstream.headers
    assert driven.metadata == {}
    assert driven.counters == {"without": 1}
    assert send(b"x", made(optional=True)).status == 401


def test_leeway() -> None:
    """Clocks may be a minute apart, or as far as is written."""
    assert send(token(exp=NOW - 59, nbf=NOW - 100)).status == 200
    assert send(token(nbf=NOW + 59)).status == 200
    assert send(token(exp=NOW), made({"leeway": 0})).status == 401
    assert send(token(exp=None), made({"require_expiry": False})).status == 200


def test_other_places() -> None:
    """A token in a cookie or parameter is found, and taken out; in a header it may stay."""
    places = [{"cookie": "t"}, {"parameter": "t"}, {"header": "x-token"}]
    held = made(look_in=places)
    kit = Kit()
    driven = kit.drive(held, headers={b"cookie": b"a=b; t=" + token()})
    assert driven.upstream is not None
    assert driven.upstream.headers.get(b"cookie") == b"a=b"
    driven = kit.drive(held, target=b"/?t=" + token() + b"&a=b")
    assert driven.upstream is not None
    assert driven.upstream.target == b"/?a=b"
    held = made(look_in=places, forward=True)
    driven = kit.drive(held, headers={b"x-token": token()}, target=b"/")
    assert driven.upstream is not None
    assert driven.upstream.headers.get(b"x-token") == token()


def test_the_log_has_no_token() -> None:
    """The access log shows the query without the token, also where it is refused."""
    for text in (token(), token(exp=NOW - 100), b"x.y"):
        held = made(look_in=[{"parameter": "t"}])
        driven = Kit().drive(held, target=b"/?t=" + text + b"&a=b")
        assert driven.exchange.path == b"/?t=***&a=b"


@pytest.mark.parametrize("name", [b"x-user", b"X-User", b"x_user", b"X_USER"])
def test_nobody_names_himself(name: bytes) -> None:
    """Headers of claims are the proxy's in every spelling, also where the claim is missing."""
    held = made(claims_to_headers={"X-User": "sub", "x-team": "team"})
    driven = send(token(), held, headers={name: b"root", b"x-team": b"blue"})
    assert driven.upstream is not None
    sent = [pair for pair in driven.upstream.headers if pair[0][:3] in (b"x-u", b"x_u", b"x-t")]
    assert sent == [(b"x-user", b"ann")]


def test_claims_as_headers() -> None:
    """Text, numbers, JSON of lists, encodings, a claim inside another."""
    held = made(
        claims_to_headers={
            "x-level": "level",
            "x-roles": "realm.roles",
            "x-name": {"claim": "name", "encoding": "percent"},
            "x-raw": {"claim": "name", "encoding": "base64url"},
            "x-admin": "admin",
        }
    )
    driven = send(token(level=3, realm={"roles": ["a", "é"]}, name="é %", admin=False), held)
    assert driven.upstream is not None
    headers = driven.upstream.headers
    assert headers.get(b"x-level") == b"3"
    assert headers.get(b"x-roles") == b'["a","\\u00e9"]'
    assert headers.get(b"x-name") == b"%C3%A9%20%25"
    assert base64.urlsafe_b64decode((headers.get(b"x-raw") or b"") + b"==") == "é %".encode()
    assert headers.get(b"x-admin") == b"false"


@pytest.mark.parametrize("name", ["é", "a\r\nx-admin: 1", " a", "a\x00", "\ud800"])
def test_claims_that_are_no_header(name: str) -> None:
    """What is not plain text is refused, so that two users never have one name."""
    driven = send(token(name=name), made(claims_to_headers={"x-name": "name"}))
    assert (driven.status, driven.details) == (401, b"jwt_header")
    encoded = {"x-name": {"claim": "name", "encoding": "percent"}}
    driven = send(token(name=name), made(claims_to_headers=encoded))
    assert driven.status == (401 if name == "\ud800" else 200)


def test_required_claims() -> None:
    """A token without what must be there is refused."""
    held = made({"claims": {"realm.roles": ["admin", "boss"], "verified": True}})
    kit = Kit()
    assert send(token(realm={"roles": ["x", "boss"]}, verified=True), held, kit).status == 200
    wrong: list[dict[str, Any]] = [
        {"realm": {"roles": ["x"]}, "verified": True},
        {"realm": {"roles": ["boss"]}, "verified": 1},
        {"realm.role": ["boss"], "verified": True},
    ]
    for claims in wrong:
        assert send(token(**claims), held, kit).details == b"jwt_claim"


def test_chosen_metadata() -> None:
    """With a list, the metadata has those claims alone."""
    driven = send(token(a={"b": "c"}, secret="s"), made(metadata=["sub", "a.b", "no"]))
    assert driven.metadata == {"jwt_provider": "p", "jwt.sub": "ann", "jwt.a.b": "c"}


def test_text_that_is_none() -> None:
    """Half a surrogate pair cannot be written anywhere: the token is refused."""
    assert send(token(name="\ud800")).details == b"jwt_malformed"
    claims = {"iss": ISSUER, "aud": "shop", "exp": NOW + 300, "\ud800": 1}
    assert send(token(claims)).details == b"jwt_malformed"


def test_several_providers() -> None:
    """A token is tried with those that its issuer names, and what says most is told."""
    providers = {
        "one": {**PROVIDER},
        "two": {**PROVIDER, "audiences": ["staff"]},
        "three": {"issuer": "i3", "jwks": jwks(jwk("ES256"))},
        "any": {"jwks": jwks(jwk("rsa2", "k2"))},
    }
    held = Jwt(Jwt.Options.model_validate({"providers": providers}))
    kit = Kit()
    assert send(token(), held, kit).metadata["jwt_provider"] == "one"
    assert send(token(aud="staff"), held, kit).metadata["jwt_provider"] == "two"
    text = token(iss="i3", signed_by="ES256", alg="ES256")
    assert send(text, held, kit).metadata["jwt_provider"] == "three"
    text = token(iss="else", signed_by="rsa2", kid="k2")
    assert send(text, held, kit).metadata["jwt_provider"] == "any"
    assert send(token(aud="no"), held, kit).details == b"jwt_audience"
    # A key of one issuer signs nothing for another.
    assert send(token(iss="i3"), held, kit).status == 401


def test_a_token_is_verified_once() -> None:
    """It is remembered until it ends; another one is not taken for it."""
    kit, held = Kit(), made({"leeway": 0})
    text = token(exp=NOW + 10)
    for _ in range(3):
        driven = send(text, held, kit)
        assert driven.metadata["jwt.sub"] == "ann"
    assert kit.counters["verified"] == 1
    assert send(text[:-4] + b"AAAA", held, kit).status == 401
    kit.advance(10.1)
    assert send(text, held, kit).details == b"jwt_expired"
    kit.stop(held)


def write(path: Path, content: bytes, stamp: int) -> None:
    """Write with a time of its own."""
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))


def test_keys_in_a_file_that_changes(tmp_path: Path) -> None:
    """Tokens of a key that is gone are refused at once, also those remembered."""
    path = tmp_path / "keys"
    write(path, json.dumps(jwks(jwk())).encode(), 1)
    provider = {"issuer": ISSUER, "jwks_file": "keys"}
    held = Jwt(Jwt.Options.model_validate({"providers": {"p": provider}}))
    kit = Kit(directory=tmp_path)
    assert send(token(), held, kit).status == 200
    write(path, b"{}", 2)
    kit.advance(1.1)
    assert send(token(), held, kit).status == 200
    assert kit.counters["key_failures{provider=p}"] == 1
    write(path, json.dumps(jwks(jwk("ES256", "k2"))).encode(), 3)
    kit.advance(1.1)
    assert send(token(), held, kit).status == 401
    assert send(token(signed_by="ES256", alg="ES256", kid="k2"), held, kit).status == 200
    assert kit.shown["jwt"]()[0]["algorithms"] == ["ES256"]


def test_a_pem_file(tmp_path: Path) -> None:
    """A public key verifies, and never as a secret; as a secret's file it is refused."""
    (tmp_path / "key.pem").write_bytes(pem())
    provider = {"issuer": ISSUER, "public_key_file": "key.pem"}
    held = Jwt(Jwt.Options.model_validate({"providers": {"p": provider}}))
    kit = Kit(directory=tmp_path)
    assert send(token(kid="whatever"), held, kit).status == 200
    assert send(token(signed_by=pem(), alg="HS256"), held, kit).details == b"jwt_algorithm"
    provider = {"issuer": ISSUER, "secret_file": "key.pem"}
    held = Jwt(Jwt.Options.model_validate({"providers": {"p": provider}}))
    with pytest.raises(ValueError, match="the keys of 'p': .*a public key is no secret"):
        Kit(directory=tmp_path).attach(held)


def test_the_library_is_found() -> None:
    """The module is called as its library: importing it alone finds both."""
    code = "import meshproxy.filters.jwt as f, jwt; assert jwt.PyJWK and f.Jwt and f is not jwt"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.binary(max_size=80))
def test_any_token(value: bytes) -> None:
    """Whatever is sent is answered 401, and is no error."""
    value = bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
    head, body, _ = token().split(b".")
    for text in (value, head + b"." + body + b"." + b64(value), head + b"." + b64(value) + b".x"):
        driven = send(text)
        assert driven.status == 401
        assert "errors" not in driven.counters

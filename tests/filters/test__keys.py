"""Which requests have one key, and which never do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshproxy import api
from meshproxy.filters._keys import LONGEST, By, ClientIp, KeyPart, Missing, compile_key, hashed


class _Options(api.Options):
    by: By


def key_of(by: Any, missing: Missing = "share", **facts: Any) -> bytes | None:
    """The key of an exchange with these facts."""
    parameters = facts.pop("parameters", {})
    cookies = facts.pop("cookies", {})
    request = SimpleNamespace(
        headers=api.Headers.of(facts.pop("headers", {}).items()),
        authority=facts.pop("authority", b"shop.example"),
        method=facts.pop("method", b"GET"),
        path=facts.pop("path", b"/"),
        cookie=cookies.get,
        parameter=parameters.get,
    )
    exchange = SimpleNamespace(
        **{
            "request": request,
            "client_ip": b"192.0.2.7",
            "route_name": b"api",
            "metadata": {},
            **facts,
        }
    )
    return compile_key(_Options(by=by).by, missing)(exchange)


def test_each_part_is_what_its_name_says() -> None:
    """Every word and mapping of ``by`` reads the fact that it names."""
    assert key_of("client_ip") == b"192.0.2.7"
    assert key_of({"header": "X-User"}, headers={b"x-user": b"ann"}) == b"ann"
    assert key_of({"header": "host"}, authority=b"a.example:81") == b"a.example:81"
    assert key_of({"cookie": "session"}, cookies={b"session": b"s1"}) == b"s1"
    assert key_of({"parameter": "k"}, parameters={b"k": b"v"}) == b"v"
    assert key_of({"metadata": "team"}, metadata={"team": "blue"}) == b"blue"
    assert key_of({"metadata": "team"}, metadata={"team": b"red"}) == b"red"
    assert key_of({"metadata": "tier"}, metadata={"tier": 0}) == b"0"
    assert key_of({"claim": "sub"}, metadata={"jwt.sub": "ann"}) == b"ann"
    assert key_of("route") == b"api"
    assert key_of("method", method=b"PUT") == b"PUT"
    assert key_of("path", path=b"/a") == b"/a"
    assert key_of("everyone") == key_of("everyone", client_ip=b"192.0.2.8")


def test_addresses_by_their_network() -> None:
    """An IPv6 client is its /64, since it owns that; prefixes can be set; mapped ones are IPv4."""
    assert key_of("client_ip", client_ip=b"2001:db8::1") == b"2001:db8::/64"
    assert key_of("client_ip", client_ip=b"::ffff:192.0.2.7") == b"192.0.2.7"
    wide = {"client_ip": {"v4": 24, "v6": 48}}
    assert key_of(wide) == b"192.0.2.0/24"
    assert key_of(wide, client_ip=b"2001:db8:0:9::1") == b"2001:db8::/48"


def test_a_host_is_its_name() -> None:
    """Neither capitals nor a port make another host."""
    keys = {
        key_of("host", authority=name) for name in (b"A.example", b"a.example:80", b"a.example:")
    }
    assert keys == {b"a.example"}
    assert key_of("host", authority=b"[::1]") == b"[::1]"
    assert key_of("host", authority=b"[::1]:80") == b"[::1]"


def test_without_by_it_is_the_address() -> None:
    """A limit that says nothing counts clients by their address."""
    assert compile_key(None)(SimpleNamespace(client_ip=b"192.0.2.7")) == b"192.0.2.7"


@pytest.mark.parametrize("there", [{}, {b"x-user": b""}])
def test_what_is_missing(there: dict[bytes, bytes]) -> None:
    """A missing or empty part is one shared key, or none where that is asked for."""
    assert key_of({"header": "x-user"}, headers=there) == b""
    assert key_of({"header": "x-user"}, "skip", headers=there) is None
    assert key_of({"header": "x-user"}, "refuse", headers=there) is None
    both = ["method", {"header": "x-user"}]
    assert key_of(both, headers=there) == b"3:GET0:"
    assert key_of(both, headers=there, method=b"PUT") == b"3:PUT0:"
    assert key_of(both, "skip", headers=there) is None


texts = st.binary(max_size=80)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_parts_are_never_confused(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> None:
    """Two pairs of values have one key exactly if they are equal; no key is long."""
    by = [{"metadata": "a"}, {"metadata": "b"}]
    one, two = (key_of(by, metadata=dict(zip("ab", pair, strict=True))) for pair in (first, second))
    assert one is not None
    assert len(one) <= LONGEST
    assert (one == two) == (first == second)


def test_a_split_at_another_place_is_another_key() -> None:
    """What joined values could pretend, framed ones cannot."""
    by = [{"metadata": "a"}, {"metadata": "b"}]
    assert key_of(by, metadata={"a": "x", "b": "1:y"}) != key_of(
        by, metadata={"a": "x1:", "b": "y"}
    )
    assert key_of(by, metadata={"a": "", "b": "0:"}) != key_of(by, metadata={"a": "0:", "b": ""})


@given(st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=200))
def test_a_long_key_is_a_hash_that_nobody_can_send(first: bytes, second: bytes) -> None:
    """Single values stay distinct too, and a client that sends another's hash is not that one."""
    one, two = (key_of({"metadata": "a"}, metadata={"a": value}) for value in (first, second))
    assert one is not None
    assert two is not None
    assert (one == two) == (first == second)
    assert max(len(one), len(two)) <= LONGEST
    assert key_of({"metadata": "a"}, metadata={"a": hashed(first)}) != hashed(first)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("client", "client_ip, everyone, route"),
        ({"header": "a", "cookie": "b"}, "is there already"),
        ({}, "is needed"),
        ([], "at least 1"),
        ({"header": "a b"}, "not the name of a header"),
        ({"client_ip": {"v4": 33}}, "less than or equal to 32"),
        ({"route": False}, "Input should be True"),
        (["route"] * 9, "at most 8"),
    ],
)
def test_what_cannot_be_a_key(by: Any, said: str) -> None:
    """Anything else is refused, in words that name what is meant."""
    with pytest.raises(ValidationError, match=said):
        _Options(by=by)


def test_a_word_that_was_meant() -> None:
    """A slip is answered with the word that was meant."""
    with pytest.raises(ValidationError) as caught:
        _Options(by="clientip")  # type: ignore[arg-type]
    error = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(error, api.Unfit)
    assert error.suggestion == "client_ip"


def test_built_in_python() -> None:
    """A key can be made of sections too."""
    key = compile_key([KeyPart(client_ip=ClientIp(v4=16))])
    assert key(SimpleNamespace(client_ip=b"192.0.2.7")) == b"192.0.0.0/16"

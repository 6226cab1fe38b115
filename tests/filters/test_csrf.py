"""What another site's page can make a browser send, and what the filter makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshproxy.api import Unfit
from meshproxy.filters.csrf import Csrf
from meshproxy.testing import Driven, drive

Pairs = list[tuple[bytes, bytes]]


def post(pairs: Pairs, *, filter: Csrf | None = None, **keywords: Any) -> Driven:  # noqa: A002
    """A POST to test.example with these headers."""
    held = filter if filter is not None else Csrf(Csrf.Options())
    return drive(held, method=b"POST", headers=pairs, **keywords)


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"origin", b"http://test.example")],
        [(b"origin", b"https://test.example")],
        [(b"origin", b"http://TEST.example:80")],
        [(b"referer", b"http://test.example/form?x=http://evil.example")],
        [(b"sec-fetch-site", b"same-origin")],
        [(b"sec-fetch-site", b"none"), (b"origin", b"null")],
    ],
)
def test_the_own_site_passes(pairs: Pairs) -> None:
    """The request's own host passes, by Sec-Fetch-Site, Origin or Referer."""
    driven = post(pairs)
    assert driven.status == 200
    assert driven.counters == {"allowed": 1}


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(b"origin", b"null")],
        [(b"origin", b"")],
        [(b"origin", b"http://evil.example")],
        [(b"origin", b"http://test.example.evil.example")],
        [(b"origin", b"http://eviltest.example")],
        [(b"origin", b"http://test.example:81")],
        [(b"origin", b"http://test.example@evil.example")],
        [(b"origin", b"http://test.example"), (b"origin", b"http://evil.example")],
        [(b"origin", b"http://evil.example"), (b"referer", b"http://test.example/")],
        [(b"referer", b"http://evil.example/http://test.example/")],
        [(b"referer", b"http://test.example@evil.example/")],
        [(b"referer", b"http://test.example\\@evil.example/")],
        [(b"referer", b"test.example")],
        [(b"referer", b"http://test.example/"), (b"referer", b"http://test.example/")],
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"cross-site"), (b"origin", b"http://test.example")],
        [(b"sec-fetch-site", b"same-site"), (b"origin", b"http://test.example")],
        [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"SAME-ORIGIN")],
    ],
)
def test_another_site_is_refused(pairs: Pairs) -> None:
    """Everything else is refused as Envoy does, whatever is made to look like the host."""
    driven = post(pairs)
    assert (driven.status, driven.body) == (403, b"Invalid origin")
    assert driven.details == b"csrf_origin_mismatch"
    assert driven.upstream is None
    assert driven.counters == {"refused": 1, "answers": 1}


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
def test_safe_methods_pass(method: bytes) -> None:
    """Methods that change nothing are not looked at."""
    driven = drive(Csrf(Csrf.Options()), method=method, headers={b"origin": b"http://evil.example"})
    assert driven.status == 200
    assert driven.counters == {}


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"PROPFIND"])
def test_other_methods_are_looked_at(method: bytes) -> None:
    """What is not known to be harmless is looked at."""
    driven = drive(Csrf(Csrf.Options()), method=method, headers={b"origin": b"http://evil.example"})
    assert driven.status == 403


def test_a_websocket_of_another_site() -> None:
    """A page of another site opens no WebSocket; a program without Origin does; it can be off."""
    evil = {b"origin": b"http://evil.example"}
    on, off = Csrf(Csrf.Options()), Csrf(Csrf.Options(upgrades=False))
    assert drive(on, headers=evil, upgrade=b"websocket", response=None).status == 403
    assert drive(on, upgrade=b"websocket", response=None).upstream is not None
    assert drive(off, headers=evil, upgrade=b"websocket", response=None).upstream is not None


def test_a_page_without_tls_is_not_the_same_site() -> None:
    """Over TLS, an origin without TLS is another one: anybody on the way can write its pages."""
    driven = post([(b"origin", b"http://test.example")], scheme=b"https")
    assert driven.status == 403
    assert post([(b"origin", b"https://test.example")], scheme=b"https").status == 200


def test_origins_that_are_named() -> None:
    """Named origins pass, also by Referer and with Sec-Fetch-Site; others still do not."""
    options = Csrf.Options.model_validate(
        {"origins": ["https://app.example", {"suffix": ".shop.example"}]}
    )
    held = Csrf(options)
    assert post([(b"origin", b"https://app.example")], filter=held).status == 200
    held = Csrf(options)
    assert post([(b"referer", b"https://app.example:443/x")], filter=held).status == 200
    held = Csrf(options)
    cross = [(b"sec-fetch-site", b"cross-site"), (b"origin", b"https://a.shop.example")]
    assert post(cross, filter=held).status == 200
    assert post([(b"origin", b"http://app.example")], filter=Csrf(options)).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "app.example",
        "https://app.example/",
        "*",
        {"contains": "example"},
        {"suffix": "example"},
        {"prefix": "https://app.example"},
        {"regex": ".*"},
        {"exact": "a", "invert": True},
    ],
)
def test_origins_that_take_too_much(origin: Any) -> None:
    """An origin that nobody sends, or that takes in strangers, is refused at the start."""
    options = Csrf.Options.model_validate({"origins": ["https://a.example", origin]})
    with pytest.raises(Unfit) as raised:
        Csrf(options)
    assert raised.value.at == ("origins", 1)


def test_programs_that_say_nothing() -> None:
    """With `missing`, a request without any of the headers passes; one that lies does not."""
    assert post([], filter=Csrf(Csrf.Options(missing=True))).status == 200
    cross = [(b"sec-fetch-site", b"cross-site")]
    assert post(cross, filter=Csrf(Csrf.Options(missing=True))).status == 403


def test_shadow_and_percentage() -> None:
    """Shadow refuses nobody and says so; a percentage refuses that share."""
    driven = post([], filter=Csrf(Csrf.Options(shadow=True)))
    assert (driven.status, driven.metadata["csrf.shadow"]) == (200, "refused")
    assert driven.counters == {"spared": 1}
    assert post([], filter=Csrf(Csrf.Options(percentage=25), lambda: 0.24)).status == 403
    assert post([], filter=Csrf(Csrf.Options(percentage=25), lambda: 0.25)).status == 200
    with pytest.raises(ValidationError):
        Csrf.Options(percentage=101)


@given(st.binary(max_size=80))
def test_no_origin_raises(value: bytes) -> None:
    """Whatever a client sends is judged, never an error."""
    value = bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
    for name in (b"origin", b"referer", b"sec-fetch-site"):
        driven = post([(name, value)])
        assert driven.status in (200, 403)
        assert "errors" not in driven.counters

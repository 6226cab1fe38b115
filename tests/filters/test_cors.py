"""The filter cors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.api import Response, Unfit
from meshproxy.filters.cors import Cors
from meshproxy.testing import Driven, Kit, drive

APP = b"https://app.example"
PREFLIGHT = {
    b"origin": APP,
    b"access-control-request-method": b"PUT",
    b"access-control-request-headers": b"x-a",
}


def made(**options: Any) -> Cors:
    """The filter with these options, as a configuration would write them."""
    return Cors(Cors.Options.model_validate(options))


def said(driven: Driven) -> dict[bytes, bytes]:
    """The CORS headers of the response, and vary."""
    return {
        name: value
        for name, value in driven.headers
        if name.startswith(b"access-control-") or name == b"vary"
    }


def test_a_preflight_request_is_answered_here() -> None:
    """An origin that is allowed hears what it may do, and the endpoint hears nothing."""
    driven = drive(
        made(
            allow_origins=["https://app.example"],
            allow_methods=["GET", "PUT"],
            allow_headers=["X-A", "x-b"],
            expose_headers=["etag"],
            allow_credentials=True,
            max_age="10m",
        ),
        method=b"OPTIONS",
        headers=PREFLIGHT,
    )
    assert driven.upstream is None
    assert (driven.status, driven.body, driven.details) == (204, b"", b"cors_preflight")
    assert said(driven) == {
        b"access-control-allow-origin": APP,
        b"access-control-allow-credentials": b"true",
        b"access-control-allow-methods": b"GET, PUT",
        b"access-control-allow-headers": b"x-a, x-b",
        b"access-control-max-age": b"600",
        b"vary": b"origin",
    }
    assert driven.counters["preflights"] == driven.counters["allowed"] == 1


def test_a_preflight_request_of_a_stranger() -> None:
    """It is answered too, and allows nothing."""
    driven = drive(
        made(allow_origins=["https://other.example"], preflight_status=200),
        method=b"OPTIONS",
        headers=PREFLIGHT,
    )
    assert driven.upstream is None
    assert (driven.status, driven.details) == (200, b"cors_preflight_refused")
    assert said(driven) == {b"vary": b"origin"}
    assert driven.counters["refused"] == 1


def test_options_that_are_no_preflight_go_on() -> None:
    """OPTIONS without an origin, or without the method that is asked for, is the endpoint's."""
    for headers in ({}, {b"origin": APP}, {b"access-control-request-method": b"PUT"}):
        driven = drive(made(), method=b"OPTIONS", headers=headers)
        assert driven.upstream is not None


def test_a_response_is_marked() -> None:
    """The page may read it, and the headers that are exposed; credentials where it says so."""
    held = made(
        allow_origins=["https://app.example"], expose_headers=["ETag"], allow_credentials=True
    )
    driven = drive(held, headers={b"origin": APP}, response=Response(200, b"x", {b"vary": b"a, B"}))
    assert said(driven) == {
        b"access-control-allow-origin": APP,
        b"access-control-allow-credentials": b"true",
        b"access-control-expose-headers": b"etag",
        b"vary": b"a, B, origin",
    }


def test_the_proxys_own_errors_are_marked() -> None:
    """A page can read why there is no answer."""
    driven = drive(made(), target=b"/404-no-such-route", headers={b"origin": APP})
    assert driven.status == 404
    assert driven.headers.get(b"access-control-allow-origin") == b"*"


def test_strangers_get_a_response_without_marks() -> None:
    """The request is served (CORS keeps nobody out), and the page cannot read the response."""
    driven = drive(made(allow_origins=["https://other.example"]), headers={b"origin": APP})
    assert driven.status == 200
    assert said(driven) == {b"vary": b"origin"}


@pytest.mark.parametrize("vary", [b"Origin", b"*", b"accept, ORIGIN"])
def test_vary_is_said_once(vary: bytes) -> None:
    """A response that varies by origin, or by everything, says so already."""
    driven = drive(made(), response=Response(200, b"x", {b"vary": vary}))
    assert driven.headers.get_all(b"vary") == [vary]


def test_a_request_without_an_origin() -> None:
    """It gets no marks, and caches learn that others may."""
    driven = drive(made(allow_origins=["https://app.example"]))
    assert said(driven) == {b"vary": b"origin"}
    assert driven.counters == {}


def test_the_endpoints_own_headers_are_replaced_or_kept() -> None:
    """By default this filter alone decides; otherwise what the endpoint says is left."""
    own = Response(
        200,
        b"x",
        {b"access-control-allow-origin": b"*", b"access-control-allow-credentials": b"true"},
    )
    assert said(drive(made(), headers={b"origin": APP}, response=own)) == {
        b"access-control-allow-origin": b"*",
        b"vary": b"origin",
    }
    stranger = made(allow_origins=["https://other.example"])
    assert b"access-control-allow-origin" not in said(
        drive(stranger, headers={b"origin": APP}, response=own)
    )
    kept = said(drive(made(replace=False), headers={b"origin": APP}, response=own))
    assert kept[b"access-control-allow-credentials"] == b"true"
    silent = said(drive(made(replace=False), headers={b"origin": APP}))
    assert silent[b"access-control-allow-origin"] == b"*"


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://*.example", b"https://a.example", True),
        ("https://*.example", b"https://a.b.example", True),
        ("https://*.example", b"https://example", False),
        ("https://*.example", b"https://evil/.example", False),
        ("https://*.example", b"http://a.example", False),
        ("https://*.example", b"https://a.example:8443", False),
        ("https://*.example", b"https://a-example", False),
        ("https://*.example", b"https://a.example.evil", False),
        ("https://a.example:*", b"https://a.example:8443", True),
        ("https://a.example:*", b"https://a.example", True),
        ("https://a.example:*", b"https://a.example:8443.evil", False),
        ({"regex": r"https://[a-z]+\.example"}, b"https://a.example", True),
        ({"regex": r"https://[a-z]+\.example"}, b"https://a.example.evil", False),
        ({"suffix": ".example"}, b"https://a.example", True),
        ({"prefix": "http://localhost:"}, b"http://localhost:3000", True),
        ("null", b"null", True),
        ("https://app.example", b"HTTPS://APP.EXAMPLE", False),
    ],
)
def test_which_origins_match(pattern: Any, origin: bytes, allowed: bool) -> None:
    """A pattern takes what it says and nothing that only looks like it."""
    driven = drive(made(allow_origins=[pattern]), headers={b"origin": origin})
    assert (driven.headers.get(b"access-control-allow-origin") == origin) is allowed


def test_private_networks() -> None:
    """A public page is let in only where that was asked for and allowed."""
    asking = {**PREFLIGHT, b"access-control-request-private-network": b"true"}
    name = b"access-control-allow-private-network"
    allowing = made(private_network=True)
    kit = Kit()
    driven = kit.drive(allowing, method=b"OPTIONS", headers=asking)
    assert driven.headers.get(name) == b"true"
    assert b"private-network" in (driven.headers.get(b"vary") or b"")
    assert name not in kit.drive(allowing, method=b"OPTIONS", headers=PREFLIGHT).headers
    assert name not in drive(made(), method=b"OPTIONS", headers=asking).headers


def test_shadow_changes_nothing() -> None:
    """It counts and notes what would be."""
    held = made(allow_origins=["https://other.example"], shadow=True)
    driven = drive(held, method=b"OPTIONS", headers=PREFLIGHT)
    assert driven.upstream is not None
    assert said(driven) == {}
    assert driven.metadata["cors.shadow"] == "refused"
    assert driven.counters["refused"] == 1
    assert driven.counters.get("preflights", 0) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"allow_credentials": True},
        {"allow_origins": ["*"], "allow_credentials": True},
        {"allow_origins": ["null"], "allow_credentials": True},
        {"allow_origins": ["https://a.example"], "allow_credentials": True, "allow_methods": ["*"]},
        {"allow_origins": ["https://a.example"], "allow_credentials": True, "allow_headers": ["*"]},
        {"allow_origins": []},
        {"allow_origins": ["*", "https://a.example"]},
        {"allow_origins": ["https://a.example/"]},
        {"allow_origins": ["https://a.example:443"]},
        {"allow_origins": ["a.example"]},
        {"allow_origins": ["https://a.*"]},
        {"max_age": "-1s"},
    ],
)
def test_what_would_not_work_is_refused(options: dict[str, Any]) -> None:
    """Everybody with credentials, and origins that no browser sends, are found at start."""
    with pytest.raises(ValidationError):
        Cors.Options.model_validate(options)


@pytest.mark.parametrize(
    "origin",
    [
        {"suffix": "example.com"},
        {"prefix": "https://example.com"},
        {"contains": "example"},
        {"present": True},
        {"exact": "https://a.example", "invert": True},
        {"regex": ".*"},
        {"regex": "https://.+"},
        {"exact": "https://a.example/"},
    ],
)
def test_matches_that_let_strangers_in_are_refused(origin: dict[str, Any]) -> None:
    """What takes https://evilexample.com for example.com is a mistake."""
    with pytest.raises(Unfit):
        made(allow_origins=[origin])


@pytest.mark.parametrize("origin", [{"exact": "*"}, {"exact": "null"}, {"regex": "null|https://a"}])
def test_credentials_for_everybody_are_refused_however_written(origin: dict[str, Any]) -> None:
    """A mapping does not hide what a text would not be allowed."""
    with pytest.raises(Unfit):
        made(allow_origins=[origin], allow_credentials=True)

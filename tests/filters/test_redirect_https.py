"""The filter redirect_https."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshproxy.api import Unfit
from meshproxy.filters.redirect_https import RedirectHttps
from meshproxy.testing import drive

HSTS = b"strict-transport-security"


def made(**options: Any) -> RedirectHttps:
    """The filter with these options, as a configuration would write them."""
    return RedirectHttps(RedirectHttps.Options.model_validate(options))


@pytest.mark.parametrize(
    ("authority", "target", "port", "location"),
    [
        (b"a.example", b"/x?y=1", 443, b"https://a.example/x?y=1"),
        (b"a.example:8080", b"/", 8443, b"https://a.example:8443/"),
        (b"[::1]:8080", b"/", 443, b"https://[::1]/"),
        (b"[::1]", b"/", 443, b"https://[::1]/"),
        (b"a.example", b"//evil.example", 443, b"https://a.example//evil.example"),
        (b"a.example", b"*", 443, b"https://a.example/"),
    ],
)
def test_where_it_leads(authority: bytes, target: bytes, port: int, location: bytes) -> None:
    """To the same place over https, on its port."""
    driven = drive(made(port=port), authority=authority, target=target)
    assert driven.upstream is None
    assert (driven.status, driven.headers.get(b"location")) == (301, location)
    assert driven.counters["redirected"] == 1


def test_other_methods_keep_their_method() -> None:
    """308 forbids to turn a POST into a GET; both statuses can be chosen."""
    assert drive(made(), method=b"HEAD").status == 301
    assert drive(made(), method=b"POST", body=b"x").status == 308
    assert drive(made(status=302, other_status=307), method=b"PUT").status == 307
    assert drive(made(status=302)).status == 302


def test_https_is_let_through() -> None:
    """There is nothing to redirect."""
    assert drive(made(), scheme=b"https").status == 200


def test_certificates_can_be_had_over_http() -> None:
    """ACME's challenges are served plain; what only begins like them is not."""
    held = made()
    assert drive(held, target=b"/.well-known/acme-challenge/x").status == 200
    for climbing in (b"../../a", b"%2E./../a", b"..%5ca", b"..\\a"):
        target = b"/.well-known/acme-challenge/" + climbing
        assert drive(made(), target=target).status == 301, target
    assert drive(made(exempt=["/plain"]), target=b"/plain/x").status == 200
    assert drive(made(exempt=[]), target=b"/.well-known/acme-challenge/x").status == 301


def test_a_clients_word_is_believed_where_it_is_said_so() -> None:
    """By default nobody can claim to have come over https."""
    claim = {b"x-forwarded-proto": b"https"}
    assert drive(made(), headers=claim).status == 301
    trusting = {"trust_forwarded_proto": True}
    assert drive(made(**trusting), headers=claim).status == 200
    assert drive(made(**trusting)).status == 301
    assert drive(made(**trusting), headers={b"x-forwarded-proto": b"https, http"}).status == 301


def test_a_request_without_a_host() -> None:
    """HTTP/1.0 may name none: there is nowhere to go."""
    assert drive(made(), authority=b"").status == 400


def test_strict_transport_security() -> None:
    """It is said over https alone, as it is written."""
    held = made(strict_transport={"max_age": "365d", "include_subdomains": True, "preload": True})
    over_https = drive(held, scheme=b"https").headers.get(HSTS)
    assert over_https == b"max-age=31536000; includeSubDomains; preload"
    assert HSTS not in drive(made(strict_transport={})).headers
    plain = made(strict_transport={}, exempt=["/"])
    assert HSTS not in drive(plain).headers
    ending = made(strict_transport={"max_age": 0})
    assert drive(ending, scheme=b"https").headers.get(HSTS) == b"max-age=0"
    assert HSTS not in drive(made(), scheme=b"https").headers
    behind = made(strict_transport={}, trust_forwarded_proto=True)
    claim = {b"x-forwarded-proto": b"https"}
    assert drive(behind, headers=claim).headers.get(HSTS) == b"max-age=31536000"


def test_a_preload_that_no_list_takes_is_refused() -> None:
    """It needs the domains below, and a year."""
    with pytest.raises(ValidationError):
        made(strict_transport={"preload": True})
    with pytest.raises(Unfit):
        made(strict_transport={"preload": True, "include_subdomains": True, "max_age": "30d"})

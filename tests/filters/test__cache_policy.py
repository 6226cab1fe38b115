"""What a shared cache may keep, and for how long (RFC 9111, 3 and 4.2)."""

from __future__ import annotations

import pytest

from meshproxy.api import Headers
from meshproxy.filters._cache_control import directives
from meshproxy.filters._cache_policy import (
    Rules,
    displaces,
    freshness,
    initial_age,
    refusal,
    request_directives,
    stored_names,
)

RULES = Rules(86400.0, 0.0, 0.0, 0.0, "pass")
NOW = 784111777.0
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
HOUR_AGO = b"Sun, 06 Nov 1994 07:49:37 GMT"
LATER = b"Sun, 06 Nov 1994 08:50:37 GMT"
YEARS_AGO = b"Sat, 06 Nov 1982 08:49:37 GMT"

Pairs = list[tuple[bytes, bytes]]
FRESH = (b"cache-control", b"max-age=60")

#: What it shows, the status, the request's headers, the response's, why it is not stored.
STORABLE: list[tuple[str, int, Pairs, Pairs, str]] = [
    ("3: 200 with max-age", 200, [], [FRESH], ""),
    ("3: 200 without a word", 200, [], [], ""),
    ("3: 404 without a word", 404, [], [], ""),
    ("3: 302 without a word", 302, [], [], "status"),
    ("3: 302 with max-age", 302, [], [FRESH], ""),
    ("3: 302 with public", 302, [], [(b"cache-control", b"public")], ""),
    ("3: 302 with Expires", 302, [], [(b"expires", LATER)], ""),
    ("3: 500 without a word", 500, [], [], "status"),
    ("3: an unknown status with max-age", 299, [], [FRESH], ""),
    ("3: an unknown status without", 299, [], [], "status"),
    ("3.3: 206 is not put together", 206, [], [FRESH], "status"),
    ("3: 304 is no response of its own", 304, [], [FRESH], "status"),
    ("3: 101 is not final", 101, [], [FRESH], "status"),
    ("5.2.2.5: no-store", 200, [], [(b"cache-control", b"no-store, max-age=60")], "no-store"),
    (
        "5.2.2.3: must-understand beats no-store",
        200,
        [],
        [(b"cache-control", b"must-understand, no-store, max-age=60")],
        "",
    ),
    (
        "5.2.2.3: not for what is not understood",
        299,
        [],
        [(b"cache-control", b"must-understand, no-store, max-age=60")],
        "status",
    ),
    (
        "5.2.2.3: nor without no-store",
        299,
        [],
        [(b"cache-control", b"must-understand, max-age=60")],
        "status",
    ),
    (
        "5.2.1.5: the request's no-store",
        200,
        [(b"cache-control", b"no-store")],
        [FRESH],
        "no-store",
    ),
    ("5.2.2.7: private", 200, [], [(b"cache-control", b"private, max-age=60")], "private"),
    ("5.2.2.7: private fields", 200, [], [(b"cache-control", b'private="x-a", max-age=60')], ""),
    ("3.5: Authorization", 200, [(b"authorization", b"x")], [FRESH], "authorization"),
    ("3.5: with public", 200, [(b"authorization", b"x")], [(b"cache-control", b"public")], ""),
    (
        "3.5: with s-maxage",
        200,
        [(b"authorization", b"x")],
        [(b"cache-control", b"s-maxage=1")],
        "",
    ),
    (
        "3.5: with must-revalidate",
        200,
        [(b"authorization", b"x")],
        [(b"cache-control", b"must-revalidate")],
        "",
    ),
    (
        "3.5: not with proxy-revalidate",
        200,
        [(b"authorization", b"x")],
        [(b"cache-control", b"proxy-revalidate")],
        "authorization",
    ),
    ("7.3: Set-Cookie", 200, [], [FRESH, (b"set-cookie", b"a=b")], "set-cookie"),
    (
        "7.3: Set-Cookie that is left out",
        200,
        [],
        [(b"cache-control", b'no-cache="set-cookie", max-age=1'), (b"set-cookie", b"a=b")],
        "",
    ),
    ("4.1: vary", 200, [], [FRESH, (b"vary", b"accept")], ""),
    ("4.1: vary *", 200, [], [FRESH, (b"vary", b"*")], "vary"),
    (
        "4.1: vary * among others",
        200,
        [],
        [FRESH, (b"vary", b"accept"), (b"vary", b"a ,*")],
        "vary",
    ),
]


@pytest.mark.parametrize(
    ("status", "request_headers", "response_headers", "why"),
    [case[1:] for case in STORABLE],
    ids=[case[0] for case in STORABLE],
)
def test_what_is_stored(
    status: int, request_headers: Pairs, response_headers: Pairs, why: str
) -> None:
    """RFC 9111, 3: each condition, alone."""
    request, response = Headers.of(request_headers), Headers.of(response_headers)
    asked = request_directives(request)
    said = directives(response.get_all(b"cache-control"))
    assert refusal(status, asked, said, request, response, RULES) == why


def test_cookies_as_configured() -> None:
    """Stripped or kept on purpose, they hinder nothing."""
    response = Headers.of([FRESH, (b"set-cookie", b"a=b")])
    said = directives([FRESH[1]])
    empty = Headers()
    for choice in ("strip", "keep"):
        rules = RULES._replace(set_cookie=choice)
        assert refusal(200, directives([]), said, empty, response, rules) == ""
        assert (b"set-cookie" in stored_names(said, rules)) is (choice == "strip")


#: What it shows, the status, the response's headers, seconds.
LIFETIMES: list[tuple[str, int, Pairs, float]] = [
    ("4.2.1: max-age", 200, [FRESH], 60),
    ("4.2.1: s-maxage before max-age", 200, [(b"cache-control", b"max-age=60, s-maxage=5")], 5),
    ("4.2.1: max-age before Expires", 200, [FRESH, (b"expires", HOUR_AGO), (b"date", DATE)], 60),
    ("4.2.1: Expires less Date", 200, [(b"expires", LATER), (b"date", DATE)], 60),
    ("4.2.1: by the Date, not our clock", 200, [(b"expires", DATE), (b"date", HOUR_AGO)], 3600),
    ("6.6.1: Expires without Date", 200, [(b"expires", LATER)], 60),
    ("5.3: Expires in the past", 200, [(b"expires", HOUR_AGO), (b"date", DATE)], 0),
    ("5.3: Expires 0", 200, [(b"expires", b"0"), (b"last-modified", YEARS_AGO)], 0),
    ("5.3: Expires that is none", 200, [(b"expires", b"soon"), (b"last-modified", YEARS_AGO)], 0),
    ("4.2.1: Expires twice, the same", 200, [(b"expires", LATER)] * 2, 60),
    ("4.2.1: Expires twice, different", 200, [(b"expires", LATER), (b"expires", DATE)], 0),
    (
        "4.2.1: a bad max-age before Expires",
        200,
        [(b"cache-control", b"max-age=x"), (b"expires", LATER)],
        0,
    ),
    (
        "4.2.2: a tenth since the last change",
        200,
        [(b"last-modified", HOUR_AGO), (b"date", DATE)],
        360,
    ),
    ("4.2.2: bounded", 200, [(b"last-modified", YEARS_AGO), (b"date", DATE)], 86400),
    ("4.2.2: a change in the future", 200, [(b"last-modified", LATER), (b"date", DATE)], 0),
    ("4.2.2: not for any status", 302, [(b"last-modified", HOUR_AGO), (b"date", DATE)], 0),
    (
        "4.2.2: but where it is public",
        302,
        [(b"cache-control", b"public"), (b"last-modified", HOUR_AGO), (b"date", DATE)],
        360,
    ),
    ("4.2.2: nothing to guess by", 200, [(b"date", DATE)], 0),
    ("4.2.2: a date that is none", 200, [(b"last-modified", b"yesterday"), (b"date", DATE)], 0),
    ("5.2.2.4: no-cache has its lifetime", 200, [(b"cache-control", b"no-cache, max-age=60")], 60),
]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [case[1:] for case in LIFETIMES],
    ids=[case[0] for case in LIFETIMES],
)
def test_lifetimes(status: int, headers: Pairs, expected: float) -> None:
    """RFC 9111, 4.2.1 and 4.2.2."""
    response = Headers.of(headers)
    said = directives(response.get_all(b"cache-control"))
    assert freshness(status, said, response, NOW, RULES).lifetime == expected


def test_what_a_configuration_says_of_lifetimes() -> None:
    """Guessing can be switched off, and a lifetime given where there is nothing to guess by."""
    guess = Headers.of([(b"last-modified", HOUR_AGO), (b"date", DATE)])
    nothing = directives([])
    rules = RULES._replace(guess_at_most=0.0, otherwise=7.0)
    assert freshness(200, nothing, guess, NOW, rules).lifetime == 7
    assert freshness(200, nothing, Headers(), NOW, rules).lifetime == 7
    assert freshness(302, nothing, Headers(), NOW, rules).lifetime == 0
    assert freshness(200, directives([b"max-age=0"]), Headers(), NOW, rules).lifetime == 0


@pytest.mark.parametrize(
    ("value", "stale", "behind", "error"),
    [
        (b"max-age=1", True, 5.0, 6.0),
        (b"max-age=1, stale-while-revalidate=10", True, 10, 6.0),
        (b"max-age=1, stale-if-error=20", True, 5.0, 20),
        (b"max-age=1, stale-if-error=0", True, 5.0, 0),
        (b"max-age=1, must-revalidate, stale-while-revalidate=10", False, -1, -1),
        (b"max-age=1, proxy-revalidate, stale-if-error=9", False, -1, -1),
        (b"s-maxage=1, stale-if-error=9", False, -1, -1),
        (b"no-cache, stale-if-error=9", False, -1, -1),
    ],
)
def test_what_may_be_stale(value: bytes, stale: bool, behind: float, error: float) -> None:
    """RFC 9111, 4.2.4 forbids it before RFC 5861, or a configuration, can allow it."""
    rules = RULES._replace(while_revalidate=5.0, if_error=6.0)
    fresh = freshness(200, directives([value]), Headers(), NOW, rules)
    assert (fresh.may_be_stale, fresh.while_revalidate, fresh.if_error) == (stale, behind, error)
    assert fresh.always_ask is (b"no-cache" in value)


@pytest.mark.parametrize(
    ("headers", "delay", "expected"),
    [
        ([], 0.0, 0.0),
        ([], 2.0, 2.0),
        ([(b"date", DATE)], 0.0, 0.0),
        ([(b"date", HOUR_AGO)], 2.0, 3600.0),
        ([(b"date", LATER)], 0.0, 0.0),
        ([(b"age", b"100"), (b"date", DATE)], 2.0, 102.0),
        ([(b"age", b"100"), (b"date", HOUR_AGO)], 2.0, 3600.0),
        ([(b"age", b"100, 5")], 0.0, 100.0),
        ([(b"age", b"7"), (b"age", b"100")], 0.0, 7.0),
        ([(b"age", b"-1")], 0.0, 0.0),
        ([(b"age", b"x")], 1.0, 1.0),
        ([(b"age", b"1.5")], 0.0, 0.0),
        ([(b"age", b"99999999999999")], 0.0, float(1 << 31)),
    ],
)
def test_the_age_when_it_came(headers: Pairs, delay: float, expected: float) -> None:
    """RFC 9111, 4.2.3 and 5.1: the older of what the Date and the Age say."""
    assert initial_age(Headers.of(headers), delay, NOW) == expected


def test_pragma() -> None:
    """RFC 9111, 5.4: in a request without Cache-Control, and nowhere else."""
    assert request_directives(Headers.of([(b"pragma", b"No-Cache")])).no_cache
    both = Headers.of([(b"pragma", b"no-cache"), (b"cache-control", b"max-age=5")])
    assert not request_directives(both).no_cache
    assert not request_directives(Headers.of([(b"pragma", b"x")])).no_cache


def test_what_displaces() -> None:
    """News of the resource does, an error or a refusal of one client does not."""
    assert [status for status in (200, 302, 404, 410, 401, 403, 429, 500) if displaces(status)] == [
        200,
        302,
        404,
        410,
    ]

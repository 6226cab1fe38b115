"""
What a shared cache may keep, and for how long (RFC 9111, 3, 4.2 and 5.2; RFC 5861).

The law it keeps: nothing is stored that RFC 9111, 3 does not let a shared cache store, and how
old and how fresh a stored response is follows 4.2 alone. It knows messages, not stores: everything
here is a function of what was received and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshproxy.filters._cache_control import Directives, directives, http_date, seconds

if TYPE_CHECKING:
    from meshproxy.api import Headers

__all__ = ["Freshness", "Rules", "displaces", "freshness", "initial_age", "refusal", "stored_names"]

#: What may be kept without a word of its freshness (RFC 9110, 15.1), but for 206.
HEURISTIC = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))

#: The statuses that are understood, for ``must-understand``: those of RFC 9110 that ask no more
#: of a cache than any response does.
UNDERSTOOD = HEURISTIC | frozenset(
    (
        *(201, 202, 205, 302, 303, 305, 307, 400, 401, 402, 403, 406, 407, 408, 409),
        *(411, 412, 413, 415, 417, 421, 422, 426, 500, 502, 503, 504, 505),
    )
)

#: Statuses that say what the resource is now, so that what is stored of it is no longer so, even
#: where they are not stored themselves.
_NEWS = frozenset((404, 410))

#: Fields that are never stored: they belong to one connection, or to one client of a proxy
#: (RFC 9111, 3.1), or are made anew.
NEVER = frozenset(
    b"age connection content-length keep-alive proxy-authenticate proxy-authentication-info "
    b"proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)

#: A tenth of the time since the last change is the usual guess (RFC 9111, 4.2.2).
SHARE = 0.1


class Rules(NamedTuple):
    """
    What a configuration decides. Seconds; ``guess_at_most`` bounds the heuristic, ``otherwise``
    is how long a response is fresh that gives nothing to guess by.
    """

    guess_at_most: float
    otherwise: float
    while_revalidate: float
    if_error: float
    set_cookie: str


class Freshness(NamedTuple):
    """
    ``lifetime``: seconds that a response is fresh, counted in its age.

    ``always_ask``: it is not used without asking the origin. ``while_revalidate`` and
    ``if_error``: seconds beyond its lifetime for which it may be used, -1 where never stale.
    """

    lifetime: float
    always_ask: bool
    may_be_stale: bool
    while_revalidate: float
    if_error: float


def refusal(
    status: int,
    asked: Directives,
    said: Directives,
    request: Headers,
    response: Headers,
    rules: Rules,
    *,
    authorized: bool = False,
) -> str:
    """
    Why the response to a GET must not be stored, in a word; empty when it may be.

    ``authorized``: a credential came with the request, even if it is not in it any more.
    """
    if status < 200 or status in (206, 304) or status > 599:
        return "status"
    if said.must_understand:
        if status not in UNDERSTOOD:
            return "status"
    elif said.no_store:
        return "no-store"
    if asked.no_store:
        return "no-store"
    if said.private:
        return "private"
    explicit = (
        said.public
        or said.s_maxage is not None
        or said.max_age is not None
        or b"expires" in response
    )
    if not explicit and status not in HEURISTIC:
        return "status"
    if (authorized or b"authorization" in request) and not (
        said.must_revalidate or said.public or said.s_maxage is not None
    ):
        return "authorization"
    if (
        b"set-cookie" in response
        and rules.set_cookie == "pass"
        and (b"set-cookie" not in said.without)
    ):
        return "set-cookie"
    if any(b"*" in value.replace(b",", b" ").split() for value in response.get_all(b"vary")):
        return "vary"
    return ""


def _single(values: list[bytes]) -> bytes | None:
    """The value of a field that may be there once; one that is none when several differ."""
    return values[0] if values[:1] * len(values) == values else b""


def _lifetime(
    status: int, said: Directives, response: Headers, received: float, rules: Rules
) -> float:
    if said.s_maxage is not None:
        return said.s_maxage
    if said.max_age is not None:
        return said.max_age
    dated = http_date(response.get(b"date") or b"")
    if dated is None:
        dated = int(received)
    expires = response.get_all(b"expires")
    if expires:
        until = http_date(_single(expires) or b"")
        return 0 if until is None else max(0, until - dated)
    if status not in HEURISTIC and not said.public:
        return 0
    changed = http_date(response.get(b"last-modified") or b"")
    if changed is not None and rules.guess_at_most:
        return min(max(0.0, (dated - changed) * SHARE), rules.guess_at_most)
    return rules.otherwise


def freshness(
    status: int, said: Directives, response: Headers, received: float, rules: Rules
) -> Freshness:
    """How long a response is fresh that was received at ``received`` (seconds since 1970)."""
    # RFC 9111, 4.2.4: s-maxage forbids staleness as proxy-revalidate does.
    may_be_stale = not (
        said.no_cache or said.must_revalidate or said.proxy_revalidate or said.s_maxage is not None
    )
    behind = said.while_revalidate
    error = said.if_error
    return Freshness(
        _lifetime(status, said, response, received, rules),
        said.no_cache,
        may_be_stale,
        (rules.while_revalidate if behind is None else behind) if may_be_stale else -1.0,
        (rules.if_error if error is None else error) if may_be_stale else -1.0,
    )


def initial_age(response: Headers, delay: float, received: float) -> float:
    """
    The age in seconds that a response had when it was received (RFC 9111, 4.2.3): ``delay``
    seconds after it was asked for, at ``received`` (seconds since 1970).
    """
    dated = http_date(response.get(b"date") or b"")
    apparent = 0.0 if dated is None else max(0.0, received - dated)
    told = seconds((response.get(b"age") or b"").partition(b",")[0].strip(b" \t")) or 0
    return max(apparent, told + max(0.0, delay))


def stored_names(said: Directives, rules: Rules) -> frozenset[bytes]:
    """The fields of a response that are left out when it is stored."""
    without = NEVER | said.without
    return without | {b"set-cookie"} if rules.set_cookie == "strip" else without


def displaces(status: int) -> bool:
    """Whether a response that is not stored makes the stored one useless all the same."""
    return status < 400 or status in _NEWS


def request_directives(request: Headers) -> Directives:
    """What a request's Cache-Control says, or the Pragma of one without (RFC 9111, 5.4)."""
    values = request.get_all(b"cache-control")
    if not values and any(b"no-cache" in value.lower() for value in request.get_all(b"pragma")):
        values = [b"no-cache"]
    return directives(values)

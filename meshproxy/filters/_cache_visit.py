"""
A request on its way past the cache, and what becomes of its response.

The law it keeps: a response is stored when the last byte of it has come and they are as many as
were announced; one that was under way while its URL was changed or purged is not.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

from meshproxy.api import Headers
from meshproxy.filters._cache_control import Directives, directives
from meshproxy.filters._cache_key import vary_names, vary_values
from meshproxy.filters._cache_policy import (
    NEVER,
    Rules,
    freshness,
    initial_age,
    refusal,
    stored_names,
)
from meshproxy.filters._cache_store import FIELD, Entry, Line

if TYPE_CHECKING:
    from meshproxy.filters._cache_collapse import Flight

__all__ = ["Plan", "Visit", "freshen", "plan"]

#: Fields of a 304 that say nothing of the stored response (RFC 9111, 3.2), or are for one client.
_NOT_FRESHENED = NEVER | frozenset(
    b"content-encoding content-range content-type set-cookie".split()
)


class Plan:
    """A response to be stored once its body is there; ``length`` is -1 when nobody said it."""

    __slots__ = ("age", "body", "entry", "fields", "length", "names", "received", "size", "wall")

    def __init__(self, entry: Entry, names: tuple[bytes, ...], length: int) -> None:
        self.entry = entry
        self.names = names
        self.length = length
        self.size = 0
        self.body: list[bytes] = []

    def add(self, data: bytes) -> None:
        """More of the body."""
        self.size += len(data)
        self.body.append(data)

    def complete(self) -> Entry | None:
        """The entry with its body; None when that is not as long as announced."""
        if self.length >= 0 and self.size != self.length:
            return None
        entry = self.entry
        entry.body = body = b"".join(self.body)
        entry.length = len(body)
        entry.size += len(body)
        return entry


class Visit:
    """
    What is kept of a request that goes to the origin.

    ``own`` are its headers as the client sent them, ``started`` seconds of the monotonic clock
    when it went on. ``entry`` is the stored response that it may bring to life again, with
    ``fields`` and ``body`` held fast; ``validating`` says that the origin was asked about it.
    ``doomed``: what it brings is not to be stored. ``authorized``: a filter verified a credential.
    """

    __slots__ = (
        "asked",
        "authorized",
        "body",
        "doomed",
        "entry",
        "fields",
        "flight",
        "keeps",
        "key",
        "method",
        "own",
        "plan",
        "route",
        "started",
        "validating",
        "why",
    )

    def __init__(
        self, key: bytes, route: bytes, method: bytes, own: Headers, asked: Directives, why: bytes
    ) -> None:
        self.key = key
        self.route = route
        self.method = method
        self.own = own
        self.asked = asked
        #: Why it was sent on, as ``cache-status`` says it.
        self.why = why
        self.started = 0.0
        #: Whether its response may be stored.
        self.keeps = False
        self.doomed = False
        self.authorized = False
        self.validating = False
        self.flight: Flight | None = None
        self.entry: Entry | None = None
        self.fields: list[Line] | None = None
        self.body: bytes | None = None
        self.plan: Plan | None = None

    def hold(self, entry: Entry) -> None:
        """Keep a warm entry's contents, whatever becomes of it."""
        self.entry = entry
        self.fields = entry.fields
        self.body = entry.body


def plan(
    visit: Visit, status: int, headers: Headers, length: int, now: float, wall: float, rules: Rules
) -> tuple[Plan | None, str]:
    """
    What is to be stored of the response to ``visit``, or None and why nothing is.

    Received at ``now`` (monotonic) and ``wall`` (since 1970).
    """
    said = directives(headers.get_all(b"cache-control"))
    why = refusal(status, visit.asked, said, visit.own, headers, rules, authorized=visit.authorized)
    if why:
        return None, why
    fresh = freshness(status, said, headers, wall, rules)
    age = initial_age(headers, now - visit.started, wall)
    lasts = fresh.lifetime > age and not fresh.always_ask
    if not (
        lasts
        or b"etag" in headers
        or b"last-modified" in headers
        or (
            fresh.may_be_stale
            and max(fresh.while_revalidate, fresh.if_error) > age - fresh.lifetime
        )
    ):
        return None, "stale"  # it could never be used
    without = stored_names(said, rules)
    fields = [field for field in headers.fields if field[0] not in without]
    if b"date" not in headers:
        # RFC 9110, 6.6.1: whoever keeps it says when it came.
        dated = Headers(fields)
        dated.add(b"date", formatdate(wall, usegmt=True).encode())
        fields = dated.fields
    names = vary_names(headers.get_all(b"vary"))
    values = vary_values(visit.route, names, visit.own)
    entry = Entry(visit.key, values, status, fields, b"", fresh, age, now, wall)
    return Plan(entry, names, length), ""


def freshen(
    entry: Entry,
    stored: list[Line],
    update: Headers,
    delay: float,
    now: float,
    wall: float,
    rules: Rules,
    own: Headers,
    *,
    authorized: bool = False,
) -> str:
    """
    Freshen an entry, whose fields are ``stored``, by a 304 or a HEAD's response (RFC 9111, 4.3.4,
    4.3.5). Returns why it must not be stored any more, in a word; empty when it may be.
    """
    said_now = directives(update.get_all(b"cache-control"))
    without = _NOT_FRESHENED | said_now.without
    newer = [field for field in update.fields if field[0] not in without]
    replaced = {field[0] for field in newer}
    fields = [field for field in stored if field[0] not in replaced] + newer
    merged = Headers(fields)
    said = directives(merged.get_all(b"cache-control"))
    # The one field that is not of the stored response: how old the answer is that confirms it.
    told = Headers([field for field in update.fields if field[0] in (b"age", b"date")])
    entry.age = initial_age(told, delay, wall)
    entry.received = now
    entry.wall = wall
    entry.judge(freshness(entry.status, said, merged, wall, rules))
    entry.fields = fields
    entry.etag = merged.get(b"etag") or b""
    entry.modified = merged.get(b"last-modified") or b""
    return refusal(entry.status, directives([]), said, own, merged, rules, authorized=authorized)


def size_of(entry: Entry, before: list[Line], after: list[Line]) -> int:
    """The size of an entry whose fields were ``before`` and are ``after``."""

    def taken(fields: list[Line]) -> int:
        return sum(FIELD + 2 * len(field[2]) for field in fields)

    return entry.size - taken(before) + taken(after)

"""
What Cache-Control says (RFC 9111, 5.2), and the other values that a cache reads.

The law it keeps: what cannot be read gives no permission. A number that is none, or that is there
twice with different values, is 0 (RFC 9111, 4.2.1); a restriction holds whatever argument it has;
a list of field names that is no such list restricts the whole response; a quoted string that
never ends makes the rest count comma by comma, and nothing is reused without asking. A date that
is none of the three forms of RFC 9110, 5.6.7 is no date.
"""

from __future__ import annotations

import re
from calendar import timegm
from functools import lru_cache

__all__ = ["FOREVER", "NOTHING", "Directives", "directives", "http_date", "seconds"]

#: Seconds: what a larger number counts as (RFC 9111, 1.2.2).
FOREVER = 1 << 31

#: Bytes of a field that is read; a longer one is taken for ``no-store``.
LONGEST = 4096

_ITEM = re.compile(rb'[^",]*+(?:"(?:[^"\\]|\\.)*+"[^",]*+)*+', re.DOTALL).match
_DIGITS = re.compile(rb"[0-9]+").fullmatch
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*+)"', re.DOTALL).fullmatch
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL).sub
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch

#: Fields that a stored response cannot do without: one that is named with ``private`` or
#: ``no-cache`` restricts all of it.
_NEEDED = frozenset(b"age cache-control content-encoding content-range date expires vary".split())

_NUMBERS = {
    b"max-age": "max_age",
    b"s-maxage": "s_maxage",
    b"stale-while-revalidate": "while_revalidate",
    b"stale-if-error": "if_error",
    b"max-stale": "max_stale",
    b"min-fresh": "min_fresh",
}
_FLAGS = {
    b"no-store": "no_store",
    b"no-transform": "no_transform",
    b"public": "public",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"must-understand": "must_understand",
    b"immutable": "immutable",
    b"only-if-cached": "only_if_cached",
}


class Directives:
    """
    The directives of a request or a response; numbers are seconds, None for what is not said.

    ``without`` are the fields (lower case) that must not be stored, since ``private="…"`` or
    ``no-cache="…"`` names them.
    """

    __slots__ = (
        "if_error",
        "immutable",
        "max_age",
        "max_stale",
        "min_fresh",
        "must_revalidate",
        "must_understand",
        "no_cache",
        "no_store",
        "no_transform",
        "only_if_cached",
        "private",
        "proxy_revalidate",
        "public",
        "s_maxage",
        "while_revalidate",
        "without",
    )

    def __init__(self) -> None:
        self.no_store = self.no_cache = self.private = self.public = False
        self.must_revalidate = self.proxy_revalidate = self.must_understand = False
        self.no_transform = self.immutable = self.only_if_cached = False
        self.max_age: int | None = None
        self.s_maxage: int | None = None
        self.while_revalidate: int | None = None
        self.if_error: int | None = None
        self.max_stale: int | None = None
        self.min_fresh: int | None = None
        self.without: frozenset[bytes] = frozenset()

    def __repr__(self) -> str:
        said = ((name, getattr(self, name)) for name in self.__slots__)
        return f"Directives({', '.join(f'{n}={v!r}' for n, v in said if v)})"


#: Those of a message without the field.
NOTHING = Directives()

_TOO_LONG = Directives()
_TOO_LONG.no_store = _TOO_LONG.no_cache = True


def seconds(value: bytes) -> int | None:
    """The number ``value`` (1*DIGIT), at most :data:`FOREVER`; None when it is none."""
    if _DIGITS(value) is None:
        return None
    return FOREVER if len(value) > 10 else min(int(value), FOREVER)


@lru_cache(maxsize=1024)
def _parsed(text: bytes) -> Directives:
    found = Directives()
    items, whole = _items(text)
    if not whole:
        found.no_cache = True
    for item in items:
        raw, equals, argument = item.strip(b" \t").partition(b"=")
        name = raw.rstrip(b" \t").lower()
        if name in _NUMBERS:
            # "max-age =5" is no directive of the grammar: not a number then
            number = _number(name, argument if equals and raw == raw.rstrip() else None)
            if name == b"max-stale" and not equals:
                number = FOREVER
            slot = _NUMBERS[name]
            before = getattr(found, slot)
            if before is not None and before != number:
                number = FOREVER if name == b"min-fresh" else 0
            setattr(found, slot, number)
        elif name in _FLAGS:
            setattr(found, _FLAGS[name], True)
        elif name in (b"private", b"no-cache"):
            names = _names(argument) if equals else None
            if names is not None:
                found.without |= names
            elif name == b"private":
                found.private = True
            else:
                found.no_cache = True
    return found


def _items(text: bytes) -> tuple[list[bytes], bool]:
    """The members of a list, and whether every quoted string in it ends."""
    items = []
    start = 0
    while start < len(text):
        end = _ITEM(text, start).end()  # type: ignore[union-attr]  # it matches anywhere
        if end < len(text) and text[end] != 0x2C:
            items += text[start:].split(b",")
            return items, False
        items.append(text[start:end])
        start = end + 1
    return items, True


def _unquoted(argument: bytes) -> bytes:
    quoted = _QUOTED(argument)
    return argument if quoted is None else _ESCAPED(rb"\1", quoted[1])


def _number(name: bytes, argument: bytes | None) -> int:
    """A number as a token or a quoted string; the one that permits least for anything else."""
    number = None if argument is None else seconds(_unquoted(argument))
    if number is None:
        return FOREVER if name == b"min-fresh" else 0
    return number


def _names(argument: bytes) -> frozenset[bytes] | None:
    """The field names of an argument, or None when the whole response must be meant."""
    names = frozenset(
        name.strip(b" \t").lower() for name in _unquoted(argument).split(b",") if name.strip(b" \t")
    )
    if not names or names & _NEEDED or not all(_TOKEN(name) for name in names):
        return None
    return names


def directives(values: list[bytes]) -> Directives:
    """What the field's ``values``, one a line, say together. Not to be changed."""
    if not values:
        return NOTHING
    text = values[0] if len(values) == 1 else b",".join(values)
    return _parsed(text) if len(text) <= LONGEST else _TOO_LONG


_MONTHS = {
    name: number
    for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}
_LONGEST_DATE = 40
_CLOCK = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_IMF = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) " + _CLOCK + rb" GMT"
).fullmatch
_RFC850 = re.compile(
    rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{2})-([A-Z][a-z]{2})-([0-9]{2}) "
    + _CLOCK
    + rb" GMT"
).fullmatch
_ASCTIME = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([0-9 ][0-9]) " + _CLOCK + rb" ([0-9]{4})"
).fullmatch


def http_date(value: bytes) -> int | None:
    """
    An HTTP date (RFC 9110, 5.6.7) in seconds since 1970; None when it is none.

    The two digits of a year in the form of RFC 850 are those of 1970 to 2069.
    """
    return _date(value) if len(value) <= _LONGEST_DATE else None


@lru_cache(maxsize=1024)
def _date(value: bytes) -> int | None:
    match = _IMF(value)
    if match is not None:
        day, month, year, *clock = match.groups()
        full = int(year)
    elif (match := _RFC850(value)) is not None:
        day, month, year, *clock = match.groups()
        full = int(year) + (1900 if int(year) >= 70 else 2000)
    elif (match := _ASCTIME(value)) is not None:
        month, day, *clock, year = match.groups()
        full = int(year)
    else:
        return None
    number = _MONTHS.get(month)
    hour, minute, second = map(int, clock)
    if number is None or not 1 <= int(day) <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    if full < 1:
        return None
    try:
        return timegm((full, number, int(day), hour, minute, second))
    except ValueError:
        return None

"""
Headers that are the proxy's to set: what it knows of a user, for the service behind it.

The law it keeps: a client cannot set them, in no spelling that a service may take for them: names
are compared in lower case and with ``-`` for ``_``, which CGI and WSGI cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from meshproxy import api
from meshproxy.api import Headers, Unfit

__all__ = ["FRAMING", "OwnHeaders", "no_framing"]

FRAMING = api.FRAMING | {"host"}
"""Names of headers that frame a message or belong to its connection; a filter sets none of them."""

_WRITTEN_LATER = frozenset(
    {"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"}
)
"""Names of headers that the proxy writes into a request behind its filters."""


class OwnHeaders:
    """The headers of these names (lower case)."""

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower().replace("_", "-").encode() for name in names)

    def remove_from(self, headers: Headers) -> None:
        """Drop them, whoever set them."""
        names = self._names
        if not names:
            return
        for field in headers.fields:
            if field[0].replace(b"_", b"-") in names:
                headers.fields = [
                    field for field in headers.fields if field[0].replace(b"_", b"-") not in names
                ]
                return


def no_framing(names: Collection[Any], at: str, *, sent_on: bool = True) -> Iterator[Unfit]:
    """
    Yield a fault for each of ``names``, written under the key ``at``, that is not a filter's to
    set: it frames a message or, of those that are ``sent_on`` to an endpoint, comes behind filters.
    """
    for name in names:
        if not isinstance(name, str):
            continue
        if name.lower() in FRAMING or (sent_on and name.lower() in _WRITTEN_LATER):
            yield Unfit(f"'{name}' is the proxy's own to set", at=(at,))

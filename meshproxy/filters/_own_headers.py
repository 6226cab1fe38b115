"""
Headers that are the proxy's to set: what it knows of a user, for the service behind it.

The law it keeps: a client cannot set them, in no spelling that a service may take for them: names
are compared in lower case and with ``-`` for ``_``, which CGI and WSGI cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from meshproxy.api import Headers, Unfit

__all__ = ["FRAMING", "OwnHeaders", "no_framing"]

FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Names of headers that frame a message or belong to its connection."""


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


def no_framing(names: Collection[Any], at: str) -> Iterator[Unfit]:
    """Yield a fault for each of ``names``, written under the key ``at``, that frames a message."""
    for name in names:
        if isinstance(name, str) and name.lower() in FRAMING:
            yield Unfit(f"'{name}' is the proxy's own to set", at=(at,))

"""
What a client is told of its limits: the header fields of a response.

The law it keeps: names and numbers only. A client's key is never repeated to it (the draft's
``pk``), since it may be a secret, or a network that others share.

``draft`` is ``RateLimit-Policy`` and ``RateLimit`` as structured fields, of
draft-ietf-httpapi-ratelimit-headers-10; ``legacy`` the three ``X-RateLimit-*`` of one limit, that
of which least remains, with seconds in ``-Reset``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import Literal

__all__ = ["STYLE", "Policy", "Standing", "Style", "limit_fields", "retry_after", "whole"]

Style = Literal["draft", "legacy", "off"]
"""The type of the option ``headers``."""

STYLE = (
    "How clients are told what remains: `draft`, the fields `ratelimit-policy` and `ratelimit` of "
    "the IETF; `legacy`, `x-ratelimit-limit`, `-remaining` and `-reset`; `off`."
)
"""The description of the option ``headers``."""

# So that 2.9999999 of floating arithmetic is 3, and a wait of 1.0000001 is 1.
_SLACK = 1e-6
_LARGEST = 999_999_999_999_999  # RFC 9651, 3.3.1


class Policy:
    """
    A limit as it is announced: ``quota`` in ``window`` seconds (left out unless they are whole).

    ``name`` is of letters, digits, dots, dashes and underscores; ``unit`` is the draft's quota
    unit where it is not ``requests``.
    """

    __slots__ = ("item", "name", "quota")

    def __init__(self, name: str, quota: int, window: float = 0.0, unit: str = "") -> None:
        self.name = b'"%b"' % name.encode()
        self.quota = quota
        self.item = b"%b;q=%d" % (self.name, min(quota, _LARGEST))
        if unit:
            self.item += b';qu="%b"' % unit.encode()
        if window >= 1 and window == int(window):
            self.item += b";w=%d" % window


Standing = tuple[Policy, float, float, float]
"""A policy; what remains; seconds until there is more; seconds until there is all of it."""


def whole(number: float) -> int:
    """What remains, as a whole number."""
    return max(int(number + _SLACK), 0)


def retry_after(seconds: float) -> list[tuple[bytes, bytes]]:
    """The field for a wait of so many seconds: whole ones, 1 at least; none for an endless one."""
    return [] if seconds == inf else [(b"retry-after", b"%d" % max(ceil(seconds - _SLACK), 1))]


def limit_fields(style: Style, standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """The fields for these limits, of which there is one at least."""
    if style == "draft":
        return [
            (b"ratelimit-policy", b", ".join([policy.item for policy, *_ in standings])),
            (
                b"ratelimit",
                b", ".join(
                    b"%b;r=%d;t=%d" % (policy.name, whole(remaining), max(ceil(more - _SLACK), 0))
                    for policy, remaining, more, _ in standings
                ),
            ),
        ]
    if style == "legacy":
        policy, remaining, _, everything = min(standings, key=lambda standing: standing[1])
        return [
            (b"x-ratelimit-limit", b"%d" % policy.quota),
            (b"x-ratelimit-remaining", b"%d" % whole(remaining)),
            (b"x-ratelimit-reset", b"%d" % max(ceil(everything - _SLACK), 0)),
        ]
    return []

"""The one way in which a value of a configuration is refused.

Law: `Unfit` carries what is wrong in words for a newcomer, what was probably meant, and where
inside the value it is wrong; it never carries a position, which only the reader of a text knows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["LATER", "Unfit", "closest", "quoted"]

LATER = "not supported by this version"
"""What is said of anything that belongs to the vocabulary and is not built yet."""

_LONGEST = 64
"""Characters of a user's value that a message repeats, or that a suggestion is searched for."""


class Unfit(ValueError):
    """A value that cannot be used: `message`, an optional `suggestion`, and `at`.

    `at` is the way from the value that was checked to the part that is wrong, as keys and indices.
    """

    def __init__(
        self, message: str, suggestion: str | None = None, at: tuple[str | int, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion
        self.at = at


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that `word` was probably meant to be, or None.

    A word too long to be a slip of the hand is not searched for, so that the cost is bounded.
    """
    if len(word) > _LONGEST:
        return None
    candidates = list(known)
    folded = {name.lower(): name for name in candidates}
    alike = word.lower().replace("-", "_")
    if alike in folded:
        return folded[alike]
    found = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def quoted(value: object) -> str:
    """Return `value` for a message: short, on one line, with text in single quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**_LONGEST:
        return f"a number of {value.bit_length()} bits"
    if not isinstance(value, str):
        shown = repr(value)
        return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
    short = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in short) + "'"

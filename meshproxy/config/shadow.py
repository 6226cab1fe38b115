"""Routes that can never be reached, because an earlier one takes all that they would.

Laws:
- A route that is named here is certainly never reached; one that may be is not named.
- Looking costs a few candidates a route, not all pairs: a thousand routes are nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshproxy.config.http import Route
from meshproxy.config.match import Match, StringMatch

__all__ = ["covers", "shadowed"]

_MOST_CANDIDATES = 100
"""Earlier routes that one is compared with; a bound for thousands on one path."""

_EVERY_REGEX = frozenset({".*", "/.*", "(?s:.*)"})


def shadowed(routes: Sequence[Route]) -> dict[int, int]:
    """Return, for each route that is never reached, the earlier one that takes its requests."""
    found: dict[int, int] = {}
    general: list[int] = []
    exact: dict[str, list[int]] = {}
    prefixes: dict[str, list[int]] = {}
    regexes: dict[str, list[int]] = {}
    lengths: set[int] = set()
    for number, route in enumerate(routes):
        match = route.match
        text = match.path if match.path is not None else match.prefix
        candidates = general[:_MOST_CANDIDATES]
        if match.path is not None:
            candidates += exact.get(match.path, ())[:_MOST_CANDIDATES]
        if text is not None:
            for length in lengths:
                if length <= len(text):
                    candidates += prefixes.get(text[:length], ())[:_MOST_CANDIDATES]
        if match.regex is not None:
            candidates += regexes.get(match.regex, ())[:_MOST_CANDIDATES]
        earlier = [other for other in candidates if covers(routes[other].match, match)]
        if earlier:
            found[number] = min(earlier)
        if _takes_every_path(match):
            general.append(number)
        if match.path is not None:
            exact.setdefault(match.path, []).append(number)
        elif match.prefix is not None:
            prefixes.setdefault(match.prefix, []).append(number)
            lengths.add(len(match.prefix))
        elif match.regex is not None:
            regexes.setdefault(match.regex, []).append(number)
    return found


def covers(wide: Match, narrow: Match) -> bool:
    """Return whether every request that `narrow` takes is certainly one that `wide` takes."""
    if wide.methods and not (narrow.methods and {*narrow.methods} <= {*wide.methods}):
        return False
    return (
        _covers_path(wide, narrow)
        and _covers_values(wide.headers, narrow.headers)
        and _covers_values(wide.query, narrow.query)
    )


def _takes_every_path(match: Match) -> bool:
    return (match.path is None and match.prefix is None and match.regex is None) or (
        match.regex in _EVERY_REGEX
    )


def _covers_path(wide: Match, narrow: Match) -> bool:
    if wide.regex is not None:
        # "/.*" leaves only the path "*" of OPTIONS out, which only an exact match names.
        return wide.regex == narrow.regex or (
            wide.regex in _EVERY_REGEX
            and (narrow.prefix is not None or narrow.path not in (None, "*"))
        )
    if wide.path is not None:
        return wide.path == narrow.path
    if wide.prefix is None:
        return True
    if narrow.path is not None:
        return _takes(wide.prefix, wide.on_segments, narrow.path)
    if narrow.prefix is None:
        return False
    if not _takes(wide.prefix, wide.on_segments, narrow.prefix):
        return False
    # One more character may leave the segment, unless the prefixes differ or end with it.
    return (
        not wide.on_segments
        or len(narrow.prefix) > len(wide.prefix)
        or wide.prefix.endswith("/")
        or narrow.on_segments
    )


def _takes(prefix: str, on_segments: bool, path: str) -> bool:
    """Return whether a prefix takes a path, as the router decides it."""
    if not path.startswith(prefix):
        return False
    whole = on_segments and not prefix.endswith("/")
    return not whole or len(path) == len(prefix) or path[len(prefix)] == "/"


def _covers_values(wide: Mapping[str, StringMatch], narrow: Mapping[str, StringMatch]) -> bool:
    """Return whether the conditions of `wide` are all among those of `narrow`."""
    return all(narrow.get(name) == wanted for name, wanted in wide.items())

"""Routes that can never be reached, because an earlier one takes all that they would.

Those of HTTP go by requests, those of TCP by the client's ClientHello.

Laws:
- A route that is named here is certainly never reached; one that may be is not named.
- Looking costs a few candidates a route, not all pairs: a thousand routes are nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshproxy.config.http import Route
from meshproxy.config.match import Match, RequestTls, StringMatch
from meshproxy.config.names import covers_name
from meshproxy.config.tls import TlsMatch

__all__ = ["covers", "covers_hello", "shadowed", "shadowed_hellos"]

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
        and _covers_tls(wide.tls, narrow.tls)
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


def _covers_tls(wide: RequestTls | None, narrow: RequestTls | None) -> bool:
    if wide is None or narrow is None:
        return wide is None
    # A subject or a name is one of a certificate.
    presented = narrow.client_certificate
    if presented is None and (narrow.subject is not None or narrow.san is not None):
        presented = True
    return (
        (not wide.server_names or _covers_names(wide.server_names, narrow.server_names))
        and wide.client_certificate in (None, presented)
        and wide.subject in (None, narrow.subject)
        and wide.san in (None, narrow.san)
    )


def _covers_names(wide: Sequence[str], narrow: Sequence[str]) -> bool:
    """Return whether each name that one of `narrow` takes, or of none any, one of `wide` takes."""
    if "*" in wide:
        return True
    return bool(narrow) and all(
        any(covers_name(pattern, name) for pattern in wide) for name in narrow
    )


def shadowed_hellos(matches: Sequence[TlsMatch | None]) -> dict[int, int]:
    """Return, for each match that nothing comes to, the earlier one that takes it all."""
    found: dict[int, int] = {}
    general: list[int] = []
    named: dict[str, list[int]] = {}
    for number, match in enumerate(matches):
        candidates = general[:_MOST_CANDIDATES]
        for pattern in _above(match.server_names[0]) if match and match.server_names else ():
            candidates += named.get(pattern, ())[:_MOST_CANDIDATES]
        earlier = [other for other in candidates if covers_hello(matches[other], match)]
        if earlier:
            found[number] = min(earlier)
        if match is None or not match.server_names or "*" in match.server_names:
            general.append(number)
        else:
            for pattern in match.server_names:
                named.setdefault(pattern, []).append(number)
    return found


def _above(pattern: str) -> list[str]:
    """Return `pattern` and all the patterns of suffixes that take it."""
    labels = pattern.removeprefix("*.").split(".")
    return [pattern, *(f"*.{'.'.join(labels[number:])}" for number in range(1, len(labels)))]


def covers_hello(wide: TlsMatch | None, narrow: TlsMatch | None) -> bool:
    """Return whether every client that `narrow` takes is certainly one that `wide` takes."""
    if wide is None or narrow is None:
        return wide is None
    if wide.alpn and not (narrow.alpn and {*narrow.alpn} <= {*wide.alpn}):
        return False
    return not wide.server_names or _covers_names(wide.server_names, narrow.server_names)

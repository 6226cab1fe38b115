"""
What a stored response is found by (RFC 9111, 2 and 4.1).

The law it keeps: two requests have one key only where they name the same resource: scheme, host
in lower case with no default port, path as it is (it is not normalised: ``/a%2Fb`` is not
``/a/b``), and the query, of which a configuration may leave out parameters or the order. What a
response varies by is compared field by field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from meshproxy.api import Headers

__all__ = ["Keys", "vary_names", "vary_values"]

#: Authorities whose normal form is remembered.
HOSTS = 1024

_PORTS = {b"http": b":80", b"https": b":443"}


class Keys:
    """Makes keys; ``ignored`` are names of parameters, ``sort`` orders the rest."""

    def __init__(self, ignored: Collection[bytes] = (), sort: bool = False) -> None:
        self._ignored = frozenset(ignored)
        self._sort = sort
        self._plain = not ignored and not sort
        self._origins: dict[tuple[bytes, bytes], bytes] = {}

    def origin(self, scheme: bytes, authority: bytes) -> bytes:
        """``scheme://host``, with a port that is not the scheme's own."""
        origin = self._origins.get((scheme, authority))
        if origin is None:
            host = authority.lower()
            host = host.removesuffix(_PORTS.get(scheme, b":")).removesuffix(b":")
            origin = b"%b://%b" % (scheme, host)
            if len(self._origins) >= HOSTS:
                self._origins.clear()
            self._origins[scheme, authority] = origin
        return origin

    def key(self, scheme: bytes, authority: bytes, target: bytes) -> bytes:
        """The key of a request."""
        origin = self._origins.get((scheme, authority)) or self.origin(scheme, authority)
        if self._plain:
            return origin + target
        path, mark, query = target.partition(b"?")
        if mark:
            query = self._query(query)
        return b"%b%b?%b" % (origin, path, query) if query else origin + path

    def _query(self, query: bytes) -> bytes:
        pairs = query.split(b"&")
        if self._ignored:
            # Some servers end a parameter at a semicolon too: there may be another one behind it.
            pairs = [pair for pair in pairs if b";" in pair or _name(pair) not in self._ignored]
        if self._sort:
            # By name alone, and stable: what is there twice keeps its order, which may mean
            # something.
            pairs.sort(key=_name)
        return b"&".join(pairs)

    def location(self, base: bytes, location: bytes) -> bytes | None:
        """
        The key of a Location or Content-Location in a response for ``base`` (a key), or None
        when it is of another origin (RFC 9111, 4.4) or cannot be read.
        """
        scheme, _, rest = base.partition(b"://")
        authority, slash, tail = rest.partition(b"/")
        path = slash + tail.partition(b"?")[0]
        location = location.partition(b"#")[0]
        if not location:
            return None
        there, colon, after = location.partition(b"://")
        if colon and b"/" not in there and b"?" not in there:
            host, slash, tail = after.partition(b"/")
            host, mark, query = host.partition(b"?")
            if self.origin(there.lower(), host) != b"%b://%b" % (scheme, authority):
                return None
            target = slash + tail if slash else b"/" + mark + query
        elif location.startswith(b"//"):
            return self.location(base, scheme + b":" + location)
        elif location.startswith(b"/"):
            target = location
        elif location.startswith(b"?"):
            target = path + location
        else:
            target = path.rpartition(b"/")[0] + b"/" + location
        return self.key(scheme, authority, _without_dots(target))


def _name(pair: bytes) -> bytes:
    return unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" "))


def _without_dots(target: bytes) -> bytes:
    """RFC 3986, 5.2.4."""
    path, mark, query = target.partition(b"?")
    if b"/." in path:
        kept: list[bytes] = []
        segments = path.split(b"/")[1:]
        for number, segment in enumerate(segments):
            if segment in (b".", b".."):
                if segment == b".." and kept:
                    kept.pop()
                if number == len(segments) - 1:
                    kept.append(b"")
            else:
                kept.append(segment)
        path = b"/" + b"/".join(kept)
    return path + mark + query


def vary_names(values: Iterable[bytes]) -> tuple[bytes, ...]:
    """The names in Vary, in lower case, each once, in order."""
    names = {name.strip(b" \t").lower() for value in values for name in value.split(b",")}
    return tuple(sorted(names - {b""}))


def vary_values(
    route: bytes, names: tuple[bytes, ...], request: Headers
) -> tuple[bytes | None, ...]:
    """
    What distinguishes the variants of a key: the route, since routes of one path may be told
    apart by headers that no Vary names, and the values of the fields that Vary does name.
    """
    values: list[bytes | None] = [route]
    for name in names:
        lines = request.get_all(name)
        values.append(b", ".join(lines) if lines else None)
    return tuple(values)

"""Routing: the first route of the file that matches, found without scanning the table."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config import load
from meshproxy.http import router as module
from meshproxy.http.headers import Headers
from meshproxy.http.router import HOSTS, PATH, PATHS, Route, Router, Table, host_name


def request(path: str, host: str = "a.example", method: str = "GET", **headers: str) -> Any:
    """An exchange as the router sees it."""
    return SimpleNamespace(
        target=path.encode(),
        authority=host.encode(),
        method=method.encode(),
        request_headers=Headers.of((n.encode(), v.encode()) for n, v in headers.items()),
    )


def matching(text: str) -> Any:
    """The Match of its YAML flow mapping."""
    whole = f"""
listeners:
  web:
    listen: 127.0.0.1:1
    http: {{ routes: [{{ match: {text}, respond: {{ status: 204 }} }}] }}
"""
    http = load(whole, "test.yaml").configuration.listeners["web"].http
    assert http is not None
    return http.routes[0].match


def routes(*texts: str) -> list[Route]:
    """A route for each match, named by its number."""
    return [Route(str(number), matching(text)) for number, text in enumerate(texts)]


def number(found: Route | None) -> int | None:
    """Which it is."""
    return None if found is None else int(found.name_bytes)


@pytest.mark.parametrize(
    ("matches", "path", "found"),
    [
        (["{ path: /a }"], "/a", 0),
        (["{ path: /a }"], "/a?x", 0),
        (["{ path: /a }"], "/a?", 0),
        (["{ path: /a }"], "/a/", None),
        (["{ path: /a }"], "/A", None),
        (["{ prefix: /ok }"], "/ok", 0),
        (["{ prefix: /ok }"], "/ok/x", 0),
        (["{ prefix: /ok }"], "/ok?x", 0),
        (["{ prefix: /ok }"], "/okay", None),
        (["{ prefix: /ok, on_segments: false }"], "/okay", 0),
        (["{ prefix: /ok/ }"], "/ok/x", 0),
        (["{ prefix: /ok/ }"], "/ok", None),
        (["{ prefix: / }"], "/anything", 0),
        (["{ regex: '/a[0-9]+' }"], "/a12", 0),
        (["{ regex: '/a[0-9]+' }"], "/a12x", None),
        (["{ regex: '/a[0-9]+' }"], "/a12?x=/b", 0),
        (["{ regex: '/a|/ab' }"], "/ab", 0),
        (["{}"], "*", 0),
        (["{ prefix: / }"], "*", None),
        (["{ prefix: / }", "{ path: /a }"], "/a", 0),
        (["{ path: /a }", "{ prefix: / }"], "/a", 0),
        (["{ prefix: /a/b }", "{ prefix: /a }"], "/a/b/c", 0),
        (["{ prefix: /a }", "{ prefix: /a/b }"], "/a/b/c", 0),
        (["{ regex: '/a.*' }", "{ path: /ab }"], "/ab", 0),
        (["{ path: /ab }", "{ regex: '/a.*' }"], "/ab", 0),
        (["{ methods: [POST] }", "{ path: /a }"], "/a", 1),
        (["{ path: /a, methods: [POST] }", "{ path: /a, methods: [GET] }", "{}"], "/a", 1),
        (["{ path: /a, methods: [POST] }", "{}"], "/a", 1),
        (["{ prefix: /a, methods: [POST] }", "{ path: /a/b }", "{}"], "/a/c", 2),
        ([], "/", None),
    ],
)
def test_which_route(matches: list[str], path: str, found: int | None) -> None:
    """By path, on segments, by expression; in the order of the file; asked once or again."""
    table = Table(routes(*matches))
    for _ in range(2):
        assert number(table.match(request(path))) == found


# A model: ask every route in turn


def naive(table: list[Route], exchange: Any) -> Route | None:
    """The law, in the words of the documentation."""
    path = exchange.target.partition(b"?")[0].decode()
    for route in table:
        match = route.match
        if match.path is not None:
            good = path == match.path
        elif match.prefix is not None:
            rest = path[len(match.prefix) :]
            good = path.startswith(match.prefix) and (
                not match.on_segments
                or match.prefix.endswith("/")
                or not rest
                or rest.startswith("/")
            )
        elif match.regex is not None:
            good = re.fullmatch(match.regex, path) is not None
        else:
            good = True
        if good and (not match.methods or exchange.method.decode() in match.methods):
            return route
    return None


def plain(**settings: Any) -> Any:
    """A match without the cost of reading YAML."""
    fields = {"path": None, "prefix": None, "regex": None, "on_segments": True, "tls": None}
    return SimpleNamespace(**{**fields, "methods": [], "headers": {}, "query": {}, **settings})


segments = st.lists(st.sampled_from(["a", "b", "ab", "c1", ""]), max_size=4)
paths = segments.map(lambda parts: "/" + "/".join(parts))
methods = st.sampled_from([[], [], ["GET"], ["POST", "PUT"]])
match_st = st.one_of(
    st.builds(lambda path, m: plain(path=path, methods=m), paths, methods),
    st.builds(
        lambda prefix, on, m: plain(prefix=prefix, on_segments=on, methods=m),
        paths,
        st.booleans(),
        methods,
    ),
    st.builds(
        lambda regex, m: plain(regex=regex, methods=m),
        st.sampled_from(["/a.*", "/[ab]+/.*", ".*", "/c[0-9]"]),
        methods,
    ),
    st.builds(lambda m: plain(methods=m), methods),
)


@pytest.mark.parametrize("lengths", [0, 100], ids=["remembering", "looking up"])
@settings(deadline=None, max_examples=200)
@given(
    st.lists(match_st, max_size=30),
    st.lists(st.tuples(paths, st.sampled_from(["GET", "POST"]), st.booleans()), max_size=20),
)
def test_as_if_every_route_were_asked(
    lengths: int, matches: list[Any], asked: list[tuple[str, str, bool]]
) -> None:
    """Any table gives what asking its routes one after another gives, cached or not."""
    held = [Route(str(n), match) for n, match in enumerate(matches)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LENGTHS", lengths)
        table = Table(held)
    for path, method, query in asked:
        exchange = request(path + ("?q=/a" if query else ""), method=method)
        assert table.match(exchange) is naive(held, exchange)


def test_a_thousand_routes() -> None:
    """Every one of a mixed thousand is found, and each look-up asks few candidates."""
    matches = []
    for n in range(1000):
        if n % 3 == 0:
            matches.append(plain(path=f"/p{n}/exact"))
        elif n % 3 == 1:
            matches.append(plain(prefix=f"/p{n}/" + "x" * (n % 20)))
        else:
            matches.append(plain(prefix=f"/p{n}", methods=["GET"]))
    held = [Route(str(n), match) for n, match in enumerate(matches)]
    asked = 0

    def counting(predicate: Any) -> Any:
        def ask(exchange: Any) -> bool:
            nonlocal asked
            asked += 1
            return bool(predicate(exchange))

        return ask

    for route in held:
        if route.predicate is not None:
            route.predicate = counting(route.predicate)
    table = Table(held)
    for n in range(1000):
        path = matches[n].path or matches[n].prefix + "/more"
        assert number(table.match(request(path))) == number(naive(held, request(path)))
    assert asked < 2000


def test_the_paths_remembered_are_bounded() -> None:
    """Neither their number nor their length grows with what clients send."""
    table = Table(routes("{ regex: '/a.*' }", "{}"))
    for n in range(PATHS + 10):
        table.match(request(f"/a{n}?{n}"))
    assert len(table._cache) <= PATHS
    table.match(request("/a" + "x" * PATH))
    assert all(len(path) <= PATH for path in table._cache)


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"A.Example", b"a.example"),
        (b"a.example:80", b"a.example"),
        (b"a.example:", b"a.example"),
        (b"[::1]:80", b"[::1]"),
        (b"[::1]", b"[::1]"),
        (b"127.0.0.1:1", b"127.0.0.1"),
        (b"", b""),
    ],
)
def test_host_names(authority: bytes, name: bytes) -> None:
    """Lower case, no port."""
    assert host_name(authority) == name


def by_host() -> Router:
    """Hosts of every kind; a route's number tells whose table it is of."""
    names = ["a.example", "*.a.example", "*.b.a.example", "*", "[::1]"]
    return Router(
        {name: [Route(str(n), plain(prefix="/h"))] for n, name in enumerate(names)},
        [Route("9", plain())],
    )


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("a.example", "/h", 0),
        ("A.EXAMPLE:8080", "/h", 0),
        ("a.example", "/other", None),
        ("x.a.example", "/h", 1),
        ("x.y.a.example", "/h", 1),
        ("x.b.a.example", "/h", 2),
        ("b.a.example", "/h", 1),
        ("xa.example", "/h", 3),
        (".a.example", "/h", 3),
        ("[::1]:80", "/h", 4),
        ("other", "/h", 3),
        ("other", "/x", 9),
        ("", "/x", 9),
    ],
)
def test_hosts(host: str, path: str, found: int | None) -> None:
    """Exact before the longest suffix before ``*`` and the listener's own routes."""
    router = by_host()
    for _ in range(2):
        assert number(router.match(request(path, host))) == found


def test_the_hosts_remembered_are_bounded() -> None:
    """However many names clients invent."""
    router = by_host()
    for n in range(HOSTS + 10):
        router.match(request("/h", f"h{n}"))
    assert len(router._cache) <= HOSTS


def test_without_hosts_there_is_nothing_to_look_up() -> None:
    """The only table is asked directly."""
    router = Router({"*": [Route("0", plain(path="/a"))]}, [Route("1", plain())])
    assert number(router.match(request("/a", "x"))) == 0
    assert number(router.match(request("/b", "y"))) == 1
    assert router._cache == {}

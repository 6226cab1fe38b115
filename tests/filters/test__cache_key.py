"""Keys of stored responses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.api import Headers
from meshproxy.filters._cache_key import HOSTS, Keys, vary_names, vary_values


@pytest.mark.parametrize(
    ("scheme", "authority", "expected"),
    [
        (b"http", b"A.Example", b"http://a.example/x"),
        (b"http", b"a.example:80", b"http://a.example/x"),
        (b"https", b"a.example:443", b"https://a.example/x"),
        (b"https", b"a.example:80", b"https://a.example:80/x"),
        (b"http", b"a.example:", b"http://a.example/x"),
        (b"http", b"[::1]:8080", b"http://[::1]:8080/x"),
    ],
)
def test_the_host_is_normalised(scheme: bytes, authority: bytes, expected: bytes) -> None:
    """RFC 9110, 4.2.3: case and the default port make no difference, the scheme does."""
    keys = Keys()
    assert keys.key(scheme, authority, b"/x") == expected
    assert keys.key(scheme, authority, b"/x") == expected


def test_the_path_is_not() -> None:
    """What an origin may tell apart is told apart."""
    keys = Keys()
    paths = [b"/a", b"/A", b"/a/", b"/a?", b"/a?b", b"/%61", b"//a", b"/./a"]
    assert len({keys.key(b"http", b"h", path) for path in paths}) == len(paths)


def test_parameters_that_make_no_difference() -> None:
    """They are left out wherever they are, however they are spelled."""
    keys = Keys([b"utm_source", b"a b"])
    base = b"http://h/p"
    assert keys.key(b"http", b"h", b"/p?utm_source=x&q=1&utm%5fsource=y") == base + b"?q=1"
    assert keys.key(b"http", b"h", b"/p?a+b=1&a%20b") == base
    assert keys.key(b"http", b"h", b"/p?utm_sources=x") == base + b"?utm_sources=x"


def test_parameters_in_any_order() -> None:
    """Those of one name keep theirs."""
    keys = Keys(sort=True)
    one = keys.key(b"http", b"h", b"/p?b=2&a=2&a=1")
    assert one == keys.key(b"http", b"h", b"/p?a=2&b=2&a=1")
    assert one != keys.key(b"http", b"h", b"/p?a=1&a=2&b=2")


@given(st.permutations([b"a=1", b"b=2", b"c", b"%41=x", b""]))
def test_sorting_forgets_the_order(pairs: list[bytes]) -> None:
    """Every order of different names is one key."""
    keys = Keys(sort=True)
    assert keys.key(b"http", b"h", b"/?" + b"&".join(pairs)) == b"http://h/?&A=x&a=1&b=2&c".replace(
        b"A=x", b"%41=x"
    )


def test_hosts_are_remembered_within_bounds() -> None:
    """A flood of hosts fills nothing."""
    keys = Keys()
    for number in range(HOSTS * 2):
        keys.key(b"http", b"h%d" % number, b"/")
    assert len(keys._origins) <= HOSTS


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"/b?c#d", b"http://h/b?c"),
        (b"b", b"http://h/a/b"),
        (b"../b", b"http://h/b"),
        (b"./", b"http://h/a/"),
        (b"..", b"http://h/"),
        (b"../../../b", b"http://h/b"),
        (b"?q", b"http://h/a/x?q"),
        (b"http://h/b", b"http://h/b"),
        (b"HTTP://H:80/b", b"http://h/b"),
        (b"http://h", b"http://h/"),
        (b"http://h?q", b"http://h/?q"),
        (b"//h/b", b"http://h/b"),
        (b"https://h/b", None),
        (b"http://other/b", None),
        (b"//other/b", None),
        (b"http://h:81/b", None),
        (b"http://me@h/b", None),
        (b"", None),
        (b"#f", None),
    ],
)
def test_a_location_of_the_same_origin(location: bytes, expected: bytes | None) -> None:
    """RFC 9111, 4.4: only of the same origin; relative ones as RFC 3986, 5.2 resolves them."""
    assert Keys().location(b"http://h/a/x?y", location) == expected


@given(st.binary(max_size=60))
def test_no_location_breaks_it(location: bytes) -> None:
    """Whatever an origin writes, the key is of its own origin, or there is none."""
    key = Keys().location(b"http://h/a", location)
    assert key is None or key.startswith(b"http://h/")


def test_vary() -> None:
    """RFC 9111, 4.1: names in any case, order and number of lines; values as sent."""
    names = vary_names([b"Accept-Encoding, x-a", b" X-A ,,"])
    assert names == (b"accept-encoding", b"x-a")
    request = Headers.of([(b"accept-encoding", b"gzip"), (b"accept-encoding", b"br")])
    assert vary_values(b"r", names, request) == (b"r", b"gzip, br", None)
    assert vary_values(b"r", (), request) == (b"r",)


def test_a_semicolon_hides_no_parameter() -> None:
    """What is ignored ends where every server ends it: what is behind a ``;`` stays in the key."""
    keys = Keys([b"utm_source"])
    plain = keys.key(b"http", b"a", b"/x?utm_source=1")
    assert plain == keys.key(b"http", b"a", b"/x")
    assert keys.key(b"http", b"a", b"/x?utm_source=1;callback=evil") != plain

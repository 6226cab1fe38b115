"""Affinity: what is hashed, which cookies are read and issued, and for which cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.http import retry as retry_module
from meshproxy.http.affinity import compile_affinity, cookie_value, query_value
from meshproxy.http.headers import Headers
from tests.http.world import World, get, head, ok, status

Make = Callable[..., World]


def config(cluster: str = "", route: str = "", more: str = "", to: str = "site") -> str:
    """Eight endpoints that are chosen by a hash, or as ``cluster`` says."""
    endpoints = ", ".join(f"127.0.0.1:{9001 + number}" for number in range(8))
    return f"""
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - to: {to}
          upgrades: [websocket]
          {route}
clusters:
  site:
    endpoints: [{endpoints}]
    {cluster or "balance: ring_hash"}
{more}
"""


def ask(
    made: World, *lines: bytes, path: bytes = b"/", ip: bytes = b"192.0.2.1"
) -> tuple[bytes, bytes]:
    """Send a request and answer it: the endpoint it went to, and the ``set-cookie`` it brought."""
    client = made.client(get(path, *lines), ip=ip)
    busy = next(upstream for upstream in made.upstreams if not upstream.gone and upstream.take())
    busy.receive(ok())
    got = client.take()
    assert status(got) == 200
    client.end()
    assert got.count(b"set-cookie: ") <= 1
    return made.records[-1].upstream, head(got).get(b"set-cookie", b"")


def spread(made: World, requests: list[tuple[list[bytes], dict[str, bytes]]]) -> int:
    """To how many endpoints these requests go; each is sent three times, to the same one."""
    found = set()
    for lines, rest in requests:
        where = {ask(made, *lines, **rest)[0] for _ in range(3)}
        assert len(where) == 1
        found |= where
    return len(found)


@pytest.mark.parametrize("balance", ["ring_hash", "maglev"])
@pytest.mark.parametrize("kind", ["header", "cookie", "query", "source_ip", "host", "default"])
def test_what_decides(world: Make, balance: str, kind: str) -> None:
    """The same value goes to the same endpoint; many values go to many."""
    keys = {
        "header": "hash_by: { header: X-User }",
        "cookie": "hash_by: { cookie: user }",
        "query": "hash_by: { query: user }",
        "source_ip": "hash_by: source_ip",
        "host": "hash_by: { header: host }",
        "default": "",
    }
    made = world(config(f"balance: {balance}\n    {keys[kind]}"))
    requests: list[tuple[list[bytes], dict[str, bytes]]] = []
    for number in range(30):
        value = b"%d" % number
        if kind == "header":
            requests.append(([b"x-user: " + value], {}))
        elif kind == "cookie":
            requests.append(([b"cookie: a=b; user=" + value], {}))
        elif kind == "query":
            requests.append(([], {"path": b"/?a=b&user=" + value}))
        elif kind != "host":
            requests.append(([], {"ip": b"192.0.2." + value}))
    if kind == "host":
        hosts = set()
        for number in range(30):
            data = get().replace(b"a.example", b"%d.example" % number)
            made.client(data)
            busy = next(u for u in made.upstreams if not u.gone and u.take())
            busy.receive(ok())
            hosts.add(made.records[-1].upstream)
        assert len(hosts) >= 5
    else:
        assert spread(made, requests) >= 5
    made.settle()


def test_several_keys(world: Make) -> None:
    """The first that a request has decides, whatever the others are."""
    made = world(config("balance: maglev\n    hash_by: [{ header: x-a }, { query: b }, source_ip]"))
    by_a = {ask(made, b"x-a: 1", path=b"/?b=%d" % n, ip=b"10.0.0.%d" % n)[0] for n in range(9)}
    by_b = {ask(made, path=b"/?b=1", ip=b"10.0.0.%d" % n)[0] for n in range(9)}
    by_ip = {ask(made, ip=b"10.0.0.%d" % n)[0] for n in range(30)}
    assert (len(by_a), len(by_b)) == (1, 1)
    assert len(by_ip) > 3
    made.settle()


def test_no_key_at_all(world: Make) -> None:
    """It goes anywhere."""
    made = world(config("balance: ring_hash\n    hash_by: { header: x-a }"))
    assert len({ask(made)[0] for _ in range(40)}) > 3
    made.settle()


def test_a_routes_keys(world: Make) -> None:
    """They take the place of the cluster's."""
    made = world(
        config("balance: ring_hash\n    hash_by: { header: x-a }", "hash_by: { header: x-b }")
    )
    assert len({ask(made, b"x-a: %d" % n, b"x-b: 1")[0] for n in range(9)}) == 1
    assert len({ask(made, b"x-a: 1", b"x-b: %d" % n)[0] for n in range(30)}) > 3
    made.settle()


# Cookies


def test_a_cookie_is_issued_once(world: Make) -> None:
    """To a client without it; it leads to where the first request went."""
    made = world(
        config("balance: ring_hash\n    hash_by: { cookie: { name: user, ttl: 1h, path: /x } }")
    )
    seen = set()
    for _ in range(20):
        where, issued = ask(made)
        value, rest = issued.split(b"; ", 1)
        assert rest == b"Path=/x; HttpOnly; SameSite=Lax; Max-Age=3600"
        assert value.startswith(b"user=")
        assert len(value) == 5 + 16
        assert ask(made, b"cookie: " + value) == (where, b"")
        seen.add(value)
    assert len(seen) == 20
    assert ask(made, b"cookie: user=")[1] != b""  # empty is none
    assert ask(made, b"cookie: user=mine")[1] == b""
    made.settle()


def test_no_cookie_beside_another_key(world: Make) -> None:
    """What else decides needs none; and a session's cookie has no age."""
    made = world(config("balance: ring_hash\n    hash_by: [{ header: x-a }, { cookie: user }]"))
    assert ask(made, b"x-a: 1")[1] == b""
    assert ask(made)[1].endswith(b"; Path=/; HttpOnly; SameSite=Lax")
    made.settle()


STICKY = "sticky: { cookie: { name: at, ttl: 10m } }"


def test_sticky(world: Make) -> None:
    """The first request's endpoint gets the others; the address is not to be read."""
    made = world(config(STICKY))
    for _ in range(10):
        where, issued = ask(made)
        assert issued.endswith(b"; Path=/; HttpOnly; SameSite=Lax; Max-Age=600")
        token = issued.split(b";")[0]
        assert b"127" not in token.split(b"=")[1]
        for _ in range(3):
            assert ask(made, b"cookie: x=y; " + token) == (where, b"")
    made.settle()


def test_sticky_values_that_say_nothing(world: Make) -> None:
    """Made up, empty or of an endpoint that is gone: any endpoint, and its cookie."""
    made = world(config(STICKY))
    where, issued = ask(made)
    for value in (b"", b"127.0.0.1:22", b"f" * 16, b"\xff"):
        assert ask(made, b"cookie: at=" + value)[1] != b""
    cluster = made.clusters["site"]
    cluster.update([e.spec for e in cluster.endpoints if e.text != where])
    other, fresh = ask(made, b"cookie: " + issued.split(b";")[0])
    assert other != where
    assert fresh.split(b";")[0] != issued.split(b";")[0]
    made.settle()


def test_sticky_moves_with_a_retry(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answered is who the cookie names."""
    monkeypatch.setattr(retry_module, "random", lambda: 0.0)
    made = world(config(STICKY, "retry: { on: [5xx] }"))
    where, issued = ask(made)
    token = issued.split(b";")[0]
    client = made.client(get(b"/", b"cookie: " + token))
    busy = next(u for u in made.upstreams if u.take())
    busy.receive(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    made.turn(0.1)
    busy = next(u for u in made.upstreams if not u.gone and u.take())
    busy.receive(ok())
    moved = head(client.take())[b"set-cookie"].split(b";")[0]
    assert moved != token
    assert ask(made, b"cookie: " + moved) == (made.records[-1].upstream, b"")
    assert made.records[-1].upstream != where
    made.settle()


def test_sticky_tunnels(world: Make) -> None:
    """An upgrade's answer brings the cookie as any other."""
    made = world(config(STICKY))
    client = made.client(get(b"/", b"Connection: upgrade", b"Upgrade: websocket"))
    made.upstream.receive(
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert head(client.take())[b"set-cookie"].startswith(b"at=")
    made.settle()


def test_own_answers_have_no_cookie(world: Make) -> None:
    """Nobody answered whom it could name."""
    made = world(config(STICKY))
    made.instant = "refused"
    got = made.client(get()).take()
    assert status(got) == 503
    assert b"set-cookie" not in head(got)
    made.settle()


def test_a_retry_hashes_on(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key, the second try goes to one other endpoint, always the same."""
    monkeypatch.setattr(retry_module, "random", lambda: 0.0)
    made = world(config("balance: ring_hash\n    hash_by: { header: x-a }", "retry: { on: [5xx] }"))
    seconds = set()
    for _ in range(6):
        made.client(get(b"/", b"x-a: 7"))
        for answer in (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", ok()):
            busy = next(u for u in made.upstreams if not u.gone and u.take())
            busy.receive(answer)
            made.turn(0.1)
        seconds.add(made.records[-1].upstream)
    assert len(seconds) == 1
    made.settle()


# Several clusters


def test_clusters_of_all_kinds_in_one_route(world: Make) -> None:
    """Each chooses in its own way: one hashes, one is sticky, one does neither."""
    more = """
  stuck: { endpoints: [127.0.0.1:9101, 127.0.0.1:9102], sticky: { cookie: at } }
  plain: { endpoints: [127.0.0.1:9201] }
"""
    made = world(
        config(
            "balance: ring_hash\n    hash_by: { cookie: user }",
            more=more,
            to="{ site: 1, stuck: 1, plain: 1 }",
        )
    )
    brought: dict[bytes, set[bytes]] = {}
    for _ in range(60):
        where, issued = ask(made)
        brought.setdefault(where[10:12], set()).add(issued.split(b"=")[0])
    assert brought == {b"90": {b"user"}, b"91": {b"at"}, b"92": {b""}}
    made.settle()


def test_nothing_to_compile(world: Make) -> None:
    """Clusters that never look at a request cost a request nothing."""
    made = world(config("balance: least_request"))
    assert compile_affinity([made.clusters["site"].group()], None) is None
    made.settle()


# Reading

names = st.text("abcXYZ-_", min_size=1, max_size=5).map(str.encode)
values = st.text("abc012=%", max_size=6).map(str.encode)


@given(st.lists(st.tuples(names, values), max_size=6), names)
def test_any_cookies(pairs: list[tuple[bytes, bytes]], name: bytes) -> None:
    """The first of the name, however they are spread over fields."""
    expected = next((value for held, value in pairs if held == name), None)
    joined = b"; ".join(held + b"=" + value for held, value in pairs)
    fields = [(b"cookie", held + b"=" + value) for held, value in pairs]
    assert cookie_value(Headers.of([(b"cookie", joined)]), name) == expected
    assert cookie_value(Headers.of([(b"x", b"cookie"), *fields]), name) == expected


@given(st.binary(max_size=60), names)
def test_any_bytes_of_a_cookie_and_a_query(data: bytes, name: bytes) -> None:
    """Nothing that a client writes raises."""
    cookie_value(Headers([(b"cookie", data, b"", 0)]), name)
    query_value(data, name)


def test_queries() -> None:
    """Decoded on both sides; a parameter without a value has an empty one."""
    assert query_value(b"/?a=1&b=2&b=3", b"b") == b"2"
    assert query_value(b"/?%62=%20x", b"b") == b" x"
    assert query_value(b"/?b", b"b") == b""
    assert query_value(b"/b=1", b"b") is None
    assert query_value(b"/?", b"b") is None

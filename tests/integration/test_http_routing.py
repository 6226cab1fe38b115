"""
Which route takes a request, and what the route does with it, as a client and an upstream see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.wire import ask

CONFIG = """
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      hosts:
        shop.corp: { routes: [{ respond: { body: shop } }] }
        '*.corp': { routes: [{ respond: { body: any.corp } }] }
        '*.deep.corp': { routes: [{ respond: { body: any.deep } }] }
      routes:
        - { match: { path: /exact }, respond: { body: exact } }
        - { match: { prefix: /exact }, respond: { body: beneath } }
        - { match: { prefix: /part, on_segments: false }, respond: { body: part } }
        - { match: { regex: '/item/[0-9]+' }, respond: { body: item } }
        - { match: { path: /method, methods: [POST, PUT] }, respond: { body: write } }
        - { match: { path: /method }, respond: { body: read } }
        - match: { path: /header, headers: { x-beta: '1', x-name: { prefix: jo } } }
          respond: { body: both }
        - match: { path: /header, headers: { x-name: { present: false } } }
          respond: { body: absent }
        - match: { path: /header, headers: { x-name: { suffix: e, invert: true } } }
          respond: { body: inverted }
        - match: { path: /header, headers: { x-name: { regex: '[a-z]{3}' } } }
          respond: { body: regex }
        - { match: { path: /query, query: { v: '2' } }, respond: { body: two } }
        - { match: { path: /query, query: { 'a b': { contains: é } } }, respond: { body: coded } }
        - { match: { path: /order }, respond: { body: first } }
        - { match: { path: /order }, to: one }
        - match: { path: /teapot }
          respond: { status: 418, body: short, headers: { x-kind: pot, content-type: a/b } }
        - { match: { path: /nothing }, respond: { status: 204 } }
        - { match: { path: /to-https }, redirect: { https: true } }
        - match: { path: /to-host }
          redirect: { host: www.example, port: 8443, scheme: https, status: 308 }
        - { match: { prefix: /to-prefix/ }, redirect: { prefix: /new/, status: 302 } }
        - match: { path: /to-path }
          redirect: { path: /other, strip_query: true, status: 303 }
        - { match: { prefix: /api }, rewrite: { prefix: / }, to: one }
        - { match: { prefix: /v1/ }, rewrite: { prefix: /v2/ }, to: one }
        - { match: { path: /whole }, rewrite: { path: /replaced }, to: one }
        - match: { regex: '/user/.*' }
          rewrite: { regex: '^/user/([a-z]+)', substitution: '/u/\\1' }
          to: one
        - { match: { path: /host }, host_rewrite: 'inner.example:81', to: one }
        - match: { path: /edits }
          to: one
          request_headers:
            { set: { x-set: new, x-old: replaced }, add: { x-more: '2' }, remove: [x-secret] }
          response_headers: { set: { x-set: new }, add: { x-more: '2' }, remove: [x-powered-by] }
        - { match: { path: /weights }, to: { one: 3, two: 1 } }
        - { match: { path: '*', methods: [OPTIONS] }, respond: { status: 204 } }
clusters:
  one: { endpoints: ['127.0.0.1:$one'] }
  two: { endpoints: ['127.0.0.1:$two'] }
"""


def _answer(request: Received) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-powered-by: us\r\nx-more: 1\r\n\r\nup"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[HttpUpstream, HttpUpstream]]:
    """The two clusters' endpoints."""
    with HttpUpstream(_answer) as one, HttpUpstream(_answer) as two:
        yield one, two


@pytest.fixture(scope="module")
def proxy(upstreams: tuple[HttpUpstream, HttpUpstream]) -> Iterator[Proxy]:
    """The proxy."""
    one, two = upstreams
    with Proxy(CONFIG, ports={"one": one.port, "two": two.port}) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "body"),
    [
        ("shop.corp", b"shop"),
        ("SHOP.Corp:8080", b"shop"),
        ("other.corp", b"any.corp"),
        ("a.b.corp", b"any.corp"),
        ("a.deep.corp", b"any.deep"),
        ("deep.corp", b"any.corp"),
        ("corp", b"exact"),
        ("shop.corp.org", b"exact"),
        ("notcorp", b"exact"),
        ("127.0.0.1", b"exact"),
    ],
)
def test_hosts(proxy: Proxy, host: str, body: bytes) -> None:
    """Exact names first, then the longest suffix, then the routes of the listener."""
    assert ask(proxy, "/exact", host=host).body == body


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/exact", b"exact"),
        ("/exact?x=1", b"exact"),
        ("/exact/", b"beneath"),
        ("/exact/deeper", b"beneath"),
        ("/exactly", None),
        ("/Exact", None),
        ("/part", b"part"),
        ("/partly", b"part"),
        ("/item/17?x", b"item"),
        ("/item/17/x", None),
        ("/item/", None),
        ("/order", b"first"),
        ("/", None),
        ("*", None),
    ],
)
def test_paths(proxy: Proxy, target: str, body: bytes | None) -> None:
    """Exact, prefix on segments or not, regular expression; first match wins; else 404."""
    response = ask(proxy, target, "GET" if target != "*" else "OPTIONS")
    if target == "*":
        assert response.status == 204
    elif body is None:
        assert (response.status, response.body) == (404, b"")
    else:
        assert (response.status, response.body) == (200, body)


def test_methods(proxy: Proxy) -> None:
    """A route may want certain methods; the next one gets the others."""
    assert ask(proxy, "/method", "POST").body == b"write"
    assert ask(proxy, "/method", "PUT").body == b"write"
    assert ask(proxy, "/method", "GET").body == b"read"


def test_headers(proxy: Proxy) -> None:
    """All conditions of a route must hold."""
    assert ask(proxy, "/header", X_Beta="1", X_Name="joe").body == b"both"
    assert ask(proxy, "/header", X_Beta="1").body == b"absent"
    assert ask(proxy, "/header", X_Name="tom").body == b"inverted"
    assert ask(proxy, "/header", X_Name="eve").body == b"regex"
    assert ask(proxy, "/header", X_Name="steve").status == 404


def test_query(proxy: Proxy) -> None:
    """Parameters are compared decoded, wherever they stand."""
    assert ask(proxy, "/query?a=1&v=2").body == b"two"
    assert ask(proxy, "/query?a+b=caf%C3%A9").body == b"coded"
    assert ask(proxy, "/query?v=22").status == 404


def test_respond(proxy: Proxy) -> None:
    """An answer of the proxy's own."""
    response = ask(proxy, "/teapot")
    assert (response.status, response.body) == (418, b"short")
    assert (response.get("x-kind"), response.get("content-type")) == ("pot", "a/b")
    head = ask(proxy, "/teapot", "HEAD")
    assert (head.get("content-length"), head.body) == ("5", b"")
    assert ask(proxy, "/nothing").get("content-length") is None


def test_redirect(proxy: Proxy) -> None:
    """Scheme, host, port, path, prefix and status; the query stays unless it is stripped."""
    to = ask(proxy, "/to-https?q=1", host="a.test:8080")
    assert (to.status, to.get("location")) == (301, "https://a.test/to-https?q=1")
    to = ask(proxy, "/to-host?q=1")
    assert (to.status, to.get("location")) == (308, "https://www.example:8443/to-host?q=1")
    to = ask(proxy, "/to-prefix/x/y?q=1")
    assert (to.status, to.get("location")) == (302, "http://test.example/new/x/y?q=1")
    to = ask(proxy, "/to-path?q=1")
    assert (to.status, to.get("location")) == (303, "http://test.example/other")


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/api/users?q=1", b"/users?q=1"),
        ("/api", b"/"),
        ("/api?q", b"/?q"),
        ("/v1/a/b", b"/v2/a/b"),
        ("/whole?q=/whole", b"/replaced?q=/whole"),
        ("/user/ann/edit?x=/user/bob", b"/u/ann/edit?x=/user/bob"),
    ],
)
def test_rewrite(
    proxy: Proxy, upstreams: tuple[HttpUpstream, HttpUpstream], target: str, sent: bytes
) -> None:
    """The upstream gets another path; the query is never touched."""
    assert ask(proxy, target).status == 200
    assert upstreams[0].requests[-1].target == sent


def test_host_rewrite(proxy: Proxy, upstreams: tuple[HttpUpstream, HttpUpstream]) -> None:
    """The upstream gets another Host, and the client's in ``x-forwarded-host``."""
    assert ask(proxy, "/host").status == 200
    request = upstreams[0].requests[-1]
    assert request.values(b"host") == [b"inner.example:81"]
    assert request.values(b"x-forwarded-host") == [b"test.example"]


def test_header_edits(proxy: Proxy, upstreams: tuple[HttpUpstream, HttpUpstream]) -> None:
    """Headers are set, added and removed, both ways."""
    response = ask(proxy, "/edits", X_Old="1", X_More="1", X_Secret="s")
    request = upstreams[0].requests[-1]
    assert request.values(b"x-set") == [b"new"]
    assert request.values(b"x-old") == [b"replaced"]
    assert request.values(b"x-more") == [b"1", b"2"]
    assert request.values(b"x-secret") == []
    assert response.get("x-set") == "new"
    assert response.all("x-more") == ["1", "2"]
    assert response.all("x-powered-by") == []


def test_weights(proxy: Proxy, upstreams: tuple[HttpUpstream, HttpUpstream]) -> None:
    """Both clusters get traffic, the heavier one more."""
    before = [len(upstream.requests) for upstream in upstreams]
    for _ in range(200):
        assert ask(proxy, "/weights").status == 200
    one, two = (len(u.requests) - b for u, b in zip(upstreams, before, strict=True))
    assert one + two == 200
    assert one > two > 10  # 50 expected: fewer than 11 is one in 10^12


@pytest.mark.parametrize("balance", ["round_robin", "random", "least_request"])
def test_endpoints_of_a_cluster(balance: str) -> None:
    """Every way of balancing uses every endpoint, and obeys weights."""
    with HttpUpstream() as light, HttpUpstream() as heavy:
        config = (
            "listeners: { web: { listen: '127.0.0.1:$web', http: { routes: [{ to: c }] } } }\n"
            f"clusters: {{ c: {{ balance: {balance}, endpoints: ['{light.address}', "
            f"{{ address: '{heavy.address}', weight: 3 }}] }} }}\n"
        )
        with Proxy(config) as own:
            statuses = Counter(ask(own, "/").status for _ in range(120))
        assert statuses == {200: 120}
        got = len(light.requests), len(heavy.requests)
    if balance == "round_robin":
        assert got == (30, 90)
    else:
        assert 0 < got[0] < got[1]

"""What routes do: respond, redirect, rewrite, edit headers; all compiled from configuration."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.http.actions import _compile_rewrite as compile_rewrite
from meshproxy.http.actions import compile_edits
from meshproxy.http.headers import Headers
from tests.http.world import World, body, get, head, ok, status

Make = Callable[..., World]
SWAP = "{ regex: '^/([a-z]+)/([0-9]+)', substitution: '/\\2/\\1' }"


def routed(route: str) -> str:
    """A configuration with this one route."""
    return f"""
listeners:
  web:
    listen: 127.0.0.1:8080
    http:
      routes:
        - {route}
        - to: rest
clusters:
  rest:
    endpoints: [127.0.0.1:9001]
"""


def edits(**settings: Any) -> Any:
    """Header edits."""
    return SimpleNamespace(**{"set": {}, "add": {}, "remove": [], **settings})


def test_edits() -> None:
    """Remove first, then set, then add; none at all is None."""
    assert compile_edits(edits()) is None
    edit = compile_edits(edits(set={"A": "new"}, add={"b": "3"}, remove=["C", "b"]))
    assert edit is not None
    headers = Headers.of([(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"A", b"4")])
    edit(headers)
    assert list(headers) == [(b"a", b"new"), (b"b", b"3")]
    edit(headers)
    assert list(headers) == [(b"a", b"new"), (b"b", b"3")]


def test_edits_both_ways(world: Make) -> None:
    """Of requests on their way up, of responses on their way down, the proxy's own included."""
    made = world(
        routed(
            "{ to: rest, request_headers: { set: { x-up: '1' }, remove: [x-secret] },"
            " response_headers: { add: { x-down: '2' }, remove: [server, x-inner] } }"
        )
    )
    client = made.client(get(b"/", b"X-Secret: s"))
    sent = head(made.upstream.take())
    assert sent[b"x-up"] == b"1"
    assert b"x-secret" not in sent
    made.upstream.receive(ok(b"", b"X-Inner: i"))
    answer = head(client.take())
    assert answer[b"x-down"] == b"2"
    assert not {b"server", b"x-inner"} & answer.keys()
    client.receive(get())
    made.upstream.receive(b"garbage\r\n\r\n")
    answer = head(client.take())
    assert answer[b"x-down"] == b"2"
    made.settle()


@pytest.mark.parametrize(
    ("match", "rewrite", "path", "sent"),
    [
        ("prefix: /api", "prefix: /", b"/api/x?q", b"/x?q"),
        ("prefix: /api", "prefix: /", b"/api", b"/"),
        ("prefix: /api", "prefix: /", b"/api?q", b"/?q"),
        ("prefix: /api/", "prefix: /", b"/api/x", b"/x"),
        ("prefix: /api", "prefix: /v2", b"/api/x", b"/v2/x"),
        ("path: /api", "prefix: /v2", b"/api?q", b"/v2?q"),
        ("prefix: /api", "path: /one", b"/api/x?q", b"/one?q"),
        ("prefix: /api", "path: /one", b"/api/x", b"/one"),
        ("prefix: /", SWAP, b"/a/1?/b/2", b"/1/a?/b/2"),
        ("prefix: /", "{ regex: '^/a', substitution: '' }", b"/a", b"/"),
        ("prefix: /", "{ regex: '^/', substitution: '' }", b"/http://evil/", b"/http://evil/"),
        ("prefix: /", "{ regex: 'a', substitution: 'b' }", b"/aa", b"/bb"),
    ],
)  # fmt: skip
def test_rewrites(world: Make, match: str, rewrite: str, path: bytes, sent: bytes) -> None:
    """Of the path alone: the query stays, and what comes out is a path."""
    if not rewrite.startswith("{"):
        rewrite = f"{{ {rewrite} }}"
    made = world(routed(f"{{ match: {{ {match} }}, rewrite: {rewrite}, to: rest }}"))
    made.client(get(path))
    assert made.upstream.take().split(b" ")[1] == sent
    made.upstream.receive(ok())
    assert made.records[0].path == path  # the log shows what the client asked for
    made.settle()


def test_a_prefix_rewritten_to_nothing_is_the_root() -> None:
    """No configuration yields an empty target."""
    act = compile_rewrite(SimpleNamespace(prefix="", path=None, regex=None), 4)  # type: ignore[arg-type]
    for path, sent in ((b"/api", b"/"), (b"/api/x", b"/x"), (b"/api?q", b"/?q")):
        exchange: Any = SimpleNamespace(target=path)
        act(exchange)
        assert exchange.upstream_path == sent


def test_host_rewrite(world: Make) -> None:
    """The endpoint sees the new host, and where it came from."""
    made = world(routed("{ to: rest, host_rewrite: inner.example }"))
    made.client(get())
    sent = head(made.upstream.take())
    assert sent[b"host"] == b"inner.example"
    assert sent[b"x-forwarded-host"] == b"a.example"
    made.settle()


def test_respond(world: Make) -> None:
    """A reply of the route's own, with its headers, edited as any response."""
    made = world(
        routed(
            "{ match: { path: /x },"
            ' respond: { status: 418, body: "tea\\n", headers: { x-pot: "1" } },'
            " response_headers: { add: { x-down: '2' } } }"
        )
    )
    client = made.client(get(b"/x") + get(b"/x", method=b"HEAD") + get(b"/x"))
    first, second, third = client.take().split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"418 ")
    fields = head(b"x\r\n" + first.partition(b"\r\n")[2])
    assert (fields[b"content-length"], fields[b"content-type"]) == (b"4", b"text/plain")
    assert (fields[b"x-pot"], fields[b"x-down"]) == (b"1", b"2")
    assert (body(first), body(second), body(third)) == (b"tea\n", b"", b"tea\n")
    assert {record.details for record in made.records} == {b"direct_response"}
    made.settle()


def test_respond_with_a_type_of_its_own(world: Make) -> None:
    """A content type that is given is not doubled."""
    made = world(
        routed(
            "{ respond: { status: 200, body: '{}', headers: { Content-Type: application/json } } }"
        )
    )
    answer = made.client(get()).take()
    assert answer.lower().count(b"content-type") == 1
    made.settle()


@pytest.mark.parametrize("code", [204, 304])
def test_respond_without_a_body(world: Make, code: int) -> None:
    """204 and 304 state no length."""
    made = world(routed(f"{{ respond: {{ status: {code} }} }}"))
    answer = made.client(get()).take()
    assert status(answer) == code
    assert b"content-length" not in answer
    made.settle()


@pytest.mark.parametrize(
    ("redirect", "path", "host", "location"),
    [
        ("https: true", b"/x?q", b"a.example:8080", b"https://a.example/x?q"),
        ("host: www.example", b"/x?q", b"a.example:8080", b"http://www.example/x?q"),
        ("path: /new", b"/x?q", b"a.example:8080", b"http://a.example:8080/new?q"),
        ("path: /new, strip_query: true", b"/x?q", b"a.example", b"http://a.example/new"),
        ("port: 81", b"/x", b"a.example:8080", b"http://a.example:81/x"),
        ("port: 80", b"/x", b"a.example:8080", b"http://a.example/x"),
        ("https: true, port: 443", b"/x", b"a.example", b"https://a.example/x"),
        ("https: true, port: 8443", b"/x", b"[::1]:80", b"https://[::1]:8443/x"),
        ("https: true", b"/x", b"[::1]", b"https://[::1]/x"),
        ("prefix: /b", b"/x/y?q", b"a.example", b"http://a.example/b/y?q"),
        ("prefix: /", b"/x/y", b"a.example", b"http://a.example/y"),
        ("prefix: /", b"/x", b"a.example", b"http://a.example/"),
    ],
)
def test_redirects(world: Make, redirect: str, path: bytes, host: bytes, location: bytes) -> None:
    """Scheme, host, port, path and prefix; what is not named stays."""
    made = world(routed(f"{{ match: {{ prefix: /x }}, redirect: {{ {redirect} }} }}"))
    client = made.client(get(path).replace(b"a.example", host))
    answer = client.take()
    assert status(answer) == 301
    assert head(answer)[b"location"] == location
    assert head(answer)[b"content-length"] == b"0"
    made.settle()


@pytest.mark.parametrize("code", [302, 303, 307, 308])
def test_redirect_status(world: Make, code: int) -> None:
    """The status that was asked for."""
    made = world(routed(f"{{ redirect: {{ path: /new, status: {code} }} }}"))
    assert status(made.client(get()).take()) == code
    made.settle()


def test_weights_and_timeouts(world: Make) -> None:
    """A route to several clusters picks one for each request; its limits are its own."""
    made = world(
        routed("{ match: { prefix: /x }, to: { rest: 1, other: 1 }, timeout: 1s }")
        + "  other: { endpoints: [127.0.0.1:9002] }\n"
    )
    clients = [made.client(get(b"/x")) for _ in range(60)]
    assert {attempt.where[1] for attempt in made.attempts} == {9001, 9002}
    made.turn(1.1)
    assert {status(client.take()) for client in clients} == {504}
    made.settle()


def test_names_and_statistics(world: Make) -> None:
    """A route has its own name or its place, and counts its responses by class."""
    made = world(routed("{ name: special, match: { path: /x }, respond: { status: 404 } }"))
    made.client(get(b"/x") + get(b"/y"))
    made.upstream.receive(ok())
    assert [record.route_name for record in made.records] == [b"special", b"1"]
    route = made.records[0].route
    assert route is not None
    assert [made.value(slot) for slot in route.responses[1:]] == [0, 0, 0, 1, 0]
    made.settle()

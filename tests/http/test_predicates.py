"""What routes ask beside the path: methods, headers, query, TLS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.http.predicates import compile_predicate, query_value
from tests.http.test_router import matching, request
from tests.tls.authority import Authority


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (b"/", b"a", None),
        (b"/?", b"a", None),
        (b"/?a", b"a", b""),
        (b"/?a=1&b=2", b"b", b"2"),
        (b"/?a=1&a=2", b"a", b"1"),
        (b"/?a=1=2", b"a", b"1=2"),
        (b"/?a%20b=x%2By+z", b"a b", b"x+y z"),
        (b"/?aa=1", b"a", None),
        (b"/?x=%", b"x", b"%"),
        (b"/?x=a?b", b"x", b"a?b"),
    ],
)
def test_query_values(target: bytes, name: bytes, value: bytes | None) -> None:
    """The first of its name, percent-decoded."""
    assert query_value(target, name) == value


@given(st.binary(max_size=40), st.binary(max_size=5))
def test_any_query_is_read(query: bytes, name: bytes) -> None:
    """Nothing that a client can send raises."""
    query_value(b"/?" + query, name)


def test_no_conditions_cost_nothing() -> None:
    """There is no predicate then."""
    assert compile_predicate(matching("{ path: /a }")) is None


@pytest.mark.parametrize(
    ("text", "exchange", "takes"),
    [
        ("{ methods: [GET] }", request("/"), True),
        ("{ methods: [GET, POST] }", request("/", method="PUT"), False),
        ("{ headers: { X-One: '1' } }", request("/", **{"x-one": "1"}), True),
        ("{ headers: { X-One: '1' } }", request("/"), False),
        ("{ headers: { host: a.example } }", request("/", "a.example"), True),
        ("{ headers: { host: a.example } }", request("/", "b.example"), False),
        ("{ query: { a: '1' } }", request("/?b=2&a=1"), True),
        ("{ query: { a: '1' } }", request("/?a=2"), False),
        ("{ query: { a: { present: false } } }", request("/?b"), True),
        ("{ methods: [GET], query: { a: '1' } }", request("/?a=1"), True),
        ("{ methods: [PUT], query: { a: '1' } }", request("/?a=1"), False),
        ("{ methods: [GET], query: { a: '2' } }", request("/?a=1"), False),
    ],
)
def test_predicates(text: str, exchange: Any, takes: bool) -> None:
    """All conditions must hold."""
    predicate = compile_predicate(matching(text))
    assert predicate is not None
    assert predicate(exchange) is takes


HELD = Authority("ca").issue(
    "a.example", "192.0.2.1", uris=["spiffe://mesh/a"], emails=["a@b.example"], subject="jo"
)
BARE = SimpleNamespace(server_name=b"www.a.example", certificate=None)
SHOWN = SimpleNamespace(server_name=b"", certificate=HELD.cert)


@pytest.mark.parametrize(
    ("text", "plain", "bare", "shown"),
    [
        ("{}", False, True, True),
        ("{ server_names: ['*'] }", False, True, True),
        ("{ server_names: [www.a.example, b.example] }", False, True, False),
        ("{ server_names: ['*.A.example'] }", False, True, False),
        ("{ server_names: ['*.example'] }", False, True, False),
        ("{ server_names: ['*.www.a.example', b.example] }", False, False, False),
        ("{ client_certificate: true }", False, False, True),
        ("{ client_certificate: false }", False, True, False),
        ("{ subject: CN=jo }", False, False, True),
        ("{ subject: { exact: CN=jo, invert: true } }", False, False, False),
        ("{ san: spiffe://mesh/a }", False, False, True),
        ("{ san: { prefix: a@ } }", False, False, True),
        ("{ san: 192.0.2.1, subject: { present: true } }", False, False, True),
        ("{ san: a.example, subject: CN=other }", False, False, False),
        ("{ san: other.example }", False, False, False),
        ("{ server_names: [www.a.example], client_certificate: true }", False, False, False),
        ("{ server_names: [www.a.example], client_certificate: false }", False, True, False),
    ],
)
def test_tls(text: str, plain: bool, bare: bool, shown: bool) -> None:
    """What is asked of a client's TLS: never so without it, nor of a certificate that is not."""
    predicate = compile_predicate(matching(f"{{ tls: {text} }}"))
    assert predicate is not None
    exchange = request("/")
    outcomes = []
    for tls in (None, BARE, SHOWN):
        exchange.tls = tls
        outcomes.append(predicate(exchange))
    assert outcomes == [plain, bare, shown]

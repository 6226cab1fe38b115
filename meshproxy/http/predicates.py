"""
What a route asks of a request beside its path: methods, headers, query, the client's TLS.

The law: everything is compiled once; a request costs one call for each condition, and a route
without conditions costs nothing (its predicate is None).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from meshproxy.config.compare import Test, compile_test
from meshproxy.observe.certificate import certificate_texts

if TYPE_CHECKING:
    from meshproxy.config import Match
    from meshproxy.config.match import RequestTls
    from meshproxy.http.exchange import Exchange

Predicate = Callable[["Exchange"], bool]


def query_value(target: bytes, name: bytes) -> bytes | None:
    """The first value of a query parameter, percent-decoded; None when it is absent."""
    query = target.partition(b"?")[2]
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if unquote_to_bytes(key.replace(b"+", b" ")) == name:
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None


def _header(name: bytes, test: Test) -> Predicate:
    if name == b"host":
        return lambda exchange: test(exchange.authority)
    return lambda exchange: test(exchange.request_headers.get(name))


def _query(name: bytes, test: Test) -> Predicate:
    return lambda exchange: test(query_value(exchange.target, name))


def _server_names(patterns: list[str]) -> Callable[[bytes], bool] | None:
    """Whether a name is one of these; None where any is."""
    if not patterns or "*" in patterns:
        return None
    exact = frozenset(name.encode() for name in patterns if not name.startswith("*"))
    suffixes = tuple(name[1:].encode() for name in patterns if name.startswith("*"))
    return lambda name: name in exact or name.endswith(suffixes)


def _tls(wanted: RequestTls) -> Predicate:
    suits = _server_names(wanted.server_names)
    presented = wanted.client_certificate
    subject = None if wanted.subject is None else compile_test(wanted.subject)
    san = None if wanted.san is None else compile_test(wanted.san)
    if presented is None and (subject is not None or san is not None):
        presented = True

    def condition(exchange: Exchange) -> bool:
        tls = exchange.tls
        if tls is None or (suits is not None and not suits(tls.server_name)):
            return False
        if presented is None:
            return True
        certificate = tls.certificate
        if certificate is None or not presented:
            return (certificate is not None) is presented
        if subject is None and san is None:
            return True
        texts = certificate_texts(certificate)
        return (subject is None or subject(texts.subject)) and (
            san is None or any(san(name) for name in texts.names)
        )

    return condition


def compile_predicate(match: Match) -> Predicate | None:
    """The conditions of ``match`` beside its path as one function, or None without any."""
    conditions: list[Predicate] = []
    if match.methods:
        methods = frozenset(method.upper().encode() for method in match.methods)
        conditions.append(lambda exchange: exchange.method in methods)
    for name, wanted in match.headers.items():
        conditions.append(_header(name.lower().encode(), compile_test(wanted)))
    for name, wanted in match.query.items():
        conditions.append(_query(name.encode(), compile_test(wanted)))
    if match.tls is not None:
        conditions.append(_tls(match.tls))
    if not conditions:
        return None
    if len(conditions) == 1:
        return conditions[0]
    return lambda exchange: all(condition(exchange) for condition in conditions)

"""Generations of tickets."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL

from meshproxy.tls import tickets
from meshproxy.tls.settings import apply, binding
from meshproxy.tls.tickets import MOST, Generations, key_name
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import Exchange, client, hello


@pytest.fixture(scope="module")
def issued() -> Issued:
    """The server's."""
    return Authority().issue("a.example")


def server(issued: Issued, **given: Any) -> SSL.Context:
    """A context with tickets."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    context: Any = made
    apply(made, **given)
    context.use_certificate(issued.cert)
    context.use_privatekey(issued.key)
    context.set_session_id(b"x")
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return made


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_version": "1.2"},
        {"min_version": "1.3"},
        {"max_version": "1.2", "ciphers": ["AES128-SHA256", "ECDHE-ECDSA-AES128-SHA256"]},
        {"curves": ["P-521"]},
    ],
)
def test_the_key_is_what_clients_are_told(issued: Issued, given: dict[str, Any]) -> None:
    """Whatever a server speaks, the name learnt is the one that its clients' tickets begin with."""
    context = server(issued, **given)
    name = key_name(context)
    assert len(name) == 16
    for version in ("1.2", "1.3"):
        able = client(version=version)
        done = Exchange(context, able)
        if done.good and done.session is not None:
            assert hello(able, "", done.session).ticket == name
    assert key_name(server(issued, **given)) != name


def test_of_a_server_that_asks_for_certificates(issued: Issued) -> None:
    """The handshake that learns needs none."""
    context = server(issued)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    assert len(key_name(context)) == 16
    assert not Exchange(context, client()).good


def test_without_tickets(issued: Issued) -> None:
    """There is no name, and nothing stays in OpenSSL's queue of errors."""
    context = server(issued, max_version="1.2")
    context.set_options(SSL.OP_NO_TICKET)
    assert key_name(context) == b""
    # Without a certificate no handshake comes to its end.
    assert key_name(SSL.Context(SSL.TLS_SERVER_METHOD)) == b""
    assert binding.ERR_peek_error() == 0


def test_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are kept until their tickets end; there are only so many."""
    contexts: list[Any] = [f"context {number}" for number in range(MOST + 3)]
    monkeypatch.setattr(tickets, "key_name", lambda context: b"key of " + context.encode())
    generations = Generations(contexts[0], 0.0)
    generations.turn(contexts[1], 10.0, 25.0)
    assert (generations.current, generations.born, generations.number) == (contexts[1], 10.0, 2)
    assert generations.older == {b"key of context 0": contexts[0]}
    generations.turn(contexts[2], 20.0, 25.0)
    generations.expire(34.9)
    assert len(generations.older) == 2
    generations.expire(35.0)
    assert generations.older == {b"key of context 1": contexts[1]}
    for context in contexts[3:]:
        generations.turn(context, 21.0, 25.0)
        assert len(generations.older) <= MOST
    assert b"key of context 1" not in generations.older
    generations.expire(1e9)
    assert (generations.older, generations.current) == ({}, contexts[-1])


def test_a_generation_without_tickets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept: nothing could pick it."""
    monkeypatch.setattr(tickets, "key_name", lambda context: b"")
    one: Any = "one"
    two: Any = "two"
    generations = Generations(one, 0.0)
    generations.turn(two, 10.0, 25.0)
    assert (generations.older, generations.current) == ({}, two)

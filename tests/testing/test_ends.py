"""The made-up client and endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from meshproxy.api import Response
from meshproxy.http.headers import Headers
from meshproxy.testing import Kit
from meshproxy.testing.ends import Client
from tests.http.filters import Made


def test_a_client_gets_one_response() -> None:
    """A second one is a defect, and is told as such."""
    client = Client(b"[2001:db8::1]:80")
    assert client.client_ip == b"2001:db8::1"
    client.respond(200, Headers(), 0, b"", True)
    with pytest.raises(AssertionError):
        client.respond(200, Headers(), 0, b"", True)


def test_each_exchange_has_its_own_endpoint() -> None:
    """One that goes on after others have come meets its own, not a stranger's."""
    gates: list[Deferred[Any]] = []

    def wait(exchange: Any) -> Deferred[Any]:
        gates.append(Deferred())
        return gates[-1]

    kit = Kit()
    held = Made(request=wait)
    first = kit.drive(held, target=b"/first", response=Response(201))
    second = kit.drive(held, target=b"/second", response=Response(202))
    gates[0].callback(None)
    gates[1].callback(None)
    assert (first.status, first.upstream.target) == (201, b"/first")
    assert (second.status, second.upstream.target) == (202, b"/second")

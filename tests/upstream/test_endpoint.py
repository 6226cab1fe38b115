"""An endpoint: an address, a weight, counts, and limits of its own."""

from __future__ import annotations

import pytest

from meshproxy.upstream.endpoint import CLOSED, HALF_OPEN, OPEN, STATES, UNLIMITED, Endpoint
from meshproxy.upstream.rate import TokenBucket
from tests.upstream.made import spec


def test_what_it_knows() -> None:
    """The address in the forms that sockets, logs and headers want."""
    endpoint = Endpoint(spec(9001, 3))
    assert endpoint.sockaddr == ("127.0.0.1", 9001)
    assert endpoint.text == b"127.0.0.1:9001"
    assert (endpoint.weight, endpoint.active, endpoint.connections) == (3, 0, 0)
    assert endpoint.pool is None
    assert repr(endpoint) == "<Endpoint 127.0.0.1:9001 weight=3 active=0>"


def test_what_is_told_and_what_stays() -> None:
    """A source changes what it says; what was learnt is kept."""
    endpoint = Endpoint(spec(9001, 3))
    endpoint.healthy, endpoint.active, endpoint.failed = False, 2, 7
    endpoint.tell(spec(9001, 5, labels={"version": "v2"}))
    assert (endpoint.weight, endpoint.share, endpoint.spec.labels) == (5, 5, {"version": "v2"})
    assert (endpoint.healthy, endpoint.active, endpoint.failed) == (False, 2, 7)


@pytest.mark.parametrize(
    ("healthy", "breaker", "state"),
    [
        (True, CLOSED, "healthy"),
        (False, CLOSED, "unhealthy"),
        (True, OPEN, "ejected"),
        (False, OPEN, "ejected"),
        (False, HALF_OPEN, "half_open"),
    ],
)
def test_states(healthy: bool, breaker: int, state: str) -> None:
    """A breaker that is not closed says more than health."""
    endpoint = Endpoint(spec(1))
    endpoint.healthy, endpoint.breaker = healthy, breaker
    assert STATES[endpoint.state_now()] == state


def test_room() -> None:
    """Its concurrency and its rate; a token is taken only where both allow one more."""
    endpoint = Endpoint(spec(1))
    assert endpoint.max_active == UNLIMITED
    assert endpoint.room(0.0)
    endpoint.max_active, endpoint.bucket = 1, TokenBucket(1.0, 1)
    endpoint.active = 1
    assert not endpoint.room(0.0)
    endpoint.active = 0
    assert endpoint.room(0.0)
    assert not endpoint.room(0.0)


def test_what_tls_asks_it_for() -> None:
    """What its source says, nothing for an address; the session is the room's that has it."""
    endpoint = Endpoint(spec(9001))
    assert (endpoint.server_name, endpoint.session) == (b"", None)
    endpoint.tell(spec(9001, server_name="a.example"))
    assert endpoint.server_name == b"a.example"

"""An endpoint: an address, a weight, and counts."""

from __future__ import annotations

from meshproxy.upstream.endpoint import Endpoint
from tests.upstream.made import spec


def test_what_it_knows() -> None:
    """The address in the forms that sockets, logs and headers want."""
    endpoint = Endpoint(spec(9001, 3))
    assert endpoint.sockaddr == ("127.0.0.1", 9001)
    assert endpoint.text == b"127.0.0.1:9001"
    assert (endpoint.weight, endpoint.active, endpoint.connections) == (3, 0, 0)
    assert endpoint.pool is None
    assert repr(endpoint) == "<Endpoint 127.0.0.1:9001 weight=3 active=0>"

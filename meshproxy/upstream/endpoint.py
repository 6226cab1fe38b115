"""One address that a cluster can send to, and what is in flight there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshproxy.config.values import Address


class Endpoint:
    """
    An upstream address with its weight.

    ``active`` counts the requests (HTTP) or connections (TCP) in flight: whoever uses an
    endpoint adds one and takes it off again, and least_request reads it. ``connections``
    counts open sockets. ``pool`` belongs to the protocol that pools connections.
    """

    __slots__ = (
        "active",
        "address",
        "connections",
        "family",
        "pool",
        "sockaddr",
        "text",
        "weight",
    )

    def __init__(self, address: Address, weight: int = 1) -> None:
        self.address = address
        self.family = address.family
        self.sockaddr = address.sockaddr
        self.text = address.text.encode()
        self.weight = weight
        self.active = 0
        self.connections = 0
        self.pool: Any = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.address.text} weight={self.weight} active={self.active}>"

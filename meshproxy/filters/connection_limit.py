"""
The filter ``connection_limit``: so many connections at a time, in all and for each client.

The law it keeps: a connection is counted from its beginning to its end, and once; what is
remembered of a client is gone with its last connection, so that the memory is bounded by the
connections that are open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, Refuse, Unfit
from meshproxy.filters._networks import Network, Networks, prefix_of
from meshproxy.interfaces import (
    IConnectionFilter,
    IConnectionObserver,
    IContextFilter,
    IFilterContext,
    IListenerFilter,
)

__all__ = ["ConnectionLimit"]


@implementer(IConnectionFilter, IListenerFilter, IConnectionObserver, IContextFilter)
class ConnectionLimit:
    """Refuse connections over a number that are open at a time."""

    class Options(api.Options):
        """How many, and for whom."""

        connections: int | None = Field(
            default=None, ge=1, description="Most connections at a time, of all clients together."
        )
        per_client: int | None = Field(
            default=None, ge=1, description="Most connections at a time of one client."
        )
        v4: int = Field(
            default=32, ge=0, le=32, description="The bits of an IPv4 address that make a client."
        )
        v6: int = Field(
            default=64, ge=0, le=128, description="The bits of an IPv6 address that make a client."
        )
        exempt: list[Network] = Field(
            default=[],
            description="Addresses and networks (`unix`: clients of UNIX sockets) for which "
            "`per_client` does not hold.",
        )
        reset: bool = Field(
            default=False, description="Refuse by a reset instead of closing in order."
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield what does nothing."""
            yield from super().faults(given)
            if "connections" not in given and "per_client" not in given:
                yield Unfit("give 'connections', 'per_client' or both")
            for key in ("v4", "v6", "exempt"):
                if key in given and "per_client" not in given:
                    yield Unfit(f"'{key}' does nothing without 'per_client'", at=(key,))

    def __init__(self, options: Options) -> None:
        self._most = options.connections
        self._most_each = options.per_client
        self._v4, self._v6 = options.v4, options.v6
        self._exempt = Networks(options.exempt).contains if options.exempt else None
        self._open = 0
        self._clients: dict[bytes, int] = {}
        self._refusal = Refuse(reset=options.reset, details=b"connection_limit")

    def attach(self, context: IFilterContext) -> None:
        """Ask for the numbers."""
        text = "Connections refused, by the limit that was reached"
        self._refused = context.counter("refused", text, limit="connections")
        self._refused_each = context.counter("refused", text, limit="per_client")
        self._gauge = context.gauge("open", "Connections that are counted now")

    def connected(self, connection: Any) -> Refuse | None:
        """Count it, or refuse it."""
        most = self._most
        if most is not None and self._open >= most:
            self._refused.inc()
            return self._refusal
        key = None
        each = self._most_each
        if each is not None:
            ip = connection.client_ip
            if self._exempt is None or not self._exempt(ip):
                key = prefix_of(ip, self._v4, self._v6)
                count = self._clients.get(key, 0)
                if count >= each:
                    self._refused_each.inc()
                    return self._refusal
                self._clients[key] = count + 1
        self._open += 1
        self._gauge.inc()
        connection.notes[self] = key
        return None

    accepted = connected

    def closed(self, connection: Any) -> None:
        """It was counted, or it was refused."""
        notes = connection.notes
        if self not in notes:
            return
        key = notes.pop(self)
        self._open -= 1
        self._gauge.dec()
        if key is None:
            return
        count = self._clients[key] - 1
        if count:
            self._clients[key] = count
        else:
            del self._clients[key]

"""
The filter ``connection_rate``: so many new connections in a time, in all and for each client.

The law it keeps: in any stretch of ``t`` seconds at most ``burst + rate * t`` connections are let
in. The table of clients is bounded, and crowding it gives nobody a new bucket: only clients whose
bucket is full again are forgotten (:mod:`meshproxy.filters._rate`). A connection that one limit
refuses takes nothing from the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, PositiveDuration, Refuse, Unfit
from meshproxy.filters._networks import Network, Networks, prefix_of
from meshproxy.filters._rate import FASTEST, KEYS, GcraTable, Rate
from meshproxy.interfaces import (
    IConnectionFilter,
    IContextFilter,
    IFilterContext,
    IListenerFilter,
)

__all__ = ["ConnectionRate"]

_EACH = ("per_client_burst", "v4", "v6", "exempt", "keys", "full")


@implementer(IConnectionFilter, IListenerFilter, IContextFilter)
class ConnectionRate:
    """Refuse connections that come too fast."""

    class Options(api.Options):
        """How many in which time, and for whom."""

        connections: int | None = Field(
            default=None, ge=1, description="New connections in `per`, of all clients together."
        )
        per_client: int | None = Field(
            default=None, ge=1, description="New connections in `per` of one client."
        )
        per: PositiveDuration = Field(default=1.0, description="The time that both are meant in.")
        burst: int | None = Field(
            default=None,
            ge=1,
            description="Connections let in at once after a quiet time; without it as many as "
            "`connections`.",
        )
        per_client_burst: int | None = Field(
            default=None, ge=1, description="The same for one client; without it `per_client`."
        )
        v4: int = Field(
            default=32, ge=0, le=32, description="The bits of an IPv4 address that make a client."
        )
        v6: int = Field(
            default=64, ge=0, le=128, description="The bits of an IPv6 address that make a client."
        )
        exempt: list[Network] = Field(
            default=[],
            description="Addresses and networks (`unix`: clients of UNIX sockets) that are "
            "neither counted nor refused.",
        )
        keys: int = Field(
            default=KEYS,
            ge=1,
            le=10_000_000,
            description="Clients that are told apart at a time, about 150 bytes each. One is "
            "forgotten when it might have its whole burst again, and not before.",
        )
        full: Literal["share", "refuse"] = Field(
            default="share",
            description="New clients while `keys` others are remembered: they `share` the "
            "allowance of one, or are `refuse`d.",
        )
        reset: bool = Field(
            default=False, description="Refuse by a reset instead of closing in order."
        )
        shadow: bool = Field(
            default=False, description="Refuse nobody, only count who would be refused."
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield what does nothing, and what is too fast to be counted."""
            yield from super().faults(given)
            if "connections" not in given and "per_client" not in given:
                yield Unfit("give 'connections', 'per_client' or both")
            if "burst" in given and "connections" not in given:
                yield Unfit("'burst' does nothing without 'connections'", at=("burst",))
            for key in _EACH:
                if key in given and "per_client" not in given and key != "exempt":
                    yield Unfit(f"'{key}' does nothing without 'per_client'", at=(key,))

    def __init__(self, options: Options) -> None:
        self._all = self._each = None
        for limit in (options.connections, options.per_client):
            if limit is not None and limit / options.per > FASTEST:
                raise ValueError(f"a rate is at most {FASTEST:.0f} connections a second")
        if options.connections is not None:
            self._all = Rate(options.connections, options.per, options.burst)
        if options.per_client is not None:
            self._each = Rate(options.per_client, options.per, options.per_client_burst)
        self._v4, self._v6 = options.v4, options.v6
        self._exempt = Networks(options.exempt).contains if options.exempt else None
        self._table = GcraTable(options.keys, options.full)
        # When the bucket of all would be full again.
        self._tat = 0.0
        self._refusal = None
        if not options.shadow:
            self._refusal = Refuse(reset=options.reset, details=b"connection_rate", flags=b"RL")

    def attach(self, context: IFilterContext) -> None:
        """Ask for a clock and the numbers."""
        self._now = context.now
        text = "Connections over a limit, by the limit"
        self._refused = context.counter("refused", text, limit="connections")
        self._refused_each = context.counter("refused", text, limit="per_client")
        self._crowded = context.counter("crowded", "Connections that found the table full")

    def connected(self, connection: Any) -> Refuse | None:
        """Let it in, or refuse it."""
        ip = connection.client_ip
        if self._exempt is not None and self._exempt(ip):
            return None
        now = self._now()
        each, table = self._each, self._table
        key = b""
        if each is not None:
            key = prefix_of(ip, self._v4, self._v6)
            crowded = table.crowded
            taken = table.take(key, 1.0, each, now)
            if table.crowded != crowded:
                self._crowded.inc()
            if not taken[0]:
                self._refused_each.inc()
                return self._refusal
        if self._all is not None:
            self._tat, taken = self._all.take(self._tat, 1.0, now)
            if not taken[0]:
                if each is not None:
                    table.take(key, -1.0, each, now)
                self._refused.inc()
                return self._refusal
        return None

    accepted = connected

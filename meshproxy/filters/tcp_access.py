"""
The filter ``access`` of connections: who may connect, by address.

The law it keeps: what is denied is denied, even where it is allowed too; what is neither is as
``default`` says. Nothing of the client but its address decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, Refuse, Unfit
from meshproxy.filters._networks import Network, Networks
from meshproxy.interfaces import (
    IConnectionFilter,
    IContextFilter,
    IFilterContext,
    IListenerFilter,
)

__all__ = ["Access"]

_QUIET = 1.0
"""Seconds between two lines in the log."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Networks = Annotated[
    list[Network], BeforeValidator(_several, json_schema_input_type=str | list[str])
]


@implementer(IConnectionFilter, IListenerFilter, IContextFilter)
class Access:
    """Allow or deny connections by the client's address."""

    class Options(api.Options):
        """Who may connect."""

        one_or_several: ClassVar[frozenset[str]] = frozenset({"allow", "deny"})

        allow: _Networks = Field(
            default=[],
            description="Addresses and networks that may connect; `unix` are clients of UNIX "
            "sockets.",
        )
        deny: _Networks = Field(
            default=[], description="Addresses and networks that may not, even if allowed."
        )
        default: Literal["allow", "deny"] | None = Field(
            default=None,
            description="What holds for all others: without it `deny` where `allow` is written, "
            "else `allow`.",
        )
        reset: bool = Field(
            default=False, description="Refuse by a reset instead of closing in order."
        )
        shadow: bool = Field(
            default=False,
            description="Refuse nobody, only count and log (one a second) who would be refused.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield rules that say nothing."""
            yield from super().faults(given)
            if not any(key in given for key in ("allow", "deny", "default")):
                yield Unfit("give 'allow', 'deny' or 'default'")

    def __init__(self, options: Options) -> None:
        self._allows = Networks(options.allow).contains if options.allow else None
        self._denies = Networks(options.deny).contains if options.deny else None
        default = options.default
        if default is None:
            default = "deny" if "allow" in options.model_fields_set else "allow"
        self._otherwise = default == "allow"
        self._shadow = options.shadow
        self._refusal = Refuse(reset=options.reset, details=b"access_denied")
        self._next = 0.0

    def attach(self, context: IFilterContext) -> None:
        """Ask for the numbers."""
        self._context = context
        self._allowed = context.counter("allowed", "Connections allowed")
        self._denied = context.counter("denied", "Connections denied, or in the shadow")

    def connected(self, connection: Any) -> Refuse | None:
        """Judge."""
        ip = connection.client_ip
        if self._denies is not None and self._denies(ip):
            allowed = False
        elif self._allows is not None and self._allows(ip):
            allowed = True
        else:
            allowed = self._otherwise
        if allowed:
            self._allowed.inc()
            return None
        self._denied.inc()
        if not self._shadow:
            return self._refusal
        connection.metadata["access"] = "shadow_denied"
        now = self._context.now()
        if now >= self._next:
            self._next = now + _QUIET
            self._context.log(f"would deny {ip.decode(errors='replace')}")
        return None

    accepted = connected

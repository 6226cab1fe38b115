"""Endpoints of a configuration, and a resolver that says what it is told to."""

from __future__ import annotations

from socket import AF_INET, AF_INET6
from typing import Any

from pydantic import TypeAdapter
from twisted.internet.defer import Deferred

from meshproxy.config import Dns
from meshproxy.config.cluster import Endpoint, EndpointItem
from meshproxy.upstream.discovery.resolver import Addresses, LookupFailed, Resolver, Service
from meshproxy.upstream.discovery.system import Settings

_ITEM: TypeAdapter[Endpoint] = TypeAdapter(EndpointItem)


def endpoint(value: str | dict[str, Any]) -> Endpoint:
    """An endpoint as a configuration has it."""
    return _ITEM.validate_python(value)


def dns(**settings: Any) -> Dns:
    """How names are looked up; durations as text."""
    return Dns.model_validate(settings)


def both(four: str = "", six: str = "", ttl: int | None = 60, problem: str = "") -> Addresses:
    """Addresses of both families, separated by spaces; ``?`` for a family nobody could tell."""

    def some(text: str) -> tuple[str, ...] | None:
        return None if text == "?" else tuple(text.split())

    return Addresses({AF_INET: some(four), AF_INET6: some(six)}, ttl, problem)


Said = Addresses | LookupFailed | Exception


class FakeResolver(Resolver):
    """
    Says ``hosts`` and ``srv`` by name; a name that it does not know is waited for until ``tell``.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, Said] = {}
        self.srv: dict[str, tuple[list[Service], int | None] | Exception] = {}
        self.asked: list[str] = []
        self.waiting: dict[str, Deferred[Any]] = {}
        self.cancelled: list[str] = []

    def settings(self) -> Settings:
        """One server."""
        return Settings((("192.0.2.53", 53),))

    def tell(self, name: str, said: Said) -> None:
        """Answer a question that is waited for."""
        deferred = self.waiting.pop(name)
        if isinstance(said, Exception):
            deferred.errback(said)
        else:
            deferred.callback(said)

    async def addresses(self, name: str) -> Addresses:
        """What ``hosts`` says."""
        self.asked.append(name)
        said = self.hosts.get(name)
        if said is None:
            self.waiting[name] = Deferred(lambda _: self.cancelled.append(name))
            found: Addresses = await self.waiting[name]
            return found
        if isinstance(said, Exception):
            raise said
        return said

    async def services(self, name: str) -> tuple[list[Service], int | None]:
        """What ``srv`` says."""
        self.asked.append(name)
        said = self.srv[name]
        if isinstance(said, Exception):
            raise said
        return said
